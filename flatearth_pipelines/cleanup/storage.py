"""Rows that go by their age alone: how one batch is deleted, how many are due, the oldest left."""

from datetime import datetime

import sqlalchemy as sa

from flatearth_pipelines.cleanup.outcome import Batch
from flatearth_pipelines.driver import driver_connection

_PLACE: sa.ColumnElement[object] = sa.literal_column("ctid")

_BEFORE = sa.bindparam("before", type_=sa.DateTime(timezone=True))

_SINCE = sa.bindparam("since", type_=sa.DateTime(timezone=True))

_AFTER = sa.cast(sa.bindparam("after", type_=sa.Text), sa.DateTime(timezone=True))

_MOST: sa.BindParameter[int] = sa.bindparam("most", type_=sa.Integer)

_FIRST = "-infinity"

_BEGIN = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; SET LOCAL synchronous_commit = off"


def begin_batch(connection: sa.Connection) -> None:
    """The first statement of every batch's transaction.

    In read committed, whatever the database's default is: rows that somebody has changed are looked at again. The
    commit waits for no disk: what Postgres forgets of it when the machine fails is there again, and deleted again.
    """
    driver_connection(connection).execute(_BEGIN)


class Aged:
    """Rows of a table that go when a column of theirs is before an instant, strictly. The column leads an index."""

    def __init__(self, column: sa.Column[datetime]) -> None:
        table = column.table
        assert isinstance(table, sa.Table)  # noqa: S101 - for the type
        self._batch = _batch(table, column)
        self._count = sa.select(sa.func.count()).select_from(table).where(column < _BEFORE)
        left = sa.or_(_SINCE.is_(None), column >= _SINCE)
        self._oldest = sa.select(_iso(sa.select(sa.func.min(column)).where(left).scalar_subquery()))

    def delete_batch(self, connection: sa.Connection, before: datetime, after: str | None, most: int) -> Batch:
        """Delete up to so many, the oldest first, none of which is older than `after`; in the caller's transaction.

        A row that somebody holds is skipped: nobody is waited for.
        """
        values = {"before": before, "after": after or _FIRST, "most": most}
        found, deleted, last = connection.execute(self._batch, values).one()
        return Batch(found, deleted, last or after)

    def count_due(self, connection: sa.Connection, before: datetime) -> int:
        """How many there are."""
        return int(connection.execute(self._count, {"before": before}).scalar_one())

    def oldest(self, connection: sa.Connection, since: datetime | None = None) -> str | None:
        """The age column of the oldest row, of those not before `since`, in ISO 8601; None when there is none."""
        oldest: str | None = connection.execute(self._oldest, {"since": since}).scalar_one()
        return oldest


def _batch(table: sa.Table, column: sa.Column[datetime]) -> sa.Select[int, int, str | None]:
    """One statement: the places of the rows, locked; their deletion; how many, and where the next one goes on.

    It goes on at the age of the last one, not at the beginning: the index's entries of what was deleted would be read
    again for every batch while a transaction stays open that may still see the rows. Found by its place (ctid), a row
    costs half of what it costs by its id. A table with partitions would need its `tableoid` too.
    """
    due = (
        sa.select(_PLACE.label("place"), column.label("at"))
        .where(column < _BEFORE, column >= _AFTER)
        .order_by(column)
        .limit(_MOST)
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    places = sa.func.array(sa.select(due.c.place).scalar_subquery())
    gone = sa.delete(table).where(sa.any_(places) == _PLACE).returning(sa.literal(1).label("one")).cte("gone")
    return sa.select(
        sa.select(sa.func.count()).select_from(due).scalar_subquery(),
        sa.select(sa.func.count()).select_from(gone).scalar_subquery(),
        _iso(sa.select(sa.func.max(due.c.at)).scalar_subquery()),
    )


def _iso(instant: sa.ColumnElement[datetime]) -> sa.ColumnElement[str | None]:
    """In ISO 8601, and `infinity`, which Python's own instants do not know."""
    return sa.func.to_jsonb(instant).op("#>>")(sa.literal_column("'{}'"))
