"""For how long an answer asks to be left alone, by its header Retry-After."""

import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

LONGEST = timedelta(days=1)
"""Whatever asks for more gets this."""

_SECONDS = re.compile(r"\s*(-?)0*([0-9]+)\s*")

_MOST_DIGITS = 6


def retry_after(header: str | None, date: str | None, now: datetime) -> timedelta | None:
    """What the header says in seconds, or as a date; never negative, never more than a day. None: nothing sensible.

    A date is measured against the answer's own Date where there is one, since clocks differ, and against `now` (with
    its zone) otherwise. Source: RFC 9110, 10.2.3 and 5.6.7.
    """
    if header is None:
        return None
    if number := _SECONDS.fullmatch(header):
        if number[1]:
            return timedelta()
        return min(timedelta(seconds=int(number[2])), LONGEST) if len(number[2]) <= _MOST_DIGITS else LONGEST
    until = _instant(header)
    if until is None:
        return None
    return min(max(until - (_instant(date) or now), timedelta()), LONGEST)


def _instant(text: str | None) -> datetime | None:
    """The date in any of the three forms of HTTP; one without a zone is in UTC."""
    if text is None:
        return None
    try:
        instant = parsedate_to_datetime(text)
        return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
