"""One card, looked at by a job of the queue at its time."""

from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import ValidationError

from flatearth_pipelines import database as db
from flatearth_pipelines.entropy.handlers import CHECK_CARD_ENTROPY, CheckCardEntropy
from flatearth_pipelines.queue.clerk import Options
from flatearth_pipelines.queue.drain import Drain
from flatearth_pipelines.queue.handlers import Context, Guarantee, Registry
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.entropy import observed
from flatearth_pipelines_tests.factories import DAY, MICROSECOND

UNKNOWN = 999_999_999


def look(connection: sa.Connection, card_id: int, account_id: int | None = None) -> Any:
    """The handler's result, in the connection's transaction."""
    context = Context(1, 1, account_id, lambda *_: None)
    context.lend(connection)
    return CHECK_CARD_ENTROPY.run(context, CheckCardEntropy(card_id=card_id))


def card(connection: sa.Connection, idle: timedelta, *, owner: bool = True, **values: Any) -> int:
    """Idle for so long at the instant of the transaction, on a board of an account of its own."""
    account_id = make.account(connection)
    if owner:
        make.user(connection, account_id, "owner")
    board_id = make.board(connection, account_id)
    return make.card(connection, board_id, last_active_at=db.now(connection) - idle, **values)


def row(connection: sa.Connection, card_id: int) -> Any:
    return connection.execute(sa.text("SELECT * FROM flatearth.cards WHERE id = :id"), {"id": card_id}).one()


def jobs(connection: sa.Connection) -> list[Any]:
    return list(connection.execute(sa.text("SELECT * FROM flatearth.live_jobs ORDER BY id")))


def events(connection: sa.Connection) -> list[Any]:
    return list(connection.execute(sa.text("SELECT * FROM flatearth.events ORDER BY id")))


def test_it_is_transactional_and_takes_a_card_id() -> None:
    assert CHECK_CARD_ENTROPY.name == "check_card_entropy"
    assert CHECK_CARD_ENTROPY.guarantee is Guarantee.TRANSACTIONAL
    assert CheckCardEntropy.model_validate_json('{"card_id": 7}').card_id == 7


@pytest.mark.parametrize("payload", ["{}", '{"card_id": 0}', '{"card_id": -1}', '{"card_id": 9223372036854775808}'])
def test_a_payload_without_an_id_that_postgres_could_have_given_is_refused(payload: str) -> None:
    with pytest.raises(ValidationError):
        CheckCardEntropy.model_validate_json(payload)


def test_a_card_one_microsecond_beyond_its_period_is_postponed_with_its_event(connection: sa.Connection) -> None:
    card_id = card(connection, 30 * DAY + MICROSECOND)
    as_of = db.now(connection)

    assert look(connection, card_id) == {"postponed": True, "event": True}

    postponed = row(connection, card_id)
    assert (postponed.postponed_at, postponed.last_active_at, postponed.column_id) == (as_of, as_of, None)
    (event,) = events(connection)
    assert (event.action, event.eventable_type, event.eventable_id) == ("card_auto_postponed", "card", card_id)
    assert (event.board_id, event.created_at) == (postponed.board_id, as_of)
    assert jobs(connection) == []


def test_a_card_of_an_account_without_anybody_to_act_is_postponed_without_an_event(connection: sa.Connection) -> None:
    card_id = card(connection, 31 * DAY, owner=False)

    assert look(connection, card_id) == {"postponed": True, "event": False}
    assert row(connection, card_id).postponed_at is not None
    assert events(connection) == []


@pytest.mark.parametrize(
    ("idle", "due_in"),
    [(30 * DAY, MICROSECOND), (29 * DAY, DAY + MICROSECOND), (-DAY, 31 * DAY + MICROSECOND)],
    ids=["exactly at its period", "a day before", "active in the future"],
)
def test_a_card_that_is_not_due_is_looked_at_again_at_the_first_instant_at_which_it_is(
    connection: sa.Connection, idle: timedelta, due_in: timedelta
) -> None:
    card_id = card(connection, idle)
    due_at = db.now(connection) + due_in
    account_id = row(connection, card_id).account_id

    result = look(connection, card_id, account_id)

    assert result == {"postponed": False, "reason": "it is not due", "due_at": due_at.isoformat()}
    assert datetime.fromisoformat(result["due_at"]) == due_at
    (follow_up,) = jobs(connection)
    assert (follow_up.handler, follow_up.payload) == ("check_card_entropy", {"card_id": card_id})
    assert (follow_up.run_at, follow_up.account_id) == (due_at, account_id)
    assert row(connection, card_id).postponed_at is None
    assert events(connection) == []


@pytest.mark.parametrize("days", [1, 7])
def test_the_boards_own_period_comes_first(connection: sa.Connection, days: int) -> None:
    card_id = card(connection, 5 * DAY)
    make.period(connection, "account", row(connection, card_id).account_id, 90 * DAY)
    make.period(connection, "board", row(connection, card_id).board_id, days * DAY)

    assert look(connection, card_id)["postponed"] is (days == 1)


def test_looking_often_leaves_one_follow_up_per_card(connection: sa.Connection) -> None:
    one, other = card(connection, DAY), card(connection, DAY)

    for card_id in (one, one, other, one):
        look(connection, card_id)

    assert [each.payload["card_id"] for each in jobs(connection)] == [one, other]


def test_a_follow_up_moves_with_its_card(connection: sa.Connection) -> None:
    card_id = card(connection, 10 * DAY)
    look(connection, card_id)
    connection.execute(sa.text("UPDATE flatearth.cards SET last_active_at = now() WHERE id = :id"), {"id": card_id})

    look(connection, card_id)

    (follow_up,) = jobs(connection)
    assert follow_up.run_at == db.now(connection) + 30 * DAY + MICROSECOND


@pytest.mark.parametrize("period_ms", [2**63 - 1, 400 * 86_400_000])
def test_a_card_that_is_due_in_more_than_a_year_is_left_to_the_hourly_run(
    connection: sa.Connection, period_ms: int
) -> None:
    card_id = card(connection, DAY)
    make.period_ms(connection, "board", row(connection, card_id).board_id, period_ms)

    assert look(connection, card_id) == {"postponed": False, "reason": "it is not due for a long time"}
    assert jobs(connection) == []


@pytest.mark.parametrize(
    "values",
    [
        {"status": "drafted"},
        {"closed_at": make.NOON},
        {"postponed_at": make.NOON},
        {"closed_at": make.NOON, "postponed_at": make.NOON},
    ],
    ids=["draft", "closed", "postponed", "closed and postponed"],
)
@pytest.mark.parametrize("idle", [31 * DAY, DAY])
def test_a_card_that_is_not_active_is_left_alone(
    connection: sa.Connection, values: dict[str, Any], idle: timedelta
) -> None:
    card_id = card(connection, idle, **values)
    before = row(connection, card_id)

    assert look(connection, card_id) == {"postponed": False, "reason": "it is not active"}
    assert row(connection, card_id) == before
    assert (jobs(connection), events(connection)) == ([], [])


def test_a_card_of_a_cancelled_account_is_left_alone(connection: sa.Connection) -> None:
    card_id = card(connection, 31 * DAY)
    connection.execute(sa.text("UPDATE flatearth.accounts SET cancelled_at = now()"))

    assert look(connection, card_id) == {"postponed": False, "reason": "it is not active"}
    assert row(connection, card_id).postponed_at is None


@pytest.mark.parametrize("card_id", [UNKNOWN, 2**63 - 1])
def test_a_card_that_is_not_there_is_left_alone(connection: sa.Connection, card_id: int) -> None:
    assert look(connection, card_id) == {"postponed": False, "reason": "it is not active"}
    assert jobs(connection) == []


def test_a_card_that_somebody_is_writing_to_is_left_to_them(engine: sa.Engine, other_engine: sa.Engine) -> None:
    with engine.begin() as connection:
        card_id = card(connection, 31 * DAY)
    with other_engine.begin() as somebody, engine.begin() as connection:
        somebody.execute(sa.text("UPDATE flatearth.cards SET title = 'New' WHERE id = :id"), {"id": card_id})

        assert look(connection, card_id) == {"postponed": False, "reason": "somebody is changing it"}
    assert observed.postponed(engine) == []


def test_in_a_drain_the_card_and_its_job_end_together_and_a_due_card_is_postponed_once(
    engine: sa.Engine, database: str
) -> None:
    with engine.begin() as connection:
        due, fresh = card(connection, 31 * DAY), card(connection, DAY)
        for card_id in (due, due, fresh, UNKNOWN):
            connection.execute(
                sa.text("SELECT flatearth.enqueue_job('check_card_entropy', jsonb_build_object('card_id', :id))"),
                {"id": card_id},
            )

    report = Drain(database, Registry([CHECK_CARD_ENTROPY]), "tests", Options()).run()

    assert report.outcomes == {("check_card_entropy", "succeeded"): 4}
    assert observed.postponed(engine) == observed.recorded(engine) == [due]
    with engine.connect() as connection:
        (follow_up,) = jobs(connection)
    assert follow_up.payload == {"card_id": fresh}


def test_the_follow_up_of_a_job_that_is_itself_a_follow_up_is_made(engine: sa.Engine, database: str) -> None:
    """It has the key of the job that makes it, and waits for its end."""
    with engine.begin() as connection:
        card_id = card(connection, 10 * DAY)
        look(connection, card_id)
        connection.execute(sa.text("UPDATE flatearth.live_jobs SET run_at = now()"))

    report = Drain(database, Registry([CHECK_CARD_ENTROPY]), "tests", Options()).run()

    assert report.outcomes == {("check_card_entropy", "succeeded"): 1}
    with engine.connect() as connection:
        (follow_up,) = jobs(connection)
        assert follow_up.run_at == row(connection, card_id).last_active_at + 30 * DAY + MICROSECOND
