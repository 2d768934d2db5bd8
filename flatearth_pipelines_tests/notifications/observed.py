"""What stands in the tables of notifications, and what must be true of it whatever happened."""

from datetime import datetime
from typing import Any

import sqlalchemy as sa

from flatearth_pipelines import tables

Row = dict[str, Any]


def notifications(connection: sa.Connection, user_id: int | None = None) -> list[Row]:
    """Of the person, or of everybody, in order of id."""
    return _rows(connection, tables.notifications, user_id)


def bundles(connection: sa.Connection, user_id: int | None = None) -> list[Row]:
    """Of the person, or of everybody, in order of id."""
    return _rows(connection, tables.notification_bundles, user_id)


def told(connection: sa.Connection, source_type: str = "event") -> set[tuple[int, int]]:
    """Who has a notification of which source: pairs of source and person."""
    return {
        (row["source_id"], row["user_id"]) for row in notifications(connection) if row["source_type"] == source_type
    }


def mentions(connection: sa.Connection) -> set[tuple[str, int, int]]:
    """Who is mentioned where, as it was recorded."""
    mentions = tables.mentions.c
    query = sa.select(mentions.source_type, mentions.source_id, mentions.mentionee_id)
    return {(kind, source, user) for kind, source, user in connection.execute(query)}


def waiting(connection: sa.Connection) -> tuple[int, int]:
    """How many events and how many texts nobody has looked at."""
    events, texts = (
        connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
        for table in (tables.unnotified_events, tables.unscanned_sources)
    )
    return events, texts


def windows(connection: sa.Connection, user_id: int) -> list[tuple[datetime, datetime]]:
    """The windows of the person, in order of time."""
    return sorted((row["starts_at"], row["ends_at"]) for row in bundles(connection, user_id))


def bundle_of(connection: sa.Connection, notification: Row) -> Row:
    """The one bundle whose window contains the notification."""
    (bundle,) = (
        row
        for row in bundles(connection, notification["user_id"])
        if row["starts_at"] <= notification["created_at"] < row["ends_at"]
    )
    return bundle


def now(connection: sa.Connection) -> datetime:
    """By the database's clock, at this moment."""
    instant: datetime = connection.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
    return instant


def _rows(connection: sa.Connection, table: sa.Table, user_id: int | None) -> list[Row]:
    query = sa.select(table).order_by(table.c.id)
    if user_id is not None:
        query = query.where(table.c.user_id == user_id)
    return [dict(row) for row in connection.execute(query).mappings()]
