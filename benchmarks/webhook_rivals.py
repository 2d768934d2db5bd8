"""What webhooks are measured against: one statement that dispatches, a bare loop of aiohttp's, and httpx that sends."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from http import HTTPStatus
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

import aiohttp
import httpx

from benchmarks.servers import connected
from flatearth_pipelines.settings import Network
from flatearth_pipelines.webhooks.outcome import MOST_BYTES, Answer, Code, code_of
from flatearth_pipelines.webhooks.transport import Post, Sent

T = TypeVar("T")

_GATHER_SECONDS = 0.02
"""As ours waits for more to be done."""

_STATEMENT = """
with taken as (delete from flatearth.undispatched_events returning event_id)
insert into flatearth.webhook_deliveries (account_id, webhook_id, event_id, type)
select w.account_id, w.id, e.id, e.action
from taken
join flatearth.events as e on e.id = taken.event_id
join flatearth.accounts as a on a.id = e.account_id and a.cancelled_at is null
join flatearth.webhooks as w on w.account_id = e.account_id
where w.active and (w.board_id is null or w.board_id = e.board_id) and e.action = any(w.actions)
on conflict on constraint one_delivery_per_event_and_endpoint do nothing
"""


def single_statement(conninfo: str) -> float:
    """Seconds of one statement that writes the deliveries of everything that is new, in one transaction.

    Nothing can be sent before all of it is written, and its work is lost when anything is in its way.
    """
    with connected(conninfo) as connection:
        connection.execute("set jit = off")
        began = time.monotonic()
        connection.execute(_STATEMENT)
        return time.monotonic() - began


async def bare_loop(posts: Sequence[Post], in_flight: int) -> int:
    """Send what is ready, so many at once, and look at nothing but the status; how many were answered by 204."""
    waiting = iter(posts)
    done = 0
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def work() -> None:
            nonlocal done
            for post in waiting:
                async with session.post(post.url, data=post.body, headers=post.headers) as response:
                    await response.read()
                    done += response.status == HTTPStatus.NO_CONTENT

        async with asyncio.TaskGroup() as group:
            for _ in range(in_flight):
                group.create_task(work())
    return done


class HttpxPosts(Generic[T]):
    """`transport.Posts` by httpx.AsyncClient: the least that a run needs of it. It guards no address."""

    def __init__(
        self,
        compose: Callable[[T], Post | Answer],
        *,
        allowed: Sequence[Network],  # noqa: ARG002 - the same call
        clock: Callable[[], datetime],
        in_flight: int,
        seconds: float,
        user_agent: str,
    ) -> None:
        self.backlog = 0
        self._compose = compose
        self._clock = clock
        self._done: SimpleQueue[Sent[T]] = SimpleQueue()
        self._taken: list[Sent[T]] = []
        self._stopping = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(in_flight)
        self._client = httpx.AsyncClient(
            timeout=seconds,
            headers={"User-Agent": user_agent, "Accept-Encoding": "identity"},
            limits=httpx.Limits(max_connections=in_flight, max_keepalive_connections=in_flight),
            trust_env=False,
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def put(self, items: Iterable[T]) -> None:
        """Send these too."""
        waiting = list(items)
        self.backlog += len(waiting)
        self._loop.call_soon_threadsafe(self._begin, waiting)

    def look(self, seconds: float) -> list[Sent[T]]:
        """What is done and not forgotten."""
        with contextlib.suppress(Empty):
            if seconds > 0:
                self._taken.append(self._done.get(timeout=seconds))
                time.sleep(_GATHER_SECONDS)
            while True:
                self._taken.append(self._done.get_nowait())
        return list(self._taken)

    def forget(self, sent: Sequence[Sent[T]]) -> None:
        """These are recorded."""
        del self._taken[: len(sent)]
        self.backlog -= len(sent)

    def stop(self) -> None:
        """Begin nothing more."""
        self._stopping = True

    def close(self) -> None:
        """Stop, once what is being sent has its answer."""
        self.stop()
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _begin(self, waiting: Iterable[T]) -> None:
        for item in waiting:
            task = self._loop.create_task(self._work(item))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _end(self) -> None:
        while self._tasks:
            await asyncio.wait(self._tasks)
        await self._client.aclose()

    async def _work(self, item: T) -> None:
        async with self._room:
            self._done.put(Sent(item, None if self._stopping else await self._sent(item)))

    async def _sent(self, item: T) -> Answer:
        post = self._compose(item)
        if isinstance(post, Answer):
            return post
        at, began = self._clock(), time.monotonic()
        try:
            response = await self._client.post(post.url, content=post.body, headers=post.headers)
        except httpx.HTTPError as error:
            return Answer(Code.LOST, at, 0, detail=type(error).__name__)
        took = round(1_000 * (time.monotonic() - began))
        status = response.status_code
        return Answer(code_of(status), at, took, status, response=response.content[:MOST_BYTES])
