"""What stands committed in the tables, whole rows of it."""

from typing import Any

import sqlalchemy as sa

from flatearth_pipelines import tables

Row = dict[str, Any]


def rows(engine: sa.Engine, table: sa.Table) -> list[Row]:
    """In order of id."""
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(sa.select(table).order_by(table.c.id)).mappings()]


def cards(engine: sa.Engine) -> dict[int, Row]:
    """By id."""
    return {row["id"]: row for row in rows(engine, tables.cards)}


def events(engine: sa.Engine) -> list[Row]:
    """Without their ids, in order of what they are about."""
    everything = sorted(rows(engine, tables.events), key=lambda event: event["eventable_id"])
    return [{name: value for name, value in event.items() if name != "id"} for event in everything]


def everything(engine: sa.Engine) -> list[list[Row]]:
    """Every row that the job or a command of entropy could write."""
    return [rows(engine, table) for table in (tables.cards, tables.events, tables.entropies)]


def postponed(engine: sa.Engine) -> list[int]:
    """The ids of the postponed cards, ascending."""
    is_postponed = tables.cards.c.postponed_at.is_not(None)
    return _ascending(engine, sa.select(tables.cards.c.id).where(is_postponed))


def recorded(engine: sa.Engine) -> list[int]:
    """The card of each of the job's events, ascending: a card with two events stands there twice."""
    of_the_job = tables.events.c.action == "card_auto_postponed"
    return _ascending(engine, sa.select(tables.events.c.eventable_id).where(of_the_job))


def creators(engine: sa.Engine) -> list[int]:
    """Of the events, in order of the cards."""
    return [event["creator_id"] for event in events(engine)]


def _ascending(engine: sa.Engine, query: sa.Select[int]) -> list[int]:
    with engine.connect() as connection:
        return sorted(connection.execute(query).scalars())
