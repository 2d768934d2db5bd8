"""What an application calls: notifications, settings and muted boards, with the errors of the contract."""

import json
from collections.abc import Callable
from datetime import time, timedelta
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from flatearth_pipelines import tables
from flatearth_pipelines.errors import FlatEarthError, NotFound, NotPermitted, WrongUsage
from flatearth_pipelines.notifications.functions import (
    create_notification,
    create_notifications,
    mute_board,
    set_notification_settings,
)
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.notifications import observed
from flatearth_pipelines_tests.notifications.workspace import Workspace, bundle

HALF_AN_HOUR = timedelta(minutes=30)
NOBODY = 2**62
"""An id that nothing has."""


@pytest.fixture
def work(connection: sa.Connection) -> Workspace:
    return Workspace(connection)


# Creating


def test_a_notification_is_unread_has_its_source_and_its_creator_and_opens_a_window(
    connection: sa.Connection, work: Workspace
) -> None:
    person, event = work.person(connection), work.event(connection)
    before = observed.now(connection)

    new_id = create_notification(connection, work.account, person, "event", event, creator_id=work.actor)

    (notification,) = observed.notifications(connection, person)
    at = notification.pop("created_at")
    assert notification == {
        "id": new_id,
        "account_id": work.account,
        "user_id": person,
        "creator_id": work.actor,
        "source_type": "event",
        "source_id": event,
        "read_at": None,
    }
    assert before < at < observed.now(connection)
    assert observed.windows(connection, person) == [(at, at + HALF_AN_HOUR)]


def test_its_time_is_the_moment_of_the_call_and_not_the_beginning_of_the_transaction(
    connection: sa.Connection, work: Workspace
) -> None:
    connection.execute(sa.text("SELECT pg_sleep(0.01)"))
    before = observed.now(connection)
    person = work.person(connection)
    work.notification(connection, person)
    assert observed.notifications(connection, person)[0]["created_at"] > before


def test_called_twice_for_a_person_and_a_source_it_returns_the_same_id_and_changes_nothing(
    connection: sa.Connection, work: Workspace
) -> None:
    person, event = work.person(connection), work.event(connection)
    first = create_notification(connection, work.account, person, "event", event, creator_id=work.actor)
    before = observed.notifications(connection, person), observed.bundles(connection, person)
    assert create_notification(connection, work.account, person, "event", event) == first
    assert (observed.notifications(connection, person), observed.bundles(connection, person)) == before


def test_without_a_creator_there_is_none(connection: sa.Connection, work: Workspace) -> None:
    person = work.person(connection)
    create_notification(connection, work.account, person, "event", work.event(connection))
    assert observed.notifications(connection, person)[0]["creator_id"] is None


def test_several_at_once_return_their_ids_in_the_order_asked_for_old_and_new_alike(
    connection: sa.Connection, work: Workspace
) -> None:
    ada, bob = work.person(connection), work.person(connection)
    events = [work.event(connection) for _ in range(3)]
    old = create_notification(connection, work.account, ada, "event", events[1])

    ids = create_notifications(
        connection,
        [
            {"account_id": work.account, "user_id": user, "source_type": "event", "source_id": event}
            for user, event in [(bob, events[2]), (ada, events[1]), (ada, events[0]), (bob, events[2])]
        ],
    )

    sources = {row["id"]: (row["user_id"], row["source_id"]) for row in observed.notifications(connection)}
    assert [sources[new_id] for new_id in ids] == [
        (bob, events[2]),
        (ada, events[1]),
        (ada, events[0]),
        (bob, events[2]),
    ]
    assert ids[1] == old
    assert len(set(ids)) == 3
    assert len(observed.bundles(connection)) == 2


def test_none_at_once_is_none(connection: sa.Connection) -> None:
    assert create_notifications(connection, []) == []


def test_a_mention_may_be_a_source(connection: sa.Connection, work: Workspace) -> None:
    person = work.person(connection)
    mention = _mention(connection, work, person)
    create_notification(connection, work.account, person, "mention", mention)
    assert observed.told(connection, "mention") == {(mention, person)}


Arguments = dict[str, Any]

BAD: dict[str, tuple[type[FlatEarthError], Callable[[sa.Connection, Workspace], Arguments]]] = {
    "no account": (WrongUsage, lambda *_: {"account_id": None}),
    "no user": (WrongUsage, lambda *_: {"user_id": None}),
    "no source": (WrongUsage, lambda *_: {"source_id": None}),
    "no kind of source": (WrongUsage, lambda *_: {"source_type": None}),
    "another kind of source": (WrongUsage, lambda *_: {"source_type": "card"}),
    "unknown account": (NotFound, lambda *_: {"account_id": NOBODY}),
    "unknown user": (NotFound, lambda *_: {"user_id": NOBODY}),
    "unknown creator": (NotFound, lambda *_: {"creator_id": NOBODY}),
    "unknown event": (NotFound, lambda *_: {"source_id": NOBODY}),
    "unknown mention": (NotFound, lambda *_: {"source_type": "mention", "source_id": NOBODY}),
    "event of another account": (NotFound, lambda c, _: {"source_id": Workspace(c).event(c)}),
    "user of another account": (NotPermitted, lambda c, _: {"user_id": Workspace(c).actor}),
    "creator of another account": (NotPermitted, lambda c, _: {"creator_id": Workspace(c).actor}),
    "inactive user": (NotPermitted, lambda c, w: {"user_id": make.user(c, w.account, active=False)}),
    "inactive creator": (NotPermitted, lambda c, w: {"creator_id": make.user(c, w.account, active=False)}),
    "beyond bigint": (WrongUsage, lambda *_: {"user_id": 2**63}),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_what_is_wrong_is_refused_with_the_error_of_the_contract_and_nothing_is_written(
    connection: sa.Connection,
    work: Workspace,
    bad: tuple[type[FlatEarthError], Callable[[sa.Connection, Workspace], Arguments]],
) -> None:
    error, wrong = bad
    right: Arguments = {
        "account_id": work.account,
        "user_id": work.person(connection),
        "source_type": "event",
        "source_id": work.event(connection),
        "creator_id": work.actor,
    }
    arguments = right | wrong(connection, work)
    with pytest.raises(error) as refused, connection.begin_nested():
        create_notification(connection, **arguments)
    assert "\n" not in str(refused.value)
    with pytest.raises(error), connection.begin_nested():
        create_notifications(connection, [right, arguments])
    assert observed.notifications(connection) == observed.bundles(connection) == []


@pytest.mark.parametrize(
    ("notifications", "words"),
    [
        ({}, "not a JSON array"),
        (None, "not a JSON array"),
        ([1], "a notification takes"),
        ([{"user": 1}], "a notification takes"),
        ([{"user_id": "Ada"}], "not a whole number"),
        ([{"user_id": 1.5}], "not a whole number"),
        ([{"user_id": 2**63}], "not a whole number"),
        ([{"user_id": 1, "account_id": 1, "source_id": 1, "source_type": "event", "kind": "news"}], "kind is 'news'"),
        ([{}] * 10_001, "10,000"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_is_no_list_of_notifications_is_refused_with_22023(
    connection: sa.Connection, notifications: object, words: str
) -> None:
    call = sa.text("SELECT flatearth.create_notifications(CAST(:said AS jsonb))")
    with pytest.raises(DBAPIError, match=words) as refused:
        connection.execute(call, {"said": None if notifications is None else json.dumps(notifications)})
    assert isinstance(refused.value.orig, psycopg.Error)
    assert refused.value.orig.sqlstate == "22023"


def test_it_needs_nothing_but_plain_sql_with_named_arguments(connection: sa.Connection, work: Workspace) -> None:
    person, event = work.person(connection), work.event(connection)
    call = f"""
        SELECT flatearth.create_notification(
            account_id => {work.account}, user_id => {person}, source_type => 'event', source_id => {event}
        )
    """
    new_id = connection.execute(sa.text(call)).scalar_one()
    assert [row["id"] for row in observed.notifications(connection, person)] == [new_id]


# What it is to the person


@pytest.mark.parametrize("source", ["mention", "card_assigned", "card_closed"])
def test_what_a_notification_is_follows_from_its_source(connection: sa.Connection, source: str) -> None:
    """Seen in who is mailed at once."""
    work = Workspace(connection)
    ada, bob = work.person(connection, "daily", instant_mentions=True), None
    bob = work.person(connection, "daily", instant_assignments=True)
    for person in (ada, bob):
        if source == "mention":
            create_notification(connection, work.account, person, "mention", _mention(connection, work, person))
        else:
            work.notification(connection, person, source)
    at_once = [row["ends_at"] - row["starts_at"] < timedelta(seconds=1) for row in observed.bundles(connection)]
    assert at_once == [source == "mention", source == "card_assigned"]


def test_an_application_may_say_otherwise(connection: sa.Connection, work: Workspace) -> None:
    person = work.person(connection, "daily", instant_mentions=True)
    notification = {"account_id": work.account, "user_id": person, "source_type": "event"}
    create_notifications(connection, [notification | {"source_id": work.event(connection), "kind": "mention"}])
    ((starts_at, ends_at),) = observed.windows(connection, person)
    assert ends_at - starts_at == timedelta(microseconds=1)


# Settings


def chosen(connection: sa.Connection, user_id: int) -> dict[str, Any]:
    settings = tables.notification_settings
    row = connection.execute(sa.select(settings).where(settings.c.user_id == user_id)).mappings().one()
    return {name: value for name, value in row.items() if name not in {"user_id", "account_id"}}


DEFAULTS: dict[str, Any] = {
    "email_frequency": "every_30_minutes",
    "quiet_from": None,
    "quiet_until": None,
    "quiet_days": [],
    "instant_mentions": False,
    "instant_assignments": False,
}

EVERYTHING = {
    "email_frequency": "daily",
    "quiet_from": "22:00",
    "quiet_until": "07:30",
    "quiet_days": [7, 6, 6],
    "instant_mentions": True,
    "instant_assignments": True,
}


def test_what_is_chosen_is_kept_and_what_is_not_chosen_is_the_default(
    connection: sa.Connection, work: Workspace
) -> None:
    person = work.person(connection)
    set_notification_settings(connection, person, {"email_frequency": "weekly"})
    assert chosen(connection, person) == DEFAULTS | {"email_frequency": "weekly"}


def test_what_is_not_among_the_choices_stays_and_null_is_the_default(
    connection: sa.Connection, work: Workspace
) -> None:
    person = work.person(connection)
    set_notification_settings(connection, person, EVERYTHING)
    everything = {
        "email_frequency": "daily",
        "quiet_from": time(22),
        "quiet_until": time(7, 30),
        "quiet_days": [6, 7],
        "instant_mentions": True,
        "instant_assignments": True,
    }
    assert chosen(connection, person) == everything
    set_notification_settings(connection, person, {})
    assert chosen(connection, person) == everything
    set_notification_settings(connection, person, {"instant_mentions": False})
    assert chosen(connection, person) == everything | {"instant_mentions": False}
    set_notification_settings(connection, person, {"quiet_from": None, "quiet_until": None, "quiet_days": None})
    set_notification_settings(connection, person, {"email_frequency": None, "instant_assignments": None})
    assert chosen(connection, person) == DEFAULTS


def test_the_time_zone_is_the_persons_and_null_is_utc(connection: sa.Connection, work: Workspace) -> None:
    person = work.person(connection)
    zone = sa.select(tables.users.c.time_zone).where(tables.users.c.id == person)
    set_notification_settings(connection, person, {"time_zone": "Europe/Berlin"})
    assert connection.execute(zone).scalar_one() == "Europe/Berlin"
    set_notification_settings(connection, person, {"email_frequency": "daily"})
    assert connection.execute(zone).scalar_one() == "Europe/Berlin"
    set_notification_settings(connection, person, {"time_zone": None})
    assert connection.execute(zone).scalar_one() == "UTC"


@pytest.mark.parametrize(
    "choices",
    [
        {"email_frequency": "hourly"},
        {"email_frequency": 30},
        {"quiet_from": "22:00"},
        {"quiet_from": "22:00", "quiet_until": "22:00"},
        {"quiet_from": "25:00", "quiet_until": "22:00"},
        {"quiet_from": "ten", "quiet_until": "eleven"},
        {"quiet_days": [0]},
        {"quiet_days": [1, 2, 3, 4, 5, 6, 7]},
        {"quiet_days": "Sunday"},
        {"quiet_days": ["Sunday"]},
        {"quiet_days": 7},
        {"instant_mentions": "perhaps"},
        {"time_zone": "Mars/Olympus"},
        {"time_zone": ""},
        {"frequency": "daily"},
        {"user_id": 1},
    ],
    ids=str,
)
def test_a_choice_that_cannot_be_used_is_refused_and_nothing_changes(
    connection: sa.Connection, work: Workspace, choices: dict[str, Any]
) -> None:
    person = work.person(connection, "weekly")
    before = chosen(connection, person)
    with pytest.raises(WrongUsage) as refused, connection.begin_nested():
        set_notification_settings(connection, person, choices)
    assert "\n" not in str(refused.value)
    assert chosen(connection, person) == before
    raw = sa.text("SELECT flatearth.set_notification_settings(:person, CAST(:choices AS jsonb))")
    with pytest.raises(DBAPIError) as error, connection.begin_nested():
        connection.execute(raw, {"person": person, "choices": json.dumps(choices)})
    assert isinstance(error.value.orig, psycopg.Error)
    assert error.value.orig.sqlstate == "22023"


def test_an_inactive_person_and_an_unknown_one_choose_nothing(connection: sa.Connection, work: Workspace) -> None:
    with pytest.raises(NotPermitted, match="inactive"), connection.begin_nested():
        set_notification_settings(connection, make.user(connection, work.account, active=False), {})
    with pytest.raises(NotFound, match="there is no user"), connection.begin_nested():
        set_notification_settings(connection, NOBODY, {})


# What waits follows the frequency


@pytest.mark.parametrize("before", [None, "every_30_minutes", "daily"])
def test_changing_to_never_deletes_what_waits_and_nothing_that_was_sent(
    connection: sa.Connection, work: Workspace, before: str | None
) -> None:
    person, neighbour = work.person(connection, before), work.person(connection)
    sent = bundle(connection, person, "-2 hours", "-1 hour", status="delivered", outcome="mailed")
    at_work = bundle(
        connection, person, "-1 hour", "-1 minute", status="processing", claim=sa.func.gen_random_uuid(),
        claimed_until=make.NOON,
    )  # fmt: skip
    work.notification(connection, person)
    work.notification(connection, neighbour)

    set_notification_settings(connection, person, {"email_frequency": "never"})

    assert [row["id"] for row in observed.bundles(connection, person)] == [sent, at_work]
    assert len(observed.notifications(connection, person)) == 1
    assert len(observed.bundles(connection, neighbour)) == 1


@pytest.mark.parametrize(
    ("before", "after"), [(None, "daily"), ("weekly", "daily"), ("daily", "every_30_minutes"), ("weekly", None)]
)
def test_any_other_change_of_frequency_ends_what_waits_now(
    connection: sa.Connection, work: Workspace, before: str | None, after: str | None
) -> None:
    person = work.person(connection, before)
    work.notification(connection, person)
    began = observed.now(connection)

    set_notification_settings(connection, person, {"email_frequency": after})

    ((_, ends_at),) = observed.windows(connection, person)
    assert began < ends_at < observed.now(connection)
    work.notification(connection, person)
    assert [observed.bundle_of(connection, row)["id"] for row in observed.notifications(connection, person)] == [
        row["id"] for row in observed.bundles(connection, person)
    ]


def test_what_waits_for_another_attempt_is_not_sent_earlier(connection: sa.Connection, work: Workspace) -> None:
    person = work.person(connection)
    bundle(connection, person, "-2 hours", "-1 hour", attempts=1, next_attempt_at=make.NOON + 999 * make.DAY)
    before = observed.bundles(connection, person)
    set_notification_settings(connection, person, {"email_frequency": "daily"})
    assert observed.bundles(connection, person) == before


@pytest.mark.parametrize("choices", [{"email_frequency": "daily"}, {"instant_mentions": True}, {"quiet_days": [1]}])
def test_a_choice_that_leaves_the_frequency_leaves_what_waits(
    connection: sa.Connection, work: Workspace, choices: dict[str, Any]
) -> None:
    person = work.person(connection, "daily")
    work.notification(connection, person)
    before = observed.bundles(connection, person)
    set_notification_settings(connection, person, choices)
    assert observed.bundles(connection, person) == before


CHANGES = {
    "inserted": "INSERT INTO flatearth.notification_settings (user_id, account_id, email_frequency) SELECT :p, :a, :f",
    "updated": "UPDATE flatearth.notification_settings SET email_frequency = :f WHERE user_id = :p AND :a > 0",
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("frequency", ["never", "daily"])
def test_whoever_writes_the_table_without_the_function_has_the_same(
    connection: sa.Connection, work: Workspace, change: str, frequency: str
) -> None:
    person = work.person(connection, "weekly" if change == "updated" else None)
    work.notification(connection, person)
    connection.execute(sa.text(CHANGES[change]), {"p": person, "a": work.account, "f": frequency})
    ended = [row["ends_at"] < observed.now(connection) for row in observed.bundles(connection, person)]
    assert ended == ([] if frequency == "never" else [True])


def test_deleting_the_settings_is_a_change_to_the_default(connection: sa.Connection, work: Workspace) -> None:
    person, as_ever = work.person(connection, "weekly"), work.person(connection, "every_30_minutes")
    for user in (person, as_ever):
        work.notification(connection, user)
    connection.execute(sa.delete(tables.notification_settings))
    moment = observed.now(connection)
    assert [row["ends_at"] < moment for row in observed.bundles(connection)] == [True, False]


def test_a_person_may_be_deleted_with_all_that_waits(connection: sa.Connection, work: Workspace) -> None:
    person = work.person(connection, "weekly")
    work.notification(connection, person)
    connection.execute(sa.delete(tables.users).where(tables.users.c.id == person))
    assert observed.bundles(connection, person) == observed.notifications(connection, person) == []


# Muted boards


def test_a_board_is_muted_and_heard_again_and_each_says_whether_that_changed_anything(
    connection: sa.Connection, work: Workspace
) -> None:
    person = work.person(connection)
    muted = sa.select(tables.board_mutes.c.board_id, tables.board_mutes.c.user_id)
    said = [mute_board(connection, person, work.board) for _ in range(2)]
    assert said == [True, False]
    assert connection.execute(muted).all() == [(work.board, person)]
    said = [mute_board(connection, person, work.board, muted=False) for _ in range(2)]
    assert said == [True, False]
    assert connection.execute(muted).all() == []


def test_a_board_that_the_actor_may_not_see_cannot_be_muted(connection: sa.Connection, work: Workspace) -> None:
    hidden = make.board(connection, work.account, all_access=False)
    with pytest.raises(NotPermitted, match="has no access"), connection.begin_nested():
        mute_board(connection, work.person(connection), hidden)
    with pytest.raises(NotFound, match="there is no board"), connection.begin_nested():
        mute_board(connection, work.actor, NOBODY)


def _mention(connection: sa.Connection, work: Workspace, person: int) -> int:
    mentions = tables.mentions
    values = {
        "account_id": work.account,
        "source_type": "card",
        "source_id": work.card,
        "mentioner_id": work.actor,
        "mentionee_id": person,
    }
    new_id: int = connection.execute(sa.insert(mentions).values(**values).returning(mentions.c.id)).scalar_one()
    return new_id
