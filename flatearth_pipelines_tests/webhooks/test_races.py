"""Two sessions and more at once: one delivery per event and endpoint, nothing claimed twice, no endpoint overrun."""

import threading
import uuid
from collections import Counter
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flatearth_pipelines import database as db
from flatearth_pipelines import tables
from flatearth_pipelines.webhooks import claim_storage, delivery_storage, dispatch_storage, endpoint_storage
from flatearth_pipelines.webhooks.endpoint_storage import Result
from flatearth_pipelines.webhooks.functions import disable_webhook, rotate_secret
from flatearth_pipelines.webhooks.outcome import Answer, Code
from flatearth_pipelines.webhooks.payload_storage import read_payloads
from flatearth_pipelines.webhooks.settlement import Settlement
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.factories import NOON, SECRET_KEY
from flatearth_pipelines_tests.processes import until
from flatearth_pipelines_tests.webhooks import observed
from flatearth_pipelines_tests.webhooks.receiver import Receiver
from flatearth_pipelines_tests.webhooks.runs import deliver, dispatch, waiting
from flatearth_pipelines_tests.webhooks.workspace import Workspace, deliveries

CLAIMERS = 4

Do = Callable[[sa.Connection], Any]


@pytest.fixture
def pool() -> Generator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


@pytest.fixture
def many(database: str) -> Generator[sa.Engine]:
    """Sessions of as many as want one."""
    engine = db.engine(database, "one of many", connections=10)
    yield engine
    engine.dispose()


@pytest.fixture
def hook(engine: sa.Engine, office: Workspace) -> int:
    with engine.begin() as connection:
        return office.webhook(connection)


def impatient(connection: sa.Connection) -> None:
    """Whoever would wait for a lock fails instead."""
    connection.execute(sa.text("SET LOCAL lock_timeout = '1ms'"))


# Dispatching

moves = st.one_of(
    st.tuples(st.just("write"), st.integers(1, 4)),
    st.tuples(st.just("dispatch"), st.integers(1, 3)),
    st.tuples(st.sampled_from(["commit", "rollback"]), st.just(0)),
)
steps = st.lists(st.tuples(st.integers(0, 1), moves), max_size=20)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps)
def test_an_event_has_one_delivery_per_endpoint_whatever_two_sessions_do_in_whatever_order(
    many: sa.Engine, steps: list[tuple[int, tuple[str, int]]]
) -> None:
    """Transactions that write and dispatch, and end well or not, each in the middle of the other's."""
    with many.begin() as connection:
        connection.execute(sa.delete(tables.accounts))
        office = Workspace(connection)
        hooks = [office.webhook(connection), office.webhook(connection, board_id=office.board)]
    happened = list[int]()
    with many.connect() as one, many.connect() as other:
        sessions = (one, other)
        written: tuple[list[int], list[int]] = ([], [])
        for which, (move, count) in steps:
            if move == "write":
                written[which].extend(office.events(sessions[which], count))
            elif move == "dispatch":
                dispatch_storage.dispatch(sessions[which], count)
            else:
                happened.extend(written[which] if move == "commit" else [])
                written[which].clear()
                getattr(sessions[which], move)()
        for each in sessions:
            each.rollback()
        while dispatch_storage.dispatch(one, 3).events:
            one.commit()
        assert observed.dispatched(one) == sorted((event, hook) for event in happened for hook in hooks)
        assert observed.undispatched(one) == []


def test_two_runs_at_once_dispatch_what_several_applications_write_once_while_webhooks_come_and_go(
    many: sa.Engine, office: Workspace, hook: int, pool: ThreadPoolExecutor
) -> None:
    with many.begin() as connection:
        connection.execute(sa.update(tables.webhooks).values(created_at=NOON))
    over, begin = threading.Event(), threading.Barrier(5, timeout=60)

    def application(seed: int) -> list[int]:
        luck, events = Random(seed), list[int]()  # noqa: S311 - no secret
        begin.wait()
        for _ in range(60):
            with many.connect() as connection:
                written = office.events(connection, luck.randint(1, 5))
                if luck.random() < 0.2:
                    connection.rollback()
                else:
                    connection.commit()
                    events += written
        return events

    def administrator() -> int:
        begin.wait()
        rounds = 0
        while not over.is_set():
            with many.begin() as connection:
                other = office.webhook(connection)
            with many.begin() as connection:
                connection.execute(sa.delete(tables.webhooks).where(tables.webhooks.c.id == other))
            rounds += 1
        return rounds

    def job() -> int:
        begin.wait()
        events = 0
        while not over.is_set():
            events += dispatch(many, batch_size=7).events
        return events

    administrating = pool.submit(administrator)
    jobs = [pool.submit(job) for _ in range(2)]
    applications = [pool.submit(application, seed) for seed in range(2)]
    events = sorted(event for each in applications for event in each.result(timeout=60))
    over.set()
    done = sum(each.result(timeout=60) for each in jobs) + dispatch(many).events

    assert administrating.result(timeout=60) > 0
    assert done == len(events)
    with many.connect() as connection:
        assert observed.undispatched(connection) == []
        assert observed.dispatched(connection) == [(event, hook) for event in events]


def test_whoever_judges_disables_or_rotates_waits_for_no_dispatch_and_no_dispatch_waits_for_them(
    engine: sa.Engine, other_engine: sa.Engine, office: Workspace, hook: int
) -> None:
    changes: list[Do] = [
        lambda connection: endpoint_storage.judge(connection, [Result(hook, ok=False, gone=False, ended_at=NOON)]),
        lambda connection: rotate_secret(connection, SECRET_KEY, hook),
        lambda connection: disable_webhook(connection, hook, "enough"),
    ]
    for change in changes:
        with engine.begin() as connection:
            office.event(connection)
        for first_dispatches in (True, False):
            with engine.connect() as one, other_engine.connect() as other:
                impatient(other)
                both: list[Do] = [lambda c: dispatch_storage.dispatch(c, 100), change]
                for session, do in zip((one, other), both if first_dispatches else both[::-1], strict=True):
                    do(session)
                one.rollback()
                other.rollback()


# Claiming


def at_once(many: sa.Engine, pool: ThreadPoolExecutor, *do: Do) -> list[Any]:
    """What each of several sessions got that did these at the same moment, each in a transaction."""
    begin = threading.Barrier(len(do), timeout=60)

    def session(do: Do) -> Any:
        with many.connect() as connection:
            connection.execute(sa.text("SELECT 1"))
            connection.rollback()
            begin.wait()
            with connection.begin():
                return do(connection)

    return [each.result(timeout=60) for each in [pool.submit(session, each) for each in do]]


def rescue(connection: sa.Connection) -> int:
    return claim_storage.rescue(connection, uuid.uuid4())


def claim(connection: sa.Connection, **options: int) -> list[int]:
    given = {"after": 0, "most": 1_000, "per_endpoint": 1_000} | options
    return [each.id for each in claim_storage.claim_due(connection, uuid.uuid4(), None, **given)]


def test_many_claimers_never_share_a_delivery_and_leave_none(
    many: sa.Engine, office: Workspace, pool: ThreadPoolExecutor
) -> None:
    with many.begin() as connection:
        ids = [each for _ in range(5) for each in deliveries(connection, office.webhook(connection), 100)]
    got = list[int]()
    while len(got) < len(ids):
        more = [each for claimed in at_once(many, pool, *CLAIMERS * [lambda c: claim(c, most=17)]) for each in claimed]
        assert more
        got += more

    assert sorted(got) == ids


def test_named_deliveries_are_claimed_by_one_of_many(many: sa.Engine, hook: int, pool: ThreadPoolExecutor) -> None:
    for _ in range(10):
        with many.begin() as connection:
            ids = deliveries(connection, hook, 20)

        def claim_these(connection: sa.Connection, ids: list[int] = ids) -> list[int]:
            return [each.id for each in claim_storage.claim_these(connection, uuid.uuid4(), ids)]

        claimed = at_once(many, pool, *CLAIMERS * [claim_these])

        assert sorted(each for some in claimed for each in some) == ids


def test_of_an_endpoint_claimers_at_the_same_moment_have_no_more_at_work_together_than_one_may_have(
    many: sa.Engine, office: Workspace, pool: ThreadPoolExecutor
) -> None:
    with many.begin() as connection:
        hooks = [office.webhook(connection) for _ in range(3)]
        for each in hooks:
            deliveries(connection, each, 50)
    for _ in range(15):
        at_once(many, pool, *CLAIMERS * [lambda connection: claim(connection, per_endpoint=3)])
        with many.begin() as connection:
            busy = [row["webhook_id"] for row in observed.deliveries(connection) if row["state"] == "in_progress"]
            assert Counter(busy) == dict.fromkeys(hooks, 3)
            back = {"state": "pending", "claim": None, "claimed_until": None}
            connection.execute(sa.update(tables.webhook_deliveries).values(back))


def test_an_open_endpoint_gets_one_probe_of_claimers_at_the_same_moment(
    many: sa.Engine, hook: int, pool: ThreadPoolExecutor
) -> None:
    with many.begin() as connection:
        deliveries(connection, hook, 20)
        five = {"consecutive_failures": 5, "first_failure_at": NOON, "trips": 1, "open_until": sa.func.now()}
        connection.execute(sa.update(tables.webhooks).values(five))
    for _ in range(10):
        assert sorted(map(len, at_once(many, pool, *CLAIMERS * [claim]))) == [0, 0, 0, 1]
        with many.begin() as connection:
            back = {"state": "pending", "claim": None, "claimed_until": None}
            connection.execute(sa.update(tables.webhook_deliveries).values(back))


def test_what_died_is_rescued_by_one_of_many(many: sa.Engine, hook: int, pool: ThreadPoolExecutor) -> None:
    with many.begin() as connection:
        ids = deliveries(connection, hook, 100)
        claim_storage.claim_these(connection, uuid.uuid4(), ids)

    rescued = at_once(many, pool, *CLAIMERS * [rescue])

    with many.connect() as connection:
        assert sum(rescued) == 100
        assert {(row["state"], row["attempts"]) for row in observed.deliveries(connection)} == {("pending", 1)}


# Recording


def test_who_records_at_the_same_moment_as_somebody_rescues_has_recorded_it_or_has_lost_it(
    many: sa.Engine, hook: int, pool: ThreadPoolExecutor
) -> None:
    mine = uuid.uuid4()
    for _ in range(15):
        with many.begin() as connection:
            (delivery_id,) = deliveries(connection, hook, 1)
            claim_storage.claim_these(connection, mine, [delivery_id])
            connection.execute(sa.update(tables.webhook_deliveries).values(claimed_until=sa.func.now()))
        ends = [(Settlement(delivery_id, "completed"), Answer(Code.OK, NOON, 0))]

        def settle(connection: sa.Connection, ends: Any = ends) -> int:
            return len(delivery_storage.settle(connection, mine, ends))

        recorded, rescued = at_once(many, pool, settle, rescue)

        with many.begin() as connection:
            state = observed.delivery(connection, delivery_id)["state"]
            logged = len(observed.attempts(connection, delivery_id))
            assert (recorded, rescued, state, logged) in {(1, 0, "completed", 1), (0, 1, "pending", 0)}
            connection.execute(sa.delete(tables.webhook_deliveries))


def test_a_run_does_not_wait_for_an_endpoint_that_somebody_is_changing_and_judges_all_others(
    engine: sa.Engine, other_engine: sa.Engine, office: Workspace, hook: int
) -> None:
    with engine.begin() as connection:
        other = office.webhook(connection)
    gone = [Result(each, ok=False, gone=True, ended_at=NOON) for each in (hook, other)]
    with other_engine.connect() as somebody, engine.begin() as connection:
        disable_webhook(somebody, hook, "by hand")
        impatient(connection)

        assert [verdict.id for verdict in endpoint_storage.judge(connection, gone)] == [other]

        somebody.commit()
    with engine.connect() as connection:
        assert observed.webhook(connection, hook)["disabled_reason"] == "by hand"


def test_two_runs_that_compose_the_same_event_send_the_same_bytes(
    engine: sa.Engine, other_engine: sa.Engine, office: Workspace, pool: ThreadPoolExecutor
) -> None:
    for first_commits in (True, False):
        with engine.begin() as connection:
            asked = [(office.event(connection), format_) for format_ in ("slack", "json")]

        def second(asked: list[tuple[int, str]] = asked) -> Any:
            with other_engine.begin() as connection:
                return read_payloads(connection, asked[::-1], lambda *_: b"the second")

        with engine.connect() as one:
            read_payloads(one, asked, lambda *_: b"the first")
            sent = pool.submit(second)
            until(lambda: waiting(engine) == 1)
            (one.commit if first_commits else one.rollback)()

        assert sent.result(timeout=60) == dict.fromkeys(asked, b"the first" if first_commits else b"the second")
        with engine.connect() as connection:
            assert sent.result().items() <= observed.payloads(connection).items()


# Everybody at once


def test_everybody_at_once_delivers_each_event_to_each_endpoint_and_no_endpoint_is_overrun(
    many: sa.Engine, office: Workspace, receiver: Receiver, pool: ThreadPoolExecutor
) -> None:
    """Two that dispatch, two that deliver, two that write, and endpoints of which one fails each first attempt."""
    paths = ["/0", "/1", "/2"]
    with many.begin() as connection:
        hooks = {office.webhook(connection, url=receiver.url(path)): path for path in paths}
    over = threading.Event()

    def write(seed: int) -> list[int]:
        luck, events = Random(seed), list[int]()  # noqa: S311 - no secret
        while len(events) < 60:
            with many.begin() as connection:
                events += office.events(connection, luck.randint(1, 5))
        return events

    def until_over(do: Callable[[], object]) -> None:
        while not over.is_set():
            do()

    jobs = [
        pool.submit(until_over, do)
        for do in 2 * [lambda: dispatch(many, batch_size=5), lambda: deliver(many, in_flight=10, per_endpoint=3)]
    ]
    events = {event for each in [pool.submit(write, seed) for seed in range(2)] for event in each.result(timeout=60)}
    until(lambda: len(receiver.received()) >= len(events) * len(hooks))
    over.set()
    for job in jobs:
        job.result(timeout=60)

    with many.connect() as connection:
        rows = observed.deliveries(connection)
        assert sorted((row["event_id"], row["webhook_id"]) for row in rows) == sorted(
            (event, hook) for event in events for hook in hooks
        )
        assert {(row["state"], row["attempts"]) for row in rows} == {("completed", 1)}
        assert len(observed.attempts(connection)) == len(rows)
    assert Counter((each.path, each.id) for each in receiver.received()) == Counter(
        (hooks[row["webhook_id"]], f"msg_{row['id']}") for row in rows
    )
    assert max(receiver.most_at_work.values()) <= 3


@pytest.mark.parametrize("who", ["a person", "a clean-up"])
def test_deliveries_that_are_deleted_while_a_run_claims_and_records_them_harm_no_other(
    many: sa.Engine, office: Workspace, receiver: Receiver, pool: ThreadPoolExecutor, who: str
) -> None:
    with many.begin() as connection:
        kept, gone = (office.webhook(connection, url=receiver.url(path)) for path in ("/kept", "/gone"))
        for hook in (kept, gone):
            deliveries(connection, hook, 100)
    run = pool.submit(deliver, many, in_flight=5, per_endpoint=5)
    until(lambda: len(receiver.received("/gone")) > 5)
    with many.begin() as connection:
        if who == "a person":
            connection.execute(sa.delete(tables.webhooks).where(tables.webhooks.c.id == gone))
        else:
            old = sa.update(tables.webhook_deliveries).where(tables.webhook_deliveries.c.webhook_id == gone)
            connection.execute(old.values(created_at=NOON - make.DAY))
            connection.execute(
                sa.delete(tables.webhook_deliveries).where(tables.webhook_deliveries.c.created_at < NOON)
            )
    report = run.result(timeout=60)

    assert len(receiver.received("/kept")) == 100
    assert report.completed >= 100
    with many.connect() as connection:
        assert {row["state"] for row in observed.deliveries(connection, kept)} == {"completed"}
        assert observed.deliveries(connection, gone) == []
