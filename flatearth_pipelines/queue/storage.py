"""The queue in Postgres: what an application, an operator and a drain say to it. The rules are SQL functions (0003)."""

import contextlib
import json
import re
from collections.abc import Generator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import psycopg
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import DBAPIError

from flatearth_pipelines.errors import LimitReached, NotFound, NotPermitted, WrongUsage
from flatearth_pipelines.queue.backoff import Backoff, backoff_to_json
from flatearth_pipelines.queue.handlers import Registry, storable
from flatearth_pipelines.tables import jobs

MOST_JOBS_A_CALL = 1_000

_ENQUEUE = sa.text("""
SELECT flatearth.enqueue_job(
    :handler, CAST(:payload AS jsonb), run_at => :run_at, delay => :delay, priority => :priority, job_key => :job_key,
    on_conflict => :on_conflict, window_seconds => :window_seconds, concurrency_key => :concurrency_key,
    max_attempts => :max_attempts, backoff => CAST(:backoff AS jsonb), timeout => :timeout, account_id => :account_id,
    own_run => :own_run, origin => :origin, cron_job_id => :cron_job_id
)
""").bindparams(
    sa.bindparam("run_at", type_=sa.DateTime(timezone=True)),
    sa.bindparam("delay", type_=sa.Interval),
    sa.bindparam("timeout", type_=sa.Interval),
    sa.bindparam("job_key", type_=sa.Text),
    sa.bindparam("concurrency_key", type_=sa.Text),
    sa.bindparam("account_id", type_=sa.BigInteger),
    sa.bindparam("priority", type_=sa.Integer),
    sa.bindparam("window_seconds", type_=sa.Integer),
    sa.bindparam("max_attempts", type_=sa.Integer),
    sa.bindparam("cron_job_id", type_=sa.BigInteger),
)

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


def enqueue_job(
    connection: sa.Connection,
    registry: Registry,
    handler: str,
    payload: Mapping[str, Any] | None = None,
    *,
    run_at: datetime | None = None,
    delay: timedelta | None = None,
    priority: int = 0,
    job_key: str | None = None,
    on_conflict: str = "keep",
    window_seconds: int | None = None,
    concurrency_key: str | None = None,
    max_attempts: int | None = None,
    backoff: Backoff | None = None,
    timeout: timedelta | None = None,
    account_id: int | None = None,
    origin: str = "adhoc",
    cron_job_id: int | None = None,
) -> int:
    """The SQL function of that name, in the connection's transaction, with the payload checked by its handler's model.

    Raises:
        NotFound: there is no such handler.
        WrongUsage: the payload or another value is not valid.
        LimitReached: the account has enqueued as many jobs in this minute as it may.
    """
    checked = registry.validated(handler, {} if payload is None else payload)
    values = {
        "handler": handler,
        "payload": json.dumps(checked),
        "run_at": run_at,
        "delay": delay,
        "priority": priority,
        "job_key": job_key,
        "on_conflict": on_conflict,
        "window_seconds": window_seconds,
        "concurrency_key": concurrency_key,
        "max_attempts": max_attempts,
        "backoff": json.dumps(backoff_to_json(backoff)) if backoff else None,
        "timeout": timeout,
        "account_id": account_id,
        "own_run": registry[handler].own_run,
        "origin": origin,
        "cron_job_id": cron_job_id,
    }
    with contract_errors():
        job_id: int = connection.execute(_ENQUEUE, values).scalar_one()
        return job_id


def enqueue_jobs(connection: sa.Connection, registry: Registry, jobs: Sequence[Mapping[str, Any]]) -> list[int]:
    """The SQL function of that name: up to 1,000 jobs, each with the arguments of `flatearth.enqueue_job` as JSON.

    Raises what `enqueue_job` raises; then none is enqueued.
    """
    checked = [
        {
            **job,
            "payload": registry.validated(name, {} if job.get("payload") is None else job["payload"]),
            "own_run": registry[name].own_run,
        }
        for job in jobs
        for name in [str(job.get("handler"))]
    ]
    with contract_errors():
        query = sa.select(sa.func.flatearth.enqueue_jobs(sa.cast(checked, JSONB)))
        return list(connection.execute(query).scalars())


def _checked(registry: Registry, job: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(job.get("handler"), str):
        raise WrongUsage("A job has no handler")
    handler = registry[job["handler"]]
    payload = {} if job.get("payload") is None else job["payload"]
    return {**job, "payload": registry.validated(handler.name, payload), "own_run": handler.own_run}


def cancel_job(connection: sa.Connection, job_id: int, reason: str = "cancelled") -> bool:
    """The SQL function of that name: whether there was anything to cancel.

    Raises:
        NotFound: there is no such job.
    """
    return bool(_call(connection, sa.func.flatearth.cancel_job(job_id, storable(reason))))


def retry_job(connection: sa.Connection, job_id: int) -> int:
    """The SQL function of that name: a failed or cancelled job waits again, due now, its attempts counted anew.

    Raises:
        NotFound: there is no such job.
        WrongUsage: it is neither failed nor cancelled, or another job has its key by now.
    """
    return int(_call(connection, sa.func.flatearth.retry_job(job_id)))


def delete_job(connection: sa.Connection, job_id: int) -> None:
    """The SQL function of that name.

    Raises:
        NotFound: there is no such job.
        WrongUsage: it is running.
    """
    _call(connection, sa.func.flatearth.delete_job(job_id))


def pause_jobs(connection: sa.Connection, handler: str = "*") -> bool:
    """The SQL function of that name: whether the handler, or the whole queue, was not paused already."""
    return bool(_call(connection, sa.func.flatearth.pause_jobs(handler)))


def resume_jobs(connection: sa.Connection, handler: str = "*") -> bool:
    """The SQL function of that name: whether the handler, or the whole queue, was paused."""
    return bool(_call(connection, sa.func.flatearth.resume_jobs(handler)))


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
    return int(_call(connection, sa.func.flatearth.make_job_partitions()))


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


def set_job_limit(connection: sa.Connection, account_id: int, per_minute: int | None) -> None:
    """How many jobs the account may enqueue in a minute; None for any number."""
    if per_minute is None:
        connection.execute(sa.text("DELETE FROM flatearth.job_limits WHERE account_id = :id"), {"id": account_id})
        return
    with contract_errors():
        connection.execute(
            sa.text(
                "INSERT INTO flatearth.job_limits (account_id, per_minute) VALUES (:id, :per_minute)"
                " ON CONFLICT (account_id) DO UPDATE SET per_minute = excluded.per_minute"
            ),
            {"id": account_id, "per_minute": per_minute},
        )


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


def is_due(connection: sa.Connection) -> tuple[bool, bool]:
    """Whether a job or cron job is due for a batch, and whether one that asks for a run of its own is."""
    query = sa.text(
        "SELECT coalesce(flatearth.next_job_due(false) <= clock_timestamp(), false),"
        " coalesce(flatearth.next_job_due(true) <= clock_timestamp(), false)"
    )
    light, heavy = connection.execute(query).one()
    return light, heavy


def is_being_drained(connection: sa.Connection) -> bool:
    """Whether a drain is at work, as far as its last sign of life tells."""
    query = sa.text(
        "SELECT EXISTS (SELECT FROM flatearth.job_leases"
        " WHERE NOT own_run AND renewed_at > clock_timestamp() - interval '15 seconds')"
    )
    return bool(connection.execute(query).scalar_one())


@contextlib.contextmanager
def contract_errors() -> Generator[None]:
    """The contract's SQLSTATEs as this package's errors, with Postgres's own sentence."""
    kinds = {
        "42501": NotPermitted,
        "P0002": NotFound,
        "22023": WrongUsage,
        "53400": LimitReached,
        "23503": NotFound,
        "22003": WrongUsage,
        "22P02": WrongUsage,
        "22P05": WrongUsage,
        "22007": WrongUsage,
        "22008": WrongUsage,
        "22015": WrongUsage,
        "23514": WrongUsage,
    }
    try:
        yield
    except DBAPIError as error:
        if not isinstance(error.orig, psycopg.Error):
            raise
        if isinstance(error.orig, psycopg.DataError) and error.orig.sqlstate is None:
            raise WrongUsage(str(error.orig)) from None  # psycopg's own: a text with NUL
        kind = kinds.get(error.orig.sqlstate or "")
        if kind is None:
            raise
        raise kind(_sentence(error.orig)) from None
    except UnicodeEncodeError:
        raise WrongUsage("A text has a lone surrogate, which Postgres cannot store") from None


def _sentence(error: psycopg.Error) -> str:
    missing = re.fullmatch(r"Key \(account_id\)=\((\d+)\) is not .*", error.diag.message_detail or "")
    return f"There is no account {missing[1]}" if missing else error.diag.message_primary or "Postgres refused"


def _call(connection: sa.Connection, function: sa.Function[Any]) -> Any:
    with contract_errors():
        return connection.execute(sa.select(function)).scalar_one()
