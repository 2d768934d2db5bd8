"""A made-up workspace that looks like a real one, the same for the same seed."""

from collections.abc import Iterator
from datetime import datetime

import polars as pl

from flatearth_pipelines.workspaces.draws import Draws
from flatearth_pipelines.workspaces.organisation import organisation
from flatearth_pipelines.workspaces.work import work
from flatearth_pipelines.workspaces.workspace import Workspace

CARDS_PER_ACCOUNT = 500
"""On average; the largest account has about twice as many, the smallest a tenth."""

LEAST_ACCOUNTS = 3

CARDS_PER_PART = 20_000
"""Bounds the memory, roughly: accounts stay whole."""


def sample_workspaces(cards: int, seed: int, as_of: datetime) -> Iterator[Workspace]:
    """Parts that have exactly so many cards together, each with whole accounts; one after the other is made.

    Nothing happens after `as_of`, and on each board most of what happens does so shortly before it: of all cards
    about a fifth is due for postponing then.
    """
    for number, plan in enumerate(_plan(cards, seed).partition_by("part", maintain_order=True, include_key=False)):
        draws = Draws(f"{seed} {number}")
        organised = organisation(plan, as_of, draws)
        done = work(organised, as_of, draws)
        yield Workspace(
            accounts=organised.accounts,
            users=organised.users,
            boards=organised.boards,
            entropies=organised.entropies,
            accesses=organised.accesses,
            columns=organised.columns,
            tags=organised.tags,
            cards=done.cards,
            taggings=done.taggings,
            assignments=done.assignments,
            watches=done.watches,
            pins=done.pins,
            comments=done.comments,
            events=done.events,
        )


def _plan(cards: int, seed: int) -> pl.DataFrame:
    """A row per account: its `number` from 0, its `cards`, and the `part` it belongs to."""
    accounts = max(LEAST_ACCOUNTS, cards // CARDS_PER_ACCOUNT)
    weights = Draws(f"{seed} accounts").between(1, 20, accounts)
    up_to = weights.cum_sum() * cards // weights.sum()
    before = up_to.shift(1, fill_value=0)
    return pl.select(
        number=pl.int_range(accounts, dtype=pl.Int64()), cards=up_to - before, part=before // CARDS_PER_PART
    )
