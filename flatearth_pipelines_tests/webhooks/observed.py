"""What stands in the tables of webhooks."""

from datetime import datetime
from typing import Any

import sqlalchemy as sa

from flatearth_pipelines import tables

Row = dict[str, Any]


def webhook(connection: sa.Connection, webhook_id: int) -> Row:
    query = sa.select(tables.webhooks).where(tables.webhooks.c.id == webhook_id)
    return dict(connection.execute(query).mappings().one())


def breaker(connection: sa.Connection, webhook_id: int) -> tuple[int, datetime | None, int, datetime | None]:
    """The failures in a row and when the first of them was; how often it has opened, and until when it is."""
    row = webhook(connection, webhook_id)
    return row["consecutive_failures"], row["first_failure_at"], row["trips"], row["open_until"]


def deliveries(connection: sa.Connection, webhook_id: int | None = None) -> list[Row]:
    """Of the webhook, or of all, in order of id."""
    query = sa.select(tables.webhook_deliveries).order_by(tables.webhook_deliveries.c.id)
    if webhook_id is not None:
        query = query.where(tables.webhook_deliveries.c.webhook_id == webhook_id)
    return [dict(row) for row in connection.execute(query).mappings()]


def delivery(connection: sa.Connection, delivery_id: int) -> Row:
    query = sa.select(tables.webhook_deliveries).where(tables.webhook_deliveries.c.id == delivery_id)
    return dict(connection.execute(query).mappings().one())


def states(connection: sa.Connection) -> dict[int, str]:
    """Of every delivery."""
    return {row["id"]: row["state"] for row in deliveries(connection)}


def dispatched(connection: sa.Connection) -> list[tuple[int, int]]:
    """Pairs of event and webhook, sorted: each as often as it has a delivery."""
    return sorted((row["event_id"], row["webhook_id"]) for row in deliveries(connection))


def attempts(connection: sa.Connection, delivery_id: int | None = None) -> list[Row]:
    """The log, of the delivery or of all, in order."""
    query = sa.select(tables.webhook_attempts).order_by(tables.webhook_attempts.c.id)
    if delivery_id is not None:
        query = query.where(tables.webhook_attempts.c.delivery_id == delivery_id)
    return [dict(row) for row in connection.execute(query).mappings()]


def payloads(connection: sa.Connection) -> dict[tuple[int, str], bytes]:
    """The bytes by event and format."""
    stored = tables.webhook_payloads.c
    query = sa.select(stored.event_id, stored.format, stored.body)
    return {(event_id, format_): body for event_id, format_, body in connection.execute(query)}


def undispatched(connection: sa.Connection) -> list[int]:
    """The events that are new, in order."""
    return sorted(connection.execute(sa.select(tables.undispatched_events.c.event_id)).scalars())


def mails(connection: sa.Connection) -> list[Row]:
    """What the queue was told to mail, in the order of the addresses."""
    query = sa.select(tables.jobs.c.payload).where(tables.jobs.c.handler == "send_email")
    return sorted(connection.execute(query).scalars(), key=lambda said: str(said["to"]))


def now(connection: sa.Connection) -> datetime:
    """By the database's clock, at this moment."""
    instant: datetime = connection.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
    return instant
