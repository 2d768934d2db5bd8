"""The Dagster job and its sensor on a real database, with the resources that they have in production."""

import contextlib
from collections.abc import Generator

import dagster as dg
import psycopg
import pytest
import sqlalchemy as sa
from dagster._core.definitions.sensor_definition import SensorExecutionData

from flatearth_pipelines.definitions import defs
from flatearth_pipelines.notifications import definitions as notifications
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.notifications import observed
from flatearth_pipelines_tests.notifications.notified import execute, failed, succeeded
from flatearth_pipelines_tests.notifications.workspace import Workspace


@pytest.fixture
def office(engine: sa.Engine) -> Workspace:
    """With two who watch the board; nothing has happened yet."""
    with engine.begin() as connection:
        work = Workspace(connection)
        for _ in range(2):
            work.watcher(connection)
        return work


def test_the_run_publishes_its_counts_and_what_people_were_told_of(
    engine: sa.Engine, office: Workspace, instance: dg.DagsterInstance
) -> None:
    with engine.begin() as connection:
        ada = office.person(connection)
        for action in ("card_closed", "card_closed", "card_moved"):
            office.event(connection, action)
        office.comment(connection, f"@[Ada](user:{ada})")

    metadata = succeeded(instance)

    seconds = metadata.pop("seconds")
    assert metadata == {
        "notifications": 7,
        "mentions": 1,
        "events": 4,
        "texts": 1,
        "windows_opened": 3,
        "held_back": 0,
        "notifications_by_action": [
            {"action": "card_closed", "notifications": 4},
            {"action": "card_moved", "notifications": 2},
            {"action": "mention", "notifications": 1},
        ],
        "events_waiting": 0,
        "texts_waiting": 0,
    }
    assert seconds > 0


def test_the_counts_are_materialized_so_that_the_ui_plots_them(
    engine: sa.Engine, office: Workspace, instance: dg.DagsterInstance
) -> None:
    with engine.begin() as connection:
        office.event(connection)

    (event,) = execute(instance).get_asset_materialization_events()

    assert event.asset_key == dg.AssetKey("created_notifications")
    assert event.materialization.metadata["notifications"] == dg.MetadataValue.int(2)
    assert defs.resolve_asset_graph().has(dg.AssetKey("created_notifications"))


@pytest.mark.usefixtures("database")
def test_nothing_to_do_is_a_success_that_says_so(instance: dg.DagsterInstance) -> None:
    result = execute(instance)

    assert result.success
    assert any("Nothing to do" in line for line in log_of(instance, result))


def test_events_that_somebody_is_in_the_way_of_are_counted_and_warned_of(
    engine: sa.Engine, other_engine: sa.Engine, office: Workspace, instance: dg.DagsterInstance
) -> None:
    with engine.begin() as connection:
        office.event(connection)
    with other_engine.connect() as somebody:
        somebody.execute(sa.text("UPDATE flatearth.users SET name = 'Somebody'"))
        result = execute(instance)

    assert result.success
    assert any("1 events or texts wait" in line for line in log_of(instance, result))
    assert succeeded(instance)["notifications"] == 2


def test_a_second_run_succeeds_names_the_holder_of_the_lock_and_does_nothing(
    engine: sa.Engine, database: str, office: Workspace, instance: dg.DagsterInstance
) -> None:
    with engine.begin() as connection:
        office.event(connection)
    with lock_of_the_job(database, "the night shift"):
        result = execute(instance)

        assert result.success
        assert any("the night shift" in line for line in log_of(instance, result))
        with engine.connect() as connection:
            assert observed.waiting(connection) == (1, 0)
    assert succeeded(instance)["notifications"] == 2


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"batch_size": 0}, "batch_size is 0: it takes 1 to 10,000"),
        ({"batch_size": 10_001}, "batch_size is 10001: it takes 1 to 10,000"),
        ({"stay_seconds": -1.0}, "stay_seconds is -1: it takes 0 to 86,400"),
        ({"longest_seconds": float("nan")}, "longest_seconds is nan: it takes 0 to 86,400"),
    ],
)
def test_a_config_that_makes_no_sense_fails_the_run_in_one_line(
    instance: dg.DagsterInstance, config: dict[str, float], words: str
) -> None:
    assert failed(instance, **config) == words


# The sensor


@pytest.fixture
def no_runs() -> Generator[dg.DagsterInstance]:
    """Dagster's storage in which no run was ever made."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def short_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tick that ends with nothing takes 25 s otherwise."""
    monkeypatch.setattr("flatearth_pipelines.sensing.TICK_SECONDS", 0.3)


@pytest.mark.parametrize("what", ["event", "text"])
def test_a_run_is_asked_for_when_there_is_an_event_or_a_text(
    engine: sa.Engine, office: Workspace, no_runs: dg.DagsterInstance, what: str
) -> None:
    with engine.begin() as connection:
        if what == "event":
            office.event(connection)
        else:
            make.comment(connection, office.card, "@[Ada](user:1)")

    (request,) = tick(no_runs).run_requests or []

    assert request.job_name == "notify_recipients"
    assert request.run_config["ops"]["notify_people"]["config"]["stay_seconds"] > 0


@pytest.mark.usefixtures("office", "short_tick")
def test_nothing_new_is_a_tick_that_says_so(no_runs: dg.DagsterInstance) -> None:
    assert tick(no_runs).skip_message == "Nothing is due"


@pytest.mark.usefixtures("short_tick")
def test_a_run_at_work_is_left_to_do_what_is_new(
    engine: sa.Engine, database: str, office: Workspace, no_runs: dg.DagsterInstance
) -> None:
    with engine.begin() as connection:
        office.event(connection)
    with lock_of_the_job(database, "the night shift"):
        assert tick(no_runs).skip_message == "A run is at work on what is due"


def tick(instance: dg.DagsterInstance) -> SensorExecutionData:
    """One evaluation of the sensor, as the daemon does it."""
    context = dg.build_sensor_context(instance=instance, repository_def=defs.get_repository_def())
    return notifications.notify_recipients_on_new_events.evaluate_tick(context)


def log_of(instance: dg.DagsterInstance, result: dg.ExecuteInProcessResult) -> list[str]:
    return [entry.user_message for entry in instance.all_logs(result.run_id)]


@contextlib.contextmanager
def lock_of_the_job(conninfo: str, application: str) -> Generator[None]:
    with psycopg.connect(conninfo, application_name=application, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(hashtextextended('flatearth.notify_recipients', 0))")
        yield
