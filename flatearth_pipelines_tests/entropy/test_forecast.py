"""What the next run would do, without a database."""

from collections import Counter
from datetime import datetime, timedelta

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from flatearth_pipelines.entropy.forecast import ACTIVE, forecast
from flatearth_pipelines.entropy.staleness import BOARDS, CARDS, PERIODS, SOON, cutoffs, effective_periods, stale_cards
from flatearth_pipelines_tests.factories import DAY, MICROSECOND, NOON

ACME = 1
ROADMAP, IDEAS = 10, 20


def test_overdue_cards_are_both_due_and_soon() -> None:
    (row,) = _forecast({ROADMAP: 8 * DAY}, [(ROADMAP, NOON - 9 * DAY)])

    assert (row["active"], row["soon"], row["due"]) == (1, 1, 1)


def test_a_card_exactly_at_its_period_is_soon_and_not_due() -> None:
    (row,) = _forecast({ROADMAP: 8 * DAY}, [(ROADMAP, NOON - 8 * DAY)])

    assert (row["soon"], row["due"]) == (1, 0)


def test_a_card_exactly_at_three_quarters_of_its_period_is_not_soon() -> None:
    (row,) = _forecast({ROADMAP: 8 * DAY}, [(ROADMAP, NOON - 6 * DAY), (ROADMAP, NOON - 6 * DAY - MICROSECOND)])

    assert (row["active"], row["soon"], row["due"]) == (2, 1, 0)


def test_a_board_without_cards_has_zeros() -> None:
    (row,) = _forecast({ROADMAP: 8 * DAY}, [])

    assert (row["active"], row["soon"], row["due"]) == (0, 0, 0)


def test_the_board_with_most_due_cards_comes_first_then_the_one_with_most_soon() -> None:
    rows = _forecast(
        {1: 8 * DAY, 2: 8 * DAY, 3: 8 * DAY, 4: 8 * DAY},
        [(2, NOON - 7 * DAY), (4, NOON - 9 * DAY), (3, NOON - 7 * DAY), (3, NOON - 7 * DAY)],
    )

    assert [row["board_id"] for row in rows] == [4, 3, 2, 1]


@given(
    st.lists(
        st.tuples(
            st.sampled_from([ROADMAP, IDEAS]),
            st.sampled_from([6 * DAY, 8 * DAY, 12 * DAY, 16 * DAY]),
            st.integers(min_value=-1, max_value=1),
        )
    )
)
def test_the_counts_are_those_of_the_cards_one_by_one(drawn: list[tuple[int, timedelta, int]]) -> None:
    periods = {ROADMAP: 8 * DAY, IDEAS: 16 * DAY}
    cards = [(board_id, NOON - idle - past * MICROSECOND) for board_id, idle, past in drawn]

    rows = {row["board_id"]: row for row in _forecast(periods, cards)}

    for board_id, period in periods.items():
        idles = [NOON - last_active_at for of_board, last_active_at in cards if of_board == board_id]
        assert rows[board_id]["active"] == len(idles)
        assert rows[board_id]["soon"] == sum(4 * idle > 3 * period for idle in idles)
        assert rows[board_id]["due"] == sum(idle > period for idle in idles)


def _forecast(periods: dict[int, timedelta], cards: list[tuple[int, datetime]]) -> list[dict[str, object]]:
    boards = pl.LazyFrame([(board_id, ACME) for board_id in periods], schema=BOARDS, orient="row")
    chosen = pl.LazyFrame(
        [(ACME, board_id, period // (1000 * MICROSECOND)) for board_id, period in periods.items()],
        schema=PERIODS,
        orient="row",
    )
    rows = [(card_id, ACME, board_id, at) for card_id, (board_id, at) in enumerate(cards)]
    everything = pl.LazyFrame(rows, schema=CARDS, orient="row")
    counts = Counter(board_id for board_id, _ in cards)
    active = pl.LazyFrame(list(counts.items()), schema=ACTIVE, orient="row")
    effective = effective_periods(boards, chosen)
    soon = stale_cards(everything, cutoffs(effective, NOON, SOON))
    return forecast(effective, active, soon, cutoffs(effective, NOON)).collect().to_dicts()
