"""How long what is kept, and when it goes: the one place that says so."""

import re
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal

from flatearth_pipelines.errors import WrongUsage

LARGEST_BATCH = 50_000
MOST_SECONDS = 86_400
LONGEST = timedelta(days=36_500)

_UNITS = {
    "week": timedelta(weeks=1),
    "day": timedelta(days=1),
    "hour": timedelta(hours=1),
    "minute": timedelta(minutes=1),
    "second": timedelta(seconds=1),
}

_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class Retention:
    """What is kept for how long, and the job that ends it."""

    target: str
    """What people call it."""

    what: str
    """What goes, in the plural, as a sentence says it."""

    does: str
    """What the job does, with a place for the time."""

    job: str

    cron: str
    """When the job runs, in UTC; one after the other, so that they do not compete."""

    keep_for: timedelta
    """What is exactly so old stays."""

    batch_size: int = 5_000
    """Rows in one transaction."""

    max_seconds: float = 60.0
    """After this no batch is begun: the next run goes on. 0 is one batch."""

    @property
    def sentence(self) -> str:
        """What the job does."""
        return self.does.format(keep_for=in_words(self.keep_for))

    def changed(
        self, *, keep_for: str | None = None, batch_size: int | None = None, max_seconds: float | None = None
    ) -> "Retention":
        """The same with what is given, for one run.

        Raises:
            WrongUsage: a value is out of its range, which the message names.
        """
        span = self.keep_for if keep_for is None else span_of(keep_for)
        size = self.batch_size if batch_size is None else batch_size
        seconds = self.max_seconds if max_seconds is None else max_seconds
        if not 1 <= size <= LARGEST_BATCH:
            raise WrongUsage(f"batch_size is {size}: it takes 1 to {LARGEST_BATCH:,}")
        if not 0 <= seconds <= MOST_SECONDS:  # which no NaN is
            raise WrongUsage(f"max_seconds is {seconds:g}: it takes 0 to {MOST_SECONDS:,}")
        return replace(self, keep_for=span, batch_size=size, max_seconds=seconds)


_DAY = timedelta(days=1)

ORPHANS_KEEP_FOR = _DAY
"""An object under `files/` that has no row may be an upload whose row is still to come, until it is older than this."""

RETENTIONS = {
    retention.target: retention
    for retention in (
        Retention(
            "webhook_deliveries",
            "webhook deliveries",
            "Delete webhook deliveries older than {keep_for}, whatever their state, with their attempts and payloads.",
            job="cleanup_webhook_deliveries",
            cron="0 3 * * *",
            keep_for=7 * _DAY,
        ),
        Retention(
            "sessions",
            "sessions",
            "Delete sessions that have expired.",
            job="delete_expired_sessions",
            cron="10 3 * * *",
            keep_for=0 * _DAY,
        ),
        Retention(
            "audit_logs",
            "audit logs",
            "Delete audit logs older than {keep_for}.",
            job="delete_old_audit_logs",
            cron="20 3 * * *",
            keep_for=90 * _DAY,
        ),
        Retention(
            "files",
            "files",
            "Delete files older than {keep_for}, first the object, then the row, and objects that have no row.",
            job="delete_old_files",
            cron="30 3 * * *",
            keep_for=30 * _DAY,
            batch_size=1_000,  # what S3 deletes by one request; the rows are held as long as that takes
        ),
        Retention(
            "tags",
            "tags",
            "Delete tags that are on no card and older than {keep_for}.",
            job="delete_unused_tags",
            cron="2 4 * * *",
            keep_for=_DAY,
        ),
    )
}
"""By target, in the order in which they run at night. The queue's history is the queue's: delete_finished_jobs."""


def retention_of(target: str) -> Retention:
    """The one of that name, or of that job.

    Raises:
        WrongUsage: there is none.
    """
    for retention in RETENTIONS.values():
        if target in {retention.target, retention.job}:
            return retention
    raise WrongUsage(f"There is no target {target!r}: there are {', '.join(RETENTIONS)}")


def cutoff(as_of: datetime, keep_for: timedelta) -> datetime:
    """What is before this instant, strictly, goes.

    Raises:
        WrongUsage: no calendar has that instant.
    """
    try:
        return as_of - keep_for
    except OverflowError:
        raise WrongUsage(f"as_of {as_of.isoformat()} is too early to look back {in_words(keep_for)}") from None


def span_of(text: str) -> timedelta:
    """The span that is written as a number and a unit: `7 days`, `36 hours`, `0.5 weeks`; to the microsecond.

    Raises:
        WrongUsage: it is no such text, or more than a hundred years.
    """
    written = re.fullmatch(r"\s*(\d{1,12}(?:\.\d{1,12})?)\s*(week|day|hour|minute|second)s?\s*", text, re.ASCII)
    if written:
        microseconds = round(Decimal(written[1]) * (_UNITS[written[2]] // _MICROSECOND))
        if microseconds <= LONGEST // _MICROSECOND:
            return timedelta(microseconds=microseconds)
    raise WrongUsage(
        f"keep_for is {text!r}: it takes a number of weeks, days, hours, minutes or seconds, such as '7 days',"
        f" up to {LONGEST.days:,} days"
    )


def in_words(span: timedelta) -> str:
    """As `span_of` reads it, in the largest unit from days downwards that it is a whole number of."""
    for name, unit in list(_UNITS.items())[1:]:
        if span % unit == timedelta(0):
            count = span // unit
            return f"{count:d} {name}" + ("" if count == 1 else "s")
    return f"{Decimal(span // _MICROSECOND) / 1_000_000:f} seconds"
