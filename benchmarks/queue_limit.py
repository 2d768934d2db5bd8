"""What Postgres can do: the statements of a drain and of an application, without a queue around them.

By pgbench where it is, else by a bare loop over psycopg.
"""

import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import LiteralString

import psycopg

from benchmarks.data import WrongResult
from benchmarks.servers import connected
from flatearth_pipelines import database

_A_CLAIM = 1_000

_CLAIM: LiteralString = "select coalesce(array_agg(id), '{}')::text as ids from flatearth.claim_jobs(%s, %s)"
_FINISH: LiteralString = "select flatearth.finish_jobs(%s, %s::bigint[])"

_LEASE = """
insert into flatearth.job_leases (owner, expires_at) values ('benchmark', clock_timestamp() + interval '1 hour')
returning id
"""

_COMPARABLE = "create table if not exists comparable (like flatearth.live_jobs including all)"

INSERT: LiteralString = (
    "insert into comparable (handler, run_at, timeout_ms, payload) values ('noop', now(), 60000, '{}') returning id"
)
ENQUEUE: LiteralString = "select flatearth.enqueue_job('noop', '{}', timeout => interval '1 minute')"


def pgbench() -> str | None:
    """The program, wherever Debian's packages put it."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/pgbench"))
    return shutil.which("pgbench") or (str(versions[-1]) if versions else None)


def name() -> str:
    """What the figures are compared with."""
    return "pgbench" if pgbench() else "a bare psycopg loop"


def drain(conninfo: str, jobs: int) -> float:
    """Seconds to claim and finish that many jobs on one connection, each claim with the end of the one before."""
    with connected(conninfo) as connection:
        [(lease,)] = connection.execute(_LEASE).fetchall()
        connection.execute("select flatearth.make_job_partitions()")
    rounds = -(-jobs // _A_CLAIM) + 1
    if pgbench() is None:
        began = time.monotonic()
        with connected(conninfo) as connection:
            _loop(connection, int(lease), rounds)
        return time.monotonic() - began
    finish = _FINISH % (lease, "':ids'")
    claim = _CLAIM % (lease, _A_CLAIM)
    script = f"begin;\n{finish};\n{claim} \\gset\ncommit;\n"
    return _seconds(conninfo, script, rounds, "-M", "simple", "-D", "ids={}")


def statements(conninfo: str, statement: LiteralString, number: int) -> float:
    """Seconds for so many transactions of one statement on one connection."""
    if pgbench() is not None:
        return _seconds(conninfo, f"{statement};\n", number, "-M", "prepared")
    with connected(conninfo) as connection:
        began = time.monotonic()
        for _ in range(number):
            connection.execute(statement)
        return time.monotonic() - began


def make_comparable(conninfo: str) -> None:
    """A table with the columns, constraints and indexes of the queue's."""
    with connected(conninfo) as connection:
        connection.execute(_COMPARABLE)


def _loop(connection: psycopg.Connection, lease: int, rounds: int) -> None:
    ids = "{}"
    for _ in range(rounds):
        with connection.transaction():
            connection.execute(_FINISH, [lease, ids])
            [(ids,)] = connection.execute(_CLAIM, [lease, _A_CLAIM]).fetchall()


def _seconds(conninfo: str, script: str, transactions: int, *options: str) -> float:
    """By pgbench's own clock: the transactions on one connection, and connecting.

    Raises:
        WrongResult: it failed.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write(script)
        file.flush()
        command: Sequence[str] = (
            *(pgbench() or "pgbench", "-n", "-c", "1", "-t", str(transactions), *options, "-f", file.name),
            database.url(conninfo),
        )
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    rate = re.search(r"^tps = ([\d.]+)", done.stdout, re.MULTILINE)
    connecting = re.search(r"^initial connection time = ([\d.]+) ms", done.stdout, re.MULTILINE)
    if done.returncode != 0 or rate is None or connecting is None:
        raise WrongResult(f"pgbench ended with {done.returncode}: {done.stderr[-2000:]}")
    return transactions / float(rate[1]) + float(connecting[1]) / 1000
