"""What a person asks of the queue, whom somebody has to tell, and what a drain has to know."""

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from flatearth_pipelines.queue import functions, storage
from flatearth_pipelines.queue.storage import read_job
from flatearth_pipelines_tests.factories import DAY, NOON
from flatearth_pipelines_tests.queue.conftest import (
    MINUTE,
    REGISTRY,
    claim,
    dead_job,
    finished_job,
    in_background,
    open_lease,
    wait_until_blocked,
)

HOUR = 60 * MINUTE
BEYOND_BIGINT = 2**63


def put(connection: sa.Connection, handler: str = "noop", payload: Any = None, **options: Any) -> int:
    """A job, by Python."""
    return functions.enqueue_job(connection, REGISTRY, handler, payload, **options)


def ids(rows: list[dict[str, Any]]) -> list[int]:
    return [row["id"] for row in rows]


# -------------------------------------------------------------------------------------------------------- the listing


def test_jobs_are_listed_newest_first_with_limit_and_offset(connection: sa.Connection) -> None:
    newest_first = [put(connection) for _ in range(7)][::-1]
    assert ids(storage.read_jobs(connection)) == newest_first
    assert ids(storage.read_jobs(connection, limit=3)) == newest_first[:3]
    assert ids(storage.read_jobs(connection, limit=3, offset=3)) == newest_first[3:6]
    assert ids(storage.read_jobs(connection, limit=3, offset=6)) == newest_first[6:]
    assert storage.read_jobs(connection, offset=7) == []
    assert storage.read_jobs(connection, limit=0) == []


def test_fifty_jobs_are_listed_unless_more_are_asked_for(connection: sa.Connection) -> None:
    functions.enqueue_jobs(connection, REGISTRY, [{"handler": "noop"}] * 60)
    assert len(storage.read_jobs(connection)) == 50
    assert len(storage.read_jobs(connection, limit=100)) == 60


def test_a_listing_says_what_became_of_each_job(connection: sa.Connection) -> None:
    job_id = dead_job(connection, error="boom")
    job = read_job(connection, job_id)
    (row,) = storage.read_jobs(connection)
    assert row.items() >= {"id": job_id, "handler": "noop", "state": "failed", "last_error": "boom"}.items()
    assert row == {name: job[name] for name in row}


def test_jobs_are_listed_by_state(connection: sa.Connection) -> None:
    succeeded, failed = finished_job(connection), dead_job(connection)
    running = put(connection)
    claim(connection, open_lease(connection))
    cancelled, pending = put(connection), put(connection)
    functions.cancel_job(connection, cancelled)
    by_state = {
        "succeeded": succeeded,
        "failed": failed,
        "running": running,
        "cancelled": cancelled,
        "pending": pending,
    }
    for state, job_id in by_state.items():
        assert ids(storage.read_jobs(connection, states=[state])) == [job_id]
    assert ids(storage.read_jobs(connection, states=["failed", "pending"])) == [pending, failed]
    assert storage.read_jobs(connection, states=["unheard of"]) == []


def test_jobs_are_listed_by_handler_and_by_key_of_either_kind(connection: sa.Connection) -> None:
    ended = finished_job(connection, job_key="other", concurrency_key="k")
    greeting = put(connection, "greet", {"name": "Ada"}, job_key="k")
    keyed = put(connection, concurrency_key="k")
    put(connection, job_key="k2")
    assert ids(storage.read_jobs(connection, handler="greet")) == [greeting]
    assert ids(storage.read_jobs(connection, key="k")) == [keyed, greeting, ended]
    assert ids(storage.read_jobs(connection, key="k", handler="noop", states=["pending"])) == [keyed]


def test_jobs_are_listed_by_when_they_were_created_from_since_to_before_until(connection: sa.Connection) -> None:
    first, second, third = (put(connection) for _ in range(3))
    for job_id, hours in ((first, 0), (second, 1), (third, 2)):
        query = sa.text("UPDATE flatearth.live_jobs SET created_at = :at WHERE id = :id")
        connection.execute(query, {"at": NOON + hours * HOUR, "id": job_id})
    assert ids(storage.read_jobs(connection, since=NOON + HOUR)) == [third, second]
    assert ids(storage.read_jobs(connection, until=NOON + HOUR)) == [first]
    assert ids(storage.read_jobs(connection, since=NOON, until=NOON + 2 * HOUR)) == [second, first]


# ------------------------------------------------------------------------------------------------ statistics and health


def test_statistics_count_the_jobs_of_each_handler_by_state(connection: sa.Connection) -> None:
    early, late = NOON - 400 * DAY, NOON - 300 * DAY
    for run_at in (late, early):
        put(connection, run_at=run_at)
    put(connection, "greet", {"name": "Ada"}, run_at=late)
    dead = dead_job(connection, run_at=early)
    rows = storage.read_statistics(connection)
    end = read_job(connection, dead)["finished_at"]
    assert [tuple(row.values()) for row in rows] == [
        ("greet", "pending", 1, late, None),
        ("noop", "failed", 1, early, end),
        ("noop", "pending", 2, early, None),
    ]
    assert list(rows[0]) == ["handler", "state", "jobs", "oldest_run_at", "newest_end"]


def test_of_an_empty_queue_there_are_no_statistics_and_its_health_is_all_zeros(connection: sa.Connection) -> None:
    assert storage.read_statistics(connection) == []
    assert storage.read_health(connection) == {
        "waiting": 0,
        "scheduled": 0,
        "running": 0,
        "dead": 0,
        "oldest_wait_seconds": 0,
        "finished_per_minute": 0,
    }


def test_health_counts_who_waits_is_scheduled_runs_and_is_dead_and_the_oldest_wait(connection: sa.Connection) -> None:
    for _ in range(4):
        dead_job(connection)
    running = put(connection)
    assert claim(connection, open_lease(connection)) == [running]
    now = connection.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
    for run_at in (now - HOUR, now - MINUTE):
        put(connection, run_at=run_at)
    for _ in range(3):
        put(connection, delay=HOUR)
    health = storage.read_health(connection)
    assert {name: health[name] for name in ("waiting", "scheduled", "running", "dead")} == {
        "waiting": 2,
        "scheduled": 3,
        "running": 1,
        "dead": 4,
    }
    assert 3600 <= health["oldest_wait_seconds"] < 3660


def test_a_queue_of_jobs_for_later_has_no_wait(connection: sa.Connection) -> None:
    put(connection, delay=HOUR)
    assert storage.read_health(connection)["oldest_wait_seconds"] == 0


def test_throughput_is_that_of_the_last_five_minutes(connection: sa.Connection) -> None:
    recent = [finished_job(connection) for _ in range(15)]
    query = sa.text("UPDATE flatearth.finished_jobs SET finished_at = clock_timestamp() - :ago WHERE id = ANY(:ids)")
    connection.execute(query, {"ago": 4 * MINUTE, "ids": recent[:5]})
    connection.execute(query, {"ago": 5 * MINUTE, "ids": recent[5:10]})
    assert storage.read_health(connection)["finished_per_minute"] == 2.0


# --------------------------------------------------------------------------------------------------------------- alerts


def tell(connection: sa.Connection) -> list[storage.Alert]:
    """Of all handlers, as the drain's owner does."""
    alerts = [storage.take_alert(connection, handler) for handler in storage.handlers_to_tell_of(connection)]
    return [alert for alert in alerts if alert is not None]


def told_ago(connection: sa.Connection, ago: timedelta) -> None:
    connection.execute(sa.text("UPDATE flatearth.job_alerts SET alerted_at = clock_timestamp() - :ago"), {"ago": ago})


def test_of_dead_jobs_somebody_is_told_once_for_each_handler(connection: sa.Connection) -> None:
    finished_job(connection)
    dead = [dead_job(connection, error=f"error {n}") for n in range(7)]
    greeting = dead_job(connection, "greet", error="boom")
    assert storage.handlers_to_tell_of(connection) == ["greet", "noop"]
    of_greet, of_noop = tell(connection)
    ends = [read_job(connection, job_id)["finished_at"] for job_id in (greeting, dead[0])]
    assert of_greet == storage.Alert("greet", 1, ends[0], [greeting], "boom")
    assert of_noop == storage.Alert("noop", 7, ends[1], dead[:5], "error 6")
    assert tell(connection) == []


def test_within_the_hour_of_a_handler_s_alert_nobody_is_told_and_afterwards_of_all_that_died_since(
    connection: sa.Connection,
) -> None:
    dead_job(connection)
    assert len(tell(connection)) == 1
    dead = [dead_job(connection), dead_job(connection)]
    told_ago(connection, 59 * MINUTE)
    assert storage.handlers_to_tell_of(connection) == []
    assert storage.take_alert(connection, "noop") is None
    greeting = dead_job(connection, "greet")
    assert [alert.first_ids for alert in tell(connection)] == [[greeting]]
    told_ago(connection, HOUR)
    assert [alert.first_ids for alert in tell(connection)] == [dead]


def test_with_nothing_new_to_tell_of_the_hour_may_pass_in_silence(connection: sa.Connection) -> None:
    dead_job(connection)
    tell(connection)
    told_ago(connection, 2 * HOUR)
    assert tell(connection) == []


def test_a_job_that_is_retried_before_anybody_was_told_is_not_told_of_and_counts_again_when_it_dies_again(
    connection: sa.Connection,
) -> None:
    job_id = dead_job(connection)
    functions.retry_job(connection, job_id)
    assert tell(connection) == []
    functions.delete_job(connection, job_id)
    dead = dead_job(connection)
    assert [alert.first_ids for alert in tell(connection)] == [[dead]]


def test_taking_the_alert_of_a_handler_whose_job_was_retried_meanwhile_does_not_silence_the_next_one(
    connection: sa.Connection,
) -> None:
    job_id = dead_job(connection)
    assert storage.handlers_to_tell_of(connection) == ["noop"]
    functions.retry_job(connection, job_id)
    assert storage.take_alert(connection, "noop") is None
    functions.delete_job(connection, job_id)
    dead = dead_job(connection)
    assert [alert.first_ids for alert in tell(connection)] == [[dead]]


@pytest.mark.parametrize(("first_ends", "second_tells"), [("commit", False), ("rollback", True)])
def test_of_two_who_take_an_alert_at_once_the_second_has_it_only_when_the_first_gives_it_back(
    engine: sa.Engine, other_engine: sa.Engine, first_ends: str, *, second_tells: bool
) -> None:
    with engine.connect() as first:
        dead_job(first)
        first.commit()
        assert storage.take_alert(first, "noop") is not None
        second = in_background(other_engine, lambda connection: storage.take_alert(connection, "noop"))
        wait_until_blocked(engine)
        getattr(first, first_ends)()
        assert (second.result(timeout=20) is not None) is second_tells
        assert tell(first) == []


# ----------------------------------------------------------------------------------------------- what a sensor asks


def test_a_queue_is_being_drained_while_a_lease_was_renewed_within_fifteen_seconds(connection: sa.Connection) -> None:
    assert storage.is_being_drained(connection) is False
    open_lease(connection)
    assert storage.is_being_drained(connection) is True
    for seconds, drained in ((13, True), (15, False)):
        query = sa.text("UPDATE flatearth.job_leases SET renewed_at = clock_timestamp() - :ago")
        connection.execute(query, {"ago": timedelta(seconds=seconds)})
        assert storage.is_being_drained(connection) is drained


def test_batches_and_own_runs_are_due_each_for_themselves(connection: sa.Connection) -> None:
    assert storage.is_due(connection) == (False, False)
    put(connection, delay=MINUTE)
    assert storage.is_due(connection) == (False, False)
    put(connection, "heavy")
    assert storage.is_due(connection) == (False, True)
    put(connection)
    assert storage.is_due(connection) == (True, True)


def test_a_handler_s_transaction_that_ends_its_job_keeps_the_result_and_does_so_once(connection: sa.Connection) -> None:
    with_result, without = put(connection), put(connection)
    lease_id = open_lease(connection)
    claim(connection, lease_id)
    assert storage.finish_job(connection, open_lease(connection), with_result, {"n": 1}) is False
    assert storage.finish_job(connection, lease_id, with_result, {"n": 1}) is True
    assert storage.finish_job(connection, lease_id, without, None) is True
    assert storage.finish_job(connection, lease_id, with_result, {"n": 2}) is False
    results = sa.text("SELECT id, result FROM flatearth.finished_jobs ORDER BY id").columns(result=postgresql.JSONB)
    assert [tuple(row) for row in connection.execute(results)] == [(with_result, {"n": 1}), (without, None)]
