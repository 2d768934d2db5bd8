"""Whether anything is new or due, and how much: what sensors ask, without Polars."""

import sqlalchemy as sa

_ANYTHING_NEW = sa.text("""
SELECT
    (SELECT event_id FROM flatearth.unnotified_events ORDER BY event_id LIMIT 1) IS NOT NULL
    OR (SELECT id FROM flatearth.unscanned_sources ORDER BY id LIMIT 1) IS NOT NULL
""")
# By the index, which remembers what is deleted: a sequential scan, as for EXISTS, would visit all that was there today.

_BACKLOG = sa.text("""
SELECT
    (SELECT count(*) FROM flatearth.unnotified_events) AS events_waiting,
    (SELECT count(*) FROM flatearth.unscanned_sources) AS texts_waiting
""")

_SECONDS_TO_NEXT = sa.text("""
SELECT CAST(extract(epoch FROM min(next.at) - clock_timestamp()) AS float8)
FROM (
    (
        SELECT due_at AS at FROM flatearth.notification_bundles
        WHERE status = 'pending'
        ORDER BY due_at, id
        LIMIT 1
    )
    UNION ALL
    SELECT
        CASE
            WHEN pg_try_advisory_xact_lock(hashtextextended(CAST(c.claim AS text), 0)) THEN timestamptz 'epoch'
            ELSE c.claimed_until
        END
    FROM (
        SELECT claim, min(claimed_until) AS claimed_until FROM flatearth.notification_bundles
        WHERE status = 'processing'
        GROUP BY claim
    ) AS c
) AS next
""")

_HEALTH = sa.text("""
SELECT
    count(*) FILTER (WHERE status = 'pending' AND due_at > clock_timestamp()) AS waiting,
    count(*) FILTER (WHERE status = 'pending' AND due_at <= clock_timestamp()) AS due,
    count(*) FILTER (WHERE status = 'processing') AS processing
FROM flatearth.notification_bundles
WHERE status IN ('pending', 'processing')
""")


def is_anything_new(connection: sa.Connection) -> bool:
    """Whether there are events that nobody was told of, or texts that were not looked at."""
    return bool(connection.execute(_ANYTHING_NEW).scalar_one())


def read_backlog(connection: sa.Connection) -> dict[str, int]:
    """How many events and texts wait: `events_waiting`, `texts_waiting`."""
    return dict(connection.execute(_BACKLOG).mappings().one())


def seconds_to_next(connection: sa.Connection) -> float | None:
    """Until a bundle is due, negative when one has been; None when none waits. What a dead delivery holds is due."""
    seconds: float | None = connection.execute(_SECONDS_TO_NEXT).scalar_one()
    return seconds


def read_health(connection: sa.Connection) -> dict[str, int]:
    """How many bundles wait for their end, are due, and are being delivered."""
    return dict(connection.execute(_HEALTH).mappings().one())
