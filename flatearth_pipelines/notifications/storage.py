"""Events, texts and notifications in Postgres: what is taken to be told of, and what is written."""

import contextlib
from collections.abc import Generator, Mapping, Sequence
from typing import Any, LiteralString, NamedTuple

import polars as pl
import psycopg
import sqlalchemy as sa
from psycopg.errors import DeadlockDetected, ForeignKeyViolation, LockNotAvailable, SerializationFailure
from sqlalchemy.exc import DBAPIError

from flatearth_pipelines.driver import driver_connection
from flatearth_pipelines.errors import FlatEarthError
from flatearth_pipelines.frames import bigint_array, unpacked
from flatearth_pipelines.notifications.mentions import TEXTS
from flatearth_pipelines.notifications.recipients import EVENTS

SOURCES = pl.Schema({"id": pl.Int64(), "source_type": pl.String(), "source_id": pl.Int64(), "bytes": pl.Int64()})
"""Texts to look at; `bytes` is the size of the text, 0 for one that is gone."""

NOTIFICATIONS = pl.Schema(
    {
        "user_id": pl.Int64(),
        "source_type": pl.String(),
        "source_id": pl.Int64(),
        "creator_id": pl.Int64(),
        "kind": pl.String(),
    }
)

NEW_MENTIONS = pl.Schema({"mention_id": pl.Int64(), "user_id": pl.Int64(), "creator_id": pl.Int64()})

_EVENTS = """
WITH taken AS MATERIALIZED (
    SELECT e.id, e.account_id, e.board_id, e.creator_id, e.action, e.eventable_type, e.eventable_id
    FROM flatearth.unnotified_events AS u
    JOIN flatearth.events AS e ON e.id = u.event_id
    WHERE u.event_id > %(after)s
    AND NOT EXISTS (
        SELECT FROM flatearth.unscanned_sources AS s
        WHERE s.source_id = e.eventable_id AND s.source_type = e.eventable_type
    )
    ORDER BY u.event_id
    LIMIT %(limit)s
    FOR UPDATE OF u SKIP LOCKED
)
SELECT
    string_agg(int8send(e.id), ''),
    string_agg(int8send(e.account_id), ''),
    string_agg(int8send(e.board_id), ''),
    string_agg(int8send(CASE e.eventable_type WHEN 'card' THEN e.eventable_id ELSE coalesce(c.card_id, 0) END), ''),
    string_agg(int8send(e.creator_id), ''),
    string_agg(int8send((a.role = 'system')::int::int8), ''),
    array_agg(e.action),
    array_agg(e.eventable_type),
    string_agg(int8send(e.eventable_id), '')
FROM taken AS e
JOIN flatearth.users AS a ON a.id = e.creator_id
LEFT JOIN flatearth.comments AS c ON e.eventable_type = 'comment' AND c.id = e.eventable_id
"""
# An event whose text was not looked at yet waits for that: who is mentioned there hears of it once.

_SOURCES = """
WITH taken AS MATERIALIZED (
    SELECT id, source_type, source_id
    FROM flatearth.unscanned_sources
    WHERE id > %(after)s
    ORDER BY id
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
)
SELECT
    string_agg(int8send(taken.id), '' ORDER BY taken.id),
    array_agg(taken.source_type ORDER BY taken.id),
    string_agg(int8send(taken.source_id), '' ORDER BY taken.id),
    string_agg(int8send(coalesce(octet_length(c.body), octet_length(k.title), 0)::int8), '' ORDER BY taken.id)
FROM taken
LEFT JOIN flatearth.comments AS c ON taken.source_type = 'comment' AND c.id = taken.source_id
LEFT JOIN flatearth.cards AS k ON taken.source_type = 'card' AND k.id = taken.source_id
"""

_TEXTS = """
SELECT
    array_agg(source_type),
    string_agg(int8send(source_id), ''),
    string_agg(int8send(t.account_id), ''),
    string_agg(int8send(board_id), ''),
    string_agg(int8send(coalesce(author_id, 0)), ''),
    string_agg(int8send((t.status = 'drafted' OR coalesce(a.role = 'system', false))::int::int8), ''),
    array_agg(text)
FROM (
    SELECT 'card' AS source_type, id AS source_id, account_id, board_id, creator_id AS author_id, status, title AS text
    FROM flatearth.cards WHERE id = ANY(%(card_ids)s::int8[])
    UNION ALL
    SELECT 'comment', c.id, k.account_id, k.board_id, c.creator_id, k.status, c.body
    FROM flatearth.comments AS c
    JOIN flatearth.cards AS k ON k.id = c.card_id
    WHERE c.id = ANY(%(comment_ids)s::int8[])
) AS t
LEFT JOIN flatearth.users AS a ON a.id = t.author_id
"""

_RECORD_MENTIONS = """
WITH recorded AS (
    INSERT INTO flatearth.mentions (account_id, source_type, source_id, mentioner_id, mentionee_id)
    SELECT * FROM unnest(
        %(account_ids)s::int8[], string_to_array(%(types)s, ','), %(source_ids)s::int8[], %(creator_ids)s::int8[],
        %(user_ids)s::int8[]
    )
    ON CONFLICT ON CONSTRAINT one_mention_per_source_and_person DO NOTHING
    RETURNING id, mentionee_id, mentioner_id
)
SELECT
    string_agg(int8send(id), ''),
    string_agg(int8send(mentionee_id), ''),
    string_agg(int8send(coalesce(mentioner_id, 0)), '')
FROM recorded
"""

_LOCK_FREE_PEOPLE = """
SELECT string_agg(int8send(id), '')
FROM (
    SELECT id FROM flatearth.users WHERE id = ANY(%(user_ids)s::int8[]) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
) AS locked
"""

_LOCK_PEOPLE = """
SELECT id FROM flatearth.users WHERE id = ANY(%(user_ids)s::int8[]) ORDER BY id FOR NO KEY UPDATE
"""

_PREFER_PROBES = """
SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; SET LOCAL jit = off
"""
# A batch looks to the planner like a reason to read whole tables, of which it then reads what was told long ago.

_YIELD_SOON = "SET LOCAL lock_timeout = '300ms'"
# Sooner than anybody's deadlock_timeout of 1 s: in a deadlock it is never the application that loses.

_WRITE = """
SELECT notifications, bundles FROM flatearth.write_notifications(
    %(user_ids)s::int8[], string_to_array(%(types)s, ','), %(source_ids)s::int8[], %(creator_ids)s::int8[],
    string_to_array(%(kinds)s, ',')
)
"""
# Words that hold no comma: joined they are bound ten times as fast as in an array.


class Contended(FlatEarthError):
    """Somebody else's transaction was in the way: nothing was written, and it may be tried again."""


class Written(NamedTuple):
    """How many notifications there are that were not there before, and how many windows they opened."""

    notifications: int
    bundles: int


@contextlib.contextmanager
def transaction(connection: sa.Connection) -> Generator[None]:
    """One transaction on the connection, committed at the end, whose queries look rows up by index.

    Raises:
        Contended: what it read is gone, or it would have waited for somebody for long.
    """
    try:
        with connection.begin():
            driver_connection(connection).execute(_PREFER_PROBES)
            yield
    except (psycopg.Error, DBAPIError) as error:  # SQLAlchemy wraps what the commit raises
        cause = error.orig if isinstance(error, DBAPIError) else error
        if isinstance(cause, (DeadlockDetected, ForeignKeyViolation, LockNotAvailable, SerializationFailure)):
            raise Contended(
                f"Somebody else was in the way, the next run goes on: {cause.diag.message_primary}"
            ) from error
        raise


def read_columns(
    connection: sa.Connection, query: LiteralString, parameters: Mapping[str, Any], schema: pl.Schema
) -> pl.DataFrame:
    """As `frames.read_packed`, with a `text[]` for a column of texts."""
    with driver_connection(connection).cursor(binary=True) as cursor:
        row: Sequence[Any] = cursor.execute(query, parameters, prepare=False).fetchone() or ()
    return pl.DataFrame(
        [
            pl.Series(name, packed or [], dtype) if dtype == pl.String() else unpacked(name, dtype, packed)
            for (name, dtype), packed in zip(schema.items(), row, strict=True)
        ]
    )


def take_events(connection: sa.Connection, limit: int, after: int = 0) -> pl.DataFrame:
    """The first `EVENTS` after this id that nobody was told of; no other session takes them while this one has them.

    Not among them: those that somebody else has taken, and those whose text was not looked at yet.
    """
    return read_columns(connection, _EVENTS, {"limit": limit, "after": after}, EVENTS)


def take_sources(connection: sa.Connection, limit: int, after: int = 0) -> pl.DataFrame:
    """The first `SOURCES` after this id that were not looked at, in order of id, and taken by nobody else."""
    return read_columns(connection, _SOURCES, {"limit": limit, "after": after}, SOURCES)


def read_texts(connection: sa.Connection, sources: pl.DataFrame) -> pl.DataFrame:
    """The `TEXTS` of these sources as they are now, without those that are gone."""
    ids = {
        f"{kind}_ids": bigint_array(sources.filter(pl.col("source_type") == kind)["source_id"].unique())
        for kind in ("card", "comment")
    }
    texts = read_columns(connection, _TEXTS, ids, TEXTS)
    return texts.with_columns(pl.when(pl.col("author_id") > 0).then("author_id"))


def lock_people(connection: sa.Connection, user_ids: pl.Series) -> pl.Series:
    """Lock these users until the transaction ends; return the ids of those whom somebody else does not let go of."""
    wanted = user_ids.unique()
    schema = pl.Schema({"user_id": pl.Int64()})
    free = read_columns(connection, _LOCK_FREE_PEOPLE, {"user_ids": bigint_array(wanted)}, schema)["user_id"]
    held = wanted.filter(~wanted.is_in(free.implode()))
    if held.is_empty():
        return held
    waiting = connection.begin_nested()
    try:
        driver = driver_connection(connection)
        driver.execute(_YIELD_SOON)
        driver.execute(_LOCK_PEOPLE, {"user_ids": bigint_array(held)})
    except LockNotAvailable:
        waiting.rollback()
        return held
    waiting.commit()
    return held.clear()


def record_mentions(connection: sa.Connection, named: pl.DataFrame) -> pl.DataFrame:
    """Write the mentions of `mentions.NAMED` that are not there yet, and return them as `NEW_MENTIONS`."""
    named = named.sort("source_type", "source_id", "user_id")
    rows = {
        "account_ids": bigint_array(named["account_id"]),
        "types": ",".join(named["source_type"]),
        "source_ids": bigint_array(named["source_id"]),
        "creator_ids": bigint_array(named["creator_id"]),
        "user_ids": bigint_array(named["user_id"]),
    }
    recorded = read_columns(connection, _RECORD_MENTIONS, rows, NEW_MENTIONS)
    return recorded.with_columns(pl.when(pl.col("creator_id") > 0).then("creator_id"))


def write_notifications(connection: sa.Connection, notifications: pl.DataFrame) -> Written:
    """The SQL function of that name: write those that are not there yet, each into its person's window."""
    rows = {
        "user_ids": bigint_array(notifications["user_id"]),
        "types": ",".join(notifications["source_type"]),
        "source_ids": bigint_array(notifications["source_id"]),
        "creator_ids": bigint_array(notifications["creator_id"]),
        "kinds": ",".join(notifications["kind"]),
    }
    with driver_connection(connection).cursor(binary=True) as cursor:
        return Written(*cursor.execute(_WRITE, rows, prepare=False).fetchone() or (0, 0))


def delete_events(connection: sa.Connection, event_ids: pl.Series) -> None:
    """Nobody is told of these events again, once the transaction commits."""
    query = "DELETE FROM flatearth.unnotified_events WHERE event_id = ANY(%(ids)s::int8[])"
    driver_connection(connection).execute(query, {"ids": bigint_array(event_ids)})


def delete_sources(connection: sa.Connection, ids: pl.Series) -> None:
    """These texts are not looked at again until they change, once the transaction commits."""
    query = "DELETE FROM flatearth.unscanned_sources WHERE id = ANY(%(ids)s::int8[])"
    driver_connection(connection).execute(query, {"ids": bigint_array(ids)})
