"""A server that takes webhooks at any path, answers each as a test wants, and knows what it got."""

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Generator
from typing import NamedTuple

from flatearth_pipelines_tests.webhooks.servers import OK, Request, Server, http_server

ALLOWED = "127.0.0.0/8"
"""FLATEARTH_WEBHOOK_ALLOW_NETWORKS, for its URLs to be reachable."""


class Received(NamedTuple):
    """One request."""

    path: str
    headers: dict[str, str]
    """Their names in small letters."""
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


class Receiver:
    """Answers 200 unless told otherwise."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes | list[bytes]] = {}
        """By path; of a list one after the other, and then 200."""
        self.open = threading.Event()
        """While it is not set, nobody is answered."""
        self.open.set()
        self.seconds = 0.0
        """How long an answer takes."""
        self.at_work: Counter[str] = Counter()
        self.most_at_work: Counter[str] = Counter()
        """Requests that were not answered yet, by path: now, and the most there ever were."""
        self._server: Server | None = None

    def url(self, path: str = "/hook") -> str:
        assert self._server is not None
        return f"http://{self._server.host}:{self._server.port}{path}"

    def received(self, path: str | None = None) -> list[Received]:
        """In the order in which they came."""
        assert self._server is not None
        all_ = [_received(each) for each in list(self._server.requests)]
        return [each for each in all_ if path in {None, each.path}]

    def one(self) -> Received:
        """The only one."""
        (received,) = self.received()
        return received

    @contextlib.contextmanager
    def serving(self) -> Generator["Receiver"]:
        with http_server(self._answer) as self._server:
            yield self

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        path = _received(request).path
        self.at_work[path] += 1
        self.most_at_work[path] = max(self.most_at_work[path], self.at_work[path])
        try:
            while not self.open.is_set():  # noqa: ASYNC110 - another thread opens it
                await asyncio.sleep(0.005)
            await asyncio.sleep(self.seconds)
            answers = self.answers.get(path, OK)
            answer = (answers.pop(0) if answers else OK) if isinstance(answers, list) else answers
        finally:
            self.at_work[path] -= 1
        writer.write(answer)
        await writer.drain()


def status(code: int, *headers: str) -> bytes:
    """An answer with this status, these headers, and a body that says its code."""
    body = str(code).encode()
    lines = [f"HTTP/1.1 {code} So", f"Content-Length: {len(body)}", *headers]
    return "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n" + body


def _received(request: Request) -> Received:
    _, path, _ = request.line.split()
    return Received(path, {name.lower(): value for name, value in request.headers}, request.body)
