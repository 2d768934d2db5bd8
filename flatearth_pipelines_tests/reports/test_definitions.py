"""The Dagster jobs and their schedule on a real database, with the resources that they have in production."""

import subprocess
from collections.abc import Generator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa

from flatearth_pipelines.definitions import defs
from flatearth_pipelines.reports.chart import chart
from flatearth_pipelines.reports.definitions import DAYS, CountingConfig, RangeConfig, daily_report_figures
from flatearth_pipelines.reports.metrics import METRICS
from flatearth_pipelines.reports.storage import read_days
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.dagster_runs import failure_of, metadata_of
from flatearth_pipelines_tests.factories import DAY, MICROSECOND
from flatearth_pipelines_tests.processes import PROGRAMS, ended, job_execute
from flatearth_pipelines_tests.queue.runs import log_of
from flatearth_pipelines_tests.reports.office import END, NOON, START, TODAY, Office, rows

KEY = TODAY.isoformat()
"""Of the partition."""

ONE = "daily_report"
MANY = "daily_report_range"
OPS = {ONE: "write_daily_report", MANY: "write_daily_reports"}

NOUGHT = dict.fromkeys(METRICS, 0)


@pytest.fixture
def no_runs() -> Generator[dg.DagsterInstance]:
    """Dagster's own storage in which nothing stands, one that a schedule can find."""
    with dg.DagsterInstance.local_temp(overrides={"telemetry": {"enabled": False}}) as instance:
        yield instance


@pytest.fixture
def office(engine: sa.Engine) -> Office:
    """Where on the day a card was closed and a comment written, and another one on the day after."""
    with engine.begin() as connection:
        office = Office(connection, name="Acme")
        office.happened(connection, "card_closed", NOON)
        office.commented(connection, NOON)
        office.commented(connection, NOON + DAY)
        return office


def execute(
    instance: dg.DagsterInstance, job: str = ONE, partition_key: str | None = None, **config: Any
) -> dg.ExecuteInProcessResult:
    return defs.resolve_job_def(job).execute_in_process(
        instance=instance,
        partition_key=partition_key,
        run_config={"ops": {OPS[job]: {"config": config}}},
        raise_on_error=False,
    )


def succeeded(instance: dg.DagsterInstance, job: str = ONE, **config: Any) -> dict[str, Any]:
    return metadata_of(execute(instance, job, **config))


def written(engine: sa.Engine, day: date = TODAY) -> list[dict[str, Any]]:
    with engine.connect() as connection:
        return rows(connection, day)


def plotted(result: dg.ExecuteInProcessResult) -> dict[str, dict[str, Any]]:
    """The figures by partition."""
    events = result.get_asset_materialization_events()
    assert {event.asset_key for event in events} <= {daily_report_figures.key}
    return {
        str(event.partition): {name: value.value for name, value in event.materialization.metadata.items()}
        for event in events
    }


# One day


def test_an_ordinary_run_needs_no_config() -> None:
    assert CountingConfig().model_dump() == {"as_of": None, "dry_run": False, "unfinished": False}
    assert RangeConfig().model_dump(by_alias=True) == CountingConfig().model_dump() | {"from": None, "to": None}


def test_the_run_of_a_partition_publishes_what_its_day_came_to_and_its_most_active_boards(
    engine: sa.Engine, instance: dg.DagsterInstance, office: Office
) -> None:
    with engine.begin() as connection:
        few = make.board(connection, office.account, name="Few")
        office.created(connection, NOON, few)

    metadata = succeeded(instance, partition_key=KEY, as_of=END.isoformat())

    boards, picture = metadata.pop("most_active_boards"), metadata.pop("chart")
    with engine.begin() as connection:
        assert picture == chart(TODAY, read_days(connection, TODAY, TODAY))  # no other day was counted
    assert metadata == NOUGHT | {
        "cards_created": 1,
        "cards_closed": 1,
        "comments": 1,
        "active_people": 1,
        "accounts": 1,
        "boards": 2,
        "day": KEY,
        "rows": 3,
        "rows_before": 0,
        "changed": True,
        "over": True,
        "as_of": END.isoformat(),
        "dry_run": False,
    }
    nothing = {"cards_created": 0, "cards_closed": 0, "cards_postponed": 0, "comments": 0, "active_people": 0}
    assert boards == [
        nothing
        | {"board": office.board, "name": "Roadmap", "account": "Acme"}
        | {"cards_closed": 1, "comments": 1, "active_people": 1},
        nothing | {"board": few, "name": "Few", "account": "Acme", "cards_created": 1},
    ]
    assert [row["board_id"] for row in written(engine)] == [None, office.board, few]


def test_the_table_names_at_most_twenty_boards(engine: sa.Engine, instance: dg.DagsterInstance) -> None:
    with engine.begin() as connection:
        account = make.account(connection)
        for _ in range(21):
            make.card(connection, make.board(connection, account), created_at=NOON)

    metadata = succeeded(instance, partition_key=KEY)

    assert metadata["boards"] == 21
    assert len(metadata["most_active_boards"]) == 20


def test_a_partition_that_is_run_again_has_the_same_rows_and_says_so(
    engine: sa.Engine, instance: dg.DagsterInstance, office: Office
) -> None:
    assert office
    first = succeeded(instance, partition_key=KEY, as_of=END.isoformat())
    before = written(engine)

    result = execute(instance, partition_key=KEY, as_of=END.isoformat())

    assert metadata_of(result) == first | {"rows_before": 2, "changed": False}
    assert written(engine) == before
    assert any("2 rows, the same as before" in line for line in log_of(instance, result))


@pytest.mark.usefixtures("database")
def test_a_day_when_nothing_happened_is_a_success_that_says_so_and_is_plotted_as_nought(
    instance: dg.DagsterInstance,
) -> None:
    result = execute(instance, partition_key=KEY)

    metadata = metadata_of(result)
    assert (metadata["rows"], metadata["changed"], metadata["most_active_boards"]) == (0, False, [])
    assert any(f"Nothing to report: nothing happened on {KEY}" in line for line in log_of(instance, result))
    assert plotted(result) == {KEY: NOUGHT | {"accounts": 0, "boards": 0}}


def test_the_figures_of_a_day_are_plotted_at_the_day(instance: dg.DagsterInstance, office: Office) -> None:
    assert office
    result = execute(instance, partition_key=KEY)

    figures = {"comments": 1, "cards_closed": 1, "active_people": 1, "accounts": 1, "boards": 1}
    assert plotted(result) == {KEY: NOUGHT | figures}
    assert defs.resolve_asset_graph().get(daily_report_figures.key).partitions_def == DAYS


def test_a_dry_run_says_the_same_writes_nothing_and_plots_nothing(
    engine: sa.Engine, instance: dg.DagsterInstance, office: Office
) -> None:
    assert office
    dry = execute(instance, partition_key=KEY, as_of=END.isoformat(), dry_run=True)

    assert written(engine) == []
    assert plotted(dry) == {}
    wet = succeeded(instance, partition_key=KEY, as_of=END.isoformat())
    assert metadata_of(dry) == wet | {"dry_run": True}


# Which day


def test_a_run_without_a_partition_counts_the_day_before_and_stands_among_its_runs(
    engine: sa.Engine, instance: dg.DagsterInstance, office: Office
) -> None:
    assert office
    result = execute(instance, as_of=(END + 5 * MICROSECOND).isoformat())

    assert metadata_of(result)["day"] == KEY
    assert written(engine)
    assert list(plotted(result)) == [KEY]
    run = instance.get_run_by_id(result.run_id)
    assert run is not None
    assert (run.tags["dagster/partition"], run.tags["dagster/partition_set"]) == (KEY, "daily_report_partition_set")


def test_a_run_without_a_partition_a_microsecond_before_midnight_counts_the_day_before_that(
    instance: dg.DagsterInstance, office: Office
) -> None:
    assert office
    assert succeeded(instance, as_of=(END - MICROSECOND).isoformat())["day"] == (TODAY - DAY).isoformat()


@pytest.mark.usefixtures("database")
def test_a_run_without_anything_counts_the_day_before_by_the_database_s_clock(
    engine: sa.Engine, instance: dg.DagsterInstance
) -> None:
    with engine.connect() as connection:
        before: date = connection.execute(sa.text("SELECT now()::date - 1")).scalar_one()
    counted = date.fromisoformat(succeeded(instance)["day"])
    assert counted - before in {timedelta(0), DAY}, "the latter when it was midnight in between"


def test_a_partition_may_be_counted_exactly_from_the_end_of_its_day(
    instance: dg.DagsterInstance, office: Office
) -> None:
    assert office
    assert succeeded(instance, partition_key=KEY, as_of=END.isoformat())["rows"] == 2


def test_a_day_that_is_not_over_is_refused_in_one_line_and_nothing_is_written(
    engine: sa.Engine, instance: dg.DagsterInstance, office: Office
) -> None:
    assert office
    result = execute(instance, partition_key=KEY, as_of=(END - MICROSECOND).isoformat())

    assert failure_of(result).startswith(f"{KEY} is not over: the last day that is, in UTC, is 2025-03-29; ")
    assert written(engine) == []
    assert plotted(result) == {}


def test_a_day_that_is_not_over_is_counted_when_the_config_says_so_but_not_plotted_as_counted(
    engine: sa.Engine, instance: dg.DagsterInstance, office: Office
) -> None:
    assert office
    result = execute(instance, partition_key=KEY, as_of=(END - MICROSECOND).isoformat(), unfinished=True)

    assert (metadata_of(result)["rows"], metadata_of(result)["over"]) == (2, False)
    assert len(written(engine)) == 2
    assert plotted(result) == {}


def test_a_day_that_has_not_begun_is_refused_whatever_the_config_says(
    instance: dg.DagsterInstance, office: Office
) -> None:
    assert office
    as_of = (START - MICROSECOND).isoformat()
    result = execute(instance, partition_key=KEY, as_of=as_of, unfinished=True)
    assert failure_of(result) == f"{KEY} has not begun: in UTC it is 2025-03-29"


def test_an_instant_without_a_zone_is_refused_in_one_line(instance: dg.DagsterInstance, office: Office) -> None:
    assert office
    assert "has no zone" in failure_of(execute(instance, partition_key=KEY, as_of="2026-11-22T09:00"))


# Several partitions


def test_a_backfill_of_a_week_has_a_run_for_each_day_and_once_more_the_same_rows(
    engine: sa.Engine, no_runs: dg.DagsterInstance, office: Office
) -> None:
    assert office
    last = (TODAY + 3 * DAY).isoformat()
    keys = DAYS.get_partition_keys_in_range(dg.PartitionKeyRange((TODAY - 3 * DAY).isoformat(), last))

    def backfilled() -> dict[str, list[dict[str, Any]]]:
        for key in keys:
            assert execute(no_runs, partition_key=key).success
        return {key: written(engine, date.fromisoformat(key)) for key in keys}

    first = backfilled()

    assert {key: len(reports) for key, reports in first.items() if reports} == {
        KEY: 2,
        (TODAY + DAY).isoformat(): 1,
    }
    assert backfilled() == first
    assert no_runs.get_materialized_partitions(daily_report_figures.key) == set(keys)
    of_the_job = no_runs.get_runs(dg.RunsFilter(job_name=ONE, statuses=[dg.DagsterRunStatus.SUCCESS]))
    assert sorted(run.tags["dagster/partition"] for run in of_the_job) == sorted([*keys, *keys])


def test_a_partition_is_a_day_in_utc_and_the_first_one_stays_the_first() -> None:
    keys = DAYS.get_partition_keys(current_time=datetime(2025, 1, 3, tzinfo=UTC))
    assert keys == ["2025-01-01", "2025-01-02"]
    just_before = datetime(2025, 1, 3, tzinfo=UTC) - MICROSECOND
    assert DAYS.get_partition_keys(current_time=just_before) == ["2025-01-01"], "a day is one once it is over"


# A range in one run


def test_a_range_is_counted_day_by_day_with_both_its_ends(
    engine: sa.Engine, instance: dg.DagsterInstance, office: Office
) -> None:
    assert office
    span = {"from": (TODAY - DAY).isoformat(), "to": (TODAY + DAY).isoformat()}

    result = execute(instance, MANY, **span, as_of=(END + DAY).isoformat())

    metadata = metadata_of(result)
    by_day = metadata.pop("by_day")
    assert metadata == {name: 0 for name in METRICS if name != "active_people"} | {
        "cards_closed": 1,
        "comments": 2,
        **span,
        "days": 3,
        "days_changed": 2,
        "rows": 3,
        "as_of": (END + DAY).isoformat(),
        "dry_run": False,
    }
    assert [(row["day"], row["comments"], row["active_people"]) for row in by_day] == [
        ("2025-03-31", 1, 0),
        ("2025-03-30", 1, 1),
        ("2025-03-29", 0, 0),
    ]
    assert [len(written(engine, TODAY + number * DAY)) for number in (-1, 0, 1)] == [0, 2, 1]
    assert {day: figures["comments"] for day, figures in plotted(result).items()} == {
        "2025-03-29": 0,
        "2025-03-30": 1,
        "2025-03-31": 1,
    }


def test_a_range_and_the_partitions_say_the_same(
    engine: sa.Engine, instance: dg.DagsterInstance, office: Office
) -> None:
    assert office
    days = [TODAY, TODAY + DAY]
    for day in days:
        succeeded(instance, partition_key=day.isoformat())
    before = [written(engine, day) for day in days]

    metadata = succeeded(instance, MANY, **{"from": KEY, "to": days[-1].isoformat()})

    assert (metadata["days"], metadata["days_changed"]) == (2, 0)
    assert [written(engine, day) for day in days] == before


@pytest.mark.usefixtures("database")
def test_a_range_without_its_ends_is_the_day_before(instance: dg.DagsterInstance) -> None:
    metadata = succeeded(instance, MANY, as_of=END.isoformat())
    assert (metadata["from"], metadata["to"], metadata["days"]) == (KEY, KEY, 1)


@pytest.mark.usefixtures("database")
def test_a_range_when_nothing_happened_is_a_success_that_says_so(instance: dg.DagsterInstance) -> None:
    result = execute(instance, MANY, **{"from": "2024-12-31", "to": "2025-01-01"})

    assert metadata_of(result)["rows"] == 0
    said = "Nothing to report: nothing happened from 2024-12-31 to 2025-01-01"
    assert any(said in line for line in log_of(instance, result))
    assert list(plotted(result)) == ["2025-01-01"], "there is no partition before the first one"


def test_days_before_the_first_partition_are_counted_in_a_range(
    engine: sa.Engine, instance: dg.DagsterInstance, office: Office
) -> None:
    with engine.begin() as connection:
        office.commented(connection, datetime(2016, 2, 29, 23, tzinfo=UTC))

    succeeded(instance, MANY, **{"from": "2016-02-29", "to": "2016-03-01"})

    assert [row["comments"] for row in written(engine, date(2016, 2, 29))] == [1]


def test_a_dry_run_of_a_range_writes_nothing(engine: sa.Engine, instance: dg.DagsterInstance, office: Office) -> None:
    assert office
    result = execute(instance, MANY, dry_run=True, **{"from": KEY, "to": KEY})

    assert (metadata_of(result)["rows"], plotted(result), written(engine)) == (2, {}, [])


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"from": "2025-03-31", "to": "2025-03-30"}, "from 2025-03-31 is after to 2025-03-30"),
        ({"from": "2000-01-01", "to": "2025-03-30"}, "it takes 3,660 at most"),
        ({"from": "soon", "to": "2025-03-30"}, "from 'soon' is not a date"),
        ({"from": "2025-03-30", "to": "later"}, "to 'later' is not a date"),
        ({"from": "2025-03-30", "to": "2025-03-31", "as_of": END.isoformat()}, "2025-03-31 is not over"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_range_that_cannot_be_counted_is_refused_in_one_line(
    instance: dg.DagsterInstance, config: dict[str, Any], words: str
) -> None:
    assert words in failure_of(execute(instance, MANY, **config))


def test_a_range_with_a_day_that_is_not_over_is_refused_before_anything_is_written(
    engine: sa.Engine, instance: dg.DagsterInstance, office: Office
) -> None:
    assert office
    execute(instance, MANY, **{"from": KEY, "to": "2025-03-31", "as_of": END.isoformat()})
    assert written(engine) == []


# The schedule


def requests(instance: dg.DagsterInstance | None, at: datetime) -> dict[str | None, dg.RunRequest]:
    """By partition, in order."""
    schedule = defs.resolve_schedule_def("daily_report_daily")
    repository = defs.get_repository_def()
    with dg.build_schedule_context(
        instance=instance, scheduled_execution_time=at, repository_def=repository
    ) as context:
        asked = schedule.evaluate_tick(context).run_requests or []
    for request in asked:
        assert request.tags["dagster/partition"] == request.partition_key
    return {request.partition_key: request for request in asked}


def asked_for(instance: dg.DagsterInstance | None, at: datetime) -> list[str | None]:
    return list(requests(instance, at))


def test_the_schedule_counts_the_day_before_ten_minutes_after_midnight_in_utc() -> None:
    schedule = defs.resolve_schedule_def("daily_report_daily")
    assert (schedule.job_name, schedule.cron_schedule, schedule.execution_timezone) == (ONE, "10 0 * * *", "UTC")
    assert schedule.default_status == dg.DefaultScheduleStatus.RUNNING


def test_where_nothing_was_ever_counted_the_schedule_asks_for_the_day_before(no_runs: dg.DagsterInstance) -> None:
    assert asked_for(no_runs, END + timedelta(minutes=10)) == [KEY]


def test_a_day_that_failed_is_asked_for_again_by_the_next_tick_with_another_key(
    no_runs: dg.DagsterInstance, office: Office
) -> None:
    assert office
    succeeded(no_runs, partition_key=(TODAY - DAY).isoformat())
    keys = [requests(no_runs, END + timedelta(days=days, minutes=10))[KEY].run_key for days in (0, 1, 2)]
    assert len(set(keys)) == 3
    assert None not in keys


def test_a_tick_that_is_tried_without_dagster_s_storage_asks_for_the_day_before() -> None:
    assert asked_for(None, END + timedelta(minutes=10)) == [KEY]


def test_the_schedule_makes_up_for_the_days_it_missed_and_leaves_alone_what_was_counted(
    no_runs: dg.DagsterInstance, office: Office
) -> None:
    assert office
    for day in (TODAY - 5 * DAY, TODAY - 3 * DAY):
        succeeded(no_runs, partition_key=day.isoformat())

    assert asked_for(no_runs, END + timedelta(minutes=10)) == ["2025-03-26", "2025-03-28", "2025-03-29", KEY]


def test_a_day_that_was_counted_before_it_was_over_or_only_on_trial_is_not_taken_for_counted(
    no_runs: dg.DagsterInstance, office: Office
) -> None:
    assert office
    succeeded(no_runs, partition_key=(TODAY - 2 * DAY).isoformat())
    yesterday = (TODAY - DAY).isoformat()
    succeeded(no_runs, partition_key=yesterday, dry_run=True)
    succeeded(no_runs, partition_key=yesterday, unfinished=True, as_of=(START - MICROSECOND).isoformat())

    assert asked_for(no_runs, END + timedelta(minutes=10)) == [yesterday, KEY]


# As people start it


def test_the_job_runs_from_the_command_line_without_a_partition(
    engine: sa.Engine, office: Office, tmp_path: Path
) -> None:
    assert office
    with job_execute(tmp_path, ONE, OPS[ONE], {"as_of": END.isoformat()}) as process:
        exit_code, output = ended(process)

    assert exit_code == 0, output
    assert len(written(engine)) == 2


def test_the_job_runs_from_the_command_line_with_a_partition_as_its_tag(
    engine: sa.Engine, office: Office, tmp_path: Path
) -> None:
    assert office
    command = [str(PROGRAMS / "dagster"), "job", "execute", "-m", "flatearth_pipelines.definitions", "-j", ONE]
    tags = f'{{"dagster/partition": "{(TODAY + DAY).isoformat()}"}}'
    done = subprocess.run(
        [*command, "--tags", tags], capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path
    )

    assert done.returncode == 0, done.stderr
    assert [len(written(engine, day)) for day in (TODAY, TODAY + DAY)] == [0, 1]
