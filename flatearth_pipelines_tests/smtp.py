"""A real SMTP server, aiosmtpd on a port of its own, that keeps what it is sent and answers as a test wants."""

import asyncio
import contextlib
import email
import email.policy
import socket
from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session


@dataclass
class Server:
    """What arrived, and what is answered instead of agreeing."""

    port: int
    mails: list[EmailMessage] = field(default_factory=list)
    """Also those whose sender was not told, or was told something else."""
    answers: dict[str, str] = field(default_factory=dict)
    """To MAIL, RCPT, DATA (at its end), or to RCPT of an address."""
    connections: int = 0
    """How many were greeted by us, ever."""
    goodbyes: int = 0
    most_connections: int | None = None
    """At once; another one is refused."""
    pipelining: bool = False
    silent: bool = False
    """It takes a mail, and never says so."""
    hangs_up: bool = False
    """It takes a mail, and ends the connection without a word."""
    hangs_up_once: bool = False
    slow: bool = False
    """It takes its time."""

    @property
    def url(self) -> str:
        return f"smtp://127.0.0.1:{self.port}"

    def recipients(self) -> Counter[str]:
        """How many mails arrived for each address."""
        return Counter(str(mail["To"]) for mail in self.mails)

    def mail(self) -> EmailMessage:
        """The only one."""
        (mail,) = self.mails
        return mail

    # What aiosmtpd calls

    async def handle_EHLO(  # noqa: N802
        self, _server: SMTP, session: Session, _envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        if self.most_connections is not None and self.connections - self.goodbyes >= self.most_connections:
            return ["421 4.7.0 too many connections"]
        self.connections += 1
        session.host_name = hostname
        return [*responses[:-1], "250-PIPELINING", responses[-1]] if self.pipelining else responses

    async def handle_HELO(  # noqa: N802
        self, _server: SMTP, session: Session, _envelope: Envelope, hostname: str
    ) -> str:
        session.host_name = hostname
        return "421 4.7.0 too many connections" if self.most_connections is not None else "250 here"

    async def handle_MAIL(  # noqa: N802
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if "MAIL" not in self.answers:
            envelope.mail_from = address
        return self.answers.get("MAIL", "250 fine")

    async def handle_RCPT(  # noqa: N802
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        answer = self.answers.get(address, self.answers.get("RCPT", "250 fine"))
        if answer.startswith("2"):
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(self, server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        answer = self.answers.get("DATA", "250 taken")
        content = envelope.original_content or b""
        if answer.startswith("2"):
            self.mails.append(parsed(content))
        if self.slow:
            await asyncio.sleep(0.05)
        if self.silent:
            await asyncio.sleep(3_600)
        if (self.hangs_up or self.hangs_up_once) and isinstance(server.transport, asyncio.WriteTransport):
            self.hangs_up_once = False
            server.transport.abort()
        return answer

    async def handle_QUIT(self, _server: SMTP, _session: Session, _envelope: Envelope) -> str:  # noqa: N802
        self.goodbyes += 1
        return "221 bye"


class _Controller(Controller):
    def factory(self) -> SMTP:
        return SMTP(self.handler, enable_SMTPUTF8=True, hostname="here", loop=self.loop)


@contextlib.contextmanager
def smtp_server(port: int | None = None, **behaviour: Any) -> Generator[Server]:
    """A running server, stopped at the end."""
    server = Server(port or free_port(), **behaviour)
    controller = _Controller(server, hostname="127.0.0.1", port=server.port, ready_timeout=60)
    controller.start()
    server.connections = 0  # its own look whether it is there
    try:
        yield server
    finally:
        controller.stop(no_assert=True)


def free_port() -> int:
    """Nobody listens there at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def parsed(content: bytes) -> EmailMessage:
    """As a modern mail program reads it, with the line ends of this machine."""
    message = email.message_from_bytes(content.replace(b"\r\n", b"\n"), policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    return message


def part(message: EmailMessage, kind: str) -> str:
    """Its text (`plain`) or its `html`, decoded."""
    found = message.get_body((kind,))
    assert found is not None
    content: str = found.get_content()
    return content
