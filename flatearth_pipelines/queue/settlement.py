"""What becomes of a job whose worker was lost."""

from datetime import timedelta
from typing import Any, NamedTuple

from flatearth_pipelines.queue.backoff import backoff_from_json, waiting_time
from flatearth_pipelines.queue.handlers import Guarantee, Handler

_MOST_ATTEMPTS_OF_UNKNOWN = 5


class Orphan(NamedTuple):
    """A job of a lease that ran out."""

    id: int
    handler: str
    attempts: int
    max_attempts: int | None
    backoff: dict[str, Any] | None
    stop_reason: str | None
    """Why it was to be cancelled, if it was."""


class Verdict(NamedTuple):
    """What is recorded of it."""

    error: str
    retry_in: timedelta | None
    """None: it is dead."""


def verdict(orphan: Orphan, handler: Handler | None, draw: float) -> Verdict:
    """It runs again after its backoff, unless its handler runs at most once or it has had all its attempts."""
    if handler is not None and handler.guarantee is Guarantee.AT_MOST_ONCE:
        return Verdict("The worker was lost, and this handler runs at most once", None)
    most = orphan.max_attempts or (handler.max_attempts if handler else _MOST_ATTEMPTS_OF_UNKNOWN)
    if orphan.attempts >= most:
        return Verdict(f"The worker was lost in attempt {orphan.attempts} of {most}", None)
    if orphan.backoff:
        backoff = backoff_from_json(orphan.backoff)
    elif handler is not None:
        backoff = handler.backoff
    else:
        return Verdict("The worker was lost", timedelta(0))
    return Verdict("The worker was lost", waiting_time(backoff, orphan.attempts, draw))
