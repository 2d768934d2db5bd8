"""Drains for tests, in a thread or in a process of their own, and handlers that say in the database how far they are.

`python -m flatearth_pipelines_tests.queue.workers '{"lease": 60, "hang": "in the handler"}'` runs one drain on the
database of the environment, with options in seconds; it hangs for ever once it is at that step. What handlers do stands
in `flatearth.accounts`, as names such as `began 12`: a table that nothing else in these tests writes to.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future
from datetime import timedelta
from typing import Any

import psycopg
import sqlalchemy as sa
from pydantic import model_validator
from sqlalchemy import event

from flatearth_pipelines.queue import storage
from flatearth_pipelines.queue.backoff import Fixed
from flatearth_pipelines.queue.clerk import Options
from flatearth_pipelines.queue.drain import Drain
from flatearth_pipelines.queue.handlers import Context, Guarantee, Handler, NoPayload, Payload, Registry
from flatearth_pipelines.queue.ledger import Report
from flatearth_pipelines_tests.conftest import ROOT
from flatearth_pipelines_tests.queue.conftest import enqueue

DEADLINE = 60.0
"""Seconds after which a test does not wait any longer for what it expects."""

AT_ONCE = Fixed(timedelta(0))

_LONG = 60.0

_hang = {"at": ""}

_ADD_ACCOUNT = "INSERT INTO flatearth.accounts (name) VALUES (%s)"


# For tests


def handler(run: Callable[[Context, Any], Any], **options: Any) -> Handler:
    """Of the function's name, without payload, retried at once."""
    defaults: dict[str, Any] = {"name": getattr(run, "__name__", ""), "payload": NoPayload, "backoff": AT_ONCE}
    return Handler(run=run, **defaults | options)


def new_drain(conninfo: str, handlers: Registry | Iterable[Handler], **options: Any) -> Drain:
    """Not begun; spans of time are in seconds."""
    registry = handlers if isinstance(handlers, Registry) else Registry(handlers)
    return Drain(conninfo, registry, "drain of a test", _options(options))


def start(drain: Drain) -> Future[Report]:
    """Run it in a thread that dies with the tests if it does not end."""
    ended: Future[Report] = Future()

    def body() -> None:
        try:
            ended.set_result(drain.run())
        except BaseException as error:  # noqa: BLE001 - raised again by result()
            ended.set_exception(error)

    threading.Thread(target=body, name="drain", daemon=True).start()
    return ended


def drained(conninfo: str, handlers: Registry | Iterable[Handler], **options: Any) -> Report:
    """The report of a drain that has ended by itself."""
    return start(new_drain(conninfo, handlers, **options)).result(DEADLINE)


@contextlib.contextmanager
def draining(conninfo: str, handlers: Registry | Iterable[Handler], **options: Any) -> Generator[Drain]:
    """A drain at work beside the test, which stays until the end and must end well then."""
    drain = new_drain(conninfo, handlers, **{"stay": _LONG, "grace": 1} | options)
    ended = start(drain)
    try:
        yield drain
    finally:
        drain.stop()
    ended.result(DEADLINE)


@contextlib.contextmanager
def process(**options: Any) -> Generator[subprocess.Popen[str]]:
    """A drain in a process of its own, killed at the end if it still runs."""
    started = subprocess.Popen(
        [sys.executable, "-m", __name__, json.dumps(options)],
        cwd=ROOT,
        env={**os.environ, "PWD": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with started:
        try:
            yield started
        finally:
            started.kill()


def kill_at(engine: sa.Engine, step: str, **options: Any) -> None:
    """Run a drain in a process of its own up to this step, end it by `kill -9`, and have its leases run out."""
    with process(hang=step, **options) as worker:
        until(lambda: f"at: {step}" in names(engine))
        worker.kill()
        assert worker.wait(DEADLINE) == -signal.SIGKILL
    until_gone(engine)
    expire_leases(engine)


def until_gone(engine: sa.Engine) -> None:
    """Postgres has noticed that no drain is connected any more."""
    query = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name LIKE 'drain of a test%'"
    )
    until(lambda: scalar(engine, query) == 0)


def expire_leases(engine: sa.Engine) -> None:
    """Without waiting for it."""
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE flatearth.job_leases SET expires_at = clock_timestamp()"))


def until(condition: Callable[[], object]) -> None:
    """Wait for it, as long as `DEADLINE` at most."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not happen"
        time.sleep(0.01)


def add(engine: sa.Engine, handler: str, payload: Any = None, **options: Any) -> int:
    """Enqueue and commit; the job's id."""
    with engine.begin() as connection:
        return enqueue(connection, handler, payload, **options)


def job(engine: sa.Engine, job_id: int) -> dict[str, Any]:
    """Its row in the view `jobs`."""
    with engine.connect() as connection:
        return storage.read_job(connection, job_id)


def states(engine: sa.Engine) -> dict[int, str]:
    """Of every job."""
    with engine.connect() as connection:
        return {row.id: row.state for row in connection.execute(sa.text("SELECT id, state FROM flatearth.jobs"))}


def names(engine: sa.Engine) -> list[str]:
    """What handlers wrote down, in this order."""
    with engine.connect() as connection:
        return list(connection.execute(sa.text("SELECT name FROM flatearth.accounts ORDER BY id")).scalars())


def scalar(engine: sa.Engine, query: str) -> Any:
    with engine.connect() as connection:
        return connection.execute(sa.text(query)).scalar()


def change(engine: sa.Engine, statement: str, **values: Any) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text(statement), values)


# For handlers


def note(what: str) -> None:
    """Write it down at once, whatever becomes of any transaction."""
    with psycopg.connect(os.environ["FLATEARTH_DATABASE_URL"], autocommit=True) as connection:
        connection.execute(_ADD_ACCOUNT, [what])


def hang_at(step: str) -> None:
    if _hang["at"] == step:
        note(f"at: {step}")
        time.sleep(_LONG)


class _Noted(Payload):
    """Of a job that has a step between its claim and its handler."""

    @model_validator(mode="after")
    def _hang(self) -> "_Noted":
        hang_at("after the claim")
        return self


class _SlowResult(Mapping[str, int]):
    """Read after the handler, before its job's completion."""

    def __iter__(self) -> Iterator[str]:
        hang_at("before completion")
        return iter(["written"])

    def __len__(self) -> int:
        return 1

    def __getitem__(self, key: str) -> int:
        return {"written": 1}[key]


def write(context: Context, _payload: _Noted) -> Mapping[str, int]:
    """Transactional: one row in its own transaction."""
    note(f"began {context.job_id}")
    context.connection.execute(sa.text("INSERT INTO flatearth.accounts (name) VALUES ('written')"))
    hang_at("in the handler")
    if _hang["at"] == "after the commit":
        event.listen(context.connection.engine, "checkin", lambda *_: hang_at("after the commit"))
    return _SlowResult()


def call(context: Context, _payload: _Noted) -> Mapping[str, int]:
    """As one that calls somebody: what it did stands, whatever becomes of the job."""
    note(f"began {context.job_id}")
    hang_at("in the handler")
    note(f"called {context.job_id}")
    return _SlowResult()


async def call_async(context: Context, payload: _Noted) -> Mapping[str, int]:
    return call(context, payload)


def kill(context: Context, _payload: NoPayload) -> None:
    """Takes its worker with it."""
    note(f"began {context.job_id}")
    os.kill(os.getpid(), signal.SIGKILL)


def wait(context: Context, _payload: NoPayload) -> None:
    """Runs until it is told to stop."""
    note(f"began {context.job_id}")
    while True:
        context.check()
        time.sleep(0.01)


REGISTRY = Registry(
    [
        handler(write, payload=_Noted, guarantee=Guarantee.TRANSACTIONAL),
        handler(call, payload=_Noted),
        handler(call_async, payload=_Noted),
        handler(call, name="call_once", payload=_Noted, guarantee=Guarantee.AT_MOST_ONCE),
        handler(kill, max_attempts=3),
        handler(wait),
    ]
)


def main() -> None:
    options = json.loads(sys.argv[1])
    _hang["at"] = options.pop("hang", "")
    drain = new_drain(os.environ["FLATEARTH_DATABASE_URL"], REGISTRY, **options)
    signal.signal(signal.SIGTERM, lambda *_: drain.stop())
    ended = start(drain)
    while not ended.done():
        time.sleep(0.02)
    report = ended.result()
    sys.stdout.write(json.dumps({f"{name} {outcome}": count for (name, outcome), count in report.outcomes.items()}))


def _options(seconds: Mapping[str, Any]) -> Options:
    spans = {"lease", "stay", "longest", "grace"}
    values: dict[str, Any] = {
        name: timedelta(seconds=value) if name in spans else value for name, value in seconds.items()
    }
    return Options(**values)


if __name__ == "__main__":
    main()
