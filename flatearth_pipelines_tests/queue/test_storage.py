"""The Python twins of the SQL functions, and what a person asks of the queue."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from flatearth_pipelines.errors import FlatEarthError, LimitReached, NotFound, WrongUsage
from flatearth_pipelines.queue import storage
from flatearth_pipelines.queue.backoff import Exponential, Fixed, Listed, backoff_to_json
from flatearth_pipelines.queue.storage import read_job
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.factories import DAY, NOON
from flatearth_pipelines_tests.queue.conftest import (
    MINUTE,
    REGISTRY,
    UNKNOWN,
    claim,
    dead_job,
    enqueue,
    finished_job,
    in_background,
    open_lease,
    wait_until_blocked,
)

HOUR = 60 * MINUTE
BEYOND_BIGINT = 2**63


def put(connection: sa.Connection, handler: str = "noop", payload: Any = None, **options: Any) -> int:
    """A job, by Python."""
    return storage.enqueue_job(connection, REGISTRY, handler, payload, **options)


def put_bulk(connection: sa.Connection, *jobs: dict[str, Any]) -> list[int]:
    return storage.enqueue_jobs(connection, REGISTRY, jobs)


def put_either_way(connection: sa.Connection, *, bulk: bool, **job: Any) -> None:
    """A job, by the single or, after a good one, by the bulk call."""
    if bulk:
        put_bulk(connection, {"handler": "noop"}, {"handler": "noop"} | job)
    else:
        put(connection, **job)


def ids(rows: list[dict[str, Any]]) -> list[int]:
    return [row["id"] for row in rows]


# --------------------------------------------------------------------------------------------------------- enqueueing


def test_the_twin_enqueues_what_the_sql_function_does(connection: sa.Connection) -> None:
    account_id = make.account(connection)
    options: dict[str, Any] = {
        "run_at": NOON,
        "priority": 3,
        "concurrency_key": "c",
        "max_attempts": 2,
        "timeout": MINUTE,
        "account_id": account_id,
        "origin": "cron",
        "cron_job_id": 5,
    }
    by_python = put(connection, "greet", {"name": "Ada"}, job_key="a", backoff=Fixed(30 * MINUTE), **options)
    backoff = {"kind": "fixed", "seconds": 1800}
    by_sql = enqueue(connection, "greet", {"name": "Ada"}, job_key="a", on_conflict="keep")
    assert by_sql == by_python
    by_sql = enqueue(connection, "greet", {"name": "Ada"}, job_key="b", backoff=backoff, **options)
    assert read_job(connection, by_python) == read_job(connection, by_sql) | {"id": by_python, "job_key": "a"}


def test_the_twin_without_options_enqueues_with_the_defaults_of_the_sql_function(connection: sa.Connection) -> None:
    by_sql = enqueue(connection)
    for job_id in (put(connection), put(connection, payload={}), *put_bulk(connection, {"handler": "noop"})):
        assert read_job(connection, job_id) == read_job(connection, by_sql) | {"id": job_id}


@pytest.mark.parametrize(
    "backoff", [Exponential(), Exponential(MINUTE, MINUTE), Fixed(timedelta(0)), Listed((MINUTE, HOUR))], ids=str
)
def test_the_twin_takes_every_kind_of_backoff(connection: sa.Connection, backoff: Exponential | Fixed | Listed) -> None:
    stored = read_job(connection, put(connection, backoff=backoff))["backoff"]
    assert stored is not None
    assert backoff_to_json(backoff) == stored


@pytest.mark.parametrize("on_conflict", ["keep", "replace", "supersede"])
def test_the_twin_knows_the_rules_of_keys_and_windows(connection: sa.Connection, on_conflict: str) -> None:
    first = put(connection, job_key="k")
    second = put(connection, job_key="k", on_conflict=on_conflict, delay=MINUTE)
    assert (second == first) is (on_conflict != "supersede")
    old = finished_job(connection, job_key="over")
    assert put(connection, job_key="over", window_seconds=60) == old


def test_a_heavy_handler_s_jobs_ask_for_a_run_of_their_own(connection: sa.Connection) -> None:
    light, heavy = put(connection), put(connection, "heavy")
    (heavy_too,) = put_bulk(connection, {"handler": "heavy"})
    lease_id = open_lease(connection)
    assert claim(connection, lease_id) == [light]
    assert claim(connection, lease_id, own_run=True) == [heavy, heavy_too]


def test_a_bulk_call_returns_the_ids_in_order_and_checks_each_payload(connection: sa.Connection) -> None:
    jobs = [{"handler": "greet", "payload": {"name": f"Person {n}"}} for n in range(1_000)]
    assert [read_job(connection, job_id)["payload"] for job_id in put_bulk(connection, *jobs)[::100]] == [
        job["payload"] for job in jobs[::100]
    ]


@pytest.mark.parametrize("bulk", [False, True])
def test_an_unknown_handler_is_refused_with_those_that_there_are(connection: sa.Connection, *, bulk: bool) -> None:
    with pytest.raises(NotFound, match="There is no handler 'shout': there are greet, heavy, noop"):
        put_either_way(connection, bulk=bulk, handler="shout")
    assert storage.read_jobs(connection) == []


@pytest.mark.parametrize("bulk", [False, True])
@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ({}, "name: Field required"),
        ({"name": 7}, "name: Input should be a valid string"),
        ({"name": None}, "name: Input should be a valid string"),
        ({"name": "Ada", "age": 36}, "age: Extra inputs are not permitted"),
        (None, "name: Field required"),
        (["name"], "payload: Input should be a valid dictionary"),
        ("Ada", "payload: Input should be a valid dictionary"),
    ],
    ids=str,
)
def test_a_payload_that_is_not_the_handler_s_is_refused_and_says_which_field(
    connection: sa.Connection, payload: Any, said: str, *, bulk: bool
) -> None:
    with pytest.raises(WrongUsage, match=f"The payload of greet is not valid: {said}"):
        put_either_way(connection, bulk=bulk, handler="greet", payload=payload)
    assert storage.read_jobs(connection) == []


@pytest.mark.parametrize("bulk", [False, True])
@pytest.mark.parametrize("payload", [[], "", 0, False], ids=repr)
def test_an_empty_value_that_is_no_object_is_no_payload_either(
    connection: sa.Connection, payload: Any, *, bulk: bool
) -> None:
    with pytest.raises(WrongUsage, match="The payload of noop is not valid"):
        put_either_way(connection, bulk=bulk, payload=payload)


def test_a_refusal_does_not_repeat_the_value_which_may_be_a_secret(connection: sa.Connection) -> None:
    with pytest.raises(WrongUsage) as refused:
        put(connection, "greet", {"name": ["hunter2"], "password": "hunter3"})
    assert "hunter" not in str(refused.value)


# ---------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "options",
    [
        {"run_at": NOON, "delay": MINUTE},
        {"run_at": NOON.replace(year=9999)},
        {"delay": -MINUTE},
        {"delay": timedelta.max},
        {"max_attempts": 0},
        {"max_attempts": 26},
        {"max_attempts": 2**31},
        {"priority": 2**31},
        {"priority": -(2**31) - 1},
        {"window_seconds": 60},
        {"window_seconds": 2**31, "job_key": "k"},
        {"on_conflict": "merge"},
        {"job_key": ""},
        {"job_key": "a\0b"},
        {"job_key": "\ud800"},
        {"concurrency_key": "k" * 501},
        {"concurrency_key": "a\0b"},
        {"timeout": timedelta(0)},
        {"timeout": timedelta(days=25)},
        {"timeout": timedelta.max},
        {"backoff": Fixed(-MINUTE)},
        {"backoff": Exponential(timedelta(0))},
        {"backoff": Listed(())},
        {"backoff": Listed((timedelta.max,))},
        {"account_id": BEYOND_BIGINT},
    ],
    ids=repr,
)
def test_a_bad_option_is_wrong_usage_in_one_line(connection: sa.Connection, options: dict[str, Any]) -> None:
    with pytest.raises(WrongUsage) as refused, connection.begin_nested():
        put(connection, **options)
    assert "\n" not in str(refused.value)
    assert storage.read_jobs(connection) == []


@pytest.mark.parametrize(
    "bad",
    [
        {"run_at": "teatime"},
        {"run_at": "2026-13-45"},
        {"run_at": "infinity"},
        {"delay": "a while"},
        {"delay": "400000 years"},
        {"delay": "-1 second"},
        {"timeout": "soon"},
        {"priority": "high"},
        {"priority": 2**31},
        {"max_attempts": 26},
        {"account_id": "Acme"},
        {"backoff": {"kind": "never"}},
        {"job_key": "a\0b"},
        {"colour": "red"},
        {"window_seconds": 5},
    ],
    ids=repr,
)
def test_a_bad_option_of_a_bulk_call_is_wrong_usage_in_one_line_and_none_is_enqueued(
    connection: sa.Connection, bad: dict[str, Any]
) -> None:
    with pytest.raises(WrongUsage) as refused, connection.begin_nested():
        put_bulk(connection, {"handler": "noop"}, {"handler": "noop"} | bad)
    assert "\n" not in str(refused.value)
    assert storage.read_jobs(connection) == []


@pytest.mark.parametrize("count", [0, 1_001])
def test_a_bulk_call_takes_one_to_a_thousand_jobs(connection: sa.Connection, count: int) -> None:
    with pytest.raises(WrongUsage, match="1 to 1,000"), connection.begin_nested():
        put_bulk(connection, *[{"handler": "noop"}] * count)


def test_a_text_with_nul_in_a_payload_is_wrong_usage(connection: sa.Connection) -> None:
    with pytest.raises(WrongUsage), connection.begin_nested():
        put(connection, "greet", {"name": "a\0b"})


def test_nine_megabytes_of_payload_are_wrong_usage(connection: sa.Connection) -> None:
    with pytest.raises(WrongUsage, match="8 MB is the most"), connection.begin_nested():
        put(connection, "greet", {"name": "x" * 9_000_000})


def test_an_unknown_account_is_not_found(connection: sa.Connection) -> None:
    for bulk in (False, True):
        with pytest.raises(NotFound), connection.begin_nested():
            put_either_way(connection, bulk=bulk, account_id=UNKNOWN)


def test_beyond_its_limit_an_account_is_told_so(connection: sa.Connection) -> None:
    account_id = make.account(connection)
    storage.set_job_limit(connection, account_id, 0)
    for bulk in (False, True):
        with pytest.raises(LimitReached, match=f"account {account_id} may enqueue 0 jobs"), connection.begin_nested():
            put_either_way(connection, bulk=bulk, account_id=account_id)


@pytest.mark.parametrize(
    ("account", "per_minute", "error"),
    [("unknown", 5, NotFound), ("known", -1, WrongUsage), ("known", 2**31, WrongUsage)],
)
def test_a_limit_that_cannot_be_set_is_said_in_one_line(
    connection: sa.Connection, account: str, per_minute: int, error: type[FlatEarthError]
) -> None:
    account_id = UNKNOWN if account == "unknown" else make.account(connection)
    with pytest.raises(error) as refused, connection.begin_nested():
        storage.set_job_limit(connection, account_id, per_minute)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "ask", [storage.read_job, storage.cancel_job, storage.retry_job, storage.delete_job], ids=lambda ask: ask.__name__
)
@pytest.mark.parametrize("job_id", [UNKNOWN, -1, 2**31, BEYOND_BIGINT - 1, BEYOND_BIGINT])
def test_an_id_that_no_job_has_is_an_error_in_one_line(
    connection: sa.Connection, ask: Callable[[sa.Connection, int], object], job_id: int
) -> None:
    errors = (NotFound, WrongUsage) if job_id == BEYOND_BIGINT else NotFound
    with pytest.raises(errors) as refused, connection.begin_nested():
        ask(connection, job_id)
    assert "\n" not in str(refused.value)


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
    put_bulk(connection, *[{"handler": "noop"}] * 60)
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
    storage.cancel_job(connection, cancelled)
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
    storage.retry_job(connection, job_id)
    assert tell(connection) == []
    storage.delete_job(connection, job_id)
    dead = dead_job(connection)
    assert [alert.first_ids for alert in tell(connection)] == [[dead]]


def test_taking_the_alert_of_a_handler_whose_job_was_retried_meanwhile_does_not_silence_the_next_one(
    connection: sa.Connection,
) -> None:
    job_id = dead_job(connection)
    assert storage.handlers_to_tell_of(connection) == ["noop"]
    storage.retry_job(connection, job_id)
    assert storage.take_alert(connection, "noop") is None
    storage.delete_job(connection, job_id)
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
