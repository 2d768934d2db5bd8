"""What became of deliveries, in SQL, and what is sent once more."""

import uuid
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from flatearth_pipelines import tables
from flatearth_pipelines.webhooks import delivery_storage as storage
from flatearth_pipelines.webhooks.claim_storage import claim_these, rescue
from flatearth_pipelines.webhooks.outcome import MOST_BYTES, Answer, Code
from flatearth_pipelines.webhooks.settlement import Settlement, handed_back
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.factories import MICROSECOND, NOON
from flatearth_pipelines_tests.webhooks import observed
from flatearth_pipelines_tests.webhooks.workspace import Workspace, deliveries, disabled

MINE = uuid.UUID(int=1)
THEIRS = uuid.UUID(int=2)
HOUR = timedelta(hours=1)

OK = Answer(Code.OK, NOON, 12, 204)
FAILED = Answer(Code.HTTP_5XX, NOON, 34, 503)


@pytest.fixture
def work(connection: sa.Connection) -> Workspace:
    return Workspace(connection)


@pytest.fixture
def hook(connection: sa.Connection, work: Workspace) -> int:
    return work.webhook(connection)


def claimed(connection: sa.Connection, hook: int, count: int = 1, claim: uuid.UUID = MINE) -> list[int]:
    ids = deliveries(connection, hook, count)
    assert len(claim_these(connection, claim, ids)) == count
    return ids


def completed(delivery_id: int) -> tuple[Settlement, Answer | None]:
    return Settlement(delivery_id, "completed"), OK


# What became of them


def test_each_delivery_is_recorded_as_it_ended(connection: sa.Connection, hook: int) -> None:
    done, later, failed, untried = ids = claimed(connection, hook, 4)
    before = observed.now(connection)

    settled = storage.settle(
        connection,
        MINE,
        [
            completed(done),
            (Settlement(later, "pending", wait=HOUR), FAILED),
            (Settlement(failed, "errored"), Answer(Code.GONE, NOON, 0, 410)),
            (handed_back(untried), None),
        ],
    )

    assert settled == set(ids)
    rows = {row["id"]: row for row in observed.deliveries(connection)}
    assert {each: (row["state"], row["attempts"], row["last_code"]) for each, row in rows.items()} == {
        done: ("completed", 1, "ok"),
        later: ("pending", 1, "http_5xx"),
        failed: ("errored", 1, "gone"),
        untried: ("pending", 0, None),
    }
    assert {each for each, row in rows.items() if row["completed_at"]} == {done}
    assert before <= rows[done]["completed_at"] <= observed.now(connection)
    assert before + HOUR <= rows[later]["next_attempt_at"] <= observed.now(connection) + HOUR
    assert rows[untried]["next_attempt_at"] <= before
    assert {(row["claim"], row["claimed_until"]) for row in rows.values()} == {(None, None)}


def test_each_attempt_is_logged_with_all_that_is_known_of_it_and_what_was_not_tried_is_not(
    connection: sa.Connection, work: Workspace, hook: int
) -> None:
    answered, blocked, untried = claimed(connection, hook, 3)
    answers = [
        Answer(Code.OK, NOON, 12, 200, None, "192.0.2.7", b"\x00\xfffine", None),
        Answer(Code.BLOCKED, NOON + HOUR, 0, None, None, "::1", None, "a private address"),
    ]
    ends = [
        (Settlement(answered, "completed"), answers[0]),
        (Settlement(blocked, "pending", wait=HOUR), answers[1]),
        (handed_back(untried), None),
    ]
    storage.settle(connection, MINE, ends)

    rows = observed.attempts(connection)

    assert all(row.pop("id") for row in rows)
    assert [(row.pop("account_id"), str(row.pop("address"))) for row in rows] == [
        (work.account, "192.0.2.7"),
        (work.account, "::1"),
    ]
    assert sorted(rows, key=lambda row: row["delivery_id"]) == [
        {
            "delivery_id": answered,
            "attempt": 1,
            "started_at": NOON,
            "duration_ms": 12,
            "code": "ok",
            "status": 200,
            "response": b"\x00\xfffine",
            "detail": None,
        },
        {
            "delivery_id": blocked,
            "attempt": 1,
            "started_at": NOON + HOUR,
            "duration_ms": 0,
            "code": "blocked",
            "status": None,
            "response": None,
            "detail": "a private address",
        },
    ]


def test_the_log_has_a_row_for_each_attempt(connection: sa.Connection, hook: int) -> None:
    delivery_id = make.delivery(connection, hook)
    for _ in range(3):
        claim_these(connection, MINE, [delivery_id])
        storage.settle(connection, MINE, [(Settlement(delivery_id, "pending", wait=HOUR), FAILED)])

    assert [row["attempt"] for row in observed.attempts(connection, delivery_id)] == [1, 2, 3]


@pytest.mark.parametrize("code", Code)
def test_the_database_knows_every_code(connection: sa.Connection, hook: int, code: Code) -> None:
    (delivery_id,) = claimed(connection, hook)

    storage.settle(connection, MINE, [(Settlement(delivery_id, "errored"), Answer(code, NOON, 0))])

    assert [row["code"] for row in observed.attempts(connection)] == [code.value]


def test_of_an_answer_twenty_thousand_bytes_are_kept_and_the_database_refuses_one_more(
    connection: sa.Connection, hook: int
) -> None:
    first, second = claimed(connection, hook, 2)
    longest = Answer(Code.OK, NOON, 0, 200, response=MOST_BYTES * b"x")
    storage.settle(connection, MINE, [(Settlement(first, "completed"), longest)])

    assert observed.attempts(connection)[0]["response"] == 20_000 * b"x"
    longer = longest._replace(response=(MOST_BYTES + 1) * b"x")
    with pytest.raises(IntegrityError, match="response_is_short"):
        storage.settle(connection, MINE, [(Settlement(second, "completed"), longer)])


def test_a_wait_begins_at_the_instant_of_the_run_where_that_is_later_than_now(
    connection: sa.Connection, hook: int
) -> None:
    first, second = claimed(connection, hook, 2)
    now = observed.now(connection)
    storage.settle(connection, MINE, [(Settlement(first, "pending", wait=HOUR), FAILED)], now + 24 * HOUR)
    storage.settle(connection, MINE, [(Settlement(second, "pending", wait=HOUR), FAILED)], now - 24 * HOUR)

    assert observed.delivery(connection, first)["next_attempt_at"] == now + 25 * HOUR
    assert observed.delivery(connection, second)["next_attempt_at"] >= now + HOUR


def test_who_has_lost_a_claim_changes_nothing_and_logs_nothing(connection: sa.Connection, hook: int) -> None:
    (delivery_id,) = claimed(connection, hook, claim=THEIRS)
    before = observed.delivery(connection, delivery_id)

    assert storage.settle(connection, MINE, [completed(delivery_id), completed(999_999)]) == set()
    assert observed.delivery(connection, delivery_id) == before
    assert observed.attempts(connection) == []


def test_a_zombie_whose_delivery_was_rescued_and_claimed_by_somebody_else_changes_nothing(
    connection: sa.Connection, hook: int
) -> None:
    (delivery_id,) = claimed(connection, hook)
    expired = sa.update(tables.webhook_deliveries).values(claimed_until=observed.now(connection))
    connection.execute(expired)
    assert rescue(connection, THEIRS) == 1
    assert storage.settle(connection, MINE, [completed(delivery_id)]) == set(), "while it waits"
    claim_these(connection, THEIRS, [delivery_id])
    before = observed.delivery(connection, delivery_id)

    assert storage.settle(connection, MINE, [completed(delivery_id)]) == set(), "while somebody has it"
    assert observed.delivery(connection, delivery_id) == before
    assert storage.settle(connection, THEIRS, [completed(delivery_id)]) == {delivery_id}
    assert [row["attempt"] for row in observed.attempts(connection)] == [2]


def test_a_delivery_is_recorded_once(connection: sa.Connection, hook: int) -> None:
    (delivery_id,) = claimed(connection, hook)

    assert storage.settle(connection, MINE, [completed(delivery_id)]) == {delivery_id}
    assert storage.settle(connection, MINE, [(handed_back(delivery_id), None)]) == set()
    assert observed.delivery(connection, delivery_id)["state"] == "completed"


def test_a_delivery_that_went_with_its_webhook_is_nobodys(connection: sa.Connection, hook: int) -> None:
    (delivery_id,) = claimed(connection, hook)
    connection.execute(sa.delete(tables.webhooks))

    assert storage.settle(connection, MINE, [completed(delivery_id)]) == set()


# Once more


def ended(connection: sa.Connection, hook: int, **values: Any) -> int:
    return make.delivery(connection, hook, **{"type": "invoice.paid", "state": "errored", "attempts": 8} | values)


def test_what_has_ended_well_or_not_is_redelivered_with_all_its_attempts_and_nothing_else_is(
    connection: sa.Connection, hook: int
) -> None:
    failed, done = ended(connection, hook), ended(connection, hook, state="completed", completed_at=NOON)
    waiting, (at_work,) = make.delivery(connection, hook, attempts=3), claimed(connection, hook)
    at = observed.now(connection)

    assert storage.redeliver(connection, [done, failed, waiting, at_work, 999_999]) == [failed, done]

    rows = {row["id"]: row for row in observed.deliveries(connection)}
    again = [(row["state"], row["attempts"], row["completed_at"]) for row in (rows[failed], rows[done])]
    assert again == 2 * [("pending", 0, None)]
    assert at <= rows[done]["next_attempt_at"] <= observed.now(connection)
    assert (rows[waiting]["attempts"], rows[at_work]["state"]) == (3, "in_progress")
    assert {each.id for each in claim_these(connection, THEIRS, [failed, done])} == {failed, done}


def test_what_never_succeeded_since_a_time_is_recovered_what_was_created_exactly_then_included(
    connection: sa.Connection, work: Workspace, hook: int
) -> None:
    before, exactly, later = (
        ended(connection, hook, created_at=at) for at in (NOON - MICROSECOND, NOON, NOON + MICROSECOND)
    )
    done = ended(connection, hook, state="completed", completed_at=NOON, created_at=NOON)
    of_another = ended(connection, work.webhook(connection), created_at=NOON)
    waiting = {"type": "invoice.paid", "created_at": NOON, "next_attempt_at": observed.now(connection) + HOUR}
    tried, untried = (make.delivery(connection, hook, attempts=attempts, **waiting) for attempts in (3, 0))

    assert storage.recover(connection, hook, NOON) == 3
    assert storage.recover(connection, hook, NOON) == 0

    assert observed.states(connection) == {
        before: "errored",
        exactly: "pending",
        later: "pending",
        done: "completed",
        of_another: "errored",
        tried: "pending",
        untried: "pending",
    }
    for each in (exactly, tried):
        row = observed.delivery(connection, each)
        assert (row["attempts"], row["created_at"]) == (0, NOON)
        assert row["next_attempt_at"] <= observed.now(connection)
    assert observed.delivery(connection, untried)["next_attempt_at"] > observed.now(connection), "it never failed"


def test_what_an_event_never_told_is_recovered_and_a_ping_is_not(
    connection: sa.Connection, work: Workspace, hook: int
) -> None:
    told, ping = (ended(connection, hook, type=type_) for type_ in ("card_closed", "ping"))
    of_event = make.delivery(connection, hook, work.event(connection), state="errored")

    assert storage.recover(connection, hook, NOON - 1_000 * HOUR) == 2
    assert observed.states(connection) == {told: "pending", ping: "errored", of_event: "pending"}


def test_no_more_is_recovered_at_once_than_asked_for(connection: sa.Connection, hook: int) -> None:
    ids = [ended(connection, hook) for _ in range(5)]

    assert [storage.recover(connection, hook, datetime.min.replace(tzinfo=NOON.tzinfo), 2) for _ in range(4)] == [
        2,
        2,
        1,
        0,
    ]
    assert set(observed.states(connection)) == set(ids)


def test_what_is_recovered_of_a_disabled_webhook_waits_until_it_is_enabled(
    connection: sa.Connection, hook: int
) -> None:
    delivery_id = ended(connection, hook)
    connection.execute(sa.update(tables.webhooks).values(disabled()))
    assert storage.recover(connection, hook, NOON - HOUR) == 1
    assert claim_these(connection, MINE, [delivery_id]) == []

    connection.execute(sa.update(tables.webhooks).values(active=True, disabled_at=None, disabled_reason=None))

    assert [each.id for each in claim_these(connection, MINE, [delivery_id])] == [delivery_id]


def test_what_an_application_says_by_itself_is_a_delivery_that_is_due_at_once(
    connection: sa.Connection, work: Workspace, hook: int
) -> None:
    delivery_id = storage.insert_direct(connection, hook, "invoice.paid", b"\x00\xff")

    row = observed.delivery(connection, delivery_id)

    assert (row["account_id"], row["webhook_id"], row["event_id"]) == (work.account, hook, None)
    assert (row["type"], row["body"], row["state"]) == ("invoice.paid", b"\x00\xff", "pending")
    assert row["next_attempt_at"] <= observed.now(connection)


def test_what_is_said_to_a_webhook_that_is_not_there_is_refused(connection: sa.Connection) -> None:
    with pytest.raises(IntegrityError, match="there is no webhook 999999"):
        storage.insert_direct(connection, 999_999, "invoice.paid", b"{}")
