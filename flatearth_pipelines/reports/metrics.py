"""The rule: what is counted of a day, and how the counts become its rows."""

from typing import NamedTuple

import polars as pl

METRICS = (
    "cards_created",
    "cards_closed",
    "cards_postponed",
    "cards_auto_postponed",
    "comments",
    "active_people",
    "bundles_mailed",
    "bundles_failed",
    "deliveries_completed",
    "deliveries_errored",
)
"""What is counted, in the order of the table's columns.

Cards and comments by when they were created, on the board where they are now: what was deleted since is not counted
when a day is counted again. Mails and deliveries by when they ended.
"""

ACTIONS = {
    "card_closed": "cards_closed",
    "card_postponed": "cards_postponed",
    "card_auto_postponed": "cards_auto_postponed",
}
"""The actions of events that are counted, and as what, on the board where they happened."""

NOBODYS_ACTIONS = ("card_auto_postponed",)
"""What makes nobody active: where an account has no system user, its owner's name stands under what the jobs did."""

KEPT = ("deliveries_completed", "deliveries_errored")
"""What is never counted lower than before: the clean-up takes deliveries after 7 days, and one may be sent again."""

COUNTED = pl.Schema({"account_id": pl.Int64(), "board_id": pl.Int64(), "metric": pl.Int64(), "times": pl.Int64()})
"""Counts of one day; `metric` is the place in `METRICS`. A null `board_id` is for what is of no board: mails,
deliveries of a webhook of all boards, and, of the active people, each one of the account once."""

REPORTS = pl.Schema({"account_id": pl.Int64(), "board_id": pl.Int64(), **dict.fromkeys(METRICS, pl.Int64())})
"""The rows of one day."""

_BOARD = ["account_id", "board_id"]

_BY_PEOPLE = ("cards_created", "cards_closed", "cards_postponed", "comments")


class Totals(NamedTuple):
    """A day over all accounts, in the order of `METRICS`, and where something happened."""

    cards_created: int
    cards_closed: int
    cards_postponed: int
    cards_auto_postponed: int
    comments: int
    active_people: int
    """Each once, however many boards they were on."""
    bundles_mailed: int
    bundles_failed: int
    deliveries_completed: int
    deliveries_errored: int
    accounts: int
    boards: int


def daily_reports(counted: pl.LazyFrame, former: pl.LazyFrame) -> pl.LazyFrame:
    """The `REPORTS` of a day that has these `COUNTED`, by account and board, the account's own row first.

    `former` are its rows until now: of them only what is `KEPT` counts, where it is more. Where nothing happened there
    is no row.
    """
    fresh = counted.group_by(_BOARD).agg(
        pl.col("times").filter(pl.col("metric") == place).sum().alias(name) for place, name in enumerate(METRICS)
    )
    kept = former.select(*_BOARD, *(pl.col(name).alias(f"former_{name}") for name in KEPT))
    return (
        fresh.join(kept, on=_BOARD, how="full", nulls_equal=True, coalesce=True)
        .with_columns(pl.max_horizontal(name, f"former_{name}").alias(name) for name in KEPT)
        .select(*_BOARD, pl.col(METRICS).fill_null(0))
        .filter(pl.any_horizontal(pl.col(METRICS) > 0))
        .sort(_BOARD, nulls_last=False)
    )


def totals(reports: pl.DataFrame) -> Totals:
    """What the `REPORTS` of a day come to."""
    once = reports.with_columns(active_people=pl.when(pl.col("board_id").is_null()).then("active_people").otherwise(0))
    where = {"accounts": reports["account_id"].n_unique(), "boards": reports["board_id"].drop_nulls().n_unique()}
    return Totals(**once.select(pl.col(METRICS).sum()).row(0, named=True), **where)


def most_active_boards(reports: pl.DataFrame, most: int) -> pl.DataFrame:
    """The `REPORTS` of the boards where people did most of what is counted, and more of them; ties by id."""
    return (
        reports.filter(pl.col("board_id").is_not_null(), pl.col("active_people") + pl.sum_horizontal(_BY_PEOPLE) > 0)
        .sort(pl.sum_horizontal(_BY_PEOPLE), "active_people", "board_id", descending=[True, True, False])
        .head(most)
    )
