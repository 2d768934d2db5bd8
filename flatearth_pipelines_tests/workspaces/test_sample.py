from collections import Counter
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flatearth_pipelines.workspaces.sample import CARDS_PER_PART, LEAST_ACCOUNTS, sample_workspaces
from flatearth_pipelines.workspaces.workspace import Workspace
from flatearth_pipelines_tests.workspaces.consistency import violations

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)

DEFAULT_PERIOD = timedelta(days=30)


def counted(cards: int, seed: int = 1) -> Counter[str]:
    counts: Counter[str] = Counter()
    for part in sample_workspaces(cards, seed, NOON):
        counts.update(part.counts())
    return counts


@settings(max_examples=30)
@given(
    cards=st.integers(1, 3_000),
    seed=st.integers(),
    as_of=st.datetimes(datetime(1970, 1, 1), datetime(2999, 12, 31), timezones=st.just(UTC)),  # noqa: DTZ001
)
def test_any_seed_and_count_make_a_consistent_workspace_in_which_nothing_comes_after_as_of(
    cards: int, seed: int, as_of: datetime
) -> None:
    (part,) = sample_workspaces(cards, seed, as_of)
    assert violations(part) == []
    assert part.cards.height == cards
    for name, frame in part.tables():
        for column in frame.select(pl.selectors.datetime()):
            assert (column.drop_nulls() <= as_of).all(), (name, column.name)


def test_the_same_seed_makes_the_same_workspace() -> None:
    for one, other in zip(sample_workspaces(2_000, 7, NOON), sample_workspaces(2_000, 7, NOON), strict=True):
        for (name, frame), (_, same) in zip(one.tables(), other.tables(), strict=True):
            assert frame.equals(same), name


def test_another_seed_makes_another_workspace() -> None:
    (one,), (other,) = sample_workspaces(500, 1, NOON), sample_workspaces(500, 2, NOON)
    assert not one.cards.equals(other.cards)


@pytest.mark.parametrize("cards", [1, 2, 499, 1_499])
def test_even_few_cards_come_with_three_accounts(cards: int) -> None:
    assert counted(cards)["accounts"] == LEAST_ACCOUNTS


def test_there_is_an_account_for_every_five_hundred_cards() -> None:
    assert counted(10_000)["accounts"] == 20


def test_parts_have_exactly_the_cards_asked_for_together_and_no_more_than_an_account_too_many_each() -> None:
    parts = list(sample_workspaces(3 * CARDS_PER_PART, 1, NOON))
    assert len(parts) > 1
    assert sum(part.cards.height for part in parts) == 3 * CARDS_PER_PART
    assert all(violations(part) == [] for part in parts)
    assert all(part.cards.height < CARDS_PER_PART + 2_000 for part in parts)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_about_a_fifth_of_the_cards_is_due(seed: int) -> None:
    due = sum(_due(part) for part in sample_workspaces(100_000, seed, NOON))
    assert 0.15 < due / 100_000 < 0.25


def test_nothing_happens_in_an_account_after_it_was_cancelled() -> None:
    cards = pl.concat(
        part.cards.join(part.accounts, left_on="account_id", right_on="id").drop_nulls("cancelled_at")
        for part in sample_workspaces(100_000, 1, NOON)
    )
    assert cards.height > 0
    assert (cards["last_active_at"] <= cards["cancelled_at"]).all()


def _due(part: Workspace) -> int:
    of_boards, of_accounts = (
        part.entropies.filter(container_type=kind).select(
            pl.col("container_id").alias(f"{kind}_id"),
            pl.duration(milliseconds="auto_postpone_period_ms").alias(f"{kind}_period"),
        )
        for kind in ("board", "account")
    )
    active = part.cards.filter(
        pl.col("status") == "published", pl.col("closed_at").is_null(), pl.col("postponed_at").is_null()
    )
    return (
        active.join(part.accounts.filter(pl.col("cancelled_at").is_null()), left_on="account_id", right_on="id")
        .join(of_boards, on="board_id", how="left")
        .join(of_accounts, on="account_id", how="left")
        .filter(NOON - pl.col("last_active_at") > pl.coalesce("board_period", "account_period", pl.lit(DEFAULT_PERIOD)))
        .height
    )
