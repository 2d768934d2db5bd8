"""The rule: who is told of an event."""

import polars as pl

AUDIENCE = pl.Enum(["assigned", "assignees", "card", "board"])
"""Whom an event speaks to: those it names as assigned, a card's assignees, a card's watchers, a board's watchers."""

KIND = pl.Enum(["mention", "assignment", "other"])
"""What a notification is to its person: they may want the first two at once, and hear them from a muted board too."""

EVENTS = pl.Schema(
    {
        "event_id": pl.Int64(),
        "account_id": pl.Int64(),
        "board_id": pl.Int64(),
        "card_id": pl.Int64(),
        "actor_id": pl.Int64(),
        "actor_is_system": pl.Boolean(),
        "action": pl.String(),
        "eventable_type": pl.String(),
        "eventable_id": pl.Int64(),
    }
)
"""What happened. `card_id` is 0 for a comment that is gone."""

ADDRESSES = pl.Schema({"event_id": pl.Int64(), "audience": AUDIENCE, "key": pl.Int64(), "kind": KIND})
"""An event speaks to the members of this audience; `key` is the event, the card or the board."""

MEMBERS = pl.Schema({"audience": AUDIENCE, "key": pl.Int64(), "user_id": pl.Int64()})

MENTIONED = pl.Schema({"source_type": pl.String(), "source_id": pl.Int64(), "user_id": pl.Int64()})
"""Who is mentioned in a card's title or a comment's body, and was told of that."""

CANDIDATES = pl.Schema(
    {
        "event_id": pl.Int64(),
        "account_id": pl.Int64(),
        "board_id": pl.Int64(),
        "user_id": pl.Int64(),
        "creator_id": pl.Int64(),
        "kind": KIND,
    }
)
"""Who would be told, were they active and allowed to see the board. One row for each event and person."""

PEOPLE = pl.Schema({"user_id": pl.Int64(), "account_id": pl.Int64()})
"""Active people; a system user is none."""

BOARDS = pl.Schema({"board_id": pl.Int64(), "account_id": pl.Int64(), "all_access": pl.Boolean()})

ACCESSES = pl.Schema({"board_id": pl.Int64(), "user_id": pl.Int64()})

MUTES = pl.Schema({"board_id": pl.Int64(), "user_id": pl.Int64()})

_NOT_THE_MENTIONED = ("card_published", "comment_created")
"""Actions whose text mentions people, who hear of that instead."""


def addresses(events: pl.LazyFrame) -> pl.LazyFrame:
    """The `ADDRESSES` of `EVENTS`: every audience that each of them speaks to.

    `card_assigned` speaks to those that it names; `card_published` to the board's watchers and the card's assignees;
    `comment_created` to the card's watchers; any other event of a card to the board's watchers; any other event of a
    comment, `card_auto_postponed`, and whatever a system user did, to nobody.
    """
    action, by_somebody = pl.col("action"), events.filter(~pl.col("actor_is_system"))
    of_a_card = (pl.col("eventable_type") == "card") & ~action.is_in(
        ["card_assigned", "comment_created", "card_auto_postponed"]
    )
    return pl.concat(
        [
            _addressed(by_somebody.filter(action == "card_assigned"), "assigned", "event_id", "assignment"),
            _addressed(by_somebody.filter(action == "card_published"), "assignees", "card_id", "assignment"),
            _addressed(by_somebody.filter(action == "comment_created"), "card", "card_id", "other"),
            _addressed(by_somebody.filter(of_a_card), "board", "board_id", "other"),
        ]
    )


def within(events: pl.LazyFrame, addresses: pl.LazyFrame, members: pl.LazyFrame, most: int) -> pl.LazyFrame:
    """The first of the events, by id, that together speak to at most so many people; the first one in any case."""
    sizes = members.group_by("audience", "key").agg(size=pl.len().cast(pl.Int64()))
    reach = addresses.join(sizes, on=["audience", "key"]).group_by("event_id").agg(reach=pl.col("size").sum())
    return (
        events.join(reach, on="event_id", how="left")
        .sort("event_id")
        .with_columns(together=pl.col("reach").fill_null(0).cum_sum())
        .filter((pl.col("together") <= most) | (pl.int_range(pl.len()) == 0))
        .select(EVENTS.names())
    )


def candidates(
    events: pl.LazyFrame, addresses: pl.LazyFrame, members: pl.LazyFrame, mentioned: pl.LazyFrame
) -> pl.LazyFrame:
    """The `CANDIDATES`: the members of the audiences of these events, without the actor and those mentioned.

    Who belongs to an event in two ways is told once, of the assignment.
    """
    instead = events.filter(pl.col("action").is_in(_NOT_THE_MENTIONED)).join(
        mentioned, left_on=["eventable_type", "eventable_id"], right_on=["source_type", "source_id"]
    )
    return (
        addresses.join(members, on=["audience", "key"])
        .join(events, on="event_id")
        .filter(pl.col("user_id") != pl.col("actor_id"))
        .group_by("event_id", "account_id", "board_id", "user_id", creator_id="actor_id")
        .agg(pl.col("kind").min())
        .join(instead, on=["event_id", "user_id"], how="anti")
        .select(CANDIDATES.names())
    )


def readers(
    candidates: pl.LazyFrame, people: pl.LazyFrame, boards: pl.LazyFrame, accesses: pl.LazyFrame
) -> pl.LazyFrame:
    """The candidates, of whatever shape, who are active people of the account with access to the board."""
    open_to_all = boards.filter("all_access").select("board_id")
    of_the_account = candidates.join(people, on=["user_id", "account_id"], how="semi")
    return pl.concat(
        [
            of_the_account.join(open_to_all, on="board_id", how="semi"),
            of_the_account.join(open_to_all, on="board_id", how="anti").join(
                accesses, on=["board_id", "user_id"], how="semi"
            ),
        ]
    )


def unmuted(candidates: pl.LazyFrame, mutes: pl.LazyFrame) -> pl.LazyFrame:
    """The `CANDIDATES` without those who muted the board, who still hear that something was assigned to them."""
    other = pl.col("kind") == "other"
    return pl.concat(
        [
            candidates.filter(~other),
            candidates.filter(other).join(mutes, on=["board_id", "user_id"], how="anti"),
        ]
    )


def _addressed(events: pl.LazyFrame, audience: str, key: str, kind: str) -> pl.LazyFrame:
    return events.select(
        "event_id",
        audience=pl.lit(audience, AUDIENCE),
        key=pl.col(key),
        kind=pl.lit(kind, KIND),
    )
