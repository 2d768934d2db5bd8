"""What a drain says to Postgres: its lease, its claims, and how its jobs ended. Beside `storage`, which is for people.

The connections are in autocommit mode; inside a pipeline everything up to its end is one transaction.
"""

import json
import random
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import args_row, dict_row

from flatearth_pipelines.errors import LeaseLost
from flatearth_pipelines.queue.crons import WrongPattern, next_fire
from flatearth_pipelines.queue.handlers import Registry, one_line
from flatearth_pipelines.queue.settlement import Orphan, in_milliseconds, verdict

_CLAIM = """
SELECT
    id, handler, payload::text, attempts, max_attempts, timeout_ms, backoff, account_id, lost_workers, priority, run_at,
    concurrency_key IS NOT NULL
FROM flatearth.claim_jobs(%(lease)s, %(most)s, %(own_run)s, %(priority)s, %(run_at)s, %(id)s)
ORDER BY priority DESC, run_at, id
"""

_CRONS_A_TICK = 100


class Job(NamedTuple):
    """What a claim returns of a job."""

    id: int
    handler: str
    payload: str
    attempts: int
    max_attempts: int | None
    timeout_ms: int | None
    backoff: dict[str, Any] | None
    account_id: int | None
    lost_workers: int
    priority: int
    run_at: datetime
    keyed: bool
    """It has a concurrency key."""


async def open_lease(
    connection: psycopg.AsyncConnection, owner: str, lasts: timedelta, *, own_run: bool = False
) -> tuple[int, datetime]:
    """A new lease, and the instant by the database's clock. Makes the partitions that its jobs will end in."""
    await connection.execute("SELECT flatearth.make_job_partitions()")
    cursor = await connection.execute(
        "INSERT INTO flatearth.job_leases (owner, expires_at, own_run) VALUES (%s, clock_timestamp() + %s, %s)"
        " RETURNING id, clock_timestamp()",
        [owner, lasts, own_run],
    )
    row = await cursor.fetchone()
    if row is None:
        raise RuntimeError("INSERT ... RETURNING returned nothing")
    return row[0], row[1]


def renew_lease(connection: psycopg.Connection, lease_id: int, lasts: timedelta) -> None:
    """Prolong the lease.

    Raises:
        LeaseLost: it has run out, and nothing brings it back.
    """
    renewed = connection.execute(
        "UPDATE flatearth.job_leases SET renewed_at = clock_timestamp(), expires_at = clock_timestamp() + %s"
        " WHERE id = %s AND expires_at > clock_timestamp()",
        [lasts, lease_id],
    )
    if renewed.rowcount != 1:
        raise LeaseLost(f"Lease {lease_id} has run out: its jobs belong to somebody else")


async def say_waiting(connection: psycopg.AsyncConnection, lease_id: int, *, waiting: bool) -> None:
    """Ask to be notified of new jobs, or not any more."""
    await connection.execute("UPDATE flatearth.job_leases SET waiting = %s WHERE id = %s", [waiting, lease_id])


async def close_lease(connection: psycopg.AsyncConnection, lease_id: int) -> None:
    """End the lease, unless it still has jobs: those are then rescued when it runs out."""
    await connection.execute(
        "DELETE FROM flatearth.job_leases AS l WHERE id = %s"
        " AND NOT EXISTS (SELECT FROM flatearth.live_jobs AS j WHERE j.lease_id = l.id)",
        [lease_id],
    )


async def claim(
    connection: psycopg.AsyncConnection,
    lease_id: int,
    most: int,
    *,
    own_run: bool = False,
    after: Job | None = None,
) -> psycopg.AsyncCursor[Job]:
    """Up to that many due jobs, from now on the lease's; `after` is the last one of the claim before.

    An error of SQLSTATE 55000 says that the lease has run out.
    """
    cursor = connection.cursor(binary=True, row_factory=args_row(Job))
    place = (after.priority, after.run_at, after.id) if after else (None, None, None)
    names = ("lease", "most", "own_run", "priority", "run_at", "id")
    return await cursor.execute(_CLAIM, dict(zip(names, (lease_id, most, own_run, *place), strict=True)))


async def finish(
    connection: psycopg.AsyncConnection, lease_id: int, job_ids: Sequence[int], results: Mapping[str, Any]
) -> psycopg.AsyncCursor[Any]:
    """These jobs succeeded; the cursor says how many of them were still the lease's."""
    return await connection.execute(
        "SELECT flatearth.finish_jobs(%s, %s::bigint[], %s::jsonb)",
        [lease_id, _array(job_ids), json.dumps(results, ensure_ascii=False) if results else None],
    )


async def cancel(
    connection: psycopg.AsyncConnection, lease_id: int, job_ids: Sequence[int], reason: str
) -> psycopg.AsyncCursor[Any]:
    """These jobs were stopped because somebody cancelled them."""
    return await connection.execute(
        "SELECT flatearth.finish_jobs(%s, %s::bigint[], NULL, 'cancelled', %s)", [lease_id, _array(job_ids), reason]
    )


async def fail(
    connection: psycopg.AsyncConnection,
    lease_id: int,
    failures: Sequence[tuple[int, str, int | None]],
    *,
    lost: bool = False,
) -> psycopg.AsyncCursor[Any]:
    """These jobs failed, with that error, and wait for that many milliseconds; None: they are dead."""
    job_ids, errors, waits = zip(*failures, strict=True)
    return await connection.execute(
        "SELECT flatearth.fail_jobs(%s, %s::bigint[], %s::text[], %s::bigint[], %s)",
        [lease_id, list(job_ids), list(errors), list(waits), lost],
    )


async def hand_back(
    connection: psycopg.AsyncConnection, lease_id: int, job_ids: Sequence[int], *, own_run: bool | None = None
) -> psycopg.AsyncCursor[Any]:
    """These jobs wait again, as if they had not been claimed."""
    return await connection.execute(
        "SELECT flatearth.hand_back_jobs(%s, %s::bigint[], %s::boolean)", [lease_id, _array(job_ids), own_run]
    )


async def seconds_until_due(connection: psycopg.AsyncConnection, *, own_run: bool) -> float | None:
    """Until the next job or cron job is due, 0 or less when one is; None when there is none."""
    cursor = await connection.execute(
        "SELECT extract(epoch FROM flatearth.next_job_due(%s) - clock_timestamp())::float8", [own_run]
    )
    row = await cursor.fetchone()
    return row[0] if row else None


async def sweep(connection: psycopg.AsyncConnection) -> int:
    """Wake jobs that wait for something that is over; return how many."""
    row = await (await connection.execute("SELECT flatearth.sweep_jobs()")).fetchone()
    return row[0] if row else 0


async def rescue(connection: psycopg.AsyncConnection, registry: Registry, own_lease: int | None = None) -> int:
    """Settle the jobs of leases that have run out, whose workers are lost; return how many there were.

    Not those of one's own lease: that it is lost the next claim says.
    """
    rescued = 0
    while True:
        async with connection.transaction():
            cursor = await connection.execute(
                "SELECT id FROM flatearth.job_leases WHERE expires_at <= clock_timestamp() AND id IS DISTINCT FROM %s"
                " ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED",
                [own_lease],
            )
            lease = await cursor.fetchone()
            if lease is None:
                return rescued
            rescued += await _settle(connection, lease[0], registry)
            await connection.execute("DELETE FROM flatearth.job_leases WHERE id = %s", lease)


async def _settle(connection: psycopg.AsyncConnection, lease_id: int, registry: Registry) -> int:
    cursor = connection.cursor(row_factory=args_row(Orphan))
    await cursor.execute(
        "SELECT j.id, j.handler, j.attempts, j.max_attempts, j.backoff, r.reason FROM flatearth.live_jobs AS j"
        " LEFT JOIN flatearth.job_stop_requests AS r ON r.job_id = j.id WHERE j.lease_id = %s",
        [lease_id],
    )
    orphans = await cursor.fetchall()
    failures = []
    for orphan in orphans:
        if orphan.stop_reason is not None:
            await cancel(connection, lease_id, [orphan.id], orphan.stop_reason)
            continue
        said = verdict(orphan, registry.get(orphan.handler), random.random())  # noqa: S311
        failures.append((orphan.id, said.error, None if said.retry_in is None else in_milliseconds(said.retry_in)))
    if failures:
        await fail(connection, lease_id, failures, lost=True)
    return len(orphans)


async def tick_crons(connection: psycopg.AsyncConnection, registry: Registry) -> int:
    """Enqueue one job for each cron job that is due, however long it has been, and say when it is due next.

    A row that was written by SQL has no next run yet: it gets one. What cannot be understood is disabled, and says why.
    Returns how many jobs were enqueued.
    """
    ticked = 0
    async with connection.transaction():
        cursor = connection.cursor(row_factory=dict_row)
        await cursor.execute(
            "SELECT id, pattern, time_zone, handler, payload::text AS payload, priority, max_attempts,"
            " backoff::text AS backoff, timeout_ms, account_id,"
            " CASE WHEN next_run_at < 'epoch' THEN 'epoch' ELSE next_run_at END AS next_run_at,"  # Python knows no BC
            " clock_timestamp() AS as_of"
            " FROM flatearth.cron_jobs"
            " WHERE enabled AND (next_run_at IS NULL OR next_run_at <= clock_timestamp())"
            " ORDER BY next_run_at, id LIMIT %s FOR UPDATE SKIP LOCKED",
            [_CRONS_A_TICK],
        )
        for row in await cursor.fetchall():
            ticked += await _tick(connection, row, registry)
    return ticked


async def _tick(connection: psycopg.AsyncConnection, row: dict[str, Any], registry: Registry) -> int:
    try:
        following = next_fire(row["pattern"], row["time_zone"], row["as_of"], anchor=row["next_run_at"])
    except WrongPattern as error:
        await connection.execute(
            "UPDATE flatearth.cron_jobs SET enabled = false, last_error = %s WHERE id = %s", [str(error), row["id"]]
        )
        return 0
    if row["next_run_at"] is None:
        await connection.execute(
            "UPDATE flatearth.cron_jobs SET next_run_at = %s WHERE id = %s", [following, row["id"]]
        )
        return 0
    handler = registry.get(row["handler"])
    try:
        async with connection.transaction():
            cursor = await connection.execute(
                "SELECT flatearth.enqueue_job(%(handler)s, %(payload)s::jsonb, priority => %(priority)s,"
                " max_attempts => %(max_attempts)s, backoff => %(backoff)s::jsonb,"
                " timeout => %(timeout_ms)s * interval '1 millisecond', account_id => %(account_id)s,"
                " own_run => %(own_run)s, origin => 'cron', cron_job_id => %(id)s)",
                row | {"own_run": handler is not None and handler.own_run},
            )
            made = await cursor.fetchone()
    except psycopg.errors.DatabaseError as error:  # the account's limit, say: this run is left out
        await connection.execute(
            "UPDATE flatearth.cron_jobs SET next_run_at = %s, last_error = %s WHERE id = %s",
            [following, one_line(error), row["id"]],
        )
        return 0
    await connection.execute(
        "UPDATE flatearth.cron_jobs SET next_run_at = %s, last_run_at = %s, last_job_id = %s,"
        " run_count = run_count + 1, last_error = NULL WHERE id = %s",
        [following, row["as_of"], made[0] if made else None, row["id"]],
    )
    return 1


def read_stop_requests(connection: psycopg.Connection, lease_id: int) -> list[tuple[int, str]]:
    """Which jobs of the lease are to stop, and why."""
    return connection.execute(
        "SELECT r.job_id, r.reason FROM flatearth.job_stop_requests AS r"
        " JOIN flatearth.live_jobs AS j ON j.id = r.job_id WHERE j.lease_id = %s",
        [lease_id],
    ).fetchall()


def write_progress(connection: psycopg.Connection, lease_id: int, progress: Mapping[int, tuple[float, str]]) -> None:
    """How far these jobs are, as far as they are still the lease's."""
    connection.cursor().executemany(
        "INSERT INTO flatearth.job_progress (job_id, percent, line)"
        " SELECT id, %s, %s FROM flatearth.live_jobs WHERE id = %s AND lease_id = %s"
        " ON CONFLICT (job_id) DO UPDATE"
        " SET percent = excluded.percent, line = excluded.line, reported_at = clock_timestamp()",
        [(percent, line, job_id, lease_id) for job_id, (percent, line) in progress.items()],
    )


def _array(numbers: Sequence[int]) -> str:
    return f"{{{','.join(map(str, numbers))}}}"
