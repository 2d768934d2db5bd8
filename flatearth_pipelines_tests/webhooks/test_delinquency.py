"""When an endpoint is left alone, and when it is given up."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flatearth_pipelines.webhooks.delinquency import LONGEST_WAIT, OPENS_AFTER, is_delinquent, wait

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
MICROSECOND = timedelta(microseconds=1)


def test_it_is_left_alone_from_its_fifth_failure_on() -> None:
    assert OPENS_AFTER == 5


def test_it_is_left_alone_for_a_minute_then_twice_as_long_each_time_and_at_most_for_an_hour() -> None:
    assert [wait(trips) / MINUTE for trips in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]


@given(st.integers(0, 2**31 - 1))
def test_no_wait_is_shorter_than_the_one_before_it_or_longer_than_an_hour(trips: int) -> None:
    assert wait(trips) <= wait(trips + 1) <= LONGEST_WAIT == HOUR


@pytest.mark.parametrize(
    ("failures", "failing_for", "given_up"),
    [
        (10, HOUR + MICROSECOND, True),
        (10, HOUR, False),
        (9, HOUR + MICROSECOND, False),
        (9, 1_000 * HOUR, False),
        (1_000, HOUR, False),
        (11, 2 * HOUR, True),
    ],
)
def test_ten_failures_in_a_row_and_more_than_an_hour_since_the_first_give_it_up_and_exactly_an_hour_does_not(
    failures: int, failing_for: timedelta, *, given_up: bool
) -> None:
    assert is_delinquent(failures, failing_for) is given_up


@given(st.integers(0, 30), st.timedeltas(timedelta(0), 3 * HOUR))
def test_whoever_is_given_up_is_given_up_after_another_failure_and_a_moment_later_too(
    failures: int, failing_for: timedelta
) -> None:
    assert is_delinquent(failures, failing_for) <= is_delinquent(failures + 1, failing_for)
    assert is_delinquent(failures, failing_for) <= is_delinquent(failures, failing_for + MICROSECOND)
