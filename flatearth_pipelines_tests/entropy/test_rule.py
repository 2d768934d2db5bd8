"""Every line of the rule on a real database: which cards a run postpones, and how it changes them."""

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from flatearth_pipelines import tables
from flatearth_pipelines.entropy import functions
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.entropy import observed
from flatearth_pipelines_tests.entropy.runs import run
from flatearth_pipelines_tests.factories import DAY, MICROSECOND, NOON

LONGEST_MS = 2**63 - 1


def test_a_card_exactly_at_its_period_is_not_due(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        board_id = make.board(connection, make.account(connection))
        make.card(connection, board_id, idle=30 * DAY)

    assert run(engine).due == 0
    assert observed.postponed(engine) == []


def test_a_card_one_microsecond_past_its_period_is_postponed(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        board_id = make.board(connection, make.account(connection))
        card_id = make.card(connection, board_id, idle=30 * DAY + MICROSECOND)

    assert run(engine).postponed == 1
    assert observed.postponed(engine) == [card_id]


def test_a_card_active_in_the_future_is_not_due(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        board_id = make.board(connection, make.account(connection))
        make.period(connection, "board", board_id, timedelta(milliseconds=1))
        make.card(connection, board_id, idle=-MICROSECOND)

    assert run(engine).due == 0


def test_a_column_an_assignee_a_pin_or_a_watch_exempts_nothing(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        account_id = make.account(connection)
        board_id = make.board(connection, account_id)
        somebody = make.user(connection, account_id, "owner")
        in_a_column = make.card(connection, board_id, column_id=make.column(connection, board_id))
        held = []
        for table in (tables.assignments, tables.pins, tables.watches):
            card_id = make.card(connection, board_id)
            connection.execute(sa.insert(table).values(account_id=account_id, card_id=card_id, user_id=somebody))
            held.append(card_id)

    assert run(engine).postponed == 4
    assert observed.postponed(engine) == [in_a_column, *held]


def test_drafts_are_never_postponed(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        board_id = make.board(connection, make.account(connection))
        make.card(connection, board_id, idle=10_000 * DAY, status="drafted")

    assert run(engine).due == 0
    assert observed.postponed(engine) == []


def test_closed_cards_are_not_postponed(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        board_id = make.board(connection, make.account(connection))
        make.card(connection, board_id, closed_at=NOON - 31 * DAY)

    assert run(engine).due == 0
    assert observed.postponed(engine) == []


def test_a_postponed_card_is_not_postponed_again(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        board_id = make.board(connection, make.account(connection))
        card_id = make.card(connection, board_id, idle=90 * DAY, postponed_at=NOON - 60 * DAY)

    assert run(engine).due == 0
    assert observed.cards(engine)[card_id]["postponed_at"] == NOON - 60 * DAY
    assert observed.events(engine) == []


def test_cards_of_a_cancelled_account_are_left_alone(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        make.card(connection, make.board(connection, make.account(connection, cancelled_at=NOON - DAY)))
        kept = make.card(connection, make.board(connection, make.account(connection)))

    assert run(engine).due == 1
    assert observed.postponed(engine) == [kept]


def test_without_any_choice_a_card_goes_stale_after_thirty_days(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        board_id = make.board(connection, make.account(connection))
        make.card(connection, board_id, idle=timedelta(milliseconds=2_592_000_000))
        card_id = make.card(connection, board_id, idle=timedelta(milliseconds=2_592_000_000) + MICROSECOND)

    run(engine)

    assert observed.postponed(engine) == [card_id]


def test_a_board_that_chose_nothing_takes_its_account_s_period(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        account_id = make.account(connection)
        board_id = make.board(connection, account_id)
        make.period(connection, "account", account_id, 7 * DAY)
        make.card(connection, board_id, idle=7 * DAY)
        card_id = make.card(connection, board_id, idle=7 * DAY + MICROSECOND)

    run(engine)

    assert observed.postponed(engine) == [card_id]


@pytest.mark.parametrize(("of_account", "of_board"), [(7 * DAY, 14 * DAY), (14 * DAY, 7 * DAY)])
def test_a_board_s_period_outranks_its_account_s_whether_longer_or_shorter(
    engine: sa.Engine, of_account: timedelta, of_board: timedelta
) -> None:
    with engine.begin() as connection:
        account_id = make.account(connection)
        board_id = make.board(connection, account_id)
        make.period(connection, "account", account_id, of_account)
        make.period(connection, "board", board_id, of_board)
        make.card(connection, board_id, idle=of_board)
        card_id = make.card(connection, board_id, idle=of_board + MICROSECOND)

    run(engine)

    assert observed.postponed(engine) == [card_id]


def test_the_period_of_another_board_or_account_does_not_count(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        account_id = make.account(connection)
        make.period(connection, "board", make.board(connection, account_id), DAY)
        make.period(connection, "account", make.account(connection), DAY)
        make.card(connection, make.board(connection, account_id), idle=30 * DAY)

    assert run(engine).due == 0


def test_one_millisecond_is_a_legal_period(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        board_id = make.board(connection, make.account(connection))
        make.period(connection, "board", board_id, timedelta(milliseconds=1))
        make.card(connection, board_id, idle=timedelta(milliseconds=1))
        card_id = make.card(connection, board_id, idle=timedelta(milliseconds=1, microseconds=1))

    run(engine)

    assert observed.postponed(engine) == [card_id]


@pytest.mark.parametrize("milliseconds", [LONGEST_MS, LONGEST_MS - 1, 10**15 + 1, 10**15])
def test_the_longest_periods_of_a_bigint_overflow_nowhere_and_postpone_nothing(
    engine: sa.Engine, milliseconds: int
) -> None:
    with engine.begin() as connection:
        account_id = make.account(connection)
        own_period, inheriting = make.board(connection, account_id), make.board(connection, account_id)
        make.period_ms(connection, "account", account_id, milliseconds)
        make.period_ms(connection, "board", own_period, milliseconds)
        ancient = datetime(1, 1, 1, tzinfo=UTC)
        make.card(connection, own_period, last_active_at=ancient)
        make.card(connection, inheriting, last_active_at=ancient)

    assert run(engine).due == 0
    assert observed.postponed(engine) == []


def test_a_cleared_period_inherits_again(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        account_id = make.account(connection)
        owner, board_id = make.user(connection, account_id, "owner"), make.board(connection, account_id)
        functions.set_auto_postpone_period(connection, owner, "account", account_id, 86_400_000)
        functions.set_auto_postpone_period(connection, owner, "board", board_id, 60 * 86_400_000)
        of_the_account = make.card(connection, board_id, idle=2 * DAY)
        make.card(connection, board_id, idle=DAY)
    assert run(engine).due == 0

    with engine.begin() as connection:
        functions.set_auto_postpone_period(connection, owner, "board", board_id, None)

    run(engine)
    assert observed.postponed(engine) == [of_the_account]


def test_a_shorter_period_acts_on_cards_that_are_already_old(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        account_id = make.account(connection)
        owner, board_id = make.user(connection, account_id, "owner"), make.board(connection, account_id)
        card_id = make.card(connection, board_id, idle=20 * DAY)
    assert run(engine).due == 0

    with engine.begin() as connection:
        functions.set_auto_postpone_period(connection, owner, "board", board_id, 86_400_000)

    run(engine)
    assert observed.postponed(engine) == [card_id]


def test_the_effect_on_every_column_of_the_card(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        account_id = make.account(connection)
        creator, board_id = make.user(connection, account_id, "owner"), make.board(connection, account_id)
        card_id = make.card(
            connection,
            board_id,
            column_id=make.column(connection, board_id),
            creator_id=creator,
            number=7,
            activity_spike_at=NOON - 32 * DAY,
        )
    before = observed.cards(engine)[card_id]

    run(engine)

    assert observed.cards(engine)[card_id] == before | {
        "postponed_at": NOON,
        "column_id": None,
        "activity_spike_at": None,
        "last_active_at": NOON,
    }


def test_exactly_one_event_with_every_column_right(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        account_id = make.account(connection)
        system, board_id = make.user(connection, account_id, "system"), make.board(connection, account_id)
        card_id = make.card(connection, board_id)

    run(engine)

    (event,) = observed.events(engine)
    assert event == {
        "account_id": account_id,
        "board_id": board_id,
        "creator_id": system,
        "action": "card_auto_postponed",
        "eventable_type": "card",
        "eventable_id": card_id,
        "particulars": {},
        "created_at": NOON,
    }


def test_other_cards_are_not_changed_in_any_column(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        board_id = make.board(connection, make.account(connection))
        due = make.card(connection, board_id)
        make.card(connection, board_id, idle=DAY, column_id=make.column(connection, board_id))
        make.card(connection, board_id, closed_at=NOON)
    before = observed.cards(engine)

    run(engine)

    after = observed.cards(engine)
    assert {key: row for key, row in after.items() if key != due} == {
        key: row for key, row in before.items() if key != due
    }


def test_the_event_is_by_the_system_user_even_beside_an_older_owner(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        account_id = make.account(connection)
        make.user(connection, account_id, "owner")
        system = make.user(connection, account_id, "system")
        make.card(connection, make.board(connection, account_id))

    assert run(engine).unattributed == 0
    assert observed.creators(engine) == [system]


def test_without_a_system_user_it_is_by_the_active_owner_with_the_lowest_id(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        account_id = make.account(connection)
        make.user(connection, account_id, "owner", active=False)
        make.user(connection, account_id, "admin")
        make.user(connection, account_id, "member")
        owner = make.user(connection, account_id, "owner")
        make.user(connection, account_id, "owner")
        make.card(connection, make.board(connection, account_id))

    assert run(engine).unattributed == 0
    assert observed.creators(engine) == [owner]


def test_with_neither_the_card_is_postponed_without_an_event_and_counted_as_unattributed(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        account_id = make.account(connection)
        make.user(connection, account_id, "owner", active=False)
        make.user(connection, account_id, "admin")
        make.user(connection, make.account(connection), "system")
        card_id = make.card(connection, make.board(connection, account_id))

    outcome = run(engine)

    assert (outcome.postponed, outcome.unattributed) == (1, 1)
    assert observed.postponed(engine) == [card_id]
    assert observed.creators(engine) == []


def test_each_account_s_events_are_by_its_own_people(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        people = []
        for _ in range(3):
            account_id = make.account(connection)
            people.append(make.user(connection, account_id, "owner"))
            make.card(connection, make.board(connection, account_id))

    run(engine)

    assert observed.creators(engine) == people


def test_microseconds_count_in_every_century(engine: sa.Engine) -> None:
    as_of = datetime(2301, 1, 1, tzinfo=UTC)
    with engine.begin() as connection:
        board_id = make.board(connection, make.account(connection))
        make.card(connection, board_id, last_active_at=as_of - 30 * DAY)
        card_id = make.card(connection, board_id, last_active_at=as_of - 30 * DAY - MICROSECOND)

    assert run(engine, as_of).changed_meanwhile == 0
    assert observed.postponed(engine) == [card_id]
