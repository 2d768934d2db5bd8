"""What is read of a bundle for its mail: its person and the notifications that are in it at this moment."""

from typing import Any

import pytest
import sqlalchemy as sa

from flatearth_pipelines.notifications.digest import EXCERPT_LENGTH, Bundle, Item
from flatearth_pipelines.notifications.digest_storage import read_bundles
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.notifications.mails import due_bundles, notification, notify
from flatearth_pipelines_tests.notifications.workspace import Workspace, bundle


@pytest.fixture
def work(connection: sa.Connection) -> Workspace:
    return Workspace(connection)


def read(connection: sa.Connection, bundle_id: int) -> Bundle:
    (only,) = read_bundles(connection, [bundle_id])
    return only


def the_item(connection: sa.Connection, work: Workspace, person: int) -> Item:
    """The only one of a window of the last hour."""
    (only,) = read(connection, bundle(connection, person, "-1 hour", "-1 minute")).items
    assert work
    return only


def mention(connection: sa.Connection, work: Workspace, person: int, source_type: str, source_id: int) -> int:
    values = {"account": work.account, "type": source_type, "source": source_id, "by": work.actor, "of": person}
    query = sa.text(
        "INSERT INTO flatearth.mentions (account_id, source_type, source_id, mentioner_id, mentionee_id)"
        " VALUES (:account, :type, :source, :by, :of) RETURNING id"
    )
    mention_id: int = connection.execute(query, values).scalar_one()
    return notification(connection, person, "mention", mention_id)


def test_a_bundle_is_read_with_its_person_and_their_account(connection: sa.Connection, work: Workspace) -> None:
    person = make.user(connection, work.account, email="Ada@acme.example", time_zone="Asia/Tokyo")

    found = read(connection, bundle(connection, person, "-1 hour", "-1 minute", attempts=3))

    assert (found.user_id, found.account_id, found.attempts, found.status) == (person, work.account, 3, "pending")
    assert (found.email, found.time_zone, found.account) == ("Ada@acme.example", "Asia/Tokyo", "Acme")
    assert (found.active, found.cancelled, found.suppressed) == (True, False, False)
    assert found.frequency == "every_30_minutes"
    assert (found.items, found.in_several_accounts) == ([], False)


@pytest.mark.parametrize(
    ("statement", "several"),
    [
        ("SELECT 1", True),
        ("UPDATE flatearth.users SET email = 'ADA@ACME.EXAMPLE' WHERE id = :other", True),
        ("UPDATE flatearth.users SET active = false WHERE id = :other", False),
        ("UPDATE flatearth.accounts SET cancelled_at = now() WHERE id = :theirs", False),
        ("UPDATE flatearth.users SET email = 'bo@acme.example' WHERE id = :other", False),
    ],
)
def test_a_person_is_in_several_accounts_when_their_address_is_active_in_another_one(
    connection: sa.Connection, work: Workspace, statement: str, *, several: bool
) -> None:
    person = make.user(connection, work.account, email="ada@acme.example")
    make.user(connection, work.account, email="ada@acme.example", active=False)
    theirs = make.account(connection)
    other = make.user(connection, theirs, email="ada@acme.example")
    connection.execute(sa.text(statement.replace(":other", str(other)).replace(":theirs", str(theirs))))

    assert read(connection, bundle(connection, person, "-1 hour", "-1 minute")).in_several_accounts is several


def test_an_event_of_a_card_is_read_with_its_board_its_card_and_its_actor(
    connection: sa.Connection, work: Workspace
) -> None:
    person = work.person(connection)
    card = make.card(connection, work.board, title="Fix it", number=42)
    notify(connection, work, person, "card_closed", about=card)
    actor = connection.execute(sa.text(f"SELECT name FROM flatearth.users WHERE id = {work.actor}")).scalar_one()

    found = the_item(connection, work, person)

    expected = (1, "card_closed", False, actor, work.board, "Roadmap", card, 42, "Fix it", None)
    assert found == Item(*expected, created_at=found.created_at)


def test_an_event_of_a_comment_is_read_with_its_words(connection: sa.Connection, work: Workspace) -> None:
    person = work.person(connection)
    comment = make.comment(connection, work.card, "It works")
    notify(connection, work, person, "comment_created", about=comment)

    found = the_item(connection, work, person)

    assert (found.action, found.card_id, found.body) == ("comment_created", work.card, "It works")


@pytest.mark.parametrize("source", ["card", "comment"])
def test_a_mention_is_read_with_the_card_or_the_comment_that_it_is_in(
    connection: sa.Connection, work: Workspace, source: str
) -> None:
    person = work.person(connection)
    comment = make.comment(connection, work.card, "See this")
    mention(connection, work, person, source, {"card": work.card, "comment": comment}[source])

    found = the_item(connection, work, person)

    body = {"card": None, "comment": "See this"}[source]
    assert (found.action, found.card_id, found.body) == ("mention", work.card, body)
    assert found.actor is not None


@pytest.mark.parametrize(
    ("action", "particulars", "for_you"),
    [
        ("card_assigned", {"assignee_ids": ["person"]}, True),
        ("card_assigned", {"assignee_ids": [1, "person"]}, True),
        ("card_assigned", {"assignee_ids": [1]}, False),
        ("card_assigned", {"assignee_ids": None}, False),
        ("card_assigned", {}, False),
        ("card_unassigned", {"assignee_ids": ["person"]}, False),
    ],
)
def test_an_assignment_is_for_whom_it_names(
    connection: sa.Connection, work: Workspace, action: str, particulars: dict[str, Any], *, for_you: bool
) -> None:
    person = work.person(connection)
    ids = particulars.get("assignee_ids")
    named = particulars if ids is None else {"assignee_ids": [person if each == "person" else each for each in ids]}
    notify(connection, work, person, action, particulars=named)

    assert the_item(connection, work, person).for_you is for_you


def test_of_many_notifications_fifty_are_read_mentions_first_then_new_ones_and_all_are_counted(
    connection: sa.Connection, work: Workspace
) -> None:
    person = work.person(connection)
    mention(connection, work, person, "card", work.card)
    for minute in range(59):
        notify(connection, work, person, ago=f"{minute} minutes 30 seconds")

    found = read(connection, bundle(connection, person, "-2 hours", "0 seconds"))

    assert (found.total, len(found.items), {item.total for item in found.items}) == (60, 50, {60})
    assert [item.action for item in found.items].count("mention") == 1
    newest = sorted((item.created_at for item in found.items if item.action != "mention"), reverse=True)
    assert len(newest) == 49
    assert newest[0] - newest[-1] < make.DAY / 24


def test_of_a_comment_of_ten_megabytes_only_a_beginning_is_read(connection: sa.Connection, work: Workspace) -> None:
    person = work.person(connection)
    comment = make.comment(connection, work.card, "long " * 2_000_000)
    notify(connection, work, person, "comment_created", about=comment)

    assert len(the_item(connection, work, person).body or "") == EXCERPT_LENGTH


def test_a_person_with_access_gets_what_is_on_a_board_that_is_not_open_to_all(connection: sa.Connection) -> None:
    work = Workspace(connection, all_access=False)
    person, stranger = work.person(connection), work.person(connection)
    make.access(connection, work.board, person)
    ids = []
    for each in (person, stranger):
        notify(connection, work, each)
        ids.append(bundle(connection, each, "-1 hour", "-1 minute"))

    assert [(found.user_id, found.total) for found in read_bundles(connection, ids)] == [(person, 1), (stranger, 0)]


def test_only_bundles_that_are_there_and_of_the_claim_are_read_the_longest_due_first(
    connection: sa.Connection, work: Workspace
) -> None:
    early, late = due_bundles(connection, work, 2)
    connection.execute(sa.text(f"UPDATE flatearth.notification_bundles SET ends_at = now() WHERE id = {early}"))
    claim = connection.execute(
        sa.text(
            "UPDATE flatearth.notification_bundles SET status = 'processing', claim = gen_random_uuid(),"
            f" claimed_until = now() WHERE id = {late} RETURNING claim"
        )
    ).scalar_one()

    assert [found.id for found in read_bundles(connection, [early, late, 999_999])] == [late, early]
    assert [found.id for found in read_bundles(connection, [early, late], claim)] == [late]
    assert read_bundles(connection, []) == []
