"""The clerk of a drain: one coroutine with one connection that claims, hands out, and records how jobs ended.

Everything that ended since and the next claim go to Postgres in one round trip.
"""

import asyncio
import contextlib
import threading
import time
from dataclasses import dataclass
from datetime import timedelta

import psycopg

from flatearth_pipelines.errors import LeaseLost
from flatearth_pipelines.queue import leases
from flatearth_pipelines.queue.attempts import Workers
from flatearth_pipelines.queue.handlers import Registry
from flatearth_pipelines.queue.leases import Job
from flatearth_pipelines.queue.ledger import Ledger, Report
from flatearth_pipelines.queue.pace import Pace

MOST_A_CLAIM = 1_000

_FLUSH_SECONDS = 0.2
"""What has ended is recorded after this time, if not before."""

_POLL_SECONDS = 0.25
"""How long an idle drain relies on notifications, which can be missed."""

_CURSOR_SECONDS = 1.0
"""For how long a claim goes on where the last one ended, before it looks at everything again."""

_SWEEP_SECONDS = 1.0
"""How often lost workers, cron jobs and forgotten jobs are looked for."""

_BUSY_JOBS = 100
"""A drain that claims so many at once needs no notifications."""

_INSIST_SECONDS = 1.0
"""How much longer than the grace a coroutine may take that was cancelled."""


@dataclass(frozen=True)
class Options:
    """How a drain works."""

    concurrency: int = 10
    batch_size: int = MOST_A_CLAIM
    lease: timedelta = timedelta(minutes=5)
    stay: timedelta = timedelta(0)
    """How long to wait for more once nothing is due."""
    longest: timedelta = timedelta(minutes=15)
    """After this no more jobs are claimed: a run should end some time."""
    grace: timedelta = timedelta(seconds=10)
    """How long running jobs have to finish when the drain is stopped."""
    own_run: bool = False
    """Take one job of those that ask for a run of their own."""


class Clerk:
    """Of one drain, from its first claim to the end of its lease; `stop_asked` tells it to claim nothing more."""

    def __init__(
        self,
        connection: psycopg.AsyncConnection,
        lease_id: int,
        *,
        registry: Registry,
        ledger: Ledger,
        workers: Workers,
        options: Options,
        report: Report,
        stop_asked: threading.Event,
    ) -> None:
        self._connection = connection
        self._lease = lease_id
        self._registry = registry
        self._ledger = ledger
        self._workers = workers
        self._options = options
        self._report = report
        self._stop_asked = stop_asked
        self._opened = time.monotonic()
        self._broken: BaseException | None = None
        self._says_waiting = False
        self._after: Job | None = None
        self._looked_at_all = 0.0

    async def work(self) -> None:
        """Claim and record until nothing is due for `stay`, `longest` is over, or the drain is stopped."""
        idle_since = self._opened
        swept = 0.0
        pace = Pace(self._ledger, self._workers, self._options.batch_size)
        await self._connection.execute("LISTEN flatearth_jobs")
        while not self._stop_asked.is_set():
            self._raise_broken()
            swept = await self._sweep(swept)
            over = (
                time.monotonic() - self._opened >= self._options.longest.total_seconds()
                or self._workers.stuck == self._options.concurrency
            )
            if over and self._workers.stuck:
                self._workers.hand_back_waiting()
            ended = self._ledger.ended
            claimed = await self._claim(0 if over else self._wanted(pace))
            if claimed:
                await self._hand_out(claimed)
                if self._options.own_run:
                    return
            if self._workers.is_busy or not self._ledger.is_empty:
                idle_since = time.monotonic()
                if not (claimed and pace.wanted()):
                    await self._pause()
            elif over or (
                self._has_stayed(idle_since)
                and self._ledger.ended == ended  # else look once more: what ended meanwhile may have enqueued a job
                and not await leases.sweep(self._connection)
            ):
                return
            elif not claimed:
                await self._wait_for_work(idle_since)

    async def finish(self) -> None:
        """Record everything, hand back what has not begun or does not end in time, and close the lease."""
        began = time.monotonic()
        grace = self._options.grace.total_seconds()
        while self._workers.is_busy or not self._ledger.is_empty:
            waited = time.monotonic() - began
            if self._stop_asked.is_set():
                self._workers.begin_to_stop()
                if waited >= grace + _INSIST_SECONDS:
                    self._workers.abandon()
                elif waited >= grace:
                    self._workers.give_up()
                elif waited >= grace / 2:
                    self._workers.ask_to_stop()
            else:
                began = time.monotonic()  # the grace begins when somebody asks
            await self._exchange()
            self._raise_broken()
            if self._workers.is_busy:
                await self._pause()
        await leases.close_lease(self._connection, self._lease)

    def break_off(self, error: BaseException) -> None:
        """End with this error: nothing that is written has an effect any more."""
        self._broken = error
        self._workers.ask_to_stop("the lease was lost")
        self._workers.wake.set()

    def _wanted(self, pace: Pace) -> int:
        if self._options.own_run:
            return 0 if self._workers.is_busy else 1
        pace.measure()
        return pace.wanted()

    def _has_stayed(self, idle_since: float) -> bool:
        return time.monotonic() - idle_since >= self._options.stay.total_seconds()

    async def _claim(self, wanted: int) -> list[Job]:
        """Record and claim; for a while each claim goes on where the last one ended, past what that left behind."""
        if time.monotonic() - self._looked_at_all >= _CURSOR_SECONDS:
            self._looked_at_all, self._after = time.monotonic(), None
        claimed = await self._exchange(wanted, self._after)
        if wanted and not claimed and self._after is not None:
            claimed = await self._exchange(wanted)
        if wanted:
            keyed = any(job.keyed for job in claimed)  # the next of a key may be from before
            self._after = claimed[-1] if len(claimed) == wanted and not keyed else None
        return claimed

    async def _sweep(self, last: float) -> float:
        """Now and then, what nobody tells a drain of: lost workers, cron jobs, jobs that wait for what is over."""
        if time.monotonic() - last < _SWEEP_SECONDS:
            return last
        self._report.rescued += await leases.rescue(self._connection, self._registry, self._lease)
        self._report.cron_ticks += await leases.tick_crons(self._connection, self._registry)
        await leases.sweep(self._connection)
        return time.monotonic()

    async def _exchange(self, wanted: int = 0, after: Job | None = None) -> list[Job]:
        """Record what has ended, and claim, in one transaction and one round trip."""
        if self._ledger.is_empty and not wanted:
            return []
        claims = None
        try:
            async with self._connection.pipeline():
                recorded = await self._ledger.record(self._connection, self._lease)
                if wanted:
                    own_run = self._options.own_run
                    claims = await leases.claim(self._connection, self._lease, wanted, own_run=own_run, after=after)
            await self._ledger.count(recorded)
            claimed = await claims.fetchall() if claims else []
        except psycopg.errors.ObjectNotInPrerequisiteState as error:
            raise LeaseLost(str(error.diag.message_primary)) from None
        self._ledger.claim(claimed)
        return claimed

    async def _hand_out(self, claimed: list[Job]) -> None:
        """Give the jobs to the workers; one that has already killed a worker runs when nothing else does."""
        if self._says_waiting and len(claimed) >= _BUSY_JOBS:
            await self._say_waiting(waiting=False)
        if not claimed[0].lost_workers:
            self._workers.put(claimed)
            return
        while self._workers.is_busy and not self._stop_asked.is_set():
            await self._pause()
            await self._exchange()
        if self._stop_asked.is_set():
            self._ledger.hand_back(claimed[0].id)
            return
        self._workers.put(claimed)
        while self._workers.is_busy and not self._stop_asked.is_set():
            await self._pause()
            self._raise_broken()

    async def _pause(self) -> None:
        """Until there is something for the clerk to do: many jobs have ended, there is room, or time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FLUSH_SECONDS):
                await self._workers.wake.wait()
        self._workers.wake.clear()

    async def _wait_for_work(self, idle_since: float) -> None:
        """Until a notification, the next due instant, or the end of the stay, but not much longer than a moment."""
        if not self._says_waiting:  # and look once more: who enqueued just before this did not send a notification
            await self._say_waiting(waiting=True)
            return
        due_in = await leases.seconds_until_due(self._connection, own_run=self._options.own_run)
        left = idle_since + self._options.stay.total_seconds() - time.monotonic()
        seconds = min(_POLL_SECONDS, left, _POLL_SECONDS if due_in is None else due_in)
        if seconds > 0:
            async for _ in self._connection.notifies(timeout=seconds, stop_after=1):
                break

    async def _say_waiting(self, *, waiting: bool) -> None:
        await leases.say_waiting(self._connection, self._lease, waiting=waiting)
        self._says_waiting = waiting

    def _raise_broken(self) -> None:
        broken = self._broken or self._workers.broken
        if broken is not None:
            raise broken
