"""Of the same, somebody is told once an hour."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import sqlalchemy as sa

from flatearth_pipelines import tables
from flatearth_pipelines.alerts.storage import QUIET, take
from flatearth_pipelines_tests.processes import until

_WAITS = sa.text(
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
)


def told(connection: sa.Connection, ago: timedelta) -> None:
    at = sa.func.clock_timestamp() - ago
    connection.execute(sa.update(tables.alerts).values(told_at=at))


def test_the_first_is_told_and_none_within_the_hour_but_they_are_counted(connection: sa.Connection) -> None:
    assert take(connection, "one") == 0
    assert [take(connection, "one") for _ in range(3)] == [None] * 3
    told(connection, QUIET)
    assert take(connection, "one") == 3
    assert take(connection, "one") is None
    told(connection, QUIET)
    assert take(connection, "one") == 1


@pytest.mark.parametrize(("ago", "expected"), [(QUIET, 0), (QUIET - timedelta(minutes=1), None)])
def test_after_exactly_an_hour_there_is_another(
    connection: sa.Connection, ago: timedelta, expected: int | None
) -> None:
    take(connection, "one")
    told(connection, ago)
    assert take(connection, "one") == expected


def test_what_is_told_of_something_else_does_not_count(connection: sa.Connection) -> None:
    take(connection, "one")
    assert take(connection, "another") == 0


@pytest.mark.parametrize("first_could", [True, False])
def test_of_two_at_once_one_tells_and_the_other_only_if_that_could_not(
    engine: sa.Engine, other_engine: sa.Engine, *, first_could: bool
) -> None:
    def second() -> int | None:
        with other_engine.begin() as connection:
            return take(connection, "one")

    with ThreadPoolExecutor(1) as pool, engine.connect() as connection:
        assert take(connection, "one") == 0
        other = pool.submit(second)

        def waits() -> bool:
            with engine.begin() as looking:
                return bool(looking.execute(_WAITS).scalar())

        until(waits)
        connection.commit() if first_could else connection.rollback()
        assert other.result(timeout=60) == (None if first_could else 0)
