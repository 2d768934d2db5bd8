"""An account where things happen at given instants, and what its days came to."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from flatearth_pipelines import tables
from flatearth_pipelines.reports.metrics import METRICS
from flatearth_pipelines_tests import factories as make

TODAY = date(2025, 3, 30)
"""The day that tests count: among the partitions wherever and whenever they run."""

START = datetime(2025, 3, 30, tzinfo=UTC)
END = datetime(2025, 3, 31, tzinfo=UTC)
NOON = datetime(2025, 3, 30, 12, tzinfo=UTC)

Row = dict[str, Any]


class Office:
    """An account with an owner, a member, a system user, and a board with a card that was made the year before."""

    def __init__(self, connection: sa.Connection, **values: Any) -> None:
        self.account = make.account(connection, **values)
        self.owner = make.user(connection, self.account, "owner")
        self.member = make.user(connection, self.account)
        self.system = make.user(connection, self.account, "system")
        self.board = make.board(connection, self.account)
        self.card = make.card(connection, self.board, created_at=START - timedelta(days=365))
        self.webhook = make.webhook(connection, self.account, board_id=self.board)

    def created(self, connection: sa.Connection, at: datetime, board: int | None = None) -> int:
        return make.card(connection, board or self.board, created_at=at)

    def happened(
        self,
        connection: sa.Connection,
        action: str,
        at: datetime,
        who: int | None = None,
        board: int | None = None,
    ) -> None:
        """Done by the owner on the board unless told otherwise."""
        row = {
            "account_id": self.account,
            "board_id": board or self.board,
            "creator_id": who or self.owner,
            "action": action,
            "eventable_type": "card",
            "eventable_id": self.card,
            "particulars": {},
            "created_at": at,
        }
        connection.execute(sa.insert(tables.events).values(row))

    def commented(self, connection: sa.Connection, at: datetime, card: int | None = None) -> None:
        row = {"account_id": self.account, "card_id": card or self.card, "body": "Done", "created_at": at}
        connection.execute(sa.insert(tables.comments).values(row))

    def mailed(self, connection: sa.Connection, at: datetime, outcome: str = "mailed") -> int:
        """To a new person."""
        return self._bundle(connection, status="delivered", outcome=outcome, delivered_at=at)

    def mail_failed(self, connection: sa.Connection, at: datetime) -> int:
        return self._bundle(connection, status="failed", outcome="refused", last_error="554 no", failed_at=at)

    def _bundle(self, connection: sa.Connection, **values: Any) -> int:
        row = {
            "account_id": self.account,
            "user_id": make.user(connection, self.account),
            "starts_at": START - timedelta(days=9),
            "ends_at": START - timedelta(days=8),
        }
        bundles = tables.notification_bundles
        new_id: int = connection.execute(sa.insert(bundles).values(row | values).returning(bundles.c.id)).scalar_one()
        return new_id

    def delivered(self, connection: sa.Connection, at: datetime, webhook: int | None = None) -> int:
        return make.delivery(connection, webhook or self.webhook, state="completed", completed_at=at)

    def gave_up(self, connection: sa.Connection, *attempts: datetime, webhook: int | None = None) -> int:
        """A delivery, after attempts at these instants."""
        delivery = make.delivery(connection, webhook or self.webhook, state="errored")
        for number, at in enumerate(attempts, 1):
            make.attempt(connection, delivery, "http_5xx", attempt=number, started_at=at)
        return delivery


def row(account_id: int, board_id: int | None, **counts: int) -> Row:
    """What `rows` would say of it; what is not named is nought."""
    return {"account_id": account_id, "board_id": board_id} | dict.fromkeys(METRICS, 0) | counts


def rows(connection: sa.Connection, day: date = TODAY) -> list[Row]:
    """What stands in the table for the day, the account's own row first."""
    table = tables.daily_reports
    query = sa.select(table).where(table.c.day == day).order_by(table.c.account_id, table.c.board_id.nulls_first())
    return [
        {name: value for name, value in each.items() if name != "day"} for each in connection.execute(query).mappings()
    ]


def places(connection: sa.Connection) -> list[tuple[str, str]]:
    """Where every row of the table lies, and who wrote it: the same again means that nothing was written."""
    query = sa.text("SELECT ctid::text, xmin::text FROM flatearth.daily_reports ORDER BY day, account_id, board_id")
    return [(place, writer) for place, writer in connection.execute(query)]
