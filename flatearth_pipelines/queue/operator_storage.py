"""What only `flatearth jobs` asks of Postgres. Beside `storage`, which applications use too."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from flatearth_pipelines.errors import FlatEarthError
from flatearth_pipelines.queue import functions
from flatearth_pipelines.queue.handlers import Registry
from flatearth_pipelines.tables import jobs

_OLD_DAYS = sa.text("""
SELECT (finished_at AT TIME ZONE 'UTC')::date AS day, 'finished' AS history, count(*) AS jobs
FROM flatearth.finished_jobs
WHERE finished_at <= now() - :keep_finished
GROUP BY 1
UNION ALL
SELECT (finished_at AT TIME ZONE 'UTC')::date, 'failed', count(*)
FROM flatearth.dead_jobs
WHERE finished_at <= now() - :keep_dead
GROUP BY 1
ORDER BY day, history DESC
""").bindparams(sa.bindparam("keep_finished", type_=sa.Interval), sa.bindparam("keep_dead", type_=sa.Interval))


def enqueue_lines(connection: sa.Connection, registry: Registry, lines: Mapping[int, Mapping[str, Any]]) -> list[int]:
    """`functions.enqueue_jobs` for jobs by the number of their line; an error names the line.

    After an error the transaction is only good for being rolled back.
    """
    try:
        with connection.begin_nested():
            return functions.enqueue_jobs(connection, registry, list(lines.values()))
    except FlatEarthError:
        for number, job in lines.items():
            try:
                functions.enqueue_jobs(connection, registry, [job])
            except FlatEarthError as error:
                raise type(error)(f"Line {number}: {error}") from None
        raise


def read_job_ids(connection: sa.Connection, states: Sequence[str], handler: str | None = None) -> list[int]:
    """The jobs of these states, and of this handler, the oldest first."""
    query = sa.select(jobs.c.id).where(jobs.c.state.in_(states)).order_by(jobs.c.id)
    if handler is not None:
        query = query.where(jobs.c.handler == handler)
    return list(connection.execute(query).scalars())


def read_old_days(connection: sa.Connection, keep_finished: timedelta, keep_dead: timedelta) -> list[dict[str, Any]]:
    """What `storage.drop_history` would drop, by day in UTC."""
    ages = {"keep_finished": keep_finished, "keep_dead": keep_dead}
    return [dict(row) for row in connection.execute(_OLD_DAYS, ages).mappings()]
