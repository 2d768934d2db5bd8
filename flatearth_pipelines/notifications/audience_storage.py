"""Who could be told: the members of audiences, and what they may see, in Postgres."""

from collections.abc import Mapping
from typing import Any, LiteralString

import polars as pl
import sqlalchemy as sa

from flatearth_pipelines.frames import bigint_array
from flatearth_pipelines.notifications.recipients import ACCESSES, BOARDS, MEMBERS, MENTIONED, MUTES, PEOPLE
from flatearth_pipelines.notifications.storage import read_columns

_MEMBERS: Mapping[str, LiteralString] = {
    "assigned": """
        SELECT string_agg(int8send(e.id), ''), string_agg(int8send(named.id::int8), '')
        FROM flatearth.events AS e
        CROSS JOIN LATERAL (
            SELECT DISTINCT a.value #>> '{}' AS id
            FROM jsonb_path_query(e.particulars, 'lax $.assignee_ids[*]') AS a (value)
            WHERE a.value #>> '{}' ~ '^[0-9]{1,18}$'
        ) AS named
        WHERE e.id = ANY(%(keys)s::int8[])
    """,
    "assignees": """
        SELECT string_agg(int8send(card_id), ''), string_agg(int8send(user_id), '')
        FROM flatearth.assignments WHERE card_id = ANY(%(keys)s::int8[])
    """,
    "card": """
        SELECT string_agg(int8send(card_id), ''), string_agg(int8send(user_id), '')
        FROM flatearth.watches WHERE card_id = ANY(%(keys)s::int8[]) AND watching
    """,
    "board": """
        SELECT string_agg(int8send(board_id), ''), string_agg(int8send(user_id), '')
        FROM flatearth.accesses WHERE board_id = ANY(%(keys)s::int8[]) AND involvement = 'watching'
    """,
}

_MENTIONED = """
SELECT array_agg(m.source_type), string_agg(int8send(m.source_id), ''), string_agg(int8send(m.mentionee_id), '')
FROM (SELECT DISTINCT * FROM unnest(string_to_array(%(types)s, ','), %(ids)s::int8[])) AS s (source_type, source_id)
JOIN flatearth.mentions AS m ON m.source_type = s.source_type AND m.source_id = s.source_id
"""

_PEOPLE = """
SELECT string_agg(int8send(id), ''), string_agg(int8send(account_id), '')
FROM flatearth.users WHERE id = ANY(%(user_ids)s::int8[]) AND active AND role <> 'system'
"""

_BOARDS = """
SELECT
    string_agg(int8send(id), ''), string_agg(int8send(account_id), ''), string_agg(int8send(all_access::int::int8), '')
FROM flatearth.boards WHERE id = ANY(%(board_ids)s::int8[])
"""

_ACCESSES = """
SELECT string_agg(int8send(board_id), ''), string_agg(int8send(user_id), '')
FROM flatearth.accesses WHERE board_id = ANY(%(board_ids)s::int8[]) AND user_id = ANY(%(user_ids)s::int8[])
"""

_MUTES = """
SELECT string_agg(int8send(board_id), ''), string_agg(int8send(user_id), '')
FROM flatearth.board_mutes WHERE board_id = ANY(%(board_ids)s::int8[]) AND user_id = ANY(%(user_ids)s::int8[])
"""


def read_members(connection: sa.Connection, addresses: pl.DataFrame) -> pl.DataFrame:
    """The `MEMBERS` of the audiences of `ADDRESSES`; whoever an event names need not be somebody."""
    parts = [pl.DataFrame(schema=MEMBERS)]
    for audience, query in _MEMBERS.items():
        keys = addresses.filter(pl.col("audience") == audience)["key"].unique()
        if keys.len():
            schema = pl.Schema({"key": pl.Int64(), "user_id": pl.Int64()})
            members = read_columns(connection, query, {"keys": bigint_array(keys)}, schema)
            parts.append(members.select(pl.lit(audience, MEMBERS["audience"]).alias("audience"), "key", "user_id"))
    return pl.concat(parts)


def read_mentioned(connection: sa.Connection, events: pl.DataFrame) -> pl.DataFrame:
    """The `MENTIONED` of the texts that these events are about."""
    sources = {"types": ",".join(events["eventable_type"]), "ids": bigint_array(events["eventable_id"])}
    return read_columns(connection, _MENTIONED, sources, MENTIONED)


def read_people(connection: sa.Connection, user_ids: pl.Series) -> pl.DataFrame:
    """The `PEOPLE` among these users."""
    return read_columns(connection, _PEOPLE, {"user_ids": bigint_array(user_ids.unique())}, PEOPLE)


def read_boards(connection: sa.Connection, board_ids: pl.Series) -> pl.DataFrame:
    """These `BOARDS`."""
    return read_columns(connection, _BOARDS, {"board_ids": bigint_array(board_ids.unique())}, BOARDS)


def read_accesses(connection: sa.Connection, board_ids: pl.Series, user_ids: pl.Series) -> pl.DataFrame:
    """The `ACCESSES` of these users to these boards."""
    return read_columns(connection, _ACCESSES, _pairs(board_ids, user_ids), ACCESSES)


def read_mutes(connection: sa.Connection, board_ids: pl.Series, user_ids: pl.Series) -> pl.DataFrame:
    """The `MUTES` of these boards by these users."""
    return read_columns(connection, _MUTES, _pairs(board_ids, user_ids), MUTES)


def _pairs(board_ids: pl.Series, user_ids: pl.Series) -> dict[str, Any]:
    return {"board_ids": bigint_array(board_ids.unique()), "user_ids": bigint_array(user_ids.unique())}
