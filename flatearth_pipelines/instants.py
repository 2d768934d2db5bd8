"""Instants as people write them."""

from datetime import datetime

from flatearth_pipelines.errors import WrongUsage


def instant(text: str, name: str = "as_of") -> datetime:
    """The ISO 8601 instant, called `name` in errors, which says its offset from UTC; microseconds are the finest part.

    Raises:
        WrongUsage: it is no date and time, or has no zone, without which it could be any of 24 hours.
    """
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        parsed = None
    if parsed is None or parsed.tzinfo is None:
        missing = "has no zone" if parsed else "is not a date and time"
        raise WrongUsage(
            f"{name} {text!r} {missing}: it takes ISO 8601 with an offset, such as 2026-11-22T09:00:00+00:00"
        )
    return parsed
