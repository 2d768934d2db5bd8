"""The queue in whole processes: `dagster job execute` in a shell, a signal to it, and Dagster's own daemon."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Generator
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from flatearth_pipelines import tables
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.conftest import ROOT
from flatearth_pipelines_tests.factories import DAY
from flatearth_pipelines_tests.processes import PROGRAMS, ended, job_execute, until
from flatearth_pipelines_tests.queue.workers import add, job, scalar, states


def test_a_drain_in_a_shell_of_its_own_runs_what_is_due_and_says_so(engine: sa.Engine, tmp_path: Path) -> None:
    ids = checks_of_due_cards(engine, 3)
    later = add(engine, "check_card_entropy", {"card_id": 1}, delay=timedelta(hours=1))

    with run_due_jobs(tmp_path) as process:
        exit_code, output = ended(process)

    assert exit_code == 0, output
    assert "3 succeeded in " in output
    assert states(engine) == dict.fromkeys(ids, "succeeded") | {later: "pending"}
    assert postponed(engine) == 3
    assert scalar(engine, "SELECT count(*) FROM flatearth.job_leases") == 0


def test_two_at_once_run_each_job_once(engine: sa.Engine, tmp_path: Path) -> None:
    ids = checks_of_due_cards(engine, 50)

    with run_due_jobs(tmp_path, alongside=True) as one, run_due_jobs(tmp_path) as other:
        both = [ended(one), ended(other)]

    assert [exit_code for exit_code, _ in both] == [0, 0], both
    assert states(engine) == dict.fromkeys(ids, "succeeded")
    assert scalar(engine, "SELECT max(attempts) FROM flatearth.jobs") == 1
    assert postponed(engine) == scalar(engine, "SELECT count(*) FROM flatearth.events") == 50


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_drain_hands_back_what_it_holds_says_so_and_the_next_one_goes_on(
    engine: sa.Engine, database: str, tmp_path: Path, sign: signal.Signals
) -> None:
    ids = checks_of_due_cards(engine, 4)
    with psycopg.connect(database) as somebody:
        somebody.execute("LOCK TABLE flatearth.cards")
        with run_due_jobs(tmp_path, concurrency=2, grace_seconds=1) as process:
            until(lambda: waiting_for_cards(engine) == 2)
            process.send_signal(sign)
            exit_code, output = ended(process)
        assert exit_code != 0, output
        until(lambda: waiting_for_cards(engine) == 0)

    assert_says(output, "Stopping: ")
    assert_says(output, "Stopped: 0 jobs were done, 2 handed back")
    assert states(engine) == dict.fromkeys(ids, "pending")
    assert {(row["attempts"], row["last_error"]) for row in (job(engine, job_id) for job_id in ids)} == {(0, None)}
    assert scalar(engine, "SELECT count(*) FROM flatearth.job_leases") == 0
    if sign == signal.SIGTERM:
        with run_due_jobs(tmp_path) as process:
            exit_code, output = ended(process)
        assert exit_code == 0, output
        assert states(engine) == dict.fromkeys(ids, "succeeded")


def test_a_stopped_drain_lets_what_runs_finish_in_its_time_and_begins_nothing_more(
    engine: sa.Engine, database: str, tmp_path: Path
) -> None:
    first, second = checks_of_due_cards(engine, 2)
    with psycopg.connect(database) as somebody:
        somebody.execute("LOCK TABLE flatearth.cards")
        with run_due_jobs(tmp_path, concurrency=1, grace_seconds=30) as process:
            until(lambda: waiting_for_cards(engine) == 1)
            process.send_signal(signal.SIGTERM)
            assert process.stdout is not None
            output = "".join(iter(lambda: said(process, "Stopping: "), ""))
            somebody.commit()
            exit_code, rest = ended(process)

    assert exit_code != 0, output + rest
    assert_says(rest, "Stopped: 1 jobs were done, 0 handed back")
    assert states(engine) == {first: "succeeded", second: "pending"}


def test_the_daemon_starts_a_drain_for_a_due_job_which_then_ends(
    engine: sa.Engine, database: str, tmp_path: Path
) -> None:
    (job_id,) = checks_of_due_cards(engine, 1)

    with daemon(tmp_path) as log:
        until(lambda: states(engine)[job_id] == "succeeded")
        with psycopg.connect(database) as connection:
            runs = connection.execute(
                "SELECT pipeline_name, value FROM dagster.runs AS r JOIN dagster.run_tags AS t USING (run_id)"
                " WHERE t.key = 'dagster/sensor_name'"
            ).fetchall()
    assert runs == [("run_due_jobs", "run_due_jobs_when_due")], log.read_text()
    assert postponed(engine) == 1


def checks_of_due_cards(engine: sa.Engine, count: int) -> list[int]:
    """The ids of due jobs, each of which postpones a card."""
    with engine.begin() as connection:
        account_id = make.account(connection)
        make.user(connection, account_id, "owner")
        board_id = make.board(connection, account_id)
        long_ago = connection.execute(sa.select(sa.func.now())).scalar_one() - 40 * DAY
        cards = [make.card(connection, board_id, last_active_at=long_ago) for _ in range(count)]
    return [add(engine, "check_card_entropy", {"card_id": card_id}) for card_id in cards]


def postponed(engine: sa.Engine) -> int:
    with engine.connect() as connection:
        query = sa.select(sa.func.count()).where(tables.cards.c.postponed_at.is_not(None))
        count: int = connection.execute(query).scalar_one()
        return count


def waiting_for_cards(engine: sa.Engine) -> int:
    """How many sessions wait for a lock in this database."""
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name LIKE 'flatearth run_due_jobs % job' AND wait_event_type = 'Lock'"
    )
    return int(scalar(engine, query))


def said(process: subprocess.Popen[str], sentence: str) -> str:
    """The next line that it prints, nothing once it has said this."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "it has ended"
    return "" if sentence in line else line


def assert_says(output: str, words: str) -> None:
    assert any(words in line for line in output.splitlines()), output


def run_due_jobs(tmp_path: Path, **config: Any) -> AbstractContextManager[subprocess.Popen[str]]:
    """The running process."""
    return job_execute(tmp_path, "run_due_jobs", "drain_due_jobs", config)


@contextlib.contextmanager
def daemon(tmp_path: Path) -> Generator[Path]:
    """Dagster's daemon in a directory of its own, with all that it starts, until the end; the path of its log."""
    for name in ("dagster.yaml", "workspace.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    here = str(tmp_path)
    environment = {**os.environ, "DAGSTER_HOME": here, "PWD": here, "FLATEARTH_HOME": here, "PYTHONWARNINGS": "ignore"}
    log = tmp_path / "daemon.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [PROGRAMS / "dagster-daemon", "run", "-w", "workspace.yaml"],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield log
    finally:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
