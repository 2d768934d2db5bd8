"""A drain from opening its lease to closing it: what it claims, how long it stays, and what it does besides."""

import asyncio
import threading
import time
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa

from flatearth_pipelines.errors import LeaseLost
from flatearth_pipelines.queue.handlers import Context, Guarantee, NoPayload
from flatearth_pipelines_tests.queue.workers import (
    DEADLINE,
    add,
    change,
    drained,
    draining,
    expire_leases,
    handler,
    job,
    names,
    new_drain,
    note,
    scalar,
    start,
    states,
    until,
    until_gone,
)


async def noop(_context: Context, _payload: NoPayload) -> None:
    """Nothing."""


def test_a_drain_with_nothing_to_do_ends_and_leaves_nothing_behind(engine: sa.Engine, database: str) -> None:
    report = drained(database, [handler(noop)])

    assert (report.outcomes, report.claimed, report.rescued, report.cron_ticks, report.fenced) == ({}, 0, 0, 0, 0)
    assert scalar(engine, "SELECT count(*) FROM flatearth.job_leases") == 0


@pytest.mark.parametrize("options", [{}, {"batch_size": 1}, {"batch_size": 7}, {"concurrency": 1}, {"concurrency": 50}])
def test_everything_that_is_due_is_done_once_and_what_is_not_due_waits(
    engine: sa.Engine, database: str, options: dict[str, Any]
) -> None:
    seen: list[int] = []

    async def work(context: Context, _payload: NoPayload) -> None:
        seen.append(context.job_id)

    change(engine, "SELECT flatearth.enqueue_job('work', priority => n % 3) FROM generate_series(1, 120) AS n")
    later = add(engine, "work", delay="1 hour", priority=5)
    report = drained(database, [handler(work)], **options)

    assert sorted(seen) == sorted(set(states(engine)) - {later})
    assert len(seen) == report.claimed == report.total("succeeded") == 120
    assert report.fenced == 0
    assert job(engine, later)["state"] == "pending"


def test_two_drains_share_the_work_and_neither_does_a_job_of_the_other(engine: sa.Engine, database: str) -> None:
    seen: list[int] = []

    async def work(context: Context, _payload: NoPayload) -> None:
        seen.append(context.job_id)
        await asyncio.sleep(0.005)

    change(engine, "SELECT flatearth.enqueue_job('work') FROM generate_series(1, 300)")
    both = [start(new_drain(database, [handler(work)])) for _ in range(2)]
    done = [ended.result(DEADLINE).total("succeeded") for ended in both]

    assert len(seen) == len(set(seen)) == sum(done) == 300


def test_a_job_that_is_enqueued_by_a_job_is_done_in_the_same_drain(engine: sa.Engine, database: str) -> None:
    def parent(context: Context, _payload: NoPayload) -> None:
        context.connection.execute(sa.text("SELECT flatearth.enqueue_job('noop')"))

    add(engine, "parent")
    report = drained(database, [handler(parent, guarantee=Guarantee.TRANSACTIONAL), handler(noop)])

    assert report.outcomes == {("parent", "succeeded"): 1, ("noop", "succeeded"): 1}


def test_a_higher_priority_that_comes_while_the_drain_is_busy_runs_next(engine: sa.Engine, database: str) -> None:
    order: list[int] = []
    go_on = threading.Event()

    def work(context: Context, _payload: NoPayload) -> None:
        order.append(context.job_id)
        go_on.wait(DEADLINE)

    first, low = add(engine, "work"), add(engine, "work")
    with draining(database, [handler(work)], concurrency=1):
        until(lambda: order == [first])
        high = add(engine, "work", priority=1)
        go_on.set()
        until(lambda: len(order) == 3)

    assert order == [first, high, low]


def test_jobs_with_one_concurrency_key_run_one_at_a_time_in_the_order_of_their_time(
    engine: sa.Engine, database: str
) -> None:
    order: list[int] = []
    at_work = threading.Semaphore(1)

    async def work(context: Context, _payload: NoPayload) -> None:
        assert at_work.acquire(blocking=False)
        await asyncio.sleep(0.02)
        order.append(context.job_id)
        at_work.release()

    ids = [add(engine, "work", concurrency_key="one") for _ in range(6)]
    change(engine, "UPDATE flatearth.live_jobs SET run_at = now() - id * interval '1 minute'")
    drained(database, [handler(work, max_attempts=1)])

    assert order == ids[::-1]


@pytest.mark.parametrize("due_in", [0.0, 0.6])
def test_a_drain_that_stays_begins_a_job_soon_after_it_is_due(engine: sa.Engine, database: str, due_in: float) -> None:
    """100 ms are promised; a machine under load is given a second."""
    begun: dict[int, float] = {}

    async def work(context: Context, _payload: NoPayload) -> None:
        begun[context.job_id] = time.monotonic()

    with draining(database, [handler(work)]):
        until(lambda: scalar(engine, "SELECT count(*) FROM flatearth.job_leases WHERE waiting") == 1)
        for _ in range(2):  # once from the beginning, once from after some work
            due_at = time.monotonic() + due_in
            job_id = add(engine, "work", delay=f"{due_in} s")
            until(partial(begun.__contains__, job_id))
            assert -0.05 < begun[job_id] - due_at < 1


def test_a_drain_stays_for_its_time_since_it_last_had_work(engine: sa.Engine, database: str) -> None:
    add(engine, "noop", delay="0.5 s")
    began = time.monotonic()

    report = drained(database, [handler(noop)], stay=0.8)

    assert report.total("succeeded") == 1
    assert 1.2 < time.monotonic() - began < 10


def test_a_drain_that_does_not_stay_ends_when_nothing_is_due(engine: sa.Engine, database: str) -> None:
    job_id = add(engine, "noop", delay="3 s")

    drained(database, [handler(noop)])

    assert job(engine, job_id)["state"] == "pending"


def test_after_its_longest_time_a_drain_claims_nothing_more_and_finishes_what_it_began(
    engine: sa.Engine, database: str
) -> None:
    async def again(_context: Context, _payload: NoPayload) -> None:
        await asyncio.to_thread(add, engine, "again")
        await asyncio.sleep(0.02)

    add(engine, "again")
    began = time.monotonic()
    report = drained(database, [handler(again)], stay=60, longest=2)

    assert 1.9 < time.monotonic() - began < 20
    assert report.claimed == report.total("succeeded") >= 2
    assert sorted(set(states(engine).values())) == ["pending", "succeeded"]


def test_a_drain_whose_longest_time_is_over_at_once_claims_nothing(engine: sa.Engine, database: str) -> None:
    job_id = add(engine, "noop")

    assert drained(database, [handler(noop)], longest=0, stay=60).claimed == 0
    assert job(engine, job_id)["attempts"] == 0


# Runs of their own


def test_a_heavy_job_that_came_in_a_batch_is_moved_and_then_drained_in_runs_of_its_own_one_at_a_time(
    engine: sa.Engine, database: str
) -> None:
    handlers = [handler(noop, name="heavy", own_run=True), handler(noop)]
    heavy = [add(engine, "heavy") for _ in range(2)]
    light = add(engine, "noop")

    batch = drained(database, handlers)

    assert batch.outcomes == {("heavy", "handed back"): 2, ("noop", "succeeded"): 1}
    assert [(job(engine, each)["state"], job(engine, each)["attempts"]) for each in heavy] == [("pending", 0)] * 2
    assert drained(database, handlers).claimed == 0

    for done in (1, 2):
        assert drained(database, handlers, own_run=True).outcomes == {("heavy", "succeeded"): 1}
        assert list(states(engine).values()).count("succeeded") == 1 + done
    assert drained(database, handlers, own_run=True).claimed == 0
    assert states(engine) == dict.fromkeys([*heavy, light], "succeeded")


def test_a_run_of_its_own_takes_no_light_job(engine: sa.Engine, database: str) -> None:
    light = add(engine, "noop")
    heavy = add(engine, "heavy", own_run=True)

    drained(database, [handler(noop), handler(noop, name="heavy", own_run=True)], own_run=True)

    assert states(engine) == {light: "pending", heavy: "succeeded"}


# What it does besides


def test_cron_jobs_tick_inside_a_drain_and_their_job_is_done_in_it(engine: sa.Engine, database: str) -> None:
    change(
        engine,
        "INSERT INTO flatearth.cron_jobs (name, pattern, handler, next_run_at)"
        " VALUES ('every hour', 'hourly', 'noop', now() - interval '5 hours')",
    )

    report = drained(database, [handler(noop)])

    assert (report.cron_ticks, report.outcomes) == (1, {("noop", "succeeded"): 1})
    assert scalar(engine, "SELECT origin FROM flatearth.jobs") == "cron"
    assert scalar(engine, "SELECT run_count FROM flatearth.cron_jobs WHERE next_run_at > now()") == 1


def test_cron_jobs_tick_in_a_drain_that_stays(engine: sa.Engine, database: str) -> None:
    with draining(database, [handler(noop)]):
        until(lambda: scalar(engine, "SELECT count(*) FROM flatearth.job_leases WHERE waiting") == 1)
        change(
            engine,
            "INSERT INTO flatearth.cron_jobs (name, pattern, handler, next_run_at)"
            " VALUES ('every hour', 'hourly', 'noop', clock_timestamp() + interval '0.3 s')",
        )
        until(lambda: list(states(engine).values()) == ["succeeded"])


# The lease


async def block(_context: Context, _payload: NoPayload) -> None:
    time.sleep(3)  # noqa: ASYNC251 - what a careless handler does


async def work_async(_context: Context, _payload: NoPayload) -> None:
    await asyncio.sleep(3)


def work_plain(_context: Context, _payload: NoPayload) -> None:
    time.sleep(3)


@pytest.mark.parametrize("work", [work_async, work_plain, block], ids=["async", "plain", "blocks the event loop"])
def test_a_job_may_run_for_longer_than_its_lease_which_is_renewed(engine: sa.Engine, database: str, work: Any) -> None:
    job_id = add(engine, "work")
    ended = start(new_drain(database, [handler(work, name="work")], lease=2))
    until(lambda: job(engine, job_id)["state"] == "running")

    rescuer = drained(database, [handler(work, name="work")], stay=2.2)

    assert ended.result(DEADLINE).total("succeeded") == 1
    assert (rescuer.rescued, job(engine, job_id)["attempts"]) == (0, 1)


@pytest.mark.parametrize("guarantee", list(Guarantee))
def test_a_drain_that_lost_its_lease_in_mid_flight_raises_and_what_it_does_has_no_effect(
    engine: sa.Engine, database: str, guarantee: Guarantee
) -> None:
    go_on, over = threading.Event(), threading.Event()

    def work(context: Context, _payload: NoPayload) -> dict[str, int]:
        if guarantee is Guarantee.TRANSACTIONAL:
            context.connection.execute(sa.text("INSERT INTO flatearth.accounts (name) VALUES ('written')"))
        note(f"attempt {context.attempt}")
        if context.attempt == 1:
            go_on.wait(DEADLINE)
            over.set()
        return {"attempt": context.attempt}

    job_id = add(engine, "work")
    handlers = [handler(work, guarantee=guarantee)]
    first = start(new_drain(database, handlers, lease=30))
    until(lambda: "attempt 1" in names(engine))
    expire_leases(engine)
    second = drained(database, handlers, stay=2.5)  # at its first look the lease may be locked by a claim
    before = job(engine, job_id)
    go_on.set()
    assert over.wait(DEADLINE)

    assert isinstance(first.exception(DEADLINE), LeaseLost)
    assert "\n" not in str(first.exception())
    assert second.rescued == 1
    assert job(engine, job_id) == before
    if guarantee is Guarantee.AT_MOST_ONCE:
        assert (before["state"], before["attempts"], before["result"]) == ("failed", 1, None)
    else:
        assert (before["state"], before["attempts"], before["result"]) == ("succeeded", 2, {"attempt": 2})
    assert names(engine).count("written") == (1 if guarantee is Guarantee.TRANSACTIONAL else 0)


def test_a_drain_whose_lease_ran_out_notices_although_it_has_nothing_to_record(
    engine: sa.Engine, database: str
) -> None:
    ended = start(new_drain(database, [handler(noop)], lease=1, stay=60))
    until(lambda: scalar(engine, "SELECT count(*) FROM flatearth.job_leases WHERE waiting") == 1)

    expire_leases(engine)

    assert isinstance(ended.exception(DEADLINE), LeaseLost)


def test_a_transactional_handler_hears_of_the_lost_lease_and_leaves_no_session_behind(
    engine: sa.Engine, database: str
) -> None:
    heard = threading.Event()

    def work(context: Context, _payload: NoPayload) -> None:
        note("began")
        until(lambda: context.stop_requested)
        heard.set()

    add(engine, "work")
    ended = start(new_drain(database, [handler(work, guarantee=Guarantee.TRANSACTIONAL)], lease=1))
    until(lambda: "began" in names(engine))
    change(engine, "DELETE FROM flatearth.job_leases")

    assert isinstance(ended.exception(DEADLINE), LeaseLost)
    assert heard.wait(DEADLINE)
    until_gone(engine)
