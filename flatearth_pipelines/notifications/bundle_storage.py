"""Bundles as an operator sees them."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from flatearth_pipelines.errors import NotFound
from flatearth_pipelines.tables import notification_bundles, users

STATES = ("pending", "processing", "delivered", "failed")

_LISTED = ("id", "user_id", "status", "outcome", "starts_at", "ends_at", "attempts", "next_attempt_at", "items")


def read_list(
    connection: sa.Connection,
    *,
    states: Sequence[str] = (),
    user_id: int | None = None,
    account_id: int | None = None,
    limit: int = 50,
    offset: int = 0,
) -> list[dict[str, Any]]:
    """The newest bundles first: of these states, this person, this account."""
    bundles = notification_bundles.c
    query = (
        sa.select(*(bundles[name] for name in _LISTED), users.c.email, bundles.last_error)
        .join(users, users.c.id == bundles.user_id)
        .order_by(bundles.id.desc())
        .limit(limit)
        .offset(offset)
    )
    if states:
        query = query.where(bundles.status.in_(states))
    if user_id is not None:
        query = query.where(bundles.user_id == user_id)
    if account_id is not None:
        query = query.where(bundles.account_id == account_id)
    return [dict(row) for row in connection.execute(query).mappings()]


def read_one(connection: sa.Connection, bundle_id: int) -> dict[str, Any]:
    """Every column of the bundle.

    Raises:
        NotFound: there is no such bundle.
    """
    query = sa.select(notification_bundles).where(notification_bundles.c.id == bundle_id)
    row = connection.execute(query).mappings().first()
    if row is None:
        raise NotFound(f"There is no bundle {bundle_id}")
    return dict(row)


def read_failed_ids(connection: sa.Connection, limit: int) -> list[int]:
    """The bundles that failed, the oldest first."""
    query = sa.select(notification_bundles.c.id).where(notification_bundles.c.status == "failed")
    return list(connection.execute(query.order_by(notification_bundles.c.id).limit(limit)).scalars())


def read_unsettled(connection: sa.Connection, ids: Sequence[int]) -> list[tuple[int, str, str | None]]:
    """Those of these bundles that are not delivered: id, state and what was said last."""
    bundles = notification_bundles.c
    query = sa.select(bundles.id, bundles.status, bundles.last_error).where(bundles.status != "delivered")
    return [(row.id, row.status, row.last_error) for row in connection.execute(query.where(bundles.id.in_(ids)))]


def unsubscribe(connection: sa.Connection, user_id: int) -> str:
    """Have the person get no email notifications any more, active or not; return their name.

    Raises:
        NotFound: there is no such person.
    """
    person = connection.execute(sa.select(users.c.account_id, users.c.name).where(users.c.id == user_id)).first()
    if person is None:
        raise NotFound(f"There is no user {user_id}")
    account_id, name = person
    connection.execute(
        sa.text(
            "INSERT INTO flatearth.notification_settings (user_id, account_id, email_frequency)"
            " VALUES (:user_id, :account_id, 'never')"
            " ON CONFLICT (user_id) DO UPDATE SET email_frequency = excluded.email_frequency"
        ),
        {"user_id": user_id, "account_id": account_id},
    )
    return str(name)
