"""Days in UTC: as people write them, where they begin and end, and which of them are still to be counted."""

from collections.abc import Collection
from datetime import UTC, date, datetime, time, timedelta

from flatearth_pipelines.errors import WrongUsage

MOST_DAYS = 3_660
"""In one range: ten years."""

CAUGHT_UP = 31
"""How many days back the schedule looks for one that was missed."""

_DAY = timedelta(days=1)


def day_of(text: str, name: str = "day") -> date:
    """The ISO 8601 date, called `name` in errors.

    Raises:
        WrongUsage: it is no date.
    """
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise WrongUsage(f"{name} {text!r} is not a date: it takes YYYY-MM-DD, such as 2026-11-22") from None


def start_of(day: date) -> datetime:
    """Midnight in UTC, with which the day begins."""
    return datetime.combine(day, time(), UTC)


def yesterday(as_of: datetime) -> date:
    """The last day that is over."""
    return as_of.astimezone(UTC).date() - _DAY


def check_countable(last: date, as_of: datetime, *, unfinished: bool = False) -> None:
    """Refuse a day that is not over, which it is exactly with the midnight after it; with `unfinished` only the future.

    Raises:
        WrongUsage: what is counted of it now would have to be counted again.
    """
    if unfinished:
        if start_of(last) > as_of:
            raise WrongUsage(f"{last} has not begun: in UTC it is {as_of.astimezone(UTC).date()}")
    elif last > yesterday(as_of):
        raise WrongUsage(
            f"{last} is not over: the last day that is, in UTC, is {yesterday(as_of)}; `unfinished` has today counted"
            " as far as it has come"
        )


def days_between(first: date, last: date) -> list[date]:
    """Every day from the first to the last, both of them too.

    Raises:
        WrongUsage: the first is after the last, or they are more than `MOST_DAYS`.
    """
    count = (last - first).days + 1
    if count < 1:
        raise WrongUsage(f"from {first} is after to {last}")
    if count > MOST_DAYS:
        raise WrongUsage(f"from {first} to {last} are {count:,} days: it takes {MOST_DAYS:,} at most")
    return [first + number * _DAY for number in range(count)]


def days_to_count(counted: Collection[date], last: date) -> list[date]:
    """The last day, and before it those of the past month that were missed, the oldest first.

    Missed is a day that was not counted although an earlier one was: where nothing was ever counted, nothing was.
    """
    first = min(counted, default=last)
    recent = [last - number * _DAY for number in reversed(range(CAUGHT_UP))]
    return [day for day in recent if day == last or (day > first and day not in counted)]
