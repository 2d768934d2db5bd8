"""Webhooks in Postgres, and what became of their deliveries: what people ask, and what they say of webhooks."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa

from flatearth_pipelines.contract import contract_errors
from flatearth_pipelines.errors import NotFound
from flatearth_pipelines.tables import accounts, boards, webhook_attempts, webhook_deliveries, webhooks

STATES = ("pending", "in_progress", "completed", "errored")
"""Of deliveries. Webhooks are `active`, `open` (the breaker is: nothing but a probe is sent) or `disabled`."""

_STATE = sa.case(
    (sa.not_(webhooks.c.active), "disabled"), (webhooks.c.open_until.is_not(None), "open"), else_="active"
).label("state")

_LISTED = ("id", "account_id", "board_id", "name", "url", "actions", "format", "signature")

_SECRETS = {"sealed_secret", "previous_sealed_secret"}

_DELIVERED = ("id", "event_id", "type", "state", "attempts", "created_at", "next_attempt_at")

_HIGHEST_ID = 2**63 - 1

_HELD = timedelta(minutes=1)


class Target(NamedTuple):
    """What somebody who wants to send something to a webhook has to know of it."""

    account_id: int
    format: str
    active: bool
    cancelled: bool
    """Its account is."""


def next_id(connection: sa.Connection) -> int:
    """The id of a webhook that is not there yet, and that nobody else gets."""
    sequence = sa.func.pg_get_serial_sequence("flatearth.webhooks", "id")
    return int(connection.execute(sa.select(sa.func.nextval(sequence))).scalar_one())


def check_place(connection: sa.Connection, account_id: int, board_id: int | None) -> None:
    """Nothing, when there is such an account, and such a board in it.

    Raises:
        NotFound: there is not.
    """
    account = sa.exists().where(accounts.c.id == account_id)
    if not (_is_id(account_id) and connection.execute(sa.select(account)).scalar_one()):
        raise NotFound(f"There is no account {account_id}")
    if board_id is None:
        return
    board = sa.exists().where(boards.c.id == board_id, boards.c.account_id == account_id)
    if not (_is_id(board_id) and connection.execute(sa.select(board)).scalar_one()):
        raise NotFound(f"There is no board {board_id} in account {account_id}")


def add(connection: sa.Connection, values: Mapping[str, Any]) -> None:
    """Write a webhook with these columns.

    Raises:
        NotFound: its account or board has gone meanwhile.
        WrongUsage: a value is one that Postgres does not keep.
    """
    with contract_errors():
        connection.execute(sa.insert(webhooks).values(**values))


def lock_secret(connection: sa.Connection, webhook_id: int) -> bytes:
    """The webhook's sealed secret, which nobody else replaces until the transaction ends.

    Raises:
        NotFound: there is no such webhook.
    """
    query = sa.select(webhooks.c.sealed_secret).with_for_update(key_share=True)
    return bytes(_one(connection, query, webhook_id).sealed_secret)


def replace_secret(
    connection: sa.Connection, webhook_id: int, sealed: bytes, public_key: str | None, *, keep_for: timedelta | None
) -> None:
    """Have requests signed by this secret; by the one before it too for so long from now, or not at all with None."""
    until = None if keep_for is None else sa.func.now() + sa.literal(keep_for, sa.Interval)
    values = {
        "sealed_secret": sealed,
        "public_key": public_key,
        "previous_sealed_secret": None if keep_for is None else webhooks.c.sealed_secret,
        "previous_secret_until": until,
    }
    connection.execute(sa.update(webhooks).where(webhooks.c.id == webhook_id).values(values))


def enable(connection: sa.Connection, webhook_id: int) -> bool:
    """Whether there was anything to do: it was disabled, or had failed. Its failures count anew, its breaker is closed.

    Raises:
        NotFound: there is no such webhook.
    """
    values = {
        "active": True,
        "disabled_at": None,
        "disabled_reason": None,
        "consecutive_failures": 0,
        "first_failure_at": None,
        "trips": 0,
        "open_until": None,
    }
    troubled = sa.or_(sa.not_(webhooks.c.active), webhooks.c.consecutive_failures > 0, webhooks.c.trips > 0)
    return _changed(connection, webhook_id, troubled, values)


def disable(connection: sa.Connection, webhook_id: int, reason: str) -> bool:
    """Whether it was active; of one that is disabled already the first reason stays.

    Raises:
        NotFound: there is no such webhook.
    """
    values = {"active": False, "disabled_at": sa.func.now(), "disabled_reason": reason}
    return _changed(connection, webhook_id, webhooks.c.active, values)


def read_list(
    connection: sa.Connection, *, account_id: int | None = None, limit: int = 50, offset: int = 0
) -> list[dict[str, Any]]:
    """The newest webhooks first, without their secrets; of this account."""
    query = (
        sa.select(
            *(webhooks.c[name] for name in _LISTED),
            _STATE,
            webhooks.c.consecutive_failures.label("failures"),
            webhooks.c.created_at,
        )
        .order_by(webhooks.c.id.desc())
        .limit(limit)
        .offset(offset)
    )
    if account_id is not None:
        query = query.where(webhooks.c.account_id == account_id)
    return [dict(row) for row in connection.execute(query).mappings()]


def read_one(connection: sa.Connection, webhook_id: int) -> dict[str, Any]:
    """The webhook's state and every column but its secrets.

    Raises:
        NotFound: there is no such webhook.
    """
    columns = [column for column in webhooks.c if column.name not in _SECRETS]
    return _one(connection, sa.select(*columns, _STATE), webhook_id)._asdict()


def read_target(connection: sa.Connection, webhook_id: int) -> Target:
    """What one has to know to send something to the webhook.

    Raises:
        NotFound: there is no such webhook.
    """
    columns = (webhooks.c.account_id, webhooks.c.format, webhooks.c.active, accounts.c.cancelled_at.is_not(None))
    query = sa.select(*columns).join(accounts, accounts.c.id == webhooks.c.account_id)
    return Target(*_one(connection, query, webhook_id))


def read_deliveries(
    connection: sa.Connection, webhook_id: int, *, states: Sequence[str] = (), limit: int = 50, offset: int = 0
) -> list[dict[str, Any]]:
    """The newest deliveries of the webhook first, of these states, each with what came of its last attempt."""
    attempts = webhook_attempts.c
    last = (
        sa.select(attempts.code, attempts.status, attempts.duration_ms, sa.func.host(attempts.address).label("address"))
        .where(attempts.delivery_id == webhook_deliveries.c.id)
        .order_by(attempts.id.desc())
        .limit(1)
        .lateral("last")
    )
    query = (
        sa.select(*(webhook_deliveries.c[name] for name in _DELIVERED), *last.c)
        .select_from(webhook_deliveries.outerjoin(last, sa.true()))
        .where(webhook_deliveries.c.webhook_id == webhook_id)
        .order_by(webhook_deliveries.c.id.desc())
        .limit(limit)
        .offset(offset)
    )
    if states:
        query = query.where(webhook_deliveries.c.state.in_(states))
    return [dict(row) for row in connection.execute(query).mappings()]


def read_attempts(connection: sa.Connection, delivery_id: int) -> list[dict[str, Any]]:
    """Every attempt of the delivery, the first one first; `response` is the beginning of the answer's body, as it came.

    Raises:
        NotFound: there is no such delivery.
    """
    if delivery_id not in read_delivery_states(connection, [delivery_id]):
        raise NotFound(f"There is no delivery {delivery_id}")
    columns = [
        sa.func.host(column).label(column.name) if column.name == "address" else column
        for column in webhook_attempts.c
        if column.name not in {"id", "delivery_id", "account_id"}
    ]
    query = sa.select(*columns).where(webhook_attempts.c.delivery_id == delivery_id).order_by(webhook_attempts.c.id)
    return [dict(row) for row in connection.execute(query).mappings()]


def read_delivery_states(connection: sa.Connection, ids: Sequence[int]) -> dict[int, str]:
    """The states of those of these deliveries that are there."""
    deliveries = webhook_deliveries.c
    query = sa.select(deliveries.id, deliveries.state).where(deliveries.id.in_([*filter(_is_id, ids)]))
    return {row.id: row.state for row in connection.execute(query)}


def hold(connection: sa.Connection, delivery_id: int) -> None:
    """Have the delivery begun by nobody for a minute but by who names it."""
    at = sa.func.clock_timestamp() + sa.literal(_HELD, sa.Interval)
    query = sa.update(webhook_deliveries).where(webhook_deliveries.c.id == delivery_id)
    connection.execute(query.values(next_attempt_at=at))


def give_up(connection: sa.Connection, delivery_id: int) -> None:
    """Have the delivery not be tried again, if it waits."""
    deliveries = webhook_deliveries.c
    query = sa.update(webhook_deliveries).where(deliveries.id == delivery_id, deliveries.state == "pending")
    connection.execute(query.values(state="errored"))


def _changed(
    connection: sa.Connection, webhook_id: int, only: sa.ColumnElement[bool], values: Mapping[str, Any]
) -> bool:
    """Whether the webhook was one of only these, and now has these values."""
    _one(connection, sa.select(webhooks.c.id), webhook_id)
    query = sa.update(webhooks).where(webhooks.c.id == webhook_id, only).values(values).returning(webhooks.c.id)
    return connection.execute(query).scalar() is not None


def _one(connection: sa.Connection, query: sa.Select[*tuple[Any, ...]], webhook_id: int) -> sa.Row[*tuple[Any, ...]]:
    """The query's only row, about this webhook."""
    row = connection.execute(query.where(webhooks.c.id == webhook_id)).first() if _is_id(webhook_id) else None
    if row is None:
        raise NotFound(f"There is no webhook {webhook_id}")
    return row


def _is_id(number: int) -> bool:
    """Whether Postgres could have given it."""
    return 0 < number <= _HIGHEST_ID
