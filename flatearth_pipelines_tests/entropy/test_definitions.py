"""The Dagster job on a real database, with the resources that it has in production."""

import contextlib
from collections.abc import Generator

import dagster as dg
import psycopg
import sqlalchemy as sa
from psycopg.conninfo import make_conninfo

from flatearth_pipelines.definitions import defs
from flatearth_pipelines.entropy.definitions import SHARDS
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.dagster_runs import metadata_of
from flatearth_pipelines_tests.entropy import observed
from flatearth_pipelines_tests.entropy.runs import execute, succeeded
from flatearth_pipelines_tests.factories import DAY, NOON

AS_OF = NOON.isoformat()


def test_the_run_publishes_its_counts_and_the_boards_with_most_postponed_cards(
    engine: sa.Engine, instance: dg.DagsterInstance
) -> None:
    with engine.begin() as connection:
        account_id = make.account(connection)
        make.user(connection, account_id, "system")
        few, many = make.board(connection, account_id, name="Few"), make.board(connection, account_id, name="Many")
        card_ids = make.backlog(connection, few, 2) + make.backlog(connection, many, 5)
        without_people = make.board(connection, make.account(connection), name="Nobody's")
        card_ids += make.backlog(connection, without_people, 1)
        make.backlog(connection, few, 3, idle=DAY)

    metadata = succeeded(instance, as_of=AS_OF)

    assert metadata == {
        "boards": 3,
        "scanned": 8,
        "due": 8,
        "postponed": 8,
        "changed_meanwhile": 0,
        "unattributed": 1,
        "as_of": AS_OF,
        "dry_run": False,
        "boards_with_most_postponed": [
            {"board": many, "name": "Many", "postponed": 5},
            {"board": few, "name": "Few", "postponed": 2},
            {"board": without_people, "name": "Nobody's", "postponed": 1},
        ],
    }
    assert observed.postponed(engine) == card_ids


def test_the_table_names_at_most_twenty_boards(engine: sa.Engine, instance: dg.DagsterInstance) -> None:
    with engine.begin() as connection:
        account_id = make.account(connection)
        for _ in range(21):
            make.card(connection, make.board(connection, account_id))

    metadata = succeeded(instance, as_of=AS_OF)

    assert metadata["postponed"] == 21
    assert len(metadata["boards_with_most_postponed"]) == 20


def test_nothing_to_do_is_a_success_that_says_so(
    database: str,  # noqa: ARG001 - in the environment
    instance: dg.DagsterInstance,
) -> None:
    result = execute(instance)

    assert result.success
    assert metadata_of(result) | {"as_of": ""} == {
        "boards": 0,
        "scanned": 0,
        "due": 0,
        "postponed": 0,
        "changed_meanwhile": 0,
        "unattributed": 0,
        "as_of": "",
        "dry_run": False,
        "boards_with_most_postponed": [],
    }
    assert any("Nothing to do" in line for line in log_of(instance, result))


def test_the_number_postponed_is_materialized_so_that_the_ui_plots_it(
    engine: sa.Engine, instance: dg.DagsterInstance
) -> None:
    with engine.begin() as connection:
        make.backlog(connection, make.board(connection, make.account(connection)), 3)

    (event,) = execute(instance, as_of=AS_OF).get_asset_materialization_events()

    assert event.asset_key == dg.AssetKey("auto_postponed_cards")
    assert event.materialization.metadata["postponed"] == dg.MetadataValue.int(3)
    assert defs.resolve_asset_graph().has(dg.AssetKey("auto_postponed_cards"))


def test_a_dry_run_writes_nothing_plots_nothing_and_reports_the_same_numbers(
    engine: sa.Engine, instance: dg.DagsterInstance
) -> None:
    with engine.begin() as connection:
        account_id = make.account(connection)
        make.user(connection, account_id, "owner")
        make.backlog(connection, make.board(connection, account_id), 5)
        make.backlog(connection, make.board(connection, make.account(connection)), 2)
    before = observed.everything(engine)

    dry = execute(instance, as_of=AS_OF, dry_run=True)

    assert observed.everything(engine) == before
    assert dry.get_asset_materialization_events() == []
    assert metadata_of(dry)["dry_run"] is True
    assert metadata_of(dry) | {"dry_run": False} == succeeded(instance, as_of=AS_OF)


def test_a_second_run_succeeds_names_the_holder_of_the_lock_and_does_nothing(
    engine: sa.Engine, database: str, instance: dg.DagsterInstance
) -> None:
    with engine.begin() as connection:
        make.card(connection, make.board(connection, make.account(connection)))

    with lock_of_the_job(database, "the night shift"):
        result = execute(instance, as_of=AS_OF)

    assert result.success
    metadata = metadata_of(result)
    assert (metadata["skipped"], metadata["postponed"]) == (True, 0)
    assert metadata["held_by"].startswith("the night shift, since 20")
    assert any("the night shift" in line for line in log_of(instance, result))
    assert result.get_asset_materialization_events() == []
    assert observed.postponed(engine) == []


def test_the_lock_ends_with_the_session_that_held_it(
    engine: sa.Engine, database: str, instance: dg.DagsterInstance
) -> None:
    with engine.begin() as connection:
        make.card(connection, make.board(connection, make.account(connection)))
    with lock_of_the_job(database, "the night shift"):
        pass

    assert succeeded(instance, as_of=AS_OF)["postponed"] == 1
    assert succeeded(instance, as_of=AS_OF)["due"] == 0


def test_the_holder_is_looked_for_in_this_database_only(
    server: str, empty_database: str, database: str, instance: dg.DagsterInstance
) -> None:
    elsewhere = [make_conninfo(server, dbname="postgres"), empty_database]
    with contextlib.ExitStack() as held:
        for conninfo in elsewhere:
            held.enter_context(lock_of_the_job(conninfo, "somebody elsewhere"))
        held.enter_context(lock_of_the_job(database, "the night shift"))
        metadata = succeeded(instance, as_of=AS_OF)

    assert metadata["held_by"].startswith("the night shift")


def test_the_shards_share_out_the_accounts_and_together_equal_the_whole_run(
    engine: sa.Engine, instance: dg.DagsterInstance
) -> None:
    with engine.begin() as connection:
        for count in range(1, 10):
            account_id = make.account(connection)
            make.user(connection, account_id, "owner")
            make.backlog(connection, make.board(connection, account_id), count)
    whole = succeeded(instance, as_of=AS_OF, dry_run=True)

    seen: list[set[int]] = []
    counted = dict.fromkeys(("boards", "scanned", "due", "postponed", "unattributed"), 0)
    for shard in SHARDS.get_partition_keys():
        before = set(observed.postponed(engine))
        metadata = succeeded(instance, "auto_postpone_by_shard", partition_key=shard, as_of=AS_OF)
        counted = {name: count + metadata[name] for name, count in counted.items()}
        cards = observed.cards(engine)
        seen.append({cards[card_id]["account_id"] for card_id in set(observed.postponed(engine)) - before})

    assert counted == {name: whole[name] for name in counted}
    assert len(observed.recorded(engine)) == len(observed.postponed(engine)) == 45
    assert sum(map(len, seen)) == len(set.union(*seen)) == 9
    assert all(seen)


def test_two_shards_do_not_keep_each_other_out(engine: sa.Engine, database: str, instance: dg.DagsterInstance) -> None:
    with engine.begin() as connection:
        accounts = [make.account(connection) for _ in range(4)]
        for account_id in accounts:
            make.card(connection, make.board(connection, account_id))

    with lock_of_the_job(database, "the first shard", "flatearth.auto_postpone 0 of 4"):
        first, second = (
            succeeded(instance, "auto_postpone_by_shard", partition_key=shard, as_of=AS_OF)
            for shard in SHARDS.get_partition_keys()[:2]
        )

    assert first["held_by"].startswith("the first shard")
    assert second["postponed"] == 1


def test_the_schedule_runs_the_job_at_every_full_hour_in_utc_and_starts_switched_on() -> None:
    schedule = defs.resolve_schedule_def("auto_postpone_hourly")

    assert (schedule.job_name, schedule.cron_schedule, schedule.execution_timezone) == (
        "auto_postpone",
        "0 * * * *",
        "UTC",
    )
    assert schedule.default_status == dg.DefaultScheduleStatus.RUNNING


def log_of(instance: dg.DagsterInstance, result: dg.ExecuteInProcessResult) -> list[str]:
    return [entry.user_message for entry in instance.all_logs(result.run_id)]


@contextlib.contextmanager
def lock_of_the_job(conninfo: str, application: str, name: str = "flatearth.auto_postpone 0 of 1") -> Generator[None]:
    with psycopg.connect(conninfo, application_name=application, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [name])
        yield
