"""The rule: when a card goes stale, and who is said to have postponed it."""

from datetime import datetime, timedelta

import polars as pl

DEFAULT_PERIOD = timedelta(days=30)
"""Of a board that chose none, in an account that chose none. Source: the product's specification."""

SOON = 0.75
"""The share of its period after which a card is postponed soon. Source: the product's specification."""

BOARDS = pl.Schema({"board_id": pl.Int64(), "account_id": pl.Int64()})
"""The boards of accounts that are not cancelled."""

PERIODS = pl.Schema({"account_id": pl.Int64(), "board_id": pl.Int64(), "period_ms": pl.Int64()})
"""What was chosen; a null `board_id` is the account's choice. At most one row per board and per account."""

CUTOFFS = pl.Schema({"board_id": pl.Int64(), "cutoff_us": pl.Int64()})
"""Microseconds since 1970: an active card of the board is stale if it was last active before, strictly."""

CARDS = pl.Schema(
    {
        "card_id": pl.Int64(),
        "account_id": pl.Int64(),
        "board_id": pl.Int64(),
        "last_active_at": pl.Datetime("us", "UTC"),
    }
)
"""Active cards: published, neither closed nor postponed, of accounts that are not cancelled."""

PEOPLE = pl.Schema(
    {"user_id": pl.Int64(), "account_id": pl.Int64(), "is_system": pl.Boolean(), "is_active_owner": pl.Boolean()}
)

ACTORS = pl.Schema({"account_id": pl.Int64(), "actor_id": pl.Int64()})
"""Who postpones in an account; an account without anybody has no row."""

_LONGEST_PERIOD_MS = 1_000_000_000_000_000
"""31,688 years. Postgres keeps no instant that long ago, so a longer period never ends either, and microseconds of it
still fit into 64 bits."""

_EARLIEST_INSTANT_US = -210_866_803_200_000_000
"""24 November 4714 BC, the first `timestamptz`, in microseconds since 1970."""


def effective_periods(boards: pl.LazyFrame, periods: pl.LazyFrame) -> pl.LazyFrame:
    """The `BOARDS` with the `period_ms` that holds for each: its own, else its account's, else `DEFAULT_PERIOD`.

    `chosen_by` says which: `board`, `account` or `default`.
    """
    of_board = periods.drop_nulls("board_id").select("board_id", board_period="period_ms")
    of_account = periods.filter(pl.col("board_id").is_null()).select("account_id", account_period="period_ms")
    default = pl.lit(_milliseconds(DEFAULT_PERIOD), pl.Int64())
    return (
        boards.join(of_board, on="board_id", how="left")
        .join(of_account, on="account_id", how="left")
        .select(
            "board_id",
            "account_id",
            period_ms=pl.coalesce("board_period", "account_period", default),
            chosen_by=pl.when(pl.col("board_period").is_not_null())
            .then(pl.lit("board"))
            .when(pl.col("account_period").is_not_null())
            .then(pl.lit("account"))
            .otherwise(pl.lit("default")),
        )
    )


def cutoffs(periods: pl.LazyFrame, as_of: datetime, share: float = 1.0) -> pl.LazyFrame:
    """The `CUTOFFS` of `effective_periods`: before them lies what was idle for longer than that `share` of its period.

    Exact to the microsecond: `share` is taken in thousandths, and a period is whole milliseconds.
    """
    idle_us = pl.col("period_ms").clip(upper_bound=_LONGEST_PERIOD_MS) * round(share * 1000)
    earliest = pl.lit(_EARLIEST_INSTANT_US, pl.Int64())
    return periods.select("board_id", cutoff_us=pl.max_horizontal(_microseconds(as_of) - idle_us, earliest))


def stale_cards(cards: pl.LazyFrame, cutoffs: pl.LazyFrame) -> pl.LazyFrame:
    """The `CARDS` that were last active before their board's cut-off.

    A card exactly at its period is not yet stale, nor is one that is active in the future; a card of a board without
    a cut-off is not looked at.
    """
    before = pl.col("last_active_at").dt.epoch("us") < pl.col("cutoff_us")
    return cards.join(cutoffs, on="board_id", how="inner").filter(before).select(CARDS.names())


def actors(people: pl.LazyFrame) -> pl.LazyFrame:
    """The `ACTORS` of the accounts of `PEOPLE`: the system user, else the active owner with the lowest id."""
    return (
        people.filter(pl.col("is_system") | pl.col("is_active_owner"))
        .sort("is_system", "user_id", descending=[True, False])
        .group_by("account_id", maintain_order=True)
        .agg(actor_id=pl.col("user_id").first())
    )


def attributed(cards: pl.LazyFrame, actors: pl.LazyFrame) -> pl.LazyFrame:
    """The cards with the `actor_id` of their account, null where it has nobody, in order of `card_id`.

    The order is that of the heap, more or less: a batch of neighbours touches few pages.
    """
    return cards.join(actors, on="account_id", how="left").sort("card_id")


def _milliseconds(span: timedelta) -> int:
    return span // timedelta(milliseconds=1)


def _microseconds(instant: datetime) -> int:
    return (instant - datetime.fromisoformat("1970-01-01T00:00Z")) // timedelta(microseconds=1)
