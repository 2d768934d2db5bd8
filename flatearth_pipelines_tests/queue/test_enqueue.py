"""Enqueueing, as an application does it by SQL: options, what is refused and how, and its transaction."""

import json
import random
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import DBAPIError

from flatearth_pipelines.queue.backoff import (
    Backoff,
    Exponential,
    Fixed,
    Listed,
    backoff_from_json,
    backoff_to_json,
    waiting_time,
)
from flatearth_pipelines.queue.storage import read_job
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.factories import DAY, NOON
from flatearth_pipelines_tests.queue.conftest import MINUTE, UNKNOWN, claim, enqueue, open_lease

YEAR = 365 * DAY
A_YEAR_OF_SECONDS = 31_536_000


# ------------------------------------------------------------------------------------------------ what is recorded


def test_a_job_without_options_is_due_at_once_with_the_defaults_of_its_handler(connection: sa.Connection) -> None:
    job = read_job(connection, enqueue(connection))
    now = connection.execute(sa.select(sa.func.now())).scalar_one()
    assert {name: value for name, value in job.items() if name != "id"} == {
        "handler": "noop",
        "state": "pending",
        "attempts": 0,
        "max_attempts": None,
        "last_error": None,
        "account_id": None,
        "priority": 0,
        "run_at": now,
        "created_at": now,
        "started_at": None,
        "finished_at": None,
        "job_key": None,
        "concurrency_key": None,
        "backoff": None,
        "timeout_ms": None,
        "origin": "adhoc",
        "cron_job_id": None,
        "payload": {},
        "result": None,
        "progress": None,
        "progress_line": None,
        "parked": None,
    }


def test_every_option_is_recorded(connection: sa.Connection) -> None:
    account_id = make.account(connection)
    backoff = {"kind": "list", "seconds": [1, 5, 30]}
    job_id = enqueue(
        connection,
        "greet",
        {"name": "Ada"},
        run_at=NOON,
        priority=-7,
        job_key="k",
        concurrency_key="c",
        max_attempts=25,
        backoff=backoff,
        timeout=timedelta(seconds=1.5),
        account_id=account_id,
        origin="cron_trigger",
        cron_job_id=12,
    )
    assert read_job(connection, job_id).items() >= {
        "handler": "greet",
        "payload": {"name": "Ada"},
        "run_at": NOON,
        "priority": -7,
        "job_key": "k",
        "concurrency_key": "c",
        "max_attempts": 25,
        "backoff": backoff,
        "timeout_ms": 1500,
        "account_id": account_id,
        "origin": "cron_trigger",
        "cron_job_id": 12,
    }.items()  # fmt: skip


def test_a_handler_that_nobody_knows_is_accepted_by_sql(connection: sa.Connection) -> None:
    job_id = enqueue(connection, "of a later release")
    assert read_job(connection, job_id)["state"] == "pending"


def test_a_delay_counts_from_the_start_of_the_transaction(connection: sa.Connection) -> None:
    job = read_job(connection, enqueue(connection, delay=90 * MINUTE))
    assert job["run_at"] - job["created_at"] == 90 * MINUTE


@pytest.mark.parametrize(
    "options",
    [{"run_at": datetime(1970, 1, 1, tzinfo=UTC)}, {"run_at": "4713-01-01 BC"}, {"delay": timedelta(0)}, {}],
    ids=["1970", "4713 BC", "no delay", "neither"],
)
def test_a_time_that_is_not_ahead_is_due_at_once(connection: sa.Connection, options: dict[str, Any]) -> None:
    job_id = enqueue(connection, **options)
    assert claim(connection, open_lease(connection)) == [job_id]


def test_a_job_ahead_of_its_time_is_not_claimed(connection: sa.Connection) -> None:
    enqueue(connection, delay=MINUTE)
    assert claim(connection, open_lease(connection)) == []


def test_a_job_of_an_own_run_is_claimed_only_by_such_a_run(connection: sa.Connection) -> None:
    light, heavy = enqueue(connection), enqueue(connection, own_run=True)
    lease_id = open_lease(connection)
    assert claim(connection, lease_id) == [light]
    assert claim(connection, lease_id, own_run=True) == [heavy]


@pytest.mark.parametrize(
    "options",
    [
        {"run_at": "now() + interval '10 years'"},
        {"delay": "interval '10 years'"},
        {"max_attempts": "1"},
        {"timeout": "interval '1 millisecond'"},
        {"timeout": "2147483647 * interval '1 millisecond'"},
        {"priority": "2147483647"},
        {"priority": "-2147483648"},
        {"job_key": "repeat('k', 500)", "window_seconds": "1"},
        {"concurrency_key": "repeat('k', 500)"},
        {"handler": "repeat('h', 100)"},
        {"payload": """jsonb_build_object('a', repeat('x', 8388608 - 100))"""},
        {"backoff": """'{"kind": "fixed", "seconds": 0}'"""},
    ],
    ids=str,
)
def test_the_last_value_that_is_accepted(connection: sa.Connection, options: dict[str, str]) -> None:
    assert enqueue_expression(connection, **options) > 0


# ------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"handler": "null"}, "handler is null"),
        ({"handler": "''"}, "handler is ''"),
        ({"handler": "repeat('h', 101)"}, "1 to 100 characters"),
        ({"payload": "null"}, "payload is null"),
        ({"payload": "'[]'"}, "payload is array"),
        ({"payload": "'\"text\"'"}, "payload is string"),
        ({"payload": "'null'"}, "payload is null"),
        ({"payload": "'7'"}, "payload is number"),
        ({"payload": "jsonb_build_object('a', repeat('x', 9000000))"}, "8 MB is the most"),
        ({"run_at": "now()", "delay": "interval '1 second'"}, "not both"),
        ({"delay": "interval '-1 microsecond'"}, "delay is -00:00:00.000001"),
        ({"run_at": "now() + interval '10 years 1 microsecond'"}, "ten years ahead"),
        ({"run_at": "'infinity'"}, "ten years ahead"),
        ({"run_at": "'-infinity'"}, "ten years ahead"),
        ({"delay": "interval '10 years 1 microsecond'"}, "ten years ahead"),
        ({"max_attempts": "0"}, "max_attempts is 0"),
        ({"max_attempts": "26"}, "max_attempts is 26"),
        ({"max_attempts": "-1"}, "max_attempts is -1"),
        ({"timeout": "interval '0'"}, "a millisecond to 24 days"),
        ({"timeout": "interval '-1 second'"}, "a millisecond to 24 days"),
        ({"timeout": "2147483648 * interval '1 millisecond'"}, "a millisecond to 24 days"),
        ({"priority": "null"}, "priority is null"),
        ({"job_key": "'k'", "on_conflict": "null"}, "on_conflict is null"),
        ({"job_key": "'k'", "on_conflict": "'merge'"}, "on_conflict is 'merge'"),
        ({"on_conflict": "'merge'"}, "on_conflict is 'merge'"),
        ({"window_seconds": "60"}, "a job_key beside it"),
        ({"job_key": "'k'", "window_seconds": "0"}, "positive number"),
        ({"job_key": "'k'", "window_seconds": "-60"}, "positive number"),
        ({"job_key": "''"}, "1 to 500 characters"),
        ({"job_key": "repeat('k', 501)"}, "1 to 500 characters"),
        ({"concurrency_key": "''"}, "1 to 500 characters"),
        ({"concurrency_key": "repeat('k', 501)"}, "1 to 500 characters"),
        # Beyond what Postgres's own types hold, on the way to the check.
        ({"delay": "interval '400000 years'"}, "ten years ahead"),
        ({"delay": "'infinity'"}, "ten years ahead|invalid input syntax"),
        ({"timeout": "'infinity'"}, "a millisecond to 24 days|invalid input syntax"),
        ({"timeout": "interval '170000000 years'"}, "a millisecond to 24 days"),
    ],
    ids=str,
)
def test_a_bad_value_is_refused_with_22023_and_said_in_one_line(
    connection: sa.Connection, options: dict[str, str], said: str
) -> None:
    with pytest.raises(DBAPIError, match=said) as refused, connection.begin_nested():
        enqueue_expression(connection, **options)
    error = postgres_error(refused.value)
    # Before Postgres 17 an interval has no infinity.
    assert error.sqlstate == "22023" or (error.sqlstate == "22007" and "'infinity'" in options.values())
    assert "\n" not in str(error.diag.message_primary)
    assert count_live(connection) == 0


@pytest.mark.parametrize("bulk", [False, True])
def test_an_unknown_account_is_refused_with_p0002_and_named(connection: sa.Connection, *, bulk: bool) -> None:
    known = {"handler": "noop"}
    ask = partial(enqueue_bulk, jobs=[known, known | {"account_id": UNKNOWN}])
    with pytest.raises(DBAPIError) as refused, connection.begin_nested():
        (ask if bulk else partial(enqueue, account_id=UNKNOWN))(connection)
    error = postgres_error(refused.value)
    assert (error.sqlstate, error.diag.message_primary) == ("P0002", f"there is no account {UNKNOWN}")
    assert count_live(connection) == 0


def test_nine_megabytes_of_payload_are_refused_with_a_hint_of_what_to_do(connection: sa.Connection) -> None:
    with pytest.raises(DBAPIError) as refused, connection.begin_nested():
        enqueue(connection, payload={"text": "x" * 9_000_000})
    error = postgres_error(refused.value)
    assert error.sqlstate == "22023"
    assert error.diag.message_hint == "Store it elsewhere, and enqueue where it is."


def test_a_text_that_is_no_json_is_refused_by_postgres(connection: sa.Connection) -> None:
    with pytest.raises(DBAPIError) as refused, connection.begin_nested():
        connection.execute(sa.text("SELECT flatearth.enqueue_job('noop', '{broken')"))
    assert postgres_error(refused.value).sqlstate == "22P02"


# --------------------------------------------------------------------------------------------------------- backoff


@pytest.mark.parametrize(
    "backoff",
    [
        "null",
        "7",
        '"fixed"',
        "[]",
        "{}",
        '{"kind": "never"}',
        '{"kind": ["fixed"], "seconds": 1}',
        '{"kind": "fixed"}',
        '{"kind": "fixed", "seconds": null}',
        '{"kind": "fixed", "seconds": "1"}',
        '{"kind": "fixed", "seconds": "soon"}',
        '{"kind": "fixed", "seconds": true}',
        '{"kind": "fixed", "seconds": [1]}',
        '{"kind": "fixed", "seconds": -0.001}',
        '{"kind": "fixed", "seconds": 31536000.001}',
        '{"kind": "fixed", "seconds": 1e400}',
        '{"kind": "fixed", "seconds": 1, "most": 2}',
        '{"kind": "exponential"}',
        '{"kind": "exponential", "seconds": 0}',
        '{"kind": "exponential", "seconds": 1, "most": null}',
        '{"kind": "exponential", "seconds": 1, "most": 0}',
        '{"kind": "exponential", "seconds": 1, "most": "60"}',
        '{"kind": "exponential", "seconds": 1, "most": 31536001}',
        '{"kind": "exponential", "seconds": 1, "base": 2}',
        '{"kind": "list"}',
        '{"kind": "list", "seconds": 5}',
        '{"kind": "list", "seconds": []}',
        '{"kind": "list", "seconds": [1, -1]}',
        '{"kind": "list", "seconds": [1, null]}',
        '{"kind": "list", "seconds": [1, "5"]}',
        '{"kind": "list", "seconds": [[1]]}',
        '{"kind": "list", "seconds": [31536001]}',
        json.dumps({"kind": "list", "seconds": [1] * 26}),
    ],
)
def test_a_backoff_that_cannot_be_followed_is_refused_with_22023(connection: sa.Connection, backoff: str) -> None:
    with pytest.raises(DBAPIError, match='"exponential", "seconds": 10') as refused, connection.begin_nested():
        enqueue(connection, backoff=backoff)
    assert postgres_error(refused.value).sqlstate == "22023"


def seconds(least: float = 0) -> st.SearchStrategy[timedelta]:
    return st.timedeltas(timedelta(seconds=least), timedelta(seconds=A_YEAR_OF_SECONDS))


BACKOFFS: st.SearchStrategy[Backoff] = st.one_of(
    st.builds(Exponential, seconds(0.001), seconds(0.001)),
    st.builds(Fixed, seconds()),
    st.builds(Listed, st.lists(seconds(), min_size=1, max_size=25).map(tuple)),
)
NUMBERS = st.one_of(
    st.integers(-1, A_YEAR_OF_SECONDS + 1),
    st.sampled_from([0, 0.001, 0.0009, -0.0, A_YEAR_OF_SECONDS, A_YEAR_OF_SECONDS + 0.5, 1e-320, 1e300]),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, st.sampled_from(["1", "", "soon", "fixed"]))
RUBBISH: st.SearchStrategy[Any] = st.one_of(
    SCALARS,
    st.lists(SCALARS, max_size=3),
    st.fixed_dictionaries(
        {},
        optional={
            "kind": st.one_of(st.sampled_from(["exponential", "fixed", "list", "Fixed"]), SCALARS),
            "seconds": st.one_of(SCALARS, st.lists(SCALARS, max_size=27), st.lists(NUMBERS, max_size=27)),
            "most": SCALARS,
            "more": SCALARS,
        },
    ),
)
SHARED_TRANSACTION = settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])


@SHARED_TRANSACTION
@given(backoff=BACKOFFS)
def test_every_backoff_of_the_python_side_is_one_for_postgres_and_comes_back_as_it_was(
    connection: sa.Connection, backoff: Backoff
) -> None:
    stored, accepted = connection.execute(
        sa.text("SELECT j, flatearth.is_backoff(j) FROM CAST(:j AS jsonb) AS j"),
        {"j": json.dumps(backoff_to_json(backoff))},
    ).one()
    assert accepted
    assert backoff_from_json(stored) == backoff


@SHARED_TRANSACTION
@given(value=RUBBISH)
def test_what_postgres_takes_for_a_backoff_python_can_follow_for_a_year_at_most_a_time(
    connection: sa.Connection, value: Any
) -> None:
    stored, accepted = connection.execute(
        sa.text("SELECT j, flatearth.is_backoff(j) FROM CAST(:j AS jsonb) AS j"), {"j": json.dumps(value)}
    ).one()
    assert accepted in {True, False}
    if accepted:
        backoff = backoff_from_json(stored)
        for failures in (1, 2, 25):
            assert timedelta(0) <= waiting_time(backoff, failures, 0.5) <= timedelta(seconds=A_YEAR_OF_SECONDS)


# ------------------------------------------------------------------------------------------------------ many at once


def test_a_bulk_call_returns_the_ids_in_the_order_of_its_elements(connection: sa.Connection) -> None:
    jobs = [{"handler": f"h{n}", "payload": {"n": n}, "priority": random.Random(n).randrange(9)} for n in range(1_000)]  # noqa: S311
    ids = enqueue_bulk(connection, jobs)
    assert len(set(ids)) == 1_000
    query = "SELECT handler, payload, priority FROM flatearth.live_jobs ORDER BY array_position(:ids, id)"
    rows = connection.execute(sa.text(query), {"ids": ids}).mappings()
    assert [dict(row) for row in rows] == jobs


def test_a_bulk_call_with_keys_returns_the_ids_in_the_order_of_its_elements_too(connection: sa.Connection) -> None:
    first, second, same, plain = enqueue_bulk(
        connection,
        [
            {"handler": "noop", "job_key": "b"},
            {"handler": "noop", "job_key": "a"},
            {"handler": "noop", "job_key": "b"},
            {"handler": "noop"},
        ],
    )
    assert same == first
    assert first < second < plain


BULK_OPTIONS: dict[str, Any] = {
    "handler": "greet",
    "payload": {"name": "Ada"},
    "run_at": "2026-11-22T12:00:00Z",
    "priority": 3,
    "concurrency_key": "c",
    "max_attempts": 2,
    "backoff": {"kind": "fixed", "seconds": 30},
    "timeout": "90 seconds",
    "own_run": True,
}


@pytest.mark.parametrize("job_key", [None, "k"])
def test_an_element_of_a_bulk_call_takes_the_options_of_a_single_one(
    connection: sa.Connection, job_key: str | None
) -> None:
    account_id = make.account(connection)
    (job_id,) = enqueue_bulk(connection, [BULK_OPTIONS | {"job_key": job_key, "account_id": account_id}])
    options: dict[str, Any] = BULK_OPTIONS | {"timeout": timedelta(seconds=90), "account_id": account_id}
    single = enqueue(connection, **options)
    columns = (
        "handler, payload, run_at, priority, concurrency_key, max_attempts, backoff, timeout_ms, own_run, account_id"
    )
    query = sa.text(f"SELECT {columns} FROM flatearth.live_jobs WHERE id IN (:one, :other)")
    one, other = connection.execute(query, {"one": job_id, "other": single})
    assert one == other
    assert read_job(connection, job_id)["job_key"] == job_key


@pytest.mark.parametrize("job_key", [None, "k"])
def test_what_an_element_of_a_bulk_call_leaves_out_or_null_is_as_for_a_single_one(
    connection: sa.Connection, job_key: str | None
) -> None:
    single = read_job(connection, enqueue(connection))
    nothing: dict[str, Any] = dict.fromkeys(BULK_OPTIONS, None) | {"on_conflict": None, "delay": None}
    ids = enqueue_bulk(connection, [{"handler": "noop"}, nothing | {"handler": "noop", "job_key": job_key}])
    for job_id in ids:
        assert read_job(connection, job_id) == single | {
            "id": job_id,
            "job_key": job_key if job_id == ids[1] else None,
        }


def test_a_delay_in_a_bulk_call_counts_from_the_start_of_the_transaction(connection: sa.Connection) -> None:
    for job_id in enqueue_bulk(connection, [{"handler": "noop", "delay": "90 minutes"}] * 2):
        job = read_job(connection, job_id)
        assert job["run_at"] - job["created_at"] == 90 * MINUTE


@pytest.mark.parametrize(
    "jobs",
    [None, {}, [], "noop", [{"handler": "noop"}] * 1_001, [1], [[]], [None]],
    ids=["null", "object", "empty", "text", "1,001", "number", "array", "null element"],
)
def test_a_bulk_call_takes_1_to_1000_objects(connection: sa.Connection, jobs: Any) -> None:
    with pytest.raises(DBAPIError) as refused, connection.begin_nested():
        enqueue_bulk(connection, jobs)
    assert postgres_error(refused.value).sqlstate == "22023"
    assert count_live(connection) == 0


def test_nine_megabytes_in_all_are_refused_in_a_bulk_call(connection: sa.Connection) -> None:
    with pytest.raises(DBAPIError, match="8 MB is the most") as refused, connection.begin_nested():
        enqueue_bulk(connection, [{"handler": "noop", "payload": {"text": "x" * 90_000}}] * 100)
    assert postgres_error(refused.value).sqlstate == "22023"


@pytest.mark.parametrize(
    "bad",
    [
        {"handler": None},
        {"handler": ""},
        {"payload": []},
        {"payload": "text"},
        {"run_at": "infinity"},
        {"run_at": "9999-01-01"},
        {"run_at": "2026-11-22", "delay": "1 second"},
        {"delay": "-1 second"},
        {"delay": "11 years"},
        {"max_attempts": 0},
        {"max_attempts": 26},
        {"max_attempts": -1},
        {"timeout": "0"},
        {"backoff": {"kind": "never"}},
        {"backoff": 5},
        {"on_conflict": "merge"},
        {"window_seconds": 60},
        {"job_key": ""},
        {"job_key": "k", "window_seconds": -1},
        {"concurrency_key": ""},
        {"handlr": "noop"},
        {"origin": "cron"},
        {"cron_job_id": 1},
    ],
    ids=str,
)
def test_one_bad_element_and_nothing_of_a_bulk_call_is_enqueued(connection: sa.Connection, bad: dict[str, Any]) -> None:
    good = {"handler": "noop"}
    with pytest.raises(DBAPIError) as refused, connection.begin_nested():
        enqueue_bulk(connection, [good, good | {"job_key": "first"}, good | bad, good])
    assert postgres_error(refused.value).sqlstate == "22023"
    assert count_live(connection) == 0
    assert connection.execute(sa.text("SELECT count(*) FROM flatearth.job_keys")).scalar_one() == 0


def test_an_option_that_nobody_knows_is_shown_with_those_that_there_are(connection: sa.Connection) -> None:
    with pytest.raises(DBAPIError, match=r"a job takes handler, payload,.*delay_seconds"), connection.begin_nested():
        enqueue_bulk(connection, [{"handler": "noop", "delay_seconds": 5}])


# ----------------------------------------------------------------------------------------- the caller's transaction


def test_a_job_is_seen_after_the_commit_of_its_transaction_and_not_before(
    engine: sa.Engine, other_engine: sa.Engine
) -> None:
    with engine.connect() as application, other_engine.connect() as drain:
        job_id = enqueue(application)
        lease_id = open_lease(drain)
        assert claim(drain, lease_id) == []
        application.commit()
        assert claim(drain, lease_id) == [job_id]


def test_a_job_that_commits_after_a_later_one_was_claimed_is_not_overlooked(
    engine: sa.Engine, other_engine: sa.Engine
) -> None:
    with engine.connect() as slow, other_engine.connect() as drain:
        earlier = enqueue(slow)
        later = enqueue(drain)
        lease_id = open_lease(drain)
        assert claim(drain, lease_id) == [later]
        drain.commit()
        slow.commit()
        assert earlier < later
        assert claim(drain, lease_id) == [earlier]


def test_nothing_of_an_enqueue_is_left_after_a_rollback(engine: sa.Engine) -> None:
    with engine.connect() as application:
        lost = enqueue(application, job_key="k")
        application.rollback()
        assert count_live(application) == 0
        assert application.execute(sa.text("SELECT count(*) FROM flatearth.job_keys")).scalar_one() == 0
        assert enqueue(application, job_key="k") != lost


def test_a_rolled_back_savepoint_takes_its_own_jobs_with_it_and_no_others(connection: sa.Connection) -> None:
    kept = enqueue(connection, job_key="kept")
    savepoint = connection.begin_nested()
    lost = enqueue(connection, job_key="lost")
    enqueue(connection, payload={"n": 1}, job_key="kept", on_conflict="replace")
    savepoint.rollback()
    assert claim(connection, open_lease(connection)) == [kept]
    assert read_job(connection, kept)["payload"] == {}
    assert enqueue(connection, job_key="lost") != lost


@pytest.mark.parametrize(("waiting", "delay", "heard"), [(True, None, 1), (False, None, 0), (True, MINUTE, 0)], ids=str)
def test_a_drain_that_waits_is_told_of_a_due_job_when_it_commits(
    engine: sa.Engine, database: str, *, waiting: bool, delay: timedelta | None, heard: int
) -> None:
    with engine.connect() as application, psycopg.connect(database, autocommit=True) as listener:
        listener.execute("LISTEN flatearth_jobs")
        open_lease(application, waiting=waiting)
        application.commit()
        enqueue(application)
        application.rollback()
        enqueue(application, delay=delay)
        enqueue(application, delay=delay)
        assert list(listener.notifies(timeout=0)) == []
        application.commit()
        assert len(list(listener.notifies(timeout=5 if heard else 0.1, stop_after=1))) == heard


# ---------------------------------------------------------------------------------------------------------- helpers


def enqueue_expression(connection: sa.Connection, handler: str = "'noop'", **options: str) -> int:
    """Enqueue with options that are SQL expressions."""
    arguments = ", ".join(f"{name} => {value}" for name, value in ({"handler": handler} | options).items())
    job_id: int = connection.exec_driver_sql(f"SELECT flatearth.enqueue_job({arguments})").scalar_one()
    return job_id


def enqueue_bulk(connection: sa.Connection, jobs: Any) -> list[int]:
    query = sa.text("SELECT flatearth.enqueue_jobs(CAST(:jobs AS jsonb))")
    return list(connection.execute(query, {"jobs": json.dumps(jobs)}).scalars())


def count_live(connection: sa.Connection) -> int:
    count: int = connection.execute(sa.text("SELECT count(*) FROM flatearth.live_jobs")).scalar_one()
    return count


def postgres_error(error: DBAPIError) -> psycopg.Error:
    assert isinstance(error.orig, psycopg.Error)
    return error.orig
