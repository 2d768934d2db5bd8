"""A drain that is stopped finishes what it can within its grace and hands the rest back: nothing is lost or counted."""

import asyncio
import contextlib
import signal
import threading
import time
from collections import Counter
from typing import Any

import pytest
import sqlalchemy as sa

from flatearth_pipelines.queue.handlers import Context, Guarantee, Handler, NoPayload
from flatearth_pipelines_tests.queue.workers import (
    DEADLINE,
    add,
    change,
    drained,
    handler,
    job,
    names,
    new_drain,
    note,
    process,
    scalar,
    start,
    states,
    until,
)


def stop_when(
    engine: sa.Engine, database: str, handlers: list[Handler], said: str, **options: Any
) -> tuple[Any, float]:
    """The report of a drain that is stopped once a handler has noted that, and how many seconds it took to end."""
    drain = new_drain(database, handlers, **{"grace": 1, "stay": 60} | options)
    ended = start(drain)
    until(lambda: said in names(engine))
    drain.stop()
    began = time.monotonic()
    return ended.result(DEADLINE), time.monotonic() - began


def leases(engine: sa.Engine) -> int:
    return int(scalar(engine, "SELECT count(*) FROM flatearth.job_leases"))


async def short_async(_context: Context, _payload: NoPayload) -> None:
    note("began")
    await asyncio.sleep(0.4)


def short_plain(_context: Context, _payload: NoPayload) -> None:
    note("began")
    time.sleep(0.4)


@pytest.mark.parametrize("short", [short_async, short_plain])
@pytest.mark.parametrize("guarantee", [Guarantee.AT_LEAST_ONCE, Guarantee.AT_MOST_ONCE])
def test_a_job_that_ends_within_the_grace_is_finished_and_nothing_else_begins(
    engine: sa.Engine, database: str, short: Any, guarantee: Guarantee
) -> None:
    running, waiting = add(engine, "short"), add(engine, "short")

    report, _ = stop_when(
        engine, database, [handler(short, name="short", guarantee=guarantee)], "began", concurrency=1, grace=8
    )

    assert states(engine) == {running: "succeeded", waiting: "pending"}
    assert (job(engine, running)["attempts"], job(engine, waiting)["attempts"]) == (1, 0)
    assert report.total("succeeded") == 1
    assert leases(engine) == 0


async def stay_async(_context: Context, _payload: NoPayload) -> None:
    note("began")
    await asyncio.sleep(5)


def stay_plain(_context: Context, _payload: NoPayload) -> None:
    note("began")
    time.sleep(5)


def stay_in_postgres(context: Context, _payload: NoPayload) -> None:
    context.connection.execute(sa.text("INSERT INTO flatearth.accounts (name) VALUES ('undone')"))
    note("began")
    context.connection.execute(sa.text("SELECT pg_sleep(30)"))


def obey(context: Context, _payload: NoPayload) -> None:
    note("began")
    while True:
        context.check()
        time.sleep(0.01)


STAYING = [
    pytest.param(stay_async, Guarantee.AT_LEAST_ONCE, id="async"),
    pytest.param(stay_plain, Guarantee.AT_LEAST_ONCE, id="plain"),
    pytest.param(stay_in_postgres, Guarantee.TRANSACTIONAL, id="in a statement"),
    pytest.param(obey, Guarantee.AT_LEAST_ONCE, id="obeys"),
    pytest.param(obey, Guarantee.TRANSACTIONAL, id="transactional that obeys"),
]


@pytest.mark.parametrize(("stays", "guarantee"), STAYING)
def test_a_job_that_does_not_end_within_the_grace_is_handed_back_as_if_it_had_not_been_claimed(
    engine: sa.Engine, database: str, stays: Any, guarantee: Guarantee
) -> None:
    job_id = add(engine, "stays", concurrency_key="one")

    report, seconds = stop_when(engine, database, [handler(stays, name="stays", guarantee=guarantee)], "began")

    assert seconds < 4
    row = job(engine, job_id)
    assert (row["state"], row["attempts"], row["started_at"], row["last_error"]) == ("pending", 0, None, None)
    assert report.outcomes == {("stays", "handed back"): 1}
    assert names(engine) == ["began"]
    assert leases(engine) == scalar(engine, "SELECT count(*) FROM flatearth.live_jobs WHERE lease_id IS NOT NULL") == 0


@pytest.mark.parametrize("stays", [stay_async, stay_plain, obey])
def test_a_job_that_runs_at_most_once_and_does_not_end_within_the_grace_is_dead(
    engine: sa.Engine, database: str, stays: Any
) -> None:
    job_id = add(engine, "stays")

    stop_when(engine, database, [handler(stays, name="stays", guarantee=Guarantee.AT_MOST_ONCE)], "began", grace=0.4)

    assert job(engine, job_id)["state"] == "failed"
    assert job(engine, job_id)["last_error"] == "The worker was stopped, and this handler runs at most once"


def test_a_handler_is_told_to_stop_while_there_is_grace_left_to_end_in_its_own_way(
    engine: sa.Engine, database: str
) -> None:
    def tidy(context: Context, _payload: NoPayload) -> dict[str, bool]:
        note("began")
        until(lambda: context.stop_requested)
        return {"tidy": True}

    job_id = add(engine, "tidy")
    stop_when(engine, database, [handler(tidy)], "began", grace=3)

    assert job(engine, job_id)["state"] == "succeeded"
    assert job(engine, job_id)["result"] == {"tidy": True}


def test_a_coroutine_that_swallows_its_cancellation_does_not_outlast_the_grace_for_long(
    engine: sa.Engine, database: str
) -> None:
    async def stubborn(_context: Context, _payload: NoPayload) -> None:
        note("began")
        until_then = time.monotonic() + 6
        while time.monotonic() < until_then:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.1)

    job_id = add(engine, "stubborn")
    _, seconds = stop_when(engine, database, [handler(stubborn)], "began", grace=0.4)

    assert seconds < 4
    assert (job(engine, job_id)["state"], job(engine, job_id)["attempts"]) == ("pending", 0)


def test_of_many_jobs_each_is_done_or_waits_as_before_and_the_next_drain_does_the_rest(
    engine: sa.Engine, database: str
) -> None:
    done: Counter[int] = Counter()
    thousandth = threading.Event()

    async def work(context: Context, _payload: NoPayload) -> None:
        done[context.job_id] += 1
        if done.total() == 1_000:
            thousandth.set()
        await asyncio.sleep(0)

    change(engine, "SELECT flatearth.enqueue_job('work') FROM generate_series(1, 20000)")
    drain = new_drain(database, [handler(work)], grace=5)
    ended = start(drain)
    assert thousandth.wait(DEADLINE)
    drain.stop()
    report = ended.result(DEADLINE)

    assert scalar(engine, "SELECT count(*) FROM flatearth.live_jobs WHERE lease_id IS NOT NULL") == 0
    left = scalar(engine, "SELECT count(*) FROM flatearth.live_jobs WHERE lease_id IS NULL AND attempts = 0")
    assert left > 0
    assert len(done) == report.total("succeeded") == 20_000 - left
    assert report.claimed == report.total("succeeded") + report.total("handed back")
    assert leases(engine) == 0

    drained(database, [handler(work)])
    assert len(done) == done.total() == 20_000
    assert scalar(engine, "SELECT count(*) FROM flatearth.finished_jobs WHERE attempts = 1") == 20_000


def test_a_job_that_has_killed_a_worker_does_not_begin_beside_others_when_the_drain_is_stopped(
    engine: sa.Engine, database: str
) -> None:
    def suspect(_context: Context, _payload: NoPayload) -> None:
        note("the suspect began")

    running, suspected = add(engine, "short", priority=1), add(engine, "suspect")
    change(engine, "UPDATE flatearth.live_jobs SET lost_workers = 1 WHERE id = :id", id=suspected)

    stop_when(engine, database, [handler(short_plain, name="short"), handler(suspect)], "began", grace=8)

    assert states(engine) == {running: "succeeded", suspected: "pending"}
    assert names(engine) == ["began"]
    assert job(engine, suspected)["attempts"] == 0


def test_a_drain_that_is_stopped_before_it_begins_claims_nothing(engine: sa.Engine, database: str) -> None:
    job_id = add(engine, "obey")
    drain = new_drain(database, [handler(obey)])

    drain.stop()
    report = start(drain).result(DEADLINE)

    assert (report.claimed, job(engine, job_id)["attempts"], leases(engine)) == (0, 0, 0)


def test_a_drain_that_waits_for_work_stops_at_once_and_may_be_told_so_again(engine: sa.Engine, database: str) -> None:
    drain = new_drain(database, [handler(obey)], stay=60)
    ended = start(drain)
    until(lambda: scalar(engine, "SELECT count(*) FROM flatearth.job_leases WHERE waiting") == 1)

    drain.stop()
    drain.stop()

    assert ended.result(3).outcomes == {}
    drain.stop()
    assert leases(engine) == 0


def test_a_process_that_is_terminated_hands_back_and_says_so(engine: sa.Engine, database: str) -> None:
    assert database  # the environment's, and so the process's
    job_id = add(engine, "wait")
    with process(stay=60, grace=1) as worker:
        until(lambda: f"began {job_id}" in names(engine))
        worker.send_signal(signal.SIGTERM)
        output, _ = worker.communicate(timeout=DEADLINE)

    assert (worker.returncode, output) == (0, '{"wait handed back": 1}')
    assert (job(engine, job_id)["state"], job(engine, job_id)["attempts"]) == ("pending", 0)
