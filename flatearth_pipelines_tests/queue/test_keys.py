"""`job_key`: at most one unfinished job has it, whoever enqueues, and the caller chooses what a second one means."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from flatearth_pipelines import database as db
from flatearth_pipelines.queue.functions import cancel_job, delete_job, retry_job
from flatearth_pipelines.queue.storage import read_job
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.factories import DAY, NOON
from flatearth_pipelines_tests.queue.conftest import (
    MINUTE,
    claim,
    dead_job,
    enqueue,
    fail,
    finish,
    finished_job,
    in_background,
    open_lease,
    wait_until_blocked,
)

RULES = pytest.mark.parametrize("on_conflict", ["keep", "replace", "supersede"])


def running_job(connection: sa.Connection, **options: Any) -> tuple[int, int]:
    """A job that a drain is working on, and its lease."""
    job_id, lease_id = enqueue(connection, **options), open_lease(connection)
    assert claim(connection, lease_id) == [job_id]
    return job_id, lease_id


def unfinished(connection: sa.Connection, key: str = "k") -> list[int]:
    query = "SELECT id FROM flatearth.live_jobs WHERE job_key = :key ORDER BY id"
    return list(connection.execute(sa.text(query), {"key": key}).scalars())


def stop_requests(connection: sa.Connection) -> dict[int, str]:
    rows = connection.execute(sa.text("SELECT job_id, reason FROM flatearth.job_stop_requests"))
    return {job_id: reason for job_id, reason in rows}  # noqa: C416 - a row is no pair to mypy


def sweep(connection: sa.Connection) -> int:
    woken: int = connection.execute(sa.text("SELECT flatearth.sweep_jobs()")).scalar_one()
    return woken


# ------------------------------------------------------------------------------------------ one that waits has it


def test_keep_returns_the_job_that_waits_and_leaves_it_as_it_is(connection: sa.Connection) -> None:
    first = enqueue(connection, "greet", {"name": "Ada"}, job_key="k", run_at=NOON, priority=1)
    before = read_job(connection, first)
    assert enqueue(connection, "greet", {"name": "Eve"}, job_key="k", priority=9) == first
    assert read_job(connection, first) == before
    assert unfinished(connection) == [first]


def test_replace_gives_the_job_that_waits_new_values_under_its_id(connection: sa.Connection) -> None:
    first = enqueue(connection, "greet", {"name": "Ada"}, job_key="k", max_attempts=3)
    changes: dict[str, Any] = {
        "run_at": NOON + 365 * DAY,
        "priority": 9,
        "max_attempts": 2,
        "backoff": {"kind": "fixed", "seconds": 1},
    }
    options = {"timeout": timedelta(seconds=7), "on_conflict": "replace", "job_key": "k"}
    assert enqueue(connection, "greet", {"name": "Eve"}, **options | changes) == first
    after = read_job(connection, first)
    assert after.items() >= (changes | {"payload": {"name": "Eve"}, "timeout_ms": 7000, "state": "pending"}).items()

    assert enqueue(connection, "greet", {"name": "Joe"}, job_key="k", on_conflict="replace") == first
    again = read_job(connection, first)
    defaults = {"priority": 0, "max_attempts": None, "backoff": None, "timeout_ms": None, "run_at": after["created_at"]}
    assert again.items() >= defaults.items()
    assert unfinished(connection) == [first]


def test_replace_moves_the_job_to_the_handler_and_concurrency_key_that_it_is_given(connection: sa.Connection) -> None:
    """A payload that belongs to one handler must not reach another."""
    first = enqueue(connection, "greet", {"name": "Ada"}, job_key="k", concurrency_key="old")
    options = {"job_key": "k", "on_conflict": "replace", "concurrency_key": "new", "own_run": True}
    replaced = enqueue(connection, "noop", **options)
    assert unfinished(connection) == [replaced]
    job = read_job(connection, replaced)
    assert (job["handler"], job["payload"], job["concurrency_key"]) == ("noop", {}, "new")
    assert claim(connection, open_lease(connection), own_run=True) == [replaced]
    assert first  # whether it keeps its id is not said


def test_replace_counts_the_attempts_of_a_job_that_failed_before_anew(connection: sa.Connection) -> None:
    job_id, lease_id = running_job(connection, job_key="k")
    fail(connection, lease_id, [job_id], "boom", retry_in=MINUTE)
    assert enqueue(connection, job_key="k", on_conflict="replace") == job_id
    assert read_job(connection, job_id).items() >= {"attempts": 0, "last_error": None}.items()
    assert claim(connection, open_lease(connection)) == [job_id]


def test_supersede_cancels_the_job_that_waits_and_enqueues_another(connection: sa.Connection) -> None:
    first = enqueue(connection, payload={"n": 1}, job_key="k")
    second = enqueue(connection, payload={"n": 2}, job_key="k", on_conflict="supersede")
    assert second != first
    old = read_job(connection, first)
    assert (old["state"], old["last_error"], old["payload"]) == ("cancelled", "superseded", {"n": 1})
    assert claim(connection, open_lease(connection)) == [second]


def test_of_many_that_supersede_each_other_the_last_one_waits(connection: sa.Connection) -> None:
    ids = [enqueue(connection, job_key="k", on_conflict="supersede") for _ in range(10)]
    assert len(set(ids)) == 10
    assert unfinished(connection) == ids[-1:]


@RULES
def test_other_keys_and_no_key_are_no_conflict(connection: sa.Connection, on_conflict: str) -> None:
    keys = ["k", "K", "k ", None, None]
    ids = [enqueue(connection, job_key=key, on_conflict=on_conflict) for key in keys]
    assert len(set(ids)) == 5
    assert sorted(claim(connection, open_lease(connection))) == ids


# ---------------------------------------------------------------------------------------------- one that runs has it


def test_keep_returns_the_job_that_runs(connection: sa.Connection) -> None:
    job_id, _ = running_job(connection, job_key="k")
    assert enqueue(connection, job_key="k") == job_id
    assert unfinished(connection) == [job_id]
    assert stop_requests(connection) == {}


def test_replace_leaves_the_job_that_runs_alone_and_the_new_one_waits_for_its_end(connection: sa.Connection) -> None:
    first, lease_id = running_job(connection, payload={"n": 1}, job_key="k")
    second = enqueue(connection, payload={"n": 2}, job_key="k", on_conflict="replace")
    assert second != first
    assert stop_requests(connection) == {}
    other_lease = open_lease(connection)
    assert (sweep(connection), claim(connection, other_lease)) == (0, [])
    assert read_job(connection, second)["parked"] == "wait"

    assert finish(connection, lease_id, [first]) == 1
    assert read_job(connection, first)["payload"] == {"n": 1}
    assert (sweep(connection), claim(connection, other_lease)) == (1, [second])


def test_replace_of_a_job_that_runs_waits_for_its_retries_too(connection: sa.Connection) -> None:
    first, lease_id = running_job(connection, job_key="k")
    second = enqueue(connection, job_key="k", on_conflict="replace")
    fail(connection, lease_id, [first], retry_in=timedelta(0))
    assert (sweep(connection), claim(connection, lease_id)) == (0, [first])
    fail(connection, lease_id, [first])
    assert (sweep(connection), claim(connection, lease_id)) == (1, [second])


def test_a_second_replace_changes_the_job_that_waits_for_the_running_one(connection: sa.Connection) -> None:
    first, lease_id = running_job(connection, job_key="k")
    second = enqueue(connection, payload={"n": 2}, job_key="k", on_conflict="replace")
    assert enqueue(connection, payload={"n": 3}, job_key="k", on_conflict="replace") == second
    assert claim(connection, lease_id) == []
    finish(connection, lease_id, [first])
    sweep(connection)
    assert claim(connection, lease_id) == [second]
    assert read_job(connection, second)["payload"] == {"n": 3}


def test_supersede_tells_the_job_that_runs_to_stop_and_enqueues_another(connection: sa.Connection) -> None:
    first, _ = running_job(connection, job_key="k")
    second = enqueue(connection, job_key="k", on_conflict="supersede")
    third = enqueue(connection, job_key="k", on_conflict="supersede")
    assert stop_requests(connection) == {first: "superseded"}
    assert read_job(connection, first)["state"] == "running"
    assert read_job(connection, second)["state"] == "cancelled"
    assert claim(connection, open_lease(connection)) == [third]


def test_keep_after_supersede_returns_the_newest_while_the_old_one_still_runs(connection: sa.Connection) -> None:
    running_job(connection, job_key="k")
    second = enqueue(connection, job_key="k", on_conflict="supersede")
    assert enqueue(connection, job_key="k") == second


def test_supersede_after_replace_tells_the_job_that_still_runs_to_stop(connection: sa.Connection) -> None:
    """Else it would run on beside the newest, unaware."""
    first, _ = running_job(connection, job_key="k")
    second = enqueue(connection, job_key="k", on_conflict="replace")
    third = enqueue(connection, job_key="k", on_conflict="supersede")
    assert read_job(connection, second)["state"] == "cancelled"
    assert read_job(connection, third)["state"] == "pending"
    assert stop_requests(connection) == {first: "superseded"}


@pytest.mark.parametrize("gone", [cancel_job, delete_job])
def test_without_the_job_that_waited_for_it_a_running_job_has_its_key_again(
    connection: sa.Connection, gone: Callable[[sa.Connection, int], object]
) -> None:
    first, _ = running_job(connection, job_key="k")
    gone(connection, enqueue(connection, job_key="k", on_conflict="replace"))
    assert enqueue(connection, job_key="k") == first
    assert unfinished(connection) == [first]


# ----------------------------------------------------------------------------------------------- nobody has it any more


@RULES
@pytest.mark.parametrize("end", ["succeeded", "failed", "cancelled", "deleted"])
def test_after_the_end_of_its_job_a_key_stands_for_a_new_one(
    connection: sa.Connection, end: str, on_conflict: str
) -> None:
    first = ended(connection, end, job_key="k")
    second = enqueue(connection, job_key="k", on_conflict=on_conflict)
    assert second != first
    assert unfinished(connection) == [second]
    assert enqueue(connection, job_key="k") == second


def ended(connection: sa.Connection, end: str, **options: Any) -> int:
    match end:
        case "succeeded":
            return finished_job(connection, **options)
        case "failed":
            return dead_job(connection, **options)
    job_id = enqueue(connection, **options)
    if end == "cancelled":
        assert cancel_job(connection, job_id)
    else:
        delete_job(connection, job_id)
    return job_id


# ------------------------------------------------------------------------------------------------------------ windows


def age(connection: sa.Connection, job_id: int, by: timedelta) -> None:
    """Let a job have ended that long ago."""
    for table in ("finished_jobs", "dead_jobs"):
        query = sa.text(f"UPDATE flatearth.{table} SET finished_at = clock_timestamp() - :by WHERE id = :id")
        connection.execute(query, {"id": job_id, "by": by})


@pytest.mark.parametrize("end", ["succeeded", "failed"])
@RULES
def test_within_its_window_a_key_refuses_and_returns_the_job_that_ran(
    connection: sa.Connection, end: str, on_conflict: str
) -> None:
    first = ended(connection, end, job_key="k")
    age(connection, first, timedelta(seconds=50))
    options = {"job_key": "k", "on_conflict": on_conflict}
    assert enqueue(connection, window_seconds=60, **options) == first
    assert unfinished(connection) == []

    age(connection, first, timedelta(seconds=60))
    second = enqueue(connection, window_seconds=60, **options)
    assert second != first
    assert unfinished(connection) == [second]


def test_the_window_is_the_caller_s_who_asks_not_the_one_s_before(connection: sa.Connection) -> None:
    first = finished_job(connection, job_key="k", window_seconds=3600)
    assert enqueue(connection, job_key="k", window_seconds=3600) == first
    assert enqueue(connection, job_key="k") != first


def test_a_window_leaves_the_rule_for_an_unfinished_job_as_it_is(connection: sa.Connection) -> None:
    options: dict[str, Any] = {"job_key": "k", "window_seconds": 60}
    first = enqueue(connection, **options)
    assert enqueue(connection, **options) == first
    assert enqueue(connection, payload={"n": 1}, on_conflict="replace", **options) == first
    assert read_job(connection, first)["payload"] == {"n": 1}
    assert enqueue(connection, on_conflict="supersede", **options) != first


def test_a_window_counts_from_the_end_of_the_job_not_from_when_it_was_enqueued(connection: sa.Connection) -> None:
    first = finished_job(connection, job_key="k")
    earlier = "UPDATE flatearth.{} SET {} = now() - interval '1 day'"
    connection.execute(sa.text(earlier.format("finished_jobs", "created_at")))
    connection.execute(sa.text(earlier.format("job_keys", "used_at")))
    assert enqueue(connection, job_key="k", window_seconds=60) == first


def test_a_deleted_job_is_outside_every_window(connection: sa.Connection) -> None:
    first = finished_job(connection, job_key="k")
    delete_job(connection, first)
    assert enqueue(connection, job_key="k", window_seconds=2**31 - 1) != first


# --------------------------------------------------------------------------------------------------------- retried


def test_retry_gives_a_job_its_key_back(connection: sa.Connection) -> None:
    first = dead_job(connection, job_key="k")
    second = finished_job(connection, job_key="k")
    assert retry_job(connection, first) == first != second
    assert enqueue(connection, job_key="k") == first


@pytest.mark.parametrize("state", ["pending", "running"])
@pytest.mark.parametrize("end", ["failed", "cancelled"])
def test_retry_is_refused_while_another_job_has_the_key(connection: sa.Connection, end: str, state: str) -> None:
    first = ended(connection, end, job_key="it's")
    second = enqueue(connection, job_key="it's")
    if state == "running":
        assert claim(connection, open_lease(connection)) == [second]
    said = f"job {second} has taken over the key 'it''s' of job {first}"
    with pytest.raises(DBAPIError, match=said) as refused, connection.begin_nested():
        connection.execute(sa.text("SELECT flatearth.retry_job(:id)"), {"id": first})
    assert getattr(refused.value.orig, "sqlstate", None) == "22023"
    assert read_job(connection, first)["state"] == end
    assert unfinished(connection, "it's") == [second]


# ------------------------------------------------------------------------------------------------------- two at once


@pytest.mark.parametrize("first_ends", ["commit", "rollback"])
@RULES
def test_a_second_enqueue_with_the_key_waits_for_the_first_and_then_sees_what_became_of_it(
    engine: sa.Engine, other_engine: sa.Engine, on_conflict: str, first_ends: str
) -> None:
    with engine.connect() as application:
        first = enqueue(application, payload={"n": 1}, job_key="k")
        second = in_background(
            other_engine,
            lambda connection: enqueue(connection, payload={"n": 2}, job_key="k", on_conflict=on_conflict),
        )
        wait_until_blocked(engine)
        assert not second.done()
        getattr(application, first_ends)()
        same = first_ends == "commit" and on_conflict != "supersede"
        assert (second.result(timeout=20) == first) is same
        assert unfinished(application) == [second.result()]
        kept = first_ends == "commit" and on_conflict == "keep"
        assert read_job(application, second.result())["payload"] == {"n": 1 if kept else 2}


def test_the_second_enqueue_goes_on_when_the_first_is_rolled_back_to_a_savepoint(
    engine: sa.Engine, other_engine: sa.Engine
) -> None:
    with engine.connect() as application:
        plain = enqueue(application)
        savepoint = application.begin_nested()
        first = enqueue(application, job_key="k")
        second = in_background(other_engine, lambda connection: enqueue(connection, job_key="k"))
        wait_until_blocked(engine)
        savepoint.rollback()
        assert second.result(timeout=20) not in {first, plain}


@RULES
def test_of_eight_who_enqueue_under_one_key_again_and_again_one_job_is_unfinished_at_the_end(
    database: str, on_conflict: str
) -> None:
    everybody = db.engine(database, "everybody", connections=8)
    ready = threading.Barrier(8)

    def somebody(_: int) -> list[int]:
        with everybody.connect() as mine:
            ready.wait(timeout=20)
            ids = []
            for _ in range(5):
                ids.append(enqueue(mine, job_key="k", on_conflict=on_conflict))
                mine.commit()
            return ids

    with ThreadPoolExecutor(8) as pool:
        ids = {job_id for each in pool.map(somebody, range(8)) for job_id in each}
    with everybody.connect() as connection:
        newest = connection.execute(sa.text("SELECT job_id FROM flatearth.job_keys")).scalar_one()
        assert unfinished(connection) == [newest]
        assert len(ids) == (40 if on_conflict == "supersede" else 1)
    everybody.dispose()


@pytest.mark.parametrize("what", ["replace", "supersede", "cancel", "keep"])
def test_an_application_s_open_transaction_about_a_running_job_does_not_hold_up_the_end_of_its_batch(
    engine: sa.Engine, other_engine: sa.Engine, what: str
) -> None:
    with engine.connect() as application, other_engine.connect() as drain:
        drain.execute(sa.text("SET statement_timeout = '10s'"))
        running = enqueue(drain, job_key="k")
        others = [enqueue(drain) for _ in range(20)]
        lease_id = open_lease(drain)
        assert claim(drain, lease_id) == [running, *others]
        drain.commit()

        if what == "cancel":
            assert cancel_job(application, running)
        else:
            enqueue(application, job_key="k", on_conflict=what)
        assert finish(drain, lease_id, [running, *others]) == 21
        drain.commit()
        application.commit()

        assert read_job(drain, running)["state"] == "succeeded"
        sweep(drain)
        assert stop_requests(drain) == {}
        newer = unfinished(drain)
        assert len(newer) == (what in {"replace", "supersede"})
        assert claim(drain, lease_id) == newer


def test_an_application_s_open_transaction_about_a_waiting_job_does_not_hold_up_a_claim(
    engine: sa.Engine, other_engine: sa.Engine
) -> None:
    with engine.connect() as application, other_engine.connect() as drain:
        drain.execute(sa.text("SET statement_timeout = '10s'"))
        ids = [enqueue(drain, job_key=key) for key in ("k", "cancelled", "other")]
        lease_id = open_lease(drain)
        drain.commit()

        enqueue(application, payload={"n": 1}, job_key="k", on_conflict="replace")
        cancel_job(application, ids[1])
        assert claim(drain, lease_id) == ids[2:]
        drain.commit()
        application.commit()
        assert claim(drain, lease_id) == ids[:1]
        assert read_job(drain, ids[0])["payload"] == {"n": 1}


def test_an_enqueue_beside_the_end_of_the_job_with_its_key_is_kept_or_new_and_never_lost(
    engine: sa.Engine, other_engine: sa.Engine
) -> None:
    """The end is open while the key is looked at: the job still counts as unfinished."""
    with engine.connect() as application, other_engine.connect() as drain:
        first, lease_id = running_job(drain, job_key="k")
        drain.commit()
        finish(drain, lease_id, [first])
        assert enqueue(application, job_key="k") == first
        application.commit()
        drain.commit()
        second = enqueue(application, job_key="k")
        assert second != first
        assert unfinished(application) == [second]


def test_who_replaces_a_job_while_it_is_being_claimed_gets_another_that_waits_for_it(
    engine: sa.Engine, other_engine: sa.Engine
) -> None:
    with engine.connect() as drain:
        first = enqueue(drain, job_key="k")
        lease_id = open_lease(drain)
        drain.commit()
        assert claim(drain, lease_id) == [first]
        second = in_background(other_engine, lambda connection: enqueue(connection, job_key="k", on_conflict="replace"))
        wait_until_blocked(engine)
        drain.commit()
        assert second.result(timeout=20) != first
        assert read_job(drain, second.result())["parked"] == "wait"
        finish(drain, lease_id, [first])
        sweep(drain)
        assert claim(drain, lease_id) == [second.result()]


def test_who_supersedes_a_job_while_it_is_being_claimed_tells_it_to_stop(
    engine: sa.Engine, other_engine: sa.Engine
) -> None:
    with engine.connect() as drain:
        first = enqueue(drain, job_key="k")
        lease_id = open_lease(drain)
        drain.commit()
        assert claim(drain, lease_id) == [first]
        second = in_background(
            other_engine, lambda connection: enqueue(connection, job_key="k", on_conflict="supersede")
        )
        wait_until_blocked(engine)
        drain.commit()
        assert second.result(timeout=20) != first
        assert stop_requests(drain) == {first: "superseded"}


def test_the_key_of_an_account_s_jobs_is_free_again_when_the_account_is_deleted(connection: sa.Connection) -> None:
    account_id = make.account(connection)
    first = enqueue(connection, job_key="k", account_id=account_id)
    connection.execute(sa.text("DELETE FROM flatearth.accounts WHERE id = :id"), {"id": account_id})
    assert unfinished(connection) == []
    assert enqueue(connection, job_key="k") != first
