"""Who could be told, as it is read."""

from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
import sqlalchemy as sa

from flatearth_pipelines.notifications import audience_storage
from flatearth_pipelines.notifications.recipients import (
    ACCESSES,
    ADDRESSES,
    BOARDS,
    EVENTS,
    MEMBERS,
    MENTIONED,
    MUTES,
    PEOPLE,
)
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.notifications.notified import run_within
from flatearth_pipelines_tests.notifications.workspace import Workspace

NOBODY = 2**62


@pytest.fixture
def work(connection: sa.Connection) -> Workspace:
    return Workspace(connection)


def ids(*values: int) -> pl.Series:
    return pl.Series(values, dtype=pl.Int64())


def members(connection: sa.Connection, *addresses: tuple[str, int]) -> set[tuple[Any, ...]]:
    frame = pl.DataFrame([(1, audience, key, "other") for audience, key in addresses], schema=ADDRESSES, orient="row")
    read = audience_storage.read_members(connection, frame)
    assert read.schema == MEMBERS
    assert read.is_unique().all()
    return set(read.rows())


def test_the_members_of_an_audience_are_those_of_its_card_or_board_only(
    connection: sa.Connection, work: Workspace
) -> None:
    ada, bob, eve = (work.person(connection) for _ in range(3))
    other_board = make.board(connection, work.account)
    other_card = make.card(connection, other_board)
    make.access(connection, work.board, ada, "watching")
    make.access(connection, work.board, bob, "access_only")
    make.access(connection, other_board, eve, "watching")
    make.watch(connection, work.card, ada)
    make.watch(connection, work.card, bob, watching=False)
    make.watch(connection, other_card, eve)
    make.assign(connection, work.card, bob)
    make.assign(connection, other_card, eve)
    named = work.event(connection, "card_assigned", assignee_ids=[ada, eve])

    assert members(connection, ("board", work.board)) == {("board", work.board, ada)}
    assert members(connection, ("card", work.card)) == {("card", work.card, ada)}
    assert members(connection, ("assignees", work.card)) == {("assignees", work.card, bob)}
    assert members(connection, ("assigned", named)) == {("assigned", named, ada), ("assigned", named, eve)}
    together = [("board", work.board), ("board", other_board), ("card", other_card), ("board", work.board)]
    assert members(connection, *together) == {
        ("board", work.board, ada),
        ("board", other_board, eve),
        ("card", other_card, eve),
    }


def test_an_audience_without_members_and_no_audience_have_no_rows(connection: sa.Connection) -> None:
    assert members(connection) == set()
    assert (
        members(connection, *[(audience, NOBODY) for audience in ("assigned", "assignees", "card", "board")]) == set()
    )


def test_those_mentioned_are_read_for_the_texts_of_the_events_only(connection: sa.Connection, work: Workspace) -> None:
    ada, bob = work.person(connection), work.person(connection)
    first, said = work.comment(connection, f"@[Ada](user:{ada})")
    work.comment(connection, f"@[Bob](user:{bob})")
    run_within(connection)
    events = pl.DataFrame(
        [
            (event, work.account, work.board, work.card, work.actor, False, "comment_created", kind, first)
            for event, kind in ((said, "comment"), (said + 1, "comment"), (said + 2, "card"))
        ],
        schema=EVENTS,
        orient="row",
    )
    mentioned = audience_storage.read_mentioned(connection, events)
    assert mentioned.schema == MENTIONED
    assert mentioned.rows() == [("comment", first, ada)]
    assert audience_storage.read_mentioned(connection, events.clear()).is_empty()


def test_active_people_are_read_and_neither_inactive_ones_nor_system_users(
    connection: sa.Connection, work: Workspace
) -> None:
    ada = work.person(connection)
    inactive, system = make.user(connection, work.account, active=False), make.user(connection, work.account, "system")
    people = audience_storage.read_people(connection, ids(ada, inactive, system, NOBODY, ada))
    assert people.schema == PEOPLE
    assert people.rows() == [(ada, work.account)]


def test_boards_are_read_with_whether_they_are_open_to_all(connection: sa.Connection, work: Workspace) -> None:
    restricted = make.board(connection, work.account, all_access=False)
    boards = audience_storage.read_boards(connection, ids(work.board, restricted, NOBODY))
    assert boards.schema == BOARDS
    assert set(boards.rows()) == {(work.board, work.account, True), (restricted, work.account, False)}


Read = Callable[[sa.Connection, pl.Series, pl.Series], pl.DataFrame]


@pytest.mark.parametrize(
    ("read", "schema", "write"),
    [(audience_storage.read_accesses, ACCESSES, make.access), (audience_storage.read_mutes, MUTES, make.mute)],
    ids=["accesses", "mutes"],
)
def test_accesses_and_mutes_are_read_of_these_people_to_these_boards(
    connection: sa.Connection, work: Workspace, read: Read, schema: pl.Schema, write: Callable[..., None]
) -> None:
    ada, bob, eve = (work.person(connection) for _ in range(3))
    other = make.board(connection, work.account)
    for board, user in ((work.board, ada), (work.board, eve), (other, bob)):
        write(connection, board, user)
    rows = read(connection, ids(work.board, NOBODY), ids(ada, bob))
    assert rows.schema == schema
    assert rows.rows() == [(work.board, ada)]
    assert read(connection, ids(), ids(ada)).is_empty()
