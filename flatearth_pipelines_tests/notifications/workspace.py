"""An account with people, a board and a card, and things that happen there."""

from typing import Any

import sqlalchemy as sa

from flatearth_pipelines import tables
from flatearth_pipelines.notifications.functions import create_notification
from flatearth_pipelines_tests import factories as make


class Workspace:
    """People are watchers of nothing, unless told otherwise; the board is open to all."""

    def __init__(self, connection: sa.Connection, **board: Any) -> None:
        self.account = make.account(connection)
        self.actor = make.user(connection, self.account, "owner")
        self.board = make.board(connection, self.account, **board)
        self.card = make.card(connection, self.board)

    def person(self, connection: sa.Connection, frequency: str | None = None, **choices: Any) -> int:
        """A member; with a frequency, who chose that and more."""
        time_zone = choices.pop("time_zone", "UTC")
        user_id = make.user(connection, self.account, time_zone=time_zone)
        if frequency is not None:
            make.settings(connection, user_id, frequency, **choices)
        return user_id

    def watcher(self, connection: sa.Connection, frequency: str | None = None, **choices: Any) -> int:
        """A member who watches the board."""
        user_id = self.person(connection, frequency, **choices)
        make.access(connection, self.board, user_id, "watching")
        return user_id

    def event(self, connection: sa.Connection, action: str = "card_closed", **particulars: Any) -> int:
        """Something that the actor does to the card."""
        return make.event(connection, self.board, self.actor, action, self.card, **particulars)

    def comment(self, connection: sa.Connection, body: str = "Done") -> tuple[int, int]:
        """By the actor, with its event: the ids of both."""
        comment = make.comment(connection, self.card, body, self.actor)
        return comment, make.event(connection, self.board, self.actor, "comment_created", comment)

    def notification(self, connection: sa.Connection, user_id: int, action: str = "card_closed") -> int:
        """Of a new event, as an application creates it."""
        event = self.event(connection, action)
        connection.execute(sa.delete(tables.unnotified_events).where(tables.unnotified_events.c.event_id == event))
        return create_notification(connection, self.account, user_id, "event", event, creator_id=self.actor)


def bundle(connection: sa.Connection, user_id: int, starts_in: str, ends_in: str, **values: Any) -> int:
    """A window from and to so long after the moment: negative for the past."""
    account_id = connection.execute(
        sa.select(tables.users.c.account_id).where(tables.users.c.id == user_id)
    ).scalar_one()
    moment = sa.func.clock_timestamp()
    window = {
        "starts_at": moment + sa.cast(starts_in, sa.Interval),
        "ends_at": moment + sa.cast(ends_in, sa.Interval),
    }
    insert = sa.insert(tables.notification_bundles).values(account_id=account_id, user_id=user_id, **window | values)
    new_id: int = connection.execute(insert.returning(tables.notification_bundles.c.id)).scalar_one()
    return new_id
