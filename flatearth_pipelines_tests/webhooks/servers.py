"""Real HTTP and TLS servers on loopback that behave as a test wants, well or badly, and remember what came."""

import asyncio
import contextlib
import os
import socket
import ssl
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from flatearth_pipelines.settings import Network

REACHABLE = "127.0.0.2"
"""Where servers are that webhooks may reach."""

ALLOWED: tuple[Network, ...] = (ip_network(f"{REACHABLE}/32"), ip_network("::1/128"))

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"

_AUTHORITY = "authority.example"

_RESET = struct.pack("ii", 1, 0)


def _has_ipv6() -> bool:
    if os.environ.get("CI"):
        return True  # there its tests fail rather than be skipped
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


needs_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")


class Request(NamedTuple):
    """What came, byte for byte."""

    line: str
    headers: list[tuple[str, str]]
    body: bytes


Behaviour = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]
"""What a server does about a request; one that closes the writer ends the connection."""


@dataclass
class Server:
    """What arrived."""

    host: str
    behaviour: Behaviour
    scheme: str = "http"
    port: int = 0
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    """Ever."""
    _open: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}/hook"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        with contextlib.suppress(asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            while not writer.is_closing():
                request = await _request(reader)
                self.requests.append(request)
                await self.behaviour(request, writer)
        writer.close()
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await writer.wait_closed()
        writer.transport.abort()  # whoever does not say goodbye
        self._open.discard(task)

    async def stop(self) -> None:
        """End every connection, also one that is only being taken."""
        while asyncio.all_tasks() != {asyncio.current_task()}:
            for task in self._open:
                task.cancel()
            await asyncio.sleep(0.001)
        loop: Any = asyncio.get_running_loop()
        for transport in list(loop._transports.values()):  # noqa: SLF001 - of a handshake nobody else knows
            transport.abort()
        await asyncio.sleep(0.01)  # what was aborted is closed in the loop's next rounds


def says(answer: bytes) -> Behaviour:
    """Answer with these bytes, and keep the connection."""

    async def behaviour(_request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()

    return behaviour


def says_and_hangs_up(answer: bytes) -> Behaviour:
    """Answer with these bytes, then end the connection."""

    async def behaviour(request: Request, writer: asyncio.StreamWriter) -> None:
        await says(answer)(request, writer)
        writer.close()

    return behaviour


async def resets(_request: Request, writer: asyncio.StreamWriter) -> None:
    """As a machine that was switched off and on again."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


async def hangs(_request: Request, _writer: asyncio.StreamWriter) -> None:
    """Say nothing, for ever."""
    await asyncio.Event().wait()


def drips(start: bytes) -> Behaviour:
    """Begin well, then go on with a byte now and then, for ever."""

    async def behaviour(_request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        while not writer.is_closing():
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)

    return behaviour


def floods(start: bytes, more: bytes) -> Behaviour:
    """Begin well, then go on as fast as it is read, for ever."""

    async def behaviour(_request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        while not writer.is_closing():
            writer.write(more)
            await writer.drain()

    return behaviour


@contextlib.contextmanager
def http_server(
    answer: bytes | Behaviour = OK, host: str = REACHABLE, tls: ssl.SSLContext | None = None, port: int = 0
) -> Generator[Server]:
    """A running server, stopped at the end."""
    behaviour = says(answer) if isinstance(answer, bytes) else answer
    server = Server(host, behaviour, "http" if tls is None else "https")
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="http server", daemon=True)
    thread.start()

    def on_loop(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(60)

    listening = on_loop(asyncio.start_server(server.serve, host, port, ssl=tls, backlog=500))
    server.port = listening.sockets[0].getsockname()[1]

    async def stop() -> None:
        listening.close()
        await server.stop()
        await listening.wait_closed()

    try:
        yield server
    finally:
        on_loop(stop())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class Listener:
    """A port where nobody should knock, and who did."""

    def __init__(self, listening: socket.socket) -> None:
        self._listening = listening
        self.port: int = listening.getsockname()[1]
        self._knocks = 0

    @property
    def knocks(self) -> int:
        """Connections ever, also those that were closed again at once."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._listening.accept()[0].close()
                self._knocks += 1
        return self._knocks


@contextlib.contextmanager
def listener(host: str = "127.0.0.1") -> Generator[Listener]:
    """At an address that webhooks may not reach. The machine completes connections by itself, so none is missed."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listening:
        listening.bind((host, 0))
        listening.listen(100)
        listening.setblocking(False)
        yield Listener(listening)


class Authority:
    """Somebody who issues certificates, and whom this process trusts."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._certificate = _certificate([_AUTHORITY], self._key, _AUTHORITY, self._key, authority=True)
        path = directory / "authority.pem"
        path.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))
        monkeypatch.setenv("SSL_CERT_FILE", str(path))

    def issued_to(self, *names: str, days: int = 2) -> ssl.SSLContext:
        """For a server with these names and addresses; `days` from now it ends, or has ended when negative."""
        key = ec.generate_private_key(ec.SECP256R1())
        return self._context(key, _certificate(names, key, _AUTHORITY, self._key, days=days))

    def self_signed(self, *names: str) -> ssl.SSLContext:
        """By the server itself."""
        key = ec.generate_private_key(ec.SECP256R1())
        return self._context(key, _certificate(names, key, names[0], key))

    def _context(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> ssl.SSLContext:
        path = self._directory / f"{certificate.serial_number}.pem"
        path.write_bytes(
            certificate.public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context


def resolve(monkeypatch: pytest.MonkeyPatch, names: Mapping[str, Callable[[], Sequence[str]]]) -> None:
    """Have the machine's resolver say these addresses of these names, asked anew each time; it knows no others."""

    def getaddrinfo(host: str, port: int | None, *_: Any, **__: Any) -> list[tuple[Any, ...]]:
        if host not in names:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port or 0, 0, 0))
            if ":" in address
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port or 0))
            for address in names[host]()
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


async def _request(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    line, *rest = head.removesuffix("\r\n\r\n").split("\r\n")
    headers = [(name, value.strip()) for name, _, value in (each.partition(":") for each in rest)]
    length = next(int(value) for name, value in headers if name.lower() == "content-length")
    return Request(line, headers, await reader.readexactly(length))


def _certificate(
    names: Sequence[str],
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    days: int = 2,
    authority: bool = False,
) -> x509.Certificate:
    """As strict verifiers want it (RFC 5280)."""
    now = datetime.fromtimestamp(time.time(), UTC)
    usage = dict.fromkeys(
        (
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "key_cert_sign",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        ),
        False,
    ) | {"digital_signature": not authority, "key_cert_sign": authority}
    return (
        x509.CertificateBuilder()
        .subject_name(_common_name(names[0]))
        .issuer_name(_common_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=10))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**usage), critical=True)
        .add_extension(x509.SubjectAlternativeName([_alternative_name(name) for name in names]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _alternative_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)
