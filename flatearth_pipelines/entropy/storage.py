"""Cards, periods and people in Postgres: what is read to decide, and the write that re-checks the decision."""

import time
from datetime import datetime
from typing import Any, NamedTuple

import polars as pl
import sqlalchemy as sa
from psycopg.errors import DeadlockDetected, LockNotAvailable, SerializationFailure

from flatearth_pipelines.entropy.staleness import BOARDS, CARDS, PEOPLE, PERIODS
from flatearth_pipelines.frames import bigint_array, driver_connection, read_frame, read_packed, unpacked
from flatearth_pipelines.tables import boards

BOARD_NAMES = pl.Schema({"board_id": pl.Int64(), "name": pl.String()})

_BOARDS = """
SELECT string_agg(int8send(b.id), ''), string_agg(int8send(b.account_id), '')
FROM flatearth.boards AS b
JOIN flatearth.accounts AS a ON a.id = b.account_id
WHERE a.cancelled_at IS NULL
AND b.account_id %% %(shards)s = %(shard)s
AND (%(board_id)s::int8 IS NULL OR b.id = %(board_id)s)
"""

_PERIODS = """
SELECT
    string_agg(int8send(account_id), ''),
    string_agg(int8send(coalesce(board_id, -1)), ''),
    string_agg(int8send(auto_postpone_period_ms), '')
FROM flatearth.entropies
WHERE account_id %% %(shards)s = %(shard)s
"""

_STALE_CARDS = """
SELECT
    string_agg(int8send(c.id), ''),
    string_agg(int8send(c.account_id), ''),
    string_agg(int8send(c.board_id), ''),
    string_agg(timestamptz_send(c.last_active_at), '')
FROM unnest(%(board_ids)s::int8[], %(cutoffs_us)s::int8[]) AS b (id, cutoff_us)
CROSS JOIN LATERAL (
    SELECT cards.id, cards.account_id, cards.board_id, cards.last_active_at
    FROM flatearth.cards
    WHERE cards.board_id = b.id
    AND cards.status = 'published' AND cards.closed_at IS NULL AND cards.postponed_at IS NULL
    AND cards.last_active_at < timestamptz 'epoch' + b.cutoff_us * interval '1 microsecond'
    OFFSET 0
) AS c
"""
# OFFSET 0 keeps the planner from turning one index probe per board into a scan of all cards: it takes a third of
# them to be before a cut-off that it cannot know.

_PEOPLE = """
SELECT
    string_agg(int8send(id), ''),
    string_agg(int8send(account_id), ''),
    string_agg(int8send((role = 'system')::int::int8), ''),
    string_agg(int8send((role = 'owner' AND active)::int::int8), '')
FROM flatearth.users
WHERE account_id = ANY(%(account_ids)s::int8[]) AND (role = 'system' OR (role = 'owner' AND active))
"""

_POSTPONE = """
WITH still_stale AS MATERIALIZED (
    SELECT c.id, d.actor_id
    FROM unnest(%(card_ids)s::int8[], %(board_ids)s::int8[], %(seen_us)s::int8[], %(actor_ids)s::int8[])
        AS d (card_id, board_id, seen_us, actor_id)
    JOIN flatearth.cards AS c
        ON c.id = d.card_id
        AND c.board_id = d.board_id
        AND c.last_active_at = timestamptz 'epoch' + d.seen_us * interval '1 microsecond'
    WHERE c.status = 'published' AND c.closed_at IS NULL AND c.postponed_at IS NULL
    ORDER BY c.id
    FOR NO KEY UPDATE OF c SKIP LOCKED
),
postponed AS (
    UPDATE flatearth.cards AS c
    SET postponed_at = %(as_of)s, column_id = NULL, activity_spike_at = NULL, last_active_at = %(as_of)s
    FROM still_stale
    WHERE c.id = still_stale.id
    RETURNING c.id, c.account_id, c.board_id, still_stale.actor_id
),
recorded AS (
    INSERT INTO flatearth.events (account_id, board_id, creator_id, action, eventable_type, eventable_id, created_at)
    SELECT account_id, board_id, actor_id, 'card_auto_postponed', 'card', id, %(as_of)s
    FROM postponed
    WHERE actor_id IS NOT NULL
    RETURNING 1
)
SELECT string_agg(int8send(id), ''), (SELECT count(*) FROM recorded) FROM postponed
"""
# NO KEY UPDATE leaves foreign-key checks on the cards alone. A row that somebody holds is skipped: it is becoming active.

_PROBE_BY_INDEX = """
SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; SET LOCAL jit = off; SET LOCAL lock_timeout = '2s'
"""
# A batch of 5,000 looks to the planner like a reason to read the whole table. The lock timeout is for the board and the
# actor that an event refers to: while somebody holds one of those, the batch must not hold its cards.

_ATTEMPTS = 3


class Shard(NamedTuple):
    """The accounts whose id leaves `remainder` when divided by `of`."""

    remainder: int
    of: int


EVERY_ACCOUNT = Shard(remainder=0, of=1)


class Postponed(NamedTuple):
    """What one batch changed: the cards, and how many of them have an event."""

    card_ids: pl.Series
    events: int


def read_boards(connection: sa.Connection, shard: Shard = EVERY_ACCOUNT, board_id: int | None = None) -> pl.DataFrame:
    """The `BOARDS` of accounts that are not cancelled, or the one board."""
    parameters = {"shard": shard.remainder, "shards": shard.of, "board_id": board_id}
    return read_packed(connection, _BOARDS, parameters, BOARDS)


def read_periods(connection: sa.Connection, shard: Shard = EVERY_ACCOUNT) -> pl.DataFrame:
    """The `PERIODS` that accounts and boards chose."""
    periods = read_packed(connection, _PERIODS, {"shard": shard.remainder, "shards": shard.of}, PERIODS)
    return periods.with_columns(pl.col("board_id").replace(-1, None))


def read_stale_cards(connection: sa.Connection, cutoffs: pl.DataFrame) -> pl.DataFrame:
    """The active `CARDS` before their board's cut-off: one index-only probe per board, whatever the number of cards."""
    boards = {"board_ids": bigint_array(cutoffs["board_id"]), "cutoffs_us": bigint_array(cutoffs["cutoff_us"])}
    return read_packed(connection, _STALE_CARDS, boards, CARDS)


def read_people(connection: sa.Connection, account_ids: pl.Series) -> pl.DataFrame:
    """The `PEOPLE` of these accounts in whose name cards are postponed."""
    return read_packed(connection, _PEOPLE, {"account_ids": bigint_array(account_ids)}, PEOPLE)


def read_board_names(connection: sa.Connection, board_ids: pl.Series) -> pl.DataFrame:
    """The `BOARD_NAMES` of these few boards."""
    with connection.begin():
        query = sa.select(boards.c.id, boards.c.name).where(boards.c.id.in_(board_ids.to_list()))
        return read_frame(connection, query, BOARD_NAMES)


def postpone(connection: sa.Connection, cards: pl.DataFrame, as_of: datetime) -> Postponed:
    """Postpone these attributed cards in one transaction, each with its event, and return what really changed.

    A card that was touched, moved, closed or postponed since it was read is left alone, and so is one that somebody is
    writing to. So is the whole batch, when it loses a deadlock three times or waits 2 s for a board or an actor.
    """
    batch = {
        "card_ids": bigint_array(cards["card_id"]),
        "board_ids": bigint_array(cards["board_id"]),
        "seen_us": bigint_array(cards["last_active_at"].dt.epoch("us")),
        "actor_ids": bigint_array(cards["actor_id"]),
        "as_of": as_of,
    }
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with connection.begin():
                prefer_probes(connection)
                return _postpone(connection, batch)
        except (DeadlockDetected, SerializationFailure):
            time.sleep(0.05 * attempt)
        except LockNotAvailable:
            break
    return Postponed(pl.Series([], dtype=pl.Int64()), 0)


def prefer_probes(connection: sa.Connection) -> None:
    """For the rest of the transaction, have the planner look rows up by index."""
    driver_connection(connection).execute(_PROBE_BY_INDEX)


def _postpone(connection: sa.Connection, batch: dict[str, Any]) -> Postponed:
    with driver_connection(connection).cursor(binary=True) as cursor:
        packed, events = cursor.execute(_POSTPONE, batch, prepare=False).fetchone() or (None, 0)
    return Postponed(unpacked("card_id", pl.Int64(), packed), events)
