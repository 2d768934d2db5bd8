"""The drain: claims due jobs in batches, has them run with bounded concurrency, and records how they ended.

    clerk    one coroutine with one connection: everything that ended since, and the next claim, in one round trip
    workers  as many coroutines as jobs may run at once (attempts.py)
    keeper   a thread with a connection of its own: renews the lease, passes on requests to stop (keeper.py)

All of it writes with the lease's id: when the lease was lost, nothing that it writes has an effect.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import psycopg

from flatearth_pipelines import database
from flatearth_pipelines.errors import LeaseLost
from flatearth_pipelines.queue import leases
from flatearth_pipelines.queue.attempts import Workers
from flatearth_pipelines.queue.handlers import Registry
from flatearth_pipelines.queue.keeper import Keeper
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

_END_SECONDS = 5.0
"""What recording everything takes at most when a drain is stopped."""


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


class Drain:
    """One drain, from opening its lease to closing it: `run`, in a thread of its own, and `stop` from another."""

    def __init__(self, conninfo: str, registry: Registry, owner: str, options: Options) -> None:
        self.report = Report()
        self._conninfo = conninfo
        self._registry = registry
        self._owner = owner
        self._options = options
        self._stop_asked = threading.Event()
        self._broken: BaseException | None = None
        self._says_waiting = False
        self._after: Job | None = None
        self._looked_at_all = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self) -> Report:
        """Drain until nothing is due for `stay`, `longest` is over, or `stop`.

        Raises:
            LeaseLost: it ran out, since this process did not get to renew it. Nothing was done twice for that.
            DatabaseUnavailable: Postgres is not there.
            psycopg.Error: Postgres broke off; what was not recorded is run again when the lease has run out.
        """
        # As asyncio.run, but it does not wait for a handler that goes on although it is cancelled.
        loop = asyncio.new_event_loop()
        try:
            loop.run_until_complete(self._run())
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()
        return self.report

    def run_in_thread(self, stopping: Callable[[], None]) -> Report:
        """As `run`, in a thread of its own, so that an interrupt of the caller's stops it in good order.

        Calls `stopping` when that begins. The interrupt is raised when the drain has ended, or a little after `grace`.
        """
        failure: list[BaseException] = []
        ended = threading.Event()  # an interrupted Thread.join takes the thread for dead before Python 3.13

        def body() -> None:
            try:
                self.run()
            except BaseException as error:  # noqa: BLE001 - raised again below
                failure.append(error)
            finally:
                ended.set()

        threading.Thread(target=body, name="drain", daemon=True).start()
        try:
            while not ended.wait(_FLUSH_SECONDS):
                pass
        except BaseException:
            stopping()
            self.stop()
            ended.wait(self._options.grace.total_seconds() + _END_SECONDS)
            raise
        if failure:
            raise failure[0]
        return self.report

    def stop(self) -> None:
        """Claim nothing more, give running jobs `grace` to finish, and hand the others back. Returns at once."""
        self._stop_asked.set()
        if self._loop is not None:
            self._in_loop(self._workers.wake.set)

    async def _run(self) -> None:
        connection = await database.connect_async(self._conninfo, self._owner)
        engine = database.engine(self._conninfo, f"{self._owner} job", connections=self._options.concurrency)
        try:
            async with connection:
                self._lease, self._opened_at = await leases.open_lease(
                    connection, self._owner, self._options.lease, own_run=self._options.own_run
                )
                self._opened = time.monotonic()
                self._ledger = Ledger(self.report)
                keeper = Keeper(
                    self._conninfo,
                    f"{self._owner} keeper",
                    self._lease,
                    self._options.lease,
                    tell_cancelled=lambda requests: self._in_loop(self._workers.tell_cancelled, requests),
                    give_up=lambda error: self._in_loop(self._break, error),
                )
                self._workers = Workers(
                    self._registry,
                    self._ledger,
                    engine,
                    self._lease,
                    now=self._now,
                    note_progress=keeper.note_progress,
                    concurrency=self._options.concurrency,
                    own_run=self._options.own_run,
                )
                self._loop = asyncio.get_running_loop()
                keeper.start()
                try:
                    await self._clerk(connection)
                    await self._finish(connection)
                finally:
                    await self._workers.end()
                    keeper.end()
        finally:
            engine.dispose()

    def _in_loop(self, function: Callable[..., None], *arguments: object) -> None:
        """Have the event loop call it soon, from any thread; nothing happens when the loop has ended or not begun."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(function, *arguments)

    def _now(self) -> datetime:
        """By the database's clock: as it was when the lease was opened, and as long ago as that is here."""
        return self._opened_at + timedelta(seconds=time.monotonic() - self._opened)

    # The clerk

    async def _clerk(self, connection: psycopg.AsyncConnection) -> None:
        idle_since = self._opened
        swept = 0.0
        pace = Pace(self._ledger, self._workers, self._options.batch_size)
        await connection.execute("LISTEN flatearth_jobs")
        while not self._stop_asked.is_set():
            self._raise_broken()
            swept = await self._sweep(connection, swept)
            over = (
                time.monotonic() - self._opened >= self._options.longest.total_seconds()
                or self._workers.stuck == self._options.concurrency
            )
            if over and self._workers.stuck:
                self._workers.hand_back_waiting()
            ended = self._ledger.ended
            claimed = await self._claim(connection, 0 if over else self._wanted(pace))
            if claimed:
                await self._hand_out(connection, claimed)
                if self._options.own_run:
                    return
            if self._workers.is_busy or not self._ledger.is_empty:
                idle_since = time.monotonic()
                if not (claimed and pace.wanted()):
                    await self._pause()
            elif over or (
                self._has_stayed(idle_since)
                and self._ledger.ended == ended  # else look once more: what ended meanwhile may have enqueued a job
                and not await leases.sweep(connection)
            ):
                return
            elif not claimed:
                await self._wait_for_work(connection, idle_since)

    def _wanted(self, pace: Pace) -> int:
        if self._options.own_run:
            return 0 if self._workers.is_busy else 1
        pace.measure()
        return pace.wanted()

    def _has_stayed(self, idle_since: float) -> bool:
        return time.monotonic() - idle_since >= self._options.stay.total_seconds()

    async def _claim(self, connection: psycopg.AsyncConnection, wanted: int) -> list[Job]:
        """Record and claim; for a while each claim goes on where the last one ended, past what that left behind."""
        if time.monotonic() - self._looked_at_all >= _CURSOR_SECONDS:
            self._looked_at_all, self._after = time.monotonic(), None
        claimed = await self._exchange(connection, wanted, self._after)
        if wanted and not claimed and self._after is not None:
            claimed = await self._exchange(connection, wanted)
        if wanted:
            keyed = any(job.keyed for job in claimed)  # the next of a key may be from before
            self._after = claimed[-1] if len(claimed) == wanted and not keyed else None
        return claimed

    async def _sweep(self, connection: psycopg.AsyncConnection, last: float) -> float:
        """Now and then, what nobody tells a drain of: lost workers, cron jobs, jobs that wait for what is over."""
        if time.monotonic() - last < _SWEEP_SECONDS:
            return last
        self.report.rescued += await leases.rescue(connection, self._registry, self._lease)
        self.report.cron_ticks += await leases.tick_crons(connection, self._registry)
        await leases.sweep(connection)
        return time.monotonic()

    async def _exchange(
        self, connection: psycopg.AsyncConnection, wanted: int = 0, after: Job | None = None
    ) -> list[Job]:
        """Record what has ended, and claim, in one transaction and one round trip."""
        if self._ledger.is_empty and not wanted:
            return []
        claims = None
        try:
            async with connection.pipeline():
                recorded = await self._ledger.record(connection, self._lease)
                if wanted:
                    own_run = self._options.own_run
                    claims = await leases.claim(connection, self._lease, wanted, own_run=own_run, after=after)
            await self._ledger.count(recorded)
            claimed = await claims.fetchall() if claims else []
        except psycopg.errors.ObjectNotInPrerequisiteState as error:
            raise LeaseLost(str(error.diag.message_primary)) from None
        self._ledger.claim(claimed)
        return claimed

    async def _hand_out(self, connection: psycopg.AsyncConnection, claimed: list[Job]) -> None:
        """Give the jobs to the workers; one that has already killed a worker runs when nothing else does."""
        if self._says_waiting and len(claimed) >= _BUSY_JOBS:
            await self._say_waiting(connection, waiting=False)
        if not claimed[0].lost_workers:
            self._workers.put(claimed)
            return
        while self._workers.is_busy and not self._stop_asked.is_set():
            await self._pause()
            await self._exchange(connection)
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

    async def _wait_for_work(self, connection: psycopg.AsyncConnection, idle_since: float) -> None:
        """Until a notification, the next due instant, or the end of the stay, but not much longer than a moment."""
        if not self._says_waiting:  # and look once more: who enqueued just before this did not send a notification
            await self._say_waiting(connection, waiting=True)
            return
        due_in = await leases.seconds_until_due(connection, own_run=self._options.own_run)
        left = idle_since + self._options.stay.total_seconds() - time.monotonic()
        seconds = min(_POLL_SECONDS, left, _POLL_SECONDS if due_in is None else due_in)
        if seconds > 0:
            async for _ in connection.notifies(timeout=seconds, stop_after=1):
                break

    async def _say_waiting(self, connection: psycopg.AsyncConnection, *, waiting: bool) -> None:
        await leases.say_waiting(connection, self._lease, waiting=waiting)
        self._says_waiting = waiting

    async def _finish(self, connection: psycopg.AsyncConnection) -> None:
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
            await self._exchange(connection)
            self._raise_broken()
            if self._workers.is_busy:
                await self._pause()
        await leases.close_lease(connection, self._lease)

    def _raise_broken(self) -> None:
        broken = self._broken or self._workers.broken
        if broken is not None:
            raise broken

    def _break(self, error: BaseException) -> None:
        self._broken = error
        self._workers.ask_to_stop("the lease was lost")
        self._workers.wake.set()
