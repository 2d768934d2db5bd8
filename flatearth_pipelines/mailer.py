"""Sending an email: by SMTP, or into a directory of `.eml` files where no server is configured."""

import base64
import smtplib
import ssl
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from email.message import EmailMessage
from email.utils import formatdate, getaddresses, make_msgid
from pathlib import Path
from urllib.parse import unquote, urlsplit

from flatearth_pipelines.errors import FlatEarthError
from flatearth_pipelines.settings import Settings

_SMTP_SECONDS = 20
_PORTS = {"smtp": 25, "smtps": 465}


class MailNotSent(FlatEarthError):
    """The server could not be reached, or refused the message."""


def text_message(settings: Settings, to: str, subject: str, text: str) -> EmailMessage:
    """A plain text message from `FLATEARTH_MAIL_FROM`; line breaks in the subject become blanks."""
    message = EmailMessage()
    message["From"] = settings.mail_from
    message["To"] = to
    message["Subject"] = " ".join(subject.split())
    message["Date"] = formatdate(usegmt=True)
    message["Message-ID"] = make_msgid(domain="flatearth")
    message.set_content(text)
    return message


def send(settings: Settings, message: EmailMessage) -> None:
    """Send the message, or write it into the outbox directory.

    Raises:
        MailNotSent: in one line, without the password.
    """
    url = urlsplit(settings.smtp_url)
    where = unquote(url.path) if url.scheme == "file" else f"{url.hostname}:{url.port or _PORTS[url.scheme]}"
    try:
        if url.scheme == "file":
            _write(Path(where), message)
            return
        with _server(settings.smtp_url) as server:
            # smtplib's own send_message makes ">From" of a line that begins with "From".
            mail = message.as_bytes(policy=message.policy.clone(linesep="\r\n"))
            server.sendmail(_addresses(message["From"])[0], _addresses(message["To"]), mail)
    except (OSError, ValueError, smtplib.SMTPException) as error:
        raise MailNotSent(f"{where} did not take the mail: {' '.join(str(error).split())}") from None


def _addresses(header: str) -> list[str]:
    return [address for _, address in getaddresses([header])]


def _write(directory: Path, message: EmailMessage) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{uuid.uuid4().hex}.eml"
    partial = path.with_suffix(".partial")
    partial.write_bytes(message.as_bytes())
    partial.rename(path)


@contextmanager
def _server(smtp_url: str) -> Generator[smtplib.SMTP]:
    url = urlsplit(smtp_url)
    host = url.hostname or "127.0.0.1"
    if url.scheme == "smtps":
        server: smtplib.SMTP = smtplib.SMTP_SSL(
            host, url.port or _PORTS["smtps"], timeout=_SMTP_SECONDS, context=ssl.create_default_context()
        )
    else:
        server = smtplib.SMTP(host, url.port or _PORTS["smtp"], timeout=_SMTP_SECONDS)
    with server:
        server.ehlo()
        if url.scheme == "smtp" and server.has_extn("starttls"):
            server.starttls(context=ssl.create_default_context())
        if url.username:
            _log_in(server, unquote(url.username), unquote(url.password or ""))
        yield server


def _log_in(server: smtplib.SMTP, user: str, password: str) -> None:
    if (user + password).isascii():
        server.login(user, password)
        return
    said = base64.b64encode(f"\0{user}\0{password}".encode()).decode()  # RFC 4616; smtplib knows ASCII only
    code, answer = server.docmd("AUTH", f"PLAIN {said}")
    if code != 235:  # noqa: PLR2004 - of RFC 4954
        raise smtplib.SMTPAuthenticationError(code, answer)
