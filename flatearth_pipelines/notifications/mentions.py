"""The rule: who is mentioned in a text, as `@[Any name](user:ID)`."""

import polars as pl

TEXTS = pl.Schema(
    {
        "source_type": pl.String(),
        "source_id": pl.Int64(),
        "account_id": pl.Int64(),
        "board_id": pl.Int64(),
        "author_id": pl.Int64(),
        "is_silent": pl.Boolean(),
        "text": pl.String(),
    }
)
"""Titles of cards and bodies of comments. `author_id` is null when that person is gone; silent are texts of a system
user, and those on a draft."""

NAMED = pl.Schema(
    {
        "source_type": pl.String(),
        "source_id": pl.Int64(),
        "account_id": pl.Int64(),
        "board_id": pl.Int64(),
        "creator_id": pl.Int64(),
        "user_id": pl.Int64(),
    }
)
"""One row for each text and person that it names."""

_MENTION = r"@\[(?:[^\]\r\n]|\]+[^\](\r\n])*\]+\(user:[0-9]{1,19}\)"
"""A name may hold brackets, but neither a line break nor `](`: that would be the end of another link."""

_ID = r"([0-9]+)\)$"


def named(texts: pl.LazyFrame) -> pl.LazyFrame:
    """The `NAMED` of `TEXTS`: everybody whom a text mentions, once, but for its author.

    Whether there is such a person, and whether they may read it, is not looked at: `recipients.readers` does that.
    """
    return (
        texts.filter(~pl.col("is_silent"))
        .with_columns(mention=pl.col("text").str.extract_all(_MENTION))
        .drop("text")
        .explode("mention", empty_as_null=False)
        .with_columns(user_id=pl.col("mention").str.extract(_ID).cast(pl.Int64(), strict=False))
        .filter(pl.col("user_id").is_not_null() & pl.col("user_id").ne_missing(pl.col("author_id")))
        .select(*NAMED.names()[:4], "user_id", creator_id="author_id")
        .select(NAMED.names())
        .unique()
    )


def within(sources: pl.LazyFrame, most: int) -> pl.LazyFrame:
    """The first of the sources, in their order, whose `bytes` are together at most so many; the first in any case."""
    return sources.filter((pl.col("bytes").cum_sum() <= most) | (pl.int_range(pl.len()) == 0))
