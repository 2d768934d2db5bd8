"""One request after the other to endpoints that may do anything: whatever they do is an answer."""

import asyncio
import io
import os
import socket
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import lru_cache

import aiohttp
from aiohttp.http_parser import RawResponseMessage
from yarl import URL

from flatearth_pipelines.message import one_line
from flatearth_pipelines.settings import Network
from flatearth_pipelines.webhooks.addresses import refusal
from flatearth_pipelines.webhooks.guard import WAY, Guard, Way
from flatearth_pipelines.webhooks.names import Names
from flatearth_pipelines.webhooks.outcome import MOST_BYTES, Answer, Code, code_of
from flatearth_pipelines.webhooks.retry_after import retry_after

_DETAIL_LENGTH = 300

_LARGE_BYTES = 1_000_000
"""aiohttp wants a larger body as a stream, which it writes piece by piece."""

_URLS = 4_096

_HUNG_UP = (ConnectionResetError, ConnectionAbortedError)
"""While a connection is made, the first of these comes only once there is one: of TLS, then."""


class Client:
    """Makes requests in one running loop, where it is made and closed too.

    No redirects, no cookies, no proxies or passwords of the environment; what comes is neither decompressed nor
    decoded. Certificates are those that the machine trusts (or SSL_CERT_FILE).
    """

    def __init__(
        self,
        allowed: Sequence[Network],
        clock: Callable[[], datetime],
        *,
        seconds: float,
        user_agent: str,
        most_open: int,
    ) -> None:
        self._clock = clock
        self._seconds = seconds
        self._refusal = lru_cache(_URLS)(lambda url: refusal(url, allowed))
        self._read = lru_cache(_URLS)(_read)  # yarl itself remembers 128 of them
        self._names = Names()
        tls = ssl.create_default_context()
        tls.set_alpn_protocols(["http/1.1"])
        self._kept, self._fresh = (
            aiohttp.ClientSession(
                connector=Guard(allowed, self._names, tls, most_open=most),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),  # ours covers a second attempt too
                headers={"User-Agent": user_agent, "Accept-Encoding": "identity"},
                auto_decompress=False,
                trust_env=False,
            )
            for most in (most_open, None)
        )

    async def close(self) -> None:
        """End the connections."""
        await self._kept.close()
        await self._fresh.close()
        await self._names.close()

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Send exactly this body with these headers, and wait for what comes of it for so many seconds in all."""
        started_at = self._clock()
        began = time.perf_counter()
        if said := self._refusal(url):
            return Answer(Code.BAD_URL, started_at, 0, detail=f"the URL may not be sent to: {said}")
        exchange = _Exchange(url, headers, body)
        code, detail = await self._outcome(exchange)
        return Answer(
            code,
            started_at,
            round((time.perf_counter() - began) * 1_000),
            exchange.status,
            exchange.retry_after(started_at),
            exchange.way.address,
            None if exchange.status is None else bytes(exchange.received[:MOST_BYTES]),
            detail and one_line(detail)[:_DETAIL_LENGTH],
        )

    async def _outcome(self, exchange: "_Exchange") -> tuple[Code, str | None]:
        try:
            url = self._read(exchange.url)
            async with asyncio.timeout(self._seconds):
                try:
                    status = await exchange.run(self._kept, url)
                except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                    if not exchange.may_be_repeated_after(error):
                        raise
                    status = await exchange.run(self._fresh, url)
        except TimeoutError:
            return Code.TIMEOUT, f"{exchange.missing} within {self._seconds:g} s"
        # Nobody cancels this but the timeout: were aiohttp to leak a cancellation, it must not end the others' worker.
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001
            return _failure(error, exchange)
        return code_of(status), None


class _Exchange:
    """One request, and as much of its answer as has come."""

    __slots__ = ("_body", "_sent_headers", "headers", "received", "status", "url", "way")

    def __init__(self, url: str, headers: Mapping[str, str], body: bytes) -> None:
        self.url = url
        self._sent_headers = headers
        self._body = body
        self.way: Way
        """Of the last attempt."""
        self.status: int | None = None
        self.headers: Mapping[str, str] | None = None
        self.received = bytearray()

    async def run(self, session: aiohttp.ClientSession, url: URL) -> int:
        """The status, once the answer is read or has turned out to be too long."""
        self.way = Way()
        WAY.set(self.way)
        body = self._body if len(self._body) <= _LARGE_BYTES else io.BytesIO(self._body)
        response = await session.post(url, data=body, headers=self._sent_headers, allow_redirects=False)
        try:
            self.status, self.headers = response.status, response.headers
            content, received = response.content, self.received
            while len(received) <= MOST_BYTES and not content.at_eof():
                received += await content.read(MOST_BYTES + 1 - len(received))
        finally:
            if not response.closed:  # otherwise it was read to its end, and its connection is back in the pool
                response.close()
        return self.status

    def retry_after(self, now: datetime) -> timedelta | None:
        """For how long the answer asks to be left alone."""
        if self.headers is None:
            return None
        return retry_after(self.headers.get("Retry-After"), self.headers.get("Date"), now)

    def may_be_repeated_after(self, error: aiohttp.ClientError) -> bool:
        """Whether a kept connection turned out to be closed: nothing came, as if nothing had been sent."""
        begun = isinstance(error, aiohttp.ServerDisconnectedError) and isinstance(error.message, RawResponseMessage)
        return self.way.reused and self.status is None and not begun

    @property
    def missing(self) -> str:
        """What there was none of, when the time was up."""
        if self.status is not None:
            return "no end of the answer"
        return "no address of the name" if self.way.address is None else "no answer"


def _read(url: str) -> URL:
    try:
        return URL(url)
    except ValueError:
        raise aiohttp.InvalidURL(url) from None


def _failure(error: BaseException, exchange: _Exchange) -> tuple[Code, str]:
    """The code and what a person is told, without any part of the URL or of a header."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            said = getattr(error.certificate_error, "verify_message", None)
            failure = Code.TLS, said or _reason(error.os_error)
        case aiohttp.ClientSSLError():
            failure = Code.TLS, _reason(error.os_error)
        case aiohttp.ClientConnectorDNSError():
            failure = Code.DNS, _reason(error.os_error)
        case aiohttp.ClientConnectorError() if exchange.way.tried is None and exchange.way.refused is not None:
            failure = Code.BLOCKED, "webhooks may not go to any address of its host"
        case aiohttp.ClientConnectorError() if isinstance(error.os_error, _HUNG_UP):
            failure = Code.TLS, "the connection ended before it was encrypted"
        case aiohttp.ClientConnectorError():
            failure = Code.CONNECT, _reason(error.os_error)
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError() | aiohttp.ClientPayloadError():
            failure = Code.LOST, "the connection ended before the answer did"
        case aiohttp.InvalidURL() | aiohttp.NonHttpUrlClientError():
            failure = Code.BAD_URL, "the URL cannot be read"
        case aiohttp.ClientResponseError():
            failure = Code.BAD_ANSWER, "what came is no HTTP, or its headers are too large"
        case _:
            failure = Code.BAD_ANSWER, f"it failed with {type(error).__name__}"
    return failure


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "TLS failed").replace("_", " ").lower()
    if isinstance(error, socket.gaierror):
        return error.strerror or "the name cannot be looked up"
    return os.strerror(error.errno) if error.errno else "no address of its host can be connected to"
