"""The rule on paper: frames in, frames out."""

from typing import Any

import polars as pl
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from flatearth_pipelines.reports.metrics import (
    ACTIONS,
    COUNTED,
    KEPT,
    METRICS,
    REPORTS,
    daily_reports,
    most_active_boards,
    totals,
)

NOUGHT = dict.fromkeys(METRICS, 0)


def counted(*rows: tuple[int, int | None, str, int]) -> pl.DataFrame:
    """Counts of an account, a board and a metric."""
    places = [(account, board, METRICS.index(metric), times) for account, board, metric, times in rows]
    return pl.DataFrame(places, schema=COUNTED, orient="row")


def reports(*rows: dict[str, Any]) -> pl.DataFrame:
    """Rows of account 1 and board 1; what is not named is nought."""
    return pl.DataFrame([{"account_id": 1, "board_id": 1} | NOUGHT | row for row in rows], schema=REPORTS)


NOTHING = reports()


def ruled(counts: pl.DataFrame, former: pl.DataFrame = NOTHING) -> pl.DataFrame:
    frame = daily_reports(counts.lazy(), former.lazy()).collect()
    assert frame.schema == REPORTS
    return frame


# The rows of a day


def test_every_count_stands_in_its_column_in_the_row_of_its_board() -> None:
    counts = counted(
        *((1, board, metric, 10 * board + place) for board in (1, 2) for place, metric in enumerate(METRICS))
    )
    rows = [{"board_id": board} | {name: 10 * board + place for place, name in enumerate(METRICS)} for board in (1, 2)]
    assert_frame_equal(ruled(counts), reports(*rows))


def test_what_is_of_no_board_stands_in_a_row_without_one_before_the_boards() -> None:
    counts = counted((2, 5, "comments", 1), (2, None, "bundles_mailed", 3), (1, 9, "comments", 2))
    first, second, third = ruled(counts).iter_rows(named=True)
    assert (first["account_id"], first["board_id"], first["comments"]) == (1, 9, 2)
    assert (second["account_id"], second["board_id"], second["bundles_mailed"]) == (2, None, 3)
    assert (third["account_id"], third["board_id"], third["comments"]) == (2, 5, 1)


def test_a_day_when_nothing_happened_has_no_rows() -> None:
    assert ruled(counted()).is_empty()


def test_counts_of_nought_make_no_row() -> None:
    assert ruled(counted((1, 1, "comments", 0), (1, None, "active_people", 0))).is_empty()


def test_counts_of_the_same_thing_add_up() -> None:
    assert_frame_equal(
        ruled(counted((1, 1, "cards_closed", 2), (1, 1, "cards_closed", 3))), reports({"cards_closed": 5})
    )


def test_the_counted_actions_are_the_three_ways_a_card_leaves_the_board() -> None:
    assert ACTIONS.keys() == {"card_closed", "card_postponed", "card_auto_postponed"}
    assert set(ACTIONS.values()) < set(METRICS)


# A day that is counted again


def test_a_row_of_which_nothing_is_left_goes() -> None:
    assert ruled(counted(), reports({"comments": 3, "active_people": 2, "bundles_mailed": 0})).is_empty()


def test_what_can_be_counted_again_is_what_is_there_now_be_it_less_or_more() -> None:
    former = reports({"comments": 3, "cards_created": 1})
    assert_frame_equal(
        ruled(counted((1, 1, "comments", 2), (1, 1, "cards_created", 4)), former),
        reports({"comments": 2, "cards_created": 4}),
    )


def test_deliveries_that_were_cleaned_up_meanwhile_stay_counted_with_and_without_a_board() -> None:
    former = reports(
        {"board_id": None, "deliveries_completed": 8, "bundles_mailed": 5},
        {"deliveries_completed": 7, "deliveries_errored": 2, "comments": 3},
    )
    assert_frame_equal(
        ruled(counted((1, 1, "deliveries_completed", 4), (1, 1, "deliveries_errored", 3)), former),
        reports(
            {"board_id": None, "deliveries_completed": 8},
            {"deliveries_completed": 7, "deliveries_errored": 3},
        ),
    )


ROWS = st.lists(
    st.tuples(st.integers(1, 2), st.none() | st.integers(1, 3), st.sampled_from(METRICS), st.integers(0, 2)),
    max_size=20,
)


@given(ROWS, ROWS)
def test_a_rule_by_hand_says_the_same_and_counting_again_changes_nothing(
    then: list[tuple[int, int | None, str, int]], now: list[tuple[int, int | None, str, int]]
) -> None:
    former = ruled(counted(*then))

    frame = ruled(counted(*now), former)

    expected: dict[tuple[int, int | None], dict[str, int]] = {}
    for account, board, metric, times in now:
        counts = expected.setdefault((account, board), dict(NOUGHT))
        counts[metric] += times
    for row in former.iter_rows(named=True):
        counts = expected.setdefault((row["account_id"], row["board_id"]), dict(NOUGHT))
        for metric in KEPT:
            counts[metric] = max(counts[metric], row[metric])
    keys = sorted(
        (key for key, counts in expected.items() if any(counts.values())), key=lambda key: (key[0], key[1] or 0)
    )
    assert frame.rows(named=True) == [{"account_id": key[0], "board_id": key[1], **expected[key]} for key in keys]
    assert_frame_equal(ruled(counted(*now), frame), frame)


# What a day comes to


def test_the_totals_are_sums_but_people_are_counted_once_where_their_account_has_them() -> None:
    day = reports(
        {"board_id": None, "active_people": 2, "bundles_mailed": 4},
        {"board_id": 1, "active_people": 2, "comments": 5, "cards_created": 1},
        {"board_id": 2, "active_people": 1, "comments": 7},
        {"account_id": 2, "board_id": None, "active_people": 1},
        {"account_id": 2, "board_id": 3, "active_people": 1, "comments": 1},
    )
    assert totals(day)._asdict() == NOUGHT | {
        "active_people": 3,
        "bundles_mailed": 4,
        "comments": 13,
        "cards_created": 1,
        "accounts": 2,
        "boards": 3,
    }


def test_the_totals_of_an_empty_day_are_nought() -> None:
    assert totals(NOTHING)._asdict() == NOUGHT | {"accounts": 0, "boards": 0}


def test_the_most_active_boards_are_those_where_people_did_most() -> None:
    day = reports(
        {"board_id": None, "active_people": 9, "deliveries_completed": 99},
        {"board_id": 1, "cards_created": 1, "cards_closed": 1, "cards_postponed": 1, "comments": 1},
        {"board_id": 2, "comments": 5, "active_people": 1},
        {"board_id": 3, "comments": 5, "active_people": 2},
        {"board_id": 4, "comments": 5, "active_people": 1},
        {"board_id": 5, "active_people": 1},
        {"board_id": 6, "cards_auto_postponed": 99, "deliveries_completed": 99},
    )
    assert most_active_boards(day, 10)["board_id"].to_list() == [3, 2, 4, 1, 5]
    assert most_active_boards(day, 2)["board_id"].to_list() == [3, 2]
