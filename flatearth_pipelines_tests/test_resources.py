import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from datetime import datetime, timedelta
from types import FrameType

import dagster as dg
import psycopg
import pytest
import sqlalchemy as sa

from flatearth_pipelines import database as db
from flatearth_pipelines.driver import driver_connection
from flatearth_pipelines.errors import NotFound, WrongUsage
from flatearth_pipelines.resources import Clock, Postgres, clear_failure
from flatearth_pipelines.settings import Settings
from flatearth_pipelines_tests.factories import NOON

Work = Callable[[dg.OpExecutionContext, Postgres], object]


def _run(work: Work) -> object:
    """What the work returns as the only op of a job."""

    @dg.op
    def only(context: dg.OpExecutionContext, postgres: Postgres) -> list[object]:
        return [work(context, postgres)]

    @dg.job(resource_defs={"postgres": Postgres()})
    def tidy() -> None:
        only()

    with dg.DagsterInstance.ephemeral() as instance:
        (returned,) = tidy.execute_in_process(instance=instance).output_for_node("only")
    return returned


# A session of the run


def test_a_session_bears_the_name_of_its_job_and_run(database: str) -> None:
    del database

    def work(context: dg.OpExecutionContext, postgres: Postgres) -> tuple[str, str]:
        with postgres.connection(context) as connection:
            name = connection.execute(sa.text("show application_name")).scalar_one()
        return name, f"flatearth tidy {context.run_id[:8]}"

    name, expected = _pair(_run(work))
    assert name == expected


def test_a_session_ends_with_its_block(database: str) -> None:
    def work(context: dg.OpExecutionContext, postgres: Postgres) -> int:
        with postgres.connection(context) as connection:
            pid = connection.execute(sa.text("select pg_backend_pid()")).scalar_one()
        return int(pid)

    pid = _run(work)
    with psycopg.connect(database, autocommit=True) as connection:
        _until(lambda: connection.execute("select from pg_stat_activity where pid = %s", [pid]).fetchone() is None)


class Cancelled(BaseException):
    """What Dagster raises in the middle of anything, when a run is cancelled."""


def _sleep_by_sqlalchemy(connection: sa.Connection) -> None:
    connection.execute(sa.text("select pg_sleep(60) /* for ever */"))


def _sleep_by_the_driver(connection: sa.Connection) -> None:
    driver_connection(connection).execute("select pg_sleep(60) /* for ever */")


@pytest.mark.parametrize("sleep", [_sleep_by_sqlalchemy, _sleep_by_the_driver])
def test_cancelling_a_run_cancels_the_statement_at_work(database: str, sleep: Callable[[sa.Connection], None]) -> None:
    def work(context: dg.OpExecutionContext, postgres: Postgres) -> None:
        with postgres.connection(context) as connection:
            sleep(connection)

    def cancel(_signal: int, _frame: FrameType | None) -> None:
        raise Cancelled

    before = signal.signal(signal.SIGALRM, cancel)
    started = time.monotonic()
    try:
        signal.setitimer(signal.ITIMER_REAL, 2)
        with pytest.raises(Cancelled):
            _run(work)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    with psycopg.connect(database, autocommit=True) as connection:
        query = (
            "select from pg_stat_activity"
            " where datname = current_database() and query like '%for ever */' and state = 'active'"
        )
        _until(lambda: connection.execute(query).fetchone() is None)
    assert time.monotonic() - started < 20


# Alone


def test_the_second_of_two_gets_the_name_of_the_first_instead_of_a_session(database: str) -> None:
    del database

    def work(context: dg.OpExecutionContext, postgres: Postgres) -> tuple[object, str]:
        with postgres.alone(context, "tests") as first, postgres.alone(context, "tests") as second:
            assert isinstance(first, sa.Connection)
            assert isinstance(second, str)
            return second, f"flatearth tidy {context.run_id[:8]}, since 20"

    holder, expected = _pair(_run(work))
    assert str(holder).startswith(str(expected))
    assert str(holder).endswith(" UTC")


def test_locks_of_different_names_do_not_exclude_each_other(database: str) -> None:
    del database

    def work(context: dg.OpExecutionContext, postgres: Postgres) -> bool:
        with postgres.alone(context, "one") as first, postgres.alone(context, "another") as second:
            return isinstance(first, sa.Connection) and isinstance(second, sa.Connection)

    assert _run(work) is True


def test_the_lock_is_free_again_after_the_block_also_after_an_error(database: str) -> None:
    del database

    def work(context: dg.OpExecutionContext, postgres: Postgres) -> bool:
        with contextlib.suppress(KeyError), postgres.alone(context, "tests"):
            raise KeyError
        with postgres.alone(context, "tests") as session:
            return isinstance(session, sa.Connection)

    assert _run(work) is True


HOLD = """
import sys, time, psycopg
connection = psycopg.connect(sys.argv[1], autocommit=True, application_name="killed")
connection.execute("select pg_advisory_lock(hashtextextended('tests', 0))")
print("held", flush=True)
time.sleep(60)
"""


def test_the_lock_of_a_killed_process_is_free_again(database: str) -> None:
    def alone(context: dg.OpExecutionContext, postgres: Postgres) -> object:
        with postgres.alone(context, "tests") as session:
            return session if isinstance(session, str) else "free"

    with subprocess.Popen([sys.executable, "-c", HOLD, database], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert str(_run(alone)).startswith("killed, since ")
        process.kill()
    _until(lambda: _run(alone) == "free")


def test_the_lock_outlives_the_transactions_of_its_session(database: str) -> None:
    del database

    def work(context: dg.OpExecutionContext, postgres: Postgres) -> bool:
        with postgres.alone(context, "tests") as session:
            assert isinstance(session, sa.Connection)
            with session.begin():
                session.execute(sa.text("select 1"))
            with postgres.alone(context, "tests") as second:
                return isinstance(second, str)

    assert _run(work) is True


# The instant of a run


@pytest.fixture
def session(database: str) -> Generator[sa.Connection]:
    engine = db.engine(database, "tests")
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def test_the_instant_is_the_databases_now_unless_the_config_names_one(session: sa.Connection) -> None:
    as_of = Clock().as_of(session, None)
    assert as_of.utcoffset() == timedelta(0)
    clock: datetime = session.execute(sa.text("select clock_timestamp()")).scalar_one()
    assert timedelta(0) < clock - as_of < timedelta(minutes=1)


def test_the_instant_of_the_config_is_taken_as_it_is(session: sa.Connection) -> None:
    assert Clock().as_of(session, "2026-11-22T13:00:00+01:00") == NOON


def test_an_instant_without_zone_is_refused(session: sa.Connection) -> None:
    with pytest.raises(WrongUsage, match="has no zone"):
        Clock().as_of(session, "2026-11-22T13:00:00")


def test_asking_for_the_instant_leaves_no_transaction_open(session: sa.Connection) -> None:
    Clock().as_of(session, None)
    assert not session.in_transaction()


# What a person has to mend


@pytest.mark.parametrize("error", [NotFound("There is no board 7"), WrongUsage("batch_size is 0")])
def test_an_error_of_ours_fails_the_run_in_its_own_words_and_is_not_retried(error: Exception) -> None:
    with pytest.raises(dg.Failure) as failure, clear_failure():
        raise error
    assert (failure.value.description, failure.value.allow_retries) == (str(error), False)
    assert failure.value.__suppress_context__


def test_a_database_that_is_not_there_fails_the_run_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLATEARTH_DATABASE_URL", "postgresql://ada:hunter2@127.0.0.1:1/earth")
    with pytest.raises(dg.Failure) as failure, clear_failure():
        db.prepare(Settings.from_environment())
    description = str(failure.value.description)
    assert description.startswith("Postgres cannot be reached: ")
    assert "\n" not in description
    assert "hunter2" not in description


def _by_sqlalchemy(connection: sa.Connection) -> None:
    connection.execute(sa.text("select 1"))


def _by_the_driver(connection: sa.Connection) -> None:
    driver_connection(connection).execute("select 1")


@pytest.mark.parametrize("statement", [_by_sqlalchemy, _by_the_driver])
def test_a_connection_that_breaks_off_fails_the_run_in_one_line_that_promises_the_next(
    database: str, statement: Callable[[sa.Connection], None]
) -> None:
    def work(context: dg.OpExecutionContext, postgres: Postgres) -> None:
        with clear_failure(), postgres.connection(context) as connection:
            pid = driver_connection(connection).info.backend_pid
            with psycopg.connect(database, autocommit=True) as somebody:
                somebody.execute("select pg_terminate_backend(%s)", [pid])
            statement(connection)

    with pytest.raises(dg.Failure) as failure:
        _run(work)
    description = str(failure.value.description)
    assert description.startswith("Postgres broke off: ")
    assert description.endswith("The next run does the rest")
    assert "\n" not in description
    assert failure.value.allow_retries is False


def test_a_statement_that_postgres_refuses_fails_the_run_in_one_line(session: sa.Connection) -> None:
    with pytest.raises(dg.Failure) as failure, clear_failure():
        session.execute(sa.text("select\nno_such_column"))
    description = str(failure.value.description)
    assert description.startswith("Postgres refused: ")
    assert "no_such_column" in description
    assert "\n" not in description


def test_a_mistake_in_the_code_keeps_its_own_traceback() -> None:
    with pytest.raises(KeyError), clear_failure():
        raise KeyError


def _pair(returned: object) -> tuple[object, object]:
    assert isinstance(returned, tuple)
    first, second = returned
    return first, second


def _until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 15
    while not reached():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)
