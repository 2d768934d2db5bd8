"""Connections only to where webhooks may go: the address that is looked at is the one that is connected to."""

import socket
import ssl
from collections.abc import Sequence
from contextvars import ContextVar
from weakref import WeakSet

import aiohttp
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import Connection
from aiohttp.tracing import Trace

from flatearth_pipelines.settings import Network
from flatearth_pipelines.webhooks.addresses import is_permitted
from flatearth_pipelines.webhooks.names import Names

KEEP_SECONDS = 4.0
"""How long a connection is kept for the next request there: less than the 5 s of Node, Apache and uvicorn."""


class Blocked(OSError):
    """Webhooks may not go to this address."""


class Way:
    """The way that one request took."""

    __slots__ = ("refused", "reused", "tried")

    def __init__(self) -> None:
        self.tried: str | None = None
        """The address that was connected to; when none could be, the last that was tried."""
        self.refused: str | None = None
        """The last address that webhooks may not go to."""
        self.reused = False
        """Whether the connection had served an earlier request."""

    @property
    def address(self) -> str | None:
        """The one that was connected to, or else refused."""
        return self.tried or self.refused


WAY: ContextVar[Way] = ContextVar("way")
"""Of the request that this task, or the task that started it, is making."""


class Guard(aiohttp.TCPConnector):
    """A pool of connections, without a limit, for requests that have a `WAY`.

    What is checked is the address that the socket is about to connect to. Names are looked up once, here, so there is
    nothing that could change in between. `most_open`: with more open ones than that, none is kept that is not kept yet;
    None keeps none at all.
    """

    def __init__(self, allowed: Sequence[Network], names: Names, tls: ssl.SSLContext, *, most_open: int | None) -> None:
        super().__init__(
            resolver=names,
            use_dns_cache=False,
            ssl=tls,
            limit=0,
            force_close=most_open is None,
            keepalive_timeout=None if most_open is None else KEEP_SECONDS,
            socket_factory=self._permitted_socket,
        )
        self._allowed = allowed
        self._most_open = most_open or 0
        self._sockets: WeakSet[socket.socket] = WeakSet()

    async def connect(
        self,
        req: ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's
    ) -> Connection:
        """A connection that was kept, or a new one; the request's way says which, and where it leads."""
        connection = await super().connect(req, traces, timeout)
        way, transport = WAY.get(), connection.transport
        if way.tried is None:
            way.reused = True
        elif self._is_full() and (protocol := connection.protocol) is not None:
            protocol.force_close()
        if transport is not None and (peer := transport.get_extra_info("peername")) is not None:
            way.tried = peer[0]
        return connection

    def _is_full(self) -> bool:
        if len(self._sockets) > self._most_open:  # closed ones are among them, until they are collected
            self._sockets = WeakSet(each for each in self._sockets if each.fileno() >= 0)
        return len(self._sockets) > self._most_open

    def _permitted_socket(self, addr_info: aiohttp.AddrInfoType) -> socket.socket:
        family, kind, protocol, _, (address, port, *_) = addr_info
        way = WAY.get()
        if not is_permitted(str(address), int(port), self._allowed):
            way.refused = str(address)
            raise Blocked(f"webhooks may not go to {address}")
        way.tried = str(address)
        made = socket.socket(family, kind, protocol)
        self._sockets.add(made)
        return made
