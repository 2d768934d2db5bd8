"""The Dagster job that dispatches and its sensor on a real database, with the resources of production."""

import contextlib
from collections.abc import Generator
from typing import Any

import dagster as dg
import psycopg
import pytest
import sqlalchemy as sa
from dagster._core.definitions.sensor_definition import SensorExecutionData

from flatearth_pipelines import tables
from flatearth_pipelines.definitions import defs
from flatearth_pipelines.webhooks import definitions as webhooks
from flatearth_pipelines_tests.dagster_runs import failure_of, metadata_of
from flatearth_pipelines_tests.queue.runs import log_of
from flatearth_pipelines_tests.webhooks import observed
from flatearth_pipelines_tests.webhooks.workspace import Workspace

LOCK = "flatearth.dispatch_webhooks"


def execute(instance: dg.DagsterInstance, **config: Any) -> dg.ExecuteInProcessResult:
    return defs.resolve_job_def("dispatch_webhooks").execute_in_process(
        instance=instance, run_config={"ops": {"dispatch_events": {"config": config}}}, raise_on_error=False
    )


def succeeded(instance: dg.DagsterInstance, **config: Any) -> dict[str, Any]:
    return metadata_of(execute(instance, **config))


@pytest.fixture
def events(engine: sa.Engine, office: Workspace) -> list[int]:
    """Two webhooks, one of which wants to hear of both events and the other one of the second."""
    with engine.begin() as connection:
        office.webhook(connection)
        office.webhook(connection, actions=["card_moved"])
        return [office.event(connection, action) for action in ("card_closed", "card_moved")]


def test_an_ordinary_run_needs_no_config() -> None:
    assert webhooks.DispatchConfig().model_dump() == {
        "dry_run": False,
        "batch_size": 2_000,
        "stay_seconds": 0,
        "longest_seconds": 900,
    }


@pytest.mark.usefixtures("events")
def test_the_run_publishes_its_counts_and_of_what_deliveries_were_written(instance: dg.DagsterInstance) -> None:
    metadata = succeeded(instance)

    assert metadata.pop("seconds") > 0
    assert metadata == {
        "deliveries": 3,
        "events": 2,
        "events_waiting": 0,
        "deliveries_by_action": [
            {"action": "card_moved", "deliveries": 2},
            {"action": "card_closed", "deliveries": 1},
        ],
        "dry_run": False,
    }


@pytest.mark.usefixtures("events")
def test_the_counts_are_materialized_so_that_the_ui_plots_them(instance: dg.DagsterInstance) -> None:
    (event,) = execute(instance).get_asset_materialization_events()

    assert event.asset_key == dg.AssetKey("dispatched_events")
    assert event.materialization.metadata["deliveries"] == dg.MetadataValue.int(3)
    assert defs.resolve_asset_graph().has(event.asset_key)


@pytest.mark.usefixtures("database")
def test_nothing_to_do_is_a_success_that_says_so(instance: dg.DagsterInstance) -> None:
    result = execute(instance)

    assert metadata_of(result)["deliveries"] == 0
    assert "Nothing to do: no event is new that an endpoint wants to hear of" in log_of(instance, result)


def test_a_dry_run_reports_the_same_numbers_and_writes_nothing(
    engine: sa.Engine, events: list[int], instance: dg.DagsterInstance
) -> None:
    result = execute(instance, dry_run=True)
    dry = metadata_of(result)

    with engine.connect() as connection:
        assert (observed.undispatched(connection), observed.deliveries(connection)) == (events, [])
    assert result.get_asset_materialization_events() == []
    assert "3 deliveries of 2 events would be written" in log_of(instance, result)
    assert (dry["dry_run"], dry["events_waiting"]) == (True, 2)
    wet = succeeded(instance)
    same = ("deliveries", "events", "deliveries_by_action")
    assert {name: dry[name] for name in same} == {name: wet[name] for name in same}


def test_a_second_run_succeeds_names_the_holder_of_the_lock_and_does_nothing(
    engine: sa.Engine, database: str, events: list[int], instance: dg.DagsterInstance
) -> None:
    with lock_of_the_job(database, "the night shift"):
        result = execute(instance)

        assert metadata_of(result)["skipped"]
        assert any("the night shift" in line for line in log_of(instance, result))
        with engine.connect() as connection:
            assert observed.undispatched(connection) == events
    assert succeeded(instance)["deliveries"] == 3


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"batch_size": 0}, "batch_size is 0: it takes 1 to 50,000"),
        ({"batch_size": 50_001}, "batch_size is 50001: it takes 1 to 50,000"),
        ({"stay_seconds": -1.0}, "stay_seconds is -1: it takes 0 to 86,400"),
        ({"longest_seconds": float("nan")}, "longest_seconds is nan: it takes 0 to 86,400"),
    ],
)
def test_a_config_that_makes_no_sense_fails_the_run_in_one_line(
    instance: dg.DagsterInstance, config: dict[str, float], words: str
) -> None:
    assert failure_of(execute(instance, **config)) == words


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


@pytest.mark.usefixtures("events")
def test_one_run_that_stays_is_asked_for_when_there_is_something_new(no_runs: dg.DagsterInstance) -> None:
    (request,) = tick(no_runs).run_requests or []

    assert (request.job_name, request.run_key) == ("dispatch_webhooks", None)
    assert request.run_config["ops"]["dispatch_events"]["config"]["stay_seconds"] > 0


@pytest.mark.usefixtures("short_tick")
def test_an_event_that_nobody_wants_is_a_tick_that_says_that_nothing_is_due(
    engine: sa.Engine, office: Workspace, no_runs: dg.DagsterInstance
) -> None:
    with engine.begin() as connection:
        office.webhook(connection, actions=["card_moved"])
        office.event(connection, "card_closed")

    assert tick(no_runs).skip_message == "Nothing is due"


@pytest.mark.usefixtures("short_tick", "events")
def test_a_run_at_work_is_left_to_do_what_is_new(database: str, no_runs: dg.DagsterInstance) -> None:
    with lock_of_the_job(database, "the night shift"):
        assert tick(no_runs).skip_message == "A run is at work on what is due"


def test_what_a_sensor_asked_for_leaves_nothing_to_ask_for(
    engine: sa.Engine,
    events: list[int],
    instance: dg.DagsterInstance,
    no_runs: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (request,) = tick(no_runs).run_requests or []
    config = request.run_config["ops"]["dispatch_events"]["config"] | {"stay_seconds": 0.1}
    assert succeeded(instance, **config)["events"] == len(events)
    monkeypatch.setattr("flatearth_pipelines.sensing.TICK_SECONDS", 0.3)

    assert tick(no_runs).skip_message == "Nothing is due"
    with engine.connect() as connection:
        assert connection.execute(sa.select(tables.webhook_deliveries.c.state)).scalars().all() == 3 * ["pending"]


def tick(instance: dg.DagsterInstance) -> SensorExecutionData:
    """One evaluation of the sensor, as the daemon does it."""
    context = dg.build_sensor_context(instance=instance, repository_def=defs.get_repository_def())
    return webhooks.dispatch_webhooks_on_new_events.evaluate_tick(context)


@contextlib.contextmanager
def lock_of_the_job(conninfo: str, application: str) -> Generator[None]:
    with psycopg.connect(conninfo, application_name=application, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [LOCK])
        yield
