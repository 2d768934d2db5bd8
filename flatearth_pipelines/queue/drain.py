"""The drain: claims due jobs in batches, has them run with bounded concurrency, and records how they ended.

    clerk    one coroutine with one connection: everything that ended since, and the next claim (clerk.py)
    workers  as many coroutines as jobs may run at once (attempts.py)
    keeper   a thread with a connection of its own: renews the lease, passes on requests to stop (keeper.py)

All of it writes with the lease's id: when the lease was lost, nothing that it writes has an effect.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta

from flatearth_pipelines import database
from flatearth_pipelines.queue import leases
from flatearth_pipelines.queue.attempts import Workers
from flatearth_pipelines.queue.clerk import Clerk, Options
from flatearth_pipelines.queue.handlers import Registry
from flatearth_pipelines.queue.keeper import Keeper
from flatearth_pipelines.queue.ledger import Ledger, Report

_WAIT_SECONDS = 0.2
"""How often a thread that waits for a drain looks for an interrupt of its own."""

_END_SECONDS = 5.0
"""What recording everything takes at most when a drain is stopped."""


class Drain:
    """One drain, from opening its lease to closing it: `run`, in a thread of its own, and `stop` from another."""

    def __init__(self, conninfo: str, registry: Registry, owner: str, options: Options) -> None:
        self.report = Report()
        self._conninfo = conninfo
        self._registry = registry
        self._owner = owner
        self._options = options
        self._stop_asked = threading.Event()
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
            while not ended.wait(_WAIT_SECONDS):
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
                ledger = Ledger(self.report)
                keeper = Keeper(
                    self._conninfo,
                    f"{self._owner} keeper",
                    self._lease,
                    self._options.lease,
                    tell_cancelled=lambda requests: self._in_loop(self._workers.tell_cancelled, requests),
                    give_up=lambda error: self._in_loop(self._clerk.break_off, error),
                )
                self._workers = Workers(
                    self._registry,
                    ledger,
                    engine,
                    self._lease,
                    now=self._now,
                    note_progress=keeper.note_progress,
                    concurrency=self._options.concurrency,
                    own_run=self._options.own_run,
                )
                self._clerk = Clerk(
                    connection,
                    self._lease,
                    registry=self._registry,
                    ledger=ledger,
                    workers=self._workers,
                    options=self._options,
                    report=self.report,
                    stop_asked=self._stop_asked,
                )
                self._loop = asyncio.get_running_loop()
                keeper.start()
                try:
                    await self._clerk.work()
                    await self._clerk.finish()
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
