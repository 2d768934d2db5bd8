"""Two sessions and more at once: nothing is done twice, nothing is lost, nobody waits for somebody's transaction."""

import asyncio
import contextlib
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from flatearth_pipelines import database as db
from flatearth_pipelines.errors import LeaseLost
from flatearth_pipelines.queue import leases
from flatearth_pipelines.queue.backoff import Fixed
from flatearth_pipelines.queue.clerk import Options
from flatearth_pipelines.queue.drain import Drain
from flatearth_pipelines.queue.functions import cancel_job
from flatearth_pipelines.queue.handlers import Context, Guarantee, Handler, NoPayload, Payload, Registry, Retry
from flatearth_pipelines.queue.storage import finish_job, read_job
from flatearth_pipelines_tests.conftest import ROOT
from flatearth_pipelines_tests.queue.conftest import (
    MINUTE,
    claim,
    enqueue,
    fail,
    finish,
    in_background,
    open_lease,
    wait_until_blocked,
)

SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
DEADLINE = 60.0


class At(Payload):
    at: datetime


def _do_nothing(_context: Context, _payload: Payload) -> None:
    """Nothing."""


def _retry_at(_context: Context, payload: At) -> None:
    raise Retry("not yet", at=payload.at)


def _fail(_context: Context, _payload: Payload) -> None:
    raise ValueError("no")


HANDLERS = Registry(
    [
        Handler("noop", NoPayload, _do_nothing, backoff=Fixed(timedelta(0))),
        Handler("once", NoPayload, _do_nothing, Guarantee.AT_MOST_ONCE),
        Handler("at", At, _retry_at),
        Handler("fail", NoPayload, _fail, backoff=Fixed(HOUR / 2)),
    ]
)


# ------------------------------------------------------------------------------------------------ what tests say


def add(engine: sa.Engine, handler: str = "noop", payload: Any = None, **options: Any) -> int:
    with engine.begin() as connection:
        return enqueue(connection, handler, payload, **options)


def lease_of(engine: sa.Engine, most: int = 1_000) -> tuple[int, list[int]]:
    """A new lease and what it has claimed."""
    with engine.begin() as connection:
        lease_id = open_lease(connection)
        return lease_id, claim(connection, lease_id, most)


def job(engine: sa.Engine, job_id: int) -> dict[str, Any]:
    with engine.connect() as connection:
        return read_job(connection, job_id)


def column(engine: sa.Engine, query: str) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.execute(sa.text(query)).scalars())


def expire(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE flatearth.job_leases SET expires_at = clock_timestamp()"))


def sweep(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text("SELECT flatearth.sweep_jobs()"))


def on_connection(conninfo: str, call: Callable[[psycopg.AsyncConnection], Any]) -> Any:
    """What the coroutine returns, on a connection of its own."""

    async def body() -> Any:
        async with await db.connect_async(conninfo, "somebody else") as connection:
            return await call(connection)

    return asyncio.run(body())


def rescue(conninfo: str) -> int:
    """How many jobs were taken from leases that had run out."""
    rescued: int = on_connection(conninfo, lambda connection: leases.rescue(connection, HANDLERS))
    return rescued


def rescued_of(conninfo: str) -> Callable[[sa.Connection], int]:
    """For `in_background`."""
    return lambda _connection: rescue(conninfo)


def at_once(count: int, call: Callable[[int], Any]) -> list[Any]:
    """What so many threads return that begin together."""
    start = threading.Barrier(count)

    def body(number: int) -> Any:
        start.wait(DEADLINE)
        return call(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(body, range(count)))


@contextlib.contextmanager
def session(conninfo: str) -> Generator[psycopg.Connection]:
    with contextlib.closing(db.connect(conninfo, "somebody")) as connection:
        connection.autocommit = True
        yield connection


def claimed_by(connection: psycopg.Connection, lease_id: int, most: int) -> list[tuple[int, str]]:
    query = "SELECT id, concurrency_key FROM flatearth.claim_jobs(%s, %s)"
    return connection.execute(query, [lease_id, most]).fetchall()


def lease_in(connection: psycopg.Connection) -> int:
    query = (
        "INSERT INTO flatearth.job_leases (owner, expires_at)"
        " VALUES ('tests', clock_timestamp() + interval '5 minutes') RETURNING id"
    )
    row = connection.execute(query).fetchone()
    assert row is not None
    return int(row[0])


def finish_in(connection: psycopg.Connection, lease_id: int, ids: Sequence[int]) -> None:
    row = connection.execute("SELECT flatearth.finish_jobs(%s, %s::bigint[])", [lease_id, list(ids)]).fetchone()
    assert row == (len(ids),)


# ---------------------------------------------------------------------------------------------- claim against claim


def test_six_claimers_with_batches_of_any_size_never_share_a_job_and_leave_none(
    engine: sa.Engine, database: str
) -> None:
    with engine.begin() as connection:
        jobs = json.dumps([{"handler": "noop", "priority": number % 3} for number in range(600)])
        ids = list(
            connection.execute(sa.text("SELECT flatearth.enqueue_jobs(CAST(:j AS jsonb))"), {"j": jobs}).scalars()
        )

    def work(number: int) -> list[int]:
        draw, mine = random.Random(number), []  # noqa: S311
        with session(database) as connection:
            lease_id = lease_in(connection)
            while claimed := claimed_by(connection, lease_id, draw.randint(1, 25)):
                mine += [job_id for job_id, _ in claimed]
                finish_in(connection, lease_id, mine[-len(claimed) :][::-1])
        return mine

    shares = at_once(6, work)
    assert sorted(job_id for share in shares for job_id in share) == ids
    assert sorted(column(engine, "SELECT id FROM flatearth.finished_jobs")) == ids
    assert column(engine, "SELECT DISTINCT attempts FROM flatearth.finished_jobs") == [1]
    assert column(engine, "SELECT count(*) FROM flatearth.live_jobs") == [0]


def test_a_claim_passes_over_what_another_claim_has_not_committed_yet(
    engine: sa.Engine, other_engine: sa.Engine
) -> None:
    first, second = add(engine), add(engine)
    with engine.begin() as connection:
        assert claim(connection, open_lease(connection), 1) == [first]
        assert lease_of(other_engine)[1] == [second]
        connection.rollback()
    assert lease_of(other_engine)[1] == [first]


# ------------------------------------------------------------------------------------------ workers that are lost


def killed_in_its_transaction(engine: sa.Engine, call: Callable[[sa.Connection], None]) -> None:
    """End the session before it commits, as the death of its process does."""
    with engine.connect() as connection:
        pid = connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()
        call(connection)
        with engine.begin() as other:
            other.execute(sa.text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
        connection.invalidate()


def test_a_worker_that_dies_before_its_claim_commits_has_claimed_nothing(engine: sa.Engine) -> None:
    job_id = add(engine)
    lease_id, _ = lease_of(engine, 0)
    killed_in_its_transaction(engine, lambda connection: assert_equal(claim(connection, lease_id), [job_id]))
    assert job(engine, job_id)["attempts"] == 0
    assert lease_of(engine)[1] == [job_id]


def test_a_worker_that_dies_in_the_middle_of_a_batch_leaves_what_it_recorded_and_the_rest_runs_again(
    engine: sa.Engine, database: str
) -> None:
    ids = [add(engine) for _ in range(4)]
    lease_id, _ = lease_of(engine)
    with engine.begin() as connection:
        assert finish(connection, lease_id, ids[:2]) == 2
    killed_in_its_transaction(engine, lambda connection: assert_equal(finish(connection, lease_id, ids[2:3]), 1))

    assert rescue(database) == 0
    expire(engine)
    assert rescue(database) == 2
    assert [job(engine, job_id)["state"] for job_id in ids] == ["succeeded"] * 2 + ["pending"] * 2
    again, claimed = lease_of(engine)
    assert claimed == ids[2:3]  # alone: it may have killed its worker
    assert job(engine, ids[2])["attempts"] == 2
    with engine.begin() as connection:
        assert finish(connection, again, claimed) == 1
    assert lease_of(engine)[1] == ids[3:]


def test_attempts_are_counted_at_the_claim_and_the_last_one_that_loses_its_worker_is_dead(
    engine: sa.Engine, database: str
) -> None:
    job_id = add(engine, max_attempts=3)
    for attempt in (1, 2, 3):
        assert lease_of(engine)[1] == [job_id]
        assert job(engine, job_id)["attempts"] == attempt
        expire(engine)
        assert rescue(database) == 1
    ended = job(engine, job_id)
    assert (ended["state"], ended["attempts"]) == ("failed", 3)
    assert ended["last_error"] == "The worker was lost in attempt 3 of 3"


def test_a_lost_job_that_runs_at_most_once_is_dead_and_never_claimed_again(engine: sa.Engine, database: str) -> None:
    job_id = add(engine, "once")
    lease_of(engine)
    expire(engine)
    assert rescue(database) == 1
    assert job(engine, job_id)["state"] == "failed"
    assert lease_of(engine)[1] == []


def test_a_lost_job_that_was_told_to_stop_is_cancelled_and_not_run_again(engine: sa.Engine, database: str) -> None:
    job_id = add(engine)
    lease_of(engine)
    with engine.begin() as connection:
        assert cancel_job(connection, job_id, "enough")
    expire(engine)
    rescue(database)
    ended = job(engine, job_id)
    assert (ended["state"], ended["last_error"]) == ("cancelled", "enough")


def test_two_who_rescue_at_once_count_a_lost_worker_once(
    engine: sa.Engine, other_engine: sa.Engine, database: str
) -> None:
    job_id = add(engine)
    lease_of(engine)
    expire(engine)

    async def hold(connection: psycopg.AsyncConnection) -> tuple[int, int]:
        async with connection.transaction():
            mine = await leases.rescue(connection, HANDLERS)
            return mine, await asyncio.to_thread(rescue, database)

    assert on_connection(database, hold) == (1, 0)
    assert rescue(database) == 0
    assert column(other_engine, f"SELECT lost_workers FROM flatearth.live_jobs WHERE id = {job_id}") == [1]


# ---------------------------------------------------------------------------------------------------------- zombies


def zombie(engine: sa.Engine, database: str, **options: Any) -> tuple[int, int, int]:
    """A job, the lease that lost it, and the one that has it now."""
    job_id = add(engine, **options)
    lease_id, _ = lease_of(engine)
    expire(engine)
    assert rescue(database) == 1
    another, claimed = lease_of(engine)
    assert claimed == [job_id]
    return job_id, lease_id, another


def test_nothing_that_a_zombie_says_has_an_effect(engine: sa.Engine, database: str) -> None:
    job_id, lost, owner = zombie(engine, database)
    before = job(engine, job_id)

    async def say_everything(connection: psycopg.AsyncConnection) -> list[Any]:
        said = [
            await leases.finish(connection, lost, [job_id], {str(job_id): {"from": "a zombie"}}),
            await leases.cancel(connection, lost, [job_id], "a zombie says so"),
            await leases.fail(connection, lost, [(job_id, "a zombie says so", None)]),
            await leases.fail(connection, lost, [(job_id, "a zombie says so", 0)]),
            await leases.fail(connection, lost, [(job_id, "a zombie says so", 0)], lost=True),
            await leases.hand_back(connection, lost, [job_id]),
            await leases.hand_back(connection, lost, [job_id], own_run=True),
        ]
        await leases.close_lease(connection, lost)
        return [await cursor.fetchone() for cursor in said]

    assert on_connection(database, say_everything) == [(0,)] * 7
    with session(database) as connection:
        leases.write_progress(connection, lost, {job_id: (99.0, "nearly")})
        assert leases.read_stop_requests(connection, lost) == []
    assert job(engine, job_id) == before
    assert column(engine, f"SELECT lease_id FROM flatearth.live_jobs WHERE id = {job_id}") == [owner]


def test_a_zombie_can_neither_claim_nor_renew_its_lease(engine: sa.Engine, database: str) -> None:
    _, lost, _ = zombie(engine, database)
    add(engine)
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        on_connection(database, lambda connection: leases.claim(connection, lost, 1))
    with session(database) as connection, pytest.raises(LeaseLost, match=f"Lease {lost} has run out"):
        leases.renew_lease(connection, lost, HOUR)
    assert column(engine, f"SELECT count(*) FROM flatearth.job_leases WHERE id = {lost}") == [0]


def test_a_lease_that_ran_out_is_not_renewed_even_before_anybody_has_rescued_its_jobs(
    engine: sa.Engine, database: str
) -> None:
    add(engine)
    lease_id, _ = lease_of(engine)
    with session(database) as connection:
        leases.renew_lease(connection, lease_id, HOUR)
        assert rescue(database) == 0
        expire(engine)
        with pytest.raises(LeaseLost):
            leases.renew_lease(connection, lease_id, HOUR)
    assert rescue(database) == 1


def test_a_transactional_handler_whose_job_was_taken_meanwhile_is_told_and_rolls_back(
    engine: sa.Engine, other_engine: sa.Engine, database: str
) -> None:
    job_id = add(engine)
    lease_id, _ = lease_of(engine)
    with engine.begin() as work:
        work.execute(sa.text("INSERT INTO flatearth.accounts (name) VALUES ('written')"))
        expire(other_engine)
        assert rescue(database) == 1
        assert finish_job(work, lease_id, job_id, None) is False
        work.rollback()
    assert column(engine, "SELECT name FROM flatearth.accounts") == []
    assert job(engine, job_id)["state"] == "pending"


def test_who_records_before_the_rescue_wins_and_the_rescue_leaves_its_job_alone(
    engine: sa.Engine, other_engine: sa.Engine, database: str
) -> None:
    job_id = add(engine)
    lease_id, _ = lease_of(engine)
    expire(engine)
    with engine.begin() as work:
        assert finish_job(work, lease_id, job_id, None)
        rescuing = in_background(other_engine, rescued_of(database))
        time.sleep(0.2)  # it waits, or has passed over the lease: both are right
    rescuing.result(DEADLINE)
    rescue(database)
    assert job(engine, job_id)["state"] == "succeeded"
    assert column(engine, "SELECT count(*) FROM flatearth.live_jobs") == [0]


def test_who_records_after_the_rescue_has_begun_changes_nothing(
    engine: sa.Engine, other_engine: sa.Engine, database: str
) -> None:
    job_id = add(engine)
    lease_id, _ = lease_of(engine)
    expire(engine)

    async def hold(connection: psycopg.AsyncConnection) -> Any:
        async with connection.transaction():
            assert await leases.rescue(connection, HANDLERS) == 1
            finishing = in_background(other_engine, lambda other: finish(other, lease_id, [job_id]))
            await asyncio.to_thread(wait_until_blocked, engine)
        return finishing

    assert on_connection(database, hold).result(DEADLINE) == 0
    assert job(engine, job_id)["state"] == "pending"


def test_a_claim_that_has_not_committed_when_its_lease_runs_out_is_rescued_after_it(
    engine: sa.Engine, other_engine: sa.Engine, database: str
) -> None:
    job_id = add(engine)
    lease_id, _ = lease_of(engine, 0)
    with engine.begin() as connection:
        assert claim(connection, lease_id) == [job_id]
        expire(other_engine)
        assert rescue(database) == 0
    assert rescue(database) == 1
    assert job(engine, job_id)["state"] == "pending"


def test_a_zombie_that_records_job_after_job_and_its_rescuer_do_not_block_each_other_for_ever(
    engine: sa.Engine, other_engine: sa.Engine, database: str
) -> None:
    first, second = add(engine), add(engine)
    lease_id, _ = lease_of(engine)
    expire(engine)
    with engine.begin() as connection:
        assert finish(connection, lease_id, [second]) == 1
        rescuing = in_background(other_engine, rescued_of(database))
        time.sleep(0.3)  # it waits, or has passed over the lease: both are right
        assert fail(connection, lease_id, [first]) in (0, 1)
    rescuing.result(DEADLINE)
    rescue(database)
    assert job(engine, second)["state"] == "succeeded"
    assert job(engine, first)["state"] in ("failed", "pending")


# ------------------------------------------------------------------------------------------------- concurrency keys


def test_four_drains_with_keys_in_mixed_order_run_one_job_of_a_key_at_a_time_and_all_of_them_without_a_sweep(
    engine: sa.Engine, database: str
) -> None:
    draw = random.Random(4)  # noqa: S311
    keys = [f"key {number}" for number in range(7)] + [None]
    jobs = [
        {"handler": "noop", "concurrency_key": draw.choice(keys), "priority": draw.randint(0, 3)} for _ in range(240)
    ]
    with engine.begin() as connection:
        connection.execute(sa.text("SELECT flatearth.enqueue_jobs(CAST(:j AS jsonb))"), {"j": json.dumps(jobs)})
    running: Counter[str] = Counter()
    shared: list[str] = []
    counting = threading.Lock()
    done = threading.Event()
    deadline = time.monotonic() + DEADLINE

    def work(number: int) -> int:
        draw, ended = random.Random(number), 0  # noqa: S311
        with session(database) as connection:
            lease_id = lease_in(connection)
            while not done.is_set() and time.monotonic() < deadline:
                claimed = claimed_by(connection, lease_id, draw.randint(1, 30))
                held = [key for _, key in claimed if key is not None]
                with counting:
                    running.update(held)
                    shared.extend(key for key in held if running[key] > 1)
                draw.shuffle(claimed)
                with counting:
                    running.subtract(held)
                if claimed:
                    finish_in(connection, lease_id, [job_id for job_id, _ in claimed])
                    ended += len(claimed)
                elif connection.execute("SELECT count(*) FROM flatearth.live_jobs").fetchone() == (0,):
                    done.set()
        return ended

    assert sum(at_once(4, work)) == len(jobs)
    assert shared == []
    assert column(engine, "SELECT count(*) FROM flatearth.live_jobs WHERE lease_id IS NOT NULL") == [0]


def test_a_job_that_is_being_parked_while_its_key_becomes_free_is_woken(
    engine: sa.Engine, other_engine: sa.Engine
) -> None:
    first, second = add(engine, concurrency_key="k"), add(engine, concurrency_key="k")
    lease_id, _ = lease_of(engine, 1)
    with engine.begin() as connection:
        assert claim(connection, lease_id) == []
        finishing = in_background(other_engine, lambda other: finish(other, lease_id, [first]))
        wait_until_blocked(engine)
    assert finishing.result(DEADLINE) == 1
    assert lease_of(engine)[1] == [second]


def test_who_claims_while_a_key_becomes_free_has_its_next_job(engine: sa.Engine, other_engine: sa.Engine) -> None:
    first, second = add(engine, concurrency_key="k"), add(engine, concurrency_key="k")
    lease_id, _ = lease_of(engine, 1)
    with engine.begin() as connection:
        assert finish(connection, lease_id, [first]) == 1
        claiming = in_background(other_engine, lambda other: claim(other, lease_id))
        wait_until_blocked(engine)
    assert claiming.result(DEADLINE) == [second]


def test_of_two_who_claim_a_free_key_at_once_one_has_it(engine: sa.Engine, other_engine: sa.Engine) -> None:
    first, second = add(engine, concurrency_key="k"), add(engine, concurrency_key="k")
    lease_id, _ = lease_of(engine, 0)
    with engine.begin() as connection:
        assert claim(connection, open_lease(connection), 1) == [first]
        claiming = in_background(other_engine, lambda other: claim(other, lease_id))
        wait_until_blocked(engine)
    assert claiming.result(DEADLINE) == []
    assert column(engine, f"SELECT parked FROM flatearth.live_jobs WHERE id = {second}") == ["key"]


def test_the_key_of_a_lost_worker_s_job_is_free_for_the_next(engine: sa.Engine, database: str) -> None:
    first, second = add(engine, "once", concurrency_key="k"), add(engine, concurrency_key="k")
    assert lease_of(engine)[1] == [first]
    assert lease_of(engine)[1] == []
    expire(engine)
    assert rescue(database) == 1
    assert lease_of(engine)[1] == [second]


# ------------------------------------------------------------------------------------------------ job keys in motion


@pytest.mark.parametrize("on_conflict", ["keep", "replace", "supersede"])
def test_beside_two_drains_the_newest_job_of_a_key_is_never_lost_and_none_ends_twice(
    engine: sa.Engine, database: str, on_conflict: str
) -> None:
    stop = threading.Event()

    def drain(_number: int) -> int:
        ended = 0
        with session(database) as connection:
            lease_id = lease_in(connection)
            while not stop.is_set():
                connection.execute("SELECT flatearth.sweep_jobs()")
                ids = [job_id for job_id, _ in claimed_by(connection, lease_id, 5)]
                finish_in(connection, lease_id, ids)
                ended += len(ids)
        return ended

    def application(_number: int) -> list[int]:
        query = "SELECT flatearth.enqueue_job('noop', job_key => 'k', on_conflict => %s)"
        with session(database) as connection:
            ids = [int((connection.execute(query, [on_conflict]).fetchone() or (0,))[0]) for _ in range(100)]
        until(lambda: column(engine, "SELECT count(*) FROM flatearth.live_jobs") == [0])
        stop.set()
        return ids

    try:
        said, *ended = at_once(3, lambda number: drain(number) if number else application(number))
    finally:
        stop.set()
    states = {job_id: job(engine, job_id)["state"] for job_id in said}
    assert states[said[-1]] == "succeeded"
    assert set(states.values()) <= ({"succeeded", "cancelled"} if on_conflict == "supersede" else {"succeeded"})
    assert sum(ended) == sum(state == "succeeded" for state in states.values())
    assert sorted(column(engine, "SELECT id FROM flatearth.jobs")) == sorted(states)


def test_a_job_that_completes_while_it_is_superseded_has_succeeded_and_the_new_one_waits(
    engine: sa.Engine, other_engine: sa.Engine
) -> None:
    old = add(engine, job_key="k")
    lease_id, _ = lease_of(engine)
    with engine.begin() as connection:
        assert finish(connection, lease_id, [old]) == 1
        new = add(other_engine, job_key="k", on_conflict="supersede")
    sweep(engine)
    assert [job(engine, job_id)["state"] for job_id in (old, new)] == ["succeeded", "pending"]
    assert column(engine, "SELECT job_id FROM flatearth.job_stop_requests") == []


def test_a_job_that_is_superseded_in_a_transaction_that_is_rolled_back_is_not_told_to_stop(
    engine: sa.Engine, other_engine: sa.Engine
) -> None:
    old = add(engine, job_key="k")
    lease_id, _ = lease_of(engine)
    with engine.begin() as connection:
        enqueue(connection, job_key="k", on_conflict="supersede")
        with other_engine.connect() as keeper:
            assert keeper.execute(sa.text("SELECT count(*) FROM flatearth.job_stop_requests")).scalar_one() == 0
        connection.rollback()
    assert add(engine, job_key="k") == old
    with engine.begin() as connection:
        assert finish(connection, lease_id, [old]) == 1


def test_a_job_that_is_replaced_while_it_completes_is_followed_by_the_new_one(
    engine: sa.Engine, other_engine: sa.Engine
) -> None:
    old = add(engine, job_key="k")
    lease_id, _ = lease_of(engine)
    with engine.begin() as connection:
        assert finish(connection, lease_id, [old]) == 1
        new = add(other_engine, job_key="k", on_conflict="replace")
    sweep(engine)
    assert lease_of(engine)[1] == [new]


def test_a_drain_does_not_end_before_it_has_run_what_waited_for_the_last_job_that_it_ended(
    engine: sa.Engine, database: str
) -> None:
    added: list[int] = []

    def replace_yourself(_context: Context, _payload: NoPayload) -> None:
        if not added:
            added.append(add(engine, "again", job_key="k", on_conflict="replace"))

    first = add(engine, "again", job_key="k")
    Drain(database, Registry([Handler("again", NoPayload, replace_yourself)]), "drain of a test", Options()).run()
    assert added != [first]
    assert [job(engine, job_id)["state"] for job_id in (first, *added)] == ["succeeded", "succeeded"]


# -------------------------------------------------------------------------------------------------- cancel in motion


def test_a_job_that_is_cancelled_and_completes_at_once_ends_once_and_what_was_asked_is_forgotten(
    engine: sa.Engine,
) -> None:
    ids = [add(engine) for _ in range(40)]
    lease_id, claimed = lease_of(engine, 20)
    running, waiting = claimed, ids[20:]

    def race(number: int) -> list[int]:
        done = []
        for job_id in random.Random(number).sample(ids, len(ids)):  # noqa: S311
            with engine.begin() as connection:
                if cancel_job(connection, job_id) if number else finish(connection, lease_id, [job_id]):
                    done.append(job_id)
        return done

    finished, cancelled = at_once(2, race)
    sweep(engine)
    assert sorted(finished) == running
    assert set(cancelled) >= set(waiting)
    states = [job(engine, job_id)["state"] for job_id in ids]
    assert states == ["succeeded"] * 20 + ["cancelled"] * 20
    assert column(engine, "SELECT count(*) FROM flatearth.jobs") == [40]
    assert column(engine, "SELECT count(*) FROM flatearth.job_stop_requests") == [0]


def test_a_job_that_is_claimed_while_it_is_being_cancelled_is_told_to_stop(
    engine: sa.Engine, other_engine: sa.Engine, database: str
) -> None:
    job_id = add(engine)
    lease_id, _ = lease_of(engine, 0)
    with engine.begin() as connection:
        assert claim(connection, lease_id) == [job_id]
        cancelling = in_background(other_engine, lambda other: cancel_job(other, job_id, "enough"))
        wait_until_blocked(engine)
    assert cancelling.result(DEADLINE)
    with session(database) as keeper:
        assert leases.read_stop_requests(keeper, lease_id) == [(job_id, "enough")]


def test_a_job_that_is_being_cancelled_is_not_claimed_and_without_the_commit_it_is(
    engine: sa.Engine, other_engine: sa.Engine
) -> None:
    job_id = add(engine)
    with engine.begin() as connection:
        assert cancel_job(connection, job_id)
        assert lease_of(other_engine)[1] == []
        connection.rollback()
    assert lease_of(other_engine)[1] == [job_id]


def test_a_job_that_is_cancelled_while_it_fails_does_not_run_again(engine: sa.Engine, other_engine: sa.Engine) -> None:
    job_id = add(engine)
    lease_id, _ = lease_of(engine)
    with engine.begin() as connection:
        assert fail(connection, lease_id, [job_id], retry_in=timedelta(0)) == 1
        with other_engine.begin() as application:
            assert cancel_job(application, job_id)
    sweep(engine)
    assert job(engine, job_id)["state"] == "cancelled"
    assert lease_of(engine)[1] == []


def test_a_sweep_does_not_wait_for_an_application_that_is_cancelling_a_job_in_a_long_transaction(
    engine: sa.Engine, other_engine: sa.Engine
) -> None:
    job_id = add(engine)
    lease_id, _ = lease_of(engine)
    with engine.begin() as connection:
        assert cancel_job(connection, job_id)
        assert fail(connection, lease_id, [job_id], retry_in=timedelta(0)) == 1
    with engine.begin() as application:
        assert cancel_job(application, job_id)
        with other_engine.begin() as clerk:
            clerk.execute(sa.text("SET LOCAL lock_timeout = '3s'"))
            clerk.execute(sa.text("SELECT flatearth.sweep_jobs()"))
    assert job(engine, job_id)["state"] == "cancelled"


# --------------------------------------------------------------------------------------------------- order of commit


def test_a_job_that_commits_after_a_later_one_is_found_by_a_claim_that_looks_from_the_start(
    engine: sa.Engine, other_engine: sa.Engine, database: str
) -> None:
    async def claimed(connection: psycopg.AsyncConnection, after: leases.Job | None = None) -> list[leases.Job]:
        return await (await leases.claim(connection, lease_id, 10, after=after)).fetchall()

    lease_id, _ = lease_of(engine, 0)
    with engine.begin() as slow:
        early = enqueue(slow)
        late = add(other_engine)
        assert late > early
        (last,) = on_connection(database, claimed)
        assert last.id == late
    assert on_connection(database, lambda connection: claimed(connection, last)) == []
    assert [found.id for found in on_connection(database, claimed)] == [early]


def test_a_drain_that_stays_finds_a_job_that_commits_after_later_ones_were_done(
    engine: sa.Engine, other_engine: sa.Engine, database: str
) -> None:
    drain = Drain(database, HANDLERS, "drain of a test", Options(stay=HOUR, grace=SECOND))
    with ThreadPoolExecutor(1) as pool:
        draining = pool.submit(drain.run)
        try:
            with engine.begin() as slow:
                early = enqueue(slow)
                late = [add(other_engine) for _ in range(20)]
                until(lambda: all(job(other_engine, job_id)["state"] == "succeeded" for job_id in late))
            until(lambda: job(engine, early)["state"] == "succeeded")
        finally:
            drain.stop()
        assert draining.result(DEADLINE).total("succeeded") == 21


# -------------------------------------------------------------------------------------------------------------- cron


def add_cron(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(
            sa.text(
                "INSERT INTO flatearth.cron_jobs (name, pattern, handler, next_run_at)"
                " VALUES ('hourly', 'hourly', 'noop', clock_timestamp() - interval '5 hours')"
            )
        )


def test_a_tick_that_three_schedulers_see_at_once_enqueues_one_job(engine: sa.Engine, database: str) -> None:
    add_cron(engine)
    ticks = at_once(3, lambda _: on_connection(database, lambda c: leases.tick_crons(c, HANDLERS)))
    assert sorted(ticks) == [0, 0, 1]
    assert column(engine, "SELECT origin FROM flatearth.jobs") == ["cron"]


def test_a_tick_that_has_not_committed_is_passed_over_by_others_and_after_a_rollback_it_is_due_again(
    engine: sa.Engine, database: str
) -> None:
    add_cron(engine)

    def tick() -> Any:
        return on_connection(database, lambda connection: leases.tick_crons(connection, HANDLERS))

    async def hold(connection: psycopg.AsyncConnection) -> tuple[int, int]:
        async with connection.transaction(force_rollback=True):
            return await leases.tick_crons(connection, HANDLERS), await asyncio.to_thread(tick)

    assert on_connection(database, hold) == (1, 0)
    assert column(engine, "SELECT count(*) FROM flatearth.jobs") == [0]
    assert [tick(), tick()] == [1, 0]
    assert column(engine, "SELECT run_count FROM flatearth.cron_jobs") == [1]


# ------------------------------------------------------------------------------------------ the clock of the machine


@pytest.mark.parametrize("off", [-3600, 3600])
def test_a_drain_on_a_machine_whose_clock_is_an_hour_off_does_what_the_database_s_clock_says(
    engine: sa.Engine, off: int
) -> None:
    (now,) = column(engine, "SELECT clock_timestamp()")
    lost, kept = add(engine), add(engine)
    with engine.begin() as connection:
        assert claim(connection, open_lease(connection), 1) == [lost]
    expire(engine)
    with engine.begin() as connection:
        assert claim(connection, open_lease(connection, 30 * MINUTE), 1) == [kept]
        connection.execute(
            sa.text(
                "INSERT INTO flatearth.cron_jobs (name, pattern, handler, next_run_at)"
                " VALUES ('later', 'daily', 'noop', clock_timestamp() + interval '30 minutes')"
            )
        )
    due, later, failing = add(engine), add(engine, delay=HOUR / 2), add(engine, "fail")
    asking = add(engine, "at", {"at": (now + HOUR / 2).isoformat()})

    run_with_clock(off)

    said = {job_id: job(engine, job_id) for job_id in (lost, kept, due, later, failing, asking)}
    assert {job_id: row["state"] for job_id, row in said.items()} == {
        lost: "succeeded",
        kept: "running",
        due: "succeeded",
        later: "pending",
        failing: "pending",
        asking: "pending",
    }
    (ended,) = column(engine, "SELECT clock_timestamp()")
    assert now + HOUR / 2 <= said[failing]["run_at"] <= ended + HOUR / 2
    assert abs(said[asking]["run_at"] - now - HOUR / 2) < 5 * SECOND
    assert now <= said[due]["finished_at"] <= ended
    assert column(engine, "SELECT run_count FROM flatearth.cron_jobs") == [0]


_SHIFTED = """
import datetime, sys, time
off, real = float(sys.argv[1]), time.time
time.time = lambda: real() + off
class Shifted(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(time.time(), tz)
    @classmethod
    def utcnow(cls):
        return cls.fromtimestamp(time.time(), datetime.UTC).replace(tzinfo=None)
datetime.datetime = Shifted
from flatearth_pipelines_tests.queue.test_races import drain_here
drain_here()
"""
"""A machine whose clock is off, for all that Python code can read of it."""


def run_with_clock(off: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SHIFTED, str(off)],
        cwd=ROOT,
        env={**os.environ, "PWD": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def drain_here() -> None:
    """In the process of `run_with_clock`: one drain, on the environment's database."""
    Drain(os.environ["FLATEARTH_DATABASE_URL"], HANDLERS, "drain of a test", Options()).run()


# -------------------------------------------------------------------------- poolers that give a session a transaction


def test_every_call_may_come_on_another_session_and_leaves_nothing_in_it(engine: sa.Engine, database: str) -> None:
    job_id, other_id = add(engine, concurrency_key="k"), add(engine, concurrency_key="k")
    state = (
        "SELECT (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())"
        " + (SELECT count(*) FROM pg_prepared_statements) + (SELECT count(*) FROM pg_listening_channels())"
        " + (SELECT count(*) FROM pg_class WHERE relpersistence = 't')"
        " + (SELECT count(*) FROM pg_settings WHERE source = 'session')"
    )

    def say(call: Callable[[psycopg.AsyncConnection], Any]) -> Any:
        async def then_look(connection: psycopg.AsyncConnection) -> Any:
            connection.prepare_threshold = None
            said = await call(connection)
            rows = await said.fetchall() if isinstance(said, psycopg.AsyncCursor) else said
            left = await (await connection.execute(state)).fetchone()
            assert left == (0,)
            return rows

        return on_connection(database, then_look)

    lease_id, _ = say(lambda connection: leases.open_lease(connection, "tests", 5 * MINUTE))
    (claimed,) = say(lambda connection: leases.claim(connection, lease_id, 10))
    assert claimed.id == job_id
    assert say(lambda connection: leases.hand_back(connection, lease_id, [job_id])) == [(1,)]
    (claimed,) = say(lambda connection: leases.claim(connection, lease_id, 10))
    assert say(lambda connection: leases.finish(connection, lease_id, [claimed.id], {})) == [(1,)]
    (claimed,) = say(lambda connection: leases.claim(connection, lease_id, 10))
    assert claimed.id == other_id
    assert say(lambda connection: leases.fail(connection, lease_id, [(other_id, "no", None)])) == [(1,)]
    say(leases.sweep)
    say(lambda connection: leases.rescue(connection, HANDLERS))
    say(lambda connection: leases.close_lease(connection, lease_id))
    assert column(engine, "SELECT count(*) FROM flatearth.job_leases") == [0]


def test_a_drain_that_waits_finds_a_job_of_which_no_notification_came(engine: sa.Engine, database: str) -> None:
    drain = Drain(database, HANDLERS, "drain of a test", Options(stay=HOUR, grace=SECOND))
    with ThreadPoolExecutor(1) as pool:
        draining = pool.submit(drain.run)
        try:
            until(lambda: column(engine, "SELECT waiting FROM flatearth.job_leases") == [True])
            insert = "INSERT INTO flatearth.live_jobs (handler, run_at) VALUES ('noop', clock_timestamp())"
            with engine.begin() as connection:
                connection.execute(sa.text(insert))
            until(lambda: column(engine, "SELECT state FROM flatearth.jobs") == ["succeeded"])
        finally:
            drain.stop()
        draining.result(DEADLINE)


def assert_equal(got: object, expected: object) -> None:
    assert got == expected


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not happen"
        time.sleep(0.02)
