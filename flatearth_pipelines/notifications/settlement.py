"""What becomes of a bundle after an attempt to mail it, and the waits between attempts. docs/states.md draws it."""

from datetime import timedelta
from typing import NamedTuple

from flatearth_pipelines.mailer import Answer, Fate

MOST_ATTEMPTS = 8

WAITS = (
    timedelta(minutes=1),
    timedelta(minutes=5),
    timedelta(minutes=15),
    timedelta(hours=1),
    timedelta(hours=4),
    timedelta(hours=12),
    timedelta(hours=24),
)
"""After the first failed attempt, the second, and so on: a server may be away for 41 hours."""


class Settlement(NamedTuple):
    """What is recorded of a bundle; the claim that it belongs to is named beside it."""

    bundle_id: int
    status: str
    outcome: str | None = None
    error: str | None = None
    message_id: str | None = None
    items: int | None = None
    wait: timedelta | None = None
    """Until the next attempt. None: at once, where there is one."""
    handed_back: bool = False
    """It was not tried: the attempt does not count."""


def without_mail(bundle_id: int, reason: str) -> Settlement:
    """Delivered, because there was nothing to send, or nobody to send it to."""
    return Settlement(bundle_id, "delivered", outcome=reason)


def handed_back(bundle_id: int) -> Settlement:
    """It was claimed, and not tried: whoever comes next has it."""
    return Settlement(bundle_id, "pending", handed_back=True)


def settled(bundle_id: int, attempt: int, answer: Answer, message_id: str, items: int) -> Settlement:
    """After the attempt, 1 for the first, that had this answer; after the eighth nothing is tried any more."""
    match answer.fate:
        case Fate.TAKEN:
            return Settlement(bundle_id, "delivered", outcome="mailed", message_id=message_id, items=items)
        case Fate.NOBODY:
            return Settlement(bundle_id, "failed", outcome="undeliverable", error=answer.said)
        case Fate.REFUSED:
            return Settlement(bundle_id, "failed", outcome="refused", error=answer.said)
        case Fate.LATER if attempt >= MOST_ATTEMPTS:
            return Settlement(bundle_id, "failed", outcome="exhausted", error=answer.said)
        case Fate.LATER:
            return Settlement(bundle_id, "pending", error=answer.said, wait=WAITS[attempt - 1])
