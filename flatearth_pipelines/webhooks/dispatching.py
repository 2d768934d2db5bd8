"""From new events to deliveries: batch by batch, until nothing is new."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from sqlalchemy import Connection

from flatearth_pipelines.webhooks import dispatch_storage
from flatearth_pipelines.webhooks.dispatch_storage import Dispatched
from flatearth_pipelines.webhooks.transaction_storage import attempted

BATCH_SIZE = 2_000
"""Events in one transaction."""

_PAUSE_SECONDS = 0.2


@dataclass
class Outcome:
    """What a run did."""

    events: int = 0
    """That were new."""
    by_action: Counter[str] = field(default_factory=Counter)
    """Deliveries that were written, by the action of their event."""

    def add(self, done: Dispatched) -> None:
        """Count what another transaction did."""
        self.events += done.events
        self.by_action.update(done.by_action)


def dispatch_new(
    connection: Connection,
    *,
    batch_size: int = BATCH_SIZE,
    stay_seconds: float = 0.0,
    longest_seconds: float = 900.0,
    progress: Callable[[Outcome], None] = lambda _so_far: None,
) -> Outcome:
    """Write a delivery of every new event for each endpoint that wants it, and stay so long for more.

    Calls `progress` after each transaction. Interrupted at any point it leaves whole transactions: an event is new
    until one commit has written all of its deliveries.

    Raises:
        Contended: a transaction failed five times for what somebody else did.
    """
    outcome = Outcome()
    deadline = time.monotonic() + longest_seconds
    until = time.monotonic() + stay_seconds
    while True:
        done = Dispatched(0, {})
        if time.monotonic() < deadline:
            done = attempted(connection, lambda: dispatch_storage.dispatch(connection, batch_size))
        if done.events:
            outcome.add(done)
            progress(outcome)
            until = time.monotonic() + stay_seconds
        elif time.monotonic() >= min(until, deadline):
            return outcome
        else:
            _wait_for_more(connection, min(until, deadline))


def _wait_for_more(connection: Connection, until: float) -> None:
    while time.monotonic() < until:
        with connection.begin():
            if dispatch_storage.is_anything_new(connection):
                return
        time.sleep(_PAUSE_SECONDS)
