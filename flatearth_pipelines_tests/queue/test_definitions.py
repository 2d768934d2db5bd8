"""The queue's Dagster jobs, sensor and schedules on a real database, with the resources of production."""

import contextlib
from collections.abc import Generator
from datetime import timedelta
from typing import Any

import dagster as dg
import psycopg
import pytest
import sqlalchemy as sa
from dagster._core.definitions.schedule_definition import ScheduleExecutionData
from dagster._core.definitions.sensor_definition import SensorExecutionData

from flatearth_pipelines.definitions import defs
from flatearth_pipelines.queue import definitions as queue
from flatearth_pipelines_tests.dagster_runs import metadata_of
from flatearth_pipelines_tests.queue import workers
from flatearth_pipelines_tests.queue.conftest import enqueue, open_lease
from flatearth_pipelines_tests.queue.runs import HOUR, REGISTRY, execute, failed, log_of, succeeded
from flatearth_pipelines_tests.queue.workers import add, change, draining, scalar, states

NOT_MIGRATED = "The database is not migrated (0001_application is missing): run `flatearth db migrate`"
IDLE = {"pause_jobs", "resume_jobs", "delete_finished_jobs", "run_due_jobs", "run_heavy_job"}
"""Jobs that need not be told anything."""


@pytest.fixture
def no_runs() -> Generator[dg.DagsterInstance]:
    """Dagster's own storage, in memory, in which no run stands: what the sensor sees of it."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


# run_due_jobs


def test_an_ordinary_drain_needs_no_config() -> None:
    assert queue.DrainConfig().model_dump() == {
        "concurrency": 10,
        "batch_size": 1_000,
        "stay_seconds": 0,
        "longest_seconds": 900,
        "lease_seconds": 300,
        "grace_seconds": 10,
        "alongside": False,
    }


def test_the_run_publishes_its_counts_by_handler_and_outcome(engine: sa.Engine, instance: dg.DagsterInstance) -> None:
    ids = [add(engine, name) for name in ("noop", "noop", "refuse", "fail")]
    later = add(engine, "noop", delay=HOUR)

    metadata = succeeded(instance, handlers=REGISTRY)

    assert metadata.pop("seconds") > 0
    assert metadata == {
        "succeeded": 2,
        "retried": 1,
        "failed": 1,
        "cancelled": 0,
        "handed_back": 0,
        "by_handler": [
            {"handler": "fail", "outcome": "retried", "jobs": 1},
            {"handler": "noop", "outcome": "succeeded", "jobs": 2},
            {"handler": "refuse", "outcome": "failed", "jobs": 1},
        ],
        "claimed": 4,
        "rescued": 0,
        "cron_ticks": 0,
        "lost_to_others": 0,
    }
    ended = dict(zip([*ids, later], ["succeeded", "succeeded", "failed", "pending", "pending"], strict=True))
    assert states(engine) == ended


def test_the_log_says_in_one_line_what_was_done(engine: sa.Engine, instance: dg.DagsterInstance) -> None:
    for name in ("noop", "noop", "fail"):
        add(engine, name)

    result = execute(instance, handlers=REGISTRY)

    assert any(line.startswith("2 succeeded, 1 retried in ") for line in log_of(instance, result))


@pytest.mark.usefixtures("database")
def test_an_empty_queue_is_a_success_that_says_so(
    instance: dg.DagsterInstance,
) -> None:
    result = execute(instance)

    assert result.success
    assert "Nothing to do: no job was due" in log_of(instance, result)
    metadata = metadata_of(result)
    assert (metadata["claimed"], metadata["by_handler"]) == (0, [])
    assert {metadata[name] for name in ("succeeded", "retried", "failed", "cancelled", "handed_back")} == {0}


def test_the_health_of_the_queue_is_materialized_in_numbers_so_that_the_ui_plots_it(
    engine: sa.Engine, instance: dg.DagsterInstance
) -> None:
    with engine.begin() as connection:
        enqueue(connection, "noop", run_at="2026-01-01T00:00:00Z")
        enqueue(connection, "noop", run_at="2026-01-01T00:00:00Z", concurrency_key="one")
        enqueue(connection, "heavy", run_at="2026-01-01T00:00:00Z", own_run=True)
        enqueue(connection, "refuse")
        enqueue(connection, "noop", delay=HOUR)

    (event,) = execute(instance, handlers=REGISTRY).get_asset_materialization_events()

    assert event.asset_key == dg.AssetKey("queue_health")
    assert defs.resolve_asset_graph().has(event.asset_key)
    metadata = event.materialization.metadata
    assert all(isinstance(value, dg.IntMetadataValue | dg.FloatMetadataValue) for value in metadata.values()), metadata
    numbers: dict[str, Any] = {name: value.value for name, value in metadata.items()}
    assert numbers.pop("oldest_wait_seconds") > 24 * 3600
    assert numbers.pop("finished_per_minute") == pytest.approx(2 / 5)
    assert numbers == {"waiting": 1, "scheduled": 1, "running": 0, "dead": 1}


@pytest.mark.usefixtures("database")
def test_the_health_of_an_empty_queue_is_all_noughts(
    instance: dg.DagsterInstance,
) -> None:
    (event,) = execute(instance).get_asset_materialization_events()

    assert {value.value for value in event.materialization.metadata.values()} == {0}


def test_the_extremes_of_the_config_run_every_job_once(
    engine: sa.Engine, instance: dg.DagsterInstance, subtests: pytest.Subtests
) -> None:
    extremes: list[dict[str, Any]] = [
        {"concurrency": 1},
        {"concurrency": 100},
        {"batch_size": 1},
        {"lease_seconds": 1},
        {"lease_seconds": 86_400},
    ]
    for config in extremes:
        with subtests.test(config=config):
            for _ in range(12):
                add(engine, "noop")
            metadata = succeeded(instance, handlers=REGISTRY, **config)
            assert (metadata["claimed"], metadata["succeeded"]) == (12, 12)
            assert set(states(engine).values()) == {"succeeded"}


def test_with_no_time_left_nothing_is_claimed_and_the_next_run_goes_on(
    engine: sa.Engine, instance: dg.DagsterInstance
) -> None:
    add(engine, "noop")

    assert succeeded(instance, handlers=REGISTRY, longest_seconds=0)["claimed"] == 0
    assert succeeded(instance, handlers=REGISTRY)["succeeded"] == 1


WRONG = {
    "concurrency is 0: it takes 1 to 100": {"concurrency": 0},
    "concurrency is 101: it takes 1 to 100": {"concurrency": 101},
    "batch_size is 0: it takes 1 to 1,000": {"batch_size": 0},
    "batch_size is 1001: it takes 1 to 1,000": {"batch_size": 1_001},
    "lease_seconds is 0: it takes 1 to 86,400": {"lease_seconds": 0},
    "lease_seconds is 86401: it takes 1 to 86,400": {"lease_seconds": 86_401},
}


def test_a_number_out_of_range_fails_in_one_line_and_runs_nothing(
    engine: sa.Engine, instance: dg.DagsterInstance, subtests: pytest.Subtests
) -> None:
    job_id = add(engine, "noop")

    for job_name in ("run_due_jobs", "run_heavy_job"):
        for line, config in WRONG.items():
            with subtests.test(job_name, config=config):
                assert failed(instance, job_name, REGISTRY, **config) == line
    assert states(engine) == {job_id: "pending"}


NO_TIMES = (-0.001, 1e300, float("inf"), float("nan"))


@pytest.mark.usefixtures("database")
def test_a_time_that_is_none_fails_in_one_line_that_names_it(
    instance: dg.DagsterInstance, subtests: pytest.Subtests
) -> None:
    for name in ("stay_seconds", "longest_seconds", "grace_seconds", "lease_seconds"):
        for seconds in NO_TIMES:
            with subtests.test(name=name, seconds=seconds):
                config: dict[str, Any] = {name: seconds}
                assert name in failed(instance, handlers=REGISTRY, **config)


@pytest.mark.parametrize("job_name", sorted(IDLE))
def test_config_that_a_job_does_not_know_is_refused_before_it_starts(
    instance: dg.DagsterInstance, job_name: str
) -> None:
    with pytest.raises(dg.DagsterInvalidConfigError):
        execute(instance, job_name, concurency=1)


def test_a_database_that_is_not_migrated_fails_every_job_in_one_line_that_names_the_command(
    empty_database: str, instance: dg.DagsterInstance, subtests: pytest.Subtests
) -> None:
    for job_name in sorted(IDLE):
        with subtests.test(job_name):
            assert failed(instance, job_name) == NOT_MIGRATED
    with psycopg.connect(empty_database) as connection:
        assert connection.execute("SELECT to_regnamespace('flatearth')").fetchone() == (None,)


@pytest.mark.parametrize("job_name", sorted(IDLE))
def test_a_database_that_is_not_there_fails_in_one_line_without_the_password(
    monkeypatch: pytest.MonkeyPatch, instance: dg.DagsterInstance, job_name: str
) -> None:
    monkeypatch.setenv("FLATEARTH_DATABASE_URL", "postgresql://me:s3cret@127.0.0.1:1/none")

    line = failed(instance, job_name)

    assert line.startswith("Postgres cannot be reached: ")
    assert "s3cret" not in line


def test_a_second_run_succeeds_names_the_holder_of_the_lock_and_does_nothing(
    engine: sa.Engine, database: str, instance: dg.DagsterInstance
) -> None:
    job_id = add(engine, "noop")

    with lock_of_the_job(database, "the night shift"):
        result = execute(instance, handlers=REGISTRY)

    assert result.success
    metadata = metadata_of(result)
    assert (metadata["skipped"], metadata["succeeded"]) == (True, 0)
    assert metadata["held_by"].startswith("the night shift, since 20")
    assert any("the night shift" in line for line in log_of(instance, result))
    assert result.get_asset_materialization_events() == []
    assert states(engine) == {job_id: "pending"}


def test_alongside_another_run_drains_too_when_it_is_told_to(
    engine: sa.Engine, database: str, instance: dg.DagsterInstance
) -> None:
    add(engine, "noop")

    with lock_of_the_job(database, "the night shift"):
        assert succeeded(instance, handlers=REGISTRY, alongside=True)["succeeded"] == 1


def test_the_jobs_of_a_lost_worker_are_rescued_and_counted(engine: sa.Engine, instance: dg.DagsterInstance) -> None:
    add(engine, "noop")
    with engine.begin() as connection:
        connection.execute(sa.text("SELECT FROM flatearth.claim_jobs(:lease, 1)"), {"lease": open_lease(connection)})
    workers.expire_leases(engine)

    metadata = succeeded(instance, handlers=REGISTRY)

    assert (metadata["rescued"], metadata["succeeded"]) == (1, 1)


def test_a_due_cron_job_is_enqueued_run_and_counted(engine: sa.Engine, instance: dg.DagsterInstance) -> None:
    add_cron(engine)

    metadata = succeeded(instance, handlers=REGISTRY)

    assert (metadata["cron_ticks"], metadata["succeeded"]) == (1, 1)
    assert succeeded(instance, handlers=REGISTRY)["cron_ticks"] == 0


# run_heavy_job


def test_a_heavy_run_runs_one_heavy_job_and_leaves_the_others(engine: sa.Engine, instance: dg.DagsterInstance) -> None:
    light = add(engine, "noop")
    first, second = (add(engine, "heavy", own_run=True) for _ in range(2))

    metadata = succeeded(instance, "run_heavy_job", REGISTRY)

    assert (metadata["claimed"], metadata["succeeded"]) == (1, 1)
    assert states(engine) == {light: "pending", first: "succeeded", second: "pending"}


def test_a_heavy_run_with_nothing_to_do_is_a_success_that_says_so(
    engine: sa.Engine, instance: dg.DagsterInstance
) -> None:
    light = add(engine, "noop")

    result = execute(instance, "run_heavy_job", REGISTRY)

    assert result.success
    assert "Nothing to do: no job was due" in log_of(instance, result)
    assert states(engine) == {light: "pending"}


def test_a_drain_leaves_heavy_jobs_to_runs_of_their_own_also_those_that_came_through_sql(
    engine: sa.Engine, instance: dg.DagsterInstance
) -> None:
    known, by_sql = add(engine, "heavy", own_run=True), add(engine, "heavy")

    assert succeeded(instance, handlers=REGISTRY)["succeeded"] == 0
    assert states(engine) == {known: "pending", by_sql: "pending"}
    assert [succeeded(instance, "run_heavy_job", REGISTRY)["succeeded"] for _ in range(2)] == [1, 1]
    assert states(engine) == {known: "succeeded", by_sql: "succeeded"}


# The sensor


def test_a_due_job_asks_for_a_drain_that_stays_for_a_while(engine: sa.Engine, no_runs: dg.DagsterInstance) -> None:
    add(engine, "check_card_entropy", {"card_id": 1})

    (request,) = tick(no_runs).run_requests or []

    assert request.job_name == "run_due_jobs"
    assert request.run_config["ops"]["drain_due_jobs"]["config"]["stay_seconds"] == 30
    assert dg.validate_run_config(defs.resolve_job_def("run_due_jobs"), request.run_config)


def test_a_due_cron_job_asks_for_a_drain(engine: sa.Engine, no_runs: dg.DagsterInstance) -> None:
    add_cron(engine)

    assert requested(no_runs) == ["run_due_jobs"]


def test_a_heavy_job_asks_for_a_run_of_its_own(engine: sa.Engine, no_runs: dg.DagsterInstance) -> None:
    add(engine, "heavy", own_run=True)

    assert requested(no_runs) == ["run_heavy_job"]


def test_light_and_heavy_work_is_asked_for_in_one_tick(engine: sa.Engine, no_runs: dg.DagsterInstance) -> None:
    add(engine, "noop")
    add(engine, "heavy", own_run=True)

    assert sorted(requested(no_runs)) == ["run_due_jobs", "run_heavy_job"]


def test_a_drain_is_asked_for_two_seconds_before_a_job_is_due_also_in_mid_tick(
    engine: sa.Engine, no_runs: dg.DagsterInstance
) -> None:
    """It takes as long to start, and waits for the job."""
    add(engine, "noop", delay=timedelta(seconds=2.5))

    assert requested(no_runs) == ["run_due_jobs"]
    assert scalar(engine, "SELECT run_at - clock_timestamp() <= interval '2 s' FROM flatearth.live_jobs")


@pytest.fixture
def short_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tick that ends with nothing takes 25 s otherwise."""
    monkeypatch.setattr("flatearth_pipelines.sensing.TICK_SECONDS", 0.3)


@pytest.mark.usefixtures("short_tick")
def test_nothing_due_is_a_tick_that_says_so(engine: sa.Engine, no_runs: dg.DagsterInstance) -> None:
    add(engine, "noop", delay=HOUR)
    add_cron(engine, next_run_at="2099-01-01T00:00:00Z")

    assert skipped(no_runs) == "Nothing is due"


@pytest.mark.usefixtures("short_tick")
def test_a_paused_queue_asks_for_nothing(engine: sa.Engine, no_runs: dg.DagsterInstance) -> None:
    add(engine, "noop")
    add(engine, "heavy", own_run=True)
    change(engine, "SELECT flatearth.pause_jobs()")

    assert skipped(no_runs) == "Nothing is due"


@pytest.mark.usefixtures("short_tick")
def test_a_drain_at_work_is_left_to_do_what_is_due(
    engine: sa.Engine, database: str, no_runs: dg.DagsterInstance
) -> None:
    first, second = add(engine, "wait"), add(engine, "wait")

    with draining(database, [workers.handler(workers.wait)], concurrency=1):
        workers.until(lambda: states(engine)[first] == "running")
        assert skipped(no_runs) == "A run is at work on what is due"
        assert fallback(no_runs).skip_message == "A run is at work"
        assert states(engine) == {first: "running", second: "pending"}


@pytest.mark.usefixtures("short_tick")
def test_a_heavy_job_at_work_keeps_no_light_one_waiting(
    engine: sa.Engine, database: str, no_runs: dg.DagsterInstance
) -> None:
    """A heavy one may take an hour."""
    heavy = add(engine, "wait", own_run=True)

    with draining(database, [workers.handler(workers.wait, own_run=True)], own_run=True):
        workers.until(lambda: states(engine)[heavy] == "running")
        add(engine, "noop")
        assert requested(no_runs) == ["run_due_jobs"]
        assert fallback(no_runs).run_requests


def test_a_drain_without_a_sign_of_life_is_not_waited_for(engine: sa.Engine, no_runs: dg.DagsterInstance) -> None:
    """It was killed; its lease runs out much later."""
    with engine.begin() as connection:
        open_lease(connection)
        connection.execute(
            sa.text("UPDATE flatearth.job_leases SET renewed_at = clock_timestamp() - interval '1 minute'")
        )
    add(engine, "noop")

    assert requested(no_runs) == ["run_due_jobs"]


@pytest.mark.usefixtures("short_tick")
def test_a_run_that_is_on_its_way_is_not_asked_for_again(engine: sa.Engine, subtests: pytest.Subtests) -> None:
    add(engine, "noop")

    for status in ("NOT_STARTED", "STARTING", "STARTED"):
        with subtests.test(status), dg.DagsterInstance.ephemeral() as instance:
            a_run(instance, "run_due_jobs", status)
            assert skipped(instance) == "A run is on its way"


def test_a_run_that_has_ended_keeps_none_from_being_asked_for(engine: sa.Engine, no_runs: dg.DagsterInstance) -> None:
    add(engine, "noop")
    for status in ("SUCCESS", "FAILURE", "CANCELED"):
        a_run(no_runs, "run_due_jobs", status)

    assert requested(no_runs) == ["run_due_jobs"]


@pytest.mark.usefixtures("short_tick")
def test_at_most_two_heavy_runs_are_asked_for_at_once(engine: sa.Engine, no_runs: dg.DagsterInstance) -> None:
    add(engine, "heavy", own_run=True)

    a_run(no_runs, "run_heavy_job", "STARTED")
    assert requested(no_runs) == ["run_heavy_job"]
    a_run(no_runs, "run_heavy_job", "STARTING")
    assert requested(no_runs) == []


def test_a_database_that_is_not_there_is_a_tick_skipped_in_one_line(
    monkeypatch: pytest.MonkeyPatch, no_runs: dg.DagsterInstance
) -> None:
    monkeypatch.setenv("FLATEARTH_DATABASE_URL", "postgresql://me:s3cret@127.0.0.1:1/none")

    line = skipped(no_runs)

    assert line.startswith("Postgres cannot be reached: ")
    assert "s3cret" not in line
    assert "\n" not in line


@pytest.mark.usefixtures("empty_database")
def test_a_database_that_is_not_migrated_is_a_tick_skipped_in_one_line_of_the_sensor_and_of_the_schedule(
    no_runs: dg.DagsterInstance,
) -> None:
    assert skipped(no_runs) == NOT_MIGRATED
    assert fallback(no_runs).skip_message == NOT_MIGRATED


# The schedules


@pytest.mark.usefixtures("database")
def test_the_fallback_starts_an_ordinary_drain_also_when_nothing_is_due(no_runs: dg.DagsterInstance) -> None:
    """It rescues, and gives a next run to cron jobs that were written by SQL."""
    (request,) = fallback(no_runs).run_requests or []

    assert request.run_config == {}


def tick(instance: dg.DagsterInstance) -> SensorExecutionData:
    """One evaluation of the sensor, as the daemon does it."""
    context = dg.build_sensor_context(instance=instance, repository_def=defs.get_repository_def())
    return queue.run_due_jobs_when_due.evaluate_tick(context)


def requested(instance: dg.DagsterInstance) -> list[str]:
    """The jobs that the sensor asks for."""
    return [str(request.job_name) for request in tick(instance).run_requests or []]


def skipped(instance: dg.DagsterInstance) -> str:
    """Why the sensor asks for nothing."""
    data = tick(instance)
    assert data.run_requests == []
    assert data.skip_message is not None
    return data.skip_message


def fallback(instance: dg.DagsterInstance) -> ScheduleExecutionData:
    """One evaluation of the schedule, as the daemon does it."""
    schedule = defs.resolve_schedule_def("run_due_jobs_every_5_minutes")
    context = dg.build_schedule_context(instance=instance, repository_def=defs.get_repository_def())
    return schedule.evaluate_tick(context)


def a_run(instance: dg.DagsterInstance, job_name: str, status: str) -> None:
    instance.create_run_for_job(defs.resolve_job_def(job_name), status=dg.DagsterRunStatus(status))


def add_cron(engine: sa.Engine, next_run_at: str = "2026-01-01T00:00:00Z") -> None:
    """Hourly; it has been due for a while."""
    change(
        engine,
        "INSERT INTO flatearth.cron_jobs (name, pattern, handler, next_run_at)"
        " VALUES ('every hour', '0 * * * *', 'noop', :at)",
        at=next_run_at,
    )


@contextlib.contextmanager
def lock_of_the_job(conninfo: str, application: str) -> Generator[None]:
    with psycopg.connect(conninfo, application_name=application, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(hashtextextended('flatearth.run_due_jobs', 0))")
        yield
