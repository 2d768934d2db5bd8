"""What becomes of a job that failed, or whose worker was lost."""

from datetime import timedelta
from typing import Any, NamedTuple, Protocol

from flatearth_pipelines.queue.backoff import backoff_from_json, waiting_time
from flatearth_pipelines.queue.handlers import Guarantee, Handler

_MOST_ATTEMPTS_OF_UNKNOWN = 5


_LONGEST_WAIT = timedelta(days=3652)
"""Of a retry, as of a new job: ten years."""


class Attempted(Protocol):
    """What the rule has to know of a job."""

    @property
    def attempts(self) -> int:
        """How many have begun."""

    @property
    def max_attempts(self) -> int | None:
        """Its own, in place of its handler's."""

    @property
    def backoff(self) -> dict[str, Any] | None:
        """Its own, in place of its handler's."""


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
    wait = retry_in(orphan, handler, draw)
    if wait is None:
        most = _most_attempts(orphan, handler)
        return Verdict(f"The worker was lost in attempt {orphan.attempts} of {most}", None)
    return Verdict("The worker was lost", wait)


def retry_in(job: Attempted, handler: Handler | None, draw: float, asked: timedelta | None = None) -> timedelta | None:
    """How long a job that failed waits for its next attempt, 0 to ten years; None when there is none.

    The time that its handler asked for, or else its own backoff, or else its handler's. `draw` is from [0, 1).
    """
    if handler is not None and handler.guarantee is Guarantee.AT_MOST_ONCE:
        return None
    if job.attempts >= _most_attempts(job, handler):
        return None
    if asked is not None:
        wait = asked
    elif job.backoff:
        wait = waiting_time(backoff_from_json(job.backoff), job.attempts, draw)
    elif handler is not None:
        wait = waiting_time(handler.backoff, job.attempts, draw)
    else:
        wait = timedelta(0)
    return min(max(wait, timedelta(0)), _LONGEST_WAIT)


def in_milliseconds(wait: timedelta) -> int:
    """As `fail_jobs` takes it."""
    return round(wait.total_seconds() * 1000)


def _most_attempts(job: Attempted, handler: Handler | None) -> int:
    return job.max_attempts or (handler.max_attempts if handler else _MOST_ATTEMPTS_OF_UNKNOWN)
