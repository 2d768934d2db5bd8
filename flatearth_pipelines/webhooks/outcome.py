"""What can become of one request, in a closed set: the log's codes."""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

MOST_BYTES = 20_000
"""Of an answer's body that are kept. Source: behaviour.md."""


class Code(StrEnum):
    """How a request ended; the database knows the same ones."""

    OK = "ok"
    """Any 2xx."""
    GONE = "gone"
    """410: the endpoint wants nothing any more."""
    THROTTLED = "throttled"
    """429."""
    REDIRECT = "redirect"
    """Any 3xx: not followed."""
    HTTP_4XX = "http_4xx"
    HTTP_5XX = "http_5xx"
    HTTP_OTHER = "http_other"
    TIMEOUT = "timeout"
    """More than 5 s in all, wherever they were spent."""
    DNS = "dns"
    """The name has no address."""
    BLOCKED = "blocked"
    """Every address of it is one that webhooks may not reach."""
    CONNECT = "connect"
    """No connection: refused, unreachable."""
    TLS = "tls"
    """A certificate that is not right, or no TLS at all."""
    LOST = "lost"
    """The connection ended before the answer did."""
    BAD_ANSWER = "bad_answer"
    """What came is no HTTP, or its headers are too large."""
    BAD_URL = "bad_url"
    """The URL is one that would not be saved today."""
    NO_SECRET = "no_secret"  # noqa: S105 - a code
    """The secret cannot be read with this FLATEARTH_SECRET_KEY."""
    EVENT_GONE = "event_gone"
    """There is nothing left to say: the event was deleted."""


class Answer(NamedTuple):
    """What came of one request."""

    code: Code
    started_at: datetime
    duration_ms: int
    status: int | None = None
    """None: no answer came."""
    retry_after: timedelta | None = None
    """As the endpoint asks for it, never negative."""
    address: str | None = None
    """The one that was connected to, or refused."""
    response: bytes | None = None
    """The first `MOST_BYTES` of the answer's body."""
    detail: str | None = None
    """One line for a person; never a header or a secret."""


def code_of(status: int) -> Code:
    """The code of an answer with this HTTP status."""
    if status in {410, 429}:
        return Code.GONE if status == 410 else Code.THROTTLED  # noqa: PLR2004
    hundreds = {2: Code.OK, 3: Code.REDIRECT, 4: Code.HTTP_4XX, 5: Code.HTTP_5XX}
    return hundreds.get(status // 100, Code.HTTP_OTHER)
