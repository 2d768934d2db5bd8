"""When recurring work is due: cron patterns, names for the usual ones, and intervals."""

import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from flatearth_pipelines.errors import WrongUsage

NAMED = {
    "hourly": "0 * * * *",
    "daily": "0 0 * * *",
    "daily_3am": "0 3 * * *",
    "daily_9am": "0 9 * * *",
    "weekdays_9am": "0 9 * * 1-5",
    "business_hours": "0 9-17 * * 1-5",
    "weekly": "0 0 * * 1",
    "monthly": "0 0 1 * *",
    "yearly": "0 0 1 1 *",
}
"""`business_hours` is every full hour from 9 to 17, Monday to Friday."""

SHORTEST = timedelta(minutes=1)
LONGEST = timedelta(days=366)

_UNITS = {"minute": timedelta(minutes=1), "hour": timedelta(hours=1), "day": timedelta(days=1)}

_INTERVAL = re.compile(r"every (?:(\d{1,6}) )?(second|minute|hour|day)s?")


class WrongPattern(WrongUsage):
    """A pattern or zone that cannot be followed."""


def next_fire(pattern: str, time_zone: str, after: datetime, anchor: datetime | None = None) -> datetime:
    """The first instant after `after` at which the pattern fires, in UTC.

    A pattern is cron's five fields, a name of `NAMED`, or `every 90 seconds`, `every 5 minutes`, `every hour`: at least
    a minute. A pattern with fields is read in the zone as Debian's cron does: a run in an hour that is skipped in
    spring happens right after it, one in an hour that occurs twice in autumn happens once. An interval counts from
    `anchor`, else from `after`, whatever the clocks do.

    Raises:
        WrongPattern: it cannot be read, fires more often than once a minute, or never; or there is no such zone.
    """
    zone = _zone(time_zone)
    interval = _interval(pattern)
    if interval is not None:
        start = anchor or after
        passed = (after - start) // interval + 1 if after >= start else 0
        return (start + max(passed, 1 if anchor is None else 0) * interval).astimezone(UTC)
    try:
        fires = CronSim(NAMED.get(pattern, pattern), after.astimezone(zone))
        return next(fires).astimezone(UTC)
    except CronSimError as error:
        raise WrongPattern(
            f"{pattern!r} is not a pattern ({error}): it takes five cron fields, such as '0 9 * * 1-5', one of"
            f" {', '.join(NAMED)}, or 'every 5 minutes'"
        ) from None
    except StopIteration:
        raise WrongPattern(f"{pattern!r} never fires") from None


def _interval(pattern: str) -> timedelta | None:
    match = _INTERVAL.fullmatch(pattern)
    if match is None:
        return None
    unit = _UNITS.get(match[2], timedelta(seconds=1))
    interval = int(match[1] or 1) * unit
    if not SHORTEST <= interval <= LONGEST:
        raise WrongPattern(f"{pattern!r} is not an interval of a minute to a year")
    return interval


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # unknown, a path, a directory
        raise WrongPattern(f"There is no time zone {name!r}: it takes a name such as Europe/Berlin") from None
