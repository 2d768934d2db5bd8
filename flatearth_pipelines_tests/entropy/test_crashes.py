"""Whole processes, cut short: whole batches stay, nothing else does, and the next run finishes the work."""

import signal
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from flatearth_pipelines import database as db
from flatearth_pipelines import migrate
from flatearth_pipelines.embedded import EmbeddedServer
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.entropy import observed
from flatearth_pipelines_tests.entropy.processes import auto_postpone, sessions
from flatearth_pipelines_tests.processes import ended, until

BATCH_SIZE = 50


@pytest.fixture
def backlog(engine: sa.Engine) -> list[int]:
    """The ids of twenty thousand due cards: more than a run postpones before it is cut short."""
    return due_cards(engine, 20_000)


def test_a_run_killed_in_the_middle_leaves_whole_batches_and_the_next_run_finishes_nothing_lost_nothing_twice(
    engine: sa.Engine, database: str, backlog: list[int], tmp_path: Path
) -> None:
    with auto_postpone(tmp_path, batch_size=BATCH_SIZE) as process:
        until(lambda: len(observed.recorded(engine)) >= 2 * BATCH_SIZE)
        process.kill()
        exit_code, _ = ended(process)
    until(lambda: sessions(database) == 0)

    assert exit_code == -signal.SIGKILL
    assert_whole_batches(engine, backlog)

    with auto_postpone(tmp_path) as process:
        exit_code, output = ended(process)

    assert exit_code == 0, output
    assert observed.postponed(engine) == observed.recorded(engine) == backlog


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_cancelled_run_leaves_whole_batches_and_no_statement_at_work_in_postgres(
    engine: sa.Engine, database: str, tmp_path: Path, sign: signal.Signals
) -> None:
    """It is cancelled while its second batch waits for a board that somebody holds."""
    first, second = due_cards(engine, BATCH_SIZE), due_cards(engine, BATCH_SIZE)
    board_id = observed.cards(engine)[second[0]]["board_id"]
    with psycopg.connect(database) as somebody, auto_postpone(tmp_path, batch_size=BATCH_SIZE) as process:
        somebody.execute("SELECT FROM flatearth.boards WHERE id = %s FOR UPDATE", [board_id])
        until(lambda: sessions(database, "wait_event_type = 'Lock'") == 1)
        process.send_signal(sign)
        exit_code, output = ended(process)

        assert sessions(database, "state <> 'idle'") == 0
        assert exit_code != 0, output
        assert observed.postponed(engine) == observed.recorded(engine) == first


def test_two_simultaneous_runs_are_harmless(engine: sa.Engine, backlog: list[int], tmp_path: Path) -> None:
    with (
        auto_postpone(tmp_path, batch_size=BATCH_SIZE) as one,
        auto_postpone(tmp_path, batch_size=BATCH_SIZE) as other,
    ):
        both = [ended(one), ended(other)]

    assert [exit_code for exit_code, _ in both] == [0, 0]
    assert observed.postponed(engine) == observed.recorded(engine) == backlog


def test_postgres_restarted_during_a_run_fails_it_in_one_clear_line_and_the_next_run_works(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server = EmbeddedServer(tmp_path / "server")
    server.start()
    try:
        monkeypatch.setenv("FLATEARTH_DATABASE_URL", server.tcp_url())
        with db.connect(server.connection_string(), "tests") as connection:
            migrate.migrate(connection)
        engine = db.engine(server.connection_string(), "tests")
        backlog = due_cards(engine, 20_000)
        with auto_postpone(tmp_path, batch_size=BATCH_SIZE) as process:
            until(lambda: len(observed.recorded(engine)) >= 2 * BATCH_SIZE)
            engine.dispose()
            server.stop()
            server.start()
            exit_code, output = ended(process)

        assert exit_code == 1
        assert_says(output, "Postgres broke off: ", "The next run does the rest")
        assert password(server) not in output
        assert_whole_batches(engine, backlog)

        with auto_postpone(tmp_path) as process:
            exit_code, output = ended(process)

        assert exit_code == 0, output
        assert observed.postponed(engine) == observed.recorded(engine) == backlog
        engine.dispose()
    finally:
        server.stop()


def test_a_database_that_is_not_there_ends_in_one_line_and_exit_code_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FLATEARTH_DATABASE_URL", "postgresql://me:s3cret@127.0.0.1:1/none")

    with auto_postpone(tmp_path) as process:
        exit_code, output = ended(process)

    assert exit_code == 1
    assert_says(output, "Postgres cannot be reached: ", "Is the server running on that host")
    assert "Traceback" not in output
    assert "s3cret" not in output


def test_a_database_that_is_not_migrated_ends_in_one_line_and_exit_code_one(
    empty_database: str, tmp_path: Path
) -> None:
    with auto_postpone(tmp_path) as process:
        exit_code, output = ended(process)

    assert exit_code == 1
    assert_says(output, "The database is not migrated (0001_application is missing): run `flatearth db migrate`")
    with psycopg.connect(empty_database) as connection:
        assert connection.execute("SELECT to_regnamespace('flatearth')").fetchone() == (None,)


def test_a_database_further_than_the_code_ends_in_one_line_and_exit_code_one_and_changes_nothing(
    engine: sa.Engine, tmp_path: Path
) -> None:
    due_cards(engine, 1)
    with engine.begin() as connection:
        connection.execute(sa.text("INSERT INTO flatearth.migration_checksums VALUES ('9999_future', 'x')"))

    with auto_postpone(tmp_path) as process:
        exit_code, output = ended(process)

    assert exit_code == 1
    assert_says(output, "The database is further than this code (9999_future is unknown to it): update the code")
    assert observed.postponed(engine) == []


def due_cards(engine: sa.Engine, count: int) -> list[int]:
    """On a board of an account of their own, with somebody to act there."""
    with engine.begin() as connection:
        account_id = make.account(connection)
        make.user(connection, account_id, "owner")
        return make.backlog(connection, make.board(connection, account_id), count)


def assert_whole_batches(engine: sa.Engine, backlog: list[int]) -> None:
    """Some but not all of the cards are postponed, each with its event, in batches by order of id."""
    done = observed.postponed(engine)
    assert 0 < len(done) < len(backlog)
    assert len(done) % BATCH_SIZE == 0
    assert done == observed.recorded(engine) == backlog[: len(done)]


def assert_says(output: str, *words: str) -> None:
    """One line of the output says all of this."""
    assert any(all(word in line for word in words) for line in output.splitlines()), output


def password(server: EmbeddedServer) -> str:
    return server.tcp_url().split("@")[0].rpartition(":")[2]
