"""A day from what happened to its rows: read, decide, replace."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import polars as pl
from sqlalchemy import Connection

from flatearth_pipelines.reports import storage
from flatearth_pipelines.reports.days import start_of
from flatearth_pipelines.reports.metrics import Totals, daily_reports, most_active_boards, totals

_BUSIEST = 20


@dataclass(frozen=True)
class Reported:
    """A day that was counted; a dry run has the same numbers."""

    day: date
    totals: Totals
    busiest: pl.DataFrame
    """The `REPORTS` of the twenty boards where people did most."""
    rows: int
    rows_before: int
    changed: bool
    """Whether its rows are not, or with a dry run would not be, what they were before."""


def report_on(connection: Connection, day: date, *, dry_run: bool = False) -> Reported:
    """Count the day, and have its rows say so, in one transaction.

    Whoever counts the same day at the same time waits, and counts it again: the rows are the same.
    """
    return storage.in_one_transaction(connection, lambda: report_within(connection, day, dry_run=dry_run))


def report_within(connection: Connection, day: date, *, dry_run: bool = False) -> Reported:
    """As `report_on`, in the transaction that the connection is in."""
    if not dry_run:
        storage.lock_day(connection, day)
    former = storage.read_reports(connection, day)
    counted = storage.read_counted(connection, start_of(day), start_of(day + timedelta(days=1)))
    reports = daily_reports(counted.lazy(), former.lazy()).collect(engine="in-memory")
    changed = not reports.equals(former)
    if changed and not dry_run:
        storage.replace(connection, day, reports)
    busiest = most_active_boards(reports, _BUSIEST)
    return Reported(day, totals(reports), busiest, reports.height, former.height, changed)


def report_on_each(
    connection: Connection, days: Sequence[date], told: Callable[[Reported], None], *, dry_run: bool = False
) -> None:
    """Count the days one after another, each in a transaction of its own, and tell of each when it is done.

    Interrupted at any point it leaves whole days.
    """
    for day in days:
        told(report_on(connection, day, dry_run=dry_run))
