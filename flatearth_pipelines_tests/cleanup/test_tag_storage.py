"""Tags on no card, and above all those that are being put on one at that moment: in two sessions, step by step."""

import contextlib
import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import psycopg
import pytest
import sqlalchemy as sa
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy.exc import IntegrityError

from flatearth_pipelines import tables
from flatearth_pipelines.cleanup.outcome import Batch
from flatearth_pipelines.cleanup.tag_storage import UnusedTags
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.cleanup.observed import waiting_for_a_lock
from flatearth_pipelines_tests.cleanup.runs import run
from flatearth_pipelines_tests.factories import DAY, MICROSECOND, NOON
from flatearth_pipelines_tests.processes import until

A_DAY_AGO = NOON - DAY


class Workspace:
    """An account with a board and a card."""

    def __init__(self, connection: sa.Connection) -> None:
        self.account = make.account(connection)
        self.card = make.card(connection, make.board(connection, self.account))


@pytest.fixture
def office(engine: sa.Engine) -> Workspace:
    with engine.begin() as connection:
        return Workspace(connection)


# Put on a card at that moment


def test_a_tag_whose_tagging_is_written_and_not_yet_committed_survives_and_nobody_waits(
    engine: sa.Engine, other_engine: sa.Engine, office: Workspace
) -> None:
    with engine.begin() as connection:
        wanted, unused = (make.tag(connection, office.account) for _ in range(2))
    with other_engine.connect() as somebody:
        tagging = make.tagging(somebody, wanted, office.card)

        batch = sweep(engine)

        assert batch.deleted == 1
        somebody.commit()
    assert tags(engine) == [wanted]
    assert taggings(engine) == [tagging]
    assert unused not in tags(engine)


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
def test_a_tag_whose_tagging_commits_between_the_two_statements_survives_with_it(
    engine: sa.Engine, database: str, office: Workspace, isolation: str
) -> None:
    """Of two that matter: the first has its snapshot, in which the tag is unused, but not its lock: there it stops."""
    with engine.begin() as connection:
        wanted, unused = (make.tag(connection, office.account) for _ in range(2))
        name = conninfo_to_dict(database)["dbname"]
        connection.execute(sa.text(f"ALTER DATABASE {name} SET default_transaction_isolation = '{isolation}'"))
    engine.dispose()
    with stopped_before_its_locks(engine, database) as stop, ThreadPoolExecutor(1) as thread:
        running = thread.submit(run, engine, "tags")
        until(stop.is_reached)
        with psycopg.connect(database) as somebody:
            somebody.execute(
                "INSERT INTO flatearth.taggings (account_id, tag_id, card_id) VALUES (%s, %s, %s)",
                [office.account, wanted, office.card],
            )
        stop.over.set()
        swept = running.result(timeout=60)

    assert (swept.deleted, swept.batches) == ({"tags": 1}, 1)
    assert unused > wanted, "so that both were locked after the stop"
    assert tags(engine) == [wanted]
    assert len(taggings(engine)) == 1


def test_whoever_tags_a_card_after_the_tag_was_locked_waits_and_is_refused_instead_of_losing_the_tagging(
    engine: sa.Engine, other_engine: sa.Engine, office: Workspace
) -> None:
    with engine.begin() as connection:
        tag = make.tag(connection, office.account)

    def put_it_on_a_card() -> None:
        with other_engine.begin() as somebody:
            make.tagging(somebody, tag, office.card)

    with engine.connect() as connection, ThreadPoolExecutor(1) as thread:
        with connection.begin():
            assert UnusedTags().delete_batch(connection, A_DAY_AGO, None, 10).deleted == 1
            tagging = thread.submit(put_it_on_a_card)
            until(lambda: waiting_for_a_lock(engine) == 1)
        with pytest.raises(IntegrityError, match="tagging_tag_is_of_the_account"):
            tagging.result(timeout=60)
    assert tags(engine) == taggings(engine) == []


# What is too young, or on a card


@pytest.mark.parametrize(
    ("age", "goes"),
    [
        (DAY + MICROSECOND, True),
        (DAY, False),
        (DAY - MICROSECOND, False),
        (timedelta(0), False),
        (-DAY, False),
        (3650 * DAY, True),
    ],
)
def test_a_tag_goes_a_microsecond_after_a_day_and_stays_at_exactly_a_day(
    engine: sa.Engine,
    office: Workspace,
    age: timedelta,
    goes: bool,  # noqa: FBT001
) -> None:
    with engine.begin() as connection:
        tag = make.tag(connection, office.account, age)
        assert UnusedTags().count_due(connection, A_DAY_AGO) == goes

    assert sweep(engine).deleted == goes
    assert tags(engine) == ([] if goes else [tag])


def test_a_tag_on_a_card_stays_however_old_and_goes_when_its_last_tagging_is_gone(
    engine: sa.Engine, office: Workspace
) -> None:
    with engine.begin() as connection:
        tag = make.tag(connection, office.account, 3650 * DAY)
        make.tagging(connection, tag, office.card)
    assert sweep(engine) == Batch(found=1, deleted=0, last=tag)
    assert tags(engine) == [tag]

    with engine.begin() as connection:
        connection.execute(sa.delete(tables.cards).where(tables.cards.c.id == office.card))
    assert sweep(engine).deleted == 1


def test_a_tag_that_somebody_renames_at_that_moment_is_skipped_and_goes_by_the_next_batch(
    engine: sa.Engine, other_engine: sa.Engine, office: Workspace
) -> None:
    with engine.begin() as connection:
        held, other = (make.tag(connection, office.account) for _ in range(2))
    with other_engine.connect() as somebody:
        somebody.execute(sa.text("UPDATE flatearth.tags SET title = 'renamed' WHERE id = :id"), {"id": held})
        assert sweep(engine) == Batch(found=2, deleted=1, last=other)
        somebody.commit()
    assert tags(engine) == [held]
    assert sweep(engine).deleted == 1


# Batches


def test_batches_go_on_after_the_last_tag_that_was_looked_at_across_accounts_used_or_not(
    engine: sa.Engine, office: Workspace
) -> None:
    with engine.begin() as connection:
        elsewhere = Workspace(connection)
        first_used, *unused = (make.tag(connection, where.account) for where in (office, elsewhere, office))
        make.tagging(connection, first_used, office.card)

    with engine.connect() as connection:
        with connection.begin():
            first = UnusedTags().delete_batch(connection, A_DAY_AGO, None, 2)
        with connection.begin():
            second = UnusedTags().delete_batch(connection, A_DAY_AGO, unused[0], 2)
        with connection.begin():
            third = UnusedTags().delete_batch(connection, A_DAY_AGO, unused[1], 2)

    assert first == Batch(found=2, deleted=1, last=unused[0])
    assert second == Batch(found=1, deleted=1, last=unused[1])
    assert third == Batch(found=0, deleted=0, last=unused[1])
    assert tags(engine) == [first_used]


def test_the_oldest_is_the_oldest_unused_tag_whatever_its_id_and_none_when_every_tag_is_on_a_card(
    engine: sa.Engine, office: Workspace
) -> None:
    with engine.begin() as connection:
        used = make.tag(connection, office.account, 9 * DAY)
        make.tagging(connection, used, office.card)
        assert UnusedTags().oldest(connection) is None
        make.tag(connection, office.account, DAY)
        make.tag(connection, office.account, 3 * DAY)
        assert UnusedTags().oldest(connection) == (NOON - 3 * DAY).isoformat()
        assert UnusedTags().oldest(connection, A_DAY_AGO) == A_DAY_AGO.isoformat()
        assert UnusedTags().oldest(connection, NOON) is None


# Helpers


def sweep(engine: sa.Engine) -> Batch:
    """One batch of a clean-up as of `NOON`; one that waits for ever fails instead."""
    with engine.connect() as connection:
        with connection.begin():
            connection.execute(sa.text("SET statement_timeout = '60s'"))
        with connection.begin():
            return UnusedTags().delete_batch(connection, A_DAY_AGO, None, 10)


class Stop:
    """Where a statement waits; `over` lets it go on."""

    def __init__(self, conninfo: str) -> None:
        self.over = threading.Event()
        self._conninfo = conninfo

    def is_reached(self) -> bool:
        query = (
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock' AND wait_event = 'advisory'"
        )
        with psycopg.connect(self._conninfo) as connection:
            return connection.execute(query).fetchone() == (1,)


@contextlib.contextmanager
def stopped_before_its_locks(engine: sa.Engine, conninfo: str) -> Generator[Stop]:
    """The table `tags` as a view of itself: who locks its rows sees them only when the stop is over."""
    with engine.begin() as connection:
        for change in STOP:
            connection.execute(sa.text(change))
    stop = Stop(conninfo)
    with psycopg.connect(conninfo, autocommit=True) as holder, ThreadPoolExecutor(1) as thread:
        holder.execute("SELECT pg_advisory_lock(4711)")
        released = thread.submit(lambda: stop.over.wait() and holder.execute("SELECT pg_advisory_unlock(4711)"))
        try:
            yield stop
        finally:
            stop.over.set()
            released.result(timeout=60)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP VIEW flatearth.tags"))
        connection.execute(sa.text("ALTER TABLE flatearth.all_tags RENAME TO tags"))


STOP = (
    "ALTER TABLE flatearth.tags RENAME TO all_tags",
    """
    CREATE FUNCTION flatearth.stopped() RETURNS boolean LANGUAGE plpgsql VOLATILE
    AS $$
    BEGIN
        IF current_query() LIKE '%FOR UPDATE%' THEN
            PERFORM pg_advisory_xact_lock_shared(4711);
        END IF;
        RETURN true;
    END
    $$
    """,
    "CREATE VIEW flatearth.tags AS SELECT * FROM flatearth.all_tags WHERE flatearth.stopped()",
)


def tags(engine: sa.Engine) -> list[int]:
    with engine.connect() as connection:
        return sorted(connection.execute(sa.select(tables.tags.c.id)).scalars())


def taggings(engine: sa.Engine) -> list[int]:
    with engine.connect() as connection:
        return sorted(connection.execute(sa.select(tables.taggings.c.id)).scalars())
