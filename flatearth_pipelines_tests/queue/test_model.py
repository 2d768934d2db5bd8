"""The queue against a model of it in plain Python: whatever is done in whatever order, both say the same."""

import asyncio
import random
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import psycopg
import pytest
from psycopg.rows import dict_row

from flatearth_pipelines import database as db
from flatearth_pipelines.queue import leases
from flatearth_pipelines.queue.backoff import Fixed
from flatearth_pipelines.queue.handlers import Context, Guarantee, Handler, NoPayload, Registry

MOST_ATTEMPTS = 2


def _do_nothing(_context: Context, _payload: NoPayload) -> None:
    """Nothing."""


AT_ONCE = Fixed(timedelta(0))
HANDLERS = Registry(
    [
        Handler("often", NoPayload, _do_nothing, max_attempts=MOST_ATTEMPTS, backoff=AT_ONCE),
        Handler("once", NoPayload, _do_nothing, Guarantee.AT_MOST_ONCE, backoff=AT_ONCE),
    ]
)

State = Literal["pending", "running", "succeeded", "failed", "cancelled"]


@dataclass
class Job:
    handler: str
    job_key: str | None
    concurrency_key: str | None
    priority: int
    state: State = "pending"
    attempts: int = 0
    lease: int | None = None
    waits_for: int | None = None
    stop_reason: str | None = None

    @property
    def is_live(self) -> bool:
        return self.state in ("pending", "running")


Kind = tuple[str, str | None, str | None]

KINDS: list[Kind] = [
    ("often", None, None),
    ("once", None, "x"),
    ("often", "a", None),
    ("often", "b", "x"),
    ("often", "c", "y"),
]
"""Handler, job_key and concurrency_key: whoever enqueues under a key means the same work."""

CONFLICTS = ("keep", "replace", "replace", "supersede")
SEEDS = range(8)
ROUNDS = 8
STEPS = 20


class Queue:
    """One session that is an application, an operator and several drains in turn; nothing of it is committed."""

    def __init__(self, conninfo: str, draw: random.Random) -> None:
        self.draw = draw
        self.jobs: dict[int, Job] = {}
        self.open: list[int] = []
        self.lost: list[int] = []
        self.done: list[str] = []
        self.runner = asyncio.Runner()
        self.connection = self.runner.run(db.connect_async(conninfo, "tests"))
        self.say("BEGIN")
        self.opens_a_lease()

    def close(self) -> None:
        self.runner.run(self.connection.close())
        self.runner.close()

    def step(self) -> None:
        """Do something, and look at everything."""
        often = {
            self.enqueues: 6,
            self.claims: 6,
            self.records: 7,
            self.cancels: 2,
            self.retries: 2,
            self.deletes: 1,
            self.sweeps: 2,
            self.opens_a_lease: 1,
            self.loses_a_worker: 2,
        }
        (do,) = self.draw.choices(list(often), list(often.values()))
        self.done.append(do.__name__)
        do()
        self.looks_the_same()

    # What is done

    def opens_a_lease(self) -> None:
        if len(self.open) == 3:
            return
        lease_id, _ = self.runner.run(leases.open_lease(self.connection, "tests", timedelta(hours=1)))
        self.open.append(lease_id)

    def enqueues(self) -> None:
        handler, job_key, concurrency_key = self.draw.choice(KINDS)
        on_conflict, priority = self.draw.choice(CONFLICTS), self.draw.randint(0, 1)
        before, stands = self.unfinished(job_key), self.stand_for(job_key)
        (job_id,) = self.say(
            "SELECT flatearth.enqueue_job(%s, job_key => %s, concurrency_key => %s, priority => %s, on_conflict => %s)",
            *(handler, job_key, concurrency_key, priority, on_conflict),
        )
        if job_id in self.jobs:
            kept = self.jobs[job_id]
            assert job_id in before
            assert on_conflict == "keep" or (on_conflict, kept.state) == ("replace", "pending")
            if on_conflict == "replace":
                kept.priority, kept.attempts, kept.stop_reason = priority, 0, None
            return
        assert on_conflict != "keep" or not stands
        new = Job(handler, job_key, concurrency_key, priority)
        if on_conflict == "replace":
            (row,) = self.rows(f"SELECT waits_for FROM flatearth.live_jobs WHERE id = {job_id}")
            new.waits_for = row["waits_for"]
            assert new.waits_for in before or not stands
        for holder in stands if on_conflict == "supersede" else []:
            followed = self.jobs[holder].waits_for
            self.is_cancelled(holder, "superseded")
            if followed is not None and self.is_unfinished(followed):
                self.is_cancelled(followed, "superseded")
        self.jobs[job_id] = new

    def claims(self, most: int = 0) -> None:
        lease_id, most = self.draw.choice(self.open), most or self.draw.randint(1, 6)
        suspects = {row["id"] for row in self.rows("SELECT id FROM flatearth.live_jobs WHERE lost_workers > 0")}
        claimed = self.runner.run(self.claim(lease_id, most))
        assert len(claimed) <= most
        assert len(claimed) == 1 or not suspects & {job.id for job in claimed}
        taken = {job.concurrency_key for job in self.jobs.values() if job.state == "running"}
        for found in claimed:
            job = self.jobs[found.id]
            assert (job.state, job.waits_for) == ("pending", None)
            assert job.concurrency_key is None or job.concurrency_key not in taken
            taken.add(job.concurrency_key)
            job.state, job.lease, job.attempts = "running", lease_id, job.attempts + 1
            assert found.attempts == job.attempts
        if not suspects and len(claimed) < most:
            assert not [job for job in self.jobs.values() if job.state == "pending" and self.is_free(job)]

    def records(self) -> None:
        """By a lease that has jobs, or one that has none or is lost: of its own jobs, and of any."""
        how = self.draw.choice(["finish", "cancel", "fail", "fail", "hand back"])
        busy = [job.lease for job in self.jobs.values() if job.lease is not None]
        lease_id = self.draw.choice(busy if busy and self.draw.random() < 0.7 else self.open + self.lost)
        owned = [job_id for job_id, job in self.jobs.items() if job.lease == lease_id]
        mine = owned[: self.draw.randint(1, 3)]
        others = [job_id for job_id in self.jobs if job_id not in owned]
        ids = mine + self.draw.sample(others, min(len(others), 2))
        if how == "finish":
            done = self.told(leases.finish(self.connection, lease_id, ids, {}))
        elif how == "cancel":
            done = self.told(leases.cancel(self.connection, lease_id, ids, "enough"))
        elif how == "hand back":
            done = self.told(leases.hand_back(self.connection, lease_id, ids))
        else:
            failures = [(job_id, "no", None if self.is_last_attempt(job_id) else 0) for job_id in ids]
            done = self.told(leases.fail(self.connection, lease_id, failures)) if failures else 0
        assert done == len(mine)
        for job_id in mine:
            if how == "fail":
                self.failed(job_id)
            elif how == "hand back":
                self.waits_again(job_id)
                self.jobs[job_id].attempts -= 1
            else:
                self.ends(job_id, "succeeded" if how == "finish" else "cancelled")

    def loses_a_worker(self) -> None:
        self.opens_a_lease()
        lease_id = self.open.pop(0)
        self.lost.append(lease_id)
        self.say("UPDATE flatearth.job_leases SET expires_at = clock_timestamp() WHERE id = %s RETURNING id", lease_id)
        mine = [job_id for job_id, job in self.jobs.items() if job.lease == lease_id]
        assert self.runner.run(leases.rescue(self.connection, HANDLERS)) == len(mine)
        for job_id in mine:
            if self.jobs[job_id].stop_reason is not None:
                self.ends(job_id, "cancelled")
            else:
                self.failed(job_id)

    def cancels(self) -> None:
        if not self.jobs:
            return
        job_id = self.any_job("running", "pending")
        assert self.say("SELECT flatearth.cancel_job(%s, 'enough')", job_id) == (self.jobs[job_id].is_live,)
        self.is_cancelled(job_id, "enough")

    def retries(self) -> None:
        if not self.jobs:
            return
        job_id = self.any_job("failed", "cancelled")
        job = self.jobs[job_id]
        try:
            done = self.runner.run(self.say_in_savepoint("SELECT flatearth.retry_job(%s)", job_id))
        except psycopg.errors.InvalidParameterValue:
            assert job.state not in ("failed", "cancelled") or self.unfinished(job.job_key)
            return
        assert done == (job_id,)
        assert job.state in ("failed", "cancelled")
        assert not self.stand_for(job.job_key)
        job.state, job.attempts, job.lease, job.waits_for, job.stop_reason = "pending", 0, None, None, None

    def deletes(self) -> None:
        if not self.jobs:
            return
        job_id = self.any_job()
        try:
            self.runner.run(self.say_in_savepoint("SELECT flatearth.delete_job(%s)", job_id))
        except psycopg.errors.InvalidParameterValue:
            assert self.jobs[job_id].state == "running"
            return
        assert self.jobs.pop(job_id).state != "running"

    def sweeps(self) -> None:
        self.runner.run(leases.sweep(self.connection))
        for job in self.jobs.values():
            if job.state == "pending" and job.stop_reason is not None:
                job.state, job.waits_for = "cancelled", None
        for job in self.jobs.values():
            if job.waits_for is not None and not self.is_unfinished(job.waits_for):
                job.waits_for = None

    def all_ends_once_somebody_works_on_it(self) -> None:
        for _ in range(2 * len(self.jobs) + 5):
            self.sweeps()
            self.claims(1_000)
            for lease_id in self.open:
                ids = [job_id for job_id, job in self.jobs.items() if job.lease == lease_id]
                assert self.told(leases.finish(self.connection, lease_id, ids, {})) == len(ids)
                for job_id in ids:
                    self.ends(job_id, "succeeded")
            self.looks_the_same()
        assert not [job_id for job_id, job in self.jobs.items() if job.is_live]

    # What is always so

    def looks_the_same(self) -> None:
        self.every_job_is_in_one_place_in_its_state()
        self.attempts_are_never_above_the_most()
        self.a_lease_has_what_it_claimed_and_a_concurrency_key_its_one_running_job()
        self.at_most_one_job_waits_for_a_key_and_beside_it_runs_only_what_it_waits_for_or_what_is_told_to_stop()

    def every_job_is_in_one_place_in_its_state(self) -> None:
        rows = self.rows("SELECT id, state, attempts, handler FROM flatearth.jobs ORDER BY id")
        told = [(row["id"], row["state"], row["attempts"]) for row in rows]
        assert told == [(job_id, job.state, job.attempts) for job_id, job in sorted(self.jobs.items())]

    def attempts_are_never_above_the_most(self) -> None:
        for job in self.jobs.values():
            assert 0 <= job.attempts <= (MOST_ATTEMPTS if job.handler == "often" else 1)

    def a_lease_has_what_it_claimed_and_a_concurrency_key_its_one_running_job(self) -> None:
        held = self.rows("SELECT id, lease_id FROM flatearth.live_jobs WHERE lease_id IS NOT NULL ORDER BY id")
        running = {job_id: job for job_id, job in sorted(self.jobs.items()) if job.state == "running"}
        assert [(row["id"], row["lease_id"]) for row in held] == [
            (job_id, job.lease) for job_id, job in running.items()
        ]
        slots = self.rows(
            "SELECT concurrency_key, id AS job_id FROM flatearth.live_jobs"
            " WHERE concurrency_key IS NOT NULL AND lease_id IS NOT NULL ORDER BY id"
        )
        keyed = [(job.concurrency_key, job_id) for job_id, job in running.items() if job.concurrency_key is not None]
        assert [(row["concurrency_key"], row["job_id"]) for row in slots] == keyed

    def at_most_one_job_waits_for_a_key_and_beside_it_runs_only_what_it_waits_for_or_what_is_told_to_stop(self) -> None:
        for job_key in {job.job_key for job in self.jobs.values()} - {None}:
            assert len(self.stand_for(job_key)) <= 1

    # What tests say

    def stand_for(self, job_key: str | None) -> list[int]:
        """The unfinished jobs of the key that nobody has replaced."""
        unfinished = self.unfinished(job_key)
        followed = {self.jobs[job_id].waits_for for job_id in unfinished}
        return [job_id for job_id in unfinished if job_id not in followed and self.jobs[job_id].stop_reason is None]

    def say(self, query: str, *values: Any) -> Any:
        return self.runner.run(self.execute(query, values))

    async def execute(self, query: str, values: tuple[Any, ...]) -> Any:
        cursor = await self.connection.execute(query.encode(), values or None)
        return await cursor.fetchone() if cursor.description else None

    async def say_in_savepoint(self, query: str, *values: Any) -> Any:
        async with self.connection.transaction():
            return await self.execute(query, values)

    async def claim(self, lease_id: int, most: int) -> list[leases.Job]:
        return await (await leases.claim(self.connection, lease_id, most)).fetchall()

    def told(self, sent: Any) -> int:
        async def answer() -> int:
            row = await (await sent).fetchone()
            return int(row[0])

        return self.runner.run(answer())

    def rows(self, query: str) -> list[dict[str, Any]]:
        async def read() -> list[dict[str, Any]]:
            cursor = self.connection.cursor(row_factory=dict_row)
            return await (await cursor.execute(query.encode())).fetchall()

        return self.runner.run(read())

    def unfinished(self, job_key: str | None) -> list[int]:
        """With the key, also those that are told to stop."""
        return [
            job_id
            for job_id, job in self.jobs.items()
            if job_key is not None and job.job_key == job_key and job.is_live
        ]

    def any_job(self, *states: State) -> int:
        """Mostly one in these states."""
        apt = [job_id for job_id, job in self.jobs.items() if job.state in states]
        return self.draw.choice(apt if apt and self.draw.random() < 0.8 else list(self.jobs))

    def is_unfinished(self, job_id: int) -> bool:
        return job_id in self.jobs and self.jobs[job_id].is_live

    def is_free(self, job: Job) -> bool:
        """It waits for nothing but a claim."""
        return job.waits_for is None and job.concurrency_key is None

    def is_last_attempt(self, job_id: int) -> bool:
        job = self.jobs.get(job_id)
        return job is None or job.handler == "once" or job.attempts >= MOST_ATTEMPTS

    def is_cancelled(self, job_id: int, reason: str) -> None:
        job = self.jobs[job_id]
        if job.state == "pending":
            self.ends(job_id, "cancelled")
        elif job.state == "running":
            job.stop_reason = job.stop_reason or reason

    def failed(self, job_id: int) -> None:
        if self.is_last_attempt(job_id):
            self.ends(job_id, "failed")
        else:
            self.waits_again(job_id)

    def waits_again(self, job_id: int) -> None:
        self.jobs[job_id].state, self.jobs[job_id].lease = "pending", None

    def ends(self, job_id: int, state: State) -> None:
        job = self.jobs[job_id]
        job.state, job.lease, job.waits_for = state, None, None


@pytest.mark.parametrize("seed", SEEDS)
def test_in_any_order_of_what_applications_operators_and_drains_do_the_queue_is_as_its_model_and_all_ends(
    database: str, seed: int
) -> None:
    queue = Queue(database, random.Random(seed))  # noqa: S311
    try:
        for _ in range(ROUNDS):
            for _ in range(STEPS):
                queue.step()
            queue.all_ends_once_somebody_works_on_it()
    except (AssertionError, psycopg.Error) as error:
        error.add_note(f"after {' '.join(queue.done)}")
        raise
    finally:
        queue.close()
