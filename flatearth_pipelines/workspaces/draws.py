"""Chance that comes out the same for the same seed, a column at a time."""

import random

import polars as pl

_FRACTION_BITS = 53
"""What a float holds exactly."""


class Draws:
    """Random columns; the same calls in the same order give the same columns on every platform."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)  # noqa: S311 - a sample, not a secret

    def fractions(self, rows: int) -> pl.Series:
        """Evenly spread over [0, 1)."""
        if rows == 0:
            return pl.Series([], dtype=pl.Float64())
        integers = pl.Array(pl.UInt64(), rows)
        drawn = pl.Series([self._random.randbytes(8 * rows)]).bin.reinterpret(dtype=integers, endianness="little")
        fractions: pl.Series = (drawn.explode() // 2 ** (64 - _FRACTION_BITS)).cast(pl.Float64()) / 2.0**_FRACTION_BITS
        return fractions

    def below(self, limits: pl.Series, skew: float = 1.0) -> pl.Series:
        """A whole number in [0, limit) per limit; a skew above 1 prefers small ones."""
        return (self.fractions(limits.len()).pow(skew) * limits).floor().cast(pl.Int64())

    def between(self, low: int, high: int, rows: int, skew: float = 1.0) -> pl.Series:
        """Whole numbers from low to high, both included; a skew above 1 prefers low ones."""
        return low + (self.fractions(rows).pow(skew) * (high - low + 1)).floor().cast(pl.Int64())

    def chance(self, share: float, rows: int) -> pl.Series:
        """True for about that share of the rows."""
        return self.fractions(rows) < share

    def chosen(self, choices: pl.Series, rows: int) -> pl.Series:
        """One of the choices per row, each as likely."""
        return choices.gather((self.fractions(rows) * choices.len()).floor().cast(pl.UInt32()))

    def instants(self, near: pl.Series, far: pl.Series, skew: float = 1.0) -> pl.Series:
        """An instant between two per row, whichever comes first; a skew above 1 prefers the near one."""
        spans = (far - near).dt.total_microseconds() * self.fractions(near.len()).pow(skew)
        return near + spans.cast(pl.Int64()).cast(pl.Duration("us"))
