"""Events in, deliveries out: who hears of what, in SQL."""

from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from flatearth_pipelines import tables
from flatearth_pipelines.webhooks import dispatch_storage as storage
from flatearth_pipelines.webhooks.dispatch_storage import Dispatched
from flatearth_pipelines.webhooks.payload import ACTIONS
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.factories import DAY, NOON
from flatearth_pipelines_tests.webhooks import observed
from flatearth_pipelines_tests.webhooks.workspace import Workspace, disabled


@pytest.fixture
def work(connection: sa.Connection) -> Workspace:
    return Workspace(connection)


def dispatched(connection: sa.Connection, most: int = 1_000) -> list[tuple[int, int]]:
    """The pairs of event and webhook, after a dispatch."""
    storage.dispatch(connection, most)
    return observed.dispatched(connection)


# Who


def test_an_event_has_one_delivery_for_each_webhook_of_its_board_and_of_its_whole_account(
    connection: sa.Connection, work: Workspace
) -> None:
    of_board, of_account = work.webhook(connection, board_id=work.board), work.webhook(connection)
    first, second = work.event(connection), work.event(connection)

    assert dispatched(connection) == [(event, hook) for event in (first, second) for hook in (of_board, of_account)]


@pytest.mark.parametrize("action", ACTIONS)
def test_every_action_can_be_wanted_alone(connection: sa.Connection, work: Workspace, action: str) -> None:
    hook = work.webhook(connection, actions=[action])
    events = {each: work.event(connection, each) for each in ACTIONS}

    assert dispatched(connection) == [(events[action], hook)]


def test_a_webhook_of_another_board_another_account_or_another_action_hears_nothing(
    connection: sa.Connection, work: Workspace
) -> None:
    hook = work.webhook(connection)
    work.webhook(connection, board_id=make.board(connection, work.account))
    work.webhook(connection, actions=["card_moved", "comment_created"])
    make.webhook(connection, make.account(connection))
    event = work.event(connection)

    assert dispatched(connection) == [(event, hook)]


@pytest.mark.parametrize("before", [True, False], ids=["before the event", "after it"])
def test_a_webhook_that_is_disabled_hears_nothing(connection: sa.Connection, work: Workspace, *, before: bool) -> None:
    hook, other = work.webhook(connection), work.webhook(connection)
    disable = sa.update(tables.webhooks).where(tables.webhooks.c.id == hook).values(disabled())
    if before:
        connection.execute(disable)
    event = work.event(connection)
    connection.execute(disable)

    assert dispatched(connection) == [(event, other)]


@pytest.mark.parametrize("before", [True, False], ids=["before the event", "after it"])
def test_of_a_cancelled_account_nothing_is_written_and_the_events_are_new_no_more(
    connection: sa.Connection, work: Workspace, *, before: bool
) -> None:
    work.webhook(connection)
    cancel = sa.update(tables.accounts).where(tables.accounts.c.id == work.account).values(cancelled_at=NOON)
    if before:
        connection.execute(cancel)
    work.event(connection)
    connection.execute(cancel)

    assert dispatched(connection) == []
    assert observed.undispatched(connection) == []


def test_what_happens_before_there_is_a_webhook_is_not_new(connection: sa.Connection, work: Workspace) -> None:
    work.event(connection)
    hook = work.webhook(connection)
    after = work.event(connection)

    assert dispatched(connection) == [(after, hook)]


def test_an_event_that_says_it_happened_long_ago_is_new_all_the_same(
    connection: sa.Connection, work: Workspace
) -> None:
    hook = work.webhook(connection)
    event = work.event(connection)
    connection.execute(sa.update(tables.events).where(tables.events.c.id == event).values(created_at=NOON - 999 * DAY))

    assert dispatched(connection) == [(event, hook)]


# How it is written


def test_a_delivery_is_due_at_once_and_says_of_what_account_and_action_it_is(
    connection: sa.Connection, work: Workspace
) -> None:
    work.webhook(connection)
    work.event(connection, "card_moved")
    storage.dispatch(connection, 10)

    (row,) = observed.deliveries(connection)

    assert (row["account_id"], row["type"], row["state"], row["attempts"]) == (work.account, "card_moved", "pending", 0)
    assert row["next_attempt_at"] <= observed.now(connection)
    assert (row["body"], row["claim"], row["completed_at"]) == (None, None, None)


def test_the_counts_are_those_of_the_events_and_of_the_deliveries_by_their_action(
    connection: sa.Connection, work: Workspace
) -> None:
    work.webhook(connection, actions=["card_closed"])
    work.webhook(connection, actions=["card_closed", "card_moved"])
    for action in ("card_closed", "card_closed", "card_moved"):
        work.event(connection, action)

    assert storage.dispatch(connection, 10) == Dispatched(3, {"card_closed": 4, "card_moved": 1})
    assert storage.dispatch(connection, 10) == Dispatched(0, {})


def test_the_oldest_events_are_taken_first_and_no_more_than_asked_for(
    connection: sa.Connection, work: Workspace
) -> None:
    hook = work.webhook(connection)
    events = work.events(connection, 5)

    assert dispatched(connection, 2) == [(event, hook) for event in events[:2]]
    assert observed.undispatched(connection) == events[2:]


def test_an_event_that_is_new_once_more_has_no_second_delivery(connection: sa.Connection, work: Workspace) -> None:
    hook = work.webhook(connection)
    event = work.event(connection)
    storage.dispatch(connection, 10)
    connection.execute(sa.insert(tables.undispatched_events).values(event_id=event))

    assert storage.dispatch(connection, 10) == Dispatched(1, {})
    assert observed.dispatched(connection) == [(event, hook)]


def test_what_somebody_else_has_taken_is_left_to_them(engine: sa.Engine, other_engine: sa.Engine) -> None:
    with engine.begin() as connection:
        work = Workspace(connection)
        hook = work.webhook(connection)
        first, second = work.events(connection, 2)
    with other_engine.connect() as somebody, engine.begin() as connection:
        connection.execute(sa.text("SET LOCAL lock_timeout = '1ms'"))
        assert storage.dispatch(somebody, 1).events == 1
        assert dispatched(connection) == [(second, hook)]
        somebody.rollback()
    with engine.begin() as connection:
        assert dispatched(connection) == [(first, hook), (second, hook)]


# What is new


def test_an_event_that_nobody_wants_is_never_new(connection: sa.Connection, work: Workspace) -> None:
    work.webhook(connection, actions=["card_moved"])
    work.webhook(connection, board_id=make.board(connection, work.account))
    work.webhook(connection, **disabled())
    make.webhook(connection, make.account(connection))
    work.event(connection)

    assert observed.undispatched(connection) == []


def test_what_is_loaded_silently_is_nobodys_news_and_what_comes_after_it_is(
    connection: sa.Connection, work: Workspace
) -> None:
    work.webhook(connection)
    with connection.begin_nested():
        connection.execute(sa.text("SET LOCAL flatearth.silent = 'on'"))
        work.event(connection)
        work.events(connection, 3)
    connection.execute(sa.text("SET LOCAL flatearth.silent = 'off'"))
    loud = work.event(connection)

    assert observed.undispatched(connection) == [loud]


@pytest.mark.parametrize("way", ["one by one", "several rows at once", "COPY"])
def test_each_event_is_new_once_however_it_is_written(connection: sa.Connection, work: Workspace, way: str) -> None:
    hook, other = work.webhook(connection), work.webhook(connection, actions=["card_moved"])
    if way == "one by one":
        for action in ("card_closed", "card_moved", "card_moved"):
            work.event(connection, action)
    else:
        copy(connection, work, ["card_closed", "card_moved", "card_moved"], by_hand=way == "COPY")
    closed, *moved = ids(connection)

    assert observed.undispatched(connection) == [closed, *moved]
    assert dispatched(connection) == sorted(
        [(closed, hook), *((event, each) for event in moved for each in (hook, other))]
    )


def copy(connection: sa.Connection, work: Workspace, actions: list[str], *, by_hand: bool) -> None:
    """An event of each action in one statement, by COPY or by INSERT."""
    columns = ("account_id", "board_id", "creator_id", "action", "eventable_type", "eventable_id")
    rows = [(work.account, work.board, work.owner, action, "card", work.card) for action in actions]
    if not by_hand:
        values = [dict(zip(columns, row, strict=True)) for row in rows]
        connection.execute(sa.insert(tables.events).values(values))
        return
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    with driver.cursor() as cursor, cursor.copy(f"COPY flatearth.events ({', '.join(columns)}) FROM STDIN") as lines:
        for row in rows:
            lines.write_row(row)


def ids(connection: sa.Connection) -> list[int]:
    return sorted(connection.execute(sa.select(tables.events.c.id)).scalars())


def test_there_is_something_new_until_it_is_dispatched(connection: sa.Connection, work: Workspace) -> None:
    work.webhook(connection)
    assert (storage.is_anything_new(connection), storage.read_waiting(connection)) == (False, 0)
    work.events(connection, 3)
    assert (storage.is_anything_new(connection), storage.read_waiting(connection)) == (True, 3)
    storage.dispatch(connection, 3)
    assert (storage.is_anything_new(connection), storage.read_waiting(connection)) == (False, 0)


def test_an_event_that_is_deleted_is_new_no_more(connection: sa.Connection, work: Workspace) -> None:
    work.webhook(connection)
    event = work.event(connection)
    connection.execute(sa.delete(tables.events).where(tables.events.c.id == event))

    assert dispatched(connection) == []


# A rehearsal


def test_a_rehearsal_counts_what_a_dispatch_then_does_and_changes_nothing(
    connection: sa.Connection, work: Workspace
) -> None:
    cancelled = Workspace(connection)
    for each in (work, cancelled):
        each.webhook(connection, actions=["card_closed"])
        each.webhook(connection, actions=["card_closed", "card_moved"])
        each.event(connection, "card_closed")
        each.event(connection, "card_moved")
    gone: dict[str, Any] = {"cancelled_at": NOON}
    connection.execute(sa.update(tables.accounts).where(tables.accounts.c.id == cancelled.account).values(gone))
    before = observed.undispatched(connection)

    rehearsed = storage.rehearse(connection)

    assert (observed.undispatched(connection), observed.deliveries(connection)) == (before, [])
    assert rehearsed == storage.dispatch(connection, 100) == Dispatched(4, {"card_closed": 2, "card_moved": 1})
