import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import psycopg
import pytest
from click.testing import CliRunner
from psycopg.conninfo import conninfo_to_dict

from flatearth_pipelines import cli, schema
from flatearth_pipelines import database as db

FLATEARTH = Path(sys.executable).with_name("flatearth")

NAMES = [path.stem for path in sorted(schema.directory().glob("*.sql")) if not path.stem.endswith(".rollback")]

Flatearth = Callable[..., tuple[int, str, str]]


@pytest.fixture
def flatearth(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Flatearth:
    """Run a command and return its exit code, standard output and standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["flatearth", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        code = end.value.code
        assert isinstance(code, int)
        return code, *capfd.readouterr()

    return run


# Usage


def _commands(command: click.Command = cli.cli, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            yield from _commands(child, (*path, name))


@pytest.mark.parametrize("path", list(_commands()), ids=" ".join)
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_every_command_has_a_help_that_begins_with_a_sentence(path: tuple[str, ...], option: str) -> None:
    result = CliRunner().invoke(cli.cli, [*path, option])
    assert result.exit_code == 0, result.output
    sentence = result.output.split("\n\n")[1].strip()
    assert sentence[0].isupper()
    assert "." in sentence


@pytest.mark.parametrize("path", list(_commands()), ids=" ".join)
def test_every_option_and_every_group_of_commands_says_what_it_is_for(path: tuple[str, ...]) -> None:
    command: click.Command = cli.cli
    for name in path:
        assert isinstance(command, click.Group)
        command = command.commands[name]
    assert command.help
    assert all(
        option.help for option in command.params if isinstance(option, click.Option) and option.name != "as_json"
    )


def test_the_contracts_commands_are_there() -> None:
    promised = "up;down;status;db migrate;db status;db rollback;db url;db shell;demo;import trello"
    entropy = "entropy show;entropy set;entropy clear;entropy soon;entropy preview"
    cleanup = "cleanup list;cleanup run"
    assert {tuple(path.split()) for path in f"{promised};{entropy};{cleanup}".split(";")} <= set(_commands())


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-command"],
        ["db", "no-such-command"],
        ["--no-such-option"],
        ["up", "--port", "0"],
        ["up", "--port", "65536"],
        ["up", "--port", "http"],
        ["db", "rollback", "--count", "0"],
        ["entropy", "show"],
        ["entropy", "show", "one"],
        ["import", "trello", "/nowhere/board.json"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2_and_says_what_is_wrong(flatearth: Flatearth, arguments: list[str]) -> None:
    code, out, err = flatearth(*arguments)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in err


def test_the_installed_program_does_the_same() -> None:
    assert _process("--version").stdout.startswith("flatearth, version ")
    wrong = _process("no-such-command")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "Traceback" not in wrong.stderr


# The schema


def test_migrate_says_what_it_applied_and_then_that_there_is_nothing_to_do(
    flatearth: Flatearth, empty_database: str
) -> None:
    assert flatearth("db", "migrate") == (0, "".join(f"Applied {name}\n" for name in NAMES), "")
    assert flatearth("db", "migrate") == (0, "Nothing to do: the schema is up to date.\n", "")
    with psycopg.connect(empty_database) as connection:
        schema.verify(connection)


def test_status_lists_every_migration_and_fails_unless_all_are_applied(flatearth: Flatearth, database: str) -> None:
    code, out, _ = flatearth("db", "status")
    assert code == 0
    assert [line.split() for line in out.splitlines()[1:]] == [[name, "applied"] for name in NAMES]
    assert flatearth("db", "rollback", "--yes")[0] == 0
    code, out, err = flatearth("db", "status", "--json")
    assert (code, err) == (1, "")
    assert json.loads(out)[-1] == {"migration": NAMES[-1], "state": "pending"}
    with psycopg.connect(database) as connection:
        assert schema.pending(connection) == NAMES[-1:]


def test_rollback_takes_back_so_many_and_says_which(flatearth: Flatearth, database: str) -> None:
    taken_back = "".join(f"Took back {name}\n" for name in reversed(NAMES))
    assert flatearth("db", "rollback", "--count", str(len(NAMES))) == (0, taken_back, "")
    assert flatearth("db", "rollback") == (0, "Nothing to do: nothing is applied.\n", "")
    with psycopg.connect(database) as connection:
        assert schema.applied(connection) == {}


# The way in


def test_the_url_connects_and_shows_no_password_unless_asked(
    flatearth: Flatearth, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = flatearth("db", "url", "--password")
    assert code == 0
    assert conninfo_to_dict(out.strip()) == conninfo_to_dict(database)
    with psycopg.connect(out.strip()) as connection:
        assert connection.info.dbname == conninfo_to_dict(database)["dbname"]
    monkeypatch.setenv("FLATEARTH_DATABASE_URL", "postgresql://ada:hunter2@db.example/earth")
    assert flatearth("db", "url") == (0, "postgresql://ada@db.example/earth\n", "")
    assert flatearth("db", "url", "--password") == (0, "postgresql://ada:hunter2@db.example/earth\n", "")


def test_the_url_of_the_embedded_server_connects_by_socket_and_by_tcp(
    flatearth: Flatearth, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("FLATEARTH_DATABASE_URL", raising=False)
    monkeypatch.setenv("FLATEARTH_HOME", str(tmp_path))
    try:
        for option, host in (([], str(tmp_path)), (["--tcp"], "127.0.0.1")):
            code, out, _ = flatearth("db", "url", *option)
            assert code == 0
            with psycopg.connect(out.strip()) as connection:
                assert connection.info.host.startswith((host, "/tmp/flatearth-"))  # noqa: S108
        assert _process("db", "shell", "--", "-XAtc", "select 1").stdout == "1\n"
    finally:
        assert flatearth("down")[:2] == (0, "Stopped the embedded Postgres.\n")
    assert flatearth("down")[:2] == (0, "The embedded Postgres was not running.\n")


def test_the_shell_is_psql_on_the_database_and_its_exit_code_is_psqls(database: str) -> None:
    name = conninfo_to_dict(database)["dbname"]
    done = _process("db", "shell", "--", "-XAtc", "select current_database()")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{name}\n", "")
    assert _process("db", "shell", "--", "-XAtc", "select no_such_column").returncode == 1


def test_the_shell_gets_the_password_where_no_other_user_can_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    psql = tmp_path / "psql"
    psql.write_text('#!/bin/sh\necho "$@"\necho "$PGPASSWORD"\n')
    psql.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("FLATEARTH_DATABASE_URL", "postgresql://ada:hunter2@db.example/earth")
    assert _process("db", "shell", "--", "-c", "x").stdout == "postgresql://ada@db.example/earth -c x\nhunter2\n"


# What goes wrong is one line


def test_a_wrong_setting_does_not_stand_in_the_way_of_help(
    flatearth: Flatearth, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLATEARTH_DATABASE_URL", "nonsense")
    assert flatearth("db", "--help")[0] == 0


WRONG: dict[str, tuple[dict[str, str], list[str], int, str]] = {
    "a wrong url": (
        {"FLATEARTH_DATABASE_URL": "mysql://ada:hunter2@h/d"},
        ["db", "status"],
        2,
        "FLATEARTH_DATABASE_URL",
    ),
    "a wrong directory": ({"FLATEARTH_PG_BIN": "/nowhere"}, ["db", "status"], 2, "FLATEARTH_PG_BIN"),
    "no server there": (
        {"FLATEARTH_DATABASE_URL": "postgresql://ada:hunter2@127.0.0.1:1/d"},
        ["db", "migrate"],
        1,
        "Postgres cannot be reached",
    ),
    "an unknown board": ({}, ["entropy", "show", "4711"], 1, "There is no board 4711"),
    "an instant without zone": ({}, ["entropy", "preview", "--as-of", "2026-11-22T09:00"], 2, "has no zone"),
    "an instant that is no date": ({}, ["entropy", "preview", "--as-of", "soon"], 2, "is not a date and time"),
    "a period of zero": ({}, ["entropy", "set", "--board", "1", "0"], 2, ""),
    "a negative period": ({}, ["entropy", "set", "--board", "1", "--", "-1"], 2, ""),
    "a period that is a string": ({}, ["entropy", "set", "--board", "1", "soon"], 2, ""),
    "no container": ({}, ["entropy", "set", "7"], 2, "--account ID or --board ID"),
    "two containers": ({}, ["entropy", "clear", "--account", "1", "--board", "1"], 2, "--account ID or --board ID"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_a_person_has_to_mend_is_one_line_with_the_right_exit_code(
    flatearth: Flatearth, database: str, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    del database
    environment, arguments, expected, words = WRONG[case]
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    code, out, err = flatearth(*arguments)
    assert (code, out) == (expected, ""), err
    _assert_one_line(err, words)
    assert "hunter2" not in err


def test_a_database_that_is_not_migrated_is_one_line_that_says_what_to_run(
    flatearth: Flatearth, empty_database: str
) -> None:
    code, out, err = flatearth("entropy", "preview")
    assert (code, out) == (1, "")
    _assert_one_line(err, "flatearth db migrate")
    with psycopg.connect(empty_database) as connection:
        assert connection.execute("select to_regnamespace('flatearth')").fetchone() == (None,)


def test_a_database_further_than_the_code_is_one_line_for_every_command(
    flatearth: Flatearth, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = tmp_path / "migrations"
    shutil.copytree(schema.directory(), older)
    (older / f"{NAMES[-1]}.sql").unlink()
    monkeypatch.setattr(schema, "directory", lambda: older)
    for command in (["entropy", "preview"], ["db", "migrate"], ["db", "rollback", "--yes"]):
        code, out, err = flatearth(*command)
        assert (code, out) == (1, "")
        _assert_one_line(err, "further than this code")
    with psycopg.connect(database) as connection:
        assert sorted(schema.applied(connection)) == NAMES


def test_a_home_that_is_a_file_is_one_line_that_names_the_variable(
    flatearth: Flatearth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FLATEARTH_DATABASE_URL", raising=False)
    (tmp_path / "a file").touch()
    monkeypatch.setenv("FLATEARTH_HOME", str(tmp_path / "a file"))
    code, out, err = flatearth("db", "url")
    assert (code, out) == (2, "")
    _assert_one_line(err, "FLATEARTH_HOME")


def test_whatever_else_postgres_says_is_one_line_too(flatearth: Flatearth, database: str) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("drop table flatearth.entropies cascade")
        connection.commit()
    code, _, err = flatearth("db", "rollback", "--count", str(len(NAMES)))
    assert code == 1
    _assert_one_line(err, "entropies")


def test_a_reader_who_has_seen_enough_ends_the_command_without_a_word(database: str) -> None:
    del database
    with subprocess.Popen(
        [FLATEARTH, "db", "status", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1  # as click has it


def test_an_interrupt_is_exit_code_130_without_traceback(database: str) -> None:
    with (
        contextlib.closing(db.connect(database, "tests")) as holder,
        subprocess.Popen([FLATEARTH, "db", "migrate"], stderr=subprocess.PIPE, text=True) as process,
    ):
        holder.autocommit = True
        holder.execute("select pg_advisory_lock(hashtextextended('flatearth.migrate', 0))")
        query = "select count(*) from pg_stat_activity where application_name = 'flatearth db' and datname = %s"
        name = conninfo_to_dict(database)["dbname"]
        while holder.execute(query, [name]).fetchone() != (1,):
            assert process.poll() is None
        process.send_signal(2)
        assert process.stderr is not None
        _assert_one_line(process.stderr.read().strip() + "\n", "Interrupted.", prefix="")
    assert process.returncode == 130


def _assert_one_line(err: str, words: str, prefix: str = "Error: ") -> None:
    assert err.count("\n") == 1, err
    assert err.startswith(prefix)
    assert words in err
    assert "Traceback" not in err


def _process(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([FLATEARTH, *arguments], capture_output=True, text=True, check=False)
