"""What the next run would do: per board, how many cards are due and how many will be soon."""

import polars as pl

from flatearth_pipelines.entropy.staleness import stale_cards

ACTIVE = pl.Schema({"board_id": pl.Int64(), "active": pl.Int64()})
"""Boards with active cards, and how many."""


def forecast(periods: pl.LazyFrame, active: pl.LazyFrame, soon: pl.LazyFrame, cutoffs: pl.LazyFrame) -> pl.LazyFrame:
    """The effective periods with counts: `active`, `soon` (overdue ones included) and `due`; most due first.

    `soon` are the `CARDS` beyond three quarters of their period, of which those before `cutoffs` are due.
    """
    return (
        periods.join(active, on="board_id", how="left")
        .join(_count(soon, "soon"), on="board_id", how="left")
        .join(_count(stale_cards(soon, cutoffs), "due"), on="board_id", how="left")
        .with_columns(pl.col("active", "soon", "due").fill_null(0))
        .sort("due", "soon", "board_id", descending=[True, True, False])
    )


def _count(cards: pl.LazyFrame, name: str) -> pl.LazyFrame:
    return cards.group_by("board_id").agg(pl.len().cast(pl.Int64()).alias(name))
