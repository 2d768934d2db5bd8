"""Workers that are killed, and servers that go away: nothing is lost, nothing is done twice that must not be."""

import signal
import time
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from flatearth_pipelines import database as db
from flatearth_pipelines import migrate
from flatearth_pipelines.embedded import EmbeddedServer
from flatearth_pipelines.errors import DatabaseUnavailable
from flatearth_pipelines.queue.handlers import Context, NoPayload
from flatearth_pipelines_tests.queue.workers import (
    DEADLINE,
    REGISTRY,
    add,
    change,
    drained,
    expire_leases,
    handler,
    job,
    kill_at,
    names,
    new_drain,
    process,
    scalar,
    start,
    states,
    until,
    until_gone,
)

JOB_SLOTS = "pg_advisory_xact_lock(hashtextextended('flatearth.concurrency_keys', 0))"


def blocked(engine: sa.Engine) -> bool:
    """Whether a drain waits for a lock that the test holds."""
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name LIKE 'drain of a test%' AND wait_event_type = 'Lock'"
    )
    return bool(scalar(engine, query))


def kill_while_blocked(engine: sa.Engine, lock: str, *, its_server_ends: bool) -> None:
    """`kill -9` a drain that waits for the lock; its sessions end too, or finish what they were told to do."""
    with engine.connect() as somebody, process() as worker:
        somebody.execute(sa.text(f"SELECT {lock}"))
        until(lambda: blocked(engine))
        worker.kill()
        assert worker.wait(DEADLINE) == -signal.SIGKILL
        if its_server_ends:
            change(
                engine,
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name LIKE 'drain of a test%'",
            )
        somebody.rollback()
    until_gone(engine)
    expire_leases(engine)


@pytest.mark.parametrize(
    ("step", "times_begun", "attempts"),
    [
        ("after the claim", 1, 2),
        ("in the handler", 2, 2),
        ("before completion", 2, 2),
        ("after the commit", 1, 1),
    ],
)
def test_a_transactional_job_whose_worker_is_killed_is_done_exactly_once(
    engine: sa.Engine, database: str, step: str, times_begun: int, attempts: int
) -> None:
    job_id = add(engine, "write")

    kill_at(engine, step)
    drained(database, REGISTRY)

    assert names(engine).count("written") == 1
    assert names(engine).count(f"began {job_id}") == times_begun
    assert job(engine, job_id)["state"] == "succeeded"
    assert job(engine, job_id)["attempts"] == attempts


@pytest.mark.parametrize(("its_server_ends", "attempts"), [(True, 1), (False, 2)])
def test_a_worker_killed_while_it_claims_has_claimed_or_not_and_the_job_is_done_exactly_once(
    engine: sa.Engine, database: str, attempts: int, *, its_server_ends: bool
) -> None:
    job_id = add(engine, "write", concurrency_key="one")

    kill_while_blocked(engine, JOB_SLOTS, its_server_ends=its_server_ends)
    drained(database, REGISTRY)

    assert names(engine).count("written") == 1
    assert names(engine).count(f"began {job_id}") == 1
    assert (job(engine, job_id)["state"], job(engine, job_id)["attempts"]) == ("succeeded", attempts)


@pytest.mark.parametrize(("its_server_ends", "attempts"), [(True, 2), (False, 1)])
def test_a_worker_killed_while_it_commits_has_committed_or_not_and_the_job_is_done_exactly_once(
    engine: sa.Engine, database: str, attempts: int, *, its_server_ends: bool
) -> None:
    change(
        engine,
        "CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NULL; END'",
    )
    change(
        engine,
        "CREATE CONSTRAINT TRIGGER gate AFTER INSERT ON flatearth.accounts DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW WHEN (new.name = 'written') EXECUTE FUNCTION gate()",
    )
    job_id = add(engine, "write")

    kill_while_blocked(engine, "pg_advisory_xact_lock(7)", its_server_ends=its_server_ends)
    drained(database, REGISTRY)

    assert names(engine).count("written") == 1
    assert (job(engine, job_id)["state"], job(engine, job_id)["attempts"]) == ("succeeded", attempts)


@pytest.mark.parametrize("name", ["call", "call_async"])
@pytest.mark.parametrize("step", ["in the handler", "before completion"])
def test_an_at_least_once_job_whose_worker_is_killed_runs_again_after_its_lease(
    engine: sa.Engine, database: str, name: str, step: str
) -> None:
    job_id = add(engine, name)

    kill_at(engine, step)
    assert job(engine, job_id)["state"] == "running"
    drained(database, REGISTRY)

    assert names(engine).count(f"began {job_id}") == 2
    assert (job(engine, job_id)["state"], job(engine, job_id)["attempts"]) == ("succeeded", 2)


def test_a_killed_workers_jobs_wait_for_the_end_of_its_lease_and_not_longer(engine: sa.Engine, database: str) -> None:
    job_id = add(engine, "call")
    with process(hang="in the handler", lease=1.5) as worker:
        until(lambda: "at: in the handler" in names(engine))
        worker.kill()
        worker.wait(DEADLINE)

    drained(database, REGISTRY)
    assert job(engine, job_id)["state"] == "running"

    report = drained(database, REGISTRY, stay=4)
    assert report.rescued == 1
    assert (job(engine, job_id)["state"], job(engine, job_id)["attempts"]) == ("succeeded", 2)


@pytest.mark.parametrize(("step", "begun"), [("after the claim", 0), ("in the handler", 1), ("before completion", 1)])
def test_an_at_most_once_job_whose_worker_is_killed_never_runs_a_second_time_and_is_dead(
    engine: sa.Engine, database: str, step: str, begun: int
) -> None:
    job_id = add(engine, "call_once", max_attempts=25)

    kill_at(engine, step)
    report = drained(database, REGISTRY)

    assert names(engine).count(f"began {job_id}") == begun
    assert job(engine, job_id)["state"] == "failed"
    assert job(engine, job_id)["last_error"] == "The worker was lost, and this handler runs at most once"
    assert (report.claimed, report.rescued) == (0, 1)


def test_a_job_that_was_cancelled_before_its_worker_was_killed_is_cancelled_and_does_not_run_again(
    engine: sa.Engine, database: str
) -> None:
    job_id = add(engine, "call")

    kill_at(engine, "in the handler")
    change(engine, "SELECT flatearth.cancel_job(:id, 'not needed')", id=job_id)
    drained(database, REGISTRY)

    assert names(engine).count(f"began {job_id}") == 1
    assert (job(engine, job_id)["state"], job(engine, job_id)["last_error"]) == ("cancelled", "not needed")


def test_a_job_that_kills_its_worker_each_time_ends_dead_and_takes_no_innocent_job_with_it(
    engine: sa.Engine, database: str
) -> None:
    """Innocent jobs may be lost with it once; from then on each of them, and the killer, runs alone."""
    assert database  # the environment's, and so the processes'
    innocent = [add(engine, "call") for _ in range(4)]
    killer = add(engine, "kill")
    later = [add(engine, "call") for _ in range(4)]
    workers = 0
    while set(states(engine).values()) & {"pending", "running"}:
        workers += 1
        assert workers < 8
        with process() as worker:
            worker.communicate(timeout=DEADLINE)
        until_gone(engine)
        expire_leases(engine)

    assert job(engine, killer)["state"] == "failed"
    assert job(engine, killer)["attempts"] == names(engine).count(f"began {killer}") == 3
    assert job(engine, killer)["last_error"] == "The worker was lost in attempt 3 of 3"
    for job_id in (*innocent, *later):
        assert job(engine, job_id)["state"] == "succeeded"
        assert job(engine, job_id)["attempts"] <= 2
    assert scalar(engine, "SELECT count(*) FROM flatearth.job_leases") == 0


def unable(_context: Context, _payload: NoPayload) -> None:
    raise ValueError("it broke")


def test_a_rescued_job_has_lost_a_worker_and_a_failed_one_has_not(engine: sa.Engine, database: str) -> None:
    later = {"backoff": {"kind": "fixed", "seconds": 600}}
    lost = add(engine, "call", **later)
    kill_at(engine, "in the handler")
    failed = add(engine, "unable", priority=1, **later)

    drained(database, [*REGISTRY.handlers.values(), handler(unable)])

    with engine.connect() as connection:
        rows = connection.execute(sa.text("SELECT id, lost_workers FROM flatearth.live_jobs")).all()
    assert dict(tuple(row) for row in rows) == {lost: 1, failed: 0}


def test_a_keyed_job_whose_worker_is_killed_frees_its_key(engine: sa.Engine, database: str) -> None:
    first, second = (add(engine, "call", concurrency_key="one") for _ in range(2))

    kill_at(engine, "in the handler")
    drained(database, REGISTRY)

    assert states(engine) == {first: "succeeded", second: "succeeded"}
    assert scalar(engine, "SELECT count(*) FROM flatearth.live_jobs WHERE lease_id IS NOT NULL") == 0


def test_postgres_restarted_in_mid_drain_ends_it_with_a_clear_error_and_the_next_drain_does_the_rest(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server = EmbeddedServer(tmp_path / "server")
    server.start()
    engine = db.engine(server.connection_string(), "tests")
    try:
        monkeypatch.setenv("FLATEARTH_DATABASE_URL", server.tcp_url())
        with db.connect(server.connection_string(), "tests") as connection:
            migrate.migrate(connection)
        running, waiting = add(engine, "wait"), add(engine, "write", delay="2 s")
        ended = start(new_drain(server.connection_string(), REGISTRY))
        until(lambda: f"began {running}" in names(engine))
        engine.dispose()
        server.stop()
        server.start()

        error = ended.exception(DEADLINE)
        assert isinstance(error, psycopg.OperationalError | DatabaseUnavailable)
        assert job(engine, running)["state"] == "running"

        expire_leases(engine)
        change(engine, "SELECT flatearth.cancel_job(:id)", id=running)
        until(lambda: scalar(engine, "SELECT count(*) FROM flatearth.live_jobs WHERE run_at > clock_timestamp()") == 0)
        drained(server.connection_string(), REGISTRY)
        assert states(engine) == {running: "cancelled", waiting: "succeeded"}
    finally:
        engine.dispose()
        server.stop()


def test_a_drain_without_a_database_says_so_in_one_line_without_the_password() -> None:
    drain = new_drain("postgresql://me:s3cret@127.0.0.1:1/none", REGISTRY)
    began = time.monotonic()

    with pytest.raises(DatabaseUnavailable, match=r"^Postgres cannot be reached: ") as error:
        drain.run()

    assert "s3cret" not in str(error.value)
    assert "\n" not in str(error.value)
    assert time.monotonic() - began < 15
