"""Clean-ups as processes, killed and cancelled: whole batches are gone, nothing else is, and the next run goes on."""

import signal
import subprocess
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from flatearth_pipelines import tables
from flatearth_pipelines.cleanup.retention import RETENTIONS
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.cleanup import observed
from flatearth_pipelines_tests.factories import DAY, NOON
from flatearth_pipelines_tests.processes import ended, job_execute, until

ROWS = 20_000
BATCH_SIZE = 20


@pytest.fixture
def logs(engine: sa.Engine) -> list[int]:
    """The ids of more old audit logs than a run deletes before it is cut short; the youngest is the first."""
    with engine.begin() as connection:
        account = make.account(connection)
        numbers = sa.func.generate_series(1, ROWS).column_valued("number")
        age = sa.literal(NOON - 91 * DAY) - numbers * sa.literal(DAY / 24)
        rows = sa.select(sa.literal(account), sa.literal("card.read"), age)
        insert = sa.insert(tables.api_audit_logs).from_select(["account_id", "action", "created_at"], rows)
        return sorted(connection.execute(insert.returning(tables.api_audit_logs.c.id)).scalars())


def a_run(tmp_path: Path, **config: Any) -> AbstractContextManager[subprocess.Popen[str]]:
    retention = RETENTIONS["audit_logs"]
    return job_execute(
        tmp_path, retention.job, f"sweep_{retention.target}", {"as_of": NOON.isoformat(), "max_seconds": 600} | config
    )


def test_a_run_killed_in_the_middle_leaves_whole_batches_and_the_next_run_finishes(
    engine: sa.Engine, database: str, logs: list[int], tmp_path: Path
) -> None:
    with a_run(tmp_path, batch_size=BATCH_SIZE) as process:
        until(lambda: observed.count(engine, tables.api_audit_logs) <= ROWS - 10 * BATCH_SIZE)
        process.kill()
        exit_code, _ = ended(process)
    until(lambda: sessions(database) == 0)

    assert exit_code == -signal.SIGKILL
    left = observed.ids(engine, tables.api_audit_logs)
    assert 0 < len(left) < ROWS
    assert len(left) % BATCH_SIZE == 0
    assert left == logs[: len(left)], "the oldest went first"

    with a_run(tmp_path) as process:
        exit_code, output = ended(process)
    assert exit_code == 0, output
    assert observed.count(engine, tables.api_audit_logs) == 0


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.usefixtures("logs")
def test_a_cancelled_run_leaves_whole_batches_says_how_much_was_done_and_no_statement_at_work(
    engine: sa.Engine, database: str, tmp_path: Path, sign: signal.Signals
) -> None:
    """It is cancelled while a batch waits for a table that somebody is changing."""
    with psycopg.connect(database) as somebody, a_run(tmp_path, batch_size=BATCH_SIZE) as process:
        until(lambda: observed.count(engine, tables.api_audit_logs) < ROWS)
        somebody.execute("LOCK TABLE flatearth.api_audit_logs IN SHARE MODE")
        until(lambda: sessions(database, "wait_event_type = 'Lock'") == 1)
        process.send_signal(sign)
        exit_code, output = ended(process)

        assert sessions(database, "state <> 'idle'") == 0
        assert exit_code != 0, output
        left = observed.count(engine, tables.api_audit_logs)
    assert 0 < left < ROWS
    assert left % BATCH_SIZE == 0
    assert f"Stopped: {ROWS - left:,} audit logs deleted" in output


def sessions(conninfo: str, condition: str = "true") -> int:
    """How many the job has in this database, of those that meet the SQL condition."""
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        f" AND application_name LIKE 'flatearth delete_old_audit_logs %' AND {condition}"
    )
    with psycopg.connect(conninfo) as connection:
        (count,) = connection.execute(query.encode()).fetchone() or (0,)
        return int(count)
