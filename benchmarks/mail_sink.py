"""A mail server in a process of its own that takes everything and keeps nothing: `python -m benchmarks.mail_sink KIND`.

KIND is `aiosmtpd`, or `bare`: one that looks at nothing but where a command and a mail end, faster than any that is in
use, and which knows PIPELINING, as those do. Prints `ready` and the port at once, and ends at the first line
on its standard input, or when that ends, with one JSON object: how many mails it took.
"""

import asyncio
import contextlib
import json
import sys

from aiosmtpd.smtp import SMTP, Envelope, Session

_END = b"\r\n.\r\n"


class _Sink(asyncio.Protocol):
    taken = 0

    def __init__(self) -> None:
        self._buffer = b""
        self._is_content = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            self._transport = transport
            transport.write(b"220 sink\r\n")

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        answers = b""
        while (answer := self._answer()) is not None:
            answers += answer
        if self._transport is not None and answers:
            self._transport.write(answers)
            if answers.endswith(b"221 bye\r\n"):
                self._transport.close()

    def _answer(self) -> bytes | None:
        """To the next command, or content, if it is here whole."""
        content, end, rest = self._buffer.partition(_END if self._is_content else b"\r\n")
        if not end:
            return None
        self._buffer = rest
        if self._is_content:
            self._is_content = False
            type(self).taken += 1
            return b"250 taken\r\n"
        verb = content[:4].upper()
        if verb == b"EHLO":
            return b"250-sink\r\n250 PIPELINING\r\n"
        if verb == b"DATA":
            self._is_content = True
            return b"354 go on\r\n"
        return b"221 bye\r\n" if verb == b"QUIT" else b"250 fine\r\n"


class _Handler:
    taken = 0

    async def handle_DATA(self, _server: SMTP, _session: Session, _envelope: Envelope) -> str:  # noqa: N802 - its name
        type(self).taken += 1
        return "250 taken"


async def _serve(kind: str) -> None:
    loop = asyncio.get_running_loop()
    protocols = {"aiosmtpd": lambda: SMTP(_Handler(), hostname="sink", loop=loop), "bare": _Sink}
    server = await loop.create_server(protocols[kind], "127.0.0.1", 0)
    print("ready", flush=True)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.readline)
    print(json.dumps({"taken": _Sink.taken + _Handler.taken}))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(sys.argv[1]))
