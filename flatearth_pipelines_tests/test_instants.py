from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flatearth_pipelines.errors import WrongUsage
from flatearth_pipelines.instants import instant

NINE = datetime(2026, 11, 22, 9, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-22T09:00:00+00:00",
        "2026-11-22T09:00:00Z",
        "2026-11-22 09:00Z",
        "20261122T090000Z",
        "2026-11-22T10:30:00+01:30",
        "2026-11-21T23:00:00-10:00",
    ],
)
def test_iso_8601_with_any_offset_names_the_same_instant(text: str) -> None:
    assert instant(text) == NINE


def test_microseconds_are_kept_and_anything_finer_is_cut_off() -> None:
    assert instant("2026-11-22T09:00:00.000001Z") == NINE + timedelta(microseconds=1)
    assert instant("2026-11-22T09:00:00.0000019Z") == NINE + timedelta(microseconds=1)


@given(
    st.datetimes(
        min_value=datetime(2, 1, 1),  # noqa: DTZ001 - hypothesis adds the zone
        max_value=datetime(9998, 12, 31),  # noqa: DTZ001
        timezones=st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes))),
    )
)
def test_what_python_writes_is_read_back_to_the_microsecond(written: datetime) -> None:
    assert instant(written.isoformat()) == written


@pytest.mark.parametrize("text", ["2026-11-22T09:00:00", "2026-11-22 09:00", "2026-11-22"])
def test_without_a_zone_it_is_refused_in_one_line_that_says_so(text: str) -> None:
    with pytest.raises(WrongUsage, match=r"^as_of '[^\n]+' has no zone: it takes ISO 8601[^\n]+$"):
        instant(text)


@pytest.mark.parametrize("text", ["", "now", "yesterday", "1763802000", "2026-13-01T00:00:00Z", "2026-02-30T00:00:00Z"])
def test_what_is_no_date_is_refused_in_one_line_that_says_so(text: str) -> None:
    with pytest.raises(WrongUsage, match=r"^as_of '[^\n]*' is not a date and time: it takes ISO 8601[^\n]+$"):
        instant(text)


def test_a_line_break_in_it_does_not_break_the_message() -> None:
    with pytest.raises(WrongUsage, match=r"^[^\n]+$"):
        instant("2026-11-22\n09:00")
