"""What endpoints write into Retry-After, and how long they are left alone for it."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flatearth_pipelines.webhooks.retry_after import LONGEST, retry_after

NOW = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)


def test_no_header_asks_for_nothing() -> None:
    assert retry_after(None, "Mon, 02 Mar 2026 10:00:00 GMT", NOW) is None


@pytest.mark.parametrize(
    ("header", "seconds"), [("0", 0), ("1", 1), ("120", 120), (" 7 ", 7), ("0007", 7), ("86399", 86_399)]
)
def test_seconds_are_seconds(header: str, seconds: int) -> None:
    assert retry_after(header, None, NOW) == timedelta(seconds=seconds)


@pytest.mark.parametrize("header", ["86400", "86401", "999999", "1000000", "9" * 5_000])
def test_a_day_and_whatever_is_more_is_a_day(header: str) -> None:
    assert retry_after(header, None, NOW) == LONGEST == timedelta(days=1)


@pytest.mark.parametrize("header", ["-1", "-0", "-" + "9" * 5_000, "Mon, 02 Mar 2026 09:59:59 GMT"])
def test_what_is_over_already_is_no_time_at_all(header: str) -> None:
    assert retry_after(header, None, NOW) == timedelta()


@pytest.mark.parametrize(
    "header", ["Mon, 02 Mar 2026 10:01:30 GMT", "Monday, 02-Mar-26 10:01:30 GMT", "Mon Mar  2 10:01:30 2026"]
)
def test_a_date_in_any_of_the_three_forms_of_http_is_measured_against_now(header: str) -> None:
    assert retry_after(header, None, NOW) == timedelta(seconds=90)


def test_a_date_is_measured_against_the_answers_own_clock_when_it_tells_its_time() -> None:
    """Its clock is an hour behind: to wait until its "in 30 s" by our clock would be no wait at all."""
    assert retry_after("Mon, 02 Mar 2026 09:00:30 GMT", "Mon, 02 Mar 2026 09:00:00 GMT", NOW) == timedelta(seconds=30)


def test_a_date_that_cannot_be_read_leaves_our_clock_to_measure_by() -> None:
    assert retry_after("Mon, 02 Mar 2026 10:00:30 GMT", "yesterday", NOW) == timedelta(seconds=30)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "soon",
        "1.5",
        "1e3",
        "+5",
        "0x10",
        "\u0661\u0662",
        "5 minutes",
        "1, 2",
        "Mon, 32 Mar 2026 10:00:00 GMT",
        "Mon, 02 Mar 99999 10:00:00 GMT",
        "Fri, 31 Dec 9999 23:59:59 -2359",
        "Mon, 02 Mar 2026 10:00:00 +9999999999",
    ],
)
def test_what_is_neither_says_nothing(header: str) -> None:
    assert retry_after(header, None, NOW) is None


@given(st.text(), st.none() | st.text())
def test_nothing_that_anybody_writes_asks_for_less_than_nothing_or_more_than_a_day(
    header: str, date: str | None
) -> None:
    waited = retry_after(header, date, NOW)
    assert waited is None or timedelta() <= waited <= LONGEST


@given(st.datetimes(datetime(1970, 1, 1), datetime(2400, 1, 1), timezones=st.just(UTC)), st.integers(0, 86_400))  # noqa: DTZ001
def test_a_date_in_so_many_seconds_is_as_good_as_that_many_seconds(now: datetime, seconds: int) -> None:
    now = now.replace(microsecond=0)
    header = format_datetime(now + timedelta(seconds=seconds), usegmt=True)
    assert retry_after(header, None, now) == retry_after(str(seconds), None, now)
