"""The job as people and schedulers start it: `dagster job execute` in a process of its own."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import psycopg

from flatearth_pipelines_tests.conftest import ROOT
from flatearth_pipelines_tests.factories import NOON

_DEADLINE_SECONDS = 60


@contextlib.contextmanager
def job_execute(tmp_path: Path, **config: Any) -> Generator[subprocess.Popen[str]]:
    """The running process, as of `NOON` unless told otherwise; killed at the end if it still runs."""
    file = tmp_path / "config.yaml"
    op = {"postpone_stale_cards": {"config": {"as_of": NOON.isoformat()} | config}}
    file.write_text(json.dumps({"ops": op}))  # which is YAML too
    dagster = Path(sys.executable).parent / "dagster"
    process = subprocess.Popen(
        [dagster, "job", "execute", "-m", "flatearth_pipelines.definitions", "-j", "auto_postpone", "-c", file],
        cwd=ROOT,
        env={**os.environ, "PWD": str(ROOT), "PYTHONWARNINGS": "ignore"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Its exit code and all that it printed."""
    output, _ = process.communicate(timeout=_DEADLINE_SECONDS)
    return process.returncode, output


def until(condition: Callable[[], bool]) -> None:
    """Wait for it, for a minute at most."""
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def sessions(conninfo: str, condition: str = "true") -> int:
    """How many sessions the job has in this database, of those that meet the SQL condition."""
    query = (
        "SELECT count(*) FROM pg_stat_activity"
        f" WHERE datname = current_database() AND application_name LIKE 'flatearth auto_postpone %' AND {condition}"
    )
    with psycopg.connect(conninfo) as connection:
        (count,) = connection.execute(query.encode()).fetchone() or (0,)
        return int(count)
