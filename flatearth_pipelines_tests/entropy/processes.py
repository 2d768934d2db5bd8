"""The job in a process of its own, and its sessions."""

import subprocess
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psycopg

from flatearth_pipelines_tests.factories import NOON
from flatearth_pipelines_tests.processes import job_execute


def auto_postpone(tmp_path: Path, **config: Any) -> AbstractContextManager[subprocess.Popen[str]]:
    """The running process, as of `NOON` unless told otherwise."""
    return job_execute(tmp_path, "auto_postpone", "postpone_stale_cards", {"as_of": NOON.isoformat()} | config)


def sessions(conninfo: str, condition: str = "true") -> int:
    """How many sessions the job has in this database, of those that meet the SQL condition."""
    query = (
        "SELECT count(*) FROM pg_stat_activity"
        f" WHERE datname = current_database() AND application_name LIKE 'flatearth auto_postpone %' AND {condition}"
    )
    with psycopg.connect(conninfo) as connection:
        (count,) = connection.execute(query.encode()).fetchone() or (0,)
        return int(count)
