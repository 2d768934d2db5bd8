"""What became of deliveries, recorded with a row of the log each; and deliveries that are sent again, or for once."""

import json
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from flatearth_pipelines.webhooks.outcome import Answer
from flatearth_pipelines.webhooks.settlement import Settlement

_AT_ONCE = 5_000

_IDS = sa.bindparam("ids", type_=ARRAY(sa.BigInteger))

_SETTLE = sa.text("""
WITH ended AS MATERIALIZED (
    SELECT * FROM json_to_recordset(CAST(:ended AS json)) AS e (
        id bigint, state text, wait float8, handed_back boolean, code text, started_at timestamptz, duration_ms integer,
        status integer, address inet, response text, detail text
    )
),
settled AS (
    UPDATE flatearth.webhook_deliveries AS d
    SET state = e.state, claim = NULL, claimed_until = NULL,
        attempts = d.attempts - CAST(e.handed_back AS integer),
        last_code = coalesce(e.code, d.last_code),
        completed_at = CASE WHEN e.state = 'completed' THEN clock_timestamp() END,
        next_attempt_at = CASE
            WHEN e.wait IS NULL THEN d.next_attempt_at
            ELSE greatest(:as_of, clock_timestamp()) + e.wait * interval '1 second'
        END
    FROM ended AS e
    WHERE d.id = e.id AND d.claim = :claim
    RETURNING
        d.id, d.account_id, d.attempts, e.started_at, e.duration_ms, e.code, e.status, e.address, e.response, e.detail
),
logged AS (
    INSERT INTO flatearth.webhook_attempts (
        delivery_id, account_id, attempt, started_at, duration_ms, code, status, address, response, detail
    )
    SELECT id, account_id, attempts, started_at, duration_ms, code, status, address, decode(response, 'hex'), detail
    FROM settled
    WHERE code IS NOT NULL
)
SELECT id FROM settled
""").bindparams(sa.bindparam("as_of", type_=sa.DateTime(timezone=True)), sa.bindparam("claim", type_=sa.Uuid))
# As one JSON text: eleven arrays take Python six times as long to bind, and Python is what limits a delivery. Row by
# row in their order, which is that of the ids: two who settle the same ones do not deadlock. Only
# what is in progress has a claim: to say so would have the planner read all of that, again for each row.

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
    in_order = sorted(settlements, key=lambda each: each[0].delivery_id)
    ended = json.dumps([_row(end, answer) for end, answer in in_order])
    return set(connection.execute(_SETTLE, {"as_of": as_of, "claim": claim, "ended": ended}).scalars())


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


def _row(end: Settlement, answer: Answer | None) -> dict[str, Any]:
    row = {
        "id": end.delivery_id,
        "state": end.state,
        "wait": None if end.wait is None else end.wait.total_seconds(),
        "handed_back": end.handed_back,
    }
    if answer is None:
        return row
    return row | {
        "code": answer.code.value,
        "started_at": answer.started_at.isoformat(),
        "duration_ms": answer.duration_ms,
        "status": answer.status,
        "address": answer.address,
        "response": None if answer.response is None else answer.response.hex(),
        "detail": answer.detail,
    }
