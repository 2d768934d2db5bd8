"""Recurring work in Postgres, for people. `leases.tick_crons` is what enqueues it when it is due."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, TypedDict, Unpack

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB, insert

from flatearth_pipelines.contract import contract_errors
from flatearth_pipelines.errors import NotFound, WrongUsage
from flatearth_pipelines.queue.backoff import FEWEST_ATTEMPTS, MOST_ATTEMPTS, backoff_from_json
from flatearth_pipelines.queue.crons import next_fire
from flatearth_pipelines.queue.functions import enqueue_job
from flatearth_pipelines.queue.handlers import Registry, storable
from flatearth_pipelines.tables import accounts, cron_jobs, jobs

LONGEST_NAME = 100

_MILLISECOND = timedelta(milliseconds=1)
_INTEGER = 2**31 - 1


class Options(TypedDict, total=False):
    """What need not be said. None for the attempts, the backoff and the time limit: the handler's."""

    payload: Mapping[str, Any]
    time_zone: str
    priority: int
    max_attempts: int | None
    backoff: Mapping[str, Any] | None
    """As `flatearth.enqueue_job` takes it."""
    timeout: timedelta | None
    account_id: int | None


class Changes(Options, total=False):
    """What can be changed; what is left out stays."""

    pattern: str
    handler: str


def create_cron_job(
    connection: sa.Connection,
    registry: Registry,
    name: str,
    pattern: str,
    handler: str,
    *,
    enabled: bool = True,
    **options: Unpack[Options],
) -> int:
    """Have the handler run whenever the pattern fires from now on; return the id.

    Raises:
        NotFound: there is no such handler or account.
        WrongUsage: the name is taken, or a value is not valid.
    """
    if not 0 < len(name) <= LONGEST_NAME or storable(name) != name:
        raise WrongUsage(f"{name[:LONGEST_NAME]!r} is no name: it takes 1 to {LONGEST_NAME} characters")
    row = {"pattern": pattern, "handler": handler, "time_zone": "UTC", "payload": {}} | _columns(options)
    row["payload"] = _checked(connection, registry, row)
    next_run_at = _next_run(connection, row)
    values = row | {"name": name, "enabled": enabled, "next_run_at": next_run_at if enabled else None}
    query = insert(cron_jobs).values(_with_sql_nulls(values)).on_conflict_do_nothing(constraint="one_cron_job_per_name")
    with contract_errors():
        new_id: int | None = connection.execute(query.returning(cron_jobs.c.id)).scalar()
    if new_id is None:
        raise WrongUsage(f"There is a cron job {name!r} already")
    return new_id


def update_cron_job(connection: sa.Connection, registry: Registry, name: str, **changes: Unpack[Changes]) -> None:
    """Change some of its values. Another pattern or zone counts from now.

    Raises:
        NotFound: there is no such cron job, handler or account.
        WrongUsage: a value is not valid.
    """
    old = _locked(connection, name)
    values = _columns(changes)
    row = old | values
    payload = _checked(connection, registry, row)
    if values.keys() & {"handler", "payload"}:
        values["payload"] = payload
    next_run_at = _next_run(connection, row)
    if (row["pattern"], row["time_zone"]) != (old["pattern"], old["time_zone"]):
        values |= {"next_run_at": next_run_at if row["enabled"] else None, "last_error": None}
    _write(connection, name, values)


def enable_cron_job(connection: sa.Connection, registry: Registry, name: str) -> bool:
    """Whether it was disabled; it now runs when its pattern fires next, and what it missed is left out.

    Raises:
        NotFound: there is no such cron job, or not its handler.
        WrongUsage: it cannot run as it is.
    """
    row = _locked(connection, name)
    if row["enabled"]:
        return False
    _checked(connection, registry, row)
    _write(connection, name, {"enabled": True, "next_run_at": _next_run(connection, row), "last_error": None})
    return True


def disable_cron_job(connection: sa.Connection, name: str) -> bool:
    """Whether it was enabled. Jobs that it has enqueued already still run.

    Raises:
        NotFound: there is no such cron job.
    """
    row = _locked(connection, name)
    if row["enabled"]:
        _write(connection, name, {"enabled": False, "next_run_at": None})
    return bool(row["enabled"])


def delete_cron_job(connection: sa.Connection, name: str) -> None:
    """Forget it. Jobs that it has enqueued already still run.

    Raises:
        NotFound: there is no such cron job.
    """
    _locked(connection, name)
    connection.execute(sa.delete(cron_jobs).where(cron_jobs.c.name == name))


def trigger_cron_job(connection: sa.Connection, registry: Registry, name: str) -> int:
    """Enqueue its job now, beside its schedule, also when it is disabled; return the job's id.

    Raises:
        NotFound: there is no such cron job, or not its handler.
        WrongUsage: its payload is not valid.
        LimitReached: its account has enqueued as many jobs in this minute as it may.
    """
    row = read_cron_job(connection, name)
    return enqueue_job(
        connection,
        registry,
        row["handler"],
        row["payload"],
        priority=row["priority"],
        max_attempts=row["max_attempts"],
        backoff=None if row["backoff"] is None else backoff_from_json(row["backoff"]),
        timeout=None if row["timeout_ms"] is None else row["timeout_ms"] * _MILLISECOND,
        account_id=row["account_id"],
        origin="cron_trigger",
        cron_job_id=row["id"],
    )


def read_cron_job(connection: sa.Connection, name: str) -> dict[str, Any]:
    """Every column of the row.

    Raises:
        NotFound: there is no such cron job.
    """
    return _one(connection, name, sa.select(cron_jobs))


def read_cron_jobs(connection: sa.Connection) -> list[dict[str, Any]]:
    """Every row, by name."""
    return [dict(row) for row in connection.execute(sa.select(cron_jobs).order_by(cron_jobs.c.name)).mappings()]


def read_jobs_of(connection: sa.Connection, cron_job_id: int, most: int = 5) -> list[dict[str, Any]]:
    """The newest jobs by its schedule (`cron`) or by hand (`cron_trigger`), as far as they are kept."""
    names = ("id", "origin", "state", "attempts", "run_at", "started_at", "finished_at", "last_error")
    query = sa.select(*(jobs.c[name] for name in names)).where(jobs.c.cron_job_id == cron_job_id)
    return [dict(row) for row in connection.execute(query.order_by(jobs.c.id.desc()).limit(most)).mappings()]


def read_clock(connection: sa.Connection) -> datetime:
    """This instant by the database's clock, also late in a long transaction."""
    instant: datetime = connection.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
    return instant


def _checked(connection: sa.Connection, registry: Registry, row: Mapping[str, Any]) -> dict[str, Any]:
    """The row's payload as its handler takes it; refuses what the database would, in words."""
    payload = registry.validated(row["handler"], row["payload"])
    _check_range(row, "priority", -_INTEGER - 1, _INTEGER)
    _check_range(row, "max_attempts", FEWEST_ATTEMPTS, MOST_ATTEMPTS)
    _check_range(row, "timeout_ms", 1, _INTEGER)
    _check_backoff(connection, row.get("backoff"))
    account_id = row.get("account_id")
    if account_id is not None:
        with contract_errors():
            known = connection.execute(sa.select(sa.exists().where(accounts.c.id == account_id))).scalar_one()
        if not known:
            raise NotFound(f"There is no account {account_id}")
    return payload


def _check_range(row: Mapping[str, Any], name: str, least: int, most: int) -> None:
    value = row.get(name)
    if value is not None and not least <= value <= most:
        raise WrongUsage(f"{name} is {value}: it takes {least} to {most}")


def _check_backoff(connection: sa.Connection, backoff: Mapping[str, Any] | None) -> None:
    if backoff is None:
        return
    with contract_errors():
        known = connection.execute(sa.select(sa.func.flatearth.is_backoff(sa.cast(backoff, JSONB)))).scalar_one()
    if not known:
        raise WrongUsage(
            'backoff takes {"kind": "exponential", "seconds": 10, "most": 3600}, {"kind": "fixed", "seconds": 30} or'
            ' {"kind": "list", "seconds": [1, 5, 30]}'
        )


def _next_run(connection: sa.Connection, row: Mapping[str, Any]) -> datetime:
    return next_fire(row["pattern"], row["time_zone"], read_clock(connection))


def _columns(changes: Mapping[str, Any]) -> dict[str, Any]:
    values = dict(changes)
    if "timeout" in values:
        timeout = values.pop("timeout")
        values["timeout_ms"] = None if timeout is None else timeout // _MILLISECOND
    return values


def _with_sql_nulls(values: Mapping[str, Any]) -> dict[str, Any]:
    """SQL's null for None, which in a JSON column would be JSON's."""
    return {name: sa.null() if value is None else value for name, value in values.items()}


def _write(connection: sa.Connection, name: str, values: Mapping[str, Any]) -> None:
    if values:
        with contract_errors():
            connection.execute(sa.update(cron_jobs).where(cron_jobs.c.name == name).values(_with_sql_nulls(values)))


def _locked(connection: sa.Connection, name: str) -> dict[str, Any]:
    """The row, which neither a tick nor anybody else changes until the transaction ends."""
    return _one(connection, name, sa.select(cron_jobs).with_for_update())


def _one(connection: sa.Connection, name: str, query: sa.Select[Any]) -> dict[str, Any]:
    row = None
    if storable(name) == name:
        row = connection.execute(query.where(cron_jobs.c.name == name)).mappings().first()
    if row is None:
        raise NotFound(f"There is no cron job {name!r}")
    return dict(row)
