"""Claims in SQL: fenced, leased, bounded for each endpoint, fair among them."""

import re
import uuid
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from flatearth_pipelines import tables
from flatearth_pipelines.claimant import claimant
from flatearth_pipelines.webhooks import claim_storage as storage
from flatearth_pipelines.webhooks.backlog_storage import seconds_to_next
from flatearth_pipelines.webhooks.settlement import MOST_ATTEMPTS
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.factories import MICROSECOND, NOON
from flatearth_pipelines_tests.webhooks import observed
from flatearth_pipelines_tests.webhooks.workspace import Workspace, deliveries, disabled

MINE = uuid.UUID(int=1)
THEIRS = uuid.UUID(int=2)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


@pytest.fixture
def work(connection: sa.Connection) -> Workspace:
    return Workspace(connection)


@pytest.fixture
def hook(connection: sa.Connection, work: Workspace) -> int:
    return work.webhook(connection)


def claimed(connection: sa.Connection, **options: Any) -> list[int]:
    """The ids, in order, of what a claim that may have a hundred gets."""
    given: dict[str, Any] = {"claim": MINE, "as_of": None, "after": 0, "most": 100, "per_endpoint": 100} | options
    return sorted(each.id for each in storage.claim_due(connection, **given))


def update(connection: sa.Connection, table: sa.Table, row_id: int, **values: object) -> None:
    connection.execute(sa.update(table).where(table.c.id == row_id).values(**values))


def opened(connection: sa.Connection, webhook_id: int, until: object) -> None:
    """Its breaker, once, until then."""
    five = {"consecutive_failures": 5, "first_failure_at": NOON, "trips": 1, "open_until": until}
    update(connection, tables.webhooks, webhook_id, **five)


# What is due


def test_the_longest_due_of_an_endpoint_are_claimed_first_and_no_more_than_asked_for(
    connection: sa.Connection, hook: int
) -> None:
    late, early, last = (make.delivery(connection, hook, next_attempt_at=NOON - hours * HOUR) for hours in (2, 3, 1))

    assert claimed(connection, most=2) == sorted([early, late])
    assert claimed(connection, most=2) == [last]
    assert claimed(connection, most=2) == []


def test_a_claim_has_a_token_a_lease_and_an_attempt_more(connection: sa.Connection, hook: int) -> None:
    delivery_id = make.delivery(connection, hook)
    before = observed.now(connection)

    claimed(connection)

    row = observed.delivery(connection, delivery_id)
    assert (row["state"], row["claim"], row["attempts"]) == ("in_progress", MINE, 1)
    assert before + storage.LEASE <= row["claimed_until"] <= observed.now(connection) + storage.LEASE


def test_what_is_claimed_is_returned_with_what_has_to_be_sent(
    connection: sa.Connection, work: Workspace, hook: int
) -> None:
    event = work.event(connection)
    of_event = make.delivery(connection, hook, event, attempts=3)
    direct = make.delivery(connection, hook, type="invoice.paid", body=b"\x00\xff")

    assert sorted(storage.claim_due(connection, MINE, None, after=0, most=9, per_endpoint=9)) == [
        (of_event, hook, event, "card_closed", 4, None),
        (direct, hook, None, "invoice.paid", 1, b"\x00\xff"),
    ]


@pytest.mark.parametrize("state", ["completed", "errored"])
def test_what_has_ended_is_not_claimed(connection: sa.Connection, hook: int, state: str) -> None:
    ended = make.delivery(connection, hook, state=state)

    assert claimed(connection) == []
    assert storage.claim_these(connection, MINE, [ended]) == []


def test_what_waits_for_its_next_attempt_is_due_exactly_then_and_not_a_microsecond_before(
    connection: sa.Connection, hook: int
) -> None:
    at = observed.now(connection) + HOUR
    delivery_id = make.delivery(connection, hook, next_attempt_at=at)

    assert claimed(connection) == []
    assert claimed(connection, as_of=at - MICROSECOND) == []
    assert claimed(connection, as_of=at) == [delivery_id]


@pytest.mark.parametrize("by_id", [False, True])
def test_nothing_of_a_disabled_webhook_or_a_cancelled_account_is_claimed(
    connection: sa.Connection, work: Workspace, hook: int, *, by_id: bool
) -> None:
    theirs = Workspace(connection)
    ids = [make.delivery(connection, each) for each in (hook, work.webhook(connection, **disabled()))]
    ids.append(make.delivery(connection, theirs.webhook(connection)))
    update(connection, tables.accounts, theirs.account, cancelled_at=NOON)

    if by_id:
        assert [each.id for each in storage.claim_these(connection, MINE, ids)] == ids[:1]
    else:
        assert claimed(connection) == ids[:1]


def test_what_is_named_is_claimed_whenever_it_is_due(connection: sa.Connection, hook: int) -> None:
    later = make.delivery(connection, hook, next_attempt_at=observed.now(connection) + HOUR)
    opened(connection, hook, observed.now(connection) + HOUR)

    assert [each.id for each in storage.claim_these(connection, MINE, [later, 999_999])] == [later]
    assert observed.delivery(connection, later)["claim"] == MINE


def test_what_somebody_has_locked_is_left_alone(engine: sa.Engine, other_engine: sa.Engine, office: Workspace) -> None:
    with engine.begin() as connection:
        hook = office.webhook(connection)
        first, second = deliveries(connection, hook, 2)
    with other_engine.begin() as somebody, engine.begin() as connection:
        lock = "SELECT FROM flatearth.webhook_deliveries WHERE id = :id FOR UPDATE"
        somebody.execute(sa.text(lock), {"id": first})
        connection.execute(sa.text("SET LOCAL lock_timeout = '1ms'"))
        assert storage.claim_these(connection, MINE, [first]) == []
        assert claimed(connection) == [second]


# Endpoint by endpoint


def test_of_an_endpoint_no_more_are_at_work_than_it_may_have_whoever_has_claimed_them(
    connection: sa.Connection, work: Workspace, hook: int
) -> None:
    other = work.webhook(connection)
    first, second = deliveries(connection, hook, 5), deliveries(connection, other, 2)

    assert claimed(connection, claim=THEIRS, per_endpoint=2) == [*first[:2], *second]
    assert claimed(connection, per_endpoint=2) == []
    assert claimed(connection, per_endpoint=3) == first[2:3]
    update(connection, tables.webhook_deliveries, first[0], state="completed", claim=None, claimed_until=None)
    assert claimed(connection, per_endpoint=3) == first[3:4]


def test_each_claim_goes_on_with_the_endpoints_after_those_of_the_last_one(
    connection: sa.Connection, work: Workspace
) -> None:
    hooks = [work.webhook(connection) for _ in range(3)]
    ids = {hook: deliveries(connection, hook, 2) for hook in hooks}

    assert claimed(connection, after=hooks[0]) == sorted([*ids[hooks[1]], *ids[hooks[2]]])
    assert claimed(connection, after=hooks[2]) == []
    assert claimed(connection, after=0) == ids[hooks[0]]


def test_no_more_is_claimed_than_asked_for_of_all_endpoints_together(
    connection: sa.Connection, work: Workspace
) -> None:
    hooks = [work.webhook(connection) for _ in range(3)]
    ids = [delivery_id for hook in hooks for delivery_id in deliveries(connection, hook, 2)]

    assert claimed(connection, most=3, per_endpoint=2) == ids[:3]


def test_an_open_endpoint_gets_nothing_until_its_wait_is_over_and_exactly_then_one_probe(
    connection: sa.Connection, hook: int
) -> None:
    ids = deliveries(connection, hook, 3)
    until = observed.now(connection) + MINUTE
    opened(connection, hook, until)

    assert claimed(connection) == []
    assert claimed(connection, as_of=until - MICROSECOND) == []
    assert claimed(connection, as_of=until) == ids[:1]
    assert claimed(connection, as_of=until + HOUR, claim=THEIRS) == [], "while the probe is at work"


def test_an_open_endpoint_whose_wait_is_over_by_the_clock_gets_one_probe(connection: sa.Connection, hook: int) -> None:
    ids = deliveries(connection, hook, 3)
    opened(connection, hook, observed.now(connection) - MICROSECOND)

    assert claimed(connection) == ids[:1]


def test_an_endpoint_that_is_closed_again_gets_as_many_as_before(connection: sa.Connection, hook: int) -> None:
    ids = deliveries(connection, hook, 3)
    opened(connection, hook, observed.now(connection) + HOUR)
    closed = {"consecutive_failures": 0, "first_failure_at": None, "trips": 0, "open_until": None}
    update(connection, tables.webhooks, hook, **closed)

    assert claimed(connection) == ids


def test_what_is_due_is_found_by_its_index_among_many_that_wait_and_many_that_have_ended(
    connection: sa.Connection, work: Workspace, hook: int
) -> None:
    """Not by reading all that waits: the clock has to be read before the look-up."""
    other = work.webhook(connection)
    deliveries(connection, other, 2_000)
    later = "UPDATE flatearth.webhook_deliveries SET next_attempt_at = clock_timestamp() + interval '1 hour'"
    connection.execute(sa.text(later))
    ended = deliveries(connection, hook, 2_000)
    end = sa.update(tables.webhook_deliveries).where(tables.webhook_deliveries.c.id.in_(ended))
    connection.execute(end.values(state="completed"))
    due = deliveries(connection, other, 10)
    connection.execute(sa.text("ANALYZE flatearth.webhook_deliveries"))
    connection.execute(storage._PREFER_PROBES)  # noqa: SLF001
    explain = sa.text(f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) {storage._CLAIM_DUE.text}")  # noqa: SLF001
    values = {"as_of": None, "claim": MINE, "after": 0, "most": 100, "per_endpoint": 10, "lease": storage.LEASE}
    plan = "\n".join(connection.execute(explain, values).scalars())

    assert re.search(rf"\(actual rows={len(due)}(\.00)? ", plan.partition("\n")[0]), "with decimals since Postgres 18"
    assert "Seq Scan on webhook_deliveries" not in plan
    assert "one_delivery_per_event_and_endpoint" not in plan
    assert not re.search("Removed by .*Filter: [1-9]", plan)
    assert "next_attempt_at <=" in plan.partition("pending_deliveries on webhook_deliveries p")[2]


# What dies


def test_what_a_session_held_that_is_gone_is_free_at_once_and_its_attempt_counts(
    engine: sa.Engine, other_engine: sa.Engine, office: Workspace
) -> None:
    with engine.begin() as connection:
        delivery_id = make.delivery(connection, office.webhook(connection))
    with other_engine.connect() as somebody, claimant(somebody) as claim:
        with somebody.begin():
            assert claimed(somebody, claim=claim) == [delivery_id]
        with engine.begin() as connection:
            assert storage.rescue(connection, MINE) == 0
            assert (seconds_to_next(connection) or 0) > 0
        somebody.invalidate()
    with engine.begin() as connection:
        assert (seconds_to_next(connection) or 0) < 0
        assert storage.rescue(connection, MINE) == 1
        row = observed.delivery(connection, delivery_id)
        assert claimed(connection) == [delivery_id]
    assert (row["state"], row["attempts"], row["claim"], row["claimed_until"]) == ("pending", 1, None, None)


def test_a_claim_that_was_let_go_of_is_nobodys_at_once(
    engine: sa.Engine, other_engine: sa.Engine, office: Workspace
) -> None:
    with engine.begin() as connection:
        make.delivery(connection, office.webhook(connection))
    with other_engine.connect() as somebody:
        with claimant(somebody) as claim, somebody.begin():
            claimed(somebody, claim=claim)
        with engine.begin() as connection:
            assert storage.rescue(connection, MINE) == 1


def test_what_is_ones_own_is_not_rescued(engine: sa.Engine, office: Workspace) -> None:
    with engine.begin() as connection:
        make.delivery(connection, office.webhook(connection))
    with engine.connect() as connection, claimant(connection) as claim, connection.begin():
        claimed(connection, claim=claim)
        assert storage.rescue(connection, claim) == 0


@pytest.mark.parametrize("over", [True, False], ids=["over", "not over"])
def test_what_one_that_lives_holds_is_free_when_its_lease_is_over_and_not_before(
    engine: sa.Engine, other_engine: sa.Engine, office: Workspace, *, over: bool
) -> None:
    with engine.begin() as connection:
        delivery_id = make.delivery(connection, office.webhook(connection))
    with other_engine.connect() as slow, claimant(slow) as claim:
        with slow.begin():
            claimed(slow, claim=claim)
        with engine.begin() as connection:
            until = observed.now(connection) + (timedelta(0) if over else MINUTE)
            update(connection, tables.webhook_deliveries, delivery_id, claimed_until=until)
            assert storage.rescue(connection, MINE) == int(over)


def test_one_that_ended_every_run_is_given_up_after_the_eighth_attempt(connection: sa.Connection, hook: int) -> None:
    delivery_id = make.delivery(connection, hook)
    for attempt in range(1, MOST_ATTEMPTS + 1):
        assert claimed(connection, claim=THEIRS) == [delivery_id]
        assert storage.rescue(connection, MINE) == 1
        row = observed.delivery(connection, delivery_id)
        assert (row["state"], row["attempts"]) == ("pending" if attempt < MOST_ATTEMPTS else "errored", attempt)


def test_what_a_claim_holds_is_handed_back_as_if_it_had_not_been_claimed(connection: sa.Connection, hook: int) -> None:
    first, second, third = (make.delivery(connection, hook, attempts=2) for _ in range(3))
    storage.claim_these(connection, MINE, [first, second])
    storage.claim_these(connection, THEIRS, [third])

    assert storage.hand_back(connection, MINE) == 2

    rows = [observed.delivery(connection, each) for each in (first, second, third)]
    assert [(row["state"], row["attempts"]) for row in rows] == [("pending", 2), ("pending", 2), ("in_progress", 3)]
    assert claimed(connection) == [first, second]
