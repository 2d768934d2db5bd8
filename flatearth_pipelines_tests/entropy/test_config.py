"""What a run may be told, what it refuses, and a database that is not as it should be: one line each."""

from datetime import UTC, datetime

import dagster as dg
import psycopg
import pytest
import sqlalchemy as sa

from flatearth_pipelines.entropy.definitions import PostponeStaleCardsConfig
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.entropy import observed
from flatearth_pipelines_tests.entropy.runs import execute, failed, succeeded
from flatearth_pipelines_tests.factories import DAY, NOON

AS_OF = NOON.isoformat()


def test_an_ordinary_run_needs_no_config() -> None:
    config = PostponeStaleCardsConfig()

    assert (config.as_of, config.dry_run, config.batch_size) == (None, False, 2_500)


def test_without_as_of_the_database_s_now_is_taken(engine: sa.Engine, instance: dg.DagsterInstance) -> None:
    before, metadata, after = now(engine), succeeded(instance), now(engine)

    assert before <= datetime.fromisoformat(metadata["as_of"]) <= after


def test_as_of_is_taken_with_its_offset(engine: sa.Engine, instance: dg.DagsterInstance) -> None:
    with engine.begin() as connection:
        board_id = make.board(connection, make.account(connection))
        make.card(connection, board_id, idle=30 * DAY)
        card_id = make.card(connection, board_id, idle=30 * DAY + 1 * make.MICROSECOND)

    succeeded(instance, as_of="2026-11-22T17:30:00+05:30")

    assert observed.postponed(engine) == [card_id]
    assert observed.cards(engine)[card_id]["postponed_at"] == datetime(2026, 11, 22, 12, tzinfo=UTC)


NO_INSTANTS = {
    "2026-11-22T12:00:00": "has no zone",
    "2026-11-22": "has no zone",
    "2026-02-30T12:00:00+00:00": "is not a date and time",
    "yesterday": "is not a date and time",
    "": "is not a date and time",
    "1763812800": "is not a date and time",
}


def test_an_as_of_without_zone_or_that_is_no_date_fails_in_one_line_and_changes_nothing(
    engine: sa.Engine, instance: dg.DagsterInstance, subtests: pytest.Subtests
) -> None:
    with engine.begin() as connection:
        make.card(connection, make.board(connection, make.account(connection)))

    for as_of, why in NO_INSTANTS.items():
        with subtests.test(as_of=as_of):
            assert failed(instance, as_of=as_of) == (
                f"as_of {as_of!r} {why}: it takes ISO 8601 with an offset, such as 2026-11-22T09:00:00+00:00"
            )
            assert observed.postponed(engine) == []


def test_a_batch_size_out_of_range_fails_in_one_line_and_changes_nothing(
    engine: sa.Engine, instance: dg.DagsterInstance, subtests: pytest.Subtests
) -> None:
    with engine.begin() as connection:
        make.card(connection, make.board(connection, make.account(connection)))

    for batch_size in (0, -1, 100_001):
        with subtests.test(batch_size=batch_size):
            assert failed(instance, as_of=AS_OF, batch_size=batch_size) == (
                f"batch_size is {batch_size}: it takes 1 to 100,000"
            )
            assert observed.postponed(engine) == []


@pytest.mark.parametrize("batch_size", [1, 100_000])
def test_the_smallest_and_the_largest_batch_postpone_the_same(
    engine: sa.Engine, instance: dg.DagsterInstance, batch_size: int
) -> None:
    with engine.begin() as connection:
        card_ids = make.backlog(connection, make.board(connection, make.account(connection)), 3)

    succeeded(instance, as_of=AS_OF, batch_size=batch_size)

    assert observed.postponed(engine) == card_ids


def test_config_that_the_job_does_not_know_is_refused_before_it_starts(
    database: str,  # noqa: ARG001 - in the environment
    instance: dg.DagsterInstance,
) -> None:
    with pytest.raises(dg.DagsterInvalidConfigError):
        execute(instance, asof=AS_OF)


def test_a_database_that_is_not_migrated_fails_in_one_line_that_names_the_command(
    empty_database: str, instance: dg.DagsterInstance
) -> None:
    assert failed(instance) == (
        "The database is not migrated (0001_application is missing): run `flatearth db migrate`"
    )
    with psycopg.connect(empty_database) as connection:
        assert connection.execute("SELECT to_regnamespace('flatearth')").fetchone() == (None,)


def test_a_database_further_than_the_code_fails_in_one_line_that_says_so_and_changes_nothing(
    engine: sa.Engine, instance: dg.DagsterInstance
) -> None:
    with engine.begin() as connection:
        make.card(connection, make.board(connection, make.account(connection)))
        connection.execute(sa.text("INSERT INTO flatearth.migration_checksums VALUES ('9999_future', 'x')"))

    assert failed(instance, as_of=AS_OF) == (
        "The database is further than this code (9999_future is unknown to it): update the code"
    )
    assert observed.postponed(engine) == []


def test_a_database_that_is_not_there_fails_in_one_line_without_the_password(
    monkeypatch: pytest.MonkeyPatch, instance: dg.DagsterInstance
) -> None:
    monkeypatch.setenv("FLATEARTH_DATABASE_URL", "postgresql://me:s3cret@127.0.0.1:1/none")

    line = failed(instance)

    assert line.startswith("Postgres cannot be reached: ")
    assert "127.0.0.1" in line
    assert "s3cret" not in line


def now(engine: sa.Engine) -> datetime:
    with engine.connect() as connection:
        instant: datetime = connection.execute(sa.text("SELECT clock_timestamp()")).scalar_one()
        return instant
