"""Sending an email: by SMTP, or into a directory of `.eml` files where no server is configured."""

import smtplib
import ssl
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from pathlib import Path
from urllib.parse import unquote, urlsplit

from flatearth_pipelines.errors import FlatEarthError
from flatearth_pipelines.settings import Settings

_SMTP_SECONDS = 20


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
    if url.scheme == "file":
        _write(Path(unquote(url.path)), message)
        return
    try:
        with _server(settings.smtp_url) as server:
            server.send_message(message)
    except (OSError, smtplib.SMTPException) as error:
        raise MailNotSent(f"{url.hostname}:{url.port} did not take the mail: {' '.join(str(error).split())}") from None


def _write(directory: Path, message: EmailMessage) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{uuid.uuid4().hex}.eml"
    partial = path.with_suffix(".partial")
    partial.write_bytes(message.as_bytes())
    partial.rename(path)


@contextmanager
def _server(smtp_url: str) -> Iterator[smtplib.SMTP]:
    url = urlsplit(smtp_url)
    host = url.hostname or "127.0.0.1"
    if url.scheme == "smtps":
        server: smtplib.SMTP = smtplib.SMTP_SSL(
            host, url.port or 465, timeout=_SMTP_SECONDS, context=ssl.create_default_context()
        )
    else:
        server = smtplib.SMTP(host, url.port or 25, timeout=_SMTP_SECONDS)
    with server:
        server.ehlo()
        if url.scheme == "smtp" and server.has_extn("starttls"):
            server.starttls(context=ssl.create_default_context())
        if url.username:
            server.login(unquote(url.username), unquote(url.password or ""))
        yield server
