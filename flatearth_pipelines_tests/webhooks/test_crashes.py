"""Runs as processes, killed: an event has one delivery for each endpoint all the same, and each delivery arrives at
least once, every time with the same id and the same bytes."""

import signal
import subprocess
from collections import Counter
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from flatearth_pipelines import tables
from flatearth_pipelines_tests.processes import ended, job_execute, until
from flatearth_pipelines_tests.webhooks import observed
from flatearth_pipelines_tests.webhooks.doomed import APPLICATION, doomed
from flatearth_pipelines_tests.webhooks.receiver import ALLOWED, Receiver
from flatearth_pipelines_tests.webhooks.runs import deliver, dispatch
from flatearth_pipelines_tests.webhooks.workspace import Workspace, deliveries

EVENTS = 5_000
BATCH_SIZE = 20
DELIVERIES = 1_000
IN_FLIGHT = 20
AHEAD = 5
"""Times as many are claimed as are sent at once."""


@pytest.fixture(autouse=True)
def environment(secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert secret
    monkeypatch.setenv("FLATEARTH_WEBHOOK_ALLOW_NETWORKS", ALLOWED)


def sessions(conninfo: str, application: str) -> int:
    """How many runs named so have in this database."""
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE %s || '%%'"
    )
    with psycopg.connect(conninfo) as connection:
        (count,) = connection.execute(query, [application]).fetchone() or (0,)
        return int(count)


# Dispatching


def test_a_dispatch_that_is_killed_at_any_step_leaves_whole_transactions_and_the_next_one_does_the_rest_once(
    engine: sa.Engine, database: str, office: Workspace
) -> None:
    with engine.begin() as connection:
        hooks = [office.webhook(connection) for _ in range(2)]
    left = list[int]()
    step, killed = 0, True
    with doomed("dispatch") as dispatch_until:
        while killed:
            step += 1
            with engine.begin() as connection:
                connection.execute(sa.delete(tables.webhook_deliveries))
                events = office.events(connection, 3)

            killed = dispatch_until(step)
            until(lambda: sessions(database, APPLICATION) == 0)

            with engine.connect() as connection:
                waiting = observed.undispatched(connection)
                done = events[: 3 - len(waiting)]
                assert waiting == events[len(done) :]
                assert observed.dispatched(connection) == [(event, hook) for event in done for hook in hooks]
            left.append(len(waiting))
            dispatch(engine)
            with engine.connect() as connection:
                assert observed.dispatched(connection) == [(event, hook) for event in events for hook in hooks]

    assert left == sorted(left, reverse=True)
    assert set(left) == {3, 1, 0}, "a batch of two, and one of one"


def test_a_dispatching_job_that_is_killed_leaves_whole_transactions_and_the_next_one_does_the_rest_once(
    engine: sa.Engine, database: str, office: Workspace, tmp_path: Path
) -> None:
    with engine.begin() as connection:
        hooks = [office.webhook(connection) for _ in range(3)]
        events = office.events(connection, EVENTS)

    with dispatch_webhooks(tmp_path, batch_size=BATCH_SIZE) as process:
        until(lambda: written(engine) >= 10 * BATCH_SIZE)
        process.kill()
        exit_code, _ = ended(process)
    until(lambda: sessions(database, "flatearth dispatch_webhooks") == 0)

    assert exit_code == -signal.SIGKILL
    with engine.connect() as connection:
        waiting = observed.undispatched(connection)
        assert 0 < len(waiting) < EVENTS
        assert len(waiting) % BATCH_SIZE == 0
        done = events[: EVENTS - len(waiting)]
        assert observed.dispatched(connection) == [(event, hook) for event in done for hook in hooks]

    with dispatch_webhooks(tmp_path) as process:
        exit_code, output = ended(process)

    assert exit_code == 0, output
    with engine.connect() as connection:
        assert observed.undispatched(connection) == []
        assert observed.dispatched(connection) == [(event, hook) for event in events for hook in hooks]


def dispatch_webhooks(tmp_path: Path, **config: Any) -> AbstractContextManager[subprocess.Popen[str]]:
    return job_execute(tmp_path, "dispatch_webhooks", "dispatch_events", config)


def written(engine: sa.Engine) -> int:
    with engine.connect() as connection:
        count = sa.select(sa.func.count()).select_from(tables.webhook_deliveries)
        return int(connection.execute(count).scalar_one())


# Delivering


def test_what_a_run_sends_that_is_killed_at_any_step_arrives_at_least_once_and_always_under_the_same_id(
    engine: sa.Engine, database: str, office: Workspace, receiver: Receiver
) -> None:
    with engine.begin() as connection:
        office.webhook(connection, url=receiver.url())
    times = Counter[int]()
    step, killed = 0, True
    with doomed("deliver") as deliver_until:
        while killed:
            step += 1
            with engine.begin() as connection:
                event = office.event(connection)
            dispatch(engine)
            before = len(receiver.received())

            killed = deliver_until(step)
            until(lambda: sessions(database, APPLICATION) == 0)
            deliver(engine)

            arrived = receiver.received()[before:]
            with engine.connect() as connection:
                delivery = observed.deliveries(connection)[-1]
            assert (delivery["event_id"], delivery["state"]) == (event, "completed")
            assert {each.id for each in arrived} == {f"msg_{delivery['id']}"}
            assert len({each.body for each in arrived}) == 1
            times[len(arrived)] += 1

    assert set(times) == {1, 2}, "killed between the answer and its record"


@pytest.fixture
def backlog(engine: sa.Engine, office: Workspace, receiver: Receiver) -> set[str]:
    """A thousand deliveries to twenty endpoints of the receiver, which takes its time; their ids."""
    receiver.seconds = 0.01
    with engine.begin() as connection:
        hooks = [office.webhook(connection, url=receiver.url(f"/{number}")) for number in range(20)]
        ids = [each for hook in hooks for each in deliveries(connection, hook, DELIVERIES // len(hooks))]
    return {f"msg_{each}" for each in ids}


def deliver_webhooks(tmp_path: Path) -> AbstractContextManager[subprocess.Popen[str]]:
    config = {"in_flight": IN_FLIGHT, "per_endpoint": 5}
    return job_execute(tmp_path, "deliver_webhooks", "send_due_webhooks", config)


def states(engine: sa.Engine) -> set[str]:
    with engine.connect() as connection:
        return set(observed.states(connection).values())


def test_of_a_delivering_job_that_is_killed_the_next_one_sends_the_rest_and_little_twice_with_the_same_id(
    engine: sa.Engine, receiver: Receiver, backlog: set[str], tmp_path: Path
) -> None:
    with deliver_webhooks(tmp_path) as process:
        until(lambda: len(receiver.received()) >= 150)
        process.kill()
        exit_code, _ = ended(process)
    assert exit_code == -signal.SIGKILL
    assert len(receiver.received()) < DELIVERIES

    with deliver_webhooks(tmp_path) as process:
        exit_code, output = ended(process)

    assert exit_code == 0, output
    assert states(engine) == {"completed"}
    times = Counter(each.id for each in receiver.received())
    assert times.keys() == backlog
    assert max(times.values()) <= 2
    assert len(receiver.received()) - DELIVERIES <= AHEAD * IN_FLIGHT, "no more than what a run holds"
    assert len({(each.id, each.body) for each in receiver.received()}) == DELIVERIES


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_delivering_job_that_is_cancelled_hands_back_what_was_not_sent_and_nothing_is_sent_twice(
    engine: sa.Engine, receiver: Receiver, backlog: set[str], tmp_path: Path, sign: signal.Signals
) -> None:
    with deliver_webhooks(tmp_path) as process:
        until(lambda: len(receiver.received()) >= 150)
        process.send_signal(sign)
        exit_code, output = ended(process)
    assert exit_code != 0, output
    with engine.connect() as connection:
        ends = Counter((row["state"], row["attempts"]) for row in observed.deliveries(connection))
    sent = len(receiver.received())
    assert ends == {("completed", 1): sent, ("pending", 0): DELIVERIES - sent}

    with deliver_webhooks(tmp_path) as process:
        exit_code, output = ended(process)

    assert exit_code == 0, output
    assert states(engine) == {"completed"}
    assert Counter(each.id for each in receiver.received()) == dict.fromkeys(backlog, 1)


def test_two_delivering_jobs_at_once_are_harmless(
    engine: sa.Engine, receiver: Receiver, backlog: set[str], tmp_path: Path
) -> None:
    """The second one says who is at work, or finds nothing more to do."""
    with deliver_webhooks(tmp_path) as one, deliver_webhooks(tmp_path) as other:
        both = [ended(one), ended(other)]

    assert [exit_code for exit_code, _ in both] == [0, 0]
    assert states(engine) == {"completed"}
    assert Counter(each.id for each in receiver.received()) == dict.fromkeys(backlog, 1)
