"""The workers of a drain: they run its jobs, with bounded concurrency and within their time limits."""

import asyncio
import random
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import cast

import sqlalchemy as sa
from pydantic import ValidationError

from flatearth_pipelines.queue.handlers import (
    Context,
    Guarantee,
    Handler,
    Refused,
    Registry,
    Result,
    Retry,
    Stopped,
    invalidity,
    one_line,
)
from flatearth_pipelines.queue.leases import Job
from flatearth_pipelines.queue.ledger import Ledger
from flatearth_pipelines.queue.running import LeftToOthers, Running
from flatearth_pipelines.queue.settlement import in_milliseconds, retry_in

_YIELD_JOBS = 8
"""A worker whose jobs never wait lets the others have a turn after this many."""

_TELL_JOBS = 500
"""So many ended jobs are worth recording."""

_WATCH_SECONDS = 0.1
"""How often time limits are looked at."""

_END_SECONDS = 1.0
"""How long the coroutines may take to end after they were cancelled."""

_OUT_OF_TIME = "time limit"
_STOPPING = "the worker is stopping"


class Workers:
    """As many coroutines as jobs may run at once; plain functions run in threads, each for one job."""

    def __init__(
        self,
        registry: Registry,
        ledger: Ledger,
        engine: sa.Engine,
        lease_id: int,
        *,
        now: Callable[[], datetime],
        note_progress: Callable[[int, float, str], None],
        concurrency: int,
        own_run: bool,
    ) -> None:
        self.wake = asyncio.Event()
        """Set when there is something to record, or room for more."""
        self.stuck = 0
        """How many places are taken by threads that do not end although nobody waits for them any more."""
        self.ran_dry = False
        """Whether a worker found nothing more to do since this was set to False."""
        self._registry = registry
        self._ledger = ledger
        self._engine = engine
        self._lease = lease_id
        self._now = now
        self._note_progress = note_progress
        self._concurrency = concurrency
        self._own_run = own_run
        self._stopping = False
        self._ending = asyncio.Event()
        self._buffer: asyncio.Queue[Job] = asyncio.Queue()
        self._running: dict[int, Running] = {}
        self._cancel_unstarted: dict[int, str] = {}
        self._tasks = [asyncio.create_task(self._work()) for _ in range(concurrency)]
        self._tasks.append(asyncio.create_task(self._watch()))
        self.broken: BaseException | None = None
        """A defect of our own, not of a handler, that ended a worker."""
        for task in self._tasks:
            task.add_done_callback(self._note_end)

    def _note_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self.broken = task.exception()
            self.wake.set()

    def put(self, jobs: Iterable[Job]) -> None:
        """Run these too."""
        for job in jobs:
            self._buffer.put_nowait(job)

    @property
    def waiting(self) -> int:
        """How many jobs have not begun."""
        return self._buffer.qsize()

    @property
    def room(self) -> int:
        """How many more could begin at once; negative when more are waiting."""
        return self._concurrency - len(self._running) - self.stuck - self._buffer.qsize()

    @property
    def is_busy(self) -> bool:
        """Whether anything runs or waits."""
        return bool(self._running) or not self._buffer.empty()

    def hand_back_waiting(self) -> None:
        """Begin nothing of what waits."""
        while not self._buffer.empty():
            self._ledger.hand_back(self._buffer.get_nowait().id)

    def begin_to_stop(self) -> None:
        """Begin nothing more; a job that stops from now on stops because of that."""
        self._stopping = True
        self.hand_back_waiting()

    def ask_to_stop(self, reason: str = _STOPPING) -> None:
        """Tell what runs, through its context, that the worker is stopping."""
        for running in self._running.values():
            running.context.request_stop(reason)

    def give_up(self) -> None:
        """Do not wait any longer for what runs: it is handed back, or has failed where it may run only once."""
        for running in list(self._running.values()):
            running.interrupt(_STOPPING)

    def tell_cancelled(self, requests: Iterable[tuple[int, str]]) -> None:
        """These jobs were cancelled, for that reason."""
        for job_id, reason in requests:
            running = self._running.get(job_id)
            if running is not None and running.cancelled is None:
                running.cancelled = reason
                running.context.request_stop(reason)
            elif running is None and self._ledger.holds(job_id):
                self._cancel_unstarted.setdefault(job_id, reason)

    def abandon(self) -> None:
        """Record what runs as given up, and forget it."""
        for running in list(self._running.values()):
            running.interrupt(_STOPPING)
            self._end_interrupted(running)
            self._running.pop(running.job.id, None)

    async def end(self) -> None:
        """Cancel the coroutines. A thread, or a coroutine that goes on although it is cancelled, is not waited for."""
        self._ending.set()
        self.ask_to_stop()  # a thread that ends later than this closes its connection, which no pool takes back
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks, timeout=_END_SECONDS)

    async def _work(self) -> None:
        worker = cast("asyncio.Task[None]", asyncio.current_task())
        since_turn = 0
        while True:
            job = await self._buffer.get()
            handler = self._registry.get(job.handler)
            if job.id in self._cancel_unstarted:
                self._ledger.cancel(job.id, self._cancel_unstarted.pop(job.id))
            elif handler is None:
                known = ", ".join(sorted(self._registry.handlers))
                self._ledger.fail(job.id, f"There is no handler {job.handler!r}: there are {known}", None)
            elif handler.own_run and not self._own_run:
                self._ledger.move(job.id)
            else:
                await self._attempt(job, handler, worker)
            self._ledger.ended += 1
            if self._buffer.empty():
                self.ran_dry = True
                self.wake.set()
            elif self._ledger.ended % _TELL_JOBS == 0:
                self.wake.set()
            since_turn += 1
            if since_turn >= _YIELD_JOBS:
                since_turn = 0
                await asyncio.sleep(0)

    async def _attempt(self, job: Job, handler: Handler, worker: asyncio.Task[None]) -> None:
        try:
            payload = handler.payload.model_validate_json(job.payload)
        except ValidationError as error:
            self._ledger.fail(job.id, f"The payload is not valid: {invalidity(error)}", None)
            return
        except Exception as error:  # noqa: BLE001 - a model may raise anything; its words may hold a value
            self._ledger.fail(job.id, f"The payload could not be read: {type(error).__name__}", None)
            return
        limit = job.timeout_ms / 1000 if job.timeout_ms else handler.timeout.total_seconds()
        context = Context(job.id, job.attempts, job.account_id, self._note_progress)
        running = Running(job, handler, context, limit, self._ending)
        self._running[job.id] = running
        try:
            if handler.is_async:
                result = await running.awaited(payload, worker)
            else:
                result = await running.in_thread(payload, self._engine, self._lease)
            self._end(running, result)
        except asyncio.CancelledError:
            if running.interrupted is None:
                raise
            self._end_interrupted(running)
        except Exception as error:  # noqa: BLE001 - a handler may raise anything, and that is its job's failure
            self._end_failed(running, error)
        finally:
            self._running.pop(job.id, None)
        if running.thread_end is not None:  # interrupted, but a thread cannot be killed: it keeps its place
            self.stuck += 1
            self.wake.set()
            await running.thread_end
            self.stuck -= 1

    def _end(self, running: Running, result: Result) -> None:
        """The handler returned."""
        job = running.job
        if job.id not in self._running:  # abandoned
            return
        if running.interrupted is not None:
            self._end_interrupted(running)
        elif running.handler.guarantee is Guarantee.TRANSACTIONAL:
            self._ledger.settled(job.id)
        elif running.cancelled is not None:
            self._ledger.cancel(job.id, running.cancelled)
        else:
            self._ledger.succeed(job.id, result)

    def _end_failed(self, running: Running, error: Exception) -> None:
        """The handler raised."""
        job = running.job
        if job.id not in self._running:  # abandoned
            return
        if isinstance(error, LeftToOthers):
            self._ledger.leave(job.id)
        elif running.interrupted is not None:
            self._end_interrupted(running)
        elif running.cancelled is not None:
            self._ledger.cancel(job.id, running.cancelled)
        elif isinstance(error, Stopped) and self._stopping:
            self._give_back(running)
        else:
            self._ledger.fail(job.id, one_line(error), self._retry_in_ms(running, error))

    def _end_interrupted(self, running: Running) -> None:
        """The drain did not wait for the handler any longer."""
        if running.job.id not in self._running:  # abandoned
            return
        if running.interrupted == _STOPPING:
            self._give_back(running)
        elif running.cancelled is not None:
            self._ledger.cancel(running.job.id, running.cancelled)
        else:
            error = TimeoutError(f"not done within its time limit of {running.limit:g} s")
            self._ledger.fail(running.job.id, one_line(error), self._retry_in_ms(running, error))

    def _give_back(self, running: Running) -> None:
        if running.handler.guarantee is Guarantee.AT_MOST_ONCE:
            self._ledger.fail(running.job.id, "The worker was stopped, and this handler runs at most once", None)
        else:
            self._ledger.hand_back(running.job.id)

    def _retry_in_ms(self, running: Running, error: Exception) -> int | None:
        """Milliseconds until the next attempt, or None when there is none."""
        if isinstance(error, Refused):
            return None
        asked = None
        if isinstance(error, Retry):
            asked = error.after if error.at is None else error.at - self._now()
        wait = retry_in(running.job, running.handler, random.random(), asked)  # noqa: S311
        return None if wait is None else in_milliseconds(wait)

    async def _watch(self) -> None:
        """Interrupt what is over its time limit."""
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            now = time.monotonic()
            for running in list(self._running.values()):
                if now >= running.deadline:
                    running.interrupt(_OUT_OF_TIME)
