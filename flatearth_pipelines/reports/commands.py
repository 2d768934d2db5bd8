"""`flatearth reports`: what days came to, as tables and csv; and counting them without Dagster."""

import csv
import sys
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

import click

from flatearth_pipelines import database
from flatearth_pipelines.reports import storage
from flatearth_pipelines.reports.days import check_countable, day_of, days_between, yesterday
from flatearth_pipelines.reports.metrics import METRICS
from flatearth_pipelines.reports.reporting import Reported, report_on_each
from flatearth_pipelines.settings import Settings
from flatearth_pipelines.spreadsheet import guarded
from flatearth_pipelines.terminal import print_rows, progress

_APPLICATION = "flatearth reports"

_LISTED = timedelta(days=29)
"""From the first to the last of the days that are shown when nobody says which."""

_TEXT = ("account", "board")
"""What people typed."""

_SHORT = dict(
    zip(
        METRICS,
        ("created", "closed", "postponed", "auto", "comments", "people", "mails", "not_mailed", "delivered", "errored"),
        strict=True,
    )
)
"""Headings of a table that a terminal has room for."""

_ID = click.IntRange(1, 2**63 - 1)

_json = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
_account = click.option("--account", "account_id", type=_ID, metavar="ID", help="Of this account only.")


@click.group()
def reports() -> None:
    """See what every day came to, for each account and board, and count days again.

    Days are in UTC. What happened on no board - mails, deliveries of webhooks of all boards - is in its account's own
    row, without a board; so are the account's active people, each once.
    """


@reports.command()
@click.argument("day", metavar="[DAY]", required=False)
@_account
@_json
def show(*, day: str | None, account_id: int | None, as_json: bool) -> None:
    """Show the rows of DAY, YYYY-MM-DD; default the day before."""
    with database.transaction(Settings.from_environment(), _APPLICATION) as connection:
        shown = yesterday(database.now(connection)) if day is None else day_of(day, "DAY")
        rows = list(storage.read_rows(connection, shown, shown, account_id=account_id))
    empty = (
        f"Nothing happened on {shown}, or it was not counted: `flatearth reports backfill --from {shown}` counts it."
    )
    print_rows(rows if as_json else [_shown(row) for row in rows], as_json=as_json, empty=empty)


@reports.command("list")
@click.option("--from", "first", metavar="DAY", help="The first day, YYYY-MM-DD; default 29 days before the last one.")
@click.option("--to", "last", metavar="DAY", help="The last day, YYYY-MM-DD; default today.")
@_account
@_json
def list_(*, first: str | None, last: str | None, account_id: int | None, as_json: bool) -> None:
    """List days with what each came to, the earliest first; none of those when nothing happened."""
    with database.transaction(Settings.from_environment(), _APPLICATION) as connection:
        span = _span(first, last, database.now(connection))
        rows = storage.read_days(connection, *span, account_id=account_id)
    shown = [{name: row[name] for name in ("day", "accounts", "boards")} | _short(row) for row in rows]
    print_rows(rows if as_json else shown, as_json=as_json, empty=f"There are no reports from {span[0]} to {span[1]}.")


@reports.command("csv")
@click.option("--from", "first", metavar="DAY", help="The first day, YYYY-MM-DD; default 29 days before the last one.")
@click.option("--to", "last", metavar="DAY", help="The last day, YYYY-MM-DD; default today.")
@_account
def csv_(*, first: str | None, last: str | None, account_id: int | None) -> None:
    """Write the rows of these days as csv (RFC 4180, UTF-8, with a header) to standard output.

    A name that a spreadsheet would take for a formula has an apostrophe before it.
    """
    out = csv.writer(sys.stdout, lineterminator="\r\n")
    with database.transaction(Settings.from_environment(), _APPLICATION) as connection:
        span = _span(first, last, database.now(connection))
        out.writerow(["day", "account_id", "account", "board_id", "board", *METRICS])
        for row in storage.read_rows(connection, *span, account_id=account_id):
            out.writerow((row | {name: guarded(row[name] or "") for name in _TEXT}).values())


@reports.command()
@click.option("--from", "first", required=True, metavar="DAY", help="The first day, YYYY-MM-DD.")
@click.option("--to", "last", metavar="DAY", help="The last day, YYYY-MM-DD; default the day before today.")
@click.option("--unfinished", is_flag=True, help="Also count a day that is not over, as far as it has come.")
@click.option("--dry-run", is_flag=True, help="Say the same and write nothing.")
@_json
def backfill(*, first: str, last: str | None, unfinished: bool, dry_run: bool, as_json: bool) -> None:
    """Count the days again, in this process, without Dagster: one transaction for each.

    Counting a day twice gives the same rows. Only deliveries of webhooks are kept for a week: of days that were never
    counted and are longer ago there are none.
    """
    done: list[dict[str, Any]] = []
    with database.connections(database.prepare(Settings.from_environment()), _APPLICATION) as pool:
        with pool.begin() as connection:
            as_of = database.now(connection)
        end = yesterday(as_of) if last is None else day_of(last, "--to")
        check_countable(end, as_of, unfinished=unfinished)
        days = days_between(day_of(first, "--from"), end)
        with pool.connect() as connection, progress("Days", len(days)) as advance:

            def told(reported: Reported) -> None:
                done.append(_told(reported))
                advance(1)

            report_on_each(connection, days, told, dry_run=dry_run)
    if as_json:
        print_rows(done, as_json=True)
        return
    rows, changed = sum(each["rows"] for each in done), sum(each["changed"] for each in done)
    would = "would change" if dry_run else "changed"
    click.echo(f"Counted {len(done):,} days, {days[0]} to {days[-1]}: {rows:,} rows; {changed:,} days {would}.")


def _span(first: str | None, last: str | None, now: datetime) -> tuple[date, date]:
    end = now.astimezone(UTC).date() if last is None else day_of(last, "--to")
    start = max(end, date.min + _LISTED) - _LISTED if first is None else day_of(first, "--from")
    days_between(start, end)
    return start, end


def _shown(row: Mapping[str, Any]) -> dict[str, object]:
    """For a table: ids beside the names, without the day, which is the same for all."""
    board = "" if row["board_id"] is None else f"{row['board_id']} {row['board']}"
    return {"account": f"{row['account_id']} {row['account']}", "board": board} | _short(row)


def _short(row: Mapping[str, Any]) -> dict[str, object]:
    return {short: row[name] for name, short in _SHORT.items()}


def _told(reported: Reported) -> dict[str, Any]:
    return {
        "day": reported.day,
        "rows": reported.rows,
        "rows_before": reported.rows_before,
        "changed": reported.changed,
        **reported.totals._asdict(),
    }
