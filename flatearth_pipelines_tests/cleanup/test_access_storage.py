"""What a person keeps of a board that they have lost access to, and what nobody takes from them."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from flatearth_pipelines import tables
from flatearth_pipelines.cleanup.access_storage import HasAccess, revoke
from flatearth_pipelines.errors import NotFound, WrongUsage
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.cleanup.boards import NOTHING, OF_EACH, keep, kept, told
from flatearth_pipelines_tests.cleanup.observed import waiting_for_a_lock
from flatearth_pipelines_tests.processes import until

UNKNOWN = 999_999_999


class Office:
    """Two people and two boards that are not open to all; neither person has access to either."""

    def __init__(self, connection: sa.Connection) -> None:
        self.account = make.account(connection)
        self.people = [make.user(connection, self.account) for _ in range(2)]
        self.boards = [make.board(connection, self.account, all_access=False) for _ in range(2)]


@pytest.fixture
def office(connection: sa.Connection) -> Office:
    return Office(connection)


@pytest.mark.parametrize("who", [0, 1])
@pytest.mark.parametrize("where", [0, 1])
def test_all_that_a_person_keeps_of_that_board_goes_and_nothing_of_another_board_or_person(
    connection: sa.Connection, office: Office, who: int, where: int
) -> None:
    person, other = office.people[who], office.people[1 - who]
    board, elsewhere = office.boards[where], office.boards[1 - where]
    keep(connection, elsewhere, person)
    stays = kept(connection, person)
    for _ in range(2):
        keep(connection, board, person)
    keep(connection, board, other)
    others = kept(connection, other)

    assert revoke(connection, board, person) == {kind: 2 * count for kind, count in OF_EACH.items()}

    assert kept(connection, person) == stays
    assert kept(connection, other) == others
    assert revoke(connection, board, person) == dict.fromkeys(OF_EACH, 0)


@pytest.mark.parametrize("status", ["drafted", "published"])
@pytest.mark.parametrize("state", ["closed_at", "postponed_at", None])
def test_cards_of_every_state_are_looked_at(
    connection: sa.Connection, office: Office, status: str, state: str | None
) -> None:
    person, board = office.people[0], office.boards[0]
    card = keep(connection, board, person)
    values = {"status": status} | ({state: make.NOON} if state else {})
    connection.execute(sa.update(tables.cards).where(tables.cards.c.id == card).values(values))

    assert revoke(connection, board, person) == OF_EACH


def test_a_card_that_moved_is_of_the_board_where_it_is_now(connection: sa.Connection, office: Office) -> None:
    person, (board, elsewhere) = office.people[0], office.boards
    there_now = keep(connection, elsewhere, person)
    gone_now = keep(connection, board, person)
    for card, now in ((there_now, board), (gone_now, elsewhere)):
        connection.execute(sa.update(tables.cards).where(tables.cards.c.id == card).values(board_id=now))

    assert revoke(connection, board, person) == OF_EACH
    assert kept(connection, person).watches == {gone_now}
    assert revoke(connection, elsewhere, person) == OF_EACH
    assert kept(connection, person) == NOTHING


def test_a_notification_whose_card_is_gone_is_of_the_board_where_it_happened(
    connection: sa.Connection, office: Office
) -> None:
    person, (board, elsewhere) = office.people[0], office.boards
    for where in office.boards:
        told(connection, person, "event", make.event(connection, where, person, "card_deleted", UNKNOWN))

    assert revoke(connection, board, person)["notifications"] == 1
    assert len(kept(connection, person).notifications) == 1
    assert revoke(connection, elsewhere, person)["notifications"] == 1


def test_who_is_inactive_loses_it_too(connection: sa.Connection, office: Office) -> None:
    person, board = office.people[0], office.boards[0]
    keep(connection, board, person)
    connection.execute(sa.update(tables.users).where(tables.users.c.id == person).values(active=False))
    assert revoke(connection, board, person) == OF_EACH


# Whoever may see it


@pytest.mark.parametrize("involvement", ["access_only", "watching"])
def test_who_has_an_access_of_their_own_keeps_everything_and_it_is_refused_in_one_line(
    connection: sa.Connection, office: Office, involvement: str
) -> None:
    person, board = office.people[0], office.boards[0]
    keep(connection, board, person)
    make.access(connection, board, person, involvement)
    before = kept(connection, person)

    with pytest.raises(HasAccess, match=rf"^User {person} has access to board {board}: take that away first$"):
        revoke(connection, board, person)
    assert kept(connection, person) == before


def test_on_a_board_that_is_open_to_all_everybody_keeps_everything(connection: sa.Connection, office: Office) -> None:
    person, board = office.people[0], office.boards[0]
    keep(connection, board, person)
    connection.execute(sa.update(tables.boards).where(tables.boards.c.id == board).values(all_access=True))
    before = kept(connection, person)

    with pytest.raises(HasAccess, match=rf"^User {person} has access to board {board}: it is open to all$"):
        revoke(connection, board, person)
    assert kept(connection, person) == before


def test_the_access_of_somebody_else_or_to_another_board_is_none(connection: sa.Connection, office: Office) -> None:
    (person, other), (board, elsewhere) = office.people, office.boards
    keep(connection, board, person)
    make.access(connection, board, other)
    make.access(connection, elsewhere, person)
    assert revoke(connection, board, person) == OF_EACH


def test_a_board_or_a_person_that_is_not_there_is_one_line(connection: sa.Connection, office: Office) -> None:
    with pytest.raises(NotFound, match=rf"^There is no board {UNKNOWN}$"):
        revoke(connection, UNKNOWN, office.people[0])
    with pytest.raises(NotFound, match=rf"^There is no user {UNKNOWN}$"):
        revoke(connection, office.boards[0], UNKNOWN)


def test_a_person_of_another_account_is_one_line(connection: sa.Connection, office: Office) -> None:
    stranger, board = Office(connection).people[0], office.boards[0]
    with pytest.raises(WrongUsage, match=rf"^User {stranger} is of another account than board {board}$"):
        revoke(connection, board, stranger)


# At the same moment


def test_who_is_given_access_again_while_it_is_being_deleted_keeps_what_is_new(
    engine: sa.Engine, other_engine: sa.Engine
) -> None:
    """The deletion waits for a watch that somebody is changing; meanwhile its person is let in, and watches a card."""
    with engine.begin() as connection:
        office = Office(connection)
        person, board = office.people[0], office.boards[0]
        held = keep(connection, board, person)
        new = make.card(connection, board)

    def revoked() -> dict[str, int]:
        with engine.begin() as connection:
            connection.execute(sa.text("SET LOCAL statement_timeout = '60s'"))
            return revoke(connection, board, person)

    with other_engine.connect() as somebody, ThreadPoolExecutor(1) as thread:
        somebody.execute(sa.text("SELECT FROM flatearth.watches WHERE card_id = :id FOR UPDATE"), {"id": held})
        running = thread.submit(revoked)
        until(lambda: waiting_for_a_lock(other_engine) == 1)
        make.access(somebody, board, person)
        make.watch(somebody, new, person)
        somebody.commit()
        assert running.result(timeout=60) == OF_EACH

    with engine.connect() as connection:
        assert kept(connection, person).watches == {new}
