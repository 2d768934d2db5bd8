"""How a drain runs its jobs: attempts, time limits, concurrency, progress, cancellation, and whatever handlers do."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import Field, field_validator

from flatearth_pipelines.queue.backoff import Exponential, Fixed, Listed
from flatearth_pipelines.queue.handlers import Context, Guarantee, Handler, NoPayload, Payload, Refused, Retry, Stopped
from flatearth_pipelines_tests.queue.workers import (
    add,
    change,
    drained,
    draining,
    handler,
    job,
    names,
    note,
    scalar,
    states,
    until,
)

SECOND = timedelta(seconds=1)

SECRET = "correct horse battery staple"  # noqa: S105 - what must not be shown


class Reading(Payload):
    level: int = Field(le=10)

    @field_validator("level")
    @classmethod
    def _is_known(cls, level: int) -> int:
        return {1: 10, 2: 20}[level]


def raises(error: BaseException) -> Callable[[Context, Any], None]:
    """A plain handler that raises it."""

    def run(_context: Context, _payload: NoPayload) -> None:
        raise error

    return run


def raises_async(error: BaseException) -> Callable[[Context, Any], Coroutine[Any, Any, None]]:
    async def run(_context: Context, _payload: NoPayload) -> None:
        raise error

    return run


def returns(result: Any) -> Callable[[Context, Any], Any]:
    return lambda _context, _payload: result


def nested(depth: int) -> dict[str, Any]:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return {"value": value}


class Overlap:
    """How many were at work at once at most."""

    def __init__(self) -> None:
        self.most = 0
        self._now = 0
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def one_more(self) -> Any:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        try:
            yield
        finally:
            with self._lock:
                self._now -= 1


# Failures


def test_a_failed_job_runs_again_until_its_last_attempt_and_is_then_dead(engine: sa.Engine, database: str) -> None:
    attempts: list[int] = []

    def fail(context: Context, _payload: NoPayload) -> None:
        attempts.append(context.attempt)
        raise ValueError("it broke")

    job_id = add(engine, "fail")
    report = drained(database, [handler(fail, max_attempts=3)])

    assert attempts == [1, 2, 3]
    assert job(engine, job_id)["state"] == "failed"
    assert job(engine, job_id)["attempts"] == 3
    assert job(engine, job_id)["last_error"] == "ValueError: it broke"
    assert report.outcomes == {("fail", "retried"): 2, ("fail", "failed"): 1}


def test_a_jobs_own_number_of_attempts_comes_before_its_handlers(engine: sa.Engine, database: str) -> None:
    ids = {own: add(engine, "fail", max_attempts=own) for own in (None, 1, 2, 4, 25)}

    drained(database, [handler(raises(ValueError("no")), name="fail", max_attempts=3)])

    assert {own: job(engine, job_id)["attempts"] for own, job_id in ids.items()} == {None: 3, 1: 1, 2: 2, 4: 4, 25: 25}
    assert set(states(engine).values()) == {"failed"}


def test_a_job_that_succeeds_in_a_later_attempt_has_succeeded(engine: sa.Engine, database: str) -> None:
    def succeed(context: Context, _payload: NoPayload) -> None:
        if context.attempt < 3:
            raise ValueError("not yet")

    job_id = add(engine, "succeed")
    drained(database, [handler(succeed)])

    assert job(engine, job_id)["state"] == "succeeded"
    assert job(engine, job_id)["attempts"] == 3


BACKOFFS = {
    "exponential": (Exponential(first=100 * SECOND), {"kind": "exponential", "seconds": 100}, 50),
    "fixed": (Fixed(100 * SECOND), {"kind": "fixed", "seconds": 100}, 100),
    "list": (Listed((100 * SECOND, 7 * SECOND)), {"kind": "list", "seconds": [100, 7]}, 100),
}
"""Each as Python and as SQL has it, and the fewest seconds before the second of its attempts; the most are 100."""


@pytest.mark.parametrize("whose", ["handler", "job"])
def test_it_waits_as_its_own_backoff_says_or_else_its_handlers(engine: sa.Engine, database: str, whose: str) -> None:
    own = {name: {"backoff": json} if whose == "job" else {} for name, (_, json, _) in BACKOFFS.items()}
    ids = {name: add(engine, name, **own[name]) for name in BACKOFFS}

    of_handlers = {
        name: python if whose == "handler" else Fixed(5_000 * SECOND) for name, (python, *_) in BACKOFFS.items()
    }
    fail = raises(ValueError("no"))
    drained(database, [handler(fail, name=name, backoff=backoff) for name, backoff in of_handlers.items()])

    now = scalar(engine, "SELECT clock_timestamp()")
    for name, (_, _, least) in BACKOFFS.items():
        row = job(engine, ids[name])
        assert row["state"] == "pending"
        assert least - 10 < (row["run_at"] - now).total_seconds() <= 100


@pytest.mark.parametrize("seconds", [30, 0])
def test_a_handler_may_ask_for_a_retry_after_a_time(engine: sa.Engine, database: str, seconds: int) -> None:
    def later(context: Context, _payload: NoPayload) -> None:
        if context.attempt == 1:
            raise Retry("busy", after=seconds * SECOND)

    job_id = add(engine, "later")
    report = drained(database, [handler(later, backoff=Fixed(5000 * SECOND))])

    assert report.total("retried") == 1
    if seconds:
        assert job(engine, job_id)["last_error"] == "Retry: busy"
        assert 20 < seconds_until_due(engine) <= 30
    else:
        assert job(engine, job_id)["state"] == "succeeded"


@pytest.mark.parametrize("seconds", [30, -3600])
def test_a_handler_may_ask_for_a_retry_at_an_instant_and_the_past_is_at_once(
    engine: sa.Engine, database: str, seconds: int
) -> None:
    at = scalar(engine, f"SELECT clock_timestamp() + interval '{seconds} s'")

    def later(context: Context, _payload: NoPayload) -> None:
        if context.attempt == 1:
            raise Retry("busy", at=at)

    job_id = add(engine, "later")
    drained(database, [handler(later, backoff=Fixed(5000 * SECOND))])

    if seconds > 0:
        assert abs((job(engine, job_id)["run_at"] - at).total_seconds()) < 2
    else:
        assert job(engine, job_id)["state"] == "succeeded"


def test_a_retry_without_a_time_follows_the_backoff(engine: sa.Engine, database: str) -> None:
    add(engine, "later")

    drained(database, [handler(raises(Retry("busy")), name="later", backoff=Fixed(100 * SECOND))])

    assert 90 < seconds_until_due(engine) <= 100


def test_a_retry_is_never_more_than_the_last_attempt(engine: sa.Engine, database: str) -> None:
    job_id = add(engine, "later")

    drained(database, [handler(raises(Retry("busy", after=timedelta(0))), name="later", max_attempts=2)])

    assert job(engine, job_id)["state"] == "failed"
    assert job(engine, job_id)["attempts"] == 2


def test_a_retry_further_away_than_any_calendar_is_ten_years_at_most(engine: sa.Engine, database: str) -> None:
    add(engine, "later")

    drained(database, [handler(raises(Retry("never", after=timedelta.max)), name="later")])

    assert 9 * 365 * 86_400 < seconds_until_due(engine) < 11 * 365 * 86_400


@pytest.mark.parametrize("handler_raises", [raises, raises_async])
def test_a_job_that_is_refused_is_dead_at_once(
    engine: sa.Engine, database: str, handler_raises: Callable[[BaseException], Any]
) -> None:
    job_id = add(engine, "refuse")

    drained(database, [handler(handler_raises(Refused("no such address")), name="refuse")])

    assert job(engine, job_id)["state"] == "failed"
    assert job(engine, job_id)["attempts"] == 1
    assert job(engine, job_id)["last_error"] == "Refused: no such address"


def test_a_job_that_runs_at_most_once_is_dead_after_its_first_failure_whatever_it_raises(
    engine: sa.Engine, database: str
) -> None:
    ids = [add(engine, name, max_attempts=25) for name in ("fail", "later")]
    once = {"guarantee": Guarantee.AT_MOST_ONCE}

    drained(
        database,
        [
            handler(raises(ValueError("no")), name="fail", **once),
            handler(raises(Retry("busy", after=timedelta(0))), name="later", **once),
        ],
    )

    assert [(job(engine, each)["state"], job(engine, each)["attempts"]) for each in ids] == [("failed", 1)] * 2


def test_an_unknown_handler_is_dead_at_once_and_the_message_names_the_known_ones(
    engine: sa.Engine, database: str
) -> None:
    job_id = add(engine, "unknown", {"password": SECRET})

    drained(database, [handler(returns(None), name="b"), handler(returns(None), name="a")])

    assert job(engine, job_id)["state"] == "failed"
    assert job(engine, job_id)["last_error"] == "There is no handler 'unknown': there are a, b"


def test_an_invalid_payload_is_dead_at_once_and_the_message_says_why_without_its_values(
    engine: sa.Engine, database: str
) -> None:
    payloads = {
        "level: Input should be a valid integer": {"level": SECRET},
        "password: Extra inputs are not permitted": {"level": 1, "password": SECRET},
        "level: Field required": {"password": SECRET},
        "level: Input should be less than or equal to 10": {"level": 11},
        "payload: Invalid JSON: recursion limit exceeded": nested(400),
    }
    ids = {why: add(engine, "measure", payload) for why, payload in payloads.items()}

    drained(database, [handler(returns(None), name="measure", payload=Reading)])

    for why, row in {why: job(engine, job_id) for why, job_id in ids.items()}.items():
        assert (row["state"], row["attempts"]) == ("failed", 1)
        assert row["last_error"].startswith("The payload is not valid: ")
        assert why in row["last_error"]
        assert SECRET not in row["last_error"]


def test_a_payload_of_a_thousand_unknown_fields_leaves_one_short_line(engine: sa.Engine, database: str) -> None:
    job_id = add(engine, "measure", {f"line\nbreak {number} {'x' * 1_000}": 1 for number in range(1_000)})

    drained(database, [handler(returns(None), name="measure", payload=Reading)])

    assert job(engine, job_id)["state"] == "failed"
    assert len(job(engine, job_id)["last_error"]) < 2_000
    assert "\n" not in job(engine, job_id)["last_error"]


@pytest.mark.parametrize("guarantee", list(Guarantee))
def test_a_validated_payload_and_the_job_reach_the_handler(
    engine: sa.Engine, database: str, guarantee: Guarantee
) -> None:
    seen: list[Any] = []
    with engine.begin() as connection:
        account_id = connection.execute(
            sa.text("INSERT INTO flatearth.accounts (name) VALUES ('Acme') RETURNING id")
        ).scalar_one()

    def measure(context: Context, payload: Reading) -> None:
        seen.append((context.job_id, context.attempt, context.account_id, payload.level))

    job_id = add(engine, "measure", {"level": 2}, account_id=account_id)
    drained(database, [handler(measure, payload=Reading, guarantee=guarantee)])

    assert seen == [(job_id, 1, account_id, 20)]


# Whatever a handler does is its own job's failure


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("odd", "says"),
    [
        (handler(raises(ValueError("a\0b\ud800c\nd")), name="odd", max_attempts=1), "ValueError: a�b?c d"),
        (handler(raises(ValueError("x" * 100_000)), name="odd", max_attempts=1), "ValueError: xxx"),
        (handler(raises(SystemExit(3)), name="odd", max_attempts=1), "SystemExit: 3"),
        (handler(raises(StopIteration("empty")), name="odd", max_attempts=1), "StopIteration"),
        (handler(raises(asyncio.CancelledError()), name="odd", max_attempts=1), "CancelledError"),
        (handler(raises_async(asyncio.CancelledError()), name="odd", max_attempts=1), "CancelledError"),
        (handler(raises_async(StopIteration("empty")), name="odd", max_attempts=1), "StopIteration"),
        (handler(raises(Unspeakable()), name="odd", max_attempts=1), "Unspeakable"),
        (handler(raises_async(Unspeakable()), name="odd", max_attempts=1), "Unspeakable"),
        (handler(raises(Stopped("of its own accord")), name="odd", max_attempts=1), "Stopped: of its own accord"),
        (handler(returns(None), name="odd", payload=Reading, max_attempts=1), "KeyError"),
    ],
    ids=[
        *("nul, surrogate and newline", "a long text", "SystemExit", "StopIteration", "CancelledError"),
        *("async CancelledError", "async StopIteration", "unspeakable", "async unspeakable", "stopped by itself"),
        "a validator that breaks",
    ],
)
def test_an_odd_error_fails_its_own_job_and_no_other(engine: sa.Engine, database: str, odd: Handler, says: str) -> None:
    odd_id = add(engine, "odd", {"level": 3} if odd.payload is Reading else {}, priority=1)
    others = [add(engine, "fine") for _ in range(5)]

    drained(database, [odd, handler(returns(None), name="fine")], concurrency=1)

    assert [job(engine, each)["state"] for each in others] == ["succeeded"] * 5
    assert job(engine, odd_id)["state"] == "failed"
    assert says in job(engine, odd_id)["last_error"]


class Broken(Mapping[str, int]):
    """Cannot be read."""

    def __iter__(self) -> Any:
        raise OSError("gone")

    def __len__(self) -> int:
        return 1

    def __getitem__(self, key: str) -> int:
        raise KeyError(key)


@pytest.mark.parametrize("guarantee", list(Guarantee))
def test_results_that_cannot_be_kept_say_why_and_harm_neither_their_jobs_nor_the_batch(
    engine: sa.Engine, database: str, guarantee: Guarantee
) -> None:
    results = {
        "nul": {"text": "\0"},
        "surrogate": {"text": "\ud800"},
        "nan": {"number": float("nan")},
        "a megabyte": {"text": "x" * 1_000_000},
        "object": {"value": object()},
        "list": [1, 2],
        "text": "text",
        "too deep": nested(100_000),
        "unreadable": Broken(),
        "fine": {"a": 1},
    }
    ids = {name: add(engine, name) for name in results}

    options = {"guarantee": guarantee, "max_attempts": 1}
    drained(database, [handler(returns(result), name=name, **options) for name, result in results.items()])

    kept = {name: job(engine, job_id) for name, job_id in ids.items()}
    assert {name: row["state"] for name, row in kept.items()} == dict.fromkeys(results, "succeeded")
    assert kept.pop("fine")["result"] == {"a": 1}
    assert {name: list(row["result"]) for name, row in kept.items()} == {name: ["not_kept"] for name in kept}


@pytest.mark.parametrize("guarantee", [Guarantee.AT_LEAST_ONCE, Guarantee.TRANSACTIONAL])
def test_a_result_is_kept(engine: sa.Engine, database: str, guarantee: Guarantee) -> None:
    result = {"count": 3, "names": ["Zoë"], "nothing": None}
    job_id = add(engine, "work")

    drained(database, [handler(returns(result), name="work", guarantee=guarantee)])

    assert job(engine, job_id)["result"] == result


def test_a_plain_handler_that_returns_a_coroutine_never_succeeds_without_having_run(
    engine: sa.Engine, database: str
) -> None:
    ran: list[int] = []

    async def work(context: Context, _payload: NoPayload) -> None:
        ran.append(context.job_id)

    def plain(context: Context, payload: NoPayload) -> Coroutine[Any, Any, None]:
        return work(context, payload)

    job_id = add(engine, "work", max_attempts=1)
    drained(database, [handler(plain, name="work")])

    assert ran == [job_id] or job(engine, job_id)["state"] == "failed"


# Time limits


async def sleep_async(_context: Context, _payload: NoPayload) -> None:
    await asyncio.sleep(6)


def sleep_plain(_context: Context, _payload: NoPayload) -> None:
    time.sleep(6)


def sleep_in_postgres(context: Context, _payload: NoPayload) -> None:
    context.connection.execute(sa.text("SELECT pg_sleep(30)"))


SLEEPERS = [
    pytest.param(sleep_async, Guarantee.AT_LEAST_ONCE, id="async"),
    pytest.param(sleep_plain, Guarantee.AT_LEAST_ONCE, id="plain"),
    pytest.param(sleep_in_postgres, Guarantee.TRANSACTIONAL, id="in a statement"),
]


@pytest.mark.parametrize(("sleep", "guarantee"), SLEEPERS)
@pytest.mark.parametrize("whose", ["handler", "job"])
def test_a_job_beyond_its_time_limit_fails_long_before_its_handler_would_end(
    engine: sa.Engine, database: str, sleep: Any, guarantee: Guarantee, whose: str
) -> None:
    own = {"timeout": 0.2 * SECOND} if whose == "job" else {}
    limit = 600 * SECOND if whose == "job" else 0.2 * SECOND
    job_id = add(engine, "sleep", max_attempts=1, **own)
    began = time.monotonic()

    report = drained(database, [handler(sleep, name="sleep", guarantee=guarantee, timeout=limit)])

    assert time.monotonic() - began < 5
    assert job(engine, job_id)["state"] == "failed"
    assert job(engine, job_id)["last_error"] == "TimeoutError: not done within its time limit of 0.2 s"
    assert report.outcomes == {("sleep", "failed"): 1}


def test_a_statement_beyond_the_time_limit_is_cancelled_in_postgres_and_what_it_wrote_is_undone(
    engine: sa.Engine, database: str
) -> None:
    def write_and_sleep(context: Context, _payload: NoPayload) -> None:
        context.connection.execute(sa.text("INSERT INTO flatearth.accounts (name) VALUES ('undone')"))
        context.connection.execute(sa.text("SELECT pg_sleep(30)"))

    add(engine, "write_and_sleep", max_attempts=1)
    drained(
        database,
        [handler(write_and_sleep, guarantee=Guarantee.TRANSACTIONAL, timeout=0.2 * SECOND)],
    )

    at_work = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%pg_sleep(30)'"
    until(lambda: scalar(engine, at_work) == 0)
    assert names(engine) == []


@pytest.mark.parametrize(("sleep", "guarantee"), SLEEPERS[::2])
def test_a_job_beyond_its_time_limit_runs_again(
    engine: sa.Engine, database: str, sleep: Any, guarantee: Guarantee
) -> None:
    job_id = add(engine, "sleep")

    report = drained(
        database, [handler(sleep, name="sleep", guarantee=guarantee, timeout=0.1 * SECOND, max_attempts=2)]
    )

    assert job(engine, job_id)["attempts"] == 2
    assert report.outcomes == {("sleep", "retried"): 1, ("sleep", "failed"): 1}


def test_a_job_that_runs_at_most_once_is_dead_beyond_its_time_limit(engine: sa.Engine, database: str) -> None:
    job_id = add(engine, "sleep", timeout=0.1 * SECOND)

    drained(database, [handler(sleep_async, name="sleep", guarantee=Guarantee.AT_MOST_ONCE)])

    assert (job(engine, job_id)["state"], job(engine, job_id)["attempts"]) == ("failed", 1)


def test_a_job_within_its_time_limit_is_left_alone(engine: sa.Engine, database: str) -> None:
    async def work(_context: Context, _payload: NoPayload) -> None:
        await asyncio.sleep(0.3)

    job_id = add(engine, "work", timeout=5 * SECOND)
    drained(database, [handler(work)])

    assert job(engine, job_id)["state"] == "succeeded"


def test_a_coroutine_that_swallowed_its_time_limit_leaves_no_trace_in_the_next_job(
    engine: sa.Engine, database: str
) -> None:
    """A stale cancellation would have the task group below end its worker instead of its job."""

    async def swallow(_context: Context, _payload: NoPayload) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3)

    async def group(_context: Context, _payload: NoPayload) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(asyncio.sleep(3))
            tasks.create_task(raises_async(ValueError("one of them"))(_context, _payload))

    swallowed = add(engine, "swallow", priority=1, max_attempts=1, timeout=0.1 * SECOND)
    grouped = add(engine, "group", max_attempts=1)
    drained(database, [handler(swallow), handler(group)], concurrency=1)

    assert states(engine) == {swallowed: "failed", grouped: "failed"}
    assert "TimeoutError" in job(engine, swallowed)["last_error"]
    assert "ExceptionGroup" in job(engine, grouped)["last_error"]


def test_a_thread_that_cannot_be_stopped_keeps_its_place_and_does_not_keep_the_drain_or_other_jobs(
    engine: sa.Engine, database: str
) -> None:
    """With all places taken nothing more is claimed: what is due waits for another drain, not for the thread."""
    release = threading.Event()

    def stuck(_context: Context, _payload: NoPayload) -> None:
        release.wait(60)

    add(engine, "stuck", priority=1, max_attempts=1, timeout=0.1 * SECOND)
    other = add(engine, "other", delay=0.5 * SECOND)
    try:
        handlers = [handler(stuck), handler(returns(None), name="other")]
        drained(database, handlers, concurrency=1, stay=1, longest=1.5)
        assert job(engine, other)["state"] == "pending"
        drained(database, handlers, stay=1)
        assert job(engine, other)["state"] == "succeeded"
    finally:
        release.set()


# Concurrency and order


@pytest.mark.parametrize(("options", "most"), [({}, 10), ({"concurrency": 3}, 3), ({"concurrency": 1}, 1)])
@pytest.mark.parametrize("is_async", [True, False])
def test_no_more_jobs_than_allowed_run_at_once_and_as_many_as_allowed_do(
    engine: sa.Engine, database: str, options: dict[str, Any], most: int, *, is_async: bool
) -> None:
    overlap = Overlap()
    all_here, all_here_async = threading.Barrier(most, timeout=60), asyncio.Barrier(most)

    async def work_async(_context: Context, _payload: NoPayload) -> None:
        with overlap.one_more():
            await all_here_async.wait()

    def work_plain(_context: Context, _payload: NoPayload) -> None:
        with overlap.one_more():
            all_here.wait()

    for _ in range(3 * most):
        add(engine, "work")
    report = drained(database, [handler(work_async if is_async else work_plain, name="work")], **options)

    assert report.total("succeeded") == 3 * most
    assert overlap.most == most


def test_higher_priorities_run_first_and_then_what_has_been_due_the_longest(engine: sa.Engine, database: str) -> None:
    order: list[int] = []

    async def work(context: Context, _payload: NoPayload) -> None:
        order.append(context.job_id)

    low, middle, high, negative = (add(engine, "work", priority=priority) for priority in (1, 5, 10, -5))
    first = add(engine, "work", priority=5)
    change(engine, "UPDATE flatearth.live_jobs SET run_at = run_at - interval '1 hour' WHERE id = :id", id=first)
    drained(database, [handler(work)], concurrency=1)

    assert order == [high, first, middle, low, negative]


# What is seen and said while it runs


@pytest.mark.parametrize("guarantee", [Guarantee.AT_LEAST_ONCE, Guarantee.TRANSACTIONAL])
def test_progress_is_seen_in_the_view_of_jobs_while_the_job_runs(
    engine: sa.Engine, database: str, guarantee: Guarantee
) -> None:
    go_on = threading.Event()

    def work(context: Context, _payload: NoPayload) -> None:
        context.progress(12)
        context.progress(42.5, "half\0 of\n it")
        go_on.wait(20)

    job_id = add(engine, "work")
    with draining(database, [handler(work, guarantee=guarantee)]):
        until(lambda: job(engine, job_id)["progress"] == 42.5)
        row = job(engine, job_id)
        go_on.set()
        until(lambda: job(engine, job_id)["state"] == "succeeded")

    assert row["state"] == "running"
    assert row["progress_line"] == "half� of it"
    assert row["started_at"] is not None


def test_progress_of_an_async_handler_is_seen_too(engine: sa.Engine, database: str) -> None:
    async def work(context: Context, _payload: NoPayload) -> None:
        context.progress(100, "x" * 10_000)
        await asyncio.to_thread(until, lambda: job(engine, context.job_id)["progress"] == 100)

    job_id = add(engine, "work")
    drained(database, [handler(work)])

    assert job(engine, job_id)["state"] == "succeeded"


async def obey_async(context: Context, _payload: NoPayload) -> None:
    note("began")
    await asyncio.to_thread(until, lambda: context.stop_requested)
    note("heard")
    context.check()


def obey_plain(context: Context, _payload: NoPayload) -> None:
    note("began")
    while not context.stop_requested:
        time.sleep(0.01)
    note("heard")
    context.check()


def obey_and_return(context: Context, _payload: NoPayload) -> None:
    with contextlib.suppress(Stopped):
        obey_plain(context, _payload)


OBEDIENT = [
    pytest.param(obey_async, Guarantee.AT_LEAST_ONCE, id="async"),
    pytest.param(obey_plain, Guarantee.AT_LEAST_ONCE, id="plain"),
    pytest.param(obey_plain, Guarantee.AT_MOST_ONCE, id="at most once"),
    pytest.param(obey_plain, Guarantee.TRANSACTIONAL, id="transactional"),
    pytest.param(obey_and_return, Guarantee.AT_LEAST_ONCE, id="returns"),
    pytest.param(obey_and_return, Guarantee.TRANSACTIONAL, id="transactional that returns"),
]


@pytest.mark.parametrize(("run", "guarantee"), OBEDIENT)
@pytest.mark.parametrize("reason", ["cancelled", "superseded"])
def test_a_running_job_that_is_cancelled_or_superseded_hears_of_it_and_ends_as_cancelled(
    engine: sa.Engine, database: str, run: Any, guarantee: Guarantee, reason: str
) -> None:
    job_id = add(engine, "obey", job_key="one")
    with draining(database, [handler(run, name="obey", guarantee=guarantee)], concurrency=1):
        until(lambda: "began" in names(engine))
        if reason == "cancelled":
            change(engine, "SELECT flatearth.cancel_job(:id)", id=job_id)
        else:
            add(engine, "obey", job_key="one", on_conflict="supersede", delay=60 * SECOND)
        asked = time.monotonic()
        until(lambda: "heard" in names(engine))
        heard_after = time.monotonic() - asked
        until(lambda: job(engine, job_id)["state"] == "cancelled")

    assert heard_after < 2  # half a second is promised; a machine under load is given more
    assert job(engine, job_id)["last_error"] == reason


def test_a_cancelled_job_that_fails_is_cancelled_and_not_run_again(engine: sa.Engine, database: str) -> None:
    def work(context: Context, _payload: NoPayload) -> None:
        note("began")
        until(lambda: context.stop_requested)
        raise ValueError("it broke")

    job_id = add(engine, "work")
    with draining(database, [handler(work)]):
        until(lambda: "began" in names(engine))
        change(engine, "SELECT flatearth.cancel_job(:id, 'not needed')", id=job_id)
        until(lambda: job(engine, job_id)["state"] == "cancelled")

    assert job(engine, job_id)["last_error"] == "not needed"
    assert names(engine) == ["began"]


def test_what_a_cancelled_transactional_handler_wrote_is_undone(engine: sa.Engine, database: str) -> None:
    def work(context: Context, _payload: NoPayload) -> None:
        context.connection.execute(sa.text("INSERT INTO flatearth.accounts (name) VALUES ('undone')"))
        note("began")
        until(lambda: context.stop_requested)

    job_id = add(engine, "work")
    with draining(database, [handler(work, guarantee=Guarantee.TRANSACTIONAL)]):
        until(lambda: "began" in names(engine))
        change(engine, "SELECT flatearth.cancel_job(:id)", id=job_id)
        until(lambda: job(engine, job_id)["state"] == "cancelled")

    assert names(engine) == ["began"]


def test_a_transactional_job_commits_with_its_handler(engine: sa.Engine, database: str) -> None:
    def write(context: Context, _payload: NoPayload) -> None:
        context.connection.execute(sa.text("INSERT INTO flatearth.accounts (name) VALUES ('written')"))
        if context.attempt == 1:
            raise ValueError("after the write")

    job_id = add(engine, "write")
    drained(database, [handler(write, guarantee=Guarantee.TRANSACTIONAL)])

    assert names(engine) == ["written"]
    assert job(engine, job_id)["attempts"] == 2


def seconds_until_due(engine: sa.Engine) -> float:
    """Of the only job that waits."""
    return float(scalar(engine, "SELECT extract(epoch FROM run_at - clock_timestamp()) FROM flatearth.live_jobs"))
