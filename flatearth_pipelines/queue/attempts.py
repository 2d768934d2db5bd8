"""The workers of a drain: they run its jobs, with bounded concurrency and within their time limits."""

import asyncio
import contextlib
import inspect
import random
import threading
import time
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any, cast

import psycopg
import sqlalchemy as sa
from pydantic import ValidationError

from flatearth_pipelines.queue import storage
from flatearth_pipelines.queue.backoff import backoff_from_json, waiting_time
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
from flatearth_pipelines.queue.results import kept_result

_YIELD_JOBS = 8
"""A worker whose jobs never wait lets the others have a turn after this many."""

_TELL_JOBS = 500
"""So many ended jobs are worth recording."""

_WATCH_SECONDS = 0.1
"""How often time limits are looked at."""

_INSIST_SECONDS = 1.0
"""How long a coroutine may take to end after it was cancelled, before it is cancelled again."""

_LONGEST_WAIT = timedelta(days=3652)
"""Of a retry, as of a new job: ten years."""

_OUT_OF_TIME = "time limit"
_STOPPING = "the worker is stopping"


class _Running:
    """A job at work."""

    __slots__ = (
        "cancelled", "context", "deadline", "driver", "handler", "interrupt", "interrupted", "job", "limit", "task",
        "thread_end",
    )  # fmt: skip

    def __init__(self, job: Job, handler: Handler, context: Context, limit: float) -> None:
        self.job = job
        self.handler = handler
        self.context = context
        self.limit = limit
        self.deadline = time.monotonic() + limit
        self.cancelled: str | None = None
        """Why an application or an operator wants it to stop; it may take its time."""
        self.interrupted: str | None = None
        """Why the drain does not wait for it: `_OUT_OF_TIME` or `_STOPPING`."""
        self.task: asyncio.Task[None] | None = None
        """The worker, while it awaits an `async` handler."""
        self.interrupt: Callable[[], None] | None = None
        """Ends the wait for a thread, and the statement that it waits for."""
        self.driver: psycopg.Connection | None = None
        self.thread_end: asyncio.Future[None] | None = None


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
        self._ending = False
        self._buffer: asyncio.Queue[Job] = asyncio.Queue()
        self._running: dict[int, _Running] = {}
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
            self._interrupt(running, _STOPPING)

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
            self._interrupt(running, _STOPPING)
            self._end_interrupted(running)
            self._running.pop(running.job.id, None)

    async def end(self) -> None:
        """Cancel the coroutines. A thread, or a coroutine that goes on although it is cancelled, is not waited for."""
        self._ending = True
        self.ask_to_stop()  # a thread that ends later than this closes its connection, which no pool takes back
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks, timeout=_INSIST_SECONDS)

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
        running = _Running(job, handler, context, limit)
        self._running[job.id] = running
        try:
            if handler.is_async:
                result = await self._awaited(running, payload, worker)
            else:
                result = await self._in_thread(running, payload)
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

    async def _awaited(self, running: _Running, payload: object, task: asyncio.Task[None]) -> Result:
        """Run an `async` handler in this worker's task; the interruption of it is over when it has ended."""
        running.task = task
        try:
            result: Result = await cast("Any", running.handler.run(running.context, payload))
        except asyncio.CancelledError:
            if task.cancelling() == 0:
                raise RuntimeError("the handler raised CancelledError itself") from None
            raise
        else:
            return result
        finally:
            running.task = None
            while running.interrupted is not None and task.cancelling() > 0 and not self._ending:
                task.uncancel()

    def _end(self, running: _Running, result: Result) -> None:
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

    def _end_failed(self, running: _Running, error: Exception) -> None:
        """The handler raised."""
        job = running.job
        if job.id not in self._running:  # abandoned
            return
        if isinstance(error, _LeftToOthers):
            self._ledger.leave(job.id)
        elif running.interrupted is not None:
            self._end_interrupted(running)
        elif running.cancelled is not None:
            self._ledger.cancel(job.id, running.cancelled)
        elif isinstance(error, Stopped) and self._stopping:
            self._give_back(running)
        else:
            self._ledger.fail(job.id, one_line(error), self._retry_in_ms(running, error))

    def _end_interrupted(self, running: _Running) -> None:
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

    def _give_back(self, running: _Running) -> None:
        if running.handler.guarantee is Guarantee.AT_MOST_ONCE:
            self._ledger.fail(running.job.id, "The worker was stopped, and this handler runs at most once", None)
        else:
            self._ledger.hand_back(running.job.id)

    def _retry_in_ms(self, running: _Running, error: Exception) -> int | None:
        """Milliseconds until the next attempt, or None when there is none."""
        handler, job = running.handler, running.job
        if isinstance(error, Refused) or handler.guarantee is Guarantee.AT_MOST_ONCE:
            return None
        if job.attempts >= (job.max_attempts or handler.max_attempts):
            return None
        if isinstance(error, Retry) and error.at is not None:
            wait = error.at - self._now()
        elif isinstance(error, Retry) and error.after is not None:
            wait = error.after
        else:
            backoff = backoff_from_json(job.backoff) if job.backoff else handler.backoff
            wait = waiting_time(backoff, job.attempts, random.random())  # noqa: S311
        return round(min(max(wait, timedelta(0)), _LONGEST_WAIT).total_seconds() * 1000)

    async def _in_thread(self, running: _Running, payload: object) -> Result:
        """Run a plain handler in a thread, and wait for it, or for being interrupted."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Result] = loop.create_future()
        ended: asyncio.Future[None] = loop.create_future()

        def interrupt() -> None:
            if not done.done():
                running.thread_end = ended
                done.set_exception(InterruptedError())
            if running.driver is not None:
                threading.Thread(target=_cancel_statement, args=(running.driver,), daemon=True).start()

        def settle(result: Result, error: BaseException | None) -> None:
            ended.set_result(None)
            if done.done():
                return
            if error is None:
                done.set_result(result)
            elif isinstance(error, Exception) and not isinstance(error, StopIteration):
                done.set_exception(error)
            else:  # what a future cannot carry, or what would end more than the job
                done.set_exception(RuntimeError(one_line(error)))

        def body() -> None:
            result: Result = None
            failure: BaseException | None = None
            try:
                result = self._call(running, payload)
            except BaseException as error:  # noqa: BLE001 - it is raised again where the job is
                failure = error
            with contextlib.suppress(RuntimeError):  # the loop is gone, and with it everybody who waits
                loop.call_soon_threadsafe(settle, result, failure)

        running.interrupt = interrupt
        threading.Thread(target=body, name=f"job {running.job.id}", daemon=True).start()
        return await done

    def _call(self, running: _Running, payload: object) -> Result:
        """In a thread: the handler, and for a transactional one the completion of its job, in one transaction."""
        handler, context = running.handler, running.context
        if handler.guarantee is not Guarantee.TRANSACTIONAL:
            return _returned(handler.run(context, payload))
        with self._engine.connect() as connection:
            running.driver = connection.connection.driver_connection
            context.lend(connection)
            try:
                with connection.begin():
                    result = _returned(handler.run(context, payload))
                    context.check()
                    if not storage.finish_job(connection, self._lease, running.job.id, kept_result(result)):
                        raise _LeftToOthers
            finally:
                running.driver = None
                if context.stop_requested:  # its statement may be cancelled any moment, and nobody may wait for it
                    connection.invalidate()
        return result

    async def _watch(self) -> None:
        """Interrupt what is over its time limit."""
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            now = time.monotonic()
            for running in list(self._running.values()):
                if now >= running.deadline:
                    self._interrupt(running, _OUT_OF_TIME)

    def _interrupt(self, running: _Running, why: str) -> None:
        """Do not wait for it; a coroutine that goes on although it is cancelled is cancelled again and again."""
        if running.interrupted is not None and running.task is None:
            return
        running.interrupted = running.interrupted or why
        running.deadline = time.monotonic() + _INSIST_SECONDS
        running.context.request_stop(why)
        if running.task is not None:
            running.task.cancel()
        elif running.interrupt is not None:
            running.interrupt()


class _LeftToOthers(Exception):
    """The lease was lost while a transactional handler ran: rolled back, and the job is somebody else's."""


def _returned(value: object) -> Result:
    """What a plain handler returned; a coroutine that nobody awaits has done nothing."""
    if inspect.iscoroutine(value):
        value.close()
        raise TypeError("a plain handler returned a coroutine: declare it with `async def`")
    return cast("Result", value)


def _cancel_statement(driver: psycopg.Connection) -> None:
    with contextlib.suppress(psycopg.Error):
        driver.cancel_safe(timeout=5)
