"""From what an application writes to deliveries, batch by batch, on a real database."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from flatearth_pipelines import tables
from flatearth_pipelines.webhooks import dispatch_storage, transaction_storage
from flatearth_pipelines.webhooks.dispatching import Outcome, dispatch_new
from flatearth_pipelines.webhooks.transaction_storage import Contended
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.entropy import runs as entropy
from flatearth_pipelines_tests.factories import NOON
from flatearth_pipelines_tests.processes import until
from flatearth_pipelines_tests.webhooks import observed
from flatearth_pipelines_tests.webhooks.runs import dispatch, waiting
from flatearth_pipelines_tests.webhooks.workspace import Workspace


def dispatched(engine: sa.Engine) -> list[tuple[int, int]]:
    with engine.connect() as connection:
        assert observed.undispatched(connection) == []
        return observed.dispatched(connection)


@pytest.mark.parametrize("batch_size", [1, 2, 7, 1_000])
def test_the_size_of_a_batch_changes_nothing_but_the_number_of_transactions(
    engine: sa.Engine, office: Workspace, batch_size: int
) -> None:
    with engine.begin() as connection:
        hooks = [office.webhook(connection) for _ in range(3)]
        events = office.events(connection, 20)
    transactions = list[int]()

    with engine.connect() as connection:
        outcome = dispatch_new(
            connection, batch_size=batch_size, progress=lambda so_far: transactions.append(so_far.events)
        )

    assert dispatched(engine) == [(event, hook) for event in events for hook in hooks]
    assert (outcome.events, outcome.by_action) == (20, {"card_closed": 60})
    assert transactions == [*range(batch_size, 20, batch_size), 20]


def test_an_event_is_dispatched_once_however_often_the_job_runs(engine: sa.Engine, office: Workspace) -> None:
    with engine.begin() as connection:
        hook = office.webhook(connection)
        event = office.event(connection)

    outcomes = [dispatch(engine) for _ in range(3)]

    assert [outcome.events for outcome in outcomes] == [1, 0, 0]
    assert dispatched(engine) == [(event, hook)]


def test_of_cards_that_are_postponed_automatically_those_hear_who_want_that(
    engine: sa.Engine, office: Workspace
) -> None:
    with engine.begin() as connection:
        make.user(connection, office.account, "system")
        hooks = [
            office.webhook(connection, actions=["card_auto_postponed"], created_at=NOON, **place)
            for place in ({}, {"board_id": office.board})
        ]
        office.webhook(connection, actions=["card_postponed"], created_at=NOON)
        cards = [office.card, *make.backlog(connection, office.board, 5)]

    entropy.run(engine, NOON)
    outcome = dispatch(engine)

    assert outcome.by_action == {"card_auto_postponed": 12}
    with engine.connect() as connection:
        rows = connection.execute(sa.select(tables.events.c.id, tables.events.c.eventable_id)).all()
    assert sorted(row.eventable_id for row in rows) == sorted(cards)
    assert dispatched(engine) == sorted((row.id, hook) for row in rows for hook in hooks)


def test_an_event_that_is_committed_after_a_later_one_is_dispatched_all_the_same(
    engine: sa.Engine, other_engine: sa.Engine, office: Workspace
) -> None:
    with engine.begin() as connection:
        hook = office.webhook(connection)
    with engine.connect() as slow:
        first = office.event(slow)
        with other_engine.begin() as fast:
            second = office.event(fast)
        assert first < second
        assert dispatch(other_engine).events == 1
        slow.commit()
    assert dispatch(engine).events == 1

    assert dispatched(engine) == [(first, hook), (second, hook)]


def test_an_event_whose_transaction_is_rolled_back_is_never_dispatched(engine: sa.Engine, office: Workspace) -> None:
    with engine.begin() as connection:
        office.webhook(connection)
    with engine.connect() as somebody:
        office.event(somebody)
        somebody.rollback()

    assert dispatch(engine).events == 0


# How long


def test_whoever_stays_dispatches_what_comes_meanwhile(
    engine: sa.Engine, other_engine: sa.Engine, office: Workspace
) -> None:
    with engine.begin() as connection:
        hook = office.webhook(connection)
        first = office.event(connection)
    later = list[int]()

    def write_another(_: Outcome) -> None:
        if not later:
            with other_engine.begin() as somebody:
                later.append(office.event(somebody))

    with engine.connect() as connection:
        outcome = dispatch_new(connection, stay_seconds=1, batch_size=1, progress=write_another)

    assert outcome.events == 2
    assert dispatched(engine) == [(first, hook), (later[0], hook)]


def test_whoever_stays_looks_again_for_an_event_that_comes_when_there_was_nothing(
    engine: sa.Engine, other_engine: sa.Engine, office: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked, look = threading.Event(), dispatch_storage.is_anything_new

    def is_anything_new(connection: sa.Connection) -> bool:
        looked.set()
        return look(connection)

    monkeypatch.setattr(dispatch_storage, "is_anything_new", is_anything_new)
    with engine.begin() as connection:
        hook = office.webhook(connection)
    with ThreadPoolExecutor(1) as pool:
        staying = pool.submit(dispatch, other_engine, stay_seconds=2)
        assert looked.wait(60)
        with engine.begin() as connection:
            event = office.event(connection)
        assert staying.result(timeout=60).events == 1

    assert dispatched(engine) == [(event, hook)]


def test_after_the_longest_time_nothing_is_begun(engine: sa.Engine, office: Workspace) -> None:
    with engine.begin() as connection:
        office.webhook(connection)
        office.event(connection)

    assert dispatch(engine, stay_seconds=60, longest_seconds=0).events == 0


# Somebody in the way


def test_a_webhook_that_is_deleted_at_this_moment_is_waited_for_and_gets_nothing_while_all_others_do(
    engine: sa.Engine, other_engine: sa.Engine, office: Workspace
) -> None:
    with engine.begin() as connection:
        gone, kept = office.webhook(connection), office.webhook(connection)
        event = office.event(connection)
    with other_engine.connect() as somebody, ThreadPoolExecutor(1) as pool:
        delete(somebody, "webhooks", gone)
        job = pool.submit(dispatch, engine)
        until(lambda: waiting(engine) == 1)
        somebody.commit()
        outcome = job.result(timeout=60)

    assert (outcome.events, outcome.by_action) == (1, {"card_closed": 1})
    assert dispatched(engine) == [(event, kept)]


@pytest.mark.parametrize("what", ["events", "accounts"])
def test_an_event_that_is_deleted_at_this_moment_alone_or_with_its_account_holds_up_no_other(
    engine: sa.Engine, other_engine: sa.Engine, office: Workspace, what: str
) -> None:
    with engine.begin() as connection:
        theirs = Workspace(connection)
        hook, _ = office.webhook(connection), theirs.webhook(connection)
        gone, kept = theirs.event(connection), office.event(connection)
    with other_engine.connect() as somebody:
        delete(somebody, what, gone if what == "events" else theirs.account)
        assert dispatch(engine).events == 1
        somebody.commit()
    assert dispatch(engine).events == 0

    assert dispatched(engine) == [(kept, hook)]


def test_who_is_in_the_way_for_five_attempts_ends_the_run_in_one_line_and_the_events_wait(
    engine: sa.Engine, other_engine: sa.Engine, office: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transaction_storage, "_ATTEMPTS", 2)
    with engine.begin() as connection:
        hook = office.webhook(connection)
        event = office.event(connection)
    with other_engine.connect() as somebody:
        delete(somebody, "webhooks", hook)
        with pytest.raises(Contended, match="Somebody else was in the way, the next run goes on"):
            dispatch(engine)
        somebody.rollback()
    with engine.connect() as connection:
        assert observed.undispatched(connection) == [event]
    dispatch(engine)

    assert dispatched(engine) == [(event, hook)]


def delete(connection: sa.Connection, what: str, row_id: int) -> None:
    connection.execute(sa.text(f"DELETE FROM flatearth.{what} WHERE id = :id"), {"id": row_id})
