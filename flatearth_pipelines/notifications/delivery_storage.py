"""What a delivery says to Postgres of bundles: claims them, records what became of them, frees what a dead one held.

A claim is fenced by its token: a delivery that was too slow changes nothing any more. The token's advisory lock belongs
to the session of its delivery, so that the bundles of one that died are known at once, and not only when their lease
is over.
"""

import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from flatearth_pipelines.notifications.settlement import MOST_ATTEMPTS, WAITS, Settlement

LEASE = timedelta(minutes=10)
"""How long a claim lasts: longer than its mails may take to begin, and the last of them to end."""

_AT_ONCE = 5_000

_INSTANT = sa.bindparam("as_of", type_=sa.DateTime(timezone=True))
_CLAIM_ID = sa.bindparam("claim", type_=sa.Uuid)
_LEASE = sa.bindparam("lease", LEASE, type_=sa.Interval)
_IDS = sa.bindparam("ids", type_=ARRAY(sa.BigInteger))

_CLAIM_DUE = sa.text("""
WITH due AS MATERIALIZED (
    SELECT id FROM flatearth.notification_bundles
    WHERE status = 'pending' AND due_at <= (SELECT coalesce(:as_of, clock_timestamp()))
    ORDER BY due_at, id
    LIMIT :most
    FOR UPDATE SKIP LOCKED
)
UPDATE flatearth.notification_bundles AS b
SET status = 'processing', attempts = b.attempts + 1, claim = :claim, claimed_until = clock_timestamp() + :lease,
    ends_at = least(b.ends_at, greatest(clock_timestamp(), b.starts_at + interval '1 microsecond'))
FROM due
WHERE b.id = due.id
RETURNING b.id
""").bindparams(_INSTANT, _CLAIM_ID, _LEASE)
# The clock in a sub-select is read once, and only so it can be looked up in the index. A window that is claimed before
# its end, as of a later instant, is over: what is created from now on belongs to the next one.

_READ_DUE = sa.text("""
SELECT id, due_at FROM flatearth.notification_bundles
WHERE status = 'pending' AND due_at <= (SELECT coalesce(:as_of, clock_timestamp()))
AND (:after_id IS NULL OR (due_at, id) > (:after_at, :after_id))
ORDER BY due_at, id
LIMIT :most
""").bindparams(
    _INSTANT,
    sa.bindparam("after_at", type_=sa.DateTime(timezone=True)),
    sa.bindparam("after_id", type_=sa.BigInteger),
)

_CLAIM_THESE = sa.text("""
WITH meant AS MATERIALIZED (
    SELECT id FROM flatearth.notification_bundles
    WHERE id = ANY(:ids) AND status = 'pending' AND (:early OR due_at <= clock_timestamp())
    ORDER BY id
    FOR UPDATE SKIP LOCKED
)
UPDATE flatearth.notification_bundles AS b
SET status = 'processing', attempts = b.attempts + 1, claim = :claim, claimed_until = clock_timestamp() + :lease,
    ends_at = least(b.ends_at, greatest(clock_timestamp(), b.starts_at + interval '1 microsecond'))
FROM meant
WHERE b.id = meant.id
RETURNING b.id
""").bindparams(_IDS, _CLAIM_ID, _LEASE)

_REOPEN = sa.text("""
UPDATE flatearth.notification_bundles
SET status = 'pending', attempts = 0, next_attempt_at = NULL, outcome = NULL
WHERE id = ANY(:ids) AND status = 'failed'
""").bindparams(_IDS)

_RESCUE = sa.text("""
WITH lost AS MATERIALIZED (
    SELECT id FROM flatearth.notification_bundles
    WHERE status = 'processing' AND claim <> :claim
    AND (claimed_until <= clock_timestamp() OR pg_try_advisory_xact_lock(hashtextextended(CAST(claim AS text), 0)))
    ORDER BY claimed_until, id
    LIMIT :most
    FOR UPDATE SKIP LOCKED
)
UPDATE flatearth.notification_bundles AS b
SET status = CASE WHEN b.attempts < :attempts THEN 'pending' ELSE 'failed' END,
    outcome = CASE WHEN b.attempts < :attempts THEN NULL ELSE 'exhausted' END,
    last_error = 'the delivery that was sending it ended without a word', claim = NULL, claimed_until = NULL
FROM lost
WHERE b.id = lost.id
RETURNING b.id
""").bindparams(_CLAIM_ID)

_SETTLE = sa.text("""
WITH mine AS MATERIALIZED (
    SELECT id FROM flatearth.notification_bundles
    WHERE id = ANY(:ids) AND status = 'processing' AND claim = :claim
    FOR UPDATE SKIP LOCKED
)
UPDATE flatearth.notification_bundles AS b
SET status = s.status, outcome = s.outcome, items = s.items, claim = NULL, claimed_until = NULL,
    message_id = coalesce(s.message_id, b.message_id),
    last_error = CASE WHEN s.status <> 'delivered' THEN coalesce(s.error, b.last_error) END,
    attempts = b.attempts - CAST(s.handed_back AS integer),
    delivered_at = CASE WHEN s.status = 'delivered' THEN clock_timestamp() END,
    next_attempt_at = CASE
        WHEN s.wait IS NOT NULL THEN greatest(:as_of, clock_timestamp()) + s.wait ELSE b.next_attempt_at
    END
FROM mine
JOIN unnest(:ids, :statuses, :outcomes, :errors, :message_ids, :items, :waits, :handed_back)
    AS s (id, status, outcome, error, message_id, items, wait, handed_back) ON s.id = mine.id
WHERE b.id = mine.id
RETURNING b.id
""").bindparams(
    _INSTANT,
    _CLAIM_ID,
    _IDS,
    sa.bindparam("statuses", type_=ARRAY(sa.Text)),
    sa.bindparam("outcomes", type_=ARRAY(sa.Text)),
    sa.bindparam("errors", type_=ARRAY(sa.Text)),
    sa.bindparam("message_ids", type_=ARRAY(sa.Text)),
    sa.bindparam("items", type_=ARRAY(sa.Integer)),
    sa.bindparam("waits", type_=ARRAY(sa.Interval)),
    sa.bindparam("handed_back", type_=ARRAY(sa.Boolean)),
)
# Skips what is locked: who creates notifications holds the windows of several people, in any order, and two who wait
# for each other are a deadlock.

_STILL_CLAIMED = sa.text("""
SELECT id FROM flatearth.notification_bundles WHERE id = ANY(:ids) AND status = 'processing' AND claim = :claim
""").bindparams(_IDS, _CLAIM_ID)

_HAND_BACK = sa.text("""
WITH mine AS MATERIALIZED (
    SELECT id FROM flatearth.notification_bundles
    WHERE status = 'processing' AND claim = :claim AND id <> ALL(:ids)
    FOR UPDATE SKIP LOCKED
)
UPDATE flatearth.notification_bundles AS b
SET status = 'pending', attempts = b.attempts - 1, claim = NULL, claimed_until = NULL
FROM mine
WHERE b.id = mine.id
""").bindparams(_CLAIM_ID, _IDS)

_PUT_OFF = sa.text("""
WITH due AS MATERIALIZED (
    SELECT id FROM flatearth.notification_bundles
    WHERE status = 'pending' AND due_at <= (SELECT coalesce(:as_of, clock_timestamp()))
    ORDER BY due_at, id
    LIMIT :most
    FOR UPDATE SKIP LOCKED
)
UPDATE flatearth.notification_bundles AS b
SET attempts = b.attempts + 1, last_error = :error,
    status = CASE WHEN b.attempts + 1 < :attempts THEN 'pending' ELSE 'failed' END,
    outcome = CASE WHEN b.attempts + 1 < :attempts THEN NULL ELSE 'exhausted' END,
    next_attempt_at = CASE
        WHEN b.attempts + 1 < :attempts THEN greatest(:as_of, clock_timestamp()) + (:waits)[b.attempts + 1]
    END
FROM due
WHERE b.id = due.id
RETURNING b.status
""").bindparams(_INSTANT, sa.bindparam("waits", type_=ARRAY(sa.Interval)))


def claim_due(connection: sa.Connection, claim: uuid.UUID, as_of: datetime | None, most: int) -> list[int]:
    """The bundles that are due, claimed, the longest due first; as of now by the database's clock when None."""
    ids = connection.execute(_CLAIM_DUE, {"as_of": as_of, "claim": claim, "most": most}).scalars()
    return list(ids)


def read_due(
    connection: sa.Connection, as_of: datetime | None, after: tuple[int, datetime] | None, most: int
) -> list[tuple[int, datetime]]:
    """The id and `due_at` of bundles that are due, in their order, from behind the one that is named."""
    after_id, after_at = after or (None, None)
    values = {"as_of": as_of, "after_id": after_id, "after_at": after_at, "most": most}
    return [(row.id, row.due_at) for row in connection.execute(_READ_DUE, values)]


def claim_these(connection: sa.Connection, claim: uuid.UUID, ids: Sequence[int], *, early: bool) -> list[int]:
    """Those of these bundles that are pending and due, claimed; with `early` the others too, whose window ends now."""
    return list(connection.execute(_CLAIM_THESE, {"ids": ids, "claim": claim, "early": early}).scalars())


def reopen(connection: sa.Connection, ids: Sequence[int]) -> int:
    """Have those of these bundles that failed wait again, their attempts counted anew; return how many."""
    return connection.execute(_REOPEN, {"ids": ids}).rowcount


def rescue(connection: sa.Connection, claim: uuid.UUID) -> int:
    """Free the bundles of deliveries that died, or were too slow; return how many. The claim is the caller's own."""
    values = {"claim": claim, "most": _AT_ONCE, "attempts": MOST_ATTEMPTS}
    return len(connection.execute(_RESCUE, values).all())


def settle(
    connection: sa.Connection, claim: uuid.UUID, settlements: Sequence[Settlement], as_of: datetime | None = None
) -> set[int]:
    """Record what became of bundles, and return which: not those that are somebody else's by now, gone, or locked.

    A wait begins now, or at `as_of` where that is later.
    """
    values = {
        "ids": [each.bundle_id for each in settlements],
        "statuses": [each.status for each in settlements],
        "outcomes": [each.outcome for each in settlements],
        "errors": [each.error for each in settlements],
        "message_ids": [each.message_id for each in settlements],
        "items": [each.items for each in settlements],
        "waits": [each.wait for each in settlements],
        "handed_back": [each.handed_back for each in settlements],
    }
    return set(connection.execute(_SETTLE, {"as_of": as_of, "claim": claim, **values}).scalars())


def hand_back_all_but(connection: sa.Connection, claim: uuid.UUID, ids: Sequence[int]) -> int:
    """Have what the claim holds wait again as if it had not been claimed, but for these; return how many that are."""
    return connection.execute(_HAND_BACK, {"claim": claim, "ids": ids}).rowcount


def still_claimed(connection: sa.Connection, claim: uuid.UUID, ids: Sequence[int]) -> set[int]:
    """Those of these bundles that are the claim's."""
    return set(connection.execute(_STILL_CLAIMED, {"ids": ids, "claim": claim}).scalars())


def put_off_due(connection: sa.Connection, error: str, as_of: datetime | None, most: int = _AT_ONCE) -> tuple[int, int]:
    """Count an attempt of everything that is due, because the server cannot be reached; at most `most` bundles.

    Returns how many wait for their next attempt, and how many had no attempt left.
    """
    values = {"error": error, "as_of": as_of, "most": most, "attempts": MOST_ATTEMPTS, "waits": list(WAITS)}
    statuses = list(connection.execute(_PUT_OFF, values).scalars())
    return statuses.count("pending"), statuses.count("failed")
