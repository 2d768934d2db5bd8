"""Rows for tests, in the words of the domain; each function returns the new row's id."""

from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import sqlalchemy as sa

from flatearth_pipelines import tables

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
DAY = timedelta(days=1)
MICROSECOND = timedelta(microseconds=1)

_numbers = count(1)


def account(connection: sa.Connection, **values: Any) -> int:
    return _insert(connection, tables.accounts, **{"name": "Acme"} | values)


def user(connection: sa.Connection, account_id: int, role: str = "member", **values: Any) -> int:
    number = next(_numbers)
    defaults = {"name": f"Person {number}", "email": f"person{number}@acme.example", "active": True}
    return _insert(connection, tables.users, account_id=account_id, role=role, **defaults | values)


def board(connection: sa.Connection, account_id: int, **values: Any) -> int:
    return _insert(connection, tables.boards, account_id=account_id, **{"name": "Roadmap"} | values)


def column(connection: sa.Connection, board_id: int) -> int:
    account_id = _account_of(connection, tables.boards, board_id)
    return _insert(connection, tables.columns, account_id=account_id, board_id=board_id, name="Doing", position=1)


def card(connection: sa.Connection, board_id: int, idle: timedelta = 31 * DAY, **values: Any) -> int:
    """An active card that was last active `idle` before `NOON`."""
    account_id = _account_of(connection, tables.boards, board_id)
    defaults = {
        "status": "published",
        "title": "Fix the bug",
        "last_active_at": NOON - idle,
        "created_at": NOON - 365 * DAY,
    }
    return _insert(connection, tables.cards, account_id=account_id, board_id=board_id, **defaults | values)


def period(connection: sa.Connection, container_type: str, container_id: int, span: timedelta) -> None:
    account_id = container_id if container_type == "account" else _account_of(connection, tables.boards, container_id)
    connection.execute(
        sa.insert(tables.entropies).values(
            account_id=account_id,
            container_type=container_type,
            container_id=container_id,
            auto_postpone_period_ms=span // timedelta(milliseconds=1),
        )
    )


def _account_of(connection: sa.Connection, table: sa.Table, row_id: int) -> int:
    account_id: int = connection.execute(sa.select(table.c.account_id).where(table.c.id == row_id)).scalar_one()
    return account_id


def _insert(connection: sa.Connection, table: sa.Table, **values: Any) -> int:
    new_id: int = connection.execute(sa.insert(table).values(**values).returning(table.c.id)).scalar_one()
    return new_id


def period_ms(connection: sa.Connection, container_type: str, container_id: int, milliseconds: int) -> None:
    """A period that no `timedelta` may be able to hold."""
    period(connection, container_type, container_id, timedelta(milliseconds=1))
    chosen = sa.and_(
        tables.entropies.c.container_type == container_type, tables.entropies.c.container_id == container_id
    )
    connection.execute(sa.update(tables.entropies).where(chosen).values(auto_postpone_period_ms=milliseconds))


def backlog(connection: sa.Connection, board_id: int, count: int, idle: timedelta = 31 * DAY) -> list[int]:
    """The ids, ascending, of that many active cards at once, each of them `idle` before `NOON`."""
    cards = tables.cards
    numbers = sa.func.generate_series(1, count).table_valued("number", name="numbers").render_derived()
    values = {
        "account_id": sa.literal(_account_of(connection, tables.boards, board_id)),
        "board_id": sa.literal(board_id),
        "number": numbers.c.number,
        "title": sa.literal("Fix the bug"),
        "status": sa.literal("published"),
        "last_active_at": sa.literal(NOON - idle),
        "created_at": sa.literal(NOON - 365 * DAY),
    }
    rows = sa.select(*values.values()).select_from(numbers)
    new_ids = connection.execute(sa.insert(cards).from_select(list(values), rows).returning(cards.c.id))
    return sorted(new_ids.scalars())
