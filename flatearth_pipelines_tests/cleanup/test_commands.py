"""`flatearth cleanup`, as people type it."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from flatearth_pipelines import tables
from flatearth_pipelines.cleanup.retention import RETENTIONS
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.cleanup import observed
from flatearth_pipelines_tests.console import Flatearth
from flatearth_pipelines_tests.factories import DAY, MICROSECOND, NOON

AS_OF = ("--as-of", NOON.isoformat())


@pytest.fixture(autouse=True)
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of objects, not there yet."""
    monkeypatch.setenv("FLATEARTH_STORAGE_URL", f"file:{tmp_path / 'objects'}")
    return tmp_path / "objects"


def sessions(engine: sa.Engine, count: int) -> None:
    """So many expired before `NOON`, and one at it."""
    with engine.begin() as connection:
        person = make.user(connection, make.account(connection))
        for age in range(count + 1):
            make.session(connection, person, age * MICROSECOND)


# list


@pytest.mark.usefixtures("database")
def test_list_has_every_target_with_its_time_its_job_and_its_schedule(main: Flatearth, storage: Path) -> None:
    rows = main("cleanup", "list", "--json").json()

    assert [row["target"] for row in rows] == list(RETENTIONS)
    assert {row["target"]: (row["keep_for"], row["job"], row["schedule"]) for row in rows} == {
        "webhook_deliveries": ("7 days", "cleanup_webhook_deliveries", "0 3 * * *"),
        "sessions": ("0 days", "delete_expired_sessions", "10 3 * * *"),
        "audit_logs": ("90 days", "delete_old_audit_logs", "20 3 * * *"),
        "files": ("30 days", "delete_old_files", "30 3 * * *"),
        "tags": ("1 day", "delete_unused_tags", "2 4 * * *"),
    }
    assert {(row["due"], row["oldest"]) for row in rows} == {(0, None)}
    assert not storage.exists(), "to look creates nothing"


def test_list_counts_what_is_due_at_the_instant_and_names_the_oldest(engine: sa.Engine, main: Flatearth) -> None:
    sessions(engine, 3)

    def due(*options: str) -> tuple[int, str]:
        (row,) = (row for row in main("cleanup", "list", "--json", *options).json() if row["target"] == "sessions")
        return row["due"], row["oldest"]

    oldest = (NOON - 3 * MICROSECOND).isoformat()
    assert due(*AS_OF) == (3, oldest)
    assert due("--as-of", (NOON - DAY).isoformat()) == (0, oldest)
    ran = main("cleanup", "list", *AS_OF)
    assert ran.exit_code == 0
    assert re.search(r"sessions +0 days +3 +2026-11-22T11:59:59\.999997\+00:00 +delete_expired_sessions", ran.out)


# run


@pytest.mark.parametrize("target", ["sessions", "delete_expired_sessions"])
def test_run_deletes_what_is_due_of_the_target_or_of_the_job_and_says_how_much(
    engine: sa.Engine, main: Flatearth, target: str
) -> None:
    sessions(engine, 3)

    assert main("cleanup", "run", target, *AS_OF) == (0, "3 sessions deleted.\n", "")
    assert observed.count(engine, tables.sessions) == 1
    assert main("cleanup", "run", target, *AS_OF) == (0, "Nothing to do.\n", "")


def test_run_with_json_says_what_the_job_says(engine: sa.Engine, main: Flatearth) -> None:
    sessions(engine, 3)

    ran = main("cleanup", "run", "sessions", *AS_OF, "--json", "--batch-size", 2, "--max-seconds", 0)

    assert ran.json() == {
        "target": "sessions",
        "as_of": NOON.isoformat(),
        "dry_run": False,
        "deleted": 2,
        "remaining": 1,
        "refused": 0,
        "oldest_left": (NOON - MICROSECOND).isoformat(),
        "budget_hit": True,
        "batches": 1,
    }


def test_a_dry_run_says_how_much_would_go_and_deletes_nothing(engine: sa.Engine, main: Flatearth) -> None:
    sessions(engine, 3)

    assert main("cleanup", "run", "sessions", "--dry-run", *AS_OF).out == "3 sessions would be deleted.\n"
    assert observed.count(engine, tables.sessions) == 4


def test_what_is_left_because_the_time_was_over_is_a_warning_beside_the_result(
    engine: sa.Engine, main: Flatearth
) -> None:
    sessions(engine, 3)

    ran = main("cleanup", "run", "sessions", *AS_OF, "--batch-size", 2, "--max-seconds", 0)

    assert (ran.exit_code, ran.out) == (0, "2 sessions deleted.\n")
    assert ran.err == "Warning: The time of 0 s was over before all was deleted: the next run goes on.\n"


def test_another_time_than_the_listed_one_holds_for_the_run(engine: sa.Engine, main: Flatearth) -> None:
    with engine.begin() as connection:
        account = make.account(connection)
        for age in (2 * DAY, 4 * DAY):
            make.audit_log(connection, account, age)
    assert main("cleanup", "run", "audit_logs", *AS_OF, "--keep-for", "72 hours").out == "1 audit logs deleted.\n"


def test_on_a_terminal_it_shows_how_far_it_is_and_in_a_pipe_it_does_not(engine: sa.Engine) -> None:
    sessions(engine, 40)
    command = [
        str(Path(sys.executable).with_name("flatearth")),
        "cleanup",
        "run",
        "sessions",
        *AS_OF,
        "--batch-size",
        "20",
    ]
    piped = subprocess.run([*command, "--max-seconds", "0"], capture_output=True, text=True, check=True)
    assert "Deleting" not in piped.stderr
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*command], stdout=subprocess.PIPE, stderr=theirs, env={**os.environ, "TERM": "xterm"}
    ) as run:
        os.close(theirs)
        shown = b""
        while part := _read(ours):
            shown += part
        assert run.stdout is not None
        assert run.stdout.read() == b"20 sessions deleted.\n"
    os.close(ours)
    assert b"Deleting sessions" in shown


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65_536)
    except OSError:  # Linux, once nobody writes to it any more
        return b""


# What a person has to mend


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        (["run", "dust"], 2, "There is no target 'dust': there are webhook_deliveries, sessions, audit_logs"),
        (["run", "sessions", "--as-of", "soon"], 2, "is not a date and time"),
        (["run", "sessions", "--keep-for", "a while"], 2, "keep_for is 'a while': it takes"),
        (["run", "sessions", "--batch-size", "0"], 2, "batch_size is 0: it takes 1 to 50,000"),
        (["run", "sessions", "--max-seconds", "nan"], 2, "max_seconds is nan: it takes 0 to 86,400"),
        (["list", "--as-of", "0001-01-01T00:00:00+00:00"], 2, "is too early to look back 7 days"),
    ],
)
def test_what_cannot_be_used_is_one_line(main: Flatearth, arguments: list[str], exit_code: int, words: str) -> None:
    ran = main("cleanup", *arguments)
    assert (ran.exit_code, ran.out) == (exit_code, "")
    assert ran.err.startswith("Error: ")
    assert ran.err.count("\n") == 1
    assert words in ran.err


@pytest.mark.usefixtures("database")
def test_a_storage_that_is_not_there_is_one_line(
    main: Flatearth, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "a file").touch()
    monkeypatch.setenv("FLATEARTH_STORAGE_URL", f"file:{tmp_path / 'a file'}")
    ran = main("cleanup", "run", "files")
    assert (ran.exit_code, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert ran.err.startswith("Error: The storage file:")
