"""What a run may send: claims of deliveries that are due, and of what a dead run held.

A claim is fenced by its token: a run that was too slow changes nothing any more. The token's advisory lock belongs to
the session of its run, so that what a run that died held is known at once, and not only when its lease is over.
"""

import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from flatearth_pipelines.webhooks.settlement import MOST_ATTEMPTS

LEASE = timedelta(minutes=3)
"""How long a claim lasts: longer than a request may wait to begin, and then take."""

_AT_ONCE = 5_000

_INSTANT = sa.bindparam("as_of", type_=sa.DateTime(timezone=True))
_CLAIM_ID = sa.bindparam("claim", type_=sa.Uuid)
_LEASE = sa.bindparam("lease", LEASE, type_=sa.Interval)
_IDS = sa.bindparam("ids", type_=ARRAY(sa.BigInteger))

_PREFER_PROBES = sa.text("""
SELECT set_config(name, 'off', true), pg_advisory_xact_lock(hashtextextended('flatearth.claim_deliveries', 0))
FROM unnest(ARRAY['enable_seqscan', 'enable_hashjoin', 'enable_mergejoin', 'jit']) AS s (name)
""")
# One claim after the other: two at once would each count what an endpoint has at work without the other's.

_CLAIM_DUE = sa.text("""
WITH RECURSIVE endpoints (webhook_id) AS (
    (
        SELECT webhook_id FROM flatearth.webhook_deliveries
        WHERE state = 'pending' AND webhook_id > :after
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
),
due AS MATERIALIZED (
    SELECT d.id
    FROM endpoints AS e
    CROSS JOIN LATERAL (
        SELECT w.id, CASE WHEN w.open_until IS NULL THEN :per_endpoint ELSE 1 END AS most
        FROM flatearth.webhooks AS w
        JOIN flatearth.accounts AS a ON a.id = w.account_id AND a.cancelled_at IS NULL
        WHERE w.id = e.webhook_id AND w.active
        AND coalesce(w.open_until <= (SELECT coalesce(:as_of, clock_timestamp())), true)
        OFFSET 0
    ) AS w
    CROSS JOIN LATERAL (
        SELECT count(*) AS busy FROM flatearth.webhook_deliveries AS b
        WHERE b.webhook_id = w.id AND b.state = 'in_progress'
    ) AS b
    CROSS JOIN LATERAL (
        SELECT p.id FROM flatearth.webhook_deliveries AS p
        WHERE p.webhook_id = w.id AND p.state = 'pending'
        AND p.next_attempt_at <= (SELECT coalesce(:as_of, clock_timestamp()))
        ORDER BY p.next_attempt_at, p.id
        LIMIT greatest(w.most - b.busy, 0)
        FOR UPDATE SKIP LOCKED
    ) AS d
    LIMIT :most
)
UPDATE flatearth.webhook_deliveries AS d
SET state = 'in_progress', attempts = d.attempts + 1, claim = :claim, claimed_until = clock_timestamp() + :lease
FROM due
WHERE d.id = due.id
RETURNING d.id, d.webhook_id, d.event_id, d.type, d.attempts, d.body
""").bindparams(_INSTANT, _CLAIM_ID, _LEASE)
# Endpoint by endpoint, by one look into the index each, and no further than there is room: what it costs does not grow
# with what waits. Ordered as the index of what is pending, so that it is no other one, which has all that was ever
# sent; OFFSET 0 keeps the planner from beginning with all accounts. An endpoint that is open gets nothing, and one that
# was open for long enough gets one probe. The clock in a sub-select is read once, and only so it can be looked up.

_CLAIM_THESE = sa.text("""
WITH meant AS MATERIALIZED (
    SELECT d.id FROM flatearth.webhook_deliveries AS d
    JOIN flatearth.webhooks AS w ON w.id = d.webhook_id AND w.active
    JOIN flatearth.accounts AS a ON a.id = w.account_id AND a.cancelled_at IS NULL
    WHERE d.id = ANY(:ids) AND d.state = 'pending'
    ORDER BY d.id
    FOR UPDATE OF d SKIP LOCKED
)
UPDATE flatearth.webhook_deliveries AS d
SET state = 'in_progress', attempts = d.attempts + 1, claim = :claim, claimed_until = clock_timestamp() + :lease
FROM meant
WHERE d.id = meant.id
RETURNING d.id, d.webhook_id, d.event_id, d.type, d.attempts, d.body
""").bindparams(_IDS, _CLAIM_ID, _LEASE)

_RESCUE = sa.text("""
WITH lost AS MATERIALIZED (
    SELECT id FROM flatearth.webhook_deliveries
    WHERE state = 'in_progress' AND claim <> :claim
    AND (claimed_until <= clock_timestamp() OR pg_try_advisory_xact_lock(hashtextextended(CAST(claim AS text), 0)))
    ORDER BY id
    LIMIT :most
    FOR UPDATE SKIP LOCKED
)
UPDATE flatearth.webhook_deliveries AS d
SET state = CASE WHEN d.attempts < :attempts THEN 'pending' ELSE 'errored' END, claim = NULL, claimed_until = NULL
FROM lost
WHERE d.id = lost.id
RETURNING d.id
""").bindparams(_CLAIM_ID)

_HAND_BACK = sa.text("""
UPDATE flatearth.webhook_deliveries AS d
SET state = 'pending', attempts = d.attempts - 1, claim = NULL, claimed_until = NULL
WHERE state = 'in_progress' AND claim = :claim
""").bindparams(_CLAIM_ID)


class Claimed(NamedTuple):
    """A delivery that is the claim's."""

    id: int
    webhook_id: int
    event_id: int | None
    type: str | None
    attempts: int
    """With the one that it was claimed for."""
    body: bytes | None
    """Of what an application sends by itself; of an event's the payloads have it."""


def claim_due(
    connection: sa.Connection, claim: uuid.UUID, as_of: datetime | None, *, after: int, most: int, per_endpoint: int
) -> list[Claimed]:
    """Up to so many deliveries that are due, claimed, of the endpoints with an id beyond `after`.

    Of each endpoint at most so many are at work at once, whoever has claimed them; one whose breaker was open gets one,
    and nothing before its wait is over. As of now by the database's clock when `as_of` is None.
    """
    values = {"claim": claim, "as_of": as_of, "after": after, "most": most, "per_endpoint": per_endpoint}
    connection.execute(_PREFER_PROBES)
    return [Claimed(*row) for row in connection.execute(_CLAIM_DUE, values)]


def claim_these(connection: sa.Connection, claim: uuid.UUID, ids: Sequence[int]) -> list[Claimed]:
    """Those of these deliveries that are pending, claimed, whenever they are due.

    None of a disabled endpoint or a cancelled account.
    """
    return [Claimed(*row) for row in connection.execute(_CLAIM_THESE, {"claim": claim, "ids": ids})]


def rescue(connection: sa.Connection, claim: uuid.UUID) -> int:
    """Free what runs that died, or were too slow, had claimed; return how many. The claim is the caller's own."""
    values = {"claim": claim, "most": _AT_ONCE, "attempts": MOST_ATTEMPTS}
    return len(connection.execute(_RESCUE, values).all())


def hand_back(connection: sa.Connection, claim: uuid.UUID) -> int:
    """Have what the claim holds wait again as if it had not been claimed; return how many that are."""
    return connection.execute(_HAND_BACK, {"claim": claim}).rowcount
