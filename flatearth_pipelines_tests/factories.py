"""Rows for tests, in the words of the domain; each function returns the new row's id."""

from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import sqlalchemy as sa

from flatearth_pipelines import tables
from flatearth_pipelines.webhooks.payload import ACTIONS
from flatearth_pipelines.webhooks.sealing import seal
from flatearth_pipelines.webhooks.signing import new_key
from flatearth_pipelines.webhooks.storage import next_id

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
DAY = timedelta(days=1)
MICROSECOND = timedelta(microseconds=1)

SECRET_KEY = "a secret of the tests"  # noqa: S105 - of nobody
"""The `FLATEARTH_SECRET_KEY` that the secrets of webhooks are sealed with."""

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


# What people are told of


def access(connection: sa.Connection, board_id: int, user_id: int, involvement: str = "access_only") -> None:
    _add(connection, tables.accesses, tables.boards, board_id=board_id, user_id=user_id, involvement=involvement)


def watch(connection: sa.Connection, card_id: int, user_id: int, *, watching: bool = True) -> None:
    _add(connection, tables.watches, tables.cards, card_id=card_id, user_id=user_id, watching=watching)


def assign(connection: sa.Connection, card_id: int, user_id: int) -> None:
    _add(connection, tables.assignments, tables.cards, card_id=card_id, user_id=user_id)


def mute(connection: sa.Connection, board_id: int, user_id: int) -> None:
    _add(connection, tables.board_mutes, tables.boards, board_id=board_id, user_id=user_id)


def comment(connection: sa.Connection, card_id: int, body: str = "Done", creator_id: int | None = None) -> int:
    account_id = _account_of(connection, tables.cards, card_id)
    values = {"account_id": account_id, "card_id": card_id, "creator_id": creator_id, "body": body}
    return _insert(connection, tables.comments, **values)


def event(
    connection: sa.Connection, board_id: int, creator_id: int, action: str, eventable_id: int, **particulars: Any
) -> int:
    """About a comment when that is what the action begins with, else about a card."""
    return _insert(
        connection,
        tables.events,
        account_id=_account_of(connection, tables.boards, board_id),
        board_id=board_id,
        creator_id=creator_id,
        action=action,
        eventable_type="comment" if action.startswith("comment") else "card",
        eventable_id=eventable_id,
        particulars=particulars,
    )


def events(
    connection: sa.Connection, board_id: int, creator_id: int, count: int, *, action: str = "card_closed"
) -> list[int]:
    """The ids, ascending, of that many events of a card that is gone, at once."""
    numbers = sa.func.generate_series(1, count).table_valued("number", name="numbers").render_derived()
    values: dict[str, sa.ColumnElement[Any]] = {
        "account_id": sa.literal(_account_of(connection, tables.boards, board_id)),
        "board_id": sa.literal(board_id),
        "creator_id": sa.literal(creator_id),
        "action": sa.literal(action),
        "eventable_type": sa.literal("card"),
        "eventable_id": sa.literal(0),
    }
    rows = sa.select(*values.values()).select_from(numbers)
    insert = sa.insert(tables.events).from_select(list(values), rows)
    return sorted(connection.execute(insert.returning(tables.events.c.id)).scalars())


def settings(connection: sa.Connection, user_id: int, email_frequency: str = "every_30_minutes", **values: Any) -> None:
    """What a person chose."""
    choices = {"user_id": user_id, "email_frequency": email_frequency, **values}
    _add(connection, tables.notification_settings, tables.users, owner_id=user_id, **choices)


def _add(
    connection: sa.Connection, table: sa.Table, owner: sa.Table, owner_id: int | None = None, **values: Any
) -> None:
    """A row of the account that its first value is of."""
    account_id = _account_of(connection, owner, owner_id or next(iter(values.values())))
    connection.execute(sa.insert(table).values(account_id=account_id, **values))


# Who is told of it elsewhere


def webhook(
    connection: sa.Connection, account_id: int, url: str = "https://hooks.acme.example/flatearth", **values: Any
) -> int:
    """Of all actions on every board; its secret is a new one, sealed with `SECRET_KEY`."""
    webhook_id = next_id(connection)
    fresh = new_key(values.get("signature", "standard"))
    defaults = {
        "id": webhook_id,
        "name": "Chat",
        "url": url,
        "actions": list(ACTIONS),
        "sealed_secret": seal(SECRET_KEY, fresh.secret, f"webhook {webhook_id}"),
        "public_key": fresh.public,
    }
    return _insert(connection, tables.webhooks, account_id=account_id, **defaults | values)


def delivery(connection: sa.Connection, webhook_id: int, event_id: int | None = None, /, **values: Any) -> int:
    """Of the event, or of what an application sends by itself."""
    action = sa.select(tables.events.c.action).where(tables.events.c.id == event_id).scalar_subquery()
    said = {"type": "ping", "body": b'{"type":"ping"}'} if event_id is None else {"type": action}
    return _insert(connection, tables.webhook_deliveries, webhook_id=webhook_id, event_id=event_id, **said | values)


def attempt(connection: sa.Connection, delivery_id: int, code: str = "ok", **values: Any) -> int:
    """One of the delivery; it changes neither that nor its webhook."""
    account_id = _account_of(connection, tables.webhook_deliveries, delivery_id)
    defaults = {"attempt": 1, "started_at": NOON, "duration_ms": 12}
    row = {"delivery_id": delivery_id, "account_id": account_id, "code": code, **defaults | values}
    return _insert(connection, tables.webhook_attempts, **row)


# What goes by its age


def tag(connection: sa.Connection, account_id: int, age: timedelta = 2 * DAY, **values: Any) -> int:
    """Made so long before `NOON`."""
    defaults = {"title": f"tag {next(_numbers)}", "created_at": NOON - age}
    return _insert(connection, tables.tags, account_id=account_id, **defaults | values)


def tagging(connection: sa.Connection, tag_id: int, card_id: int) -> int:
    account_id = _account_of(connection, tables.tags, tag_id)
    return _insert(connection, tables.taggings, account_id=account_id, tag_id=tag_id, card_id=card_id)


def session(connection: sa.Connection, user_id: int, expired: timedelta = DAY) -> int:
    """That expired so long before `NOON`."""
    return _insert(connection, tables.sessions, user_id=user_id, expires_at=NOON - expired)


def audit_log(connection: sa.Connection, account_id: int, age: timedelta = 91 * DAY) -> int:
    """Written so long before `NOON`."""
    values = {"action": "card.read", "created_at": NOON - age}
    return _insert(connection, tables.api_audit_logs, account_id=account_id, **values)


def file(connection: sa.Connection, account_id: int, storage_key: str, age: timedelta = 31 * DAY) -> int:
    """Uploaded so long before `NOON`; without its object."""
    values = {"storage_key": storage_key, "created_at": NOON - age}
    return _insert(connection, tables.files, account_id=account_id, **values)
