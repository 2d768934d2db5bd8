"""Which days there are, and which are over. The worked examples stand in 2026; no test knows what day it is."""

from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flatearth_pipelines.errors import WrongUsage
from flatearth_pipelines.reports.days import (
    CAUGHT_UP,
    MOST_DAYS,
    check_countable,
    day_of,
    days_between,
    days_to_count,
    start_of,
    yesterday,
)
from flatearth_pipelines_tests.factories import DAY, MICROSECOND

SUNDAY = date(2026, 11, 22)
MIDNIGHT = datetime(2026, 11, 23, tzinfo=UTC)
"""With which Sunday ends."""

DAYS = st.dates(date(2000, 1, 1), date(2100, 1, 1))


def test_a_day_is_written_in_iso_8601() -> None:
    assert day_of("2026-11-22") == SUNDAY


@pytest.mark.parametrize("text", ["", "22.11.2026", "2026-11-31", "2026-11", "yesterday", "2026-11-22T00:00:00"])
def test_what_is_no_date_is_refused_in_one_line_that_names_it_and_says_what_it_takes(text: str) -> None:
    with pytest.raises(WrongUsage, match=r"^--from '[^\n]*' is not a date: it takes YYYY-MM-DD, such as 2026-11-22$"):
        day_of(text, "--from")


def test_a_day_begins_at_midnight_in_utc_also_where_clocks_change_on_it() -> None:
    assert start_of(date(2026, 3, 29)) == datetime(2026, 3, 29, tzinfo=UTC)


@given(DAYS)
def test_every_day_is_as_long_as_from_its_start_to_that_of_the_next_one(day: date) -> None:
    assert start_of(day + DAY) - start_of(day) == DAY


def test_yesterday_is_in_utc_whatever_the_zone_of_the_instant() -> None:
    assert yesterday(MIDNIGHT) == SUNDAY
    assert yesterday(MIDNIGHT - MICROSECOND) == SUNDAY - DAY
    assert yesterday(MIDNIGHT.astimezone(timezone(timedelta(hours=-11)))) == SUNDAY


# Days that may be counted


def test_a_day_is_over_exactly_with_the_midnight_after_it() -> None:
    check_countable(SUNDAY, MIDNIGHT)


def test_a_day_is_not_over_a_microsecond_before_that_midnight() -> None:
    with pytest.raises(WrongUsage, match=r"^2026-11-22 is not over: .* is 2026-11-21; `unfinished` [^\n]*$"):
        check_countable(SUNDAY, MIDNIGHT - MICROSECOND)


def test_unfinished_a_day_may_be_counted_from_its_very_beginning() -> None:
    check_countable(SUNDAY + DAY, MIDNIGHT, unfinished=True)


def test_a_day_that_has_not_begun_is_refused_unfinished_too() -> None:
    with pytest.raises(WrongUsage, match=r"^2026-11-23 has not begun: in UTC it is 2026-11-22$"):
        check_countable(SUNDAY + DAY, MIDNIGHT - MICROSECOND, unfinished=True)


def test_the_last_day_that_python_knows_is_refused_like_any_other_of_the_future() -> None:
    for unfinished in (False, True):
        with pytest.raises(WrongUsage):
            check_countable(date.max, MIDNIGHT, unfinished=unfinished)


# Ranges


def test_a_range_has_both_its_ends() -> None:
    assert days_between(SUNDAY, SUNDAY + 2 * DAY) == [SUNDAY, SUNDAY + DAY, SUNDAY + 2 * DAY]
    assert days_between(SUNDAY, SUNDAY) == [SUNDAY]


def test_a_range_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(WrongUsage, match=r"^from 2026-11-22 is after to 2026-11-21$"):
        days_between(SUNDAY, SUNDAY - DAY)


def test_a_range_of_ten_years_is_taken_and_one_of_a_day_more_is_not() -> None:
    assert len(days_between(SUNDAY - (MOST_DAYS - 1) * DAY, SUNDAY)) == MOST_DAYS
    with pytest.raises(WrongUsage, match=r"are 3,661 days: it takes 3,660 at most$"):
        days_between(SUNDAY - MOST_DAYS * DAY, SUNDAY)


# What the schedule asks for


def test_where_nothing_was_ever_counted_only_the_last_day_is() -> None:
    assert days_to_count([], SUNDAY) == [SUNDAY]


def test_the_last_day_is_counted_also_where_somebody_has_counted_it() -> None:
    assert days_to_count([SUNDAY - DAY, SUNDAY], SUNDAY) == [SUNDAY]


def test_days_that_were_missed_are_counted_too_the_oldest_first() -> None:
    missed = [SUNDAY - 4 * DAY, SUNDAY - 2 * DAY, SUNDAY - DAY]
    assert days_to_count([SUNDAY - 5 * DAY, SUNDAY - 3 * DAY], SUNDAY) == [*missed, SUNDAY]


def test_days_before_the_first_one_that_was_counted_were_not_missed() -> None:
    assert days_to_count([SUNDAY - 2 * DAY], SUNDAY) == [SUNDAY - DAY, SUNDAY]


def test_after_a_month_without_a_run_every_day_of_it_is_counted() -> None:
    missed = days_to_count([SUNDAY - CAUGHT_UP * DAY], SUNDAY)
    assert missed == days_between(SUNDAY - (CAUGHT_UP - 1) * DAY, SUNDAY)


def test_what_was_missed_longer_ago_is_left_to_a_backfill() -> None:
    missed = days_to_count([SUNDAY - (CAUGHT_UP + 1) * DAY], SUNDAY)
    assert missed[0] == SUNDAY - (CAUGHT_UP - 1) * DAY


@given(last=DAYS, counted=st.sets(st.integers(0, 60)))
def test_the_schedule_asks_for_no_day_twice_none_of_the_future_and_leaves_no_hole_in_the_month(
    last: date, counted: set[int]
) -> None:
    days = {last - number * DAY for number in counted}

    asked = days_to_count(days, last)

    assert asked == sorted(set(asked))
    assert asked[-1] == last
    for day in days_between(last - (CAUGHT_UP - 1) * DAY, last):
        assert day in days or day in asked or all(day < each for each in days | {last})
