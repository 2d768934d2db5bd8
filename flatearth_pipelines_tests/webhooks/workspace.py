"""An account with people, a board and a card, its webhooks, and things that happen there."""

from typing import Any

import sqlalchemy as sa

from flatearth_pipelines import tables
from flatearth_pipelines.webhooks import storage
from flatearth_pipelines.webhooks.payload import ACTIONS
from flatearth_pipelines.webhooks.sealing import seal
from flatearth_pipelines.webhooks.signing import new_key
from flatearth_pipelines_tests import factories as make

KEY = "a secret of the tests"
"""FLATEARTH_SECRET_KEY."""

URL = "https://hooks.acme.example/flatearth"


class Workspace:
    """One owner, and no webhook unless told otherwise."""

    def __init__(self, connection: sa.Connection) -> None:
        self.account = make.account(connection)
        self.owner = make.user(connection, self.account, "owner")
        self.board = make.board(connection, self.account)
        self.card = make.card(connection, self.board)

    def webhook(self, connection: sa.Connection, url: str = URL, **values: Any) -> int:
        """One for every action on every board of the account, unless told otherwise."""
        return webhook(connection, self.account, url, **values)

    def event(self, connection: sa.Connection, action: str = "card_closed", **particulars: Any) -> int:
        """Something that the owner does to the card."""
        return make.event(connection, self.board, self.owner, action, self.card, **particulars)

    def events(self, connection: sa.Connection, count: int, action: str = "card_closed") -> list[int]:
        """As many at once, of a card that is gone."""
        return make.events(connection, self.board, self.owner, count, action=action)


def webhook(connection: sa.Connection, account_id: int, url: str = URL, **values: Any) -> int:
    """With a secret of the signature that can be read by `KEY`."""
    webhook_id = storage.next_id(connection)
    key = new_key(values.get("signature", "standard"))
    defaults = {
        "id": webhook_id,
        "account_id": account_id,
        "name": "The chat",
        "url": url,
        "actions": list(ACTIONS),
        "sealed_secret": seal(KEY, key.secret, f"webhook {webhook_id}"),
        "public_key": key.public,
    }
    connection.execute(sa.insert(tables.webhooks).values(**defaults | values))
    return webhook_id


def disabled(reason: str = "by hand") -> dict[str, Any]:
    """What is so of a webhook that is disabled."""
    return {"active": False, "disabled_at": sa.func.now(), "disabled_reason": reason}


def delivery(connection: sa.Connection, webhook_id: int, event_id: int | None = None, **values: Any) -> int:
    """One that is due, of the event, or else of what an application says by itself."""
    said = {"type": "test", "body": b"{}"} if event_id is None else {"event_id": event_id, "type": "card_closed"}
    query = sa.insert(tables.webhook_deliveries).values(webhook_id=webhook_id, **said | values)
    new_id: int = connection.execute(query.returning(tables.webhook_deliveries.c.id)).scalar_one()
    return new_id


def deliveries(connection: sa.Connection, webhook_id: int, count: int) -> list[int]:
    """The ids, ascending, of as many at once that are due, all of them an application's own."""
    insert = sa.text("""
        INSERT INTO flatearth.webhook_deliveries (webhook_id, type, body)
        SELECT :webhook_id, 'test', convert_to('{"number":' || n || '}', 'UTF8') FROM generate_series(1, :count) AS n
        RETURNING id
    """)
    return sorted(connection.execute(insert, {"webhook_id": webhook_id, "count": count}).scalars())
