"""How long a failed job waits."""

import json
from datetime import timedelta

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from flatearth_pipelines.queue.backoff import (
    DEFAULT,
    Backoff,
    Exponential,
    Fixed,
    Listed,
    backoff_from_json,
    backoff_to_json,
    waiting_time,
)

SECOND = timedelta(seconds=1)
HOUR = 3600 * SECOND
YEAR = timedelta(days=365)

BACKOFFS = st.one_of(
    st.builds(
        Exponential,
        st.timedeltas(timedelta(milliseconds=1), YEAR),
        st.timedeltas(timedelta(milliseconds=1), YEAR),
    ),
    st.builds(Fixed, st.timedeltas(timedelta(0), YEAR)),
    st.builds(Listed, st.lists(st.timedeltas(timedelta(0), YEAR), min_size=1, max_size=25).map(tuple)),
)


@pytest.mark.parametrize(
    ("failures", "seconds"), [(1, 10), (2, 20), (3, 40), (8, 1280), (9, 2560), (10, 3600), (11, 3600), (25, 3600)]
)
def test_exponential_doubles_from_ten_seconds_up_to_an_hour(failures: int, seconds: int) -> None:
    assert waiting_time(DEFAULT, failures, 0) == seconds * SECOND


@pytest.mark.parametrize(("draw", "seconds"), [(0.0, 20), (0.5, 15), (0.9999999, 10.000001)])
def test_exponential_is_up_to_half_shorter_by_chance(draw: float, seconds: float) -> None:
    assert waiting_time(Exponential(10 * SECOND), 2, draw).total_seconds() == pytest.approx(seconds)


def test_an_exponential_whose_first_wait_exceeds_its_longest_waits_the_longest() -> None:
    assert waiting_time(Exponential(2 * HOUR, HOUR), 1, 0) == HOUR


@pytest.mark.parametrize("failures", [24, 25, 61, 1_000])
@pytest.mark.parametrize("first", [10 * SECOND, YEAR / 2])
def test_an_exponential_reaches_its_longest_and_stays_there(first: timedelta, failures: int) -> None:
    assert waiting_time(Exponential(first, YEAR), failures, 0) == YEAR


@pytest.mark.parametrize("failures", [1, 2, 25])
def test_fixed_is_the_same_always(failures: int) -> None:
    assert waiting_time(Fixed(30 * SECOND), failures, 0.7) == 30 * SECOND


@pytest.mark.parametrize(("failures", "seconds"), [(1, 1), (2, 5), (3, 30), (4, 30), (25, 30)])
def test_a_list_is_taken_in_turn_and_its_last_time_again_and_again(failures: int, seconds: int) -> None:
    assert waiting_time(Listed((SECOND, 5 * SECOND, 30 * SECOND)), failures, 0.7) == seconds * SECOND


@given(BACKOFFS, st.integers(1, 25), st.floats(0, 1, exclude_max=True))
def test_every_backoff_waits_at_least_nothing_and_at_most_a_year(backoff: Backoff, failures: int, draw: float) -> None:
    assert timedelta(0) <= waiting_time(backoff, failures, draw) <= YEAR


@given(BACKOFFS)
def test_a_backoff_survives_its_json(backoff: Backoff) -> None:
    assert backoff_from_json(json.loads(json.dumps(backoff_to_json(backoff)))) == backoff


def test_an_exponential_without_a_longest_wait_takes_an_hour() -> None:
    assert backoff_from_json({"kind": "exponential", "seconds": 7}) == Exponential(7 * SECOND, HOUR)


@pytest.mark.parametrize(
    "backoff", [DEFAULT, Exponential(SECOND / 1000, YEAR), Fixed(0 * SECOND), Fixed(YEAR), Listed((SECOND,) * 25)]
)
def test_what_python_writes_the_database_takes(connection: sa.Connection, backoff: Backoff) -> None:
    query = sa.text("SELECT flatearth.is_backoff(CAST(:backoff AS jsonb))")

    assert connection.execute(query, {"backoff": json.dumps(backoff_to_json(backoff))}).scalar() is True


@pytest.mark.parametrize(
    "text",
    [
        '{"kind": "exponential", "seconds": 31536000, "most": 31536000}',
        '{"kind": "exponential", "seconds": 30000000, "most": 31536000}',
        '{"kind": "exponential", "seconds": 0.001}',
        '{"kind": "fixed", "seconds": 0}',
        '{"kind": "fixed", "seconds": 1.5e1}',
        '{"kind": "list", "seconds": [0, 0.5, 31536000]}',
    ],
)
@pytest.mark.parametrize("failures", [1, 2, 24, 25])
def test_what_the_database_takes_python_follows(connection: sa.Connection, text: str, failures: int) -> None:
    query = sa.text("SELECT CAST(:backoff AS jsonb) WHERE flatearth.is_backoff(CAST(:backoff AS jsonb))")
    stored = connection.execute(query, {"backoff": text}).scalar_one()

    assert timedelta(0) <= waiting_time(backoff_from_json(stored), failures, 0.5) <= YEAR
