"""What somebody was told of within the last hour."""

import json
from datetime import timedelta

import sqlalchemy as sa

QUIET = timedelta(hours=1)
"""For so long after a mail there is no other about the same."""

_MEET = sa.text("INSERT INTO flatearth.alerts (subject) VALUES (:subject) ON CONFLICT (subject) DO NOTHING")

_LOOK = sa.text("""
SELECT untold, told_at <= clock_timestamp() - :quiet AS is_due FROM flatearth.alerts WHERE subject = :subject FOR UPDATE
""").bindparams(sa.bindparam("quiet", QUIET, type_=sa.Interval))

_TELL = sa.text("UPDATE flatearth.alerts SET told_at = clock_timestamp(), untold = 0 WHERE subject = :subject")

_COUNT = sa.text("UPDATE flatearth.alerts SET untold = untold + 1 WHERE subject = :subject")

_ENQUEUE = sa.text("SELECT flatearth.enqueue_job('send_email', CAST(:payload AS jsonb))")


def take(connection: sa.Connection, subject: str) -> int | None:
    """How often this came without a mail since the last one, if there is to be one now; None: not within the hour.

    Exactly an hour after a mail there is to be one again. In the caller's transaction, which whoever asks at the same
    moment waits for: rolled back, nobody was told.
    """
    connection.execute(_MEET, {"subject": subject})
    seen = connection.execute(_LOOK, {"subject": subject}).one()
    connection.execute(_TELL if seen.is_due else _COUNT, {"subject": subject})
    return int(seen.untold) if seen.is_due else None


def mail_later(connection: sa.Connection, to: str, subject: str, text: str) -> None:
    """Have the queue send this mail, which it tries again and again."""
    payload = json.dumps({"to": to, "subject": subject, "text": text})
    connection.execute(_ENQUEUE, {"payload": payload})
