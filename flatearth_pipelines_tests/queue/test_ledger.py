"""What has ended is recorded once, in one piece, and counted by handler."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pytest
import sqlalchemy as sa

from flatearth_pipelines import database as db
from flatearth_pipelines.queue.leases import claim
from flatearth_pipelines.queue.ledger import Ledger, Report
from flatearth_pipelines_tests.queue.conftest import open_lease
from flatearth_pipelines_tests.queue.workers import add, change, job, states


class Desk:
    """A ledger with claimed jobs, and how it is recorded."""

    def __init__(self, conninfo: str, lease_id: int) -> None:
        self.report = Report()
        self.ledger = Ledger(self.report)
        self._conninfo = conninfo
        self._lease = lease_id

    def claim(self) -> None:
        async def body(connection: Any) -> None:
            self.ledger.claim(await (await claim(connection, self._lease, 100)).fetchall())

        self._connected(body)

    def record(self) -> None:
        async def body(connection: Any) -> None:
            async with connection.pipeline():
                recorded = await self.ledger.record(connection, self._lease)
            await self.ledger.count(recorded)

        self._connected(body)

    def record_while(self, job_ids: Iterable[int]) -> None:
        """Record while these jobs succeed one after the other; and then what has ended since."""

        async def work() -> None:
            for job_id in job_ids:
                self.ledger.succeed(job_id, {"id": job_id})
                await asyncio.sleep(0)

        async def body(connection: Any) -> None:
            at_work = asyncio.create_task(work())
            for _ in range(2):
                async with connection.pipeline():
                    recorded = await self.ledger.record(connection, self._lease)
                await self.ledger.count(recorded)
                await at_work

        self._connected(body)

    def _connected(self, body: Callable[[Any], Awaitable[None]]) -> None:
        async def with_connection() -> None:
            async with await db.connect_async(self._conninfo, "tests") as connection:
                await body(connection)

        asyncio.run(with_connection())


@pytest.fixture
def desk(engine: sa.Engine, database: str) -> Desk:
    with engine.begin() as connection:
        return Desk(database, open_lease(connection))


def test_jobs_are_held_from_their_claim_until_they_are_recorded(engine: sa.Engine, desk: Desk) -> None:
    job_id = add(engine, "noop")
    assert not desk.ledger.holds(job_id)

    desk.claim()
    assert desk.ledger.holds(job_id)
    assert desk.ledger.is_empty

    desk.ledger.succeed(job_id, None)
    assert desk.ledger.holds(job_id)
    assert not desk.ledger.is_empty

    desk.record()
    assert not desk.ledger.holds(job_id)
    assert desk.ledger.is_empty


def test_every_outcome_is_recorded_at_once_and_counted_by_handler(engine: sa.Engine, desk: Desk) -> None:
    done, again, dead, stopped, replaced, back, heavy = (add(engine, f"kind {number}") for number in range(7))
    desk.claim()

    desk.ledger.succeed(done, {"count": 1})
    desk.ledger.fail(again, "it broke", 60_000)
    desk.ledger.fail(dead, "it broke for good", None)
    desk.ledger.cancel(stopped, "cancelled")
    desk.ledger.cancel(replaced, "superseded")
    desk.ledger.hand_back(back)
    desk.ledger.move(heavy)
    desk.record()

    assert states(engine) == {
        done: "succeeded",
        again: "pending",
        dead: "failed",
        stopped: "cancelled",
        replaced: "cancelled",
        back: "pending",
        heavy: "pending",
    }
    assert desk.report.outcomes == {
        ("kind 0", "succeeded"): 1,
        ("kind 1", "retried"): 1,
        ("kind 2", "failed"): 1,
        ("kind 3", "cancelled"): 1,
        ("kind 4", "cancelled"): 1,
        ("kind 5", "handed back"): 1,
        ("kind 6", "handed back"): 1,
    }
    assert (desk.report.claimed, desk.report.fenced) == (7, 0)
    assert (desk.report.total("cancelled"), desk.report.total("succeeded")) == (2, 1)
    assert job(engine, done)["result"] == {"count": 1}
    assert [job(engine, each)["last_error"] for each in (again, dead, stopped, replaced)] == [
        "it broke",
        "it broke for good",
        "cancelled",
        "superseded",
    ]
    assert [job(engine, each)["attempts"] for each in (again, dead, stopped, back, heavy)] == [1, 1, 1, 0, 0]


def test_what_ends_while_others_are_being_recorded_is_recorded_the_next_time(engine: sa.Engine, desk: Desk) -> None:
    """The large results do not fit into the socket at once, and so others go on meanwhile."""
    large = [add(engine, "noop") for _ in range(60)]
    others = [add(engine, "noop") for _ in range(20)]
    desk.claim()

    for job_id in large:
        desk.ledger.succeed(job_id, {"text": "x" * 60_000})
    desk.record_while(others)

    assert states(engine) == dict.fromkeys([*large, *others], "succeeded")
    assert [job(engine, each)["result"] for each in others] == [{"id": each} for each in others]
    assert (desk.report.total("succeeded"), desk.report.fenced) == (80, 0)


def test_a_result_that_jsonb_cannot_hold_does_not_harm_the_others(engine: sa.Engine, desk: Desk) -> None:
    odd, good = add(engine, "noop"), add(engine, "noop")
    desk.claim()

    desk.ledger.succeed(odd, {"text": "\0"})
    desk.ledger.succeed(good, {"text": "fine"})
    desk.record()

    assert set(states(engine).values()) == {"succeeded"}
    assert list(job(engine, odd)["result"]) == ["not_kept"]
    assert job(engine, good)["result"] == {"text": "fine"}


def test_what_another_lease_holds_is_left_alone_and_counted_as_fenced(engine: sa.Engine, desk: Desk) -> None:
    mine, theirs = add(engine, "noop"), add(engine, "noop")
    desk.claim()
    with engine.begin() as connection:
        other = open_lease(connection)
    change(engine, "UPDATE flatearth.live_jobs SET lease_id = :other WHERE id = :id", other=other, id=theirs)

    desk.ledger.succeed(mine, None)
    desk.ledger.succeed(theirs, None)
    desk.record()

    assert states(engine) == {mine: "succeeded", theirs: "running"}
    assert desk.report.fenced == 1


def test_a_job_that_settled_itself_is_counted_and_nothing_is_left_to_record(engine: sa.Engine, desk: Desk) -> None:
    job_id = add(engine, "noop")
    desk.claim()

    desk.ledger.settled(job_id)

    assert desk.ledger.is_empty
    assert not desk.ledger.holds(job_id)
    assert desk.report.outcomes == {("noop", "succeeded"): 1}


def test_a_job_that_was_left_to_others_is_fenced_and_has_no_outcome(engine: sa.Engine, desk: Desk) -> None:
    job_id = add(engine, "noop")
    desk.claim()

    desk.ledger.leave(job_id)

    assert not desk.ledger.holds(job_id)
    assert (desk.report.fenced, desk.report.outcomes) == (1, {})
