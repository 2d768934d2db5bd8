"""Bundles as they are mailed: whose they are, and the notifications in them, as both are at this moment."""

import uuid
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from flatearth_pipelines.driver import driver_connection
from flatearth_pipelines.notifications.digest import EXCERPT_LENGTH, MOST_ITEMS, Bundle, Item

_IDS = sa.bindparam("ids", type_=ARRAY(sa.BigInteger))

_BUNDLES = sa.text("""
SELECT
    b.id, b.account_id, b.user_id, b.attempts, b.status,
    u.email, u.time_zone, u.active AND u.role <> 'system' AS active,
    a.name AS account, a.cancelled_at IS NOT NULL AS cancelled,
    coalesce(s.email_frequency, 'every_30_minutes') AS frequency,
    EXISTS (SELECT FROM flatearth.email_suppressions AS e WHERE e.address = lower(u.email)) AS suppressed,
    EXISTS (
        SELECT FROM flatearth.users AS other
        JOIN flatearth.accounts AS theirs ON theirs.id = other.account_id
        WHERE lower(other.email) = lower(u.email) AND other.account_id <> u.account_id
        AND other.active AND theirs.cancelled_at IS NULL
    ) AS in_several_accounts,
    clock_timestamp() AS read_at
FROM flatearth.notification_bundles AS b
JOIN flatearth.users AS u ON u.id = b.user_id
JOIN flatearth.accounts AS a ON a.id = b.account_id
LEFT JOIN flatearth.notification_settings AS s ON s.user_id = b.user_id
WHERE b.id = ANY(:ids) AND (:claim IS NULL OR b.claim = :claim)
ORDER BY b.due_at, b.id
""").bindparams(_IDS, sa.bindparam("claim", type_=sa.Uuid))

_ITEMS = """
SELECT i.*
FROM flatearth.notification_bundles AS b
CROSS JOIN LATERAL (
    SELECT
        b.id AS bundle_id,
        count(*) OVER () AS total,
        CASE WHEN n.source_type = 'mention' THEN 'mention' ELSE e.action END AS action,
        coalesce(
            e.action = 'card_assigned' AND e.particulars -> 'assignee_ids' @> to_jsonb(b.user_id), false
        ) AS for_you,
        actor.name AS actor,
        board.id AS board_id,
        board.name AS board,
        c.id AS card_id,
        c.number,
        left(c.title, %(length)s) AS title,
        left(comment.body, %(length)s) AS body,
        n.created_at
    FROM flatearth.notifications AS n
    LEFT JOIN flatearth.events AS e ON n.source_type = 'event' AND e.id = n.source_id
    LEFT JOIN flatearth.mentions AS m ON n.source_type = 'mention' AND m.id = n.source_id
    LEFT JOIN flatearth.comments AS comment
        ON coalesce(e.eventable_type, m.source_type) = 'comment' AND comment.id = coalesce(e.eventable_id, m.source_id)
    JOIN flatearth.cards AS c
        ON c.account_id = b.account_id
        AND c.id = CASE coalesce(e.eventable_type, m.source_type)
            WHEN 'card' THEN coalesce(e.eventable_id, m.source_id) ELSE comment.card_id
        END
    JOIN flatearth.boards AS board ON board.id = c.board_id
    LEFT JOIN flatearth.users AS actor ON actor.id = coalesce(n.creator_id, e.creator_id, m.mentioner_id)
    WHERE n.user_id = b.user_id AND n.created_at >= b.starts_at AND n.created_at < b.ends_at AND n.read_at IS NULL
    AND (
        board.all_access
        OR EXISTS (SELECT FROM flatearth.accesses AS x WHERE x.board_id = board.id AND x.user_id = b.user_id)
    )
    ORDER BY (n.source_type = 'mention') DESC, n.created_at DESC, n.id DESC
    LIMIT %(most)s
) AS i
WHERE b.id = ANY(%(ids)s)
"""
# The window is that of the bundle's row at this moment, not what a claim read: one that was claimed before its end may
# have been ended since. Access is checked again: what was revoked since is not mailed.


def read_bundles(connection: sa.Connection, ids: Sequence[int], claim: uuid.UUID | None = None) -> list[Bundle]:
    """Those of these bundles that are there, and of this claim if one is given; the longest due first."""
    rows = connection.execute(_BUNDLES, {"ids": ids, "claim": claim}).mappings().all()
    items: dict[int, list[Item]] = {row["id"]: [] for row in rows}
    limits = {"most": MOST_ITEMS, "length": EXCERPT_LENGTH}
    with driver_connection(connection).cursor() as cursor:  # three times as fast as rows of SQLAlchemy
        for bundle_id, *item in cursor.execute(_ITEMS, {"ids": list(items), **limits}):
            items[bundle_id].append(Item(*item))
    return [Bundle(**row, items=items[row["id"]]) for row in rows]
