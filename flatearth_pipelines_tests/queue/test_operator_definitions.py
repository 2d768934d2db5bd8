"""The queue's Dagster jobs for operators on a real database, with the resources of production."""

from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa

from flatearth_pipelines.definitions import defs
from flatearth_pipelines.queue.operator_definitions import RetentionConfig
from flatearth_pipelines_tests.queue import workers
from flatearth_pipelines_tests.queue.conftest import UNKNOWN, dead_job, enqueue, finished_job
from flatearth_pipelines_tests.queue.runs import HOUR, REGISTRY, failed, succeeded
from flatearth_pipelines_tests.queue.workers import add, change, draining, job, scalar, states

NO_TIMES = (-0.001, 1e300, float("inf"), float("nan"))


def test_history_is_dropped_every_night_by_the_defaults() -> None:
    schedule = defs.resolve_schedule_def("delete_finished_jobs_daily")

    assert (schedule.job_name, schedule.cron_schedule) == ("delete_finished_jobs", "40 3 * * *")
    assert RetentionConfig().model_dump() == {"keep_finished_days": 7, "keep_failed_days": 30}


# Jobs for people who live in the UI: retry


def test_failed_jobs_are_retried_by_their_ids(engine: sa.Engine, instance: dg.DagsterInstance) -> None:
    with engine.begin() as connection:
        first, second = dead_job(connection), dead_job(connection)

    assert succeeded(instance, "retry_jobs", ids=[first]) == {"retried": 1, "job_ids": [first], "dry_run": False}
    assert states(engine) == {first: "pending", second: "failed"}
    assert job(engine, first)["attempts"] == 0


def test_failed_jobs_of_a_handler_are_retried_the_newest_first_up_to_the_limit(
    engine: sa.Engine, instance: dg.DagsterInstance
) -> None:
    with engine.begin() as connection:
        old, middle, new = (dead_job(connection) for _ in range(3))
        other = dead_job(connection, "greet")

    metadata = succeeded(instance, "retry_jobs", handler="noop", limit=2)

    assert metadata == {"retried": 2, "job_ids": [new, middle], "dry_run": False}
    assert states(engine) == {old: "failed", middle: "pending", new: "pending", other: "failed"}


def test_retrying_a_handler_leaves_succeeded_and_cancelled_jobs_alone(
    engine: sa.Engine, instance: dg.DagsterInstance
) -> None:
    with engine.begin() as connection:
        cancelled = enqueue(connection)
        connection.execute(sa.text("SELECT flatearth.cancel_job(:id)"), {"id": cancelled})
        done = finished_job(connection)

    assert succeeded(instance, "retry_jobs", handler="noop")["retried"] == 0
    assert states(engine) == {cancelled: "cancelled", done: "succeeded"}


def test_of_failed_jobs_with_one_key_the_newest_is_retried_and_the_others_do_not_fail_the_run(
    engine: sa.Engine, instance: dg.DagsterInstance
) -> None:
    with engine.begin() as connection:
        old, new = (dead_job(connection, job_key="card 1") for _ in range(2))
        other = dead_job(connection)

    assert succeeded(instance, "retry_jobs", handler="noop")["retried"] == 2
    assert states(engine) == {old: "failed", new: "pending", other: "pending"}


def test_an_id_that_cannot_be_retried_fails_in_one_line_and_changes_nothing(
    engine: sa.Engine, instance: dg.DagsterInstance
) -> None:
    with engine.begin() as connection:
        dead, done = dead_job(connection), finished_job(connection)

    assert failed(instance, "retry_jobs", ids=[dead, UNKNOWN]) == f"there is no job {UNKNOWN}"
    assert failed(instance, "retry_jobs", ids=[dead, done]) == (
        f"job {done} is succeeded: failed and cancelled jobs can be retried"
    )
    assert states(engine) == {dead: "failed", done: "succeeded"}


# Cancel


def test_unfinished_jobs_are_cancelled_by_their_ids_and_ended_ones_are_not_counted(
    engine: sa.Engine, instance: dg.DagsterInstance
) -> None:
    with engine.begin() as connection:
        done = finished_job(connection)
        first, second = enqueue(connection), enqueue(connection)

    metadata = succeeded(instance, "cancel_jobs", ids=[first, done])

    assert metadata == {"cancelled": 1, "job_ids": [first], "dry_run": False}
    assert states(engine) == {done: "succeeded", first: "cancelled", second: "pending"}


def test_unfinished_jobs_of_a_handler_are_cancelled_and_running_ones_told_to_stop(
    engine: sa.Engine, database: str, instance: dg.DagsterInstance
) -> None:
    running = add(engine, "wait")
    with draining(database, [workers.handler(workers.wait)], concurrency=1):
        workers.until(lambda: states(engine)[running] == "running")
        waiting, other = add(engine, "wait"), add(engine, "noop", delay=HOUR)

        metadata = succeeded(instance, "cancel_jobs", handler="wait")

        assert metadata == {"cancelled": 2, "job_ids": [waiting, running], "dry_run": False}
        workers.until(lambda: states(engine)[running] == "cancelled")
        assert states(engine) == {running: "cancelled", waiting: "cancelled", other: "pending"}


def test_cancelling_an_id_that_is_not_there_fails_in_one_line_and_changes_nothing(
    engine: sa.Engine, instance: dg.DagsterInstance
) -> None:
    job_id = add(engine, "noop")

    assert failed(instance, "cancel_jobs", ids=[job_id, UNKNOWN]) == f"there is no job {UNKNOWN}"
    assert states(engine) == {job_id: "pending"}


# Which jobs


WORDS = {"retry_jobs": "retried", "cancel_jobs": "cancelled"}


def test_which_jobs_are_meant_has_to_be_said_in_one_way(
    engine: sa.Engine, instance: dg.DagsterInstance, subtests: pytest.Subtests
) -> None:
    with engine.begin() as connection:
        ids = [dead_job(connection), enqueue(connection)]
    before = states(engine)

    for job_name in WORDS:
        assert failed(instance, job_name) == "Name the jobs: ids or a handler"
        assert failed(instance, job_name, ids=ids, handler="noop") == "Name jobs by ids or by handler, not both"
        for limit in (0, -1):
            with subtests.test(job_name, limit=limit):
                assert failed(instance, job_name, ids=ids, limit=limit) == f"limit is {limit}: it takes 1 or more"
    assert states(engine) == before


@pytest.mark.parametrize("job_name", ["retry_jobs", "cancel_jobs"])
def test_a_dry_run_changes_nothing_and_reports_the_same_numbers(
    engine: sa.Engine, instance: dg.DagsterInstance, job_name: str, subtests: pytest.Subtests
) -> None:
    with engine.begin() as connection:
        dead, waiting, cancelled = dead_job(connection), enqueue(connection), enqueue(connection)
        connection.execute(sa.text("SELECT flatearth.cancel_job(:id)"), {"id": cancelled})
    before = states(engine)
    ids = [dead, cancelled] if job_name == "retry_jobs" else [dead, waiting, cancelled]
    numbers: list[dict[str, Any]] = []
    ways: list[dict[str, Any]] = [{"handler": "noop"}, {"ids": ids}]
    for meant in ways:
        numbers.append(succeeded(instance, job_name, dry_run=True, **meant))
        assert numbers[-1]["dry_run"] is True
        assert states(engine) == before

    with subtests.test("by ids"):
        assert numbers[1] | {"dry_run": False} == succeeded(instance, job_name, ids=ids)
    change(engine, "DELETE FROM flatearth.live_jobs")
    with engine.begin() as connection:
        dead_job(connection), enqueue(connection)
    with subtests.test("by handler"):
        assert numbers[0][WORDS[job_name]] == succeeded(instance, job_name, handler="noop")[WORDS[job_name]] == 1


@pytest.mark.usefixtures("database")
def test_a_dry_run_refuses_what_the_run_would_refuse(instance: dg.DagsterInstance, subtests: pytest.Subtests) -> None:
    for job_name in WORDS:
        with subtests.test(job_name):
            assert failed(instance, job_name, ids=[UNKNOWN], dry_run=True) == f"there is no job {UNKNOWN}"


# Pause and resume


def test_the_whole_queue_is_paused_and_resumed_by_default(engine: sa.Engine, instance: dg.DagsterInstance) -> None:
    job_id = add(engine, "noop")

    assert succeeded(instance, "pause_jobs") == {"changed": True, "paused": ["*"]}
    assert succeeded(instance, "pause_jobs") == {"changed": False, "paused": ["*"]}
    assert succeeded(instance, handlers=REGISTRY)["claimed"] == 0
    assert states(engine) == {job_id: "pending"}
    assert succeeded(instance, "resume_jobs") == {"changed": True, "paused": []}
    assert succeeded(instance, "resume_jobs") == {"changed": False, "paused": []}
    assert succeeded(instance, handlers=REGISTRY)["succeeded"] == 1


@pytest.mark.parametrize("handler", ["nop", ""])
def test_a_handler_that_is_not_there_is_not_paused(
    engine: sa.Engine, instance: dg.DagsterInstance, handler: str
) -> None:
    assert failed(instance, "pause_jobs", handler=handler).startswith(f"There is no handler {handler!r}: there are ")
    assert scalar(engine, "SELECT count(*) FROM flatearth.job_pauses") == 0


def test_one_handler_is_paused_and_resumed(engine: sa.Engine, instance: dg.DagsterInstance) -> None:
    paused, other = add(engine, "noop"), add(engine, "refuse")

    assert succeeded(instance, "pause_jobs", REGISTRY, handler="noop") == {"changed": True, "paused": ["noop"]}
    assert succeeded(instance, handlers=REGISTRY)["claimed"] == 1
    assert states(engine) == {paused: "pending", other: "failed"}
    assert succeeded(instance, "resume_jobs", handler="noop") == {"changed": True, "paused": []}
    assert succeeded(instance, handlers=REGISTRY)["succeeded"] == 1


@pytest.mark.usefixtures("database")

# Clean-up


def test_whole_days_of_history_are_dropped_succeeded_jobs_sooner_than_failed_ones(
    engine: sa.Engine, instance: dg.DagsterInstance
) -> None:
    with engine.begin() as connection:
        recent = [finished_job(connection), dead_job(connection)]
        for table in ("finished_jobs", "dead_jobs"):
            a_day_of_history(connection, table, days_ago=20)

    metadata = succeeded(instance, "delete_finished_jobs")

    (day,) = metadata["dropped"]
    assert day.startswith("finished_jobs_")
    assert (metadata["days_dropped"], metadata["days_made"]) == (1, 0)
    assert succeeded(instance, "delete_finished_jobs", keep_failed_days=18)["days_dropped"] == 1
    assert succeeded(instance, "delete_finished_jobs", keep_failed_days=18)["dropped"] == []
    assert sorted(states(engine)) == recent


def test_the_days_to_come_are_made(engine: sa.Engine, instance: dg.DagsterInstance) -> None:
    change(engine, "SELECT flatearth.drop_job_partitions()")
    change(engine, tomorrow("DROP TABLE flatearth.finished_jobs_{}", engine))

    assert succeeded(instance, "delete_finished_jobs")["days_made"] == 1
    assert succeeded(instance, "delete_finished_jobs")["days_made"] == 0


def test_a_retention_that_is_no_time_fails_in_one_line_and_drops_nothing(
    engine: sa.Engine, instance: dg.DagsterInstance, subtests: pytest.Subtests
) -> None:
    with engine.begin() as connection:
        for table in ("finished_jobs", "dead_jobs"):
            a_day_of_history(connection, table, days_ago=60)
    before = scalar(engine, "SELECT count(*) FROM pg_inherits")

    for name in ("keep_finished_days", "keep_failed_days"):
        for days in NO_TIMES:
            with subtests.test(name=name, days=days):
                config: dict[str, Any] = {name: days}
                failed(instance, "delete_finished_jobs", **config)
                assert scalar(engine, "SELECT count(*) FROM pg_inherits") == before


def a_day_of_history(connection: sa.Connection, table: str, days_ago: int) -> None:
    """A partition of that day, empty."""
    connection.execute(
        sa.text(f"""
            DO $$
            DECLARE
                day date := (clock_timestamp() AT TIME ZONE 'UTC')::date - {days_ago};
            BEGIN
                EXECUTE format(
                    'CREATE TABLE flatearth.{table}_%s PARTITION OF flatearth.{table} FOR VALUES FROM (%L) TO (%L)',
                    to_char(day, 'YYYYMMDD'), day || ' 00:00+00', day + 1 || ' 00:00+00'
                );
            END
            $$
        """)
    )


def tomorrow(statement: str, engine: sa.Engine) -> str:
    day = scalar(engine, "SELECT to_char((clock_timestamp() AT TIME ZONE 'UTC')::date + 1, 'YYYYMMDD')")
    return statement.format(day)
