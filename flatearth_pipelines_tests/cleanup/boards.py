"""What people keep of a board: every kind of it, on one card each."""

from dataclasses import dataclass, fields

import sqlalchemy as sa

from flatearth_pipelines import tables
from flatearth_pipelines_tests import factories as make

OF_EACH = {"mentions": 2, "notifications": 4, "watches": 1, "pins": 1}
"""How much of it `keep` makes."""


@dataclass(frozen=True)
class Kept:
    """The ids of what a person has; of watches and pins those of their card."""

    mentions: frozenset[int]
    notifications: frozenset[int]
    watches: frozenset[int]
    pins: frozenset[int]

    def __sub__(self, other: "Kept") -> "Kept":
        return Kept(*(getattr(self, kind.name) - getattr(other, kind.name) for kind in fields(self)))


NOTHING = Kept(frozenset(), frozenset(), frozenset(), frozenset())


def keep(connection: sa.Connection, board: int, person: int) -> int:
    """A new card of the board that the person watches, has pinned, is named on and was told of; its id."""
    card = make.card(connection, board)
    comment = make.comment(connection, card)
    make.watch(connection, card, person)
    pin(connection, card, person)
    for source_type, source in (("card", card), ("comment", comment)):
        told(connection, person, "mention", mention(connection, source_type, source, person))
    for action, source in (("card_closed", card), ("comment_created", comment)):
        told(connection, person, "event", make.event(connection, board, person, action, source))
    return card


def pin(connection: sa.Connection, card: int, person: int) -> None:
    row = {"account_id": _account(connection, person), "card_id": card, "user_id": person}
    connection.execute(sa.insert(tables.pins).values(row))


def mention(connection: sa.Connection, source_type: str, source: int, person: int) -> int:
    row = {
        "account_id": _account(connection, person),
        "source_type": source_type,
        "source_id": source,
        "mentionee_id": person,
    }
    return int(connection.execute(sa.insert(tables.mentions).values(row).returning(tables.mentions.c.id)).scalar_one())


def told(connection: sa.Connection, person: int, source_type: str, source: int) -> None:
    row = {
        "account_id": _account(connection, person),
        "user_id": person,
        "source_type": source_type,
        "source_id": source,
    }
    connection.execute(sa.insert(tables.notifications).values(row))


def kept(connection: sa.Connection, person: int) -> Kept:
    """All that the person has, on whatever board."""

    def of(key: sa.Column[int], owner: sa.Column[int]) -> frozenset[int]:
        return frozenset(connection.execute(sa.select(key).where(owner == person)).scalars())

    return Kept(
        mentions=of(tables.mentions.c.id, tables.mentions.c.mentionee_id),
        notifications=of(tables.notifications.c.id, tables.notifications.c.user_id),
        watches=of(tables.watches.c.card_id, tables.watches.c.user_id),
        pins=of(tables.pins.c.card_id, tables.pins.c.user_id),
    )


def _account(connection: sa.Connection, person: int) -> int:
    query = sa.select(tables.users.c.account_id).where(tables.users.c.id == person)
    return int(connection.execute(query).scalar_one())
