"""The queue's SQL functions from Python: what an application or an operator asks of it, in their own transaction."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from flatearth_pipelines.contract import call, contract_errors
from flatearth_pipelines.errors import WrongUsage
from flatearth_pipelines.queue.backoff import Backoff, backoff_to_json
from flatearth_pipelines.queue.handlers import Registry, storable

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
    checked = [_checked(registry, job) for job in jobs]
    with contract_errors():
        query = sa.select(sa.func.flatearth.enqueue_jobs(sa.cast(checked, JSONB)))
        return list(connection.execute(query).scalars())


def cancel_job(connection: sa.Connection, job_id: int, reason: str = "cancelled") -> bool:
    """The SQL function of that name: whether there was anything to cancel.

    Raises:
        NotFound: there is no such job.
    """
    return bool(call(connection, sa.func.flatearth.cancel_job(job_id, storable(reason))))


def retry_job(connection: sa.Connection, job_id: int) -> int:
    """The SQL function of that name: a failed or cancelled job waits again, due now, its attempts counted anew.

    Raises:
        NotFound: there is no such job.
        WrongUsage: it is neither failed nor cancelled, or another job has its key by now.
    """
    return int(call(connection, sa.func.flatearth.retry_job(job_id)))


def delete_job(connection: sa.Connection, job_id: int) -> None:
    """The SQL function of that name.

    Raises:
        NotFound: there is no such job.
        WrongUsage: it is running.
    """
    call(connection, sa.func.flatearth.delete_job(job_id))


def pause_jobs(connection: sa.Connection, handler: str = "*") -> bool:
    """The SQL function of that name: whether the handler, or the whole queue, was not paused already."""
    return bool(call(connection, sa.func.flatearth.pause_jobs(handler)))


def resume_jobs(connection: sa.Connection, handler: str = "*") -> bool:
    """The SQL function of that name: whether the handler, or the whole queue, was paused."""
    return bool(call(connection, sa.func.flatearth.resume_jobs(handler)))


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


def _checked(registry: Registry, job: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(job.get("handler"), str):
        raise WrongUsage("A job has no handler")
    handler = registry[job["handler"]]
    payload = {} if job.get("payload") is None else job["payload"]
    return {**job, "payload": registry.validated(handler.name, payload), "own_run": handler.own_run}
