"""The bytes that are sent: composed once, stored, and the same for everybody from then on."""

from typing import Any

import pytest
import sqlalchemy as sa

from flatearth_pipelines import tables
from flatearth_pipelines.webhooks.payload import Event, body
from flatearth_pipelines.webhooks.payload_storage import read_payloads
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.webhooks import observed
from flatearth_pipelines_tests.webhooks.workspace import Workspace


@pytest.fixture
def work(connection: sa.Connection) -> Workspace:
    return Workspace(connection)


class Composer:
    """Says what the card was called, and remembers of what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Event, str]] = []

    def __call__(self, event: Event, format_: str) -> bytes:
        self.asked.append((event, format_))
        return f"{format_} {event.card_title}".encode()

    def event(self) -> Event:
        """The only one."""
        ((event, _),) = self.asked
        return event


def test_the_bytes_are_composed_once_for_each_event_and_format_and_then_stay(
    connection: sa.Connection, work: Workspace
) -> None:
    event, compose = work.event(connection), Composer()
    asked = [(event, "json"), (event, "slack")]

    first = read_payloads(connection, asked, compose)
    connection.execute(sa.update(tables.cards).values(title="Renamed"))
    connection.execute(sa.delete(tables.events))
    second = read_payloads(connection, [*asked, *asked], compose)

    assert first == second == {(event, "json"): b"json Fix the bug", (event, "slack"): b"slack Fix the bug"}
    assert len(compose.asked) == 2
    assert observed.payloads(connection) == first


def test_only_what_is_missing_is_composed(connection: sa.Connection, work: Workspace) -> None:
    old, new = work.event(connection), work.event(connection)
    read_payloads(connection, [(old, "json")], Composer())
    compose = Composer()

    payloads = read_payloads(connection, {(old, "json"), (new, "json")}, compose)

    assert payloads.keys() == {(old, "json"), (new, "json")}
    assert compose.event().id == new


def test_an_event_that_is_gone_before_it_was_composed_is_left_out(connection: sa.Connection, work: Workspace) -> None:
    event = work.event(connection)

    payloads = read_payloads(connection, [(event, "json"), (999_999, "json")], Composer())

    assert payloads.keys() == {(event, "json")}


def test_nothing_asked_for_is_nothing(connection: sa.Connection) -> None:
    assert read_payloads(connection, [], Composer()) == {}


def test_any_utf_8_is_stored_to_the_byte(connection: sa.Connection, work: Workspace) -> None:
    event = work.event(connection)
    anything = "".join(map(chr, [*range(1, 0xD800), *range(0xE000, 0x10FFFF, 997)])).encode()

    payloads = read_payloads(connection, [(event, "json")], lambda _event, _format: anything)

    assert payloads == observed.payloads(connection) == {(event, "json"): anything}


def test_the_bytes_go_with_their_account(connection: sa.Connection, work: Workspace) -> None:
    theirs = Workspace(connection)
    kept, gone = work.event(connection), theirs.event(connection)
    read_payloads(connection, [(kept, "json"), (gone, "json")], Composer())

    connection.execute(sa.delete(tables.accounts).where(tables.accounts.c.id == theirs.account))

    assert observed.payloads(connection).keys() == {(kept, "json")}


# What is composed


def composed(connection: sa.Connection, event_id: int) -> Event:
    compose = Composer()
    read_payloads(connection, [(event_id, "json")], compose)
    return compose.event()


def update(connection: sa.Connection, table: sa.Table, row_id: int, **values: Any) -> None:
    connection.execute(sa.update(table).where(table.c.id == row_id).values(**values))


def test_an_event_of_a_card_is_read_with_its_card_board_account_and_creator(
    connection: sa.Connection, work: Workspace
) -> None:
    update(connection, tables.cards, work.card, number=7)
    update(connection, tables.users, work.owner, name="Ada")
    event_id = work.event(connection, "card_moved", column="Doing", depth={"a": [1, None]})
    created_at = connection.execute(sa.select(tables.events.c.created_at)).scalar_one()

    assert composed(connection, event_id) == Event(
        id=event_id,
        action="card_moved",
        created_at=created_at,
        account_id=work.account,
        account="Acme",
        board_id=work.board,
        board="Roadmap",
        creator_id=work.owner,
        creator="Ada",
        card_id=work.card,
        card_number=7,
        card_title="Fix the bug",
        comment_id=None,
        comment_body=None,
        particulars={"column": "Doing", "depth": {"a": [1, None]}},
    )


def test_an_event_of_a_comment_is_read_with_the_comment_and_its_card(
    connection: sa.Connection, work: Workspace
) -> None:
    comment = make.comment(connection, work.card, "Well done", work.owner)

    event = composed(connection, make.event(connection, work.board, work.owner, "comment_created", comment))

    assert (event.comment_id, event.comment_body) == (comment, "Well done")
    assert (event.card_id, event.card_title) == (work.card, "Fix the bug")


@pytest.mark.parametrize("table", [tables.cards, tables.comments])
def test_of_what_is_gone_an_event_says_nothing(connection: sa.Connection, work: Workspace, table: sa.Table) -> None:
    comment = make.comment(connection, work.card, "Well done", work.owner)
    events = [work.event(connection), make.event(connection, work.board, work.owner, "comment_deleted", comment)]
    connection.execute(sa.delete(table))

    of_card, of_comment = (composed(connection, each) for each in events)

    assert (of_comment.comment_id, of_comment.comment_body, of_comment.card_id) == (None, None, None)
    assert of_card.card_id == (None if table is tables.cards else work.card)


def test_a_card_or_a_comment_of_another_account_is_never_shown(connection: sa.Connection, work: Workspace) -> None:
    theirs = Workspace(connection)
    comment = make.comment(connection, theirs.card, "A secret")
    of_card = make.event(connection, work.board, work.owner, "card_moved", theirs.card)
    of_comment = make.event(connection, work.board, work.owner, "comment_created", comment)

    for event_id in (of_card, of_comment):
        event = composed(connection, event_id)
        assert (event.card_id, event.card_number, event.card_title) == (None, None, None)
        assert (event.comment_id, event.comment_body) == (None, None)


@pytest.mark.parametrize("format_", ["json", "slack", "campfire"])
def test_a_comment_of_a_megabyte_is_composed(connection: sa.Connection, work: Workspace, format_: str) -> None:
    comment = make.comment(connection, work.card, 1_000_000 * "x", work.owner)
    event = make.event(connection, work.board, work.owner, "comment_created", comment)

    payloads = read_payloads(
        connection, [(event, format_)], lambda one, which: body(one, which, "https://acme.example")
    )

    assert (len(payloads[event, format_]) > 1_000_000) == (format_ == "json")
