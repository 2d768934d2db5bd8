"""Who gets the morning mail, and the jobs of the queue that send it."""

import json
from collections.abc import Sequence
from datetime import date
from typing import Any, NamedTuple

import sqlalchemy as sa

_MOST_A_CALL = 1_000

_KEPT_SECONDS = 7 * 86_400
"""How long the key of a mail refuses a second one. The key names the day: a mail about it later than that is news."""

_READERS = sa.text("""
SELECT a.name AS account, u.id AS user_id, u.email,
    sum(r.cards_created) AS cards_created, sum(r.cards_closed) AS cards_closed,
    sum(r.cards_postponed) AS cards_postponed, sum(r.cards_auto_postponed) AS cards_auto_postponed,
    sum(r.comments) AS comments,
    coalesce(sum(r.active_people) FILTER (WHERE r.board_id IS NULL), 0) AS active_people,
    sum(r.bundles_mailed) AS bundles_mailed, sum(r.bundles_failed) AS bundles_failed,
    sum(r.deliveries_completed) AS deliveries_completed, sum(r.deliveries_errored) AS deliveries_errored
FROM flatearth.daily_reports AS r
JOIN flatearth.accounts AS a ON a.id = r.account_id
JOIN flatearth.users AS u ON u.account_id = a.id
LEFT JOIN flatearth.notification_settings AS s ON s.user_id = u.id
WHERE r.day = :day AND (:account_id IS NULL OR a.id = :account_id) AND a.cancelled_at IS NULL
AND u.role = 'owner' AND u.active AND u.email IS NOT NULL AND s.email_frequency IS DISTINCT FROM 'never'
GROUP BY a.id, u.id
ORDER BY a.id, u.id
""").bindparams(sa.bindparam("account_id", type_=sa.BigInteger))

_ENQUEUE = sa.text("SELECT count(*) FROM flatearth.enqueue_jobs(CAST(:jobs AS jsonb))")


class Mail(NamedTuple):
    """To somebody, about a day."""

    user_id: int
    to: str
    subject: str
    text: str


def read_readers(connection: sa.Connection, day: date, account_id: int | None) -> list[dict[str, Any]]:
    """The active owners with an address of accounts where something happened on the day, and what that was.

    Not those who want no email notifications, nor of a cancelled account. Of this account, or of all.
    """
    return [dict(row) for row in connection.execute(_READERS, {"day": day, "account_id": account_id}).mappings()]


def enqueue_mails(connection: sa.Connection, day: date, mails: Sequence[Mail]) -> None:
    """Have the queue send each of them, at most once for each person and day."""
    jobs = [
        {
            "handler": "send_email",
            "payload": {"to": mail.to, "subject": mail.subject, "text": mail.text},
            "job_key": f"morning_report {day} to user {mail.user_id}",
            "window_seconds": _KEPT_SECONDS,
        }
        for mail in mails
    ]
    for start in range(0, len(jobs), _MOST_A_CALL):
        connection.execute(_ENQUEUE, {"jobs": json.dumps(jobs[start : start + _MOST_A_CALL])})
