"""Endpoints as a delivery run sees them: where and how to send, and what the breaker makes of how that went."""

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from flatearth_pipelines.message import one_line
from flatearth_pipelines.webhooks import delinquency

_NAME_LENGTH = 200
"""Characters that a subject shows: an application may have written a longer one, or several lines."""

_READ = sa.text("""
SELECT
    id, account_id, name, url, format, signature, sealed_secret,
    CASE WHEN previous_secret_until > clock_timestamp() THEN previous_sealed_secret END AS previous_sealed_secret
FROM flatearth.webhooks
WHERE id = ANY(:ids)
""").bindparams(sa.bindparam("ids", type_=ARRAY(sa.BigInteger)))

_JUDGE = sa.text("""
WITH results AS (
    SELECT r.*, max(r.place) FILTER (WHERE r.ok) OVER (PARTITION BY r.webhook_id) AS last_success
    FROM ROWS FROM (
        json_to_recordset(CAST(:results AS json)) AS (webhook_id bigint, ok boolean, gone boolean, ended_at timestamptz)
    ) WITH ORDINALITY AS r (webhook_id, ok, gone, ended_at, place)
),
seen AS (
    SELECT
        webhook_id,
        count(last_success) > 0 AS succeeded,
        bool_or(gone) AS gone,
        count(*) FILTER (WHERE NOT ok AND place > coalesce(last_success, 0)) AS failures,
        min(ended_at) FILTER (WHERE NOT ok AND place > coalesce(last_success, 0)) AS first_failure_at,
        max(ended_at) AS at
    FROM results
    GROUP BY webhook_id
),
held AS MATERIALIZED (
    SELECT
        w.id, s.gone, s.at,
        CASE WHEN s.succeeded THEN 0 ELSE w.trips END AS trips,
        CASE WHEN NOT s.succeeded THEN w.open_until END AS open_until,
        s.failures + CASE WHEN s.succeeded THEN 0 ELSE w.consecutive_failures END AS failures,
        CASE
            WHEN s.succeeded OR w.first_failure_at IS NULL THEN s.first_failure_at
            ELSE least(w.first_failure_at, s.first_failure_at)
        END AS first_failure_at
    FROM flatearth.webhooks AS w
    JOIN seen AS s ON s.webhook_id = w.id
    WHERE w.active AND (s.failures > 0 OR s.gone OR w.consecutive_failures > 0)
    ORDER BY w.id
    FOR NO KEY UPDATE OF w SKIP LOCKED
),
judged AS (
    SELECT
        held.*,
        CASE
            WHEN gone THEN 'it answered 410 Gone'
            WHEN failures >= :disables_after AND at - first_failure_at > :disables_later_than
                THEN failures || ' deliveries in a row have failed'
        END AS reason,
        failures >= :opens_after AND coalesce(open_until <= at, true) AS opens
    FROM held
),
changed AS (
    UPDATE flatearth.webhooks AS w
    SET consecutive_failures = j.failures,
        first_failure_at = j.first_failure_at,
        trips = CASE WHEN j.failures < :opens_after THEN 0 ELSE j.trips + CAST(j.opens AS integer) END,
        open_until = CASE
            WHEN j.failures < :opens_after THEN NULL
            WHEN j.opens THEN j.at + least(:first_wait * power(2, least(j.trips, 32)), :longest_wait)
            ELSE j.open_until
        END,
        active = j.reason IS NULL,
        disabled_at = CASE WHEN j.reason IS NOT NULL THEN clock_timestamp() END,
        disabled_reason = j.reason
    FROM judged AS j
    WHERE w.id = j.id
    RETURNING w.id, w.account_id, w.name, w.url, w.disabled_at, w.disabled_reason, j.opens
)
SELECT id, account_id, name, url, disabled_at, disabled_reason FROM changed
WHERE opens OR disabled_at IS NOT NULL
ORDER BY id
""").bindparams(
    opens_after=delinquency.OPENS_AFTER,
    first_wait=delinquency.FIRST_WAIT,
    longest_wait=delinquency.LONGEST_WAIT,
    disables_after=delinquency.DISABLES_AFTER,
    disables_later_than=delinquency.DISABLES_LATER_THAN,
)

_OWNERS = sa.text("""
SELECT account_id, email FROM flatearth.users
WHERE account_id = ANY(:account_ids) AND role = 'owner' AND active AND email IS NOT NULL
ORDER BY id
""").bindparams(sa.bindparam("account_ids", type_=ARRAY(sa.BigInteger)))

_TELL = sa.text("""
SELECT flatearth.enqueue_job('send_email', CAST(:payload AS jsonb), job_key => :job_key, window_seconds => 3600)
""")


class Endpoint(NamedTuple):
    """Where and how to send."""

    id: int
    account_id: int
    name: str
    url: str
    format: str
    signature: str
    sealed_secret: bytes
    previous_sealed_secret: bytes | None
    """While it is valid."""


class Result(NamedTuple):
    """How one request to an endpoint went."""

    webhook_id: int
    ok: bool
    gone: bool
    """It wants nothing any more."""
    ended_at: datetime


class Verdict(NamedTuple):
    """An endpoint whose breaker has opened, or which was disabled."""

    id: int
    account_id: int
    name: str
    url: str
    disabled_at: datetime | None
    disabled_reason: str | None


def read_endpoints(connection: sa.Connection, ids: Collection[int]) -> Mapping[int, Endpoint]:
    """These endpoints by their id."""
    return {row.id: Endpoint(*row) for row in connection.execute(_READ, {"ids": list(ids)})}


def judge(connection: sa.Connection, results: Sequence[Result]) -> list[Verdict]:
    """Count the results, in their order, and open, close or disable what `delinquency` says; return what is worse now.

    A success forgets all failures before it and closes the breaker. What is disabled already is left alone, and so is
    what somebody is changing at this moment: a run must not wait for one endpoint.
    """
    told = [each._asdict() | {"ended_at": each.ended_at.isoformat()} for each in results]
    return [Verdict(*row) for row in connection.execute(_JUDGE, {"results": json.dumps(told)})]


def tell_owners(connection: sa.Connection, verdicts: Sequence[Verdict], alerted: str | None) -> int:
    """Enqueue a mail about each endpoint that was disabled to its account's active owners, and to whom else is alerted.

    In the connection's transaction: exactly as often as it is disabled. How many mails.
    """
    disabled = [each for each in verdicts if each.disabled_at is not None]
    if not disabled:
        return 0
    owners: dict[int, list[str]] = {}
    for row in connection.execute(_OWNERS, {"account_ids": [each.account_id for each in disabled]}):
        owners.setdefault(row.account_id, []).append(row.email)
    mails = [
        (each, address)
        for each in disabled
        for address in dict.fromkeys([*owners.get(each.account_id, []), *([alerted] if alerted else [])])
    ]
    for each, address in mails:
        said = {
            "to": address,
            "subject": f"Webhook disabled: {one_line(each.name)[:_NAME_LENGTH]}",
            "text": _letter(each),
        }
        key = f"webhook {each.id} disabled {each.disabled_at} {address}"
        connection.execute(_TELL, {"payload": json.dumps(said), "job_key": key})
    return len(mails)


def _letter(verdict: Verdict) -> str:
    return (
        f"Flat Earth does not send to the webhook {verdict.name!r} (number {verdict.id}) any more:"
        f" {verdict.disabled_reason}.\n\n"
        f"    {verdict.url.partition('?')[0]}\n\n"
        "What it missed is kept for seven days from when it happened. Once the endpoint works again, enable the"
        " webhook, and have it recover what never arrived:\n\n"
        f"    flatearth webhooks enable {verdict.id}\n"
        f"    flatearth webhooks recover {verdict.id} --since ...\n"
    )
