"""Two sessions and more at once: nobody waits for long, nothing is postponed that should not be, nothing twice."""

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import polars as pl
import psycopg
import pytest
import sqlalchemy as sa

from flatearth_pipelines import tables
from flatearth_pipelines.entropy import storage
from flatearth_pipelines.entropy.backlog import Outcome
from flatearth_pipelines.entropy.staleness import actors, attributed, cutoffs, effective_periods, stale_cards
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.entropy import observed
from flatearth_pipelines_tests.entropy.runs import run
from flatearth_pipelines_tests.factories import DAY, MICROSECOND, NOON

SECOND = 1_000_000 * MICROSECOND


class Backlog:
    """Some due cards on a board, and a second board of the same account."""

    def __init__(self, engine: sa.Engine, count: int) -> None:
        with engine.begin() as connection:
            account_id = make.account(connection)
            make.user(connection, account_id, "owner")
            self.board, self.other_board = make.board(connection, account_id), make.board(connection, account_id)
            self.cards = make.backlog(connection, self.board, count)


# --------------------------------------------------------------------------------- changed between read and write

CHANGES: dict[str, Callable[[Backlog], dict[str, Any]]] = {
    "touched": lambda _: {"last_active_at": NOON - SECOND},
    "touched, and due all the same": lambda _: {"last_active_at": NOON - 31 * DAY + MICROSECOND},
    "touched in the past": lambda _: {"last_active_at": NOON - 90 * DAY},
    "closed": lambda _: {"closed_at": NOON - SECOND},
    "postponed by somebody": lambda _: {"postponed_at": NOON - SECOND},
    "unpublished": lambda _: {"status": "drafted"},
    "moved to another board": lambda backlog: {"board_id": backlog.other_board},
}
CHANGED = pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)


@CHANGED
def test_a_card_changed_between_read_and_write_is_left_alone(
    engine: sa.Engine, other_engine: sa.Engine, change: Callable[[Backlog], dict[str, Any]]
) -> None:
    backlog = Backlog(engine, 2)
    changed, untouched = backlog.cards
    with engine.connect() as connection:
        batch = due(connection)
        assert batch["card_id"].to_list() == backlog.cards

        update(other_engine, changed, change(backlog))
        before = observed.cards(other_engine)[changed]
        done = storage.postpone(connection, batch, NOON)

    assert done.card_ids.to_list() == [untouched]
    assert observed.cards(engine)[changed] == before
    assert observed.recorded(engine) == [untouched]


@CHANGED
def test_a_card_changed_during_a_run_is_counted_as_changed_meanwhile(
    engine: sa.Engine, other_engine: sa.Engine, change: Callable[[Backlog], dict[str, Any]]
) -> None:
    backlog = Backlog(engine, 3)
    changed = backlog.cards[1]

    def after_a_batch(postponed: int, _due: int) -> None:
        if postponed == 1 and not observed.recorded(other_engine)[1:]:
            update(other_engine, changed, change(backlog))

    outcome = run(engine, batch_size=1, progress=after_a_batch)

    assert (outcome.due, outcome.postponed, outcome.changed_meanwhile) == (3, 2, 1)
    assert outcome.by_board.rows() == [(backlog.board, 2)]
    assert observed.cards(engine)[changed].items() >= change(backlog).items()
    assert observed.recorded(engine) == [backlog.cards[0], backlog.cards[2]]


def test_a_card_edited_without_being_touched_is_postponed_as_it_is_now(
    engine: sa.Engine, other_engine: sa.Engine
) -> None:
    backlog = Backlog(engine, 1)
    with engine.connect() as connection:
        batch = due(connection)
        update(other_engine, backlog.cards[0], {"title": "Renamed"})
        done = storage.postpone(connection, batch, NOON)

    assert done.card_ids.to_list() == backlog.cards
    assert observed.cards(engine)[backlog.cards[0]]["title"] == "Renamed"


def test_a_card_deleted_between_read_and_write_is_left_out(engine: sa.Engine, other_engine: sa.Engine) -> None:
    backlog = Backlog(engine, 2)
    with engine.connect() as connection:
        batch = due(connection)
        with other_engine.begin() as somebody:
            somebody.execute(sa.delete(tables.cards).where(tables.cards.c.id == backlog.cards[0]))
        done = storage.postpone(connection, batch, NOON)

    assert done.card_ids.to_list() == backlog.cards[1:]
    assert observed.recorded(engine) == backlog.cards[1:]


# -------------------------------------------------------------------------------------- being written to right now


@pytest.mark.parametrize(
    "write",
    [
        "UPDATE flatearth.cards SET last_active_at = now() WHERE id = :id",
        "UPDATE flatearth.cards SET title = title WHERE id = :id",
        "SELECT FROM flatearth.cards WHERE id = :id FOR UPDATE",
        "DELETE FROM flatearth.cards WHERE id = :id",
    ],
)
def test_a_card_that_somebody_is_writing_to_is_skipped_at_once_and_looked_at_by_the_next_run(
    engine: sa.Engine, other_engine: sa.Engine, write: str
) -> None:
    """Were it waited for, the batch would give up after its lock timeout, and the other cards stay behind."""
    backlog = Backlog(engine, 5)
    held = backlog.cards[2]
    with other_engine.connect() as somebody:
        somebody.execute(sa.text(write), {"id": held})
        outcome = run(engine)
        somebody.rollback()

    assert (outcome.due, outcome.postponed, outcome.changed_meanwhile) == (5, 4, 1)
    assert held not in observed.postponed(engine)
    assert run(engine).postponed == 1
    assert observed.recorded(engine) == backlog.cards


def test_somebody_who_refers_to_a_card_neither_waits_for_a_run_nor_stops_it(
    engine: sa.Engine, other_engine: sa.Engine
) -> None:
    """Whoever comments, tags or assigns holds a key share of the card, by the foreign key."""
    backlog = Backlog(engine, 2)
    with other_engine.connect() as somebody:
        somebody.execute(
            sa.text(
                "INSERT INTO flatearth.comments (account_id, card_id, body)"
                " SELECT account_id, id, 'Hm' FROM flatearth.cards WHERE id = :id"
            ),
            {"id": backlog.cards[0]},
        )
        outcome = run(engine)
        somebody.commit()

    assert outcome.postponed == 2


def test_a_board_held_by_somebody_delays_a_batch_by_the_lock_timeout_and_leaves_it_for_the_next_run(
    engine: sa.Engine, other_engine: sa.Engine
) -> None:
    backlog = Backlog(engine, 3)
    with other_engine.connect() as somebody:
        somebody.execute(sa.text("SELECT FROM flatearth.boards WHERE id = :id FOR UPDATE"), {"id": backlog.board})
        began = time.monotonic()
        outcome = run(engine)
        waited = time.monotonic() - began

    assert 1 < waited < 15  # two seconds, and not until somebody is done
    assert (outcome.due, outcome.postponed, outcome.changed_meanwhile) == (3, 0, 3)
    assert observed.postponed(engine) == observed.recorded(engine) == []
    assert run(engine).postponed == 3


# ---------------------------------------------------------------------------------------------- many at once


def test_two_overlapping_runs_postpone_each_card_once_with_one_event(
    engine: sa.Engine, other_engine: sa.Engine
) -> None:
    backlog = Backlog(engine, 4_000)
    both_are_at_it = threading.Barrier(2, timeout=60)

    def runner(of: sa.Engine) -> Outcome:
        waited = threading.Event()

        def once(_postponed: int, _due: int) -> None:
            if not waited.is_set():
                waited.set()
                both_are_at_it.wait()

        return run(of, batch_size=100, progress=once)

    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(runner, (engine, other_engine)))

    assert sum(outcome.postponed for outcome in outcomes) == 4_000
    assert all(outcome.postponed + outcome.changed_meanwhile == outcome.due for outcome in outcomes)
    assert all(outcome.due > 0 for outcome in outcomes)
    assert sum(outcome.unattributed for outcome in outcomes) == 0
    assert observed.postponed(engine) == observed.recorded(engine) == backlog.cards


def test_writers_who_touch_due_cards_during_a_backlog_lose_none_to_it_and_nobody_deadlocks(
    engine: sa.Engine, database: str
) -> None:
    """Three cards in a transaction, highest id first: against the order in which a run locks its batch."""
    backlog = Backlog(engine, 6_000)
    over = threading.Event()

    def writer(seed: int) -> dict[int, datetime]:
        draw, touched = random.Random(seed), dict[int, datetime]()  # noqa: S311 - no secret
        with psycopg.connect(database, application_name="writer") as connection:
            while not over.is_set():
                chosen = sorted(draw.sample(backlog.cards, 3), reverse=True)
                with connection.transaction():
                    rows = [row for card_id in chosen for row in connection.execute(TOUCH, [card_id]).fetchall()]
                touched.update(rows)
        return touched

    with ThreadPoolExecutor(3) as pool:
        writers = [pool.submit(writer, seed) for seed in range(3)]
        try:
            outcome = run(engine, batch_size=200)
        finally:
            over.set()
        touched: dict[int, datetime] = {}
        for each in writers:
            for card_id, at in each.result().items():
                touched[card_id] = max(at, touched.get(card_id, at))

    cards = observed.cards(engine)
    assert touched
    assert {card_id: cards[card_id]["last_active_at"] for card_id in touched} == touched
    assert observed.postponed(engine) == sorted(set(backlog.cards) - set(touched))
    assert observed.recorded(engine) == observed.postponed(engine)
    assert outcome.postponed == len(observed.postponed(engine))
    assert outcome.changed_meanwhile == outcome.due - outcome.postponed
    assert deadlocks(engine) == 0


# Far from being due, whatever day it is, and the later the touch the later the instant.
TOUCH = """
UPDATE flatearth.cards SET last_active_at = clock_timestamp() + interval '100 years'
WHERE id = %s AND postponed_at IS NULL RETURNING id, last_active_at
"""


# ---------------------------------------------------------------------------------------------------- helpers


def due(connection: sa.Connection) -> pl.DataFrame:
    """What a run would postpone as of `NOON`, by the same steps: read, decide."""
    with connection.begin():
        boards, periods = storage.read_boards(connection), storage.read_periods(connection)
        limits = cutoffs(effective_periods(boards.lazy(), periods.lazy()), NOON).collect()
        stale = stale_cards(storage.read_stale_cards(connection, limits).lazy(), limits.lazy()).collect()
        people = storage.read_people(connection, stale["account_id"].unique())
    return attributed(stale.lazy(), actors(people.lazy())).collect()


def update(engine: sa.Engine, card_id: int, values: dict[str, Any]) -> None:
    with engine.begin() as somebody:
        somebody.execute(sa.update(tables.cards).where(tables.cards.c.id == card_id).values(**values))


def deadlocks(engine: sa.Engine) -> int:
    """How many there ever were in this database; sessions report them at their end, if not before."""
    engine.dispose()
    with engine.connect() as connection:
        query = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        count: int = connection.execute(sa.text(query)).scalar_one()
        return count
