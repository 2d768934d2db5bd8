"""One job at work: its handler, awaited or in a thread of its own, and how the wait for it ends early."""

import asyncio
import contextlib
import inspect
import threading
import time
from typing import Any, cast

import psycopg
import sqlalchemy as sa

from flatearth_pipelines import database
from flatearth_pipelines.queue import storage
from flatearth_pipelines.queue.handlers import Context, Guarantee, Handler, Result, one_line
from flatearth_pipelines.queue.leases import Job
from flatearth_pipelines.queue.results import kept_result

_INSIST_SECONDS = 1.0
"""How long a coroutine may take to end after it was cancelled, before it is cancelled again."""


class LeftToOthers(Exception):
    """The lease was lost while a transactional handler ran: rolled back, and the job is somebody else's."""


class Running:
    """A job at work."""

    __slots__ = (
        "_driver", "_ending", "_future", "_task", "cancelled", "context", "deadline", "handler", "interrupted", "job",
        "limit", "thread_end",
    )  # fmt: skip

    def __init__(self, job: Job, handler: Handler, context: Context, limit: float, ending: asyncio.Event) -> None:
        self.job = job
        self.handler = handler
        self.context = context
        self.limit = limit
        """Seconds."""
        self.deadline = time.monotonic() + limit
        self.cancelled: str | None = None
        """Why an application or an operator wants it to stop; it may take its time."""
        self.interrupted: str | None = None
        """Why nobody waits for it any longer."""
        self.thread_end: asyncio.Future[None] | None = None
        """Of a thread that was interrupted: it cannot be killed, and ends when it ends."""
        self._ending = ending
        self._task: asyncio.Task[None] | None = None
        self._future: tuple[asyncio.Future[Result], asyncio.Future[None]] | None = None
        self._driver: psycopg.Connection | None = None

    def interrupt(self, why: str) -> None:
        """Do not wait for it; a coroutine that goes on although it is cancelled is cancelled again and again."""
        if self.interrupted is not None and self._task is None:
            return
        self.interrupted = self.interrupted or why
        self.deadline = time.monotonic() + _INSIST_SECONDS
        self.context.request_stop(why)
        if self._task is not None:
            self._task.cancel()
        elif self._future is not None:
            done, ended = self._future
            if not done.done():
                self.thread_end = ended
                done.set_exception(InterruptedError())
            if self._driver is not None:
                threading.Thread(target=database.cancel_statement, args=(self._driver,), daemon=True).start()

    async def awaited(self, payload: object, worker: asyncio.Task[None]) -> Result:
        """Run an `async` handler in its worker's task; the interruption of it is over when it has ended."""
        self._task = worker
        try:
            result: Result = await cast("Any", self.handler.run(self.context, payload))
        except asyncio.CancelledError:
            if worker.cancelling() == 0:
                raise RuntimeError("the handler raised CancelledError itself") from None
            raise
        else:
            return result
        finally:
            self._task = None
            while self.interrupted is not None and worker.cancelling() > 0 and not self._ending.is_set():
                worker.uncancel()

    async def in_thread(self, payload: object, engine: sa.Engine, lease_id: int) -> Result:
        """Run a plain handler in a thread, and wait for it, or for being interrupted."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Result] = loop.create_future()
        ended: asyncio.Future[None] = loop.create_future()

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
                result = self._call(payload, engine, lease_id)
            except BaseException as error:  # noqa: BLE001 - it is raised again where the job is
                failure = error
            with contextlib.suppress(RuntimeError):  # the loop is gone, and with it everybody who waits
                loop.call_soon_threadsafe(settle, result, failure)

        self._future = done, ended
        threading.Thread(target=body, name=f"job {self.job.id}", daemon=True).start()
        return await done

    def _call(self, payload: object, engine: sa.Engine, lease_id: int) -> Result:
        """In a thread: the handler, and for a transactional one the completion of its job, in one transaction."""
        handler, context = self.handler, self.context
        if handler.guarantee is not Guarantee.TRANSACTIONAL:
            return _returned(handler.run(context, payload))
        with engine.connect() as connection:
            self._driver = connection.connection.driver_connection
            context.lend(connection)
            try:
                with connection.begin():
                    result = _returned(handler.run(context, payload))
                    context.check()
                    if not storage.finish_job(connection, lease_id, self.job.id, kept_result(result)):
                        raise LeftToOthers
            finally:
                self._driver = None
                if context.stop_requested:  # its statement may be cancelled any moment, and nobody may wait for it
                    connection.invalidate()
        return result


def _returned(value: object) -> Result:
    """What a plain handler returned; a coroutine that nobody awaits has done nothing."""
    if inspect.iscoroutine(value):
        value.close()
        raise TypeError("a plain handler returned a coroutine: declare it with `async def`")
    return cast("Result", value)
