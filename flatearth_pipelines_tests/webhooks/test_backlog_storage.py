"""Whether a delivery is due, how many wait, and what is too old to be kept."""

import re
import uuid
from datetime import datetime, timedelta

import pytest
import sqlalchemy as sa

from flatearth_pipelines import tables
from flatearth_pipelines.webhooks import backlog_storage as storage
from flatearth_pipelines.webhooks.claim_storage import claim_due, claim_these
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.factories import MICROSECOND, NOON
from flatearth_pipelines_tests.webhooks import observed
from flatearth_pipelines_tests.webhooks.workspace import Workspace, deliveries, disabled

MINE = uuid.UUID(int=1)
SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)


@pytest.fixture
def work(connection: sa.Connection) -> Workspace:
    return Workspace(connection)


@pytest.fixture
def hook(connection: sa.Connection, work: Workspace) -> int:
    return work.webhook(connection)


def opened(connection: sa.Connection, webhook_id: int, until: datetime) -> None:
    five = {"consecutive_failures": 5, "first_failure_at": NOON, "trips": 1, "open_until": until}
    connection.execute(sa.update(tables.webhooks).where(tables.webhooks.c.id == webhook_id).values(five))


# When something is due


def seconds(connection: sa.Connection) -> float | None:
    """Until the next one, to the nearest ten; a claim's is not over."""
    exact = storage.seconds_to_next(connection)
    return None if exact is None else round(exact, -1)


def test_the_seconds_to_the_next_are_those_of_the_earliest_that_waits_of_any_endpoint(
    connection: sa.Connection, work: Workspace, hook: int
) -> None:
    now = observed.now(connection)
    assert seconds(connection) is None
    make.delivery(connection, hook, state="completed")
    make.delivery(connection, hook, state="errored")
    assert seconds(connection) is None
    for later in (7_200, 3_600):
        make.delivery(connection, hook, next_attempt_at=now + later * SECOND)
    assert seconds(connection) == 3_600
    make.delivery(connection, work.webhook(connection), next_attempt_at=now + 1_800 * SECOND)
    assert seconds(connection) == 1_800
    make.delivery(connection, hook, next_attempt_at=now - 100 * SECOND)
    assert seconds(connection) == -100


def test_of_a_disabled_webhook_or_a_cancelled_account_nothing_is_ever_due(
    connection: sa.Connection, work: Workspace
) -> None:
    theirs = Workspace(connection)
    make.delivery(connection, theirs.webhook(connection))
    make.delivery(connection, work.webhook(connection, **disabled()))
    cancel = sa.update(tables.accounts).where(tables.accounts.c.id == theirs.account)
    connection.execute(cancel.values(cancelled_at=NOON))

    assert seconds(connection) is None
    assert storage.read_due(connection, None) == 0


def test_of_an_open_endpoint_something_is_due_when_its_wait_is_over_and_not_before(
    connection: sa.Connection, hook: int
) -> None:
    now = observed.now(connection)
    make.delivery(connection, hook, next_attempt_at=now - 100 * SECOND)
    opened(connection, hook, now + 600 * SECOND)
    assert seconds(connection) == 600
    opened(connection, hook, now - 50 * SECOND)
    assert seconds(connection) == -50


def test_what_is_at_work_is_due_when_its_lease_is_over_and_at_once_when_its_run_has_died(
    engine: sa.Engine, other_engine: sa.Engine, office: Workspace
) -> None:
    with engine.begin() as connection:
        deliveries(connection, office.webhook(connection), 2)
    lock = sa.text("SELECT pg_advisory_lock(hashtextextended(:claim, 0))")
    with other_engine.connect() as alive:
        alive.execute(lock, {"claim": str(MINE)})
        with engine.begin() as connection:
            claim_due(connection, MINE, None, after=0, most=9, per_endpoint=9)
            assert seconds(connection) == 180
        alive.invalidate()
    with engine.begin() as connection:
        assert (seconds(connection) or 0) < -1_000_000


# How many


def test_what_is_due_is_counted_and_exactly_at_its_time_it_is(connection: sa.Connection, work: Workspace) -> None:
    hook, open_one = work.webhook(connection), work.webhook(connection)
    at = observed.now(connection) + HOUR
    make.delivery(connection, hook)
    make.delivery(connection, hook, next_attempt_at=at)
    make.delivery(connection, hook, state="completed")
    make.delivery(connection, open_one)
    opened(connection, open_one, at + HOUR)

    assert storage.read_due(connection, None) == 1
    assert storage.read_due(connection, at - MICROSECOND) == 1
    assert storage.read_due(connection, at) == 2
    assert storage.read_due(connection, at + HOUR - MICROSECOND) == 2
    assert storage.read_due(connection, at + HOUR) == 3


def test_the_health_counts_what_waits_and_is_at_work_and_endpoints_that_are_left_alone_or_given_up(
    connection: sa.Connection, work: Workspace
) -> None:
    nothing = {"waiting": 0, "in_progress": 0, "endpoints_open": 0, "endpoints_disabled": 0}
    assert storage.read_health(connection) == nothing
    now = observed.now(connection)
    hook, open_one, probed, given_up = (work.webhook(connection) for _ in range(4))
    opened(connection, open_one, now + HOUR)
    opened(connection, probed, now)
    connection.execute(sa.update(tables.webhooks).where(tables.webhooks.c.id == given_up).values(disabled()))
    ids = deliveries(connection, hook, 3)
    claim_these(connection, MINE, ids[:1])
    for each in (open_one, given_up):
        make.delivery(connection, each)
    make.delivery(connection, hook, state="completed")

    counts = {"waiting": 3, "in_progress": 1, "endpoints_open": 1, "endpoints_disabled": 1}
    assert storage.read_health(connection) == counts


@pytest.mark.parametrize("query", ["_SECONDS_TO_NEXT", "_DUE", "_HEALTH"])
def test_nobody_reads_what_has_ended_to_see_what_waits(engine: sa.Engine, query: str) -> None:
    with engine.begin() as connection:  # a table of its own: its indexes hold no rows that were rolled back
        hook = Workspace(connection).webhook(connection)
        deliveries(connection, hook, 20_000)
        connection.execute(sa.update(tables.webhook_deliveries).values(state="completed"))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("VACUUM ANALYZE flatearth.webhook_deliveries"))
        deliveries(connection, hook, 50)
        connection.execute(sa.text("ANALYZE flatearth.webhook_deliveries"))
        explain = sa.text(f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) {getattr(storage, query).text}")
        values = {"as_of": None} if ":as_of" in explain.text else {}
        plan = "\n".join(connection.execute(explain, values).scalars())

    assert "Index" in plan
    assert "Seq Scan on webhook_deliveries" not in plan
    assert not re.search(r"Removed by .*Filter: [1-9]\d\d", plan)
