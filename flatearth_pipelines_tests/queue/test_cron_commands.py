"""`flatearth crons`, as its `main` runs it, on a real database."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import click
import pytest
import sqlalchemy as sa

from flatearth_pipelines import cli, tables
from flatearth_pipelines.queue import cron_storage
from flatearth_pipelines.queue.cron_commands import crons
from flatearth_pipelines.queue.crons import next_fire
from flatearth_pipelines.queue.terminal_context import handlers
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.console import Flatearth, Ran
from flatearth_pipelines_tests.queue.conftest import REGISTRY, UNKNOWN

COLUMNS = [column.name for column in tables.cron_jobs.columns]


@pytest.fixture
def flatearth(main: Flatearth, monkeypatch: pytest.MonkeyPatch) -> Flatearth:
    """`flatearth crons` with these arguments, and the handlers of these tests."""
    monkeypatch.setattr(cli, "HANDLERS", REGISTRY)
    return partial(main, "crons")


@pytest.fixture
def nightly(engine: sa.Engine) -> str:
    """The name of a cron job in the database."""
    with engine.begin() as connection:
        cron_storage.create_cron_job(
            connection, REGISTRY, "nightly", "daily_3am", "greet", payload={"name": "Ada"}, time_zone="Europe/Berlin"
        )
    return "nightly"


# ---------------------------------------------------------------------------------------------- list and show


def test_list_prints_a_table_by_name_and_every_column_as_json(
    engine: sa.Engine, nightly: str, flatearth: Flatearth
) -> None:
    with engine.begin() as connection:
        cron_storage.create_cron_job(connection, REGISTRY, "[red]a", "every 5 minutes", "noop", enabled=False)

    header, first, second = flatearth("list").out.splitlines()
    listed = flatearth("list", "--json").json()

    assert header.split()[:4] == ["id", "name", "pattern", "time"]
    assert "[red]a" in first
    assert second.split()[1:5] == [nightly, "daily_3am", "Europe/Berlin", "greet"]
    assert [row["name"] for row in listed] == ["[red]a", nightly]
    assert [list(row) for row in listed] == [COLUMNS, COLUMNS]


def test_list_says_so_when_there_are_none(database: str, flatearth: Flatearth) -> None:  # noqa: ARG001 - in the environment
    assert flatearth("list") == Ran(0, "There are no cron jobs.\n", "")
    assert flatearth("list", "--json").json() == []


def test_show_prints_the_row_the_next_five_runs_in_its_zone_and_the_last_jobs(
    engine: sa.Engine, nightly: str, flatearth: Flatearth
) -> None:
    with engine.begin() as connection:
        job_id = cron_storage.trigger_cron_job(connection, REGISTRY, nightly)
        row = cron_storage.read_cron_job(connection, nightly)

    shown = flatearth("show", nightly)
    as_json = flatearth("show", nightly, "--json").json()

    runs = [row["next_run_at"]]
    while len(runs) < 5:
        runs.append(next_fire("daily_3am", "Europe/Berlin", runs[-1]))
    local = [run.astimezone(ZoneInfo("Europe/Berlin")) for run in runs]
    assert as_json["next_runs"] == [run.isoformat() for run in local]
    assert "next runs (Europe/Berlin)" in shown.out
    assert all(f"{run:%Y-%m-%d} 03:00:00" in shown.out for run in local)
    assert [(job["id"], job["origin"], job["state"]) for job in as_json["jobs"]] == [
        (job_id, "cron_trigger", "pending")
    ]
    assert "cron_trigger" in shown.out
    assert '{"name": "Ada"}' in shown.out
    assert (as_json["payload"], as_json["name"]) == ({"name": "Ada"}, nightly)
    assert set(COLUMNS) < set(as_json)


def test_show_of_an_interval_goes_on_from_its_next_run(engine: sa.Engine, flatearth: Flatearth) -> None:
    next_run = datetime(2031, 1, 1, 12, tzinfo=UTC)
    with engine.begin() as connection:
        cron_storage.create_cron_job(connection, REGISTRY, "often", "every 90 seconds", "noop")
        connection.execute(sa.update(tables.cron_jobs).values(next_run_at=next_run))

    runs = flatearth("show", "often", "--json").json()["next_runs"]

    assert runs == [(next_run + n * timedelta(seconds=90)).isoformat() for n in range(5)]


def test_show_of_one_that_is_overdue_catches_up_once(engine: sa.Engine, nightly: str, flatearth: Flatearth) -> None:
    overdue = datetime(2020, 1, 1, 2, tzinfo=UTC)
    with engine.begin() as connection:
        connection.execute(sa.update(tables.cron_jobs).values(next_run_at=overdue))
        now = cron_storage.read_clock(connection)

    first, second, *_ = map(datetime.fromisoformat, flatearth("show", nightly, "--json").json()["next_runs"])

    assert first == overdue
    assert second > now


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"enabled": False}, "No next run: it is disabled."),
        ({"pattern": "* * * * * *", "next_run_at": None}, "No next run: its pattern is wrong."),
        ({"time_zone": "Mars/Olympus"}, "No next run: its pattern is wrong."),
    ],
)
def test_show_says_why_there_is_no_next_run(
    engine: sa.Engine, nightly: str, flatearth: Flatearth, values: dict[str, Any], words: str
) -> None:
    with engine.begin() as connection:
        connection.execute(sa.update(tables.cron_jobs).values(**values))

    shown = flatearth("show", nightly)

    assert (shown.exit_code, shown.err) == (0, "")
    assert words in shown.out
    assert "No jobs of it are kept." in shown.out
    assert flatearth("show", nightly, "--json").json()["next_runs"] == []


# ------------------------------------------------------------------------------------------- create and update


def test_create_stores_what_is_said_and_says_when_it_runs(engine: sa.Engine, flatearth: Flatearth) -> None:
    with engine.begin() as connection:
        account_id = make.account(connection)

    done = flatearth(
        *("create", "report", "--pattern", "weekdays_9am", "--handler", "greet", "--payload", '{"name": "Ada"}'),
        *("--zone", "Europe/Berlin", "--max-attempts", 3, "--backoff", '{"kind": "fixed", "seconds": 30}'),
        *("--timeout", "1.5", "--priority", -2, "--account", account_id),
    )

    row = stored(engine, "report")
    expected = {
        "pattern": "weekdays_9am",
        "time_zone": "Europe/Berlin",
        "handler": "greet",
        "payload": {"name": "Ada"},
        "enabled": True,
        "priority": -2,
        "max_attempts": 3,
        "backoff": {"kind": "fixed", "seconds": 30},
        "timeout_ms": 1_500,
        "account_id": account_id,
    }
    assert row | expected == row
    next_run = f"{row['next_run_at']:%Y-%m-%d %H:%M:%S}"
    assert done == Ran(0, f"Created cron job {row['id']}, report. It runs next at {next_run} UTC.\n", "")


def test_create_with_disabled_does_not_run_it_yet(engine: sa.Engine, flatearth: Flatearth) -> None:
    flatearth("create", "later", "--pattern", "daily", "--handler", "noop", "--disabled")

    assert (stored(engine, "later")["enabled"], stored(engine, "later")["next_run_at"]) == (False, None)


WRONG = [
    (("--pattern", "0 0 30 2 *"), 2, "'0 0 30 2 *' is no pattern that ever fires"),
    (("--pattern", "* * * * * *"), 2, "'* * * * * *' is no pattern that ever fires"),
    (("--pattern", "@reboot"), 2, "'@reboot' is no pattern"),
    (("--pattern", ""), 2, "'' is no pattern"),
    (("--zone", "../etc/passwd"), 2, "There is no time zone '../etc/passwd'"),
    (("--zone", ""), 2, "There is no time zone ''"),
    (("--handler", "unknown"), 1, "There is no handler 'unknown': there are greet, heavy, noop"),
    (("--payload", "{}"), 2, "The payload of greet is not valid: name: Field required"),
    (("--payload", '{"name": 5, "secret": "s3cret"}'), 2, "name: Input should be a valid string"),
    (("--payload", "[]"), 2, "--payload takes a JSON object"),
    (("--payload", "null"), 2, "--payload takes a JSON object"),
    (("--payload", "{rubbish"), 2, "--payload takes a JSON object"),
    (("--payload", "[" * 100_000), 2, "--payload takes a JSON object"),
    (("--payload", '{"name": "\\u0000"}'), 2, "unsupported Unicode escape sequence"),
    (("--backoff", "5"), 2, "--backoff takes a JSON object"),
    (("--backoff", "{}"), 2, 'backoff takes {"kind": "exponential"'),
    (("--backoff", '{"kind": "fixed", "seconds": Infinity}'), 2, "json"),
    (("--max-attempts", "0"), 2, "max_attempts is 0: it takes 1 to 25"),
    (("--max-attempts", "26"), 2, "max_attempts is 26: it takes 1 to 25"),
    (("--timeout", "0"), 2, "--timeout is 0.0: it takes seconds"),
    (("--timeout", "0.0001"), 2, "timeout_ms is 0: it takes 1 to"),
    (("--timeout", "nan"), 2, "--timeout is nan"),
    (("--timeout", "inf"), 2, "--timeout is inf"),
    (("--timeout", "1e300"), 2, "--timeout is 1e+300"),
    (("--priority", "2147483648"), 2, "priority is 2147483648"),
    (("--account", UNKNOWN), 1, f"There is no account {UNKNOWN}"),
    (("--account", 10**30), 2, "bigint out of range"),
]


def test_what_could_not_run_is_refused_in_one_line_and_changes_nothing(
    engine: sa.Engine, nightly: str, flatearth: Flatearth, subtests: pytest.Subtests
) -> None:
    before = stored(engine, nightly)
    valid = ("--pattern", "daily", "--handler", "greet")
    for options, exit_code, words in WRONG:
        payload = () if "--payload" in options else ("--payload", '{"name": "Ada"}')
        for command in (("create", "new", *valid, *payload), ("update", nightly)):
            with subtests.test(command=command[0], options=[str(option)[:50] for option in options]):
                ran = flatearth(*command, *options)
                assert_one_line(ran, exit_code, words)
                assert "s3cret" not in ran.err
    with engine.connect() as connection:
        assert cron_storage.read_cron_jobs(connection) == [before]


@pytest.mark.parametrize("missing", ["--pattern", "--handler"])
def test_create_takes_a_pattern_and_a_handler(flatearth: Flatearth, missing: str) -> None:
    given = {"--pattern": "daily", "--handler": "noop"}
    del given[missing]

    refused = flatearth("create", "new", *(word for option in given.items() for word in option))

    assert refused.exit_code == 2
    assert f"Missing option '{missing}'" in refused.err


@pytest.mark.parametrize("name", ["", "x" * 101])
def test_what_is_no_name_is_refused(
    database: str,  # noqa: ARG001 - in the environment
    flatearth: Flatearth,
    name: str,
) -> None:
    ran = flatearth("create", name, "--pattern", "daily", "--handler", "noop")

    assert_one_line(ran, 2, "is no name: it takes 1 to 100 characters")


def test_a_name_that_is_taken_is_refused(nightly: str, flatearth: Flatearth) -> None:
    ran = flatearth("create", nightly, "--pattern", "daily", "--handler", "noop")

    assert_one_line(ran, 2, "There is a cron job 'nightly' already")


def test_update_changes_what_is_named_and_says_when_it_runs(
    engine: sa.Engine, nightly: str, flatearth: Flatearth
) -> None:
    before = stored(engine, nightly)

    done = flatearth("update", nightly, "--pattern", "hourly", "--zone", "Asia/Kolkata", "--max-attempts", 2)

    row = stored(engine, nightly)
    changed = {"pattern": "hourly", "time_zone": "Asia/Kolkata", "max_attempts": 2, "next_run_at": row["next_run_at"]}
    assert row == before | changed
    assert row["next_run_at"].minute == 30
    assert done.out == f"Changed cron job nightly. It runs next at {row['next_run_at']:%Y-%m-%d %H:%M:%S} UTC.\n"


def test_update_resets_to_the_defaults(engine: sa.Engine, nightly: str, flatearth: Flatearth) -> None:
    before = stored(engine, nightly)
    with engine.begin() as connection:
        account_id = make.account(connection)
    flatearth(
        *("update", nightly, "--max-attempts", 2, "--timeout", 60, "--backoff", '{"kind": "fixed", "seconds": 1}'),
        *("--account", account_id),
    )
    assert None not in [stored(engine, nightly)[name] for name in ("max_attempts", "timeout_ms", "backoff")]

    flatearth("update", nightly, *(f"--reset={each}" for each in ("max-attempts", "timeout", "backoff", "account")))

    assert stored(engine, nightly) == before


def test_update_of_nothing_is_wrong_usage(nightly: str, flatearth: Flatearth) -> None:
    assert_one_line(flatearth("update", nightly), 2, "Name what to change, such as --pattern daily")


# --------------------------------------------------------------------------- enable, disable, trigger, delete


def test_disable_and_enable_say_what_they_did_and_what_they_did_not(
    engine: sa.Engine, nightly: str, flatearth: Flatearth
) -> None:
    assert flatearth("disable", nightly) == Ran(0, "Disabled cron job nightly.\n", "")
    assert not stored(engine, nightly)["enabled"]
    assert flatearth("disable", nightly) == Ran(0, "Nothing to do: cron job nightly is disabled.\n", "")

    enabled = flatearth("enable", nightly)
    next_run = f"It runs next at {stored(engine, nightly)['next_run_at']:%Y-%m-%d %H:%M:%S} UTC.\n"
    assert enabled == Ran(0, f"Enabled cron job nightly. {next_run}", "")
    assert flatearth("enable", nightly) == Ran(0, f"Nothing to do: cron job nightly is enabled. {next_run}", "")


@pytest.mark.parametrize("first", ["enable", "disable"])
def test_trigger_enqueues_a_job_beside_the_schedule(
    engine: sa.Engine, nightly: str, flatearth: Flatearth, first: str
) -> None:
    flatearth(first, nightly)
    before = stored(engine, nightly)

    done = flatearth("trigger", nightly)

    with engine.connect() as connection:
        (job,) = connection.execute(sa.select(tables.jobs)).mappings()
    assert done == Ran(0, f"Enqueued job {job['id']}.\n", "")
    assert (job["origin"], job["cron_job_id"], job["payload"]) == ("cron_trigger", before["id"], {"name": "Ada"})
    assert stored(engine, nightly) == before


def test_delete_deletes(engine: sa.Engine, nightly: str, flatearth: Flatearth) -> None:
    assert flatearth("delete", nightly, "--yes") == Ran(0, "Deleted cron job nightly.\n", "")

    with engine.connect() as connection:
        assert cron_storage.read_cron_jobs(connection) == []


@pytest.mark.parametrize("command", ["show", "update", "enable", "disable", "trigger", "delete"])
def test_one_that_is_not_there_is_a_failure_of_one_line(nightly: str, flatearth: Flatearth, command: str) -> None:
    options = ("--priority", 1) if command == "update" else ()

    assert_one_line(flatearth(command, f"{nightly}s", *options), 1, "There is no cron job 'nightlys'")


# ------------------------------------------------------------------------------------------------- the process


def test_the_console_script_has_the_commands_and_the_project_s_handlers(nightly: str) -> None:
    script = Path(sys.executable).parent / "flatearth"

    listed = subprocess.run([script, "crons", "list", "--json"], capture_output=True, check=False)
    refused = subprocess.run([script, "crons", "trigger", nightly], capture_output=True, text=True, check=False)

    assert (listed.returncode, listed.stderr) == (0, b"")
    assert [row["name"] for row in json.loads(listed.stdout)] == [nightly]
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("Error: There is no handler 'greet': there are check_card_entropy")


def test_a_root_command_without_handlers_is_told_so() -> None:
    with click.Context(crons), pytest.raises(RuntimeError, match="has to set its context's obj"):
        handlers()


# ---------------------------------------------------------------------------------------------------- helpers


def stored(engine: sa.Engine, name: str) -> dict[str, Any]:
    with engine.connect() as connection:
        return cron_storage.read_cron_job(connection, name)


def assert_one_line(ran: Ran, exit_code: int, words: str) -> None:
    assert (ran.exit_code, ran.out) == (exit_code, "")
    assert words in ran.err
    assert ran.err.startswith("Error: ")
    assert ran.err.count("\n") == 1
