"""The Dagster job, its sensor and its schedule on a real database and a real mail server."""

import contextlib
import logging
from collections.abc import Generator
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster._core.definitions.sensor_definition import SensorExecutionData

from flatearth_pipelines.definitions import defs
from flatearth_pipelines.notifications import delivery_definitions
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.dagster_runs import failure_of, metadata_of
from flatearth_pipelines_tests.notifications import observed
from flatearth_pipelines_tests.notifications.mails import change, due_bundle, due_bundles, ends, notify, now
from flatearth_pipelines_tests.notifications.workspace import Workspace, bundle
from flatearth_pipelines_tests.queue.runs import log_of
from flatearth_pipelines_tests.smtp import Server, free_port

LOCK = "flatearth.deliver_bundles"


@pytest.fixture(autouse=True)
def environment(post: Server, secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert secret
    monkeypatch.setenv("FLATEARTH_SMTP_URL", post.url)


@pytest.fixture
def no_runs() -> Generator[dg.DagsterInstance]:
    """Dagster's own storage, in memory, in which no run stands: what the sensor sees of it."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def execute(instance: dg.DagsterInstance, **config: Any) -> dg.ExecuteInProcessResult:
    return defs.resolve_job_def("deliver_bundles").execute_in_process(
        instance=instance,
        run_config={"ops": {"mail_due_bundles": {"config": config}}},
        raise_on_error=False,
    )


def succeeded(instance: dg.DagsterInstance, **config: Any) -> dict[str, Any]:
    metadata = metadata_of(execute(instance, **config))
    metadata.pop("seconds", None)
    return metadata


# The run


def test_an_ordinary_run_needs_no_config() -> None:
    assert delivery_definitions.DeliverBundlesConfig().model_dump() == {
        "as_of": None,
        "dry_run": False,
        "batch_size": 100,
        "connections": 4,
        "stay_seconds": 0,
        "answer_seconds": 20,
    }


def test_the_run_publishes_its_counts_by_outcome(
    engine: sa.Engine, instance: dg.DagsterInstance, office: Workspace, post: Server
) -> None:
    with engine.begin() as connection:
        for answer in ("550 5.1.1 nobody", "554 no", "451 later", None):
            person = office.person(connection)
            email = connection.execute(sa.text(f"SELECT email FROM flatearth.users WHERE id = {person}")).scalar_one()
            if answer is not None:
                post.answers[email] = answer
            notify(connection, office, person)
            due_bundle(connection, office, person)
        bundle(connection, office.person(connection), "-1 hour", "-1 minute")
        office.notification(connection, office.person(connection))

    assert succeeded(instance) == {
        "mailed": 1,
        "notifications_mailed": 2,
        "without_mail": 1,
        "retried": 1,
        "undeliverable": 1,
        "failed": 1,
        "outcomes": [
            {"outcome": "mailed", "bundles": 1},
            {"outcome": "nothing_unread", "bundles": 1},
            {"outcome": "refused", "bundles": 1},
            {"outcome": "retried", "bundles": 1},
            {"outcome": "undeliverable", "bundles": 1},
        ],
        "rescued": 0,
        "handed_back": 0,
        "lost_to_others": 0,
        "waiting": 2,
        "due": 0,
        "processing": 0,
        "dry_run": False,
    }


@pytest.mark.usefixtures("database")
def test_nothing_to_do_is_a_success_that_says_so(instance: dg.DagsterInstance) -> None:
    result = execute(instance)

    assert result.success
    assert "Nothing to do: no window is over" in log_of(instance, result)
    assert metadata_of(result)["outcomes"] == []


def test_the_outcomes_are_materialized_in_numbers_so_that_the_ui_plots_them(
    engine: sa.Engine, instance: dg.DagsterInstance, office: Workspace
) -> None:
    with engine.begin() as connection:
        due_bundle(connection, office)

    (event,) = execute(instance).get_asset_materialization_events()

    assert event.asset_key == dg.AssetKey("delivered_bundles")
    assert defs.resolve_asset_graph().has(event.asset_key)
    metadata = event.materialization.metadata
    assert all(isinstance(value, dg.IntMetadataValue) for value in metadata.values()), metadata
    assert metadata["mailed"].value == 1


def test_a_dry_run_reports_the_same_numbers_and_changes_nothing(
    engine: sa.Engine, instance: dg.DagsterInstance, office: Workspace, post: Server
) -> None:
    with engine.begin() as connection:
        due_bundles(connection, office, 5)
        bundle(connection, office.person(connection), "-1 hour", "-1 minute")
    before = ends(engine)

    result = execute(instance, dry_run=True)
    dry = metadata_of(result)

    assert (ends(engine), post.mails) == (before, [])
    assert result.get_asset_materialization_events() == []
    assert "Bundles that would end so: 5 mailed, 1 nothing unread" in log_of(instance, result)
    wet = succeeded(instance)
    same = ("mailed", "notifications_mailed", "without_mail", "outcomes")
    assert {name: dry[name] for name in same} == {name: wet[name] for name in same}


def test_a_run_judges_by_the_instant_that_it_is_told(
    engine: sa.Engine, instance: dg.DagsterInstance, office: Workspace, post: Server
) -> None:
    with engine.begin() as connection:
        office.notification(connection, office.person(connection))

    assert succeeded(instance)["mailed"] == 0
    assert succeeded(instance, as_of=(now(engine) + make.DAY).isoformat())["mailed"] == 1
    assert len(post.mails) == 1


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"as_of": "yesterday"}, "as_of 'yesterday' is not a date and time"),
        ({"as_of": "2026-11-22T09:00:00"}, "has no zone"),
        ({"batch_size": 0}, "batch_size is 0: it takes 1 to 1,000"),
        ({"batch_size": 1_001}, "batch_size is 1001: it takes 1 to 1,000"),
        ({"connections": 0}, "connections is 0: it takes 1 to 32"),
        ({"connections": 33}, "connections is 33: it takes 1 to 32"),
        ({"stay_seconds": -1}, "stay_seconds is -1: it takes 0 to 3,600"),
        ({"stay_seconds": float("nan")}, "stay_seconds is nan"),
        ({"answer_seconds": 0}, "answer_seconds is 0: it takes more than 0 to 30"),
        ({"answer_seconds": 31}, "answer_seconds is 31: it takes more than 0 to 30"),
    ],
)
@pytest.mark.usefixtures("database")
def test_a_config_that_cannot_be_used_fails_in_one_line_that_says_what_it_takes(
    instance: dg.DagsterInstance, config: dict[str, Any], reason: str
) -> None:
    assert reason in failure_of(execute(instance, **config))


def test_without_a_secret_a_run_fails_in_one_line_and_claims_nothing(
    engine: sa.Engine, instance: dg.DagsterInstance, office: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FLATEARTH_SECRET_KEY")
    with engine.begin() as connection:
        bundle_id = due_bundle(connection, office)

    assert failure_of(execute(instance)).startswith("FLATEARTH_SECRET_KEY is not set")
    assert ends(engine) == {bundle_id: ("pending", None)}


def test_a_server_that_is_away_fails_no_run_and_is_a_warning_without_the_password(
    engine: sa.Engine, instance: dg.DagsterInstance, office: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLATEARTH_SMTP_URL", f"smtp://ada:s3cret@127.0.0.1:{free_port()}")
    with engine.begin() as connection:
        due_bundles(connection, office, 5)

    result = execute(instance, batch_size=2)

    assert metadata_of(result)["retried"] == 5
    (warning,) = log_of(instance, result, logging.WARNING)
    assert "The mail server is away: " in warning
    assert not any("s3cret" in line for line in log_of(instance, result))


def test_a_second_run_ends_as_a_success_that_says_who_is_at_work(
    engine: sa.Engine, instance: dg.DagsterInstance, office: Workspace
) -> None:
    with engine.begin() as connection:
        due_bundle(connection, office)
    with locked(engine):
        result = execute(instance)

    assert metadata_of(result) == {"skipped": True, "held_by": metadata_of(result)["held_by"], "mailed": 0}
    told = "Nothing done: bundles are being delivered by tests, since "
    assert any(line.startswith(told) for line in log_of(instance, result))


def test_a_run_that_stays_delivers_a_window_that_ends_meanwhile(
    engine: sa.Engine, instance: dg.DagsterInstance, office: Workspace
) -> None:
    with engine.begin() as connection:
        person = office.person(connection)
        notify(connection, office, person)
        bundle_id = bundle(connection, person, "-1 hour", "1 second")

    assert succeeded(instance, stay_seconds=5)["mailed"] == 1
    assert ends(engine) == {bundle_id: ("delivered", "mailed")}


# What starts it


def evaluated(instance: dg.DagsterInstance) -> SensorExecutionData:
    sensor = delivery_definitions.deliver_bundles_when_due
    with dg.build_sensor_context(instance=instance, repository_def=defs.get_repository_def()) as context:
        return sensor.evaluate_tick(context)


def test_the_sensor_starts_a_run_that_stays_when_a_window_is_over(
    engine: sa.Engine, no_runs: dg.DagsterInstance, office: Workspace
) -> None:
    with engine.begin() as connection:
        due_bundle(connection, office)

    (request,) = evaluated(no_runs).run_requests or []

    assert request.run_key is None
    assert request.run_config["ops"]["mail_due_bundles"]["config"]["stay_seconds"] > delivery_definitions._LEAD_SECONDS  # noqa: SLF001


def test_the_sensor_starts_a_run_shortly_before_a_window_ends(
    engine: sa.Engine, no_runs: dg.DagsterInstance, office: Workspace
) -> None:
    """It has seen nothing due when it starts to wait; a run takes two seconds to begin."""
    with engine.begin() as connection:
        person = office.person(connection)
        bundle(connection, person, "-1 hour", "4 seconds")
        ends_at = observed.bundles(connection, person)[0]["ends_at"]

    (_,) = evaluated(no_runs).run_requests or []

    assert now(engine) < ends_at


def test_what_a_delivery_held_that_died_starts_a_run(
    engine: sa.Engine, no_runs: dg.DagsterInstance, office: Workspace
) -> None:
    with engine.begin() as connection:
        due_bundle(connection, office)
    change(
        engine,
        "UPDATE flatearth.notification_bundles SET status = 'processing', claim = gen_random_uuid(),"
        " claimed_until = clock_timestamp() + interval '10 minutes'",
    )

    assert evaluated(no_runs).run_requests


@pytest.fixture
def short_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tick that waits for a fifth of a second."""
    monkeypatch.setattr("flatearth_pipelines.sensing.TICK_SECONDS", 0.2)


@pytest.mark.usefixtures("short_tick")
def test_the_sensor_starts_nothing_while_nothing_is_due_or_a_run_is_at_work(
    engine: sa.Engine, no_runs: dg.DagsterInstance, office: Workspace
) -> None:
    with engine.begin() as connection:
        office.notification(connection, office.person(connection))
    assert evaluated(no_runs).skip_message == "Nothing is due"

    with engine.begin() as connection:
        due_bundle(connection, office)
    with locked(engine):
        assert evaluated(no_runs).skip_message == "A run is at work on what is due"
    assert evaluated(no_runs).run_requests


def test_without_a_secret_the_sensor_says_so_instead_of_starting_runs_that_fail(
    engine: sa.Engine, no_runs: dg.DagsterInstance, office: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FLATEARTH_SECRET_KEY")
    with engine.begin() as connection:
        due_bundle(connection, office)

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
