"""The mechanism of every clean-up: batch after batch, each a transaction, until nothing is left or the time is over."""

import time
from collections.abc import Callable, Sequence
from datetime import datetime

from sqlalchemy import Connection

from flatearth_pipelines.cleanup.outcome import Swept
from flatearth_pipelines.cleanup.retention import Retention, cutoff
from flatearth_pipelines.cleanup.storage import begin_batch
from flatearth_pipelines.cleanup.targets import Part


def sweep(
    connection: Connection,
    retention: Retention,
    parts: Sequence[Part],
    as_of: datetime,
    *,
    swept: Swept,
    progress: Callable[[], None] = lambda: None,
) -> None:
    """Delete what is due at that instant and write into `swept` what was done; `progress` is called after each batch.

    Rows that somebody holds are left to the next run, and so is what is left when the time is over: that is looked at
    after each batch, of which every part gets one. What is interrupted leaves whole batches.
    """
    until = time.monotonic() + retention.max_seconds
    for part in parts:
        before, last = cutoff(as_of, part.keep_for), None
        while True:
            with connection.begin():
                begin_batch(connection)
                batch = part.rows.delete_batch(connection, before, last, retention.batch_size)
            swept.add(part.name, batch)
            progress()
            if batch.found < retention.batch_size:
                break
            if time.monotonic() >= until:
                swept.budget_hit = True
                break
            last = batch.last
    main = parts[0]
    with connection.begin():
        swept.remaining = main.rows.count_due(connection, cutoff(as_of, main.keep_for))
        swept.oldest_left = main.rows.oldest(connection)


def rehearse(connection: Connection, parts: Sequence[Part], as_of: datetime) -> Swept:
    """What `sweep` would delete and leave if nobody held anything and the time sufficed. Writes nothing."""
    with connection.begin():
        due = {part.name: part.rows.count_due(connection, cutoff(as_of, part.keep_for)) for part in parts}
        main = parts[0]
        left = main.rows.oldest(connection, since=cutoff(as_of, main.keep_for))
    return Swept(deleted=due, oldest_left=left)
