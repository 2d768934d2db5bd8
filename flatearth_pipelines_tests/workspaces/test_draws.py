from datetime import UTC, datetime, timedelta

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from flatearth_pipelines.workspaces.draws import Draws


def test_the_same_seed_draws_the_same_whoever_runs_it() -> None:
    # Pinned: a change here changes every sample workspace that somebody may have noted the seed of.
    assert Draws("1 0").between(0, 999, 5).to_list() == [800, 750, 106, 477, 963]


def test_another_seed_draws_something_else() -> None:
    assert not Draws("1").fractions(10).equals(Draws("2").fractions(10))


def test_no_rows_is_an_empty_column_of_the_same_type() -> None:
    drawn = Draws("1").fractions(0)
    assert (drawn.len(), drawn.dtype) == (0, pl.Float64())


@given(st.text(max_size=5), st.integers(1, 200), st.floats(0.1, 30))
def test_below_never_reaches_its_limit(seed: str, limit: int, skew: float) -> None:
    drawn = Draws(seed).below(pl.repeat(limit, 50, dtype=pl.Int64(), eager=True), skew)
    assert drawn.is_between(0, limit - 1).all()


@given(st.text(max_size=5), st.integers(-5, 5), st.integers(0, 5))
def test_between_includes_both_ends_and_nothing_else(seed: str, low: int, width: int) -> None:
    drawn = Draws(seed).between(low, low + width, 500)
    assert set(drawn) == set(range(low, low + width + 1))


def test_a_chance_of_a_third_is_true_for_a_third() -> None:
    assert 3_000 < Draws("1").chance(1 / 3, 10_000).sum() < 3_700


def test_an_instant_lies_between_its_ends_also_where_they_are_one() -> None:
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    near = pl.Series([noon] * 3, dtype=pl.Datetime("us", "UTC"))
    far = pl.Series([noon, noon + timedelta(days=1), noon - timedelta(microseconds=1)], dtype=near.dtype)
    same, later, earlier = Draws("1").instants(near, far)
    assert same == noon
    assert noon <= later <= noon + timedelta(days=1)
    assert noon - timedelta(microseconds=1) <= earlier <= noon


def test_a_skew_prefers_what_is_near() -> None:
    near = pl.repeat(datetime(2026, 1, 1, tzinfo=UTC), 1000, dtype=pl.Datetime("us", "UTC"), eager=True)
    drawn = Draws("1").instants(near, near - timedelta(days=100), skew=5)
    assert (drawn > near - timedelta(days=10)).sum() > 550
