"""What becomes of a delivery after an attempt, and the waits between attempts. docs/states.md draws it."""

from datetime import timedelta
from typing import NamedTuple

from flatearth_pipelines.webhooks.outcome import Answer, Code

MOST_ATTEMPTS = 8

WAITS = (
    timedelta(seconds=5),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=5),
    timedelta(hours=10),
    timedelta(hours=10),
)
"""After the first failed attempt, the second, and so on: an endpoint may be away for 27 hours. Source: behaviour.md."""

JITTER = 0.2
"""The part of a wait by which it is longer or shorter, so that what failed together is not tried together."""

_HOPELESS = frozenset({Code.GONE, Code.BAD_URL, Code.EVENT_GONE})
"""No later attempt can end otherwise."""


class Settlement(NamedTuple):
    """What is recorded of a delivery; the claim that it belongs to is named beside it."""

    delivery_id: int
    state: str
    """`completed`, `pending` or `errored`."""
    wait: timedelta | None = None
    """Until the next attempt. None: at once, where there is one."""
    handed_back: bool = False
    """It was not tried: the attempt does not count."""


def handed_back(delivery_id: int) -> Settlement:
    """It was claimed, and not tried: whoever comes next has it."""
    return Settlement(delivery_id, "pending", handed_back=True)


def settled(delivery_id: int, attempt: int, answer: Answer, jitter: float) -> Settlement:
    """After the attempt, 1 for the first, that had this answer; after the eighth nothing is tried any more.

    `jitter`, from -1 to 1, makes the wait up to a fifth shorter or longer. An endpoint that asks for more time by
    Retry-After gets it, up to twice that wait; never less than the wait.
    """
    if answer.code is Code.OK:
        return Settlement(delivery_id, "completed")
    if answer.code in _HOPELESS or attempt >= MOST_ATTEMPTS:
        return Settlement(delivery_id, "errored")
    planned = WAITS[attempt - 1] * (1 + JITTER * jitter)
    asked = answer.retry_after or planned
    return Settlement(delivery_id, "pending", wait=min(max(planned, asked), 2 * planned))
