"""The Dagster job that delivers and its sensor on a real database and a real HTTP server."""

import contextlib
from collections.abc import Generator
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster._core.definitions.sensor_definition import SensorExecutionData

from flatearth_pipelines import tables
from flatearth_pipelines.definitions import defs
from flatearth_pipelines.webhooks import delivery, delivery_definitions
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.dagster_runs import failure_of, metadata_of
from flatearth_pipelines_tests.queue.runs import log_of
from flatearth_pipelines_tests.webhooks import observed
from flatearth_pipelines_tests.webhooks.receiver import ALLOWED, Receiver, status
from flatearth_pipelines_tests.webhooks.workspace import Workspace, deliveries, disabled

LOCK = "flatearth.deliver_webhooks"


@pytest.fixture(autouse=True)
def environment(secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert secret
    monkeypatch.setenv("FLATEARTH_WEBHOOK_ALLOW_NETWORKS", ALLOWED)


@pytest.fixture
def no_runs() -> Generator[dg.DagsterInstance]:
    """Dagster's own storage, in memory, in which no run stands: what the sensor sees of it."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def hook(engine: sa.Engine, office: Workspace, receiver: Receiver) -> int:
    with engine.begin() as connection:
        return office.webhook(connection, url=receiver.url())


def due(engine: sa.Engine, hook: int, count: int = 1) -> list[int]:
    with engine.begin() as connection:
        return deliveries(connection, hook, count)


def later(engine: sa.Engine, hook: int, seconds: float) -> int:
    """One that is due in so many seconds."""
    with engine.begin() as connection:
        at = sa.func.clock_timestamp() + sa.cast(f"{seconds} seconds", sa.Interval)
        return make.delivery(connection, hook, next_attempt_at=at)


def states(engine: sa.Engine) -> dict[int, str]:
    with engine.connect() as connection:
        return observed.states(connection)


def execute(instance: dg.DagsterInstance, **config: Any) -> dg.ExecuteInProcessResult:
    return defs.resolve_job_def("deliver_webhooks").execute_in_process(
        instance=instance, run_config={"ops": {"send_due_webhooks": {"config": config}}}, raise_on_error=False
    )


def succeeded(instance: dg.DagsterInstance, **config: Any) -> dict[str, Any]:
    metadata = metadata_of(execute(instance, **config))
    metadata.pop("seconds", None)
    return metadata


# The run


def test_an_ordinary_run_needs_no_config_and_is_what_a_delivery_does_without_options() -> None:
    config = delivery_definitions.DeliverWebhooksConfig().model_dump()

    assert config == {"as_of": None, "dry_run": False, "in_flight": 200, "per_endpoint": 5, "stay_seconds": 0}
    options = delivery.Options()
    assert (options.in_flight, options.per_endpoint) == (config["in_flight"], config["per_endpoint"])


def test_the_run_publishes_its_counts_by_code_and_how_many_wait(
    engine: sa.Engine, office: Workspace, instance: dg.DagsterInstance, receiver: Receiver
) -> None:
    with engine.begin() as connection:
        for path in ("/ok", "/ok", "/gone", "/later"):
            make.delivery(connection, office.webhook(connection, url=receiver.url(path)))
        make.delivery(connection, office.webhook(connection, **disabled()))
        deliveries(connection, office.webhook(connection, url=receiver.url("/opens")), 5)
    receiver.answers = {"/gone": status(410), "/later": status(503), "/opens": status(500)}

    assert succeeded(instance) == {
        "completed": 2,
        "retried": 6,
        "errored": 1,
        "endpoints_newly_open": 1,
        "endpoints_newly_disabled": 1,
        "due": 9,
        "attempts_by_code": [
            {"code": "http_5xx", "attempts": 6},
            {"code": "ok", "attempts": 2},
            {"code": "gone", "attempts": 1},
        ],
        "rescued": 0,
        "handed_back": 0,
        "lost_to_others": 0,
        "waiting": 6,
        "in_progress": 0,
        "endpoints_open": 1,
        "endpoints_disabled": 2,
        "dry_run": False,
    }


@pytest.mark.usefixtures("database")
def test_nothing_to_do_is_a_success_that_says_so(instance: dg.DagsterInstance) -> None:
    result = execute(instance)

    assert "Nothing to do: no delivery is due" in log_of(instance, result)
    assert metadata_of(result)["attempts_by_code"] == []


def test_what_became_of_deliveries_is_materialized_in_numbers_so_that_the_ui_plots_them(
    engine: sa.Engine, instance: dg.DagsterInstance, hook: int
) -> None:
    due(engine, hook)

    (event,) = execute(instance).get_asset_materialization_events()

    assert event.asset_key == dg.AssetKey("delivered_webhooks")
    assert defs.resolve_asset_graph().has(event.asset_key)
    metadata = event.materialization.metadata
    assert all(isinstance(value, dg.IntMetadataValue) for value in metadata.values()), metadata
    assert metadata["completed"].value == 1


def test_a_dry_run_says_how_many_would_be_tried_and_writes_and_sends_nothing(
    engine: sa.Engine, instance: dg.DagsterInstance, receiver: Receiver, hook: int
) -> None:
    due(engine, hook, 5)
    later(engine, hook, 3_600)
    with engine.connect() as connection:
        before = observed.deliveries(connection)

    result = execute(instance, dry_run=True)

    with engine.connect() as connection:
        assert (observed.deliveries(connection), observed.attempts(connection)) == (before, [])
    assert (receiver.received(), result.get_asset_materialization_events()) == ([], [])
    assert "5 deliveries are due and would be tried" in log_of(instance, result)
    dry = metadata_of(result)
    assert (dry["due"], dry["waiting"], dry["completed"], dry["dry_run"]) == (5, 6, 0, True)
    assert succeeded(instance)["due"] == 5


def test_a_run_judges_by_the_instant_that_it_is_told(
    engine: sa.Engine, instance: dg.DagsterInstance, hook: int
) -> None:
    later(engine, hook, 3_600)
    with engine.connect() as connection:
        tomorrow = (observed.now(connection) + make.DAY).isoformat()

    assert succeeded(instance)["completed"] == 0
    assert succeeded(instance, as_of=tomorrow, dry_run=True)["due"] == 1
    assert succeeded(instance, as_of=tomorrow)["completed"] == 1


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"as_of": "yesterday"}, "as_of 'yesterday' is not a date and time"),
        ({"as_of": "2026-11-22T09:00:00"}, "has no zone"),
        ({"in_flight": 0}, "in_flight is 0: it takes 1 to 1,000"),
        ({"in_flight": 1_001}, "in_flight is 1001: it takes 1 to 1,000"),
        ({"per_endpoint": 0}, "per_endpoint is 0: it takes 1 to 100"),
        ({"per_endpoint": 101}, "per_endpoint is 101: it takes 1 to 100"),
        ({"stay_seconds": -1}, "stay_seconds is -1: it takes 0 to 3,600"),
        ({"stay_seconds": float("nan")}, "stay_seconds is nan"),
    ],
)
@pytest.mark.usefixtures("database")
def test_a_config_that_cannot_be_used_fails_in_one_line_that_says_what_it_takes(
    instance: dg.DagsterInstance, config: dict[str, Any], reason: str
) -> None:
    assert reason in failure_of(execute(instance, **config))


def test_without_a_secret_a_run_fails_in_one_line_and_claims_nothing(
    engine: sa.Engine, instance: dg.DagsterInstance, hook: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (delivery_id,) = due(engine, hook)
    monkeypatch.delenv("FLATEARTH_SECRET_KEY")

    assert failure_of(execute(instance)).startswith("FLATEARTH_SECRET_KEY is not set")
    assert states(engine) == {delivery_id: "pending"}


def test_a_second_run_ends_as_a_success_that_says_who_is_at_work(
    engine: sa.Engine, instance: dg.DagsterInstance, receiver: Receiver, hook: int
) -> None:
    due(engine, hook)
    with locked(engine):
        result = execute(instance)

    assert metadata_of(result) == {"skipped": True, "held_by": metadata_of(result)["held_by"], "completed": 0}
    told = "Nothing done: webhooks are being delivered by tests, since "
    assert any(line.startswith(told) for line in log_of(instance, result))
    assert receiver.received() == []


def test_a_run_that_stays_sends_what_becomes_due_meanwhile(
    engine: sa.Engine, instance: dg.DagsterInstance, hook: int
) -> None:
    delivery_id = later(engine, hook, 1)

    assert succeeded(instance, stay_seconds=5)["completed"] == 1
    assert states(engine) == {delivery_id: "completed"}


def test_no_secret_and_no_part_of_a_url_that_may_hold_one_stands_in_the_log_of_a_run(
    engine: sa.Engine, office: Workspace, instance: dg.DagsterInstance, receiver: Receiver
) -> None:
    receiver.answers["/in?token=s3cret"] = status(410)
    with engine.begin() as connection:
        hook = office.webhook(connection, url=receiver.url("/in?token=s3cret"))
        gone = office.webhook(connection, url="http://127.0.0.2:1/in?token=s3cret")
    due(engine, hook)
    due(engine, gone)

    result = execute(instance)

    assert metadata_of(result)["endpoints_newly_disabled"] == 1
    assert not any("s3cret" in line for line in log_of(instance, result))
    with engine.connect() as connection:
        assert not any("s3cret" in (attempt["detail"] or "") for attempt in observed.attempts(connection))


# The sensor


def evaluated(instance: dg.DagsterInstance) -> SensorExecutionData:
    sensor = delivery_definitions.deliver_webhooks_when_due
    with dg.build_sensor_context(instance=instance, repository_def=defs.get_repository_def()) as context:
        return sensor.evaluate_tick(context)


def test_the_sensor_starts_one_run_that_stays_when_a_delivery_is_due(
    engine: sa.Engine, no_runs: dg.DagsterInstance, hook: int
) -> None:
    due(engine, hook, 3)

    (request,) = evaluated(no_runs).run_requests or []

    assert (request.job_name, request.run_key) == ("deliver_webhooks", None)
    stays = request.run_config["ops"]["send_due_webhooks"]["config"]["stay_seconds"]
    assert stays > delivery_definitions._LEAD_SECONDS  # noqa: SLF001


def test_the_sensor_starts_a_run_shortly_before_a_delivery_is_due(
    engine: sa.Engine, no_runs: dg.DagsterInstance, hook: int
) -> None:
    """It has seen nothing due when it starts to wait; a run takes two seconds to begin."""
    delivery_id = later(engine, hook, 4)

    (_,) = evaluated(no_runs).run_requests or []

    with engine.connect() as connection:
        assert observed.now(connection) < observed.delivery(connection, delivery_id)["next_attempt_at"]


def test_what_a_run_held_that_died_starts_a_run(engine: sa.Engine, no_runs: dg.DagsterInstance, hook: int) -> None:
    due(engine, hook)
    with engine.begin() as connection:
        at = sa.func.clock_timestamp() + sa.cast("3 minutes", sa.Interval)
        held = {"state": "in_progress", "claim": sa.func.gen_random_uuid(), "claimed_until": at}
        connection.execute(sa.update(tables.webhook_deliveries).values(held))

    assert evaluated(no_runs).run_requests


@pytest.fixture
def short_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tick that waits for a fifth of a second."""
    monkeypatch.setattr("flatearth_pipelines.sensing.TICK_SECONDS", 0.2)


@pytest.mark.usefixtures("short_tick")
def test_the_sensor_starts_nothing_while_nothing_is_due_or_a_run_is_at_work(
    engine: sa.Engine, office: Workspace, no_runs: dg.DagsterInstance, hook: int
) -> None:
    later(engine, hook, 3_600)
    with engine.begin() as connection:
        make.delivery(connection, office.webhook(connection, **disabled()))
    assert evaluated(no_runs).skip_message == "Nothing is due"

    due(engine, hook)
    with locked(engine):
        assert evaluated(no_runs).skip_message == "A run is at work on what is due"
    assert evaluated(no_runs).run_requests


@pytest.mark.usefixtures("short_tick", "hook")
def test_an_event_that_has_just_happened_starts_a_run_which_is_there_when_it_is_dispatched_but_no_old_one(
    engine: sa.Engine, office: Workspace, no_runs: dg.DagsterInstance
) -> None:
    """Nobody may dispatch at all: there must not be one run after another for that."""
    with engine.begin() as connection:
        office.event(connection)
    assert evaluated(no_runs).run_requests
    with engine.begin() as connection:
        at = sa.func.clock_timestamp() - sa.cast("10 seconds", sa.Interval)
        connection.execute(sa.update(tables.events).values(created_at=at))
    assert evaluated(no_runs).skip_message == "Nothing is due"


@pytest.mark.usefixtures("short_tick")
def test_the_sensor_starts_nothing_for_an_endpoint_that_is_open_until_its_wait_is_over(
    engine: sa.Engine, no_runs: dg.DagsterInstance, hook: int
) -> None:
    due(engine, hook, 3)
    five = {"consecutive_failures": 5, "first_failure_at": make.NOON, "trips": 1}
    for wait, starts in (("1 minute", False), ("0 seconds", True)):
        with engine.begin() as connection:
            until = sa.func.clock_timestamp() + sa.cast(wait, sa.Interval)
            connection.execute(sa.update(tables.webhooks).values(**five, open_until=until))
        assert bool(evaluated(no_runs).run_requests) == starts


def test_without_a_secret_the_sensor_says_so_instead_of_starting_runs_that_fail(
    engine: sa.Engine, no_runs: dg.DagsterInstance, hook: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    due(engine, hook)
    monkeypatch.delenv("FLATEARTH_SECRET_KEY")

    tick = evaluated(no_runs)

    assert not tick.run_requests
    assert (tick.skip_message or "").startswith("FLATEARTH_SECRET_KEY is not set")


@contextlib.contextmanager
def locked(engine: sa.Engine) -> Generator[None]:
    """As a run does that is at work."""
    with engine.connect() as connection:
        connection.execute(sa.text("SELECT pg_advisory_lock(hashtextextended(:name, 0))"), {"name": LOCK})
        connection.commit()
        yield
        connection.execute(sa.text("SELECT pg_advisory_unlock_all()"))
        connection.commit()
