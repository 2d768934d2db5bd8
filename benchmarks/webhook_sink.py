"""A server in a process of its own that keeps nothing of what it is sent: `python -m benchmarks.webhook_sink KIND`.

It looks at nothing but where a request begins and ends, and answers 204: `fast` at once, `slow` after 50 ms, `hanging`
like `slow`, but never to a path whose number is a multiple of 100; `telling` at once, and prints when each request was
there, in nanoseconds of the monotonic clock. Prints `ready` and the port first, and ends at the first line on its
standard input, or when that ends, with one JSON object: how many requests it has answered, and how many not.
"""

import asyncio
import contextlib
import json
import re
import sys
import time

ANSWER_SECONDS = 0.05
HANGING_ONE_IN = 100

_ANSWER = b"HTTP/1.1 204 No Content\r\n\r\n"
_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)

_WAITING = 1_024
"""Connections that are not accepted yet."""


class _Sink(asyncio.Protocol):
    kind = "fast"
    answered = 0
    hung = 0

    def __init__(self) -> None:
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(_END)) >= 0:
            length = _LENGTH.search(self._buffer, 0, end + 2)
            whole = end + len(_END) + (int(length[1]) if length else 0)
            if len(self._buffer) < whole:
                return
            request, self._buffer = self._buffer, self._buffer[whole:]
            self._answer(request)

    def _answer(self, request: bytes) -> None:
        if self._transport is None:
            return
        if self.kind == "hanging" and int(request.split(b" ", 2)[1][1:]) % HANGING_ONE_IN == 0:
            type(self).hung += 1
            return
        type(self).answered += 1
        if self.kind == "telling":
            print(time.monotonic_ns(), flush=True)
        if self.kind in {"slow", "hanging"}:
            asyncio.get_running_loop().call_later(ANSWER_SECONDS, self._transport.write, _ANSWER)
        else:
            self._transport.write(_ANSWER)


async def _serve(kind: str) -> None:
    _Sink.kind = kind
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Sink, "127.0.0.1", 0, backlog=_WAITING)
    print("ready", flush=True)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.readline)
    print(json.dumps({"answered": _Sink.answered, "hung": _Sink.hung}))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(sys.argv[1]))
