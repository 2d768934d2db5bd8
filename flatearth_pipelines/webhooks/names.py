"""What the names of endpoints mean: looked up in threads, so that a name that hangs keeps no other waiting."""

import asyncio
import socket
import threading
from queue import SimpleQueue

from aiohttp.abc import AbstractResolver, ResolveResult

THREADS = 64
"""So many names may hang at once before others wait for them."""

MOST_ADDRESSES = 8
"""Of one name that are tried: a name with a hundred would have us knock at a hundred doors."""

_NO_ADDRESS = "No address associated with hostname"

_NUMERIC = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV


class Names(AbstractResolver):
    """Look-ups by the machine's own resolver, for one loop; nothing is remembered.

    Who asks for a name while it is being looked up waits for that same answer: a name that hangs takes one thread,
    however many requests go there. Such a thread ends when its look-up does, maybe after `close`; no process waits for
    it.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._asked: dict[str, asyncio.Future[list[str] | OSError]] = {}
        self._free = asyncio.Semaphore(THREADS)
        self._inbox: SimpleQueue[str | None] = SimpleQueue()
        self._threads = 0
        self._idle = 0

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The first addresses of the name.

        Raises:
            OSError: it has none, or nobody could say.
        """
        while (asked := self._asked.get(host)) is None:
            await self._free.acquire()
            if host in self._asked:
                self._free.release()
            else:
                self._ask(host)
        answer = await asyncio.shield(asked)  # others wait for it too
        if isinstance(answer, OSError):
            raise socket.gaierror(*answer.args)
        return [
            ResolveResult(
                hostname=host, host=address, port=port, family=family, proto=socket.IPPROTO_TCP, flags=_NUMERIC
            )
            for address in answer
        ]

    async def close(self) -> None:
        """Let the threads end."""
        for _ in range(self._threads):
            self._inbox.put(None)

    def _ask(self, host: str) -> None:
        if self._idle:
            self._idle -= 1
        else:
            try:
                threading.Thread(target=self._look_up, name="webhook names", daemon=True).start()
            except RuntimeError:
                self._free.release()
                raise
            self._threads += 1
        self._asked[host] = self._loop.create_future()
        self._inbox.put(host)

    def _look_up(self) -> None:
        while (host := self._inbox.get()) is not None:
            answer = _addresses(host)
            try:
                self._loop.call_soon_threadsafe(self._tell, host, answer)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return

    def _tell(self, host: str, answer: list[str] | OSError) -> None:
        self._idle += 1
        self._free.release()
        self._asked.pop(host).set_result(answer)


def _addresses(host: str) -> list[str] | OSError:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    except OSError as error:
        return error
    except ValueError:  # no name at all: a label that is too long, a NUL
        return socket.gaierror(socket.EAI_NONAME, _NO_ADDRESS)
    addresses = [str(address[0]) for family, *_, address in found if family in {socket.AF_INET, socket.AF_INET6}]
    return list(dict.fromkeys(addresses))[:MOST_ADDRESSES] or socket.gaierror(socket.EAI_NONAME, _NO_ADDRESS)
