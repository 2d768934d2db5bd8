"""The moving part of a sample workspace: cards, and what people did with them."""

from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

from flatearth_pipelines.workspaces import words
from flatearth_pipelines.workspaces.draws import Draws
from flatearth_pipelines.workspaces.organisation import Organisation, expanded, ids
from flatearth_pipelines.workspaces.workspace import ASSIGNMENTS, CARDS, COMMENTS, EVENTS, PINS, TAGGINGS, WATCHES

HISTORY_PERIOD = timedelta(days=30)
"""How far back events go. One costs some 12 µs to load, for two foreign keys; all of a card's past has 1.6 of them."""

_DRAFTED = (0.0, 0.06)
_CLOSED = (0.06, 0.36)
_POSTPONED = (0.36, 0.5)
"""Slices of all cards; the rest is active."""

_IN_A_COLUMN = 0.65
"""Share of the active and the closed cards."""

_AGE_SKEW = 5.0
"""How much of what happens on a board is recent: so much that two in five active cards rest for a month or more."""

_SPIKE_PERIOD = timedelta(days=1)
"""An active card that was touched within it may still have its activity spike."""


@dataclass(frozen=True)
class Work:
    """Frames as in `workspace`."""

    cards: pl.DataFrame
    taggings: pl.DataFrame
    assignments: pl.DataFrame
    watches: pl.DataFrame
    pins: pl.DataFrame
    comments: pl.DataFrame
    events: pl.DataFrame


def work(organisation: Organisation, as_of: datetime, draws: Draws) -> Work:
    """As many cards as the organisation's accounts have, on their boards, with everything that hangs on a card."""
    cards = _cards(organisation, draws)
    published = cards.filter(pl.col("status") == "published")
    rows = published.height
    comments = _comments(published, draws)
    return Work(
        cards=cards.select(CARDS.names()),
        taggings=_taggings(cards, draws),
        assignments=_people(published, draws.between(0, 2, rows, skew=4), draws).select(ASSIGNMENTS.names()),
        watches=_people(published, draws.between(0, 2, rows, skew=12), draws).select(WATCHES.names()),
        pins=_people(published, draws.between(0, 1, rows, skew=20), draws).select(PINS.names()),
        comments=comments.select(COMMENTS.names()),
        events=_events(published, comments, as_of - HISTORY_PERIOD, draws),
    )


def _cards(organisation: Organisation, draws: Draws) -> pl.DataFrame:
    accounts = expanded(organisation.card_accounts, organisation.card_accounts["cards"])
    rows = accounts.height
    board_id = accounts["first_board"] + draws.below(accounts["boards"], skew=1.5)
    boards = organisation.card_boards[board_id - 1]
    state = draws.fractions(rows)
    drafted, closed, postponed = (
        state.is_between(*slice_, closed="left") for slice_ in (_DRAFTED, _CLOSED, _POSTPONED)
    )
    last_active_at = draws.instants(boards["until"], boards["since"], skew=_AGE_SKEW)
    in_a_column = draws.chance(_IN_A_COLUMN, rows) & ~drafted & ~postponed
    spiking = (
        draws.chance(0.5, rows) & ~(drafted | closed | postponed) & (boards["until"] - last_active_at < _SPIKE_PERIOD)
    )
    title = draws.chosen(words.TASKS, rows) + " " + draws.chosen(words.OBJECTS, rows)
    return (
        boards.with_columns(
            creator_id=boards["first_member"] + draws.below(boards["members"]),
            title=title + draws.chosen(words.CIRCUMSTANCES, rows),
            last_active_at=last_active_at,
            created_at=draws.instants(last_active_at, boards["since"], skew=2),
            closed_at=last_active_at.set(~closed, None),
            postponed_at=last_active_at.set(~postponed, None),
            activity_spike_at=last_active_at.set(~spiking, None),
            column_id=(boards["first_column"] + draws.below(boards["columns"])).set(~in_a_column, None),
            status=pl.when(drafted).then(pl.lit("drafted")).otherwise(pl.lit("published")),
        )
        .sort("account_id", "created_at", maintain_order=True)
        .with_columns(id=ids(rows), number=pl.int_range(1, pl.len() + 1).over("account_id"))
    )


def _taggings(cards: pl.DataFrame, draws: Draws) -> pl.DataFrame:
    # Consecutive tags from a random first: no tag twice on a card, as no account has fewer than two.
    offsets = draws.below(cards["tags"])
    taggings = expanded(cards.with_columns(offset=offsets), draws.between(0, 2, cards.height, skew=6))
    return taggings.select(
        id=ids(taggings.height),
        account_id="account_id",
        tag_id=pl.col("first_tag") + (pl.col("offset") + pl.col("ordinal")) % pl.col("tags"),
        card_id="id",
        created_at=draws.instants(taggings["created_at"], taggings["last_active_at"]),
    ).select(TAGGINGS.names())


def _people(cards: pl.DataFrame, counts: pl.Series, draws: Draws) -> pl.DataFrame:
    """As many different people of the board per card, two at most, with when they came to it."""
    offsets = draws.below(cards["members"])
    people = expanded(cards.with_columns(offset=offsets), counts)
    return people.select(
        "account_id",
        card_id="id",
        user_id=pl.col("first_member") + (pl.col("offset") + pl.col("ordinal")) % pl.col("members"),
        watching=pl.lit(True),
        created_at=draws.instants(people["created_at"], people["last_active_at"]),
    )


def _comments(cards: pl.DataFrame, draws: Draws) -> pl.DataFrame:
    comments = expanded(cards, draws.between(0, 6, cards.height, skew=24))
    rows = comments.height
    return (
        comments.select(
            "account_id",
            "board_id",
            card_id="id",
            creator_id=comments["first_member"] + draws.below(comments["members"]),
            body=draws.chosen(words.REMARKS, rows) + draws.chosen(words.AFTERTHOUGHTS, rows),
            created_at=draws.instants(comments["last_active_at"], comments["created_at"]),
        )
        .sort("created_at", maintain_order=True)
        .with_columns(id=ids(rows))
    )


def _events(cards: pl.DataFrame, comments: pl.DataFrame, since: datetime, draws: Draws) -> pl.DataFrame:
    """What the rows above leave behind, in the order in which it happened, from `since` on."""
    cards = cards.with_columns(somebody=cards["first_member"] + draws.below(cards["members"]))
    events = pl.concat(
        [
            _recorded("card_published", "card", cards, by="creator_id", at="created_at"),
            _recorded("card_closed", "card", cards, by="somebody", at="closed_at"),
            _recorded("card_postponed", "card", cards, by="somebody", at="postponed_at"),
            _recorded("comment_created", "comment", comments, by="creator_id", at="created_at"),
        ]
    )
    # A null, for what has not happened, is not after any instant.
    events = events.filter(pl.col("created_at") >= since).sort("created_at", maintain_order=True)
    return events.with_columns(id=ids(events.height)).select(EVENTS.names())


def _recorded(action: str, kind: str, rows: pl.DataFrame, by: str, at: str) -> pl.DataFrame:
    return rows.select(
        "account_id",
        "board_id",
        creator_id=by,
        action=pl.lit(action),
        eventable_type=pl.lit(kind),
        eventable_id="id",
        particulars=pl.lit("{}"),
        created_at=at,
    )
