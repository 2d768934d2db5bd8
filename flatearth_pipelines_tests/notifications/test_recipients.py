"""Who is told of an event: the rule against its sentences, and against a model in plain Python."""

from dataclasses import dataclass, field
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flatearth_pipelines.notifications import recipients
from flatearth_pipelines.notifications.recipients import (
    ACCESSES,
    ADDRESSES,
    BOARDS,
    CANDIDATES,
    EVENTS,
    MEMBERS,
    MENTIONED,
    MUTES,
    PEOPLE,
)

ACCOUNT, BOARD, CARD, COMMENT, EVENT = 1, 2, 3, 4, 5
ACTOR, ADA, BOB = 11, 12, 13
EVERYBODY = {ACTOR, ADA, BOB}


@dataclass
class World:
    """Who belongs to what; everybody is active, and the board is open to all, unless told otherwise."""

    watch_board: set[int] = field(default_factory=set)
    watch_card: set[int] = field(default_factory=set)
    assigned_to_card: set[int] = field(default_factory=set)
    named: set[int] = field(default_factory=set)
    """As assigned, by the event."""
    mentioned: set[int] = field(default_factory=set)
    people: set[int] = field(default_factory=lambda: set(EVERYBODY))
    all_access: bool = True
    access: set[int] = field(default_factory=set)
    muted: set[int] = field(default_factory=set)


def told(world: World, action: str, **event: Any) -> dict[int, str]:
    """Who is told, and of what kind it is to them."""
    is_comment = action.startswith("comment")
    row = {
        "event_id": EVENT,
        "account_id": ACCOUNT,
        "board_id": BOARD,
        "card_id": CARD,
        "actor_id": ACTOR,
        "actor_is_system": False,
        "action": action,
        "eventable_type": "comment" if is_comment else "card",
        "eventable_id": COMMENT if is_comment else CARD,
    }
    events = pl.DataFrame([row | event], schema=EVENTS)
    source = (row["eventable_type"], row["eventable_id"])
    return tell(
        events,
        members=frame(
            MEMBERS,
            *[("assigned", EVENT, user) for user in world.named],
            *[("assignees", CARD, user) for user in world.assigned_to_card],
            *[("card", CARD, user) for user in world.watch_card],
            *[("board", BOARD, user) for user in world.watch_board],
        ),
        mentioned=frame(MENTIONED, *[(*source, user) for user in world.mentioned]),
        people=frame(PEOPLE, *[(user, ACCOUNT) for user in world.people]),
        boards=frame(BOARDS, (BOARD, ACCOUNT, world.all_access)),
        accesses=frame(ACCESSES, *[(BOARD, user) for user in world.access]),
        mutes=frame(MUTES, *[(BOARD, user) for user in world.muted]),
    )


def tell(events: pl.DataFrame, **read: pl.DataFrame) -> dict[int, str]:
    addresses = recipients.addresses(events.lazy()).collect()
    assert addresses.schema == ADDRESSES
    lazy = {name: part.lazy() for name, part in read.items()}
    named = recipients.candidates(events.lazy(), addresses.lazy(), lazy["members"], lazy["mentioned"])
    allowed = recipients.readers(named, lazy["people"], lazy["boards"], lazy["accesses"])
    result = recipients.unmuted(allowed, lazy["mutes"]).collect()
    assert result.schema == CANDIDATES
    assert set(result["creator_id"]) <= {ACTOR}
    rows = result.select("user_id", "kind").rows()
    assert len(rows) == len(dict(rows)), "nobody is told twice"
    return dict(rows)


def frame(schema: pl.Schema, *rows: tuple[Any, ...]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=schema, orient="row")


# The sentences


def test_of_an_assignment_those_hear_whom_it_names_and_not_the_actor() -> None:
    world = World(named=EVERYBODY, watch_board={BOB}, watch_card={BOB}, assigned_to_card={BOB})
    assert told(world, "card_assigned") == {ADA: "assignment", BOB: "assignment"}
    assert told(World(named={ADA}, watch_board={BOB}), "card_assigned") == {ADA: "assignment"}


def test_of_a_published_card_the_boards_watchers_and_its_assignees_hear_and_not_the_actor() -> None:
    world = World(watch_board={ACTOR, ADA}, assigned_to_card={ACTOR, BOB}, watch_card=EVERYBODY, named=EVERYBODY)
    assert told(world, "card_published") == {ADA: "other", BOB: "assignment"}


def test_who_watches_the_board_and_is_assigned_hears_once_of_the_assignment() -> None:
    assert told(World(watch_board={ADA}, assigned_to_card={ADA}), "card_published") == {ADA: "assignment"}


def test_of_a_comment_the_cards_watchers_hear_and_not_its_author() -> None:
    world = World(watch_card={ACTOR, ADA}, watch_board=EVERYBODY, assigned_to_card=EVERYBODY, named=EVERYBODY)
    assert told(world, "comment_created") == {ADA: "other"}


@pytest.mark.parametrize("action", ["card_published", "comment_created"])
def test_those_mentioned_in_it_hear_of_that_instead(action: str) -> None:
    world = World(watch_board={ADA, BOB}, watch_card={ADA, BOB}, mentioned={ADA})
    assert told(world, action) == {BOB: "other"}


@pytest.mark.parametrize("action", ["card_closed", "card_moved", "card_title_changed", "reopened"])
def test_of_any_other_event_of_a_card_the_boards_watchers_hear_and_not_the_actor(action: str) -> None:
    world = World(watch_board={ACTOR, ADA}, watch_card=EVERYBODY, assigned_to_card=EVERYBODY, mentioned={ADA})
    assert told(world, action, eventable_type="card", eventable_id=CARD) == {ADA: "other"}


def test_of_any_other_event_of_a_comment_nobody_hears() -> None:
    assert told(World(watch_board=EVERYBODY, watch_card=EVERYBODY), "comment_edited") == {}


def test_of_a_card_that_was_postponed_automatically_nobody_hears() -> None:
    assert told(World(watch_board=EVERYBODY), "card_auto_postponed") == {}


@pytest.mark.parametrize("action", ["card_assigned", "card_published", "comment_created", "card_closed"])
def test_of_what_a_system_user_does_nobody_hears(action: str) -> None:
    world = World(watch_board={ADA}, watch_card={ADA}, named={ADA}, assigned_to_card={ADA})
    assert told(world, action) != {}
    assert told(world, action, actor_is_system=True) == {}


@pytest.mark.parametrize("action", ["card_assigned", "card_published", "comment_created", "card_closed"])
def test_only_active_people_with_access_to_the_board_hear(action: str) -> None:
    reached: dict[str, Any] = {"watch_board": {ADA}, "watch_card": {ADA}, "named": {ADA}, "assigned_to_card": {ADA}}
    assert told(World(**reached), action).keys() == {ADA}
    assert told(World(**reached, people={BOB}), action) == {}
    assert told(World(**reached, all_access=False), action) == {}
    assert told(World(**reached, all_access=False, access={ADA}), action).keys() == {ADA}


def test_somebody_of_another_account_does_not_hear() -> None:
    events = pl.DataFrame(
        [(EVENT, ACCOUNT, BOARD, CARD, ACTOR, False, "card_assigned", "card", CARD)], schema=EVENTS, orient="row"
    )
    read = {
        "members": frame(MEMBERS, ("assigned", EVENT, ADA)),
        "mentioned": frame(MENTIONED),
        "boards": frame(BOARDS, (BOARD, ACCOUNT, True)),
        "accesses": frame(ACCESSES),
        "mutes": frame(MUTES),
    }
    assert tell(events, **read, people=frame(PEOPLE, (ADA, ACCOUNT))) == {ADA: "assignment"}
    assert tell(events, **read, people=frame(PEOPLE, (ADA, ACCOUNT + 1))) == {}


def test_of_a_muted_board_its_muter_hears_assignments_only() -> None:
    reached: dict[str, Any] = {
        "watch_board": {ADA, BOB},
        "watch_card": {ADA, BOB},
        "named": {ADA},
        "assigned_to_card": {ADA},
    }
    assert told(World(**reached, muted={ADA, BOB}), "card_closed") == {}
    assert told(World(**reached, muted={BOB}), "comment_created") == {ADA: "other"}
    assert told(World(**reached, muted={ADA, BOB}), "card_assigned") == {ADA: "assignment"}
    assert told(World(**reached, muted={ADA, BOB}), "card_published") == {ADA: "assignment"}


def test_a_comment_that_is_gone_is_nobodys_news() -> None:
    assert told(World(watch_card=EVERYBODY), "comment_created", card_id=0) == {}


def test_no_event_tells_nobody() -> None:
    schemas = {"members": MEMBERS, "mentioned": MENTIONED, "people": PEOPLE, "boards": BOARDS}
    read = {name: pl.DataFrame(schema=schema) for name, schema in schemas.items()}
    read |= {"accesses": pl.DataFrame(schema=ACCESSES), "mutes": pl.DataFrame(schema=MUTES)}
    assert tell(pl.DataFrame(schema=EVENTS), **read) == {}


# How many at once


@pytest.mark.parametrize(
    ("most", "taken"),
    [(0, [1]), (2, [1]), (4, [1]), (5, [1, 2, 3]), (6, [1, 2, 3]), (8, [1, 2, 3, 4]), (99, [1, 2, 3, 4])],
)
def test_as_many_events_are_taken_as_speak_to_so_many_people_and_one_in_any_case(most: int, taken: list[int]) -> None:
    """They speak to 3, 2, nobody and 3 people."""
    events = pl.LazyFrame(
        [(i, ACCOUNT, BOARD, CARD, ACTOR, False, "card_closed", "card", CARD) for i in (4, 2, 1, 3)],
        schema=EVENTS,
        orient="row",
    )
    addresses = frame(
        ADDRESSES,
        (1, "board", 7, "other"),
        (2, "board", 8, "other"),
        (3, "board", 9, "other"),
        (4, "board", 7, "other"),
    )
    members = frame(MEMBERS, *[("board", 7, user) for user in (1, 2, 3)], *[("board", 8, user) for user in (1, 2)])
    chosen = recipients.within(events, addresses.lazy(), members.lazy(), most).collect()
    assert chosen.schema == EVENTS
    assert chosen["event_id"].to_list() == taken


# Anything

some = st.sets(st.sampled_from(sorted(EVERYBODY)))
worlds = st.builds(
    World,
    watch_board=some,
    watch_card=some,
    assigned_to_card=some,
    named=some,
    mentioned=some,
    people=some,
    all_access=st.booleans(),
    access=some,
    muted=some,
)
actions = ["card_assigned", "card_published", "comment_created", "card_closed", "comment_edited", "card_auto_postponed"]


@given(worlds, st.sampled_from(actions))
def test_whoever_belongs_to_whatever_the_rule_says_what_its_sentences_say(world: World, action: str) -> None:
    assert told(world, action) == by_the_sentences(world, action)


def by_the_sentences(world: World, action: str) -> dict[int, str]:
    match action:
        case "card_assigned":
            kinds = dict.fromkeys(world.named, "assignment")
        case "card_published":
            kinds = dict.fromkeys(world.watch_board, "other") | dict.fromkeys(world.assigned_to_card, "assignment")
        case "comment_created":
            kinds = dict.fromkeys(world.watch_card, "other")
        case "card_closed":
            kinds = dict.fromkeys(world.watch_board, "other")
        case _:
            kinds = {}
    instead = world.mentioned if action in {"card_published", "comment_created"} else set()
    may_see = world.people if world.all_access else world.people & world.access
    return {
        user: kind
        for user, kind in kinds.items()
        if user != ACTOR
        and user not in instead
        and user in may_see
        and (kind == "assignment" or user not in world.muted)
    }
