"""New events in Postgres: taken, and written as deliveries, one for each endpoint that wants to hear of them."""

from typing import NamedTuple

import sqlalchemy as sa

_DISPATCH = sa.text("""
WITH taken AS MATERIALIZED (
    SELECT event_id FROM flatearth.undispatched_events
    ORDER BY event_id
    LIMIT :most
    FOR UPDATE SKIP LOCKED
),
done AS (
    DELETE FROM flatearth.undispatched_events AS u USING taken WHERE u.event_id = taken.event_id
),
written AS (
    INSERT INTO flatearth.webhook_deliveries (account_id, webhook_id, event_id, type)
    SELECT w.account_id, w.id, e.id, e.action
    FROM taken
    JOIN flatearth.events AS e ON e.id = taken.event_id
    JOIN flatearth.accounts AS a ON a.id = e.account_id AND a.cancelled_at IS NULL
    JOIN flatearth.webhooks AS w ON w.account_id = e.account_id
    WHERE w.active AND (w.board_id IS NULL OR w.board_id = e.board_id) AND e.action = ANY(w.actions)
    ON CONFLICT ON CONSTRAINT one_delivery_per_event_and_endpoint DO NOTHING
    RETURNING type
),
counted AS (
    SELECT type, count(*) AS many FROM written GROUP BY type
)
SELECT
    (SELECT count(*) FROM taken) AS events,
    (SELECT coalesce(jsonb_object_agg(type, many), '{}') FROM counted) AS by_action
""")

_REHEARSE = sa.text("""
SELECT e.action, count(DISTINCT e.id) AS events, count(w.id) AS deliveries
FROM flatearth.undispatched_events AS u
JOIN flatearth.events AS e ON e.id = u.event_id
LEFT JOIN flatearth.accounts AS a ON a.id = e.account_id AND a.cancelled_at IS NULL
LEFT JOIN flatearth.webhooks AS w ON w.account_id = a.id AND w.active
    AND (w.board_id IS NULL OR w.board_id = e.board_id) AND e.action = ANY(w.actions)
GROUP BY e.action
""")

_ANYTHING_NEW = sa.text("SELECT event_id FROM flatearth.undispatched_events ORDER BY event_id LIMIT 1")
# By the index, which remembers what is deleted: a sequential scan, as for EXISTS, would visit all that was there today.

_WAITING = sa.text("SELECT count(*) FROM flatearth.undispatched_events")


class Dispatched(NamedTuple):
    """What one transaction did."""

    events: int
    by_action: dict[str, int]
    """Deliveries, by the action of their event."""


def dispatch(connection: sa.Connection, most: int) -> Dispatched:
    """Turn up to so many new events into deliveries, in the connection's transaction; what others hold is left to them.

    One delivery for each active endpoint of the event's board, or of its whole account, that wants its action and is
    as old as the event, or older; none for an account that is cancelled. The events are not new any more when the
    transaction commits.
    """
    row = connection.execute(_DISPATCH, {"most": most}).one()
    return Dispatched(row.events, row.by_action)


def rehearse(connection: sa.Connection) -> Dispatched:
    """What `dispatch` would do about everything that is new."""
    rows = connection.execute(_REHEARSE).all()
    return Dispatched(sum(row.events for row in rows), {row.action: row.deliveries for row in rows if row.deliveries})


def is_anything_new(connection: sa.Connection) -> bool:
    """Whether there are events that were not dispatched."""
    return connection.execute(_ANYTHING_NEW).scalar() is not None


def read_waiting(connection: sa.Connection) -> int:
    """How many events were not dispatched."""
    return int(connection.execute(_WAITING).scalar_one())
