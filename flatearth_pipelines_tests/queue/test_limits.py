"""How many jobs an account may enqueue in a minute of the database's clock."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from flatearth_pipelines import database as db
from flatearth_pipelines.queue import functions, storage
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.queue.conftest import MINUTE, enqueue


@pytest.fixture
def account(connection: sa.Connection) -> int:
    """An account that may enqueue three jobs a minute."""
    return limited_account(connection, 3)


def limited_account(connection: sa.Connection, per_minute: int) -> int:
    account_id = make.account(connection)
    functions.set_job_limit(connection, account_id, per_minute)
    wait_for_the_next_minute_if_it_is_near(connection)
    return account_id


def wait_for_the_next_minute_if_it_is_near(connection: sa.Connection) -> None:
    second = connection.execute(sa.text("SELECT extract(second FROM clock_timestamp())::float8")).scalar_one()
    if second > 57:
        time.sleep(60.1 - second)


def refusal(connection: sa.Connection, account_id: int, jobs: int = 1) -> psycopg.Error:
    """Of the last one of so many jobs, enqueued one by one."""
    for _ in range(jobs - 1):
        enqueue(connection, account_id=account_id)
    with pytest.raises(DBAPIError) as refused, connection.begin_nested():
        enqueue(connection, account_id=account_id)
    assert isinstance(refused.value.orig, psycopg.Error)
    return refused.value.orig


def jobs_of(connection: sa.Connection, account_id: int) -> int:
    query = sa.text("SELECT count(*) FROM flatearth.live_jobs WHERE account_id = :id")
    count: int = connection.execute(query, {"id": account_id}).scalar_one()
    return count


def enqueue_bulk(connection: sa.Connection, *account_ids: int | None, key: bool = False) -> list[int]:
    jobs = [
        {"handler": "noop", "account_id": account_id, "job_key": f"k{n}" if key else None}
        for n, account_id in enumerate(account_ids)
    ]
    query = sa.text("SELECT flatearth.enqueue_jobs(CAST(:jobs AS jsonb))")
    return list(connection.execute(query, {"jobs": json.dumps(jobs)}).scalars())


def test_the_job_beyond_the_limit_is_refused_with_53400_and_says_what_to_do(
    connection: sa.Connection, account: int
) -> None:
    error = refusal(connection, account, jobs=4)
    assert error.sqlstate == "53400"
    assert error.diag.message_primary == f"account {account} may enqueue 3 jobs a minute"
    assert error.diag.message_hint == "Try again in the next minute, or raise the limit in flatearth.job_limits."
    assert jobs_of(connection, account) == 3


def test_a_limit_of_zero_refuses_the_first(connection: sa.Connection) -> None:
    assert refusal(connection, limited_account(connection, 0)).sqlstate == "53400"


def test_without_a_limit_or_an_account_nobody_counts(connection: sa.Connection, account: int) -> None:
    other = make.account(connection)
    for _ in range(5):
        enqueue(connection)
        enqueue(connection, account_id=other)
    for _ in range(3):
        enqueue(connection, account_id=account)
    functions.set_job_limit(connection, account, None)
    enqueue(connection, account_id=account)


def test_a_limit_that_is_raised_or_lowered_counts_what_was_enqueued_before(
    connection: sa.Connection, account: int
) -> None:
    refusal(connection, account, jobs=4)
    functions.set_job_limit(connection, account, 4)
    enqueue(connection, account_id=account)
    functions.set_job_limit(connection, account, 2)
    refusal(connection, account)
    assert jobs_of(connection, account) == 4


def test_a_new_minute_counts_anew(connection: sa.Connection, account: int) -> None:
    refusal(connection, account, jobs=4)
    past = sa.text("UPDATE flatearth.job_limits SET current_minute = current_minute - :minute")
    connection.execute(past, {"minute": MINUTE})
    assert refusal(connection, account, jobs=4).sqlstate == "53400"
    assert jobs_of(connection, account) == 6


def test_jobs_for_later_count_when_they_are_enqueued(connection: sa.Connection, account: int) -> None:
    for _ in range(3):
        enqueue(connection, account_id=account, delay=timedelta(days=3))
    refusal(connection, account)


def test_only_a_job_that_is_really_enqueued_counts(connection: sa.Connection, account: int) -> None:
    first = enqueue(connection, account_id=account, job_key="k")
    for on_conflict in ("keep", "replace") * 3:
        assert enqueue(connection, account_id=account, job_key="k", on_conflict=on_conflict) == first
    enqueue(connection, account_id=account, job_key="k", on_conflict="supersede")
    refusal(connection, account, jobs=2)


def test_what_is_refused_for_another_reason_or_rolled_back_does_not_count(
    connection: sa.Connection, account: int
) -> None:
    for _ in range(3):
        with pytest.raises(DBAPIError), connection.begin_nested():
            enqueue(connection, account_id=account, max_attempts=0)
        savepoint = connection.begin_nested()
        enqueue(connection, account_id=account)
        savepoint.rollback()
    assert refusal(connection, account, jobs=4).sqlstate == "53400"


def test_a_refused_supersede_leaves_the_older_job_waiting(connection: sa.Connection, account: int) -> None:
    first = enqueue(connection, account_id=account, job_key="k")
    for _ in range(2):
        enqueue(connection, account_id=account)
    with pytest.raises(DBAPIError), connection.begin_nested():
        enqueue(connection, account_id=account, job_key="k", on_conflict="supersede")
    assert storage.read_job(connection, first)["state"] == "pending"
    assert enqueue(connection, account_id=account, job_key="k") == first


@pytest.mark.parametrize("key", [False, True])
def test_a_bulk_call_counts_each_account_s_jobs_and_is_refused_as_a_whole(
    connection: sa.Connection, account: int, *, key: bool
) -> None:
    other = limited_account(connection, 2)
    with pytest.raises(DBAPIError, match=f"account {other} may enqueue 2 jobs") as refused, connection.begin_nested():
        enqueue_bulk(connection, None, account, other, other, other, key=key)
    assert getattr(refused.value.orig, "sqlstate", None) == "53400"
    assert (jobs_of(connection, account), jobs_of(connection, other)) == (0, 0)

    enqueue_bulk(connection, None, account, other, account, other, None, key=key)
    refusal(connection, account, jobs=2)
    refusal(connection, other)


def test_six_who_enqueue_at_once_for_one_account_get_no_more_than_its_limit(database: str) -> None:
    everybody = db.engine(database, "everybody", connections=6)
    with everybody.begin() as connection:
        account_id = limited_account(connection, 20)

    def somebody(_: int) -> list[str | None]:
        """How each of five attempts ended."""
        ends: list[str | None] = []
        with everybody.connect() as mine:
            for _ in range(5):
                try:
                    with mine.begin():
                        enqueue(mine, account_id=account_id)
                    ends.append(None)
                except DBAPIError as error:
                    ends.append(getattr(error.orig, "sqlstate", "unknown"))
        return ends

    with ThreadPoolExecutor(6) as pool:
        ends = [end for each in pool.map(somebody, range(6)) for end in each]
    assert sorted(ends, key=str) == ["53400"] * 10 + [None] * 20
    with everybody.connect() as connection:
        assert jobs_of(connection, account_id) == 20
    everybody.dispose()
