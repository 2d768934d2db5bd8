"""The job as a process, killed: whole transactions stay, and the next run tells the rest, nobody twice."""

import signal
import subprocess
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa

from flatearth_pipelines import tables
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.notifications import observed
from flatearth_pipelines_tests.notifications.workspace import Workspace
from flatearth_pipelines_tests.processes import ended, job_execute, until

EVENTS = 5_000
BATCH_SIZE = 20


def notify_recipients(tmp_path: Path, **config: Any) -> AbstractContextManager[subprocess.Popen[str]]:
    return job_execute(tmp_path, "notify_recipients", "notify_people", config)


def test_a_run_killed_in_the_middle_leaves_whole_transactions_and_the_next_run_tells_the_rest_once(
    engine: sa.Engine, database: str, tmp_path: Path
) -> None:
    with engine.begin() as connection:
        work = Workspace(connection)
        people = [work.watcher(connection) for _ in range(3)]
        events = make.events(connection, work.board, work.actor, EVENTS)

    with notify_recipients(tmp_path, batch_size=BATCH_SIZE) as process:
        until(lambda: told(engine) >= 10 * BATCH_SIZE)
        process.kill()
        exit_code, _ = ended(process)
    until(lambda: sessions(database) == 0)

    assert exit_code == -signal.SIGKILL
    with engine.connect() as connection:
        waiting, _ = observed.waiting(connection)
        assert 0 < waiting < EVENTS
        assert waiting % BATCH_SIZE == 0
        done = events[: EVENTS - waiting]
        assert observed.told(connection) == {(event, person) for event in done for person in people}

    with notify_recipients(tmp_path) as process:
        exit_code, output = ended(process)

    assert exit_code == 0, output
    with engine.connect() as connection:
        assert observed.waiting(connection) == (0, 0)
        assert len(observed.notifications(connection)) == EVENTS * len(people)
        assert [len(observed.bundles(connection, person)) for person in people] == [1, 1, 1]


def told(engine: sa.Engine) -> int:
    """How many notifications there are."""
    with engine.connect() as connection:
        count: int = connection.execute(sa.select(sa.func.count()).select_from(tables.notifications)).scalar_one()
        return count


def sessions(conninfo: str) -> int:
    """How many the job has in this database."""
    query = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name LIKE 'flatearth notify_recipients %'"
    )
    with psycopg.connect(conninfo) as connection:
        (count,) = connection.execute(query).fetchone() or (0,)
        return int(count)
