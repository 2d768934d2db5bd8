"""What became of deliveries, recorded with a row of the log each; and deliveries that are sent again, or for once."""

import uuid
from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from flatearth_pipelines.webhooks.outcome import Answer
from flatearth_pipelines.webhooks.settlement import Settlement

_AT_ONCE = 5_000

_IDS = sa.bindparam("ids", type_=ARRAY(sa.BigInteger))

_SETTLE = sa.text("""
WITH mine AS MATERIALIZED (
    SELECT id FROM flatearth.webhook_deliveries
    WHERE id = ANY(:ids) AND state = 'in_progress' AND claim = :claim
    ORDER BY id
    FOR UPDATE
),
settled AS (
    UPDATE flatearth.webhook_deliveries AS d
    SET state = s.state, claim = NULL, claimed_until = NULL,
        attempts = d.attempts - CAST(s.handed_back AS integer),
        last_code = coalesce(s.code, d.last_code),
        completed_at = CASE WHEN s.state = 'completed' THEN clock_timestamp() END,
        next_attempt_at = CASE
            WHEN s.wait IS NOT NULL THEN greatest(:as_of, clock_timestamp()) + s.wait ELSE d.next_attempt_at
        END
    FROM mine
    JOIN unnest(:ids, :states, :codes, :waits, :handed_back) AS s (id, state, code, wait, handed_back) ON s.id = mine.id
    WHERE d.id = mine.id
    RETURNING d.id, d.account_id, d.attempts
),
logged AS (
    INSERT INTO flatearth.webhook_attempts (
        delivery_id, account_id, attempt, started_at, duration_ms, code, status, address, response, detail
    )
    SELECT s.id, s.account_id, s.attempts, l.started_at, l.duration_ms, l.code, l.status, CAST(l.address AS inet),
        l.response, l.detail
    FROM settled AS s
    JOIN unnest(:ids, :started_at, :durations, :codes, :statuses, :addresses, :responses, :details)
        AS l (id, started_at, duration_ms, code, status, address, response, detail) ON l.id = s.id
    WHERE l.code IS NOT NULL
)
SELECT id FROM settled
""").bindparams(
    sa.bindparam("as_of", type_=sa.DateTime(timezone=True)),
    sa.bindparam("claim", type_=sa.Uuid),
    _IDS,
    sa.bindparam("states", type_=ARRAY(sa.Text)),
    sa.bindparam("codes", type_=ARRAY(sa.Text)),
    sa.bindparam("waits", type_=ARRAY(sa.Interval)),
    sa.bindparam("handed_back", type_=ARRAY(sa.Boolean)),
    sa.bindparam("started_at", type_=ARRAY(sa.DateTime(timezone=True))),
    sa.bindparam("durations", type_=ARRAY(sa.Integer)),
    sa.bindparam("statuses", type_=ARRAY(sa.Integer)),
    sa.bindparam("addresses", type_=ARRAY(sa.Text)),
    sa.bindparam("responses", type_=ARRAY(sa.LargeBinary)),
    sa.bindparam("details", type_=ARRAY(sa.Text)),
)

_REDELIVER = sa.text("""
UPDATE flatearth.webhook_deliveries AS d
SET state = 'pending', attempts = 0, next_attempt_at = clock_timestamp(), completed_at = NULL
WHERE id = ANY(:ids) AND state IN ('completed', 'errored')
RETURNING id
""").bindparams(_IDS)

_RECOVER = sa.text("""
WITH failed AS MATERIALIZED (
    SELECT id FROM flatearth.webhook_deliveries
    WHERE webhook_id = :webhook_id AND created_at >= :since
    AND (state = 'errored' OR (state = 'pending' AND attempts > 0)) AND type IS DISTINCT FROM 'ping'
    ORDER BY id
    LIMIT :most
    FOR UPDATE SKIP LOCKED
)
UPDATE flatearth.webhook_deliveries AS d
SET state = 'pending', attempts = 0, next_attempt_at = clock_timestamp()
FROM failed
WHERE d.id = failed.id
""").bindparams(sa.bindparam("since", type_=sa.DateTime(timezone=True)))

_INSERT_DIRECT = sa.text("""
INSERT INTO flatearth.webhook_deliveries (webhook_id, type, body) VALUES (:webhook_id, :type, :body) RETURNING id
""")


def settle(
    connection: sa.Connection,
    claim: uuid.UUID,
    settlements: Sequence[tuple[Settlement, Answer | None]],
    as_of: datetime | None = None,
) -> set[int]:
    """Record what became of deliveries, each with its row in the log, and return which: not those that are lost.

    A wait begins now, or at `as_of` where that is later.
    """
    ends = [each for each, _ in settlements]
    answers = [answer for _, answer in settlements]
    values = {
        "ids": [each.delivery_id for each in ends],
        "states": [each.state for each in ends],
        "waits": [each.wait for each in ends],
        "handed_back": [each.handed_back for each in ends],
        "codes": [answer and answer.code.value for answer in answers],
        "started_at": [answer and answer.started_at for answer in answers],
        "durations": [answer and answer.duration_ms for answer in answers],
        "statuses": [answer and answer.status for answer in answers],
        "addresses": [answer and answer.address for answer in answers],
        "responses": [answer and answer.response for answer in answers],
        "details": [answer and answer.detail for answer in answers],
    }
    return set(connection.execute(_SETTLE, {"as_of": as_of, "claim": claim, **values}).scalars())


def redeliver(connection: sa.Connection, ids: Sequence[int]) -> list[int]:
    """Have those of these deliveries that have ended wait again, their attempts counted anew; return their ids."""
    return sorted(connection.execute(_REDELIVER, {"ids": ids}).scalars())


def recover(connection: sa.Connection, webhook_id: int, since: datetime, most: int = _AT_ONCE) -> int:
    """As `redeliver`, for up to so many of the endpoint that were created since then, tried, and never succeeded.

    That is what was given up, and what waits for its next attempt, which is due at once; but no ping.
    """
    values = {"webhook_id": webhook_id, "since": since, "most": most}
    return connection.execute(_RECOVER, values).rowcount


def insert_direct(connection: sa.Connection, webhook_id: int, type_: str, body: bytes) -> int:
    """The id of a new delivery of what an application sends by itself, to exactly this endpoint."""
    values = {"webhook_id": webhook_id, "type": type_, "body": body}
    return int(connection.execute(_INSERT_DIRECT, values).scalar_one())
