"""When recurring work is due: cron patterns, names for the usual ones, and intervals."""

import contextlib
import re
from collections.abc import Iterator
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
"""`business_hours` is every full hour from 9 to 17, Monday to Friday; `weekly` is Monday."""

SHORTEST = timedelta(minutes=1)
LONGEST = timedelta(days=366)

_UNITS = {"minute": timedelta(minutes=1), "hour": timedelta(hours=1), "day": timedelta(days=1)}

_INTERVAL = re.compile(r"every (?:([0-9]{1,9}) )?(second|minute|hour|day)s?")

_FIELDS = 5

_EVERY_HOUR = set(range(24))

_LONGEST_TEXT = 200
"""Characters of a pattern: room for every minute of an hour, none for what takes long to read."""


class WrongPattern(WrongUsage):
    """A pattern or zone that cannot be followed."""


def next_fire(pattern: str, time_zone: str, after: datetime, anchor: datetime | None = None) -> datetime:
    """The first instant after `after`, strictly, at which the pattern fires, in UTC.

    A pattern is cron's five fields, a name of `NAMED`, or `every 90 seconds`, `every 5 minutes`, `every hour`: at least
    a minute. The fields are times on the zone's clocks, and a change of the clocks neither skips nor doubles one: what
    would be in the hour that is left out in spring happens right after it, what is in the hour that comes twice in
    autumn happens the first time. A pattern of every hour follows the time that passes instead: 23 or 25 hours on such
    a day. An interval counts from `anchor`, else from `after`, whatever the clocks do.

    Raises:
        WrongPattern: it cannot be read, fires more often than once a minute, or never again; or there is no such zone.
    """
    zone = _zone(time_zone)
    after = after.astimezone(UTC)
    interval = _interval(pattern)
    try:
        if interval is not None:
            return _next_of_interval(interval, after, anchor)
        for fire in _fires(pattern, zone, after):
            if fire > after:
                return fire
    except OverflowError:  # the year 10,000
        pass
    raise WrongPattern(f"{_shown(pattern)} never fires again")


def _next_of_interval(interval: timedelta, after: datetime, anchor: datetime | None) -> datetime:
    if anchor is None:
        return after + interval
    # In UTC: datetimes of one zone are subtracted as their clocks show them.
    start = anchor.astimezone(UTC)
    return start if start > after else start + ((after - start) // interval + 1) * interval


def _fires(pattern: str, zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
    """Ascending in what the clocks show, from `after` on; in an hour that comes twice the first ones lie before it."""
    fields = NAMED.get(pattern, pattern).split()
    here = after.astimezone(zone)
    if len(fields) != _FIELDS or len(pattern) > _LONGEST_TEXT:  # cronsim takes a sixth, for seconds
        raise _unreadable(pattern, "Wrong number of fields")
    try:
        walls = CronSim(" ".join(fields), here.replace(tzinfo=None))
        # Given a zone, cronsim follows the time that passes if the hour is a star, whatever the minute is.
        passing = CronSim(" ".join([fields[0], "*", *fields[2:]]), here)
    except CronSimError as error:
        raise _unreadable(pattern, str(error)) from None
    if walls.hours == _EVERY_HOUR:
        return (fire.astimezone(UTC) for fire in passing)
    return (_first_instant(wall, zone) for wall in walls)


def _first_instant(wall: datetime, zone: ZoneInfo) -> datetime:
    """When the zone's clocks first show that time, or have just left it out."""
    while True:
        instant = wall.replace(tzinfo=zone).astimezone(UTC)
        if instant.astimezone(zone).replace(tzinfo=None) == wall:
            return instant
        wall += SHORTEST


def _interval(pattern: str) -> timedelta | None:
    match = _INTERVAL.fullmatch(pattern)
    if match is None:
        return None
    interval = int(match[1] or 1) * _UNITS.get(match[2], timedelta(seconds=1))
    if not SHORTEST <= interval <= LONGEST:
        raise WrongPattern(f"{pattern!r} is not an interval of a minute to 366 days")
    return interval


def _zone(name: str) -> ZoneInfo:
    # Files in lower case are no places: `localtime` is this machine's zone, `right/UTC` counts leap seconds.
    if not name[:1].islower():
        with contextlib.suppress(KeyError, ValueError, OSError):  # unknown, a path, a directory
            return ZoneInfo(name)
    raise WrongPattern(f"There is no time zone {_shown(name)}: it takes a name such as Europe/Berlin")


def _unreadable(pattern: str, why: str) -> WrongPattern:
    return WrongPattern(
        f"{_shown(pattern)} is no pattern that ever fires ({why}): it takes five cron fields, such as '0 9 * * 1-5',"
        f" one of {', '.join(NAMED)}, or 'every 5 minutes'"
    )


def _shown(text: str) -> str:
    return repr(text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + "...")
