"""Rows that go by their age: each table of them, with its boundary; and one batch beside other sessions."""

from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict

from flatearth_pipelines import tables
from flatearth_pipelines.cleanup.outcome import Batch
from flatearth_pipelines.cleanup.storage import Aged, begin_batch
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.cleanup import observed
from flatearth_pipelines_tests.factories import DAY, MICROSECOND, NOON

SESSIONS = Aged(tables.sessions.c.expires_at)
AUDIT_LOGS = Aged(tables.api_audit_logs.c.created_at)
DELIVERIES = Aged(tables.webhook_deliveries.c.created_at)
PAYLOADS = Aged(tables.webhook_payloads.c.created_at)

ENOUGH = 100


def sessions_of(connection: sa.Connection, *expired: timedelta) -> list[int]:
    """Of one person, each expired so long before `NOON`."""
    person = make.user(connection, make.account(connection))
    return [make.session(connection, person, each) for each in expired]


# Boundaries


@pytest.mark.parametrize(
    ("expired", "goes"),
    [(MICROSECOND, True), (timedelta(0), False), (-MICROSECOND, False), (3650 * DAY, True), (-3650 * DAY, False)],
)
def test_a_session_that_expires_at_this_very_instant_stays_and_one_a_microsecond_before_goes(
    connection: sa.Connection,
    expired: timedelta,
    goes: bool,  # noqa: FBT001
) -> None:
    (session,) = sessions_of(connection, expired)

    assert SESSIONS.count_due(connection, NOON) == goes
    assert SESSIONS.delete_batch(connection, NOON, None, ENOUGH).deleted == goes
    assert left(connection, tables.sessions) == ([] if goes else [session])


@pytest.mark.parametrize(
    ("age", "goes"), [(90 * DAY + MICROSECOND, True), (90 * DAY, False), (90 * DAY - MICROSECOND, False)]
)
def test_an_audit_log_of_exactly_90_days_stays_and_one_a_microsecond_older_goes(
    connection: sa.Connection,
    age: timedelta,
    goes: bool,  # noqa: FBT001
) -> None:
    log = make.audit_log(connection, make.account(connection), age)
    before = NOON - 90 * DAY

    assert AUDIT_LOGS.count_due(connection, before) == goes
    assert AUDIT_LOGS.delete_batch(connection, before, None, ENOUGH).deleted == goes
    assert left(connection, tables.api_audit_logs) == ([] if goes else [log])


STATES: dict[str, dict[str, Any]] = {
    "pending": {},
    "in_progress": {"claim": sa.func.gen_random_uuid(), "claimed_until": NOON},
    "completed": {"completed_at": NOON},
    "errored": {},
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize(
    ("age", "goes"), [(7 * DAY + MICROSECOND, True), (7 * DAY, False), (7 * DAY - MICROSECOND, False)]
)
def test_a_delivery_of_exactly_7_days_stays_and_one_a_microsecond_older_goes_with_its_attempts_whatever_its_state(
    connection: sa.Connection,
    state: str,
    age: timedelta,
    goes: bool,  # noqa: FBT001
) -> None:
    webhook = make.webhook(connection, make.account(connection))
    delivery = make.delivery(connection, webhook, state=state, created_at=NOON - age, **STATES[state])
    for _ in range(2):
        make.attempt(connection, delivery)

    assert DELIVERIES.delete_batch(connection, NOON - 7 * DAY, None, ENOUGH).deleted == goes
    assert left(connection, tables.webhook_deliveries) == ([] if goes else [delivery])
    assert len(left(connection, tables.webhook_attempts)) == (0 if goes else 2)


def test_a_payload_goes_by_its_own_age_by_the_same_boundary(connection: sa.Connection) -> None:
    account = make.account(connection)
    for event, age in enumerate((7 * DAY + MICROSECOND, 7 * DAY), start=1):
        row = {"event_id": event, "format": "json", "account_id": account, "body": b"{}", "created_at": NOON - age}
        connection.execute(sa.insert(tables.webhook_payloads).values(row))

    assert PAYLOADS.delete_batch(connection, NOON - 7 * DAY, None, ENOUGH).deleted == 1
    assert connection.execute(sa.select(tables.webhook_payloads.c.event_id)).scalars().all() == [2]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ages=st.lists(st.integers(-5, 5), max_size=12),
    limit=st.integers(-5, 5),
    most=st.integers(1, 5),
)
def test_batch_after_batch_deletes_exactly_what_is_before_and_looks_at_nothing_twice(
    connection: sa.Connection, ages: list[int], limit: int, most: int
) -> None:
    before = NOON + limit * MICROSECOND
    with connection.begin_nested() as example:
        ids = sessions_of(connection, *(age * MICROSECOND for age in ages))
        stay = [each for each, age in zip(ids, ages, strict=True) if NOON - age * MICROSECOND >= before]
        assert SESSIONS.count_due(connection, before) == len(ids) - len(stay)
        last = None
        batches: list[Batch] = []
        while not batches or batches[-1].found == most:
            batches.append(SESSIONS.delete_batch(connection, before, last, most))
            last = batches[-1].last
        assert sum(batch.deleted for batch in batches) == len(ids) - len(stay)
        assert [batch.found for batch in batches[:-1]] == [most] * (len(batches) - 1)
        assert left(connection, tables.sessions) == stay
        example.rollback()


# The oldest first, from where the last batch ended


def test_a_batch_takes_the_oldest_and_the_next_one_goes_on_at_its_last(connection: sa.Connection) -> None:
    newest, middle, oldest = sessions_of(connection, DAY, 2 * DAY, 3 * DAY)

    first = SESSIONS.delete_batch(connection, NOON, None, 2)
    assert (first.found, first.deleted, first.last) == (2, 2, (NOON - 2 * DAY).isoformat())
    assert left(connection, tables.sessions) == [newest]
    assert middle != oldest

    assert SESSIONS.delete_batch(connection, NOON, first.last, 2) == Batch(1, 1, (NOON - DAY).isoformat())


def test_rows_of_one_instant_are_not_lost_between_two_batches(connection: sa.Connection) -> None:
    sessions_of(connection, DAY, DAY, DAY)

    first = SESSIONS.delete_batch(connection, NOON, None, 2)
    second = SESSIONS.delete_batch(connection, NOON, first.last, 2)

    assert (first.deleted, second.deleted) == (2, 1)


def test_a_session_that_never_expires_stays_and_one_that_always_had_goes(connection: sa.Connection) -> None:
    never, always = sessions_of(connection, DAY, DAY)
    for session, instant in ((never, "infinity"), (always, "-infinity")):
        change = sa.update(tables.sessions).where(tables.sessions.c.id == session)
        connection.execute(change.values(expires_at=sa.text(f"'{instant}'")))

    assert SESSIONS.oldest(connection) == "-infinity"
    assert SESSIONS.delete_batch(connection, NOON, None, ENOUGH) == Batch(1, 1, "-infinity")
    assert SESSIONS.oldest(connection) == "infinity"


def test_the_oldest_is_the_one_left_whether_due_or_not_and_none_of_an_empty_table(connection: sa.Connection) -> None:
    assert SESSIONS.oldest(connection) is None
    sessions_of(connection, DAY, -DAY)
    assert SESSIONS.oldest(connection) == (NOON - DAY).isoformat()
    assert SESSIONS.oldest(connection, NOON) == (NOON + DAY).isoformat()
    assert SESSIONS.oldest(connection, NOON + DAY) == (NOON + DAY).isoformat()
    assert SESSIONS.oldest(connection, NOON + 2 * DAY) is None


# Beside other sessions


@pytest.mark.parametrize(
    "write",
    [
        "UPDATE flatearth.sessions SET expires_at = now() + interval '30 days' WHERE id = :id",
        "SELECT FROM flatearth.sessions WHERE id = :id FOR KEY SHARE",
        "DELETE FROM flatearth.sessions WHERE id = :id",
    ],
)
def test_a_row_that_somebody_holds_is_skipped_at_once_and_the_others_go(
    engine: sa.Engine, other_engine: sa.Engine, write: str
) -> None:
    with engine.begin() as connection:
        held, other = sessions_of(connection, 2 * DAY, DAY)
    with other_engine.connect() as somebody:
        somebody.execute(sa.text(write), {"id": held})
        assert a_batch(engine).deleted == 1
        somebody.rollback()

    assert observed.ids(engine, tables.sessions) == [held]
    assert other != held


def test_a_writer_beside_an_open_batch_waits_for_none_but_its_rows(engine: sa.Engine, other_engine: sa.Engine) -> None:
    """A batch that is not committed yet holds what it deletes: not the table, and not what is due after it."""
    with engine.begin() as connection:
        person = make.user(connection, make.account(connection))
        in_it, after_it, alive = (make.session(connection, person, age) for age in (2 * DAY, DAY, -DAY))
    with engine.connect() as connection, connection.begin():
        assert SESSIONS.delete_batch(connection, NOON, None, 1).deleted == 1
        with other_engine.begin() as somebody:
            somebody.execute(sa.text("SET LOCAL lock_timeout = '1ms'"))
            new = make.session(somebody, person, -DAY)
            for session in (after_it, alive):
                change = sa.update(tables.sessions).where(tables.sessions.c.id == session)
                somebody.execute(change.values(expires_at=NOON + 2 * DAY))
            somebody.execute(sa.delete(tables.users).where(tables.users.c.id == -1))
        with other_engine.connect() as somebody:
            held = sa.select(tables.sessions.c.id).with_for_update(skip_locked=True)
            assert sorted(somebody.execute(held).scalars()) == [after_it, alive, new]
    assert in_it not in observed.ids(engine, tables.sessions)


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
def test_a_batch_is_read_committed_whatever_the_databases_default_is_and_its_commit_waits_for_no_disk(
    engine: sa.Engine, database: str, isolation: str
) -> None:
    name = conninfo_to_dict(database)["dbname"]
    with engine.begin() as connection:
        connection.execute(sa.text(f"ALTER DATABASE {name} SET default_transaction_isolation = '{isolation}'"))
    engine.dispose()
    with engine.connect() as connection, connection.begin():
        begin_batch(connection)
        shown = [connection.execute(sa.text(f"SHOW {name}")).scalar_one() for name in SETTINGS]
    assert shown == ["read committed", "off"]
    with engine.connect() as connection, connection.begin():
        shown = [connection.execute(sa.text(f"SHOW {name}")).scalar_one() for name in SETTINGS]
    assert shown == [isolation, "on"], "for the one transaction"


SETTINGS = ("transaction_isolation", "synchronous_commit")


def a_batch(engine: sa.Engine, before: datetime = NOON) -> Batch:
    """One that waits for ever fails instead."""
    with engine.begin() as connection:
        connection.execute(sa.text("SET LOCAL statement_timeout = '60s'"))
        return SESSIONS.delete_batch(connection, before, None, ENOUGH)


def left(connection: sa.Connection, table: sa.Table) -> list[int]:
    return sorted(connection.execute(sa.select(table.c.id)).scalars())
