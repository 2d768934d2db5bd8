"""What the queue's tests share: handlers that do nothing, and what an application and a drain say in SQL."""

import json
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from flatearth_pipelines.queue.handlers import Context, Handler, NoPayload, Payload, Registry

MINUTE = timedelta(minutes=1)
UNKNOWN = 999_999_999


class Greeting(Payload):
    name: str


def _do_nothing(_context: Context, _payload: Payload) -> None:
    """Nothing."""


REGISTRY = Registry(
    [
        Handler("noop", NoPayload, _do_nothing),
        Handler("greet", Greeting, _do_nothing),
        Handler("heavy", NoPayload, _do_nothing, own_run=True),
    ]
)


@pytest.fixture
def lease(connection: sa.Connection) -> int:
    """A lease in the test's own transaction."""
    return open_lease(connection)


def enqueue(connection: sa.Connection, handler: str | None = "noop", payload: Any = None, **options: Any) -> int:
    """Enqueue by SQL, with the named arguments of `flatearth.enqueue_job`."""
    values = {"handler": handler, "payload": json.dumps({} if payload is None else payload)} | options
    if isinstance(values.get("backoff"), dict | list):
        values["backoff"] = json.dumps(values["backoff"])
    arguments = ", ".join(f"{name} => :{name}" for name in values)
    job_id: int = connection.execute(sa.text(f"SELECT flatearth.enqueue_job({arguments})"), values).scalar_one()
    return job_id


def open_lease(connection: sa.Connection, lasts: timedelta = 5 * MINUTE, *, waiting: bool = False) -> int:
    """The id of a new lease; one that lasts a negative time has run out."""
    query = (
        "INSERT INTO flatearth.job_leases (owner, expires_at, waiting)"
        " VALUES ('tests', clock_timestamp() + :lasts, :waiting) RETURNING id"
    )
    lease_id: int = connection.execute(sa.text(query), {"lasts": lasts, "waiting": waiting}).scalar_one()
    return lease_id


def claim(connection: sa.Connection, lease_id: int, most: int = 1_000, *, own_run: bool = False) -> list[int]:
    """The ids of the claimed jobs: highest priority first, then the longest due."""
    query = "SELECT id FROM flatearth.claim_jobs(:lease, :most, :own_run) ORDER BY priority DESC, run_at, id"
    values = {"lease": lease_id, "most": most, "own_run": own_run}
    return list(connection.execute(sa.text(query), values).scalars())


def finish(
    connection: sa.Connection, lease_id: int, job_ids: Iterable[int], results: dict[int, Any] | None = None
) -> int:
    """How many of these jobs were the lease's, and have succeeded."""
    query = "SELECT flatearth.finish_jobs(:lease, CAST(:ids AS bigint[]), CAST(:results AS jsonb))"
    values = {"lease": lease_id, "ids": list(job_ids), "results": None if results is None else json.dumps(results)}
    done: int = connection.execute(sa.text(query), values).scalar_one()
    return done


def fail(
    connection: sa.Connection,
    lease_id: int,
    job_ids: Iterable[int],
    error: str = "it broke",
    retry_in: timedelta | None = None,
    *,
    lost: bool = False,
) -> int:
    """How many of these jobs were the lease's, and are dead or wait for `retry_in`."""
    ids = list(job_ids)
    query = (
        "SELECT flatearth.fail_jobs(:lease, CAST(:ids AS bigint[]), CAST(:errors AS text[]), CAST(:waits AS bigint[]),"
        " :lost)"
    )
    wait = None if retry_in is None else retry_in // timedelta(milliseconds=1)
    values = {"lease": lease_id, "ids": ids, "errors": [error] * len(ids), "waits": [wait] * len(ids), "lost": lost}
    done: int = connection.execute(sa.text(query), values).scalar_one()
    return done


def dead_job(connection: sa.Connection, handler: str = "noop", error: str = "it broke", **options: Any) -> int:
    """The id of a job that failed for good."""
    job_id = enqueue(connection, handler, priority=2_000_000_000, **options)
    lease_id = open_lease(connection)
    assert claim(connection, lease_id, 1, own_run=options.get("own_run", False)) == [job_id]
    assert fail(connection, lease_id, [job_id], error) == 1
    return job_id


def finished_job(connection: sa.Connection, handler: str = "noop", **options: Any) -> int:
    """The id of a job that succeeded."""
    job_id = enqueue(connection, handler, priority=2_000_000_000, **options)
    lease_id = open_lease(connection)
    assert claim(connection, lease_id, 1, own_run=options.get("own_run", False)) == [job_id]
    assert finish(connection, lease_id, [job_id]) == 1
    return job_id


def in_background(other: sa.Engine, call: Callable[[sa.Connection], Any]) -> Future[Any]:
    """What `call` returns in a transaction of its own, once that has committed."""

    def run() -> Any:
        with other.begin() as connection:
            return call(connection)

    pool = ThreadPoolExecutor(1)
    future = pool.submit(run)
    pool.shutdown(wait=False)
    return future


def wait_until_blocked(engine: sa.Engine) -> None:
    """Until a session of `other_engine` waits for a lock."""
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'somebody else' AND wait_event_type = 'Lock'"
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with engine.connect() as observer:
            if observer.execute(sa.text(query)).scalar_one():
                return
        time.sleep(0.01)
    raise AssertionError("nobody waits")
