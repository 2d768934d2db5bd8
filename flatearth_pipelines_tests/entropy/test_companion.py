"""Two sessions read at once; what they read is what one reads, and the second is gone at the end."""

import threading
import time
from collections.abc import Generator

import polars as pl
import psycopg
import pytest
import sqlalchemy as sa
from psycopg import sql
from psycopg.conninfo import make_conninfo

from flatearth_pipelines import database as db
from flatearth_pipelines.entropy import companion as companions
from flatearth_pipelines.entropy import storage
from flatearth_pipelines.entropy.companion import companion
from flatearth_pipelines.entropy.portions import EVERY_ACCOUNT
from flatearth_pipelines.entropy.staleness import CUTOFFS
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.entropy.runs import run
from flatearth_pipelines_tests.factories import NOON


@pytest.fixture
def limits(engine: sa.Engine) -> pl.DataFrame:
    """The cut-offs of five boards with one to five stale cards."""
    with engine.begin() as connection:
        account_id = make.account(connection)
        boards = [make.board(connection, account_id) for _ in range(5)]
        for count, board in enumerate(boards, 1):
            make.backlog(connection, board, count)
    cutoff_us = int(NOON.timestamp() * 1_000_000)
    return pl.DataFrame({"board_id": boards, "cutoff_us": [cutoff_us] * 5}, schema=CUTOFFS)


@pytest.fixture
def few_connections(server: str, database: str) -> Generator[sa.Engine]:
    """Sessions of somebody who may have one at a time."""
    name = f"flatearth_one_{time.monotonic_ns()}"
    role = sql.Identifier(name)
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(
            sql.SQL(
                "CREATE ROLE {} LOGIN PASSWORD 'one' CONNECTION LIMIT 1 IN ROLE pg_read_all_data, pg_write_all_data"
            ).format(role)
        )
    pool = db.engine(make_conninfo(database, user=name, password="one"), "tests")  # noqa: S106 - for a second
    yield pool
    pool.dispose()
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP ROLE {}").format(role))


def test_the_cards_of_two_halves_are_those_of_one_read(
    engine: sa.Engine, limits: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(companions, "_FEWEST_BOARDS", 2)
    with engine.connect() as connection:
        with connection.begin():
            alone = storage.read_stale_cards(connection, limits)
        with companion(connection) as sessions:
            both = sessions.stale_cards(limits)

    assert both.height == 15
    assert both.sort("card_id").equals(alone.sort("card_id"))


def test_boards_and_periods_are_those_of_one_session(engine: sa.Engine, limits: pl.DataFrame) -> None:
    with engine.connect() as connection, companion(connection) as sessions:
        boards, periods = sessions.boards_and_periods(EVERY_ACCOUNT)

    assert sorted(boards["board_id"]) == sorted(limits["board_id"])
    assert periods.is_empty()


def test_where_postgres_has_no_second_session_the_first_reads_everything(
    few_connections: sa.Engine, limits: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(companions, "_FEWEST_BOARDS", 2)

    outcome = run(few_connections)

    assert (outcome.boards, outcome.postponed) == (limits.height, 15)


def test_at_the_end_no_thread_and_no_session_but_the_own_is_left(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        with companion(connection) as sessions:
            sessions.boards_and_periods(EVERY_ACCOUNT)
            assert _checked_out(engine) == 2
        assert _checked_out(engine) == 1

    assert [each for each in threading.enumerate() if "companion" in each.name] == []


def _checked_out(engine: sa.Engine) -> int:
    assert isinstance(engine.pool, sa.QueuePool)
    return engine.pool.checkedout()


def test_an_interrupt_cancels_what_the_second_session_reads(engine: sa.Engine) -> None:
    began = time.monotonic()

    with (
        pytest.raises(KeyboardInterrupt),
        engine.connect() as connection,
        companion(connection) as sessions,
        ThreadedSleep(sessions, seconds=60),
    ):
        raise KeyboardInterrupt

    assert time.monotonic() - began < 30


class ThreadedSleep:
    """Has the second session sleep in Postgres, and waits until it does."""

    def __init__(self, sessions: companions.Companion, seconds: int) -> None:
        self._sessions = sessions
        self._seconds = seconds

    def __enter__(self) -> None:
        asleep = threading.Event()

        def sleep(connection: sa.Connection) -> pl.DataFrame:
            asleep.set()
            connection.execute(sa.text("SELECT pg_sleep(:seconds)"), {"seconds": self._seconds})
            return pl.DataFrame()

        self._sessions._threads.submit(self._sessions._read, sleep)  # noqa: SLF001 - what no rule of ours does for long
        assert asleep.wait(10)
        time.sleep(0.2)

    def __exit__(self, *_: object) -> None:
        pass
