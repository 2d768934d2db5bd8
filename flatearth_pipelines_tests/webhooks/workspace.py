"""An account with people, a board and a card, its webhooks, and things that happen there."""

from typing import Any

import sqlalchemy as sa

from flatearth_pipelines_tests import factories as make


class Workspace:
    """One owner, and no webhook unless told otherwise."""

    def __init__(self, connection: sa.Connection) -> None:
        self.account = make.account(connection)
        self.owner = make.user(connection, self.account, "owner")
        self.board = make.board(connection, self.account)
        self.card = make.card(connection, self.board)

    def webhook(self, connection: sa.Connection, **values: Any) -> int:
        """One for every action on every board of the account, unless told otherwise."""
        return make.webhook(connection, self.account, **values)

    def event(self, connection: sa.Connection, action: str = "card_closed", **particulars: Any) -> int:
        """Something that the owner does to the card."""
        return make.event(connection, self.board, self.owner, action, self.card, **particulars)

    def events(self, connection: sa.Connection, count: int, action: str = "card_closed") -> list[int]:
        """As many at once, of a card that is gone."""
        return make.events(connection, self.board, self.owner, count, action=action)


def disabled(reason: str = "by hand") -> dict[str, Any]:
    """What is so of a webhook that is disabled."""
    return {"active": False, "disabled_at": sa.func.now(), "disabled_reason": reason}


def deliveries(connection: sa.Connection, webhook_id: int, count: int) -> list[int]:
    """The ids, ascending, of as many at once that are due, all of them an application's own."""
    insert = sa.text("""
        INSERT INTO flatearth.webhook_deliveries (webhook_id, type, body)
        SELECT :webhook_id, 'test', convert_to('{"number":' || n || '}', 'UTF8') FROM generate_series(1, :count) AS n
        RETURNING id
    """)
    return sorted(connection.execute(insert, {"webhook_id": webhook_id, "count": count}).scalars())
