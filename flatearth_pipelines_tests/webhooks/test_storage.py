"""Webhooks as they are asked for, and what is said of them, in SQL."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from flatearth_pipelines import tables
from flatearth_pipelines.errors import NotFound, WrongUsage
from flatearth_pipelines.webhooks import storage
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.factories import MICROSECOND, NOON
from flatearth_pipelines_tests.queue.conftest import in_background, wait_until_blocked
from flatearth_pipelines_tests.webhooks import observed
from flatearth_pipelines_tests.webhooks.workspace import Workspace, disabled

HOUR = timedelta(hours=1)

NO_IDS = [0, -1, 2**63 - 1, 2**63, -(2**63) - 1, 10**30]
"""Under which nothing stands, those included that Postgres could never have given."""

FAILING = {"consecutive_failures": 7, "first_failure_at": NOON}
OPEN = {**FAILING, "trips": 2, "open_until": NOON}


@pytest.fixture
def work(connection: sa.Connection) -> Workspace:
    return Workspace(connection)


@pytest.fixture
def hook(connection: sa.Connection, work: Workspace) -> int:
    return work.webhook(connection)


# What is not there


@pytest.mark.parametrize("webhook_id", NO_IDS)
def test_an_id_that_no_webhook_has_is_named_by_whatever_asks_for_it(
    connection: sa.Connection, webhook_id: int, subtests: pytest.Subtests
) -> None:
    calls: dict[str, Callable[[], object]] = {
        "read_one": lambda: storage.read_one(connection, webhook_id),
        "read_target": lambda: storage.read_target(connection, webhook_id),
        "lock_secret": lambda: storage.lock_secret(connection, webhook_id),
        "enable": lambda: storage.enable(connection, webhook_id),
        "disable": lambda: storage.disable(connection, webhook_id, "by hand"),
    }
    for name, call in calls.items():
        with subtests.test(name), pytest.raises(NotFound, match=f"^There is no webhook {webhook_id}$"):
            call()
    assert connection.execute(sa.select(1)).scalar_one() == 1  # the transaction is still good


@pytest.mark.parametrize("delivery_id", NO_IDS)
def test_an_id_that_no_delivery_has_is_named(connection: sa.Connection, delivery_id: int) -> None:
    with pytest.raises(NotFound, match=f"^There is no delivery {delivery_id}$"):
        storage.read_attempts(connection, delivery_id)
    assert storage.read_delivery_states(connection, [delivery_id]) == {}


@pytest.mark.parametrize("number", NO_IDS)
def test_a_place_that_is_not_there_is_named(connection: sa.Connection, work: Workspace, number: int) -> None:
    with pytest.raises(NotFound, match=f"^There is no account {number}$"):
        storage.check_place(connection, number, None)
    with pytest.raises(NotFound, match=f"^There is no board {number} in account {work.account}$"):
        storage.check_place(connection, work.account, number)


def test_a_board_is_in_its_own_account_and_in_no_other(connection: sa.Connection, work: Workspace) -> None:
    theirs = Workspace(connection)

    storage.check_place(connection, work.account, None)
    storage.check_place(connection, work.account, work.board)

    with pytest.raises(NotFound, match=f"^There is no board {theirs.board} in account {work.account}$"):
        storage.check_place(connection, work.account, theirs.board)


# The list


def test_the_newest_webhooks_come_first_of_the_account_that_is_asked_for(
    connection: sa.Connection, work: Workspace
) -> None:
    theirs = Workspace(connection).webhook(connection)
    first, second, third = (work.webhook(connection) for _ in range(3))

    def listed(**options: Any) -> list[int]:
        return [row["id"] for row in storage.read_list(connection, **options)]

    assert listed(account_id=work.account) == [third, second, first]
    assert listed(account_id=work.account, limit=1, offset=1) == [second]
    assert listed(account_id=work.account, limit=0) == []
    assert listed(limit=4) == [third, second, first, theirs]
    assert listed(account_id=2**63 - 1) == []


@pytest.mark.parametrize(
    ("values", "state", "failures"),
    [
        ({}, "active", 0),
        (FAILING, "active", 7),
        (OPEN, "open", 7),
        (disabled(), "disabled", 0),
        (OPEN | disabled(), "disabled", 7),
    ],
)
def test_a_webhook_is_active_open_from_its_first_trip_on_or_disabled_before_all(
    connection: sa.Connection, work: Workspace, values: dict[str, Any], state: str, failures: int
) -> None:
    webhook_id = work.webhook(connection, **values)

    (row,) = storage.read_list(connection, account_id=work.account)

    assert (row["state"], row["failures"]) == (state, failures)
    assert storage.read_one(connection, webhook_id)["state"] == state


def test_a_list_and_a_webhook_have_nothing_of_its_secrets(connection: sa.Connection, work: Workspace) -> None:
    webhook_id = work.webhook(
        connection, previous_sealed_secret=b"sealed before", previous_secret_until=NOON, signature="ed25519"
    )
    row = observed.webhook(connection, webhook_id)

    one = storage.read_one(connection, webhook_id)
    (listed,) = storage.read_list(connection, account_id=work.account)

    assert one == {name: value for name, value in row.items() if "sealed" not in name} | {"state": "active"}
    assert not [name for name in listed if "secret" in name or "key" in name]


# Deliveries and attempts


def test_the_newest_deliveries_come_first_each_with_its_last_attempt_of_the_states_that_are_asked_for(
    connection: sa.Connection, work: Workspace, hook: int
) -> None:
    event = work.event(connection)
    first = make.delivery(connection, hook, event, state="errored", attempts=2)
    make.attempt(connection, first, "timeout", status=None, started_at=NOON + HOUR)
    make.attempt(connection, first, "http_5xx", attempt=2, status=503, duration_ms=34, address="203.0.113.7")
    second = make.delivery(connection, hook)
    make.attempt(connection, make.delivery(connection, work.webhook(connection)))

    newest, oldest = storage.read_deliveries(connection, hook)

    last = ("code", "status", "duration_ms", "address")
    assert (newest["id"], newest["type"], newest["event_id"], newest["state"]) == (second, "ping", None, "pending")
    assert [newest[name] for name in last] == [None] * 4
    assert (oldest["id"], oldest["type"], oldest["event_id"]) == (first, "card_closed", event)
    assert [oldest[name] for name in last] == ["http_5xx", 503, 34, "203.0.113.7"]
    assert "body" not in newest

    def listed(**options: Any) -> list[int]:
        return [row["id"] for row in storage.read_deliveries(connection, hook, **options)]

    assert listed(states=["errored"]) == [first]
    assert listed(states=["errored", "pending"]) == [second, first]
    assert listed(states=["completed"]) == []
    assert (listed(limit=1), listed(limit=1, offset=1)) == ([second], [first])


def test_a_delivery_has_all_its_attempts_in_order_also_those_before_it_was_sent_again(
    connection: sa.Connection, hook: int
) -> None:
    delivery_id = make.delivery(connection, hook)
    assert storage.read_attempts(connection, delivery_id) == []
    make.attempt(connection, delivery_id, "gone", status=410, response=b"\xff\x00", address="2001:db8::7", detail="x")
    make.attempt(connection, delivery_id, attempt=1, started_at=NOON - HOUR)
    make.attempt(connection, make.delivery(connection, hook), "dns")

    first, second = storage.read_attempts(connection, delivery_id)

    assert first == {
        "attempt": 1,
        "started_at": NOON,
        "duration_ms": 12,
        "code": "gone",
        "status": 410,
        "address": "2001:db8::7",
        "response": b"\xff\x00",
        "detail": "x",
    }
    assert (second["code"], second["started_at"], second["address"]) == ("ok", NOON - HOUR, None)


def test_the_states_of_deliveries_are_those_of_the_ones_that_are_there(connection: sa.Connection, hook: int) -> None:
    first = make.delivery(connection, hook)
    second = make.delivery(connection, hook, state="errored")

    assert storage.read_delivery_states(connection, [*NO_IDS, second, first]) == {first: "pending", second: "errored"}
    assert storage.read_delivery_states(connection, []) == {}


def test_who_sends_something_knows_the_account_the_format_and_whether_it_is_wanted(
    connection: sa.Connection, work: Workspace
) -> None:
    slack = work.webhook(connection, format="slack")
    silent = work.webhook(connection, **disabled())
    gone = make.webhook(connection, make.account(connection, cancelled_at=NOON))

    assert storage.read_target(connection, slack) == (work.account, "slack", True, False)
    assert storage.read_target(connection, silent) == (work.account, "json", False, False)
    assert storage.read_target(connection, gone)[1:] == ("json", True, True)


# Written


def test_ids_are_drawn_once_and_are_those_of_the_rows_that_name_none(
    connection: sa.Connection, work: Workspace
) -> None:
    first, second = storage.next_id(connection), storage.next_id(connection)
    values = {"account_id": work.account, "name": "x", "url": "x", "actions": ["card_closed"], "sealed_secret": b"x"}

    third = connection.execute(sa.insert(tables.webhooks).values(**values).returning(tables.webhooks.c.id)).scalar_one()

    assert first < second < third


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"account_id": 2**62}, NotFound),
        ({"board_id": 2**62}, NotFound),
        ({"name": ""}, WrongUsage),
        ({"name": "\0"}, WrongUsage),
        ({"name": "\ud800"}, WrongUsage),
        ({"actions": ["card_eaten"]}, WrongUsage),
    ],
)
def test_what_the_database_refuses_is_an_error_of_ours(
    connection: sa.Connection, work: Workspace, change: dict[str, Any], error: type[Exception]
) -> None:
    values = {"account_id": work.account, "name": "x", "url": "x", "actions": ["card_closed"], "sealed_secret": b"x"}
    with pytest.raises(error) as refusal, connection.begin_nested():
        storage.add(connection, values | change)
    assert "\n" not in str(refusal.value)


def test_a_secret_that_is_replaced_is_kept_beside_the_new_one_for_so_long_or_not_at_all(
    connection: sa.Connection, hook: int
) -> None:
    first = storage.lock_secret(connection, hook)

    storage.replace_secret(connection, hook, b"second", None, keep_for=HOUR)
    row = observed.webhook(connection, hook)
    assert (row["sealed_secret"], row["previous_sealed_secret"]) == (b"second", first)
    assert row["previous_secret_until"] == connection.execute(sa.select(sa.func.now())).scalar_one() + HOUR

    storage.replace_secret(connection, hook, b"third", None, keep_for=MICROSECOND)
    assert observed.webhook(connection, hook)["previous_sealed_secret"] == b"second"

    storage.replace_secret(connection, hook, b"fourth", None, keep_for=None)
    row = observed.webhook(connection, hook)
    assert (row["sealed_secret"], row["previous_sealed_secret"]) == (b"fourth", None)
    assert row["previous_secret_until"] is None


def test_of_two_who_replace_a_secret_the_second_waits_and_keeps_the_firsts(
    engine: sa.Engine, other_engine: sa.Engine, office: Workspace
) -> None:
    with engine.begin() as connection:
        hook = office.webhook(connection)

    def replace(connection: sa.Connection) -> bytes:
        before = storage.lock_secret(connection, hook)
        storage.replace_secret(connection, hook, b"second", None, keep_for=HOUR)
        return before

    with engine.begin() as connection:
        storage.lock_secret(connection, hook)
        storage.replace_secret(connection, hook, b"first", None, keep_for=HOUR)
        other = in_background(other_engine, replace)
        wait_until_blocked(engine)

    assert other.result(60) == b"first"
    with engine.begin() as connection:
        assert observed.webhook(connection, hook)["previous_sealed_secret"] == b"first"


def test_a_delivery_may_be_written_while_somebody_replaces_the_secret(
    engine: sa.Engine, other_engine: sa.Engine, office: Workspace
) -> None:
    with engine.begin() as connection:
        hook = office.webhook(connection)
    with engine.begin() as connection, other_engine.begin() as other:
        storage.lock_secret(connection, hook)
        storage.replace_secret(connection, hook, b"new", None, keep_for=None)
        other.execute(sa.text("SET LOCAL lock_timeout = '20s'"))
        make.delivery(other, hook)


@pytest.mark.parametrize("values", [FAILING, OPEN, disabled(), OPEN | disabled()])
def test_a_webhook_that_is_enabled_has_forgotten_every_failure(
    connection: sa.Connection, work: Workspace, values: dict[str, Any]
) -> None:
    fresh = work.webhook(connection)
    webhook_id = work.webhook(connection, **values)

    assert storage.enable(connection, webhook_id)

    assert observed.breaker(connection, webhook_id) == observed.breaker(connection, fresh) == (0, None, 0, None)
    row = observed.webhook(connection, webhook_id)
    assert (row["active"], row["disabled_at"], row["disabled_reason"]) == (True, None, None)
    assert not storage.enable(connection, webhook_id)


def test_a_webhook_is_disabled_once_and_the_first_reason_stays(connection: sa.Connection, work: Workspace) -> None:
    webhook_id = work.webhook(connection, **OPEN)

    assert storage.disable(connection, webhook_id, "by hand")
    assert not storage.disable(connection, webhook_id, "again")

    row = observed.webhook(connection, webhook_id)
    assert (row["active"], row["disabled_reason"]) == (False, "by hand")
    assert row["disabled_at"] == connection.execute(sa.select(sa.func.now())).scalar_one()
    assert observed.breaker(connection, webhook_id) == (7, NOON, 2, NOON)


def test_one_webhook_is_changed_and_no_other(connection: sa.Connection, work: Workspace) -> None:
    ours, theirs = work.webhook(connection), work.webhook(connection, **FAILING)
    before = observed.webhook(connection, theirs)

    storage.disable(connection, ours, "by hand")
    storage.enable(connection, ours)
    storage.replace_secret(connection, ours, b"new", None, keep_for=HOUR)

    assert observed.webhook(connection, theirs) == before


def test_a_delivery_that_is_held_is_due_in_a_minute(connection: sa.Connection, hook: int) -> None:
    delivery_id = make.delivery(connection, hook)
    before = observed.now(connection)

    storage.hold(connection, delivery_id)

    due = observed.delivery(connection, delivery_id)["next_attempt_at"]
    assert before + timedelta(minutes=1) <= due <= observed.now(connection) + timedelta(minutes=1)


@pytest.mark.parametrize("state", storage.STATES)
def test_only_a_delivery_that_waits_is_given_up(connection: sa.Connection, hook: int, state: str) -> None:
    claim = {"claim": sa.func.gen_random_uuid(), "claimed_until": NOON} if state == "in_progress" else {}
    delivery_id, other = make.delivery(connection, hook, state=state, **claim), make.delivery(connection, hook)

    storage.give_up(connection, delivery_id)

    states = observed.states(connection)
    assert states[delivery_id] == ("errored" if state == "pending" else state)
    assert states[other] == "pending"
