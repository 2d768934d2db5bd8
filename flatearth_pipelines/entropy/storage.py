"""Cards, periods and people in Postgres: what is read to decide, and the write that re-checks the decision."""

import time
from datetime import datetime
from typing import Any, NamedTuple

import polars as pl
import psycopg
import sqlalchemy as sa
from psycopg.errors import DeadlockDetected, LockNotAvailable, SerializationFailure
from sqlalchemy.exc import DBAPIError

from flatearth_pipelines.driver import driver_connection
from flatearth_pipelines.entropy.forecast import ACTIVE
from flatearth_pipelines.entropy.portions import EVERY_ACCOUNT, Shard
from flatearth_pipelines.entropy.staleness import BOARDS, CARDS, PEOPLE, PERIODS
from flatearth_pipelines.errors import NotFound
from flatearth_pipelines.frames import bigint_array, read_frame, read_packed, unpacked
from flatearth_pipelines.tables import accounts, boards, cards, users

BOARD_NAMES = pl.Schema({"board_id": pl.Int64(), "name": pl.String()})

TITLES = pl.Schema({"card_id": pl.Int64(), "number": pl.Int64(), "title": pl.String()})

_ACTIVE = sa.and_(cards.c.status == "published", cards.c.closed_at.is_(None), cards.c.postponed_at.is_(None))

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
AND (%(account_id)s::int8 IS NULL OR account_id = %(account_id)s)
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
    AND cards.last_active_at < timestamptz 'epoch'
        + b.cutoff_us / 86400000000 * interval '24 hours' + b.cutoff_us %% 86400000000 * interval '1 microsecond'
    OFFSET 0
) AS c
"""
# Days apart from the rest: an interval is multiplied in double precision, exact for fewer than 286 years of µs.
# OFFSET 0 keeps the planner from turning one index probe per board into a scan of all cards: it takes a third of them
# to be before a cut-off that it cannot know.

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
    SELECT c.place, d.actor_id
    FROM unnest(%(card_ids)s::int8[], %(board_ids)s::int8[], %(seen_us)s::int8[], %(actor_ids)s::int8[])
        AS d (card_id, board_id, seen_us, actor_id)
    CROSS JOIN LATERAL (
        SELECT cards.ctid AS place
        FROM flatearth.cards
        WHERE cards.id = d.card_id
        AND cards.board_id = d.board_id
        AND cards.last_active_at = timestamptz 'epoch'
            + d.seen_us / 86400000000 * interval '24 hours' + d.seen_us %% 86400000000 * interval '1 microsecond'
        AND cards.status = 'published' AND coalesce(cards.closed_at, cards.postponed_at) IS NULL
        FOR NO KEY UPDATE SKIP LOCKED
    ) AS c
),
postponed AS (
    UPDATE flatearth.cards AS c
    SET postponed_at = %(as_of)s, column_id = NULL, activity_spike_at = NULL, last_active_at = %(as_of)s
    FROM still_stale
    WHERE c.ctid = still_stale.place
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
# LATERAL and coalesce keep it to one look-up by id per card: the plain predicate matches the partial index, which a
# planner without statistics would read whole for every card. NO KEY UPDATE leaves foreign-key checks alone. A row that
# somebody holds is becoming active: skipped. A locked row stays in its place, which the update finds it by.

_PROBE_BY_INDEX = """
SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; SET LOCAL jit = off; SET LOCAL lock_timeout = '2s'
"""
# A batch of 2,500 looks to the planner like a reason to read the whole table. The lock timeout is for the board and the
# actor that an event refers to: while somebody holds one of those, the batch must not hold its cards.

_ATTEMPTS = 3


class Postponed(NamedTuple):
    """What one batch changed: the cards, and how many of them have an event."""

    card_ids: pl.Series
    events: int


def read_boards(connection: sa.Connection, shard: Shard = EVERY_ACCOUNT, board_id: int | None = None) -> pl.DataFrame:
    """The `BOARDS` of accounts that are not cancelled, or the one board."""
    parameters = {"shard": shard.remainder, "shards": shard.of, "board_id": board_id}
    return read_packed(connection, _BOARDS, parameters, BOARDS)


def read_periods(
    connection: sa.Connection, shard: Shard = EVERY_ACCOUNT, account_id: int | None = None
) -> pl.DataFrame:
    """The `PERIODS` that accounts and boards chose, or those of the one account."""
    parameters = {"shard": shard.remainder, "shards": shard.of, "account_id": account_id}
    periods = read_packed(connection, _PERIODS, parameters, PERIODS)
    return periods.with_columns(pl.when(pl.col("board_id") >= 0).then("board_id"))


def read_stale_cards(connection: sa.Connection, cutoffs: pl.DataFrame) -> pl.DataFrame:
    """The active `CARDS` before their board's cut-off: one index-only probe per board, whatever the number of cards."""
    boards = {"board_ids": bigint_array(cutoffs["board_id"]), "cutoffs_us": bigint_array(cutoffs["cutoff_us"])}
    return read_packed(connection, _STALE_CARDS, boards, CARDS)


def read_people(connection: sa.Connection, account_ids: pl.Series) -> pl.DataFrame:
    """The `PEOPLE` of these accounts in whose name cards are postponed."""
    return read_packed(connection, _PEOPLE, {"account_ids": bigint_array(account_ids)}, PEOPLE)


def read_board_names(connection: sa.Connection, board_ids: pl.Series) -> pl.DataFrame:
    """The `BOARD_NAMES` of these boards."""
    query = sa.select(boards.c.id, boards.c.name).where(_among(boards.c.id, board_ids))
    return read_frame(connection, query, BOARD_NAMES)


def read_active_counts(connection: sa.Connection, board_id: int | None = None) -> pl.DataFrame:
    """`ACTIVE`: how many cards are published, not closed and not postponed, per board that has any."""
    query = sa.select(cards.c.board_id, sa.func.count()).where(_ACTIVE).group_by(cards.c.board_id)
    if board_id is not None:
        query = query.where(cards.c.board_id == board_id)
    return read_frame(connection, query, ACTIVE)


def read_titles(connection: sa.Connection, card_ids: pl.Series) -> pl.DataFrame:
    """The `TITLES` of these cards."""
    query = sa.select(cards.c.id, cards.c.number, cards.c.title).where(_among(cards.c.id, card_ids))
    return read_frame(connection, query, TITLES)


def read_default_actor(connection: sa.Connection, container_type: str, container_id: int) -> int:
    """Whom an operator acts for: the container's active owner or admin with the lowest id.

    Raises:
        NotFound: there is no such account or board, or nobody who may act in it.
    """
    owner_of = {"account": sa.select(accounts.c.id), "board": sa.select(boards.c.account_id)}[container_type]
    table = {"account": accounts, "board": boards}[container_type]
    account_id = connection.execute(owner_of.where(table.c.id == container_id)).scalar()
    if account_id is None:
        raise NotFound(f"There is no {container_type} {container_id}")
    may_act = sa.and_(users.c.account_id == account_id, users.c.active, users.c.role.in_(["owner", "admin"]))
    actor = connection.execute(sa.select(sa.func.min(users.c.id)).where(may_act)).scalar()
    if actor is None:
        raise NotFound(f"Account {account_id} has no active owner or admin to act for")
    return int(actor)


def read_active_card(connection: sa.Connection, card_id: int) -> pl.DataFrame:
    """The one card as `CARDS`; no row when it is not active, or not there."""
    query = (
        sa.select(cards.c.id, cards.c.account_id, cards.c.board_id, cards.c.last_active_at)
        .join(accounts, accounts.c.id == cards.c.account_id)
        .where(cards.c.id == card_id, _ACTIVE, accounts.c.cancelled_at.is_(None))
    )
    return read_frame(connection, query, CARDS)


def postpone_within(connection: sa.Connection, stale: pl.DataFrame, as_of: datetime) -> Postponed:
    """As `postpone`, in the transaction that the connection is in: a deadlock is its caller's to repeat."""
    prefer_probes(connection)
    return _postpone(connection, _batch(stale, as_of))


def postpone(connection: sa.Connection, stale: pl.DataFrame, as_of: datetime) -> Postponed:
    """Postpone these attributed cards in one transaction, each with its event, and return what really changed.

    A card that was touched, moved, closed or postponed since it was read is left alone, and so is one that somebody is
    writing to. So is the whole batch, when it loses a deadlock three times or waits 2 s for a board or an actor.
    """
    batch = _batch(stale, as_of)
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with connection.begin():
                prefer_probes(connection)
                return _postpone(connection, batch)
        except (psycopg.Error, DBAPIError) as error:  # SQLAlchemy wraps what the commit raises
            cause = error.orig if isinstance(error, DBAPIError) else error
            if isinstance(cause, LockNotAvailable):
                break
            if not isinstance(cause, (DeadlockDetected, SerializationFailure)):
                raise
            time.sleep(0.05 * attempt)
    return Postponed(pl.Series([], dtype=pl.Int64()), 0)


def prefer_probes(connection: sa.Connection) -> None:
    """For the rest of the transaction, have the planner look rows up by index."""
    driver_connection(connection).execute(_PROBE_BY_INDEX)


def _among(column: sa.ColumnElement[int], ids: pl.Series) -> sa.ColumnElement[bool]:
    """One array to bind, however many ids there are."""
    return column == sa.any_(sa.literal(bigint_array(ids), sa.types.NullType()))


def _batch(stale: pl.DataFrame, as_of: datetime) -> dict[str, Any]:
    return {
        "card_ids": bigint_array(stale["card_id"]),
        "board_ids": bigint_array(stale["board_id"]),
        "seen_us": bigint_array(stale["last_active_at"].dt.epoch("us")),
        "actor_ids": bigint_array(stale["actor_id"]),
        "as_of": as_of,
    }


def _postpone(connection: sa.Connection, batch: dict[str, Any]) -> Postponed:
    with driver_connection(connection).cursor(binary=True) as cursor:
        packed, events = cursor.execute(_POSTPONE, batch, prepare=False).fetchone() or (None, 0)
    return Postponed(unpacked("card_id", pl.Int64(), packed), events)
