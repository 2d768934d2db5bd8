"""The mechanism of every clean-up, on a real database: batches, the time, what is left, two at once."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
import sqlalchemy as sa

from flatearth_pipelines import tables
from flatearth_pipelines.cleanup.outcome import Swept
from flatearth_pipelines.cleanup.retention import RETENTIONS
from flatearth_pipelines.cleanup.sweeping import sweep
from flatearth_pipelines.cleanup.targets import parts_of
from flatearth_pipelines.settings import Settings
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.cleanup import observed
from flatearth_pipelines_tests.cleanup.runs import dry_run, run
from flatearth_pipelines_tests.factories import DAY, MICROSECOND, NOON


def sessions(engine: sa.Engine, count: int) -> int:
    """The id of a person with so many sessions, expired one microsecond after the other, the last at `NOON`."""
    with engine.begin() as connection:
        person = make.user(connection, make.account(connection))
        numbers = sa.func.generate_series(0, count - 1).column_valued("number")
        expiry = sa.literal(NOON) - numbers * sa.literal(MICROSECOND)
        rows = sa.select(sa.literal(person), expiry)
        connection.execute(sa.insert(tables.sessions).from_select(["user_id", "expires_at"], rows))
        return person


# Until nothing is left


@pytest.mark.parametrize(("due", "batches"), [(1, 1), (4, 1), (5, 1), (6, 2), (10, 2), (11, 3)])
def test_batches_go_on_until_nothing_is_left_each_a_transaction_of_its_own(
    engine: sa.Engine, due: int, batches: int
) -> None:
    sessions(engine, due + 1)

    swept = run(engine, "sessions", batch_size=5)

    assert swept.summary() == {
        "deleted": due,
        "remaining": 0,
        "refused": 0,
        "oldest_left": NOON.isoformat(),
        "budget_hit": False,
        "batches": batches,
    }
    assert observed.count(engine, tables.sessions) == 1


def test_every_batch_is_committed_before_the_next_one_begins(engine: sa.Engine, other_engine: sa.Engine) -> None:
    sessions(engine, 16)
    retention = RETENTIONS["sessions"].changed(batch_size=5)
    swept, seen = Swept(), []
    with engine.connect() as connection:
        sweep(
            connection,
            retention,
            parts_of(retention, Settings.from_environment),
            NOON,
            swept=swept,
            progress=lambda: seen.append((swept.deleted["sessions"], observed.count(other_engine, tables.sessions))),
        )
    assert seen == [(5, 11), (10, 6), (15, 1), (15, 1)]


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("target", RETENTIONS)
def test_an_empty_table_is_a_sweep_without_a_batch(
    engine: sa.Engine, target: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setenv("FLATEARTH_STORAGE_URL", f"file:{tmp_path_factory.mktemp('objects')}")
    swept = run(engine, target)
    assert set(swept.deleted.values()) == {0}
    assert (swept.remaining, swept.oldest_left, swept.budget_hit, swept.batches) == (0, None, False, 0)


# The time


def test_when_the_time_is_over_no_batch_is_begun_and_what_remains_is_counted(engine: sa.Engine) -> None:
    sessions(engine, 21)

    swept = run(engine, "sessions", batch_size=5, max_seconds=0)

    assert (swept.deleted, swept.batches) == ({"sessions": 5}, 1)
    assert (swept.budget_hit, swept.remaining) == (True, 15)
    assert swept.oldest_left == (NOON - 15 * MICROSECOND).isoformat()
    assert run(engine, "sessions", batch_size=5).deleted == {"sessions": 15}


def test_a_time_that_is_over_just_when_all_is_done_was_enough(engine: sa.Engine) -> None:
    sessions(engine, 5)
    swept = run(engine, "sessions", batch_size=5, max_seconds=0)
    assert (swept.deleted, swept.budget_hit, swept.remaining) == ({"sessions": 4}, False, 0)


# With what goes beside the target


def test_payloads_go_with_deliveries_and_also_those_whose_deliveries_are_gone(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        account = make.account(connection)
        webhook = make.webhook(connection, account)
        for age in (8 * DAY, 6 * DAY):
            make.attempt(connection, make.delivery(connection, webhook, created_at=NOON - age))
        for event, age in enumerate((9 * DAY, 8 * DAY, 6 * DAY), start=1):
            row = {"event_id": event, "format": "json", "account_id": account, "body": b"{}", "created_at": NOON - age}
            connection.execute(sa.insert(tables.webhook_payloads).values(row))

    assert dry_run(engine, "webhook_deliveries").deleted == {"webhook_deliveries": 1, "webhook_payloads": 2}
    assert run(engine, "webhook_deliveries").deleted == {"webhook_deliveries": 1, "webhook_payloads": 2}

    left = [observed.count(engine, table) for table in (tables.webhook_deliveries, tables.webhook_attempts)]
    assert [*left, observed.count(engine, tables.webhook_payloads)] == [1, 1, 1]


# A dry run


def test_a_dry_run_says_what_a_run_would_delete_and_leave_and_deletes_nothing(engine: sa.Engine) -> None:
    sessions(engine, 8)

    rehearsed = dry_run(engine, "sessions")

    assert observed.count(engine, tables.sessions) == 8
    swept = run(engine, "sessions")
    assert (rehearsed.deleted, rehearsed.remaining, rehearsed.oldest_left) == (
        swept.deleted,
        swept.remaining,
        swept.oldest_left,
    )


def test_a_run_of_an_earlier_instant_leaves_what_was_not_due_then(engine: sa.Engine) -> None:
    sessions(engine, 8)
    assert run(engine, "sessions", as_of=NOON - 3 * MICROSECOND).deleted == {"sessions": 4}
    assert run(engine, "sessions", keep_for="0.000002 seconds").deleted == {"sessions": 1}


# Beside others


def test_rows_that_somebody_holds_remain_and_are_counted_and_the_next_run_deletes_them(
    engine: sa.Engine, other_engine: sa.Engine
) -> None:
    sessions(engine, 7)
    with other_engine.connect() as somebody:
        somebody.execute(sa.text("SELECT FROM flatearth.sessions ORDER BY expires_at LIMIT 2 FOR UPDATE"))
        swept = run(engine, "sessions", batch_size=3)
        assert (swept.deleted, swept.remaining, swept.budget_hit) == ({"sessions": 4}, 2, False)
        assert swept.oldest_left == (NOON - 6 * MICROSECOND).isoformat()
    assert run(engine, "sessions").deleted == {"sessions": 2}


def test_two_at_once_delete_each_row_once_and_nobody_waits(engine: sa.Engine, other_engine: sa.Engine) -> None:
    sessions(engine, 4_001)
    both_are_at_it = threading.Barrier(2, timeout=60)

    def at_work(of: sa.Engine) -> Swept:
        retention = RETENTIONS["sessions"].changed(batch_size=50)
        swept = Swept()

        def once() -> None:
            if swept.batches == 1:
                both_are_at_it.wait()

        with of.connect() as connection:
            parts = parts_of(retention, Settings.from_environment)
            sweep(connection, retention, parts, NOON, swept=swept, progress=once)
        return swept

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(at_work, (engine, other_engine))

    assert first.deleted["sessions"] + second.deleted["sessions"] == 4_000
    assert min(first.deleted["sessions"], second.deleted["sessions"]) >= 50
    assert observed.count(engine, tables.sessions) == 1


def test_writers_beside_a_sweep_are_neither_stopped_nor_robbed_of_what_they_prolong(
    engine: sa.Engine, database: str
) -> None:
    """They prolong due sessions, three in a transaction, against the order in which they are deleted."""
    sessions(engine, 3_000)
    ids = observed.ids(engine, tables.sessions)
    over = threading.Event()
    prolong = "UPDATE flatearth.sessions SET expires_at = now() + interval '100 years' WHERE id = %s RETURNING id"

    def writer(seed: int) -> set[int]:
        draw, kept = random.Random(seed), set[int]()  # noqa: S311 - no secret
        with psycopg.connect(database, application_name="writer") as connection:
            while not over.is_set():
                with connection.transaction():
                    for chosen in sorted(draw.sample(ids, 3)):
                        kept.update(row[0] for row in connection.execute(prolong, [chosen]))
        return kept

    with ThreadPoolExecutor(2) as pool:
        writers = [pool.submit(writer, seed) for seed in range(2)]
        try:
            swept = run(engine, "sessions", batch_size=20)
        finally:
            over.set()
        kept = set.union(*(each.result(timeout=60) for each in writers))

    assert kept
    left = set(observed.ids(engine, tables.sessions))
    assert kept <= left
    assert swept.deleted["sessions"] + len(left) == 3_000
