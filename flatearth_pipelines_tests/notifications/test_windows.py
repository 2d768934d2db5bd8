"""Into which window a notification falls: its boundaries, one session at a time."""

from datetime import datetime, timedelta
from typing import Any

import polars as pl
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from flatearth_pipelines.notifications.functions import create_notifications
from flatearth_pipelines.notifications.storage import NOTIFICATIONS, write_notifications
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.factories import MICROSECOND
from flatearth_pipelines_tests.notifications import observed
from flatearth_pipelines_tests.notifications.workspace import Workspace, bundle

HALF_AN_HOUR = timedelta(minutes=30)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def work(connection: sa.Connection) -> Workspace:
    return Workspace(connection)


def newest(connection: sa.Connection, person: int) -> tuple[datetime, dict[str, Any]]:
    """When the person's newest notification was created, and its window."""
    notification = observed.notifications(connection, person)[-1]
    return notification["created_at"], observed.bundle_of(connection, notification)


# Which


@pytest.mark.parametrize(
    ("frequency", "period"),
    [
        (None, HALF_AN_HOUR),
        ("every_30_minutes", HALF_AN_HOUR),
        ("every_few_hours", 8 * HALF_AN_HOUR),
        ("daily", make.DAY),
        ("weekly", 7 * make.DAY),
    ],
)
def test_the_first_notification_opens_a_window_as_long_as_the_person_wants(
    connection: sa.Connection, work: Workspace, frequency: str | None, period: timedelta
) -> None:
    person = work.person(connection, frequency)
    work.notification(connection, person)
    at, window = newest(connection, person)
    assert (window["starts_at"], window["ends_at"], window["status"]) == (at, at + period, "pending")


def test_what_comes_before_its_end_falls_into_the_same_window(connection: sa.Connection, work: Workspace) -> None:
    person = work.person(connection)
    for _ in range(3):
        work.notification(connection, person)
    (only,) = observed.bundles(connection, person)
    assert {observed.bundle_of(connection, row)["id"] for row in observed.notifications(connection, person)} == {
        only["id"]
    }


def test_a_pending_window_past_its_end_takes_nothing_more(connection: sa.Connection, work: Workspace) -> None:
    """The flaw of the first design: any pending bundle took what came."""
    person = work.person(connection)
    over = bundle(connection, person, "-31 minutes", "-1 microsecond")
    work.notification(connection, person)
    at, window = newest(connection, person)
    assert window["id"] != over
    assert (window["starts_at"], window["ends_at"]) == (at, at + HALF_AN_HOUR)


def test_a_pending_window_before_its_end_takes_it_however_old_it_is(connection: sa.Connection, work: Workspace) -> None:
    person = work.person(connection)
    still_open = bundle(connection, person, "-30 days", "1 minute")
    work.notification(connection, person)
    assert newest(connection, person)[1]["id"] == still_open


@pytest.mark.parametrize("status", ["processing", "delivered", "failed"])
def test_a_window_that_was_sent_before_its_end_ends_where_the_next_begins(
    connection: sa.Connection, work: Workspace, status: str
) -> None:
    """As of an instant in the future, by an operator."""
    of_the_status: dict[str, dict[str, Any]] = {
        "processing": {"claim": sa.func.gen_random_uuid(), "claimed_until": make.NOON},
        "delivered": {"outcome": "mailed"},
        "failed": {"last_error": "550 no"},
    }
    person = work.person(connection)
    sent = bundle(connection, person, "-10 minutes", "20 minutes", status=status, **of_the_status[status])

    work.notification(connection, person)

    at, window = newest(connection, person)
    before, after = observed.bundles(connection, person)
    assert (before["id"], before["ends_at"]) == (sent, at)
    assert (after["id"], after["starts_at"], after["ends_at"]) == (window["id"], at, at + HALF_AN_HOUR)


def test_a_clock_that_was_set_back_makes_nobodys_windows_overlap(connection: sa.Connection, work: Workspace) -> None:
    """What they have seems to be in the future then; their time stands still until the clock is there again."""
    waits, was_sent = work.person(connection), work.person(connection)
    bundle(connection, waits, "1 minute", "31 minutes")
    bundle(connection, was_sent, "1 minute", "31 minutes", status="delivered", outcome="mailed")
    for person in (waits, was_sent):
        work.notification(connection, person)
        work.notification(connection, person)
    (waiting,) = observed.bundles(connection, waits)
    assert {row["created_at"] for row in observed.notifications(connection, waits)} == {waiting["starts_at"]}
    sent, opened = observed.bundles(connection, was_sent)
    assert opened["starts_at"] == sent["ends_at"]
    assert {row["created_at"] for row in observed.notifications(connection, was_sent)} == {sent["ends_at"]}


def test_windows_are_each_persons_own(connection: sa.Connection, work: Workspace) -> None:
    ada, bob = work.person(connection), work.person(connection, "daily")
    work.notification(connection, ada)
    work.notification(connection, bob)
    assert [len(observed.bundles(connection, person)) for person in (ada, bob)] == [1, 1]


def test_who_never_wants_mail_is_notified_and_has_no_window(connection: sa.Connection, work: Workspace) -> None:
    person = work.person(connection, "never", instant_mentions=True, instant_assignments=True)
    work.notification(connection, person, "card_assigned")
    assert len(observed.notifications(connection, person)) == 1
    assert observed.bundles(connection, person) == []


def test_the_database_refuses_windows_of_one_person_that_overlap(connection: sa.Connection, work: Workspace) -> None:
    person = work.person(connection)
    bundle(connection, person, "-1 hour", "1 hour")
    with pytest.raises(DBAPIError, match="windows_of_one_person_never_overlap"):
        bundle(connection, person, "59 minutes", "2 hours")


# When it ends


def test_the_end_is_put_off_to_that_of_quiet_hours_in_the_persons_zone(
    connection: sa.Connection, work: Workspace
) -> None:
    zone = "Pacific/Kiritimati"  # 14 hours ahead of UTC, no clocks that change
    local = connection.execute(sa.select(sa.func.clock_timestamp().op("AT TIME ZONE")(zone))).scalar_one()
    quiet_from, quiet_until = (local - timedelta(hours=1)).time(), (local + timedelta(hours=2)).time()
    person = work.person(connection, "every_30_minutes", time_zone=zone, quiet_from=quiet_from, quiet_until=quiet_until)
    work.notification(connection, person)
    at, window = newest(connection, person)
    assert timedelta(hours=2) - MINUTE < window["ends_at"] - at <= timedelta(hours=2)


# At once


@pytest.mark.parametrize(
    ("wants", "action", "at_once"),
    [
        ({"instant_assignments": True}, "card_assigned", True),
        ({"instant_assignments": True}, "card_closed", False),
        ({"instant_mentions": True}, "card_assigned", False),
        ({}, "card_assigned", False),
    ],
)
def test_an_assignment_is_mailed_at_once_to_those_who_want_that(
    connection: sa.Connection,
    work: Workspace,
    wants: dict[str, bool],
    action: str,
    at_once: bool,  # noqa: FBT001 - of the table
) -> None:
    person = work.person(connection, "weekly", **wants)
    work.notification(connection, person, action)
    at, window = newest(connection, person)
    assert (window["ends_at"] == at + MICROSECOND) == at_once


def test_with_it_comes_what_waited(connection: sa.Connection, work: Workspace) -> None:
    person = work.person(connection, "weekly", instant_assignments=True)
    work.notification(connection, person, "card_closed")
    work.notification(connection, person, "card_assigned")
    at, window = newest(connection, person)
    (only,) = observed.bundles(connection, person)
    assert (only["id"], only["ends_at"]) == (window["id"], at + MICROSECOND)
    assert only["starts_at"] == observed.notifications(connection, person)[0]["created_at"]


def test_what_comes_after_it_opens_the_next_window(connection: sa.Connection, work: Workspace) -> None:
    person = work.person(connection, "weekly", instant_assignments=True)
    for action in ("card_assigned", "card_closed", "card_closed"):
        work.notification(connection, person, action)
    first, second = observed.bundles(connection, person)
    assert second["starts_at"] >= first["ends_at"]
    assert second["ends_at"] - second["starts_at"] == 7 * make.DAY


def test_quiet_hours_put_off_even_what_is_wanted_at_once(connection: sa.Connection, work: Workspace) -> None:
    moment = observed.now(connection)
    quiet_until = (moment + timedelta(hours=2)).time()
    quiet = {"quiet_from": (moment - timedelta(hours=1)).time(), "quiet_until": quiet_until}
    person = work.person(connection, "weekly", instant_assignments=True, **quiet)
    work.notification(connection, person, "card_assigned")
    _, window = newest(connection, person)
    assert window["ends_at"] == moment + timedelta(hours=2)


def test_what_is_wanted_at_once_never_puts_off_a_window_that_ends_earlier(
    connection: sa.Connection, work: Workspace
) -> None:
    """Its quiet hours were chosen after the window was opened."""
    moment = observed.now(connection)
    quiet = {
        "quiet_from": (moment - timedelta(hours=1)).time(),
        "quiet_until": (moment + timedelta(hours=2)).time(),
    }
    person = work.person(connection, "weekly", instant_assignments=True, **quiet)
    bundle(connection, person, "-1 minute", "5 minutes")
    (before,) = observed.windows(connection, person)
    work.notification(connection, person, "card_assigned")
    assert observed.windows(connection, person) == [before]


def test_what_was_there_already_is_not_mailed_at_once_again(connection: sa.Connection, work: Workspace) -> None:
    person = work.person(connection, "weekly", instant_assignments=True)
    work.notification(connection, person, "card_assigned")
    before = observed.bundles(connection, person)
    call = sa.text(
        "SELECT flatearth.create_notification(account_id, user_id, source_type, source_id) FROM flatearth.notifications"
    )
    connection.execute(call)
    assert observed.bundles(connection, person) == before


# Many at once


def test_ten_thousand_in_one_call_have_one_instant_and_a_window_for_each_person(connection: sa.Connection) -> None:
    work = Workspace(connection)
    people = [work.person(connection, frequency) for frequency in (None, "daily", "never", "weekly")]
    events = make.events(connection, work.board, work.actor, 2_500)
    asked = [
        {"account_id": work.account, "user_id": person, "source_type": "event", "source_id": event}
        for event in events
        for person in people
    ]
    assert len(set(create_notifications(connection, asked))) == 10_000
    assert len({row["created_at"] for row in observed.notifications(connection)}) == 1
    assert [len(observed.bundles(connection, person)) for person in people] == [1, 1, 0, 1]


def test_the_same_notification_twice_in_one_call_is_one(connection: sa.Connection, work: Workspace) -> None:
    person, event = work.person(connection), work.event(connection)
    assert write(connection, [person, person], event) == (1, 1)


def test_people_who_are_gone_are_left_out(connection: sa.Connection, work: Workspace) -> None:
    person, event = work.person(connection), work.event(connection)
    assert write(connection, [person, 2**62], event) == (1, 1)
    assert len(observed.notifications(connection)) == 1


def write(connection: sa.Connection, people: list[int], event: int) -> tuple[int, int]:
    """How many notifications of the event were written, and how many windows opened."""
    notifications = pl.DataFrame(
        [(person, "event", event, None, "other") for person in people], schema=NOTIFICATIONS, orient="row"
    )
    return write_notifications(connection, notifications)
