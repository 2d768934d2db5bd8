"""What happened on a day, as Postgres counts it, and the rows that say so."""

import time
from collections.abc import Callable, Iterator
from datetime import date, datetime
from typing import Any, TypeVar

import polars as pl
import psycopg
import sqlalchemy as sa
from psycopg.errors import DeadlockDetected, ForeignKeyViolation
from sqlalchemy.exc import DBAPIError

from flatearth_pipelines.driver import driver_connection
from flatearth_pipelines.frames import bigint_array, read_frame, read_packed
from flatearth_pipelines.reports.metrics import ACTIONS, COUNTED, METRICS, NOBODYS_ACTIONS, REPORTS
from flatearth_pipelines.tables import accounts, boards, daily_reports

NAMES = pl.Schema({"board_id": pl.Int64(), "board": pl.String(), "account": pl.String()})

_ATTEMPTS = 3
_ROWS_AT_ONCE = 1_000

_NO_JIT = sa.text("SET LOCAL jit = off")  # compiling eleven small queries takes longer than they do

_LOCK = sa.text("SELECT pg_advisory_xact_lock(hashtextextended('flatearth.daily_report ' || :day, 0))")

_COUNTED = """
WITH acts AS MATERIALIZED (
    SELECT e.account_id, e.board_id, e.creator_id, e.action, count(*) AS times
    FROM flatearth.events AS e
    WHERE e.created_at >= %(start)s AND e.created_at < %(end)s
    GROUP BY e.account_id, e.board_id, e.creator_id, e.action
),
people AS MATERIALIZED (
    SELECT DISTINCT a.account_id, a.board_id, a.creator_id
    FROM acts AS a
    JOIN flatearth.users AS u ON u.id = a.creator_id AND u.role <> 'system'
    WHERE a.action <> ALL(%(nobodys_actions)s::text[])
),
counted (account_id, board_id, metric, times) AS (
    SELECT a.account_id, a.board_id, m.metric, sum(a.times)::int8
    FROM acts AS a
    JOIN unnest(%(actions)s::text[], %(counted_as)s::text[]) AS m (action, metric) ON m.action = a.action
    GROUP BY a.account_id, a.board_id, m.metric
    UNION ALL
    SELECT account_id, board_id, 'active_people', count(*) FROM people GROUP BY account_id, board_id
    UNION ALL
    SELECT account_id, NULL, 'active_people', count(DISTINCT creator_id) FROM people GROUP BY account_id
    UNION ALL
    SELECT account_id, board_id, 'cards_created', count(*)
    FROM flatearth.cards
    WHERE created_at >= %(start)s AND created_at < %(end)s
    GROUP BY account_id, board_id
    UNION ALL
    SELECT c.account_id, c.board_id, 'comments', count(*)
    FROM flatearth.comments AS k
    JOIN flatearth.cards AS c ON c.id = k.card_id
    WHERE k.created_at >= %(start)s AND k.created_at < %(end)s
    GROUP BY c.account_id, c.board_id
    UNION ALL
    SELECT account_id, NULL, 'bundles_mailed', count(*)
    FROM flatearth.notification_bundles
    WHERE outcome = 'mailed' AND delivered_at >= %(start)s AND delivered_at < %(end)s
    GROUP BY account_id
    UNION ALL
    SELECT account_id, NULL, 'bundles_failed', count(*)
    FROM flatearth.notification_bundles
    WHERE status = 'failed' AND failed_at >= %(start)s AND failed_at < %(end)s
    GROUP BY account_id
    UNION ALL
    SELECT w.account_id, w.board_id, 'deliveries_completed', count(*)
    FROM flatearth.webhook_deliveries AS d
    JOIN flatearth.webhooks AS w ON w.id = d.webhook_id
    WHERE d.completed_at >= %(start)s AND d.completed_at < %(end)s
    GROUP BY w.account_id, w.board_id
    UNION ALL
    SELECT w.account_id, w.board_id, 'deliveries_errored', count(*)
    FROM flatearth.webhook_deliveries AS d
    JOIN flatearth.webhooks AS w ON w.id = d.webhook_id
    LEFT JOIN LATERAL (
        SELECT a.started_at FROM flatearth.webhook_attempts AS a WHERE a.delivery_id = d.id ORDER BY a.id DESC LIMIT 1
    ) AS last ON true
    CROSS JOIN LATERAL (SELECT coalesce(last.started_at, d.next_attempt_at) AS at) AS ended
    WHERE d.state = 'errored' AND ended.at >= %(start)s AND ended.at < %(end)s
    GROUP BY w.account_id, w.board_id
)
SELECT
    string_agg(int8send(account_id), ''),
    string_agg(int8send(coalesce(board_id, -1)), ''),
    string_agg(int8send(array_position(%(metrics)s::text[], metric)::int8 - 1), ''),
    string_agg(int8send(times), '')
FROM counted
"""
# A delivery that was given up says nowhere when: its last attempt does, and where there was none, when it would have
# been.

_INSERT = """
INSERT INTO flatearth.daily_reports (
    day, account_id, board_id, cards_created, cards_closed, cards_postponed, cards_auto_postponed, comments,
    active_people, bundles_mailed, bundles_failed, deliveries_completed, deliveries_errored
)
SELECT %(day)s, r.*
FROM unnest(
    %(account_id)s::int8[], %(board_id)s::int8[], %(cards_created)s::int8[], %(cards_closed)s::int8[],
    %(cards_postponed)s::int8[], %(cards_auto_postponed)s::int8[], %(comments)s::int8[], %(active_people)s::int8[],
    %(bundles_mailed)s::int8[], %(bundles_failed)s::int8[], %(deliveries_completed)s::int8[],
    %(deliveries_errored)s::int8[]
) AS r
"""
# No COPY, which a table with row-level security refuses.

Result = TypeVar("Result")


def in_one_transaction(connection: sa.Connection, work: Callable[[], Result]) -> Result:
    """What the work returns, done in one transaction, and once more when a board or an account went meanwhile.

    A row about what is gone is refused, or waits for who deletes it: that is nobody's failure.
    """
    for attempt in range(1, _ATTEMPTS):
        try:
            with connection.begin():
                return work()
        except (psycopg.Error, DBAPIError) as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            if not isinstance(cause, (DeadlockDetected, ForeignKeyViolation)):
                raise
            time.sleep(0.05 * attempt)
    with connection.begin():
        return work()


def lock_day(connection: sa.Connection, day: date) -> None:
    """Wait until nobody else counts the day, and have nobody until the transaction ends."""
    connection.execute(_LOCK, {"day": day.isoformat()})


def read_counted(connection: sa.Connection, start: datetime, end: datetime) -> pl.DataFrame:
    """`COUNTED`: what happened from the start, inclusive, to the end, exclusive, by one statement."""
    span = {"start": start, "end": end, "nobodys_actions": list(NOBODYS_ACTIONS), "metrics": list(METRICS)}
    actions = {"actions": list(ACTIONS), "counted_as": list(ACTIONS.values())}
    connection.execute(_NO_JIT)
    counted = read_packed(connection, _COUNTED, span | actions, COUNTED)
    return counted.with_columns(pl.when(pl.col("board_id") >= 0).then("board_id"))


def read_reports(connection: sa.Connection, day: date) -> pl.DataFrame:
    """The `REPORTS` of the day, the account's own row first."""
    query = (
        sa.select(*(daily_reports.c[name] for name in REPORTS))
        .where(daily_reports.c.day == day)
        .order_by(daily_reports.c.account_id, daily_reports.c.board_id.nulls_first())
    )
    return read_frame(connection, query, REPORTS)


def replace(connection: sa.Connection, day: date, reports: pl.DataFrame) -> None:
    """Have the day these `REPORTS` and no others."""
    connection.execute(sa.delete(daily_reports).where(daily_reports.c.day == day))
    columns = {name: bigint_array(reports[name]) for name in REPORTS}
    driver_connection(connection).execute(_INSERT, {"day": day, **columns}, prepare=False)


def read_names(connection: sa.Connection, board_ids: pl.Series) -> pl.DataFrame:
    """The `NAMES` of these boards."""
    ids = sa.literal(bigint_array(board_ids), sa.types.NullType())
    query = (
        sa.select(boards.c.id, boards.c.name, accounts.c.name.label("account"))
        .join(accounts, accounts.c.id == boards.c.account_id)
        .where(boards.c.id == sa.any_(ids))
    )
    return read_frame(connection, query, NAMES)


def read_rows(
    connection: sa.Connection, first: date, last: date, *, account_id: int | None = None
) -> Iterator[dict[str, Any]]:
    """The rows of these days with the names of accounts and boards, day by day, a thousand at a time in memory."""
    rows = daily_reports.c
    query = (
        sa.select(
            rows.day,
            rows.account_id,
            accounts.c.name.label("account"),
            rows.board_id,
            boards.c.name.label("board"),
            *(rows[name] for name in METRICS),
        )
        .select_from(daily_reports)
        .join(accounts, accounts.c.id == rows.account_id)
        .outerjoin(boards, boards.c.id == rows.board_id)
        .where(*_among(first, last, account_id))
        .order_by(rows.day, rows.account_id, rows.board_id.nulls_first())
        .execution_options(yield_per=_ROWS_AT_ONCE)
    )
    for row in connection.execute(query).mappings():
        yield dict(row)


def read_days(
    connection: sa.Connection, first: date, last: date, *, account_id: int | None = None
) -> list[dict[str, Any]]:
    """What each of these days came to, the earliest first; none when nothing happened, or it was never counted.

    `active_people` has each of a day's people once.
    """
    rows = daily_reports.c
    counted = {name: sa.true() for name in METRICS} | {"active_people": rows.board_id.is_(None)}
    query = (
        sa.select(
            rows.day,
            sa.func.count(rows.account_id.distinct()).label("accounts"),
            sa.func.count(rows.board_id).label("boards"),
            *(
                sa.func.coalesce(sa.func.sum(rows[name]).filter(in_these), 0).label(name)
                for name, in_these in counted.items()
            ),
        )
        .where(*_among(first, last, account_id))
        .group_by(rows.day)
        .order_by(rows.day)
    )
    return [dict(row) for row in connection.execute(query).mappings()]


def _among(first: date, last: date, account_id: int | None) -> list[sa.ColumnElement[bool]]:
    of_account = sa.true() if account_id is None else daily_reports.c.account_id == account_id
    return [daily_reports.c.day.between(first, last), of_account]
