"""Claims and what is recorded of them, in SQL: fenced, leased, bounded."""

import uuid
from datetime import timedelta

import pytest
import sqlalchemy as sa

from flatearth_pipelines import tables
from flatearth_pipelines.claimant import claimant
from flatearth_pipelines.notifications import delivery_storage as storage
from flatearth_pipelines.notifications.backlog_storage import seconds_to_next
from flatearth_pipelines.notifications.settlement import WAITS, Settlement, handed_back, without_mail
from flatearth_pipelines_tests.factories import MICROSECOND
from flatearth_pipelines_tests.notifications import observed
from flatearth_pipelines_tests.notifications.mails import due_bundles
from flatearth_pipelines_tests.notifications.workspace import Workspace, bundle

MINE = uuid.UUID(int=1)
THEIRS = uuid.UUID(int=2)
HOUR = timedelta(hours=1)


@pytest.fixture
def work(connection: sa.Connection) -> Workspace:
    return Workspace(connection)


def one(connection: sa.Connection, bundle_id: int) -> observed.Row:
    (row,) = (row for row in observed.bundles(connection) if row["id"] == bundle_id)
    return row


def update(connection: sa.Connection, bundle_id: int, **values: object) -> None:
    bundles = tables.notification_bundles
    connection.execute(sa.update(bundles).where(bundles.c.id == bundle_id).values(**values))


# Claims


def test_the_longest_due_are_claimed_first_and_no_more_than_asked_for(
    connection: sa.Connection, work: Workspace
) -> None:
    late, early, last = (
        bundle(connection, work.person(connection), "-3 hours", ends) for ends in ("-1 hour", "-2 hours", "-1 minute")
    )

    assert set(storage.claim_due(connection, MINE, None, 2)) == {early, late}
    assert storage.claim_due(connection, MINE, None, 2) == [last]
    assert storage.claim_due(connection, MINE, None, 2) == []


def test_a_claim_has_a_token_a_lease_and_an_attempt_more(connection: sa.Connection, work: Workspace) -> None:
    bundle_id = bundle(connection, work.person(connection), "-1 hour", "-1 minute")
    before = observed.now(connection)

    storage.claim_due(connection, MINE, None, 10)

    row = one(connection, bundle_id)
    assert (row["status"], row["claim"], row["attempts"]) == ("processing", MINE, 1)
    assert before + storage.LEASE <= row["claimed_until"] <= observed.now(connection) + storage.LEASE


@pytest.mark.parametrize("status", ["delivered", "failed"])
def test_what_has_ended_is_not_claimed(connection: sa.Connection, work: Workspace, status: str) -> None:
    ended = bundle(connection, work.person(connection), "-1 hour", "-1 minute", status=status, last_error="why")

    assert storage.claim_due(connection, MINE, None, 10) == []
    assert storage.claim_these(connection, MINE, [ended], early=True) == []


def test_what_waits_for_its_next_attempt_is_not_due_before(connection: sa.Connection, work: Workspace) -> None:
    at = observed.now(connection) + HOUR
    bundle_id = bundle(connection, work.person(connection), "-1 hour", "-1 minute", next_attempt_at=at)

    assert storage.claim_due(connection, MINE, None, 10) == []
    assert storage.claim_due(connection, MINE, at - MICROSECOND, 10) == []
    assert storage.claim_due(connection, MINE, at, 10) == [bundle_id]


def test_a_window_that_is_claimed_before_its_end_ends_then_and_one_that_is_over_stays_as_it_is(
    connection: sa.Connection, work: Workspace
) -> None:
    over, running, future = (
        bundle(connection, work.person(connection), *window)
        for window in (("-1 hour", "-1 minute"), ("-1 hour", "1 hour"), ("1 hour", "2 hours"))
    )
    before = {row["id"]: row for row in observed.bundles(connection)}
    at = observed.now(connection)

    storage.claim_due(connection, MINE, at + 3 * HOUR, 10)

    assert one(connection, over)["ends_at"] == before[over]["ends_at"]
    assert at <= one(connection, running)["ends_at"] <= observed.now(connection)
    assert one(connection, future)["ends_at"] == before[future]["starts_at"] + MICROSECOND


def test_named_bundles_are_claimed_when_they_are_due_and_with_early_also_before(
    connection: sa.Connection, work: Workspace
) -> None:
    over, running = (bundle(connection, work.person(connection), "-1 hour", ends) for ends in ("-1 minute", "1 hour"))

    assert storage.claim_these(connection, MINE, [over, running, 999_999], early=False) == [over]
    assert storage.claim_these(connection, MINE, [over, running], early=True) == [running]


def test_what_somebody_has_locked_is_left_alone(engine: sa.Engine, other_engine: sa.Engine, office: Workspace) -> None:
    with engine.begin() as connection:
        ids = due_bundles(connection, office, 2)
    with other_engine.begin() as somebody, engine.begin() as connection:
        lock = "SELECT FROM flatearth.notification_bundles WHERE id = :id FOR UPDATE"
        somebody.execute(sa.text(lock), {"id": ids[0]})
        assert storage.claim_due(connection, MINE, None, 10) == [ids[1]]


def test_what_is_due_is_read_page_by_page(connection: sa.Connection, work: Workspace) -> None:
    ids = due_bundles(connection, work, 5)
    update(connection, ids[2], status="processing", claim=MINE, claimed_until=observed.now(connection) + HOUR)
    pages, after = [], None
    while page := storage.read_due(connection, None, after, 2):
        pages.append([bundle_id for bundle_id, _ in page])
        after = page[-1]

    assert pages == [ids[:2], ids[3:]]


# What became of them


def claimed(connection: sa.Connection, work: Workspace, count: int = 1, claim: uuid.UUID = MINE) -> list[int]:
    due_bundles(connection, work, count)
    return sorted(storage.claim_due(connection, claim, None, count))


def test_each_bundle_is_recorded_as_it_ended(connection: sa.Connection, work: Workspace) -> None:
    mailed, read, failed, later, untried = claimed(connection, work, 5)
    before = observed.now(connection)

    done = storage.settle(
        connection,
        MINE,
        [
            Settlement(mailed, "delivered", "mailed", None, "<a@b>", 3),
            without_mail(read, "nothing_unread"),
            Settlement(failed, "failed", "refused", "554 no"),
            Settlement(later, "pending", error="451 later", wait=HOUR),
            handed_back(untried),
        ],
    )

    assert done == {mailed, read, failed, later, untried}
    columns = ("status", "outcome", "last_error", "message_id", "items", "attempts")
    rows = {row["id"]: row for row in observed.bundles(connection)}
    assert {bundle_id: tuple(row[name] for name in columns) for bundle_id, row in rows.items()} == {
        mailed: ("delivered", "mailed", None, "<a@b>", 3, 1),
        read: ("delivered", "nothing_unread", None, None, None, 1),
        failed: ("failed", "refused", "554 no", None, None, 1),
        later: ("pending", None, "451 later", None, None, 1),
        untried: ("pending", None, None, None, None, 0),
    }
    assert {bundle_id for bundle_id, row in rows.items() if row["delivered_at"]} == {mailed, read}
    assert before + HOUR <= rows[later]["next_attempt_at"] <= observed.now(connection) + HOUR
    assert rows[untried]["next_attempt_at"] is None
    assert {(row["claim"], row["claimed_until"]) for row in rows.values()} == {(None, None)}


def test_a_wait_begins_at_the_instant_of_the_run_where_that_is_later_than_now(
    connection: sa.Connection, work: Workspace
) -> None:
    first, second = claimed(connection, work, 2)
    now = observed.now(connection)
    storage.settle(connection, MINE, [Settlement(first, "pending", error="x", wait=HOUR)], now + 24 * HOUR)
    storage.settle(connection, MINE, [Settlement(second, "pending", error="x", wait=HOUR)], now - 24 * HOUR)

    assert one(connection, first)["next_attempt_at"] == now + 25 * HOUR
    assert one(connection, second)["next_attempt_at"] >= now + HOUR


def test_who_has_lost_a_claim_changes_nothing(connection: sa.Connection, work: Workspace) -> None:
    (bundle_id,) = claimed(connection, work, claim=THEIRS)
    before = one(connection, bundle_id)

    assert storage.settle(connection, MINE, [without_mail(bundle_id, "never"), without_mail(999_999, "never")]) == set()
    assert one(connection, bundle_id) == before


def test_a_bundle_is_recorded_once(connection: sa.Connection, work: Workspace) -> None:
    (bundle_id,) = claimed(connection, work)

    assert storage.settle(connection, MINE, [without_mail(bundle_id, "never")]) == {bundle_id}
    assert storage.settle(connection, MINE, [handed_back(bundle_id)]) == set()
    assert one(connection, bundle_id)["status"] == "delivered"


def test_what_somebody_has_locked_is_not_recorded_and_stays_the_claims(
    engine: sa.Engine, other_engine: sa.Engine, office: Workspace
) -> None:
    with engine.begin() as connection:
        first, second = claimed(connection, office, 2)
    done = [without_mail(first, "never"), without_mail(second, "never")]
    with other_engine.begin() as somebody, engine.begin() as connection:
        lock = "SELECT FROM flatearth.notification_bundles WHERE id = :id FOR UPDATE"
        somebody.execute(sa.text(lock), {"id": first})
        assert storage.settle(connection, MINE, done) == {second}
        assert storage.still_claimed(connection, MINE, [first, second]) == {first}


def test_what_a_claim_holds_is_handed_back_as_if_it_had_not_been_claimed_but_for_what_is_named(
    connection: sa.Connection, work: Workspace
) -> None:
    kept, back = claimed(connection, work, 2)
    others = bundle(connection, work.person(connection), "-1 hour", "-1 minute")
    storage.claim_due(connection, uuid.uuid4(), None, 1)

    assert storage.hand_back_all_but(connection, MINE, [kept]) == 1

    rows = [one(connection, bundle_id) for bundle_id in (kept, back, others)]
    assert [(row["status"], row["attempts"]) for row in rows] == [("processing", 1), ("pending", 0), ("processing", 1)]
    assert storage.claim_due(connection, MINE, None, 10) == [back]


def test_a_bundle_that_failed_can_wait_again_with_all_its_attempts(connection: sa.Connection, work: Workspace) -> None:
    failed, delivered = due_bundles(connection, work, 2)
    update(connection, failed, status="failed", outcome="exhausted", last_error="why", attempts=8)
    update(connection, delivered, status="delivered")

    assert storage.reopen(connection, [failed, delivered]) == 1

    row = one(connection, failed)
    assert (row["status"], row["attempts"], row["outcome"], row["last_error"]) == ("pending", 0, None, "why")


# The server is away


def test_what_is_due_while_the_server_is_away_has_an_attempt_more_and_waits_as_long_as_if_it_had_been_tried(
    connection: sa.Connection, work: Workspace
) -> None:
    first, fifth, last, later = due_bundles(connection, work, 4)
    update(connection, fifth, attempts=4)
    update(connection, last, attempts=7)
    update(connection, later, next_attempt_at=observed.now(connection) + HOUR)
    before = observed.now(connection)

    assert storage.put_off_due(connection, "it is away", None) == (2, 1)
    assert storage.put_off_due(connection, "it is away", None) == (0, 0)

    row = one(connection, first)
    assert (row["status"], row["attempts"], row["last_error"]) == ("pending", 1, "it is away")
    assert WAITS[0] <= row["next_attempt_at"] - before < 2 * WAITS[0]
    assert WAITS[4] <= one(connection, fifth)["next_attempt_at"] - before < 2 * WAITS[4]
    row = one(connection, last)
    assert (row["status"], row["outcome"], row["attempts"]) == ("failed", "exhausted", 8)
    assert one(connection, later)["attempts"] == 0


def test_no_more_is_put_off_at_once_than_asked_for(connection: sa.Connection, work: Workspace) -> None:
    due_bundles(connection, work, 5)

    counts = [storage.put_off_due(connection, "it is away", None, 2) for _ in range(4)]

    assert counts == [(2, 0), (2, 0), (1, 0), (0, 0)]


# Deliveries that died


def test_what_a_session_held_that_is_gone_is_free_at_once(
    engine: sa.Engine, other_engine: sa.Engine, office: Workspace
) -> None:
    with engine.begin() as connection:
        (bundle_id,) = due_bundles(connection, office, 1)
    with other_engine.connect() as somebody, claimant(somebody) as claim:
        with somebody.begin():
            storage.claim_due(somebody, claim, None, 1)
        with engine.begin() as connection:
            assert storage.rescue(connection, MINE) == 0
            assert (seconds_to_next(connection) or 0) > 0
        somebody.invalidate()
    with engine.begin() as connection:
        assert (seconds_to_next(connection) or 0) < 0
        assert storage.rescue(connection, MINE) == 1
        row = one(connection, bundle_id)
    assert (row["status"], row["attempts"], row["claim"], row["claimed_until"]) == ("pending", 1, None, None)


def test_a_claim_that_was_let_go_of_is_nobodys_at_once(
    engine: sa.Engine, other_engine: sa.Engine, office: Workspace
) -> None:
    with engine.begin() as connection:
        due_bundles(connection, office, 1)
    with other_engine.connect() as somebody:
        with claimant(somebody) as claim, somebody.begin():
            storage.claim_due(somebody, claim, None, 1)
        with engine.begin() as connection:
            assert storage.rescue(connection, MINE) == 1


def test_what_is_ones_own_is_not_rescued(engine: sa.Engine, office: Workspace) -> None:
    with engine.begin() as connection:
        due_bundles(connection, office, 1)
    with engine.connect() as connection, claimant(connection) as claim, connection.begin():
        storage.claim_due(connection, claim, None, 1)
        assert storage.rescue(connection, claim) == 0


def test_what_is_due_is_found_by_its_index_among_many_that_wait(connection: sa.Connection, work: Workspace) -> None:
    """Not by reading all that waits: the clock has to be read before the look-up."""
    due_bundles(connection, work, 2_000)
    later = "UPDATE flatearth.notification_bundles SET ends_at = clock_timestamp() + interval '1 hour'"
    connection.execute(sa.text(later))
    connection.execute(sa.text("ANALYZE flatearth.notification_bundles"))
    claim = storage._CLAIM_DUE.text  # noqa: SLF001
    values = {"as_of": None, "claim": MINE, "most": 100, "lease": storage.LEASE}
    plan = connection.execute(sa.text(f"EXPLAIN (ANALYZE, COSTS OFF) {claim}"), values).scalars()
    text = "\n".join(plan)

    assert "Rows Removed by Filter" not in text
    assert "Index Cond: (due_at <=" in text
