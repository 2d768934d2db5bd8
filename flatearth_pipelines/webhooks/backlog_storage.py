"""Whether a delivery is due, and how many wait: what sensors ask."""

from datetime import datetime

import sqlalchemy as sa

_SECONDS_TO_NEXT = sa.text("""
WITH RECURSIVE endpoints (webhook_id) AS (
    (
        SELECT webhook_id FROM flatearth.webhook_deliveries
        WHERE state = 'pending'
        ORDER BY webhook_id, next_attempt_at, id
        LIMIT 1
    )
    UNION ALL
    SELECT (
        SELECT d.webhook_id FROM flatearth.webhook_deliveries AS d
        WHERE d.state = 'pending' AND d.webhook_id > e.webhook_id
        ORDER BY d.webhook_id, d.next_attempt_at, d.id
        LIMIT 1
    )
    FROM endpoints AS e
    WHERE e.webhook_id IS NOT NULL
)
SELECT CAST(extract(epoch FROM min(next.at) - clock_timestamp()) AS float8)
FROM (
    SELECT greatest(d.next_attempt_at, w.open_until) AS at
    FROM endpoints AS e
    CROSS JOIN LATERAL (
        SELECT w.id, w.open_until
        FROM flatearth.webhooks AS w
        JOIN flatearth.accounts AS a ON a.id = w.account_id AND a.cancelled_at IS NULL
        WHERE w.id = e.webhook_id AND w.active
        OFFSET 0
    ) AS w
    CROSS JOIN LATERAL (
        SELECT p.next_attempt_at FROM flatearth.webhook_deliveries AS p
        WHERE p.webhook_id = w.id AND p.state = 'pending'
        ORDER BY p.next_attempt_at, p.id
        LIMIT 1
    ) AS d
    UNION ALL
    SELECT
        CASE
            WHEN pg_try_advisory_xact_lock(hashtextextended(CAST(c.claim AS text), 0)) THEN timestamptz 'epoch'
            ELSE c.claimed_until
        END
    FROM (
        SELECT claim, min(claimed_until) AS claimed_until FROM flatearth.webhook_deliveries
        WHERE state = 'in_progress'
        GROUP BY claim
    ) AS c
) AS next
""")
# Endpoints that have something waiting, by one look into the index each: there are fewer of them than deliveries.

_JUST_HAPPENED = sa.text("""
SELECT coalesce(
    (
        SELECT e.created_at > clock_timestamp() - interval '10 seconds'
        FROM flatearth.undispatched_events AS u
        JOIN flatearth.events AS e ON e.id = u.event_id
        ORDER BY u.event_id DESC
        LIMIT 1
    ),
    false
)
""")

_DUE = sa.text("""
SELECT count(*)
FROM flatearth.webhook_deliveries AS d
JOIN flatearth.webhooks AS w ON w.id = d.webhook_id AND w.active
JOIN flatearth.accounts AS a ON a.id = w.account_id AND a.cancelled_at IS NULL
WHERE d.state = 'pending' AND greatest(d.next_attempt_at, w.open_until) <= coalesce(:as_of, clock_timestamp())
""").bindparams(sa.bindparam("as_of", type_=sa.DateTime(timezone=True)))

_HEALTH = sa.text("""
SELECT
    (
        SELECT count(*) FROM flatearth.webhook_deliveries AS d
        JOIN flatearth.webhooks AS w ON w.id = d.webhook_id AND w.active
        WHERE d.state = 'pending'
    ) AS waiting,
    (SELECT count(*) FROM flatearth.webhook_deliveries WHERE state = 'in_progress') AS in_progress,
    (SELECT count(*) FROM flatearth.webhooks WHERE active AND open_until > clock_timestamp()) AS endpoints_open,
    (SELECT count(*) FROM flatearth.webhooks WHERE NOT active) AS endpoints_disabled
""")
# One state at a time, as each has its index: of both in one query every delivery of the week would be read.


def seconds_to_next(connection: sa.Connection) -> float | None:
    """Until a delivery is due, negative when one has been; None when none waits. What a dead run holds is due."""
    seconds: float | None = connection.execute(_SECONDS_TO_NEXT).scalar_one()
    return seconds


def has_just_happened(connection: sa.Connection) -> bool:
    """Whether the newest event that has to be dispatched is not ten seconds old: its deliveries will be due at once."""
    return bool(connection.execute(_JUST_HAPPENED).scalar_one())


def read_due(connection: sa.Connection, as_of: datetime | None) -> int:
    """How many deliveries a run would try, as of now by the database's clock when None."""
    return int(connection.execute(_DUE, {"as_of": as_of}).scalar_one())


def read_health(connection: sa.Connection) -> dict[str, int]:
    """How many wait and are at work, and how many endpoints are left alone or given up."""
    return dict(connection.execute(_HEALTH).mappings().one())
