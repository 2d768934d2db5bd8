"""The rule, without a database."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import polars as pl
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from flatearth_pipelines.entropy.staleness import (
    ACTORS,
    BOARDS,
    CARDS,
    CUTOFFS,
    PEOPLE,
    PERIODS,
    SOON,
    actors,
    attributed,
    cutoffs,
    effective_periods,
    stale_cards,
)
from flatearth_pipelines_tests.factories import DAY, MICROSECOND, NOON

ACME, GLOBEX = 1, 2
ROADMAP, IDEAS = 10, 20

THIRTY_DAYS_MS = 2_592_000_000
LONGEST_MS = 2**63 - 1

instants = st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2500, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - hypothesis adds the zone


def test_a_card_exactly_at_its_period_is_not_due() -> None:
    assert not _is_stale(idle=7 * DAY, period=7 * DAY)


def test_a_card_one_microsecond_past_its_period_is_due() -> None:
    assert _is_stale(idle=7 * DAY + MICROSECOND, period=7 * DAY)


def test_a_card_active_in_the_future_is_not_due_however_short_its_period() -> None:
    assert not _is_stale(idle=-MICROSECOND, period=timedelta(milliseconds=1))


def test_a_card_active_at_this_very_instant_is_not_due() -> None:
    assert not _is_stale(idle=timedelta(0), period=timedelta(milliseconds=1))


def test_a_period_of_one_millisecond_ends_after_one_millisecond() -> None:
    assert not _is_stale(idle=timedelta(microseconds=1000), period=timedelta(milliseconds=1))
    assert _is_stale(idle=timedelta(microseconds=1001), period=timedelta(milliseconds=1))


def test_the_longest_bigint_never_ends_and_does_not_overflow() -> None:
    for period_ms in (LONGEST_MS, LONGEST_MS - 1, 10**16, 10**15 + 1):
        ancient = datetime(1, 1, 1, tzinfo=UTC)
        assert _stale_ids([(1, ROADMAP, ancient)], {ROADMAP: period_ms}, NOON) == []
        assert _stale_ids([(1, ROADMAP, ancient)], {ROADMAP: period_ms}, NOON, SOON) == []


def test_soon_is_strictly_after_three_quarters_of_the_period() -> None:
    assert not _is_stale(idle=6 * DAY, period=8 * DAY, share=SOON)
    assert _is_stale(idle=6 * DAY + MICROSECOND, period=8 * DAY, share=SOON)


def test_three_quarters_of_an_odd_millisecond_are_exact_to_the_microsecond() -> None:
    assert not _is_stale(idle=timedelta(microseconds=750), period=timedelta(milliseconds=1), share=SOON)
    assert _is_stale(idle=timedelta(microseconds=751), period=timedelta(milliseconds=1), share=SOON)


def test_a_card_of_a_board_without_a_cut_off_is_not_looked_at() -> None:
    assert _stale_ids([(1, IDEAS, NOON - 1000 * DAY)], {ROADMAP: 1}, NOON) == []


def test_a_board_outranks_its_account_which_outranks_thirty_days() -> None:
    boards = _boards([(ROADMAP, ACME), (IDEAS, ACME), (30, GLOBEX)])
    chosen = _periods([(ACME, None, 2_000), (ACME, ROADMAP, 1_000)])

    periods = effective_periods(boards, chosen).collect().sort("board_id")

    assert periods.select("board_id", "period_ms", "chosen_by").rows() == [
        (ROADMAP, 1_000, "board"),
        (IDEAS, 2_000, "account"),
        (30, THIRTY_DAYS_MS, "default"),
    ]


def test_a_longer_period_of_a_board_outranks_a_shorter_one_of_its_account() -> None:
    periods = effective_periods(_boards([(ROADMAP, ACME)]), _periods([(ACME, None, 1), (ACME, ROADMAP, LONGEST_MS)]))

    assert periods.collect()["period_ms"].to_list() == [LONGEST_MS]


def test_the_periods_of_other_boards_and_accounts_do_not_count() -> None:
    chosen = _periods([(GLOBEX, None, 1), (ACME, IDEAS, 1)])

    periods = effective_periods(_boards([(ROADMAP, ACME)]), chosen)

    assert periods.collect()["chosen_by"].to_list() == ["default"]


def test_an_account_whose_id_is_that_of_a_board_is_not_mistaken_for_it() -> None:
    chosen = _periods([(ROADMAP, None, 1)])

    assert effective_periods(_boards([(ROADMAP, ACME)]), chosen).collect()["period_ms"].to_list() == [THIRTY_DAYS_MS]


def test_the_system_user_acts_even_with_the_highest_id() -> None:
    people = _people([(5, ACME, False, True), (9, ACME, True, False)])

    assert actors(people).collect().rows() == [(ACME, 9)]


def test_without_a_system_user_the_active_owner_with_the_lowest_id_acts() -> None:
    people = _people([(7, ACME, False, True), (5, ACME, False, True), (3, ACME, False, False)])

    assert actors(people).collect().rows() == [(ACME, 5)]


def test_an_account_with_neither_has_no_actor() -> None:
    assert actors(_people([(3, ACME, False, False)])).collect().is_empty()


def test_each_account_has_its_own_actor_and_a_card_without_one_keeps_null() -> None:
    cards = _cards([(2, ROADMAP, NOON), (1, IDEAS, NOON)]).with_columns(
        account_id=pl.when(pl.col("board_id") == IDEAS).then(GLOBEX).otherwise(ACME).cast(pl.Int64())
    )

    named = attributed(cards, actors(_people([(5, ACME, False, True)]))).collect()

    assert named.select("card_id", "account_id", "actor_id").rows() == [(1, GLOBEX, None), (2, ACME, 5)]


def test_nothing_in_gives_empty_frames_of_the_stated_schemas() -> None:
    periods = effective_periods(_boards([]), _periods([]))
    limits = cutoffs(periods, NOON)

    assert limits.collect().schema == CUTOFFS
    assert stale_cards(_cards([]), limits).collect().schema == CARDS
    assert actors(_people([])).collect().schema == ACTORS


@given(
    as_of=instants,
    cards=st.lists(
        st.tuples(
            st.integers(min_value=1, max_value=LONGEST_MS) | st.integers(min_value=1, max_value=10**13),
            st.integers(min_value=-3, max_value=3) | st.integers(min_value=-(10**15), max_value=10**15),
        ),
        max_size=20,
    ),
    share=st.sampled_from([1.0, SOON]),
)
def test_stale_is_whoever_was_idle_for_longer_than_the_share_of_the_period(
    as_of: datetime, cards: list[tuple[int, int]], share: float
) -> None:
    """Each card on a board of its own, so many microseconds around the boundary."""
    thousandths = round(share * 1000)
    longest_idle = (as_of - datetime(1, 1, 1, tzinfo=UTC)) // MICROSECOND
    idles = [min(period_ms * thousandths + past, longest_idle) for period_ms, past in cards]
    idles = [max(idle, -(10**15)) for idle in idles]
    rows = [(card_id, card_id, as_of - idle * MICROSECOND) for card_id, idle in enumerate(idles)]

    stale = _stale_ids(rows, {board_id: period_ms for board_id, (period_ms, _) in enumerate(cards)}, as_of, share)

    assert stale == [card_id for card_id, idle in enumerate(idles) if idle > cards[card_id][0] * thousandths]


@given(
    st.permutations([(9, ACME, True, False), (3, ACME, False, True), (5, ACME, False, True), (4, GLOBEX, False, True)])
)
def test_who_acts_does_not_depend_on_the_order_of_people(people: list[tuple[int, int, bool, bool]]) -> None:
    expected = pl.DataFrame([(ACME, 9), (GLOBEX, 4)], schema=ACTORS, orient="row")

    assert_frame_equal(actors(_people(people)).collect().sort("account_id"), expected)


def _is_stale(idle: timedelta, period: timedelta, share: float = 1.0) -> bool:
    period_ms = period // timedelta(milliseconds=1)
    return _stale_ids([(1, ROADMAP, NOON - idle)], {ROADMAP: period_ms}, NOON, share) == [1]


def _stale_ids(
    cards: Sequence[tuple[int, int, datetime]], periods_ms: dict[int, int], as_of: datetime, share: float = 1.0
) -> list[int]:
    boards = _boards([(board_id, ACME) for board_id in periods_ms])
    chosen = _periods([(ACME, board_id, period_ms) for board_id, period_ms in periods_ms.items()])
    limits = cutoffs(effective_periods(boards, chosen), as_of, share)
    return sorted(stale_cards(_cards(cards), limits).collect()["card_id"])


def _boards(rows: Sequence[tuple[int, int]]) -> pl.LazyFrame:
    return pl.LazyFrame(rows, schema=BOARDS, orient="row")


def _periods(rows: Sequence[tuple[int, int | None, int]]) -> pl.LazyFrame:
    return pl.LazyFrame(rows, schema=PERIODS, orient="row")


def _cards(rows: Sequence[tuple[int, int, datetime]]) -> pl.LazyFrame:
    of_acme = [(card_id, ACME, board_id, last_active_at) for card_id, board_id, last_active_at in rows]
    return pl.LazyFrame(of_acme, schema=CARDS, orient="row")


def _people(rows: Sequence[tuple[int, int, bool, bool]]) -> pl.LazyFrame:
    return pl.LazyFrame(rows, schema=PEOPLE, orient="row")
