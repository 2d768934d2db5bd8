"""Two sessions and more at once: every notification in one window, no window over another, nobody told twice."""

import random
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import psycopg
import pytest
import sqlalchemy as sa
from psycopg.types.json import Jsonb
from sqlalchemy.exc import DBAPIError

from flatearth_pipelines import tables
from flatearth_pipelines.notifications.functions import create_notification, set_notification_settings
from flatearth_pipelines.notifications.notifying import notify
from flatearth_pipelines.notifications.outcome import Outcome
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.notifications import observed
from flatearth_pipelines_tests.notifications.notified import run
from flatearth_pipelines_tests.notifications.workspace import Workspace, bundle
from flatearth_pipelines_tests.processes import until

Result = TypeVar("Result")


@pytest.fixture
def work(engine: sa.Engine) -> Workspace:
    with engine.begin() as connection:
        return Workspace(connection)


@pytest.fixture
def ada(engine: sa.Engine, work: Workspace) -> int:
    with engine.begin() as connection:
        return work.watcher(connection)


@pytest.fixture
def pool() -> Generator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


# One person, two writers


def test_two_writers_for_one_person_take_turns_and_share_a_window(
    engine: sa.Engine, other_engine: sa.Engine, work: Workspace, ada: int, pool: ThreadPoolExecutor
) -> None:
    with engine.connect() as one:
        work.notification(one, ada)
        second = pool.submit(in_one_transaction, other_engine, lambda other: work.notification(other, ada))
        until(lambda: waiting(engine) == 1)
        one.commit()
        second.result(timeout=60)
    with engine.connect() as connection:
        first, after = observed.notifications(connection, ada)
        assert first["created_at"] < after["created_at"]
        assert observed.bundle_of(connection, first) == observed.bundle_of(connection, after)


def test_two_writers_of_the_same_notification_have_the_same_id(
    engine: sa.Engine, other_engine: sa.Engine, work: Workspace, ada: int, pool: ThreadPoolExecutor
) -> None:
    with engine.begin() as connection:
        event = work.event(connection)

    def write(connection: sa.Connection) -> int:
        return create_notification(connection, work.account, ada, "event", event)

    with engine.connect() as one:
        first = write(one)
        second = pool.submit(in_one_transaction, other_engine, write)
        until(lambda: waiting(engine) == 1)
        one.commit()
        assert second.result(timeout=60) == first
    with engine.connect() as connection:
        assert len(observed.bundles(connection)) == 1


def test_after_a_writer_who_rolls_back_the_next_opens_the_window(
    engine: sa.Engine, other_engine: sa.Engine, work: Workspace, ada: int, pool: ThreadPoolExecutor
) -> None:
    with engine.connect() as one:
        work.notification(one, ada)
        second = pool.submit(in_one_transaction, other_engine, lambda other: work.notification(other, ada))
        until(lambda: waiting(engine) == 1)
        one.rollback()
        second.result(timeout=60)
    with engine.connect() as connection:
        (notification,) = observed.notifications(connection, ada)
        assert observed.bundle_of(connection, notification)["starts_at"] == notification["created_at"]


def test_writers_for_different_people_do_not_wait_for_each_other(
    engine: sa.Engine, other_engine: sa.Engine, work: Workspace, ada: int
) -> None:
    with engine.begin() as connection:
        bob = work.person(connection)
    with engine.connect() as one:
        work.notification(one, ada)
        with other_engine.begin() as other:
            other.execute(sa.text("SET LOCAL lock_timeout = '1ms'"))
            work.notification(other, bob)


def test_somebody_who_refers_to_a_person_neither_waits_for_a_writer_nor_stops_them(
    engine: sa.Engine, other_engine: sa.Engine, work: Workspace, ada: int
) -> None:
    with engine.connect() as one, other_engine.connect() as other:
        other.execute(sa.text("SET LOCAL lock_timeout = '1ms'"))
        one.execute(sa.text("SET LOCAL lock_timeout = '1ms'"))
        make.watch(other, work.card, ada)
        work.notification(one, ada)
        make.event(other, work.board, ada, "card_closed", work.card)
        one.commit()
        other.commit()


def test_a_transaction_that_began_long_ago_writes_into_the_window_of_the_moment(
    engine: sa.Engine, other_engine: sa.Engine, work: Workspace, ada: int
) -> None:
    """By now() its notification would stand before a window that was opened and closed since."""
    with engine.connect() as old:
        old.execute(sa.select(sa.func.now()))
        with other_engine.begin() as other:
            work.notification(other, ada)
        with other_engine.begin() as other:
            set_notification_settings(other, ada, {"email_frequency": "daily"})
        work.notification(old, ada)
        old.commit()
    with engine.connect() as connection:
        first, second = observed.notifications(connection, ada)
        assert observed.bundle_of(connection, first)["ends_at"] <= second["created_at"]
        assert observed.bundle_of(connection, second)["starts_at"] == second["created_at"]


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_snapshot_from_before_somebodys_window_is_refused_and_not_another_window_over_it(
    engine: sa.Engine, other_engine: sa.Engine, work: Workspace, ada: int, level: Any
) -> None:
    with engine.connect().execution_options(isolation_level=level) as old:
        old.execute(sa.select(tables.users)).all()
        with other_engine.begin() as other:
            work.notification(other, ada)
        with pytest.raises(DBAPIError, match="windows_of_one_person_never_overlap"):
            work.notification(old, ada)
    with engine.connect() as connection:
        assert len(observed.bundles(connection, ada)) == 1


# A writer and a delivery

CLAIM = """
UPDATE flatearth.notification_bundles
SET status = 'processing', claim = gen_random_uuid(), claimed_until = clock_timestamp() + interval '1 minute'
WHERE id IN (
    SELECT b.id FROM flatearth.notification_bundles AS b
    WHERE b.status = 'pending' AND b.due_at <= clock_timestamp() + CAST(:ahead AS interval)
    FOR UPDATE SKIP LOCKED
)
"""
"""As of so much later; a delivery locks the person too, but that a window is safe must not depend on it."""


def claimed(connection: sa.Connection, ahead: str) -> int:
    return connection.execute(sa.text(CLAIM), {"ahead": ahead}).rowcount


def test_a_delivery_skips_a_window_that_somebody_is_writing_into(
    engine: sa.Engine, other_engine: sa.Engine, work: Workspace, ada: int
) -> None:
    with engine.begin() as connection:
        bundle(connection, ada, "-1 minute", "1 minute")
    with engine.connect() as writer:
        work.notification(writer, ada)
        with other_engine.begin() as delivery:
            assert claimed(delivery, "1 hour") == 0
        writer.commit()
    with other_engine.begin() as delivery:
        assert claimed(delivery, "1 hour") == 1


def test_a_writer_waits_for_a_delivery_that_is_claiming_and_opens_the_next_window(
    engine: sa.Engine, other_engine: sa.Engine, work: Workspace, ada: int, pool: ThreadPoolExecutor
) -> None:
    """The clock is read after the wait: not in a window that is being sent."""
    with engine.begin() as connection:
        sent = bundle(connection, ada, "-1 minute", "1 hour")
    with engine.connect() as delivery:
        assert claimed(delivery, "2 hours") == 1
        writer = pool.submit(in_one_transaction, other_engine, lambda other: work.notification(other, ada))
        until(lambda: waiting(engine) == 1)
        delivery.commit()
        writer.result(timeout=60)
    with engine.connect() as connection:
        (notification,) = observed.notifications(connection, ada)
        before, after = observed.bundles(connection, ada)
        assert (before["id"], before["ends_at"]) == (sent, notification["created_at"])
        assert observed.bundle_of(connection, notification) == after


def test_a_window_that_ended_while_its_writer_waited_is_over(
    engine: sa.Engine, other_engine: sa.Engine, work: Workspace, ada: int, pool: ThreadPoolExecutor
) -> None:
    with engine.begin() as connection:
        old = bundle(connection, ada, "-1 hour", "500 milliseconds")
    with engine.connect() as somebody:
        somebody.execute(sa.text("SELECT FROM flatearth.users WHERE id = :ada FOR NO KEY UPDATE"), {"ada": ada})
        writer = pool.submit(in_one_transaction, other_engine, lambda other: work.notification(other, ada))
        until(lambda: waiting(engine) == 1)
        until(lambda: in_one_transaction(engine, lambda c: observed.bundles(c, ada)[0]["ends_at"] < observed.now(c)))
        somebody.commit()
        writer.result(timeout=60)
    with engine.connect() as connection:
        (notification,) = observed.notifications(connection, ada)
        assert observed.bundle_of(connection, notification)["id"] != old


# A writer and the settings


@pytest.mark.parametrize("frequency", ["never", "daily"])
def test_a_change_of_frequency_waits_for_a_writer_and_takes_their_window_too(
    engine: sa.Engine,
    other_engine: sa.Engine,
    work: Workspace,
    ada: int,
    pool: ThreadPoolExecutor,
    *,
    frequency: str,
) -> None:
    with engine.connect() as writer:
        work.notification(writer, ada)
        change = pool.submit(
            in_one_transaction,
            other_engine,
            lambda other: set_notification_settings(other, ada, {"email_frequency": frequency}),
        )
        until(lambda: waiting(engine) == 1)
        writer.commit()
        change.result(timeout=60)
    with engine.connect() as connection:
        ended = [row["ends_at"] < observed.now(connection) for row in observed.bundles(connection, ada)]
        assert ended == ([] if frequency == "never" else [True])


@pytest.mark.parametrize("frequency", ["never", "daily"])
def test_a_writer_waits_for_a_change_of_frequency_and_follows_it(
    engine: sa.Engine,
    other_engine: sa.Engine,
    work: Workspace,
    ada: int,
    pool: ThreadPoolExecutor,
    *,
    frequency: str,
) -> None:
    with engine.connect() as person:
        set_notification_settings(person, ada, {"email_frequency": frequency})
        writer = pool.submit(in_one_transaction, other_engine, lambda other: work.notification(other, ada))
        until(lambda: waiting(engine) == 1)
        person.commit()
        writer.result(timeout=60)
    with engine.connect() as connection:
        lengths = [row["ends_at"] - row["starts_at"] for row in observed.bundles(connection, ada)]
        assert lengths == ([] if frequency == "never" else [make.DAY])


# Writers who commit out of order


def test_an_event_that_is_committed_after_a_later_one_is_told_all_the_same(
    engine: sa.Engine, other_engine: sa.Engine, work: Workspace, ada: int
) -> None:
    with engine.connect() as slow:
        first = work.event(slow)
        with other_engine.begin() as fast:
            second = work.event(fast)
        assert first < second
        assert run(other_engine).events == 1
        assert told(other_engine) == {(second, ada)}
        slow.commit()
    assert run(other_engine).events == 1
    assert told(other_engine) == {(first, ada), (second, ada)}


def test_a_mention_that_is_committed_after_a_later_one_is_told_all_the_same(
    engine: sa.Engine, other_engine: sa.Engine, work: Workspace, ada: int
) -> None:
    with engine.connect() as slow:
        work.comment(slow, f"@[Ada](user:{ada})")
        with other_engine.begin() as fast:
            work.comment(fast, f"@[Ada](user:{ada})")
        assert run(other_engine).mentions == 1
        slow.commit()
    assert run(other_engine).mentions == 1
    assert len(told(other_engine, "mention")) == 2


def test_an_event_whose_transaction_is_rolled_back_is_never_told(
    engine: sa.Engine, other_engine: sa.Engine, work: Workspace
) -> None:
    with engine.connect() as somebody:
        work.event(somebody)
        assert run(other_engine).events == 0
        somebody.rollback()
    assert run(other_engine).events == 0


# The job and people at work


def test_who_edits_a_text_that_the_job_is_looking_at_does_not_wait_and_is_looked_at_again(
    engine: sa.Engine, other_engine: sa.Engine, work: Workspace, ada: int
) -> None:
    with engine.begin() as connection:
        bob = work.person(connection)
        comment, _ = work.comment(connection, f"@[Ada](user:{ada})")
    edited = list[int]()

    def edit(_: Outcome) -> None:
        if not edited:
            edited.append(1)
            other_engine_edits()

    def other_engine_edits() -> None:
        with other_engine.begin() as author:
            author.execute(sa.text("SET LOCAL lock_timeout = '1ms'"))
            body = f"@[Ada](user:{ada}) @[Bob](user:{bob})"
            author.execute(sa.update(tables.comments).where(tables.comments.c.id == comment).values(body=body))

    with engine.connect() as connection:
        connection.execute(sa.text("SELECT FROM flatearth.unscanned_sources FOR UPDATE"))
        other_engine_edits()
        connection.rollback()
        notify(connection, progress=edit)
    assert {user for _, user in told(engine, "mention")} == {ada, bob}


def test_while_somebody_holds_a_persons_row_their_events_wait_and_all_others_are_told(
    engine: sa.Engine, other_engine: sa.Engine, work: Workspace, ada: int
) -> None:
    with engine.begin() as connection:
        bob = work.person(connection)
        for_both = work.event(connection)
        for_bob = work.event(connection, "card_assigned", assignee_ids=[bob])
        comment, _ = work.comment(connection, f"@[Ada](user:{ada})")
        make.comment(connection, work.card, f"@[Bob](user:{bob})", work.actor)
    with other_engine.connect() as somebody:
        somebody.execute(sa.update(tables.users).where(tables.users.c.id == ada).values(name="Ada L."))
        outcome = run(engine)
        assert (outcome.events, outcome.mentions, outcome.held_back) == (1, 1, 2)
        assert told(engine) == {(for_bob, bob)}
        assert {user for _, user in told(engine, "mention")} == {bob}
        somebody.commit()
    outcome = run(engine)
    assert (outcome.events, outcome.mentions, outcome.held_back) == (2, 1, 0)
    assert told(engine) == {(for_bob, bob), (for_both, ada)}
    with engine.connect() as connection:
        assert observed.mentions(connection) >= {("comment", comment, ada)}


def test_in_a_deadlock_with_an_application_it_is_the_job_that_gives_way(
    engine: sa.Engine, other_engine: sa.Engine, work: Workspace, ada: int, pool: ThreadPoolExecutor
) -> None:
    """The application holds Bob and wants Ada, whom the job holds while it waits for Bob."""
    with engine.begin() as connection:
        bob = work.watcher(connection)
        event = work.event(connection)
    with other_engine.connect() as application:
        work.notification(application, bob)
        job = pool.submit(run, engine)
        until(lambda: waiting(other_engine) == 1)
        work.notification(application, ada)
        application.commit()
        job.result(timeout=60)
    run(engine)
    assert told(engine) >= {(event, ada), (event, bob)}
    assert deadlocks(engine) == 0


def test_two_jobs_at_once_tell_everything_once(
    engine: sa.Engine, other_engine: sa.Engine, work: Workspace, ada: int, pool: ThreadPoolExecutor
) -> None:
    with engine.begin() as connection:
        people = [ada, *(work.watcher(connection) for _ in range(4))]
        events = make.events(connection, work.board, work.actor, 400)
        for person in 20 * people:
            work.comment(connection, f"@[Somebody](user:{person})")
    both_are_at_it = threading.Barrier(2, timeout=60)

    def runner(of: sa.Engine) -> Outcome:
        both_are_at_it.wait()
        return run(of, batch_size=10, stay_seconds=1)

    outcomes = [job.result(timeout=60) for job in [pool.submit(runner, of) for of in (engine, other_engine)]]
    assert told(engine) == {(event, person) for event in events for person in people}
    assert len(told(engine, "mention")) == 100
    assert sum(outcome.events for outcome in outcomes) == 500
    assert sum(outcome.mentions for outcome in outcomes) == 100
    assert_one_window_each(engine)


def test_everybody_at_once_leaves_every_notification_in_one_window_and_nobody_deadlocks(
    engine: sa.Engine, database: str, work: Workspace, ada: int, pool: ThreadPoolExecutor
) -> None:
    """Applications that create, people who choose, deliveries that claim, events that are written, and the job."""
    with engine.begin() as connection:
        people = [ada, *(work.watcher(connection, frequency) for frequency in ("daily", "weekly", "every_few_hours"))]
        before = make.events(connection, work.board, work.actor, 200)
    over = threading.Event()

    def forever(seed: int, do: Callable[[psycopg.Connection, random.Random], object]) -> int:
        draw, times = random.Random(seed), 0  # noqa: S311 - no secret
        with psycopg.connect(database, application_name="somebody") as connection:
            while not over.is_set():
                with connection.transaction():
                    do(connection, draw)
                times += 1
                time.sleep(0.001)
        return times

    def creates(connection: psycopg.Connection, draw: random.Random) -> None:
        several = sorted(draw.sample(people, 2))
        (event,) = connection.execute(NEW_EVENT, [work.account, work.board, work.actor, work.card]).fetchone() or (0,)
        asked = [
            {"account_id": work.account, "user_id": person, "source_type": "event", "source_id": event}
            for person in several
        ]
        connection.execute("SELECT flatearth.create_notifications(%s)", [Jsonb(asked)])

    def chooses(connection: psycopg.Connection, draw: random.Random) -> None:
        choice = {"email_frequency": draw.choice(["daily", "weekly", "every_30_minutes"])}
        connection.execute(
            "SELECT flatearth.set_notification_settings(%s, %s)",
            [draw.choice(people), Jsonb(choice)],
        )

    def chooses_directly(connection: psycopg.Connection, draw: random.Random) -> None:
        connection.execute(
            "UPDATE flatearth.notification_settings SET email_frequency = %s WHERE user_id = %s",
            [draw.choice(["daily", "weekly", "every_30_minutes"]), draw.choice(people)],
        )

    def claims(connection: psycopg.Connection, draw: random.Random) -> None:
        connection.execute(CLAIM.replace(":ahead", "%s").encode(), [draw.choice(["0", "8 days"])])
        connection.execute(
            "UPDATE flatearth.notification_bundles SET status = 'delivered', claim = null, claimed_until = null"
            " WHERE status = 'processing'"
        )

    workers: list[Future[Any]] = [
        pool.submit(forever, seed, do) for seed, do in enumerate([creates, creates, chooses, chooses_directly, claims])
    ]
    try:
        outcome = run(engine, batch_size=5, stay_seconds=3, longest_seconds=3)
    finally:
        over.set()
    times = [worker.result(timeout=60) for worker in workers]
    last = run(engine, stay_seconds=1)

    assert all(times)
    assert outcome.events + last.events == len(before) + times[0] + times[1]
    assert told(engine) >= {(event, person) for event in before for person in people}
    assert_one_window_each(engine)
    assert deadlocks(engine) == 0


NEW_EVENT = """
INSERT INTO flatearth.events (account_id, board_id, creator_id, action, eventable_type, eventable_id)
VALUES (%s, %s, %s, 'card_closed', 'card', %s) RETURNING id
"""


# ---------------------------------------------------------------------------------------------------- helpers


def told(engine: sa.Engine, source_type: str = "event") -> set[tuple[int, int]]:
    with engine.connect() as connection:
        return observed.told(connection, source_type)


def in_one_transaction(engine: sa.Engine, do: Callable[[sa.Connection], Result]) -> Result:
    with engine.begin() as connection:
        return do(connection)


def waiting(engine: sa.Engine) -> int:
    """How many sessions of this database wait for a lock of another."""
    with engine.connect() as connection:
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        count: int = connection.execute(sa.text(query)).scalar_one()
        return count


def assert_one_window_each(engine: sa.Engine) -> None:
    """Every notification lies in exactly one window; that none overlaps another, Postgres says."""
    query = """
        SELECT count(*) FROM flatearth.notifications AS n
        WHERE 1 <> (
            SELECT count(*) FROM flatearth.notification_bundles AS b
            WHERE b.user_id = n.user_id AND b.starts_at <= n.created_at AND n.created_at < b.ends_at
        )
    """
    with engine.connect() as connection:
        assert connection.execute(sa.text(query)).scalar_one() == 0


def deadlocks(engine: sa.Engine) -> int:
    """How many there ever were in this database; sessions report them at their end, if not before."""
    engine.dispose()
    with engine.connect() as connection:
        query = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        count: int = connection.execute(sa.text(query)).scalar_one()
        return count
