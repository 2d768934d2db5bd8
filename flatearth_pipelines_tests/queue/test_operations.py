"""What an application or operator does with jobs that are there: cancel, retry, delete, pause, resume; the sweep."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from flatearth_pipelines.errors import FlatEarthError, NotFound, WrongUsage
from flatearth_pipelines.queue import functions, storage
from flatearth_pipelines.queue.storage import read_job
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.queue.conftest import (
    MINUTE,
    UNKNOWN,
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


def running_job(connection: sa.Connection, **options: Any) -> int:
    job_id = enqueue(connection, priority=2_000_000_000, **options)
    assert claim(connection, open_lease(connection), 1) == [job_id]
    return job_id


def cancelled_job(connection: sa.Connection, **options: Any) -> int:
    job_id = enqueue(connection, **options)
    assert functions.cancel_job(connection, job_id)
    return job_id


IN_STATE: dict[str, Callable[..., int]] = {
    "pending": enqueue,
    "running": running_job,
    "succeeded": finished_job,
    "failed": dead_job,
    "cancelled": cancelled_job,
}


def call(connection: sa.Connection, function: str, *arguments: Any) -> Any:
    """An SQL function of the queue, as an application calls it."""
    names = [f"a{n}" for n in range(len(arguments))]
    query = sa.text(f"SELECT flatearth.{function}({', '.join(f':{name}' for name in names)})")
    return connection.execute(query, dict(zip(names, arguments, strict=True))).scalar_one()


def sweep(connection: sa.Connection) -> int:
    woken: int = call(connection, "sweep_jobs")
    return woken


def parked(connection: sa.Connection, job_id: int) -> str | None:
    reason: str | None = read_job(connection, job_id)["parked"]
    return reason


def stop_requests(connection: sa.Connection) -> list[Any]:
    query = "SELECT job_id, reason FROM flatearth.job_stop_requests ORDER BY job_id"
    return [tuple(row) for row in connection.execute(sa.text(query))]


# ---------------------------------------------------------------------------------------- what cannot be done, and how


class Refusal(NamedTuple):
    function: str
    state: str
    sqlstate: str
    error: type[FlatEarthError]


REFUSALS = [
    Refusal("cancel_job", "unknown", "P0002", NotFound),
    Refusal("retry_job", "unknown", "P0002", NotFound),
    Refusal("retry_job", "pending", "22023", WrongUsage),
    Refusal("retry_job", "running", "22023", WrongUsage),
    Refusal("retry_job", "succeeded", "22023", WrongUsage),
    Refusal("delete_job", "unknown", "P0002", NotFound),
    Refusal("delete_job", "running", "22023", WrongUsage),
]


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: f"{refusal.function} {refusal.state}")
def test_what_cannot_be_done_to_a_job_is_refused_in_one_line_that_names_it(
    connection: sa.Connection, refusal: Refusal
) -> None:
    job_id = IN_STATE[refusal.state](connection) if refusal.state != "unknown" else UNKNOWN
    with pytest.raises(DBAPIError) as refused, connection.begin_nested():
        call(connection, refusal.function, job_id)
    assert isinstance(refused.value.orig, psycopg.Error)
    assert refused.value.orig.sqlstate == refusal.sqlstate
    with pytest.raises(refusal.error, match=f"job {job_id}") as said, connection.begin_nested():
        getattr(functions, refusal.function)(connection, job_id)
    assert "\n" not in str(said.value)
    if refusal.state != "unknown":
        assert read_job(connection, job_id)["state"] == refusal.state


@pytest.mark.parametrize("function", ["cancel_job", "retry_job", "delete_job"])
def test_no_id_is_an_unknown_job(connection: sa.Connection, function: str) -> None:
    with pytest.raises(DBAPIError) as refused, connection.begin_nested():
        call(connection, function, None)
    assert getattr(refused.value.orig, "sqlstate", None) == "P0002"


# --------------------------------------------------------------------------------------------------------------- cancel


def test_a_cancelled_job_never_runs_and_keeps_all_that_was_said_of_it(connection: sa.Connection) -> None:
    options: dict[str, Any] = {
        "priority": 3,
        "job_key": "k",
        "concurrency_key": "c",
        "max_attempts": 2,
        "backoff": {"kind": "fixed", "seconds": 1},
        "timeout": MINUTE,
        "origin": "cron",
        "cron_job_id": 7,
    }
    job_id = enqueue(connection, "greet", {"name": "Ada"}, **options)
    before = read_job(connection, job_id)
    assert call(connection, "cancel_job", job_id) is True
    after = read_job(connection, job_id)
    assert after["finished_at"] >= before["created_at"]
    changed = {"state": "cancelled", "last_error": "cancelled", "finished_at": after["finished_at"]}
    assert after == before | changed
    assert claim(connection, open_lease(connection)) == []


@pytest.mark.parametrize(("reason", "said"), [("no longer wanted", "no longer wanted"), (None, "cancelled")])
def test_the_reason_of_a_cancellation_is_kept(connection: sa.Connection, reason: str | None, said: str) -> None:
    waiting, running = enqueue(connection, delay=MINUTE), running_job(connection)
    for job_id in (waiting, running):
        assert call(connection, "cancel_job", job_id, reason) is True
    assert read_job(connection, waiting)["last_error"] == said
    assert stop_requests(connection) == [(running, said)]


def test_a_job_that_runs_goes_on_until_its_drain_has_heard_and_the_first_reason_counts(
    connection: sa.Connection,
) -> None:
    job_id = running_job(connection)
    assert call(connection, "cancel_job", job_id, "first") is True
    assert call(connection, "cancel_job", job_id, "second") is True
    assert stop_requests(connection) == [(job_id, "first")]
    assert read_job(connection, job_id)["state"] == "running"


@pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled"])
def test_of_a_job_that_has_ended_there_is_nothing_to_cancel(connection: sa.Connection, state: str) -> None:
    job_id = IN_STATE[state](connection)
    before = read_job(connection, job_id)
    assert call(connection, "cancel_job", job_id, "too late") is False
    assert read_job(connection, job_id) == before


def test_a_job_between_two_attempts_is_cancelled_at_once(connection: sa.Connection) -> None:
    job_id, lease_id = enqueue(connection), open_lease(connection)
    claim(connection, lease_id)
    fail(connection, lease_id, [job_id], retry_in=timedelta(0))
    functions.cancel_job(connection, job_id)
    assert read_job(connection, job_id).items() >= {"state": "cancelled", "attempts": 1}.items()
    assert claim(connection, lease_id) == []


@pytest.mark.parametrize("reason", ["a\0b", "\ud800"])
def test_a_reason_that_postgres_cannot_store_is_stored_as_far_as_it_can(connection: sa.Connection, reason: str) -> None:
    job_id = enqueue(connection)
    assert functions.cancel_job(connection, job_id, reason)
    assert read_job(connection, job_id)["last_error"] in {"a\N{REPLACEMENT CHARACTER}b", "?"}


# ---------------------------------------------------------------------------------------------------------------- retry


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_a_retried_job_is_due_now_under_its_id_with_its_attempts_counted_anew(
    connection: sa.Connection, state: str
) -> None:
    options: dict[str, Any] = {"concurrency_key": "c", "max_attempts": 2, "timeout": MINUTE, "payload": {"n": 1}}
    job_id = IN_STATE[state](connection, handler="noop", **options)
    before = read_job(connection, job_id)
    assert before["state"] == state

    assert call(connection, "retry_job", job_id) == job_id
    after = read_job(connection, job_id)
    now = connection.execute(sa.select(sa.func.now())).scalar_one()
    anew = {"state": "pending", "run_at": now, "attempts": 0, "started_at": None, "finished_at": None}
    assert after == before | anew
    assert claim(connection, open_lease(connection)) == [job_id]
    assert len(storage.read_jobs(connection)) == 1


def test_a_retried_job_of_an_own_run_still_asks_for_one(connection: sa.Connection) -> None:
    job_id = dead_job(connection, own_run=True)
    functions.retry_job(connection, job_id)
    lease_id = open_lease(connection)
    assert claim(connection, lease_id) == []
    assert claim(connection, lease_id, own_run=True) == [job_id]


def test_a_retried_job_that_had_killed_its_workers_has_a_clean_slate(connection: sa.Connection) -> None:
    job_id, lease_id = enqueue(connection), open_lease(connection)
    for retry_in in (timedelta(0), None):
        assert claim(connection, lease_id) == [job_id]
        fail(connection, lease_id, [job_id], retry_in=retry_in, lost=True)
    functions.retry_job(connection, job_id)
    others = [enqueue(connection), enqueue(connection)]
    assert claim(connection, lease_id) == [job_id, *others]


def test_of_two_who_retry_a_job_at_once_one_is_refused_and_it_waits_once(
    engine: sa.Engine, other_engine: sa.Engine
) -> None:
    with engine.connect() as one:
        job_id = dead_job(one)
        one.commit()
        assert functions.retry_job(one, job_id) == job_id
        other = in_background(other_engine, lambda connection: functions.retry_job(connection, job_id))
        wait_until_blocked(engine)
        one.commit()
        with pytest.raises(WrongUsage, match=f"job {job_id} is being retried by somebody else"):
            other.result(timeout=20)
        assert claim(one, open_lease(one)) == [job_id]
        assert len(storage.read_jobs(one)) == 1


# --------------------------------------------------------------------------------------------------------------- delete


@pytest.mark.parametrize("state", ["pending", "succeeded", "failed", "cancelled"])
def test_a_deleted_job_is_gone_with_its_history(connection: sa.Connection, state: str) -> None:
    kept, job_id = IN_STATE[state](connection), IN_STATE[state](connection)
    call(connection, "delete_job", job_id)
    assert [job["id"] for job in storage.read_jobs(connection)] == [kept]
    with pytest.raises(NotFound), connection.begin_nested():
        functions.delete_job(connection, job_id)


# ----------------------------------------------------------------------------------------------------- pause and resume


def test_of_a_paused_handler_nothing_is_claimed_until_it_is_resumed(connection: sa.Connection) -> None:
    before, other = enqueue(connection, "noop"), enqueue(connection, "greet")
    lease_id = open_lease(connection)
    assert call(connection, "pause_jobs", "noop") is True
    assert claim(connection, lease_id) == [other]
    after = enqueue(connection, "noop")
    assert claim(connection, lease_id) == []
    assert storage.read_pauses(connection) == ["noop"]

    assert call(connection, "resume_jobs", "noop") is True
    assert claim(connection, lease_id) == [before, after]
    assert storage.read_pauses(connection) == []


def test_of_the_paused_queue_nothing_is_claimed_until_it_is_resumed(connection: sa.Connection) -> None:
    ids = [enqueue(connection, "noop"), enqueue(connection, "greet")]
    lease_id = open_lease(connection)
    assert call(connection, "pause_jobs") is True
    assert storage.read_pauses(connection) == ["*"]
    assert claim(connection, lease_id) == []
    assert call(connection, "resume_jobs") is True
    assert claim(connection, lease_id) == ids


def test_a_handler_paused_beside_the_queue_stays_paused_when_the_queue_is_resumed(connection: sa.Connection) -> None:
    paused, other = enqueue(connection, "noop"), enqueue(connection, "greet")
    for handler in ("noop", "*"):
        functions.pause_jobs(connection, handler)
    lease_id = open_lease(connection)
    assert claim(connection, lease_id) == []
    functions.resume_jobs(connection)
    assert claim(connection, lease_id) == [other]
    functions.resume_jobs(connection, "noop")
    assert claim(connection, lease_id) == [paused]


def test_pausing_and_resuming_say_whether_they_changed_anything(connection: sa.Connection) -> None:
    for handler in ("noop", "*"):
        assert functions.resume_jobs(connection, handler) is False
        assert functions.pause_jobs(connection, handler) is True
        assert functions.pause_jobs(connection, handler) is False
        assert functions.resume_jobs(connection, handler) is True


@pytest.mark.parametrize("handler", ["", None])
def test_a_pause_of_nothing_is_refused_with_22023(connection: sa.Connection, handler: str | None) -> None:
    with pytest.raises(DBAPIError) as refused, connection.begin_nested():
        call(connection, "pause_jobs", handler)
    assert getattr(refused.value.orig, "sqlstate", None) == "22023"


def test_what_runs_goes_on_and_ends_while_its_handler_is_paused(connection: sa.Connection) -> None:
    job_id, lease_id = enqueue(connection), open_lease(connection)
    claim(connection, lease_id)
    functions.pause_jobs(connection, "noop")
    functions.pause_jobs(connection)
    assert stop_requests(connection) == []
    assert finish(connection, lease_id, [job_id]) == 1


def test_a_job_of_a_paused_handler_can_be_cancelled_replaced_and_deleted(connection: sa.Connection) -> None:
    functions.pause_jobs(connection, "noop")
    ids = [enqueue(connection, job_key=f"k{n}") for n in range(3)]
    assert claim(connection, open_lease(connection)) == []
    assert functions.cancel_job(connection, ids[0])
    functions.delete_job(connection, ids[1])
    assert enqueue(connection, payload={"n": 1}, job_key="k2", on_conflict="replace") == ids[2]
    functions.resume_jobs(connection, "noop")
    assert claim(connection, open_lease(connection)) == ids[2:]


def test_who_resumes_a_handler_waits_for_a_claim_that_knows_of_the_pause_and_wakes_what_it_parked(
    engine: sa.Engine, other_engine: sa.Engine
) -> None:
    with engine.connect() as drain:
        functions.pause_jobs(drain, "noop")
        job_id = enqueue(drain)
        lease_id = open_lease(drain)
        drain.commit()
        assert claim(drain, lease_id) == []
        resumed = in_background(other_engine, lambda operator: functions.resume_jobs(operator, "noop"))
        wait_until_blocked(engine)
        drain.commit()
        assert resumed.result(20)
        assert claim(drain, lease_id) == [job_id]


# --------------------------------------------------------------------------------------------------- when a job is due


def due(connection: sa.Connection, *, own_run: bool = False) -> datetime | None:
    instant: datetime | None = call(connection, "next_job_due", own_run)
    return instant


def test_an_empty_queue_and_one_that_only_runs_are_never_due(connection: sa.Connection) -> None:
    assert due(connection) is None
    running_job(connection)
    for end in ("succeeded", "failed", "cancelled"):
        IN_STATE[end](connection)
    assert due(connection) is None


def test_the_queue_is_due_with_its_first_job_whatever_the_priorities(connection: sa.Connection) -> None:
    for priority, delay in ((0, 5), (9, 7), (-3, 2), (9, 4), (-3, 6)):
        enqueue(connection, priority=priority, delay=delay * MINUTE)
    now = connection.execute(sa.select(sa.func.now())).scalar_one()
    assert due(connection) == now + 2 * MINUTE


def test_batches_and_own_runs_are_due_each_for_themselves(connection: sa.Connection) -> None:
    light, heavy = (read_job(connection, enqueue(connection, delay=n * MINUTE, own_run=n == 1)) for n in (2, 1))
    assert due(connection) == light["run_at"]
    assert due(connection, own_run=True) == heavy["run_at"]


def test_what_is_parked_is_not_due(connection: sa.Connection) -> None:
    functions.pause_jobs(connection, "noop")
    enqueue(connection)
    claim(connection, open_lease(connection))
    assert due(connection) is None


def test_no_job_is_due_while_the_whole_queue_is_paused(connection: sa.Connection) -> None:
    enqueue(connection)
    enqueue(connection, own_run=True)
    functions.pause_jobs(connection)
    assert due(connection) is None
    assert due(connection, own_run=True) is None
    assert storage.is_due(connection) == (False, False)
    functions.resume_jobs(connection)
    assert storage.is_due(connection) == (True, True)


@pytest.mark.parametrize(
    ("enabled", "own_run", "counts"), [(True, False, True), (False, False, False), (True, True, False)]
)
def test_a_cron_job_that_is_enabled_makes_the_queue_due_for_a_batch(
    connection: sa.Connection, *, enabled: bool, own_run: bool, counts: bool
) -> None:
    now = connection.execute(sa.select(sa.func.now())).scalar_one()
    connection.execute(
        sa.text(
            "INSERT INTO flatearth.cron_jobs (name, pattern, handler, enabled, next_run_at)"
            " VALUES ('c', 'hourly', 'noop', :enabled, :at)"
        ),
        {"enabled": enabled, "at": now + MINUTE},
    )
    enqueue(connection, delay=2 * MINUTE, own_run=own_run)
    assert due(connection, own_run=own_run) == now + (MINUTE if counts else 2 * MINUTE)


# ---------------------------------------------------------------------------------------------------------------- sweep


def test_a_sweep_of_a_queue_where_nothing_waits_for_anything_wakes_nobody(connection: sa.Connection) -> None:
    enqueue(connection)
    running_job(connection)
    assert sweep(connection) == 0


def keyed_jobs(connection: sa.Connection, account_id: int | None = None) -> tuple[int, int, int]:
    """A running job of the account, the id of its lease, and a second job parked behind it by a concurrency key."""
    first = enqueue(connection, concurrency_key="c", account_id=account_id)
    second = enqueue(connection, concurrency_key="c")
    lease_id = open_lease(connection)
    assert claim(connection, lease_id) == [first]
    assert parked(connection, second) == "key"
    return first, lease_id, second


def test_a_sweep_leaves_a_job_parked_while_its_concurrency_key_is_taken(connection: sa.Connection) -> None:
    _, lease_id, second = keyed_jobs(connection)
    assert sweep(connection) == 0
    assert claim(connection, lease_id) == []
    assert parked(connection, second) == "key"


@pytest.mark.parametrize("gone", [functions.cancel_job, functions.delete_job])
def test_a_job_behind_one_of_its_concurrency_key_that_is_cancelled_or_deleted_is_woken_by_the_sweep(
    connection: sa.Connection, gone: Callable[[sa.Connection, int], object]
) -> None:
    functions.pause_jobs(connection, "noop")
    first, second = (enqueue(connection, handler, concurrency_key="c") for handler in ("noop", "greet"))
    lease_id = open_lease(connection)
    assert claim(connection, lease_id) == []
    assert (parked(connection, first), parked(connection, second)) == ("pause", "key")
    gone(connection, first)
    assert claim(connection, lease_id) == []
    sweep(connection)
    assert claim(connection, lease_id) == [second]


def test_a_slot_whose_job_went_with_its_account_is_freed_and_the_next_one_woken(connection: sa.Connection) -> None:
    account_id = make.account(connection)
    _, lease_id, second = keyed_jobs(connection, account_id=account_id)
    connection.execute(sa.text("DELETE FROM flatearth.accounts WHERE id = :id"), {"id": account_id})
    sweep(connection)
    assert claim(connection, lease_id) == [second]


def test_a_sweep_says_how_many_it_woke_whatever_they_waited_for(connection: sa.Connection) -> None:
    account_id = make.account(connection)
    _, lease_id, _ = keyed_jobs(connection, account_id=account_id)
    replaced = enqueue(connection, job_key="k", priority=9)
    claim(connection, lease_id, 1)
    enqueue(connection, job_key="k", on_conflict="replace")
    finish(connection, lease_id, [replaced])
    connection.execute(sa.text("DELETE FROM flatearth.accounts WHERE id = :id"), {"id": account_id})
    assert sweep(connection) == 2
    assert sweep(connection) == 0


def test_a_running_job_told_to_stop_that_waits_again_by_now_is_cancelled_by_the_sweep(
    connection: sa.Connection,
) -> None:
    job_id, lease_id = enqueue(connection), open_lease(connection)
    claim(connection, lease_id)
    functions.cancel_job(connection, job_id, "enough")
    sweep(connection)
    assert stop_requests(connection) == [(job_id, "enough")]
    fail(connection, lease_id, [job_id], retry_in=timedelta(0))
    sweep(connection)
    assert read_job(connection, job_id).items() >= {"state": "cancelled", "last_error": "enough"}.items()
    sweep(connection)
    assert stop_requests(connection) == []


def test_a_sweep_forgets_what_was_said_to_and_by_jobs_that_have_ended_and_of_no_others(
    connection: sa.Connection,
) -> None:
    ended, running = running_job(connection), running_job(connection)
    progress = "INSERT INTO flatearth.job_progress (job_id, percent) VALUES (:id, 50)"
    for job_id in (ended, running):
        functions.cancel_job(connection, job_id)
        connection.execute(sa.text(progress), {"id": job_id})
    query = "SELECT lease_id FROM flatearth.live_jobs WHERE id = :id"
    lease_id = connection.execute(sa.text(query), {"id": ended}).scalar_one()
    assert finish(connection, lease_id, [ended]) == 1
    sweep(connection)
    assert stop_requests(connection) == [(running, "cancelled")]
    assert connection.execute(sa.text("SELECT job_id FROM flatearth.job_progress")).scalars().all() == [running]
    assert read_job(connection, running)["progress"] == 50
