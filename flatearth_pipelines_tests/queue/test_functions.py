"""The Python twins of the SQL functions: payloads are checked, and refusals are errors in one line."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from flatearth_pipelines.errors import FlatEarthError, LimitReached, NotFound, WrongUsage
from flatearth_pipelines.queue import functions, storage
from flatearth_pipelines.queue.backoff import Exponential, Fixed, Listed, backoff_to_json
from flatearth_pipelines.queue.storage import read_job
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.factories import NOON
from flatearth_pipelines_tests.queue.conftest import (
    MINUTE,
    REGISTRY,
    UNKNOWN,
    claim,
    enqueue,
    finished_job,
    open_lease,
)

HOUR = 60 * MINUTE
BEYOND_BIGINT = 2**63


def put(connection: sa.Connection, handler: str = "noop", payload: Any = None, **options: Any) -> int:
    """A job, by Python."""
    return functions.enqueue_job(connection, REGISTRY, handler, payload, **options)


def put_bulk(connection: sa.Connection, *jobs: dict[str, Any]) -> list[int]:
    return functions.enqueue_jobs(connection, REGISTRY, jobs)


def put_either_way(connection: sa.Connection, *, bulk: bool, **job: Any) -> None:
    """A job, by the single or, after a good one, by the bulk call."""
    if bulk:
        put_bulk(connection, {"handler": "noop"}, {"handler": "noop"} | job)
    else:
        put(connection, **job)


def ids(rows: list[dict[str, Any]]) -> list[int]:
    return [row["id"] for row in rows]


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
    functions.set_job_limit(connection, account_id, 0)
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
        functions.set_job_limit(connection, account_id, per_minute)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "ask",
    [storage.read_job, functions.cancel_job, functions.retry_job, functions.delete_job],
    ids=lambda ask: ask.__name__,
)
@pytest.mark.parametrize("job_id", [UNKNOWN, -1, 2**31, BEYOND_BIGINT - 1, BEYOND_BIGINT])
def test_an_id_that_no_job_has_is_an_error_in_one_line(
    connection: sa.Connection, ask: Callable[[sa.Connection, int], object], job_id: int
) -> None:
    errors = (NotFound, WrongUsage) if job_id == BEYOND_BIGINT else NotFound
    with pytest.raises(errors) as refused, connection.begin_nested():
        ask(connection, job_id)
    assert "\n" not in str(refused.value)
