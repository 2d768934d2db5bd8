import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from flatearth_pipelines import migrate, schema
from flatearth_pipelines.errors import DatabaseUnavailable, WrongSchema

FLATEARTH = Path(sys.executable).with_name("flatearth")

NAMES = [path.stem for path in sorted(schema.directory().glob("*.sql")) if not path.stem.endswith(".rollback")]

CATALOG = {
    "columns": """
        select table_name, column_name,
            row_number() over (partition by table_name order by ordinal_position),  -- columns that went leave gaps
            data_type, is_nullable, column_default, is_identity,
            generation_expression
        from information_schema.columns where table_schema = 'flatearth'
    """,
    "constraints": """
        select conrelid::regclass::text, conname, pg_get_constraintdef(oid), convalidated
        from pg_constraint where connamespace = 'flatearth'::regnamespace
    """,
    "indexes": "select tablename, indexname, indexdef from pg_indexes where schemaname = 'flatearth'",
    "functions": """
        select oid::regprocedure::text, pg_get_functiondef(oid) from pg_proc
        where pronamespace = 'flatearth'::regnamespace
    """,
    "relations": "select relname, relkind, reloptions from pg_class where relnamespace = 'flatearth'::regnamespace",
    "types": "select typname, typtype from pg_type where typnamespace = 'flatearth'::regnamespace",
    "triggers": "select tgrelid::regclass::text, tgname from pg_trigger where not tgisinternal",
}


@pytest.fixture
def session(empty_database: str) -> Generator[psycopg.Connection]:
    with psycopg.connect(empty_database, autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="module")
def whole(server: str, template: str) -> dict[str, set[str]]:
    """The catalog of a database that was migrated without any trouble."""
    with psycopg.connect(make_conninfo(server, dbname=template), autocommit=True) as connection:
        return _snapshot(connection)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the migrations, which is what the code has in this test."""
    copy = tmp_path / "migrations"
    shutil.copytree(schema.directory(), copy)
    monkeypatch.setattr(schema, "directory", lambda: copy)
    return copy


# There and back


def test_all_apply_from_empty_in_order_and_say_so(session: psycopg.Connection, whole: dict[str, set[str]]) -> None:
    assert migrate.migrate(session) == NAMES
    assert _snapshot(session) == whole


def test_applying_twice_does_nothing_more(session: psycopg.Connection, whole: dict[str, set[str]]) -> None:
    migrate.migrate(session)
    log = _log(session)
    assert migrate.migrate(session) == []
    assert _log(session) == log
    assert _snapshot(session) == whole


def test_all_roll_back_to_an_empty_schema_and_apply_again(
    session: psycopg.Connection, whole: dict[str, set[str]]
) -> None:
    migrate.migrate(session)
    assert migrate.roll_back(session, len(NAMES)) == NAMES[::-1]
    bookkeeping = _snapshot(session)
    assert {entry for entry in bookkeeping["relations"] if "yoyo" not in entry and "checksum" not in entry} == set()
    assert bookkeeping["functions"] == set()
    assert migrate.migrate(session) == NAMES
    assert _snapshot(session) == whole


@pytest.mark.parametrize("count", range(1, len(NAMES) + 1))
def test_rolling_back_so_many_is_undone_by_applying_them_again(
    session: psycopg.Connection, whole: dict[str, set[str]], count: int
) -> None:
    migrate.migrate(session)
    assert migrate.roll_back(session, count) == NAMES[::-1][:count]
    assert schema.pending(session) == NAMES[len(NAMES) - count :]
    assert migrate.migrate(session) == NAMES[len(NAMES) - count :]
    assert _snapshot(session) == whole


def test_one_is_rolled_back_unless_told_otherwise(session: psycopg.Connection) -> None:
    migrate.migrate(session)
    assert migrate.roll_back(session) == NAMES[-1:]


def test_rolling_back_more_than_there_are_rolls_back_all(session: psycopg.Connection) -> None:
    migrate.migrate(session)
    assert migrate.roll_back(session, 1000) == NAMES[::-1]
    assert migrate.roll_back(session) == []


def test_the_session_is_left_as_it_was(session: psycopg.Connection) -> None:
    before = session.execute("show search_path").fetchone()
    migrate.migrate(session)
    assert session.execute("show search_path").fetchone() == before
    held = "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()"
    assert session.execute(held).fetchone() == (0,)


def test_nothing_is_left_in_the_public_schema(session: psycopg.Connection) -> None:
    migrate.migrate(session)
    query = "select relname from pg_class where relnamespace = 'public'::regnamespace"
    assert session.execute(query).fetchall() == []


# What is refused


def test_an_edited_file_that_is_applied_is_refused_and_nothing_is_changed(
    session: psycopg.Connection, files: Path
) -> None:
    migrate.migrate(session)
    before = _snapshot(session)
    with (files / f"{NAMES[0]}.sql").open("a") as file:
        file.write("\ncreate table flatearth.smuggled_in ();\n")
    (files / "9999_more.sql").write_text("create table flatearth.more ();\n")
    for attempt in (migrate.migrate, migrate.roll_back):
        with pytest.raises(WrongSchema, match=rf"^{NAMES[0]}\.sql was changed after it was applied[^\n]+$"):
            attempt(session)
    assert _snapshot(session) == before


def test_an_edited_file_that_is_not_applied_is_simply_applied(session: psycopg.Connection, files: Path) -> None:
    (files / "9999_more.sql").write_text("create table flatearth.more (id int);\n")
    (files / "9999_more.sql").write_text("create table flatearth.more_of_it (id int);\n")
    assert migrate.migrate(session) == [*NAMES, "9999_more"]
    assert session.execute("select to_regclass('flatearth.more_of_it') is not null").fetchone() == (True,)


def test_a_database_further_than_the_code_is_refused_and_nothing_is_changed(
    session: psycopg.Connection, files: Path
) -> None:
    migrate.migrate(session)
    before = _snapshot(session)
    (files / f"{NAMES[-1]}.sql").unlink()
    (files / f"{NAMES[-1]}.rollback.sql").unlink()
    for attempt in (migrate.migrate, migrate.roll_back):
        with pytest.raises(WrongSchema, match=rf"^[^\n]*further than this code \({NAMES[-1]}[^\n]+$"):
            attempt(session)
    assert _snapshot(session) == before


def test_a_migration_that_fails_leaves_nothing_of_itself_and_keeps_those_before(
    session: psycopg.Connection, files: Path, whole: dict[str, set[str]]
) -> None:
    broken = files / "9999_broken.sql"
    broken.write_text("create table flatearth.half (id int);\n\nselect 1 / 0;\n")
    with pytest.raises(psycopg.errors.DivisionByZero):
        migrate.migrate(session)
    session.rollback()
    assert _snapshot(session) == whole
    assert schema.pending(session) == ["9999_broken"]
    broken.write_text("create table flatearth.half (id int);\n")
    assert migrate.migrate(session) == ["9999_broken"]


def test_after_a_failure_another_session_can_migrate_at_once(
    session: psycopg.Connection, empty_database: str, files: Path
) -> None:
    broken = files / "9999_broken.sql"
    broken.write_text("select 1 / 0;\n")
    with pytest.raises(psycopg.errors.DivisionByZero):
        migrate.migrate(session)
    broken.write_text("select 1;\n")
    with psycopg.connect(empty_database) as another:
        started = time.monotonic()
        assert migrate.migrate(another) == ["9999_broken"]
    assert time.monotonic() - started < 15


# Several at once


def test_six_processes_at_once_end_in_the_same_schema_with_one_log_entry_per_migration(
    session: psycopg.Connection, whole: dict[str, set[str]]
) -> None:
    processes = [_migrating_process() for _ in range(6)]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0] * 6, outputs
    assert _snapshot(session) == whole
    assert _log(session) == [("apply", name) for name in NAMES]
    assert sorted(line for out, _ in outputs for line in out.splitlines() if line.startswith("Applied")) == [
        f"Applied {name}" for name in NAMES
    ]


def test_a_migration_that_lasts_too_long_makes_the_next_give_up_in_one_line(
    session: psycopg.Connection, empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "LOCK_TIMEOUT_SECONDS", 0.3)
    with psycopg.connect(empty_database) as another:
        another.execute("select pg_advisory_lock(hashtextextended('flatearth.migrate', 0))")
        with pytest.raises(DatabaseUnavailable, match=r"^Another migration [^\n]+$"):
            migrate.migrate(session)
    assert schema.applied(session) == {}
    assert migrate.migrate(session) == NAMES


def test_who_waits_for_another_migration_holds_no_snapshot(session: psycopg.Connection, empty_database: str) -> None:
    """A concurrent index build in the other one would wait for it in turn."""
    session.execute("select pg_advisory_lock(hashtextextended('flatearth.migrate', 0))")
    process = _migrating_process()
    try:
        with psycopg.connect(empty_database, autocommit=True) as observer:
            query = """
                select state, backend_xmin, wait_event_type from pg_stat_activity
                where application_name = 'flatearth db' and datname = current_database()
                and query like '%pg_try_advisory_lock%'
            """
            _until(lambda: observer.execute(query).fetchall() == [("idle", None, "Client")], process)
        session.execute("select pg_advisory_unlock_all()")
        process.communicate(timeout=30)
        assert process.returncode == 0
    finally:
        _kill(process)


# Killed in the middle


@pytest.mark.parametrize("before", [0, len(NAMES) - 1], ids=["in the first", "in the last"])
def test_killed_inside_a_migration_the_next_one_ends_in_the_same_schema(
    session: psycopg.Connection, empty_database: str, whole: dict[str, set[str]], before: int
) -> None:
    migrate.migrate(session)
    migrate.roll_back(session, len(NAMES) - before)
    with psycopg.connect(empty_database) as holder:
        # It cannot record what it has just done: all of the migration's statements are behind it.
        holder.execute("lock table flatearth.migration_checksums in share mode")
        process = _migrating_process()
        waiting = (
            "select count(*) from pg_locks where not granted and relation = 'flatearth.migration_checksums'::regclass"
        )
        _until(lambda: session.execute(waiting).fetchone() == (1,), process)
        _kill(process)
    assert schema.pending(session) == NAMES[before:], "neither the mark nor the tables are there"
    assert migrate.migrate(session) == NAMES[before:]
    assert _snapshot(session) == whole


def test_killed_at_any_moment_the_next_one_ends_in_the_same_schema(
    session: psycopg.Connection, whole: dict[str, set[str]]
) -> None:
    started = time.monotonic()
    process = _migrating_process()
    _until(lambda: schema.pending(session) == [], process)
    needed = time.monotonic() - started
    _kill(process)
    draws = random.Random(2026)  # noqa: S311 - any moments will do
    for _ in range(6):
        session.execute("drop schema flatearth cascade")
        process = _migrating_process()
        time.sleep(needed * draws.uniform(0.7, 1))
        _kill(process)
        migrate.migrate(session)
        assert _snapshot(session) == whole
        assert _log(session)[-1] == ("apply", NAMES[-1])


def _migrating_process() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [FLATEARTH, "db", "migrate"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _kill(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)


def _until(reached: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 30) -> None:
    """Wait for something that happens while the process runs."""
    deadline = time.monotonic() + seconds
    while not reached():
        if process.poll() not in {None, 0} or time.monotonic() > deadline:
            _kill(process)
            pytest.fail("it did not come to that")
        time.sleep(0.02)


def _snapshot(connection: psycopg.Connection) -> dict[str, set[str]]:
    with schema.autocommit(connection):
        connection.execute("set search_path to ''")
        found = {
            name: {" | ".join(map(str, row)) for row in connection.execute(query.encode()).fetchall()}
            for name, query in CATALOG.items()
        }
        connection.execute("reset search_path")
        return found


def _log(connection: psycopg.Connection) -> list[tuple[str, str]]:
    with schema.autocommit(connection):
        query = "select operation, migration_id from flatearth._yoyo_log order by created_at_utc, id"
        return connection.execute(query).fetchall()
