"""Sending emails: by SMTP over a connection that is kept, or into a directory of `.eml` files."""

import base64
import contextlib
import re
import smtplib
import ssl
import uuid
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import unquote, urlsplit

from flatearth_pipelines.errors import FlatEarthError
from flatearth_pipelines.message import Message, compose, one_line
from flatearth_pipelines.settings import Settings

SMTP_SECONDS = 20.0
"""How long a server may take for one answer."""

MESSAGES_A_CONNECTION = 100
"""After which a new one is made: servers end one that goes on for ever."""

_PORTS = {"smtp": 25, "smtps": 465}

_NOBODY = {(550, "5.1.1"), (501, "5.1.3"), (552, "5.6.0"), (555, "5.5.4")}
"""Answers that mean that the address takes no mail, after Fizzy's SmtpDeliveryErrorHandling."""

_ANSWER_LENGTH = 300

_CLOSING = 421
_UNAUTHENTICATED = 530
"""Codes of RFC 5321 and RFC 4954: the server ends the connection; it wants a login first."""


class MailNotSent(FlatEarthError):
    """The server could not be reached, or refused the message."""


class Fate(Enum):
    """What became of a message."""

    TAKEN = "taken"
    LATER = "later"
    """Worth another attempt: the server said so, or could not be reached, or the connection was lost."""
    NOBODY = "nobody"
    """The address does not exist, or takes no mail."""
    REFUSED = "refused"
    """The server will not take this message."""


class Answer(NamedTuple):
    """What became of a message, and what was said, in one line without the password."""

    fate: Fate
    said: str
    unreachable: bool = False
    """No connection, or no login: it says nothing about the message."""
    lost: bool = False
    """The connection ended, or nothing came in time, in the middle: the message may have come through."""


def send(settings: Settings, message: Message) -> None:
    """Send the message, or write it into the outbox directory.

    Raises:
        MailNotSent: in one line, without the password.
    """
    with Line(settings) as line:
        answer = line.send(message)
    if answer.fate is not Fate.TAKEN:
        raise MailNotSent(f"{line.where} did not take the mail: {answer.said}")


def text_message(settings: Settings, to: str, subject: str, text: str) -> Message:
    """A plain text message from `FLATEARTH_MAIL_FROM`; line breaks in the subject become blanks."""
    return compose(settings.mail_from, to, one_line(subject), text)


class Line:
    """One connection to the mail server, made when it is needed and kept; or the outbox. For one thread at a time."""

    def __init__(
        self, settings: Settings, seconds: float = SMTP_SECONDS, messages: int = MESSAGES_A_CONNECTION
    ) -> None:
        self._url = urlsplit(settings.smtp_url)
        self._seconds = seconds
        self._most = messages
        self._sent = 0
        self._server: smtplib.SMTP | None = None
        self._outbox = Path(unquote(self._url.path)) if self._url.scheme == "file" else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def where(self) -> str:
        """The server's host and port, or the directory."""
        return str(self._outbox or f"{self._url.hostname}:{self._url.port or _PORTS[self._url.scheme]}")

    def send(self, message: Message) -> Answer:
        """Send it. Whatever goes wrong is an answer."""
        if self._outbox is not None:
            return _written(self._outbox, message)
        if self._sent >= self._most:
            self.close()
        if self._server is not None:
            answer, untouched = self._converse(self._server, message)
            if not untouched:
                return answer
        try:
            self._server = _connected(self._url.geturl(), self._seconds)
            self._sent = 0
        except (OSError, ValueError) as error:  # smtplib's errors are OSErrors
            return Answer(Fate.LATER, _said(error), unreachable=True)
        return self._converse(self._server, message)[0]

    def close(self) -> None:
        """Say goodbye; it can be used again, with a new connection."""
        server, self._server = self._server, None
        if server is not None:
            with contextlib.suppress(OSError):
                server.quit()
            server.close()

    def _drop(self) -> None:
        """End the connection without a word: it is lost, or not at a point where one could be said."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def _converse(self, server: smtplib.SMTP, message: Message) -> tuple[Answer, bool]:
        """The answer, and whether the connection was over before the server took anything of this message."""
        exchange = _Exchange(server, message)
        try:
            code, said = exchange.run()
        except smtplib.SMTPNotSupportedError as error:
            return Answer(Fate.REFUSED, _said(error)), False
        except (OSError, ValueError) as error:
            self._drop()
            in_time = not isinstance(error.__context__, TimeoutError)
            return Answer(Fate.LATER, _said(error), lost=True), in_time and not exchange.begun
        self._sent += 1
        if code in {_CLOSING, _UNAUTHENTICATED} or exchange.broken:
            self._drop()
        if code == _UNAUTHENTICATED:
            return Answer(Fate.LATER, said, unreachable=True), False
        return Answer(fate(code, said), said), code == _CLOSING and not exchange.begun


def fate(code: int, said: str) -> Fate:
    """What a reply means: 2xx, 4xx, the four that say that nobody is there (with their enhanced code), any other."""
    if 200 <= code < 300:  # noqa: PLR2004
        return Fate.TAKEN
    if not 500 <= code < 600:  # noqa: PLR2004 - what is neither is a server out of step
        return Fate.LATER
    enhanced = re.match(r"\d{3}[ -](\d\.\d{1,3}\.\d{1,3})\b", said)
    return Fate.NOBODY if enhanced is not None and (code, enhanced[1]) in _NOBODY else Fate.REFUSED


class _Exchange:
    """One message over a connection: MAIL, RCPT and DATA in one go where the server knows PIPELINING (RFC 2920)."""

    def __init__(self, server: smtplib.SMTP, message: Message) -> None:
        self._server = server
        self._message = message
        self.begun = False
        """Whether the server has taken the sender."""
        self.broken = False
        """Whether the connection is good for nothing more."""

    def run(self) -> tuple[int, str]:
        """The reply that decided."""
        commands = self._commands()
        if pipelined := self._server.has_extn("pipelining"):
            self._say("".join(commands))
        decided = None
        for command in commands:
            if not pipelined:
                self._say(command)
            code, said = self._reply()
            self.begun = self.begun or code // 100 == 2  # noqa: PLR2004
            if decided is None and code // 100 != (3 if command is commands[-1] else 2):
                decided = code, said
            if code == _CLOSING or (decided and not pipelined):
                break
        if decided is not None:
            self._give_up(code)
            return decided
        content = (b"." if self._message.content.startswith(b".") else b"") + self._message.content
        content = content.replace(b"\n.", b"\n..")  # fifty times as fast as a regular expression
        self._server.send(content + (b".\r\n" if content.endswith(b"\r\n") else b"\r\n.\r\n"))
        return self._reply()

    def _commands(self) -> list[str]:
        mail = f"MAIL FROM:<{self._message.sender}>"
        if not self._message.recipient.isascii():
            if not self._server.has_extn("smtputf8"):
                raise smtplib.SMTPNotSupportedError("the server takes no address that is not ASCII")
            mail += " SMTPUTF8"
        return [f"{mail}\r\n", f"RCPT TO:<{self._message.recipient}>\r\n", "DATA\r\n"]

    def _give_up(self, code: int) -> None:
        """Have the server forget the message. One that says to go on although nobody will get it, gets nothing."""
        if code == _CLOSING:
            return
        try:
            self._say(".\r\n" if code // 100 == 3 else "RSET\r\n")  # noqa: PLR2004
            self._reply()
        except OSError:
            self.broken = True

    def _say(self, text: str) -> None:
        self._server.send(text.encode())

    def _reply(self) -> tuple[int, str]:
        code, text = self._server.getreply()
        return code, one_line(f"{code} {text.decode('utf-8', 'replace')}")[:_ANSWER_LENGTH]


def _written(outbox: Path, message: Message) -> Answer:
    """Into a file of its own, which is there whole or not at all."""
    try:
        outbox.mkdir(parents=True, exist_ok=True)
        path = outbox / f"{uuid.uuid4().hex}.eml"
        partial = path.with_suffix(".partial")
        partial.write_bytes(message.content.replace(b"\r\n", b"\n"))
        partial.rename(path)
    except OSError as error:
        return Answer(Fate.LATER, _said(error), unreachable=True)
    return Answer(Fate.TAKEN, f"written to {path}")


def _connected(smtp_url: str, seconds: float) -> smtplib.SMTP:
    """A server that was greeted, with TLS where it offers that, and logged in to where the URL has a user."""
    url = urlsplit(smtp_url)
    host, port = url.hostname or "127.0.0.1", url.port or _PORTS[url.scheme]
    if url.scheme == "smtps":
        server: smtplib.SMTP = smtplib.SMTP_SSL(host, port, timeout=seconds, context=ssl.create_default_context())
    else:
        server = smtplib.SMTP(host, port, timeout=seconds)
    try:
        server.ehlo_or_helo_if_needed()
        if url.scheme == "smtp" and server.has_extn("starttls"):
            server.starttls(context=ssl.create_default_context())
            server.ehlo_or_helo_if_needed()
        if url.username:
            _log_in(server, unquote(url.username), unquote(url.password or ""))
    except BaseException:
        server.close()
        raise
    return server


def _log_in(server: smtplib.SMTP, user: str, password: str) -> None:
    if (user + password).isascii():
        server.login(user, password)
        return
    said = base64.b64encode(f"\0{user}\0{password}".encode()).decode()  # RFC 4616; smtplib knows ASCII only
    code, answer = server.docmd("AUTH", f"PLAIN {said}")
    if code != 235:  # noqa: PLR2004 - of RFC 4954
        raise smtplib.SMTPAuthenticationError(code, answer)


def _said(error: Exception) -> str:
    """Of smtplib's errors what the server said, of others their words."""
    if isinstance(error, smtplib.SMTPResponseException):
        said = error.smtp_error
        words = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
        return one_line(f"{error.smtp_code} {words}")[:_ANSWER_LENGTH]
    return one_line(str(error))[:_ANSWER_LENGTH] or type(error).__name__
