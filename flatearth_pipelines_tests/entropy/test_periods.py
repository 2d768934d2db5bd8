"""Periods as people write them."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flatearth_pipelines.entropy.periods import in_days, period_ms
from flatearth_pipelines.errors import WrongUsage

LONGEST_MS = 2**63 - 1


@pytest.mark.parametrize(
    ("days", "milliseconds"),
    [("30", 2_592_000_000), ("0.5", 43_200_000), ("1e3", 86_400_000_000), ("0.00003125", 2_700)],
)
def test_days_are_taken_whole_or_in_parts(days: str, milliseconds: int) -> None:
    assert period_ms(days) == milliseconds


def test_what_is_finer_than_a_millisecond_is_refused() -> None:
    with pytest.raises(WrongUsage):
        period_ms("0.000000125")  # 10.8 milliseconds


def test_the_longest_period_is_that_of_a_bigint() -> None:
    assert period_ms("106751991167") == 106_751_991_167 * 86_400_000
    with pytest.raises(WrongUsage):
        period_ms("106751991168")


@pytest.mark.parametrize(
    "days",
    ["0", "-1", "-0.5", "thirty", "", " ", "30 days", "nan", "snan", "inf", "-inf", "1e-9", "1e30", "1e999999", "0x1e"],
)
def test_what_is_no_positive_number_of_milliseconds_is_refused_in_one_line_that_quotes_it(days: str) -> None:
    with pytest.raises(WrongUsage, match="it takes a positive number of days") as refusal:
        period_ms(days)

    assert repr(days) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_days_are_written_without_an_exponent_or_trailing_zeros() -> None:
    assert in_days(2_592_000_000) == "30"
    assert in_days(43_200_000) == "0.5"
    assert in_days(8_640_000_000_000) == "100000"


@given(st.integers(min_value=1, max_value=LONGEST_MS) | st.integers(min_value=1, max_value=10**12))
@example(1)
@example(LONGEST_MS)
def test_what_is_written_can_be_typed_in_again(milliseconds: int) -> None:
    assert period_ms(in_days(milliseconds)) == milliseconds
