"""The queue in Postgres as it is read, told of and cleaned up. Its rules are SQL functions (0003)."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from flatearth_pipelines.contract import call, contract_errors
from flatearth_pipelines.errors import NotFound
from flatearth_pipelines.tables import jobs

_STATISTICS = sa.text("""
SELECT handler, state, count(*) AS jobs, min(run_at) AS oldest_run_at, max(finished_at) AS newest_end
FROM flatearth.jobs
GROUP BY handler, state
ORDER BY handler, state
""")

_HEALTH = sa.text("""
SELECT
    count(*) FILTER (WHERE lease_id IS NULL AND run_at <= clock_timestamp()) AS waiting,
    count(*) FILTER (WHERE lease_id IS NULL AND run_at > clock_timestamp()) AS scheduled,
    count(*) FILTER (WHERE lease_id IS NOT NULL) AS running,
    (SELECT count(*) FROM flatearth.dead_jobs) AS dead,
    greatest(
        extract(epoch FROM clock_timestamp() - min(run_at) FILTER (WHERE lease_id IS NULL)), 0
    )::float8 AS oldest_wait_seconds,
    (
        SELECT count(*) FROM flatearth.finished_jobs WHERE finished_at > clock_timestamp() - interval '5 minutes'
    ) / 5.0::float8 AS finished_per_minute
FROM flatearth.live_jobs
""")

_HANDLERS_TO_TELL_OF = sa.text("""
SELECT DISTINCT d.handler FROM flatearth.dead_jobs AS d
WHERE d.alerted_at IS NULL AND NOT EXISTS (
    SELECT FROM flatearth.job_alerts AS a
    WHERE a.handler = d.handler AND a.alerted_at > clock_timestamp() - interval '1 hour'
)
ORDER BY d.handler
""")

_TAKE_ALERT = sa.text("""
WITH due AS (
    INSERT INTO flatearth.job_alerts AS a (handler, alerted_at)
    SELECT :handler, clock_timestamp()
    WHERE EXISTS (SELECT FROM flatearth.dead_jobs WHERE alerted_at IS NULL AND handler = :handler)
    ON CONFLICT (handler) DO UPDATE SET alerted_at = excluded.alerted_at
    WHERE a.alerted_at <= clock_timestamp() - interval '1 hour'
    RETURNING handler
),
told AS (
    UPDATE flatearth.dead_jobs SET alerted_at = clock_timestamp()
    WHERE alerted_at IS NULL AND handler IN (SELECT handler FROM due)
    RETURNING id, handler, last_error, finished_at
)
SELECT
    handler, count(*), min(finished_at), (array_agg(id ORDER BY id))[1:5], (array_agg(last_error ORDER BY id DESC))[1]
FROM told
GROUP BY handler
""")


class Alert(NamedTuple):
    """The dead jobs of a handler that nobody was told of yet."""

    handler: str
    jobs: int
    since: datetime
    first_ids: list[int]
    newest_error: str


def drop_history(connection: sa.Connection, keep_finished: timedelta, keep_dead: timedelta) -> list[str]:
    """Drop the days of history that ended longer ago, and the keys of that time; return the dropped partitions."""
    with contract_errors():
        dropped: list[str] = connection.execute(
            sa.select(sa.func.flatearth.drop_job_partitions(keep_finished, keep_dead))
        ).scalar_one()
    connection.execute(
        sa.text(
            "DELETE FROM flatearth.job_keys AS k WHERE used_at < now() - :keep"
            " AND NOT EXISTS (SELECT FROM flatearth.jobs AS j WHERE j.id = k.job_id)"
        ).bindparams(sa.bindparam("keep", keep_finished, sa.Interval))
    )
    return dropped


def make_partitions(connection: sa.Connection) -> int:
    """Make the partitions of today and the next three days, as far as they are missing; return how many."""
    return int(call(connection, sa.func.flatearth.make_job_partitions()))


def read_job(connection: sa.Connection, job_id: int) -> dict[str, Any]:
    """Every column of `flatearth.jobs`.

    Raises:
        NotFound: there is no such job.
    """
    with contract_errors():
        row = connection.execute(sa.select(jobs).where(jobs.c.id == job_id)).mappings().first()
    if row is None:
        raise NotFound(f"There is no job {job_id}")
    return dict(row)


def read_jobs(
    connection: sa.Connection,
    *,
    states: Sequence[str] = (),
    handler: str | None = None,
    key: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int = 50,
    offset: int = 0,
) -> list[dict[str, Any]]:
    """The newest jobs first: of these states, this handler, this job or concurrency key, created in [since, until)."""
    columns = ("id", "handler", "state", "priority", "attempts", "run_at", "started_at", "finished_at", "last_error")
    query = sa.select(*(jobs.c[name] for name in columns)).order_by(jobs.c.id.desc()).limit(limit).offset(offset)
    if states:
        query = query.where(jobs.c.state.in_(states))
    if handler is not None:
        query = query.where(jobs.c.handler == handler)
    if key is not None:
        query = query.where(sa.or_(jobs.c.job_key == key, jobs.c.concurrency_key == key))
    if since is not None:
        query = query.where(jobs.c.created_at >= since)
    if until is not None:
        query = query.where(jobs.c.created_at < until)
    return [dict(row) for row in connection.execute(query).mappings()]


def read_statistics(connection: sa.Connection) -> list[dict[str, Any]]:
    """Jobs by handler and state."""
    return [dict(row) for row in connection.execute(_STATISTICS).mappings()]


def read_health(connection: sa.Connection) -> dict[str, Any]:
    """The queue in six numbers: how many wait, are scheduled, run and are dead, the oldest wait, and the throughput."""
    return dict(connection.execute(_HEALTH).mappings().one())


def read_pauses(connection: sa.Connection) -> list[str]:
    """The handlers that are paused; `*` is the whole queue."""
    return list(connection.execute(sa.text("SELECT handler FROM flatearth.job_pauses ORDER BY handler")).scalars())


def handlers_to_tell_of(connection: sa.Connection) -> list[str]:
    """Handlers with dead jobs that nobody was told of, and of which nobody was told anything within the hour."""
    return list(connection.execute(_HANDLERS_TO_TELL_OF).scalars())


def take_alert(connection: sa.Connection, handler: str) -> Alert | None:
    """What somebody has to be told of the handler's dead jobs; it counts as told once the transaction commits.

    None when somebody else was faster: one of several callers has it, and not again within an hour.
    """
    row = connection.execute(_TAKE_ALERT, {"handler": handler}).first()
    return None if row is None else Alert(*row)


def finish_job(connection: sa.Connection, lease_id: int, job_id: int, result: Mapping[str, Any] | None) -> bool:
    """End a job in its handler's transaction; False when the lease is lost, and that must not commit."""
    results = None if result is None else {str(job_id): result}
    done = sa.func.flatearth.finish_jobs(lease_id, [job_id], sa.cast(results, JSONB(none_as_null=True)))
    return bool(connection.execute(sa.select(done)).scalar_one())


def is_due(connection: sa.Connection, ahead: timedelta = timedelta(0)) -> tuple[bool, bool]:
    """Whether a job or cron job is due for a batch, now or so long from now, and whether one for its own run is now."""
    query = sa.text(
        "SELECT coalesce(flatearth.next_job_due(false) <= clock_timestamp() + :ahead, false),"
        " coalesce(flatearth.next_job_due(true) <= clock_timestamp(), false)"
    ).bindparams(sa.bindparam("ahead", ahead, sa.Interval))
    light, heavy = connection.execute(query).one()
    return light, heavy


def is_being_drained(connection: sa.Connection) -> bool:
    """Whether a drain is at work, as far as its last sign of life tells."""
    query = sa.text(
        "SELECT EXISTS (SELECT FROM flatearth.job_leases"
        " WHERE NOT own_run AND renewed_at > clock_timestamp() - interval '15 seconds')"
    )
    return bool(connection.execute(query).scalar_one())
