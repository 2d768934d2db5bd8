"""Dagster's daemon with this project's code location, in a directory and on a database of its own."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import psycopg

from benchmarks.data import WrongResult
from benchmarks.servers import connected, say
from flatearth_pipelines import database
from flatearth_pipelines.settings import project

_PATIENCE_SECONDS = 180
_STOP_SECONDS = 15
_LOOK_SECONDS = 0.2

_ENQUEUE = "select flatearth.enqueue_job('check_card_entropy', '{\"card_id\": 1}')"
"""Of a card that is not there: the job ends well, and does nothing."""

_LATENCY = """
select extract(epoch from started_at - run_at)::float8 from flatearth.jobs where id = %s and state = 'succeeded'
"""

_AT_WORK = """
select exists (select from flatearth.job_leases)
or exists (select from dagster.runs where status in ('QUEUED', 'NOT_STARTED', 'STARTING', 'STARTED', 'CANCELING'))
"""


@contextlib.contextmanager
def running(home: Path, conninfo: str) -> Generator[None]:
    """The daemon, with all that it starts, until the end of the block; nothing of the checkout is written to."""
    place = home / "daemon"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    for name in ("dagster.yaml", "workspace.yaml"):
        shutil.copy(project() / name, place)
    environment = {
        **os.environ,
        "DAGSTER_HOME": str(place),
        "PWD": str(place),
        "FLATEARTH_HOME": str(place / "flatearth"),
        "FLATEARTH_DATABASE_URL": database.url(conninfo),
        "FLATEARTH_SECRET_KEY": "of the benchmark, which keeps no secrets",
        "PYTHONWARNINGS": "ignore",
    }
    log = place / "daemon.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [Path(sys.executable).parent / "dagster-daemon", "run", "-w", "workspace.yaml"],
            cwd=place,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield
    except WrongResult as error:
        raise WrongResult(f"{error}: {log.read_text()[-2000:]}") from None
    finally:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def latency(conninfo: str) -> float:
    """Seconds from when a job is due to when it is claimed.

    Raises:
        WrongResult: it does not run.
    """
    with connected(conninfo) as connection:
        [(job_id,)] = connection.execute(_ENQUEUE).fetchall()
        until = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < until:
            row = connection.execute(_LATENCY, [job_id]).fetchone()
            if row:
                say(f"  from due to claimed: {row[0]:.3f} s")
                return float(row[0])
            time.sleep(_LOOK_SECONDS)
    raise WrongResult(f"the daemon did not run a job within {_PATIENCE_SECONDS} s")


def wait_until_idle(conninfo: str) -> None:
    """Return when no drain is at work and no run on its way.

    Raises:
        WrongResult: they do not end.
    """
    until = time.monotonic() + _PATIENCE_SECONDS
    with connected(conninfo) as connection:
        while time.monotonic() < until:
            with contextlib.suppress(psycopg.errors.UndefinedTable):
                if connection.execute(_AT_WORK).fetchone() == (False,):
                    return
            time.sleep(_LOOK_SECONDS)
    raise WrongResult(f"a drain did not end within {_PATIENCE_SECONDS} s")
