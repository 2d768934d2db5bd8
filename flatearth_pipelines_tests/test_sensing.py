"""A sensor that waits inside its tick, and asks for one run, not for several."""

import itertools
from collections.abc import Callable, Generator

import dagster as dg
import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import ProgrammingError

from flatearth_pipelines.definitions import defs
from flatearth_pipelines.sensing import on_its_way, start_when_due

JOB = "auto_postpone"
LOCK = "tests.sensing"


@pytest.fixture
def no_runs() -> Generator[dg.DagsterInstance]:
    """Dagster's storage in which no run was ever made."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def short_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tick that ends with nothing takes 25 s otherwise."""
    monkeypatch.setattr("flatearth_pipelines.sensing.TICK_SECONDS", 0.3)


def tick(
    instance: dg.DagsterInstance, is_due: Callable[[sa.Connection], bool] = lambda _: True
) -> dg.RunRequest | dg.SkipReason:
    context = dg.build_sensor_context(instance=instance, repository_def=defs.get_repository_def())
    return start_when_due(context, JOB, lock=LOCK, is_due=is_due)


def a_run(instance: dg.DagsterInstance, status: str) -> None:
    instance.create_run_for_job(defs.resolve_job_def(JOB), status=dg.DagsterRunStatus(status))


@pytest.mark.usefixtures("database")
def test_what_is_due_is_asked_for_at_once_and_the_table_is_the_cursor(no_runs: dg.DagsterInstance) -> None:
    request = tick(no_runs)
    assert isinstance(request, dg.RunRequest)
    assert (request.job_name, request.run_key) == (JOB, None)


@pytest.mark.usefixtures("database")
def test_what_becomes_due_during_the_tick_is_asked_for_in_it(no_runs: dg.DagsterInstance) -> None:
    looks = itertools.count()
    assert isinstance(tick(no_runs, lambda _: next(looks) == 2), dg.RunRequest)


@pytest.mark.usefixtures("database", "short_tick")
def test_nothing_due_is_a_tick_that_says_so(no_runs: dg.DagsterInstance) -> None:
    assert tick(no_runs, lambda _: False) == dg.SkipReason("Nothing is due")


@pytest.mark.usefixtures("short_tick")
def test_a_run_that_holds_the_lock_is_not_asked_for_again(database: str, no_runs: dg.DagsterInstance) -> None:
    with psycopg.connect(database, autocommit=True) as somebody:
        somebody.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [LOCK])
        assert tick(no_runs) == dg.SkipReason("A run is at work on what is due")
    assert isinstance(tick(no_runs), dg.RunRequest)


@pytest.mark.usefixtures("database", "short_tick")
def test_the_lock_is_looked_for_in_this_database_only(server: str, no_runs: dg.DagsterInstance) -> None:
    with psycopg.connect(server, autocommit=True) as somebody:
        somebody.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [LOCK])
        assert isinstance(tick(no_runs), dg.RunRequest)


@pytest.mark.usefixtures("database", "short_tick")
@pytest.mark.parametrize("status", ["NOT_STARTED", "STARTING", "STARTED"])
def test_a_run_that_is_on_its_way_is_not_asked_for_again(no_runs: dg.DagsterInstance, status: str) -> None:
    a_run(no_runs, status)
    assert tick(no_runs) == dg.SkipReason("A run is on its way")


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("status", ["SUCCESS", "FAILURE", "CANCELED"])
def test_a_run_that_has_ended_keeps_none_from_being_asked_for(no_runs: dg.DagsterInstance, status: str) -> None:
    a_run(no_runs, status)
    assert isinstance(tick(no_runs), dg.RunRequest)


@pytest.mark.usefixtures("database")
def test_a_run_that_began_a_while_ago_without_taking_the_lock_is_not_waited_for(
    no_runs: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was killed, and Dagster does not know yet."""
    a_run(no_runs, "STARTED")
    monkeypatch.setattr("flatearth_pipelines.sensing._STARTING_SECONDS", -1)
    assert isinstance(tick(no_runs), dg.RunRequest)
    context = dg.build_sensor_context(instance=no_runs, repository_def=defs.get_repository_def())
    assert (on_its_way(context, JOB), on_its_way(context, JOB, started=True)) == (0, 1)


def test_a_database_that_is_not_there_is_a_tick_skipped_in_one_line(
    monkeypatch: pytest.MonkeyPatch, no_runs: dg.DagsterInstance
) -> None:
    monkeypatch.setenv("FLATEARTH_DATABASE_URL", "postgresql://me:s3cret@127.0.0.1:1/none")
    skipped = tick(no_runs)
    assert isinstance(skipped, dg.SkipReason)
    assert str(skipped.skip_message).startswith("Postgres cannot be reached: ")
    assert "s3cret" not in str(skipped.skip_message)
    assert "\n" not in str(skipped.skip_message)


@pytest.mark.usefixtures("database")
def test_a_database_that_goes_away_during_the_tick_is_a_tick_skipped_in_one_line(no_runs: dg.DagsterInstance) -> None:
    def end(connection: sa.Connection) -> bool:
        return bool(connection.execute(sa.text("SELECT pg_terminate_backend(pg_backend_pid())")).scalar())

    skipped = tick(no_runs, end)

    assert isinstance(skipped, dg.SkipReason)
    assert str(skipped.skip_message).startswith("Postgres broke off: terminating connection")
    assert "\n" not in str(skipped.skip_message)


@pytest.mark.usefixtures("database")
def test_a_mistake_of_ours_is_no_skip(no_runs: dg.DagsterInstance) -> None:
    with pytest.raises(ProgrammingError):
        tick(no_runs, lambda connection: bool(connection.execute(sa.text("SELECT nothing")).scalar()))
