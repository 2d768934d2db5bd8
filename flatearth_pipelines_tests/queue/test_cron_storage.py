"""Cron jobs in Postgres: what people say to them, and what a tick then enqueues."""

import asyncio
import contextlib
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from flatearth_pipelines import database as db
from flatearth_pipelines import tables
from flatearth_pipelines.errors import LimitReached, NotFound, WrongUsage
from flatearth_pipelines.queue import cron_storage as crons
from flatearth_pipelines.queue import functions, leases
from flatearth_pipelines.queue.crons import WrongPattern, next_fire
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.queue.conftest import MINUTE, REGISTRY, UNKNOWN

HOUR = timedelta(hours=1)
YEAR = timedelta(days=365)
MILLISECOND = timedelta(milliseconds=1)
FIXED = {"kind": "fixed", "seconds": 30}


def create(connection: sa.Connection, name: str = "nightly", pattern: str = "daily", **options: Any) -> int:
    handler = options.pop("handler", "noop")
    return crons.create_cron_job(connection, REGISTRY, name, pattern, handler, **options)


def stored(connection: sa.Connection, name: str = "nightly") -> dict[str, Any]:
    return crons.read_cron_job(connection, name)


def put(connection: sa.Connection, name: str = "nightly", **values: Any) -> None:
    connection.execute(sa.update(tables.cron_jobs).where(tables.cron_jobs.c.name == name).values(**values))


def jobs(connection: sa.Connection) -> list[dict[str, Any]]:
    return [dict(row) for row in connection.execute(sa.select(tables.jobs).order_by(tables.jobs.c.id)).mappings()]


# ----------------------------------------------------------------------------------------------------- create


def test_what_is_not_said_is_utc_enabled_an_empty_payload_and_the_handler_s_own_limits(
    connection: sa.Connection,
) -> None:
    cron_job_id = create(connection)

    row = stored(connection)
    assert row.pop("next_run_at") == next_fire("daily", "UTC", row.pop("created_at"))
    assert row == {
        "id": cron_job_id,
        "name": "nightly",
        "pattern": "daily",
        "time_zone": "UTC",
        "handler": "noop",
        "payload": {},
        "enabled": True,
        "priority": 0,
        "max_attempts": None,
        "backoff": None,
        "timeout_ms": None,
        "account_id": None,
        "last_run_at": None,
        "last_job_id": None,
        "run_count": 0,
        "last_error": None,
    }


def test_what_is_said_is_stored(connection: sa.Connection) -> None:
    account_id = make.account(connection)

    create(
        connection,
        pattern="weekdays_9am",
        handler="greet",
        payload={"name": "Ada"},
        time_zone="Europe/Berlin",
        priority=-7,
        max_attempts=25,
        backoff=FIXED,
        timeout=1500 * MILLISECOND,
        account_id=account_id,
    )

    row = stored(connection)
    said = {"priority": -7, "max_attempts": 25, "backoff": FIXED, "timeout_ms": 1500, "account_id": account_id}
    assert row | said | {"payload": {"name": "Ada"}, "time_zone": "Europe/Berlin"} == row
    assert row["next_run_at"] == next_fire("weekdays_9am", "Europe/Berlin", row["created_at"])


def test_the_first_run_counts_from_the_database_s_clock_even_late_in_a_transaction(connection: sa.Connection) -> None:
    connection.execute(sa.text("SELECT pg_sleep(0.05)"))
    before = crons.read_clock(connection)
    create(connection, pattern="every 5 minutes")
    after = crons.read_clock(connection)

    assert before <= stored(connection)["next_run_at"] - 5 * MINUTE <= after


def test_a_disabled_one_has_no_next_run(connection: sa.Connection) -> None:
    create(connection, enabled=False)

    assert (stored(connection)["enabled"], stored(connection)["next_run_at"]) == (False, None)


def test_a_name_is_taken_once_and_the_transaction_goes_on(connection: sa.Connection) -> None:
    first = create(connection)

    with pytest.raises(WrongUsage, match="There is a cron job 'nightly' already"):
        create(connection, pattern="hourly")

    assert [(row["id"], row["pattern"]) for row in crons.read_cron_jobs(connection)] == [(first, "daily")]


@pytest.mark.parametrize("name", ["x", "x" * 100, "Ünïcode: daily 'report'"])
def test_a_name_takes_1_to_100_characters(connection: sa.Connection, name: str) -> None:
    create(connection, name)

    assert stored(connection, name)["name"] == name


WRONG = [
    ({"pattern": "0 0 30 2 *"}, WrongPattern, "is no pattern that ever fires"),
    ({"pattern": "* * * * * *"}, WrongPattern, "is no pattern"),
    ({"pattern": "@reboot"}, WrongPattern, "is no pattern"),
    ({"pattern": "every 59 seconds"}, WrongPattern, "is not an interval"),
    ({"time_zone": "Mars/Olympus"}, WrongPattern, "There is no time zone"),
    ({"time_zone": "../etc/passwd"}, WrongPattern, "There is no time zone"),
    ({"time_zone": ""}, WrongPattern, "There is no time zone"),
    ({"handler": "unknown"}, NotFound, "There is no handler 'unknown': there are greet, heavy, noop"),
    ({"handler": ""}, NotFound, "There is no handler ''"),
    ({"handler": "greet", "payload": {}}, WrongUsage, "The payload of greet is not valid: name: Field required"),
    ({"payload": {"more": 1}}, WrongUsage, "The payload of noop is not valid: more: "),
    ({"handler": "greet", "payload": {"name": "\0"}}, WrongUsage, "unsupported Unicode"),
    ({"handler": "greet", "payload": {"name": "\ud800"}}, WrongUsage, "payload of greet|json"),
    ({"priority": 2**31}, WrongUsage, "priority is 2147483648: it takes -2147483648 to 2147483647"),
    ({"priority": -(2**31) - 1}, WrongUsage, "priority is -2147483649"),
    ({"max_attempts": 0}, WrongUsage, "max_attempts is 0: it takes 1 to 25"),
    ({"max_attempts": 26}, WrongUsage, "max_attempts is 26"),
    ({"max_attempts": -1}, WrongUsage, "max_attempts is -1"),
    ({"timeout": timedelta()}, WrongUsage, "timeout_ms is 0: it takes 1 to 2147483647"),
    ({"timeout": -MINUTE}, WrongUsage, "timeout_ms is -60000"),
    ({"timeout": YEAR}, WrongUsage, "timeout_ms is 31536000000"),
    ({"backoff": {}}, WrongUsage, "backoff takes"),
    ({"backoff": {"kind": "fixed", "seconds": -1}}, WrongUsage, "backoff takes"),
    ({"backoff": {"kind": "fixed", "seconds": float("inf")}}, WrongUsage, "json"),
    ({"account_id": UNKNOWN}, NotFound, f"There is no account {UNKNOWN}"),
    ({"account_id": 10**30}, WrongUsage, "bigint out of range"),
]


@pytest.mark.parametrize(("options", "error", "words"), WRONG)
def test_what_could_not_run_is_refused_and_nothing_is_written(
    connection: sa.Connection, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    savepoint = connection.begin_nested()
    with pytest.raises(error, match=words) as refused:
        create(connection, **options)
    savepoint.rollback()

    assert str(refused.value).isprintable()
    assert crons.read_cron_jobs(connection) == []


@pytest.mark.parametrize("name", ["", "x" * 101, "nul\0", "\ud800"])
def test_what_is_no_name_is_refused(connection: sa.Connection, name: str) -> None:
    with pytest.raises(WrongUsage, match="is no name: it takes 1 to 100 characters"):
        create(connection, name)

    assert crons.read_cron_jobs(connection) == []


# ----------------------------------------------------------------------------------------------------- update


@pytest.mark.parametrize(
    ("changes", "columns"),
    [
        ({"priority": 5}, {"priority": 5}),
        ({"handler": "greet", "payload": {"name": "Ada"}}, {"handler": "greet", "payload": {"name": "Ada"}}),
        ({"max_attempts": 3}, {"max_attempts": 3}),
        ({"max_attempts": None}, {"max_attempts": None}),
        ({"backoff": FIXED}, {"backoff": FIXED}),
        ({"backoff": None}, {"backoff": None}),
        ({"timeout": MINUTE}, {"timeout_ms": 60_000}),
        ({"timeout": None}, {"timeout_ms": None}),
        ({"pattern": "daily", "time_zone": "UTC"}, {}),
        ({}, {}),
    ],
)
def test_a_change_leaves_the_rest_and_the_next_run_as_they_are(
    connection: sa.Connection, changes: crons.Changes, columns: dict[str, Any]
) -> None:
    create(connection, max_attempts=9, backoff={"kind": "list", "seconds": [1]}, timeout=HOUR)
    put(connection, next_run_at=datetime(2031, 1, 1, tzinfo=UTC))
    before = stored(connection)

    crons.update_cron_job(connection, REGISTRY, "nightly", **changes)

    assert stored(connection) == before | columns


@pytest.mark.parametrize(
    ("changes", "pattern", "zone"),
    [
        ({"pattern": "hourly"}, "hourly", "UTC"),
        ({"time_zone": "Asia/Kolkata"}, "daily", "Asia/Kolkata"),
        ({"pattern": "every 7 minutes"}, "every 7 minutes", "UTC"),
    ],
)
def test_another_pattern_or_zone_counts_from_now(
    connection: sa.Connection, changes: crons.Changes, pattern: str, zone: str
) -> None:
    create(connection)
    put(connection, next_run_at=datetime(2031, 1, 1, tzinfo=UTC), last_error="it was wrong")

    before = crons.read_clock(connection)
    crons.update_cron_job(connection, REGISTRY, "nightly", **changes)
    after = crons.read_clock(connection)

    row = stored(connection)
    assert next_fire(pattern, zone, before) <= row["next_run_at"] <= next_fire(pattern, zone, after)
    assert (row["pattern"], row["time_zone"], row["last_error"]) == (pattern, zone, None)


def test_another_pattern_of_a_disabled_one_leaves_it_without_a_next_run(connection: sa.Connection) -> None:
    create(connection, enabled=False)

    crons.update_cron_job(connection, REGISTRY, "nightly", pattern="hourly")

    row = stored(connection)
    assert (row["pattern"], row["enabled"], row["next_run_at"]) == ("hourly", False, None)


@pytest.mark.parametrize(("changes", "error", "words"), WRONG)
def test_a_change_to_what_could_not_run_is_refused_and_nothing_is_written(
    connection: sa.Connection, changes: crons.Changes, error: type[Exception], words: str
) -> None:
    create(connection)
    before = stored(connection)

    savepoint = connection.begin_nested()
    with pytest.raises(error, match=words):
        crons.update_cron_job(connection, REGISTRY, "nightly", **changes)
    savepoint.rollback()

    assert stored(connection) == before


def test_a_handler_that_does_not_take_the_stored_payload_is_refused(connection: sa.Connection) -> None:
    create(connection)

    with pytest.raises(WrongUsage, match="The payload of greet is not valid: name: Field required"):
        crons.update_cron_job(connection, REGISTRY, "nightly", handler="greet")


# ----------------------------------------------------------------------------------------- disable and enable


def test_disabling_takes_the_next_run_away_and_enabling_computes_it_anew(connection: sa.Connection) -> None:
    create(connection, pattern="every 5 minutes")
    put(connection, next_run_at=datetime(2020, 1, 1, tzinfo=UTC), last_error="it was wrong")

    assert crons.disable_cron_job(connection, "nightly")
    assert (stored(connection)["enabled"], stored(connection)["next_run_at"]) == (False, None)

    before = crons.read_clock(connection)
    assert crons.enable_cron_job(connection, REGISTRY, "nightly")
    row = stored(connection)
    assert (row["enabled"], row["last_error"]) == (True, None)
    assert before <= row["next_run_at"] - 5 * MINUTE <= crons.read_clock(connection)


def test_enabling_what_is_enabled_does_not_put_its_run_off(connection: sa.Connection) -> None:
    create(connection, pattern="every 5 minutes")
    before = stored(connection)

    assert not crons.enable_cron_job(connection, REGISTRY, "nightly")

    assert stored(connection) == before


def test_disabling_what_is_disabled_is_nothing_to_do(connection: sa.Connection) -> None:
    create(connection, enabled=False)

    assert not crons.disable_cron_job(connection, "nightly")


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"pattern": "* * * * * *"}, WrongPattern),
        ({"time_zone": "Mars/Olympus"}, WrongPattern),
        ({"handler": "unknown"}, NotFound),
        ({"payload": {"more": 1}}, WrongUsage),
    ],
)
def test_what_sql_has_made_wrong_is_not_enabled(
    connection: sa.Connection, values: dict[str, Any], error: type[Exception]
) -> None:
    create(connection, enabled=False)
    put(connection, **values)

    with pytest.raises(error):
        crons.enable_cron_job(connection, REGISTRY, "nightly")

    assert not stored(connection)["enabled"]


# ------------------------------------------------------------------------------------------ trigger and delete


@pytest.mark.parametrize("enabled", [True, False])
def test_triggering_enqueues_a_job_now_and_touches_no_schedule(connection: sa.Connection, enabled: bool) -> None:  # noqa: FBT001
    account_id = make.account(connection)
    create(
        connection,
        handler="greet",
        payload={"name": "Ada"},
        enabled=enabled,
        priority=3,
        max_attempts=2,
        backoff=FIXED,
        timeout=MINUTE,
        account_id=account_id,
    )
    before = stored(connection)

    job_id = crons.trigger_cron_job(connection, REGISTRY, "nightly")

    (job,) = jobs(connection)
    expected = {
        "id": job_id,
        "handler": "greet",
        "state": "pending",
        "payload": {"name": "Ada"},
        "origin": "cron_trigger",
        "cron_job_id": before["id"],
        "priority": 3,
        "max_attempts": 2,
        "backoff": FIXED,
        "timeout_ms": 60_000,
        "account_id": account_id,
    }
    assert job | expected == job
    assert job["run_at"] == db.now(connection)
    assert stored(connection) == before


def test_triggering_with_defaults_leaves_them_to_the_handler(connection: sa.Connection) -> None:
    create(connection)

    crons.trigger_cron_job(connection, REGISTRY, "nightly")

    (job,) = jobs(connection)
    assert (job["max_attempts"], job["backoff"], job["timeout_ms"], job["account_id"]) == (None, None, None, None)


def test_triggering_twice_enqueues_two(connection: sa.Connection) -> None:
    create(connection)

    assert crons.trigger_cron_job(connection, REGISTRY, "nightly") != crons.trigger_cron_job(
        connection, REGISTRY, "nightly"
    )


def test_triggering_counts_against_the_account_s_limit(connection: sa.Connection) -> None:
    account_id = make.account(connection)
    functions.set_job_limit(connection, account_id, 0)
    create(connection, account_id=account_id)

    savepoint = connection.begin_nested()
    with pytest.raises(LimitReached):
        crons.trigger_cron_job(connection, REGISTRY, "nightly")
    savepoint.rollback()


def test_triggering_what_sql_has_made_wrong_is_refused(connection: sa.Connection) -> None:
    create(connection)
    put(connection, payload={"more": 1})

    with pytest.raises(WrongUsage, match="The payload of noop is not valid"):
        crons.trigger_cron_job(connection, REGISTRY, "nightly")

    assert jobs(connection) == []


def test_deleting_leaves_the_others_and_the_jobs_it_has_enqueued(connection: sa.Connection) -> None:
    create(connection)
    create(connection, "weekly", "weekly")
    job_id = crons.trigger_cron_job(connection, REGISTRY, "nightly")

    crons.delete_cron_job(connection, "nightly")

    assert [row["name"] for row in crons.read_cron_jobs(connection)] == ["weekly"]
    assert [job["id"] for job in jobs(connection)] == [job_id]


@pytest.mark.parametrize("name", ["nightl", "Nightly", "%", "", "nul\0", "\ud800"])
def test_one_that_is_not_there_is_not_found_by_any_function(connection: sa.Connection, name: str) -> None:
    create(connection)

    for call in (
        lambda: crons.read_cron_job(connection, name),
        lambda: crons.update_cron_job(connection, REGISTRY, name, priority=1),
        lambda: crons.enable_cron_job(connection, REGISTRY, name),
        lambda: crons.disable_cron_job(connection, name),
        lambda: crons.trigger_cron_job(connection, REGISTRY, name),
        lambda: crons.delete_cron_job(connection, name),
    ):
        with pytest.raises(NotFound, match="There is no cron job"):
            call()


# ------------------------------------------------------------------------------------------------------- read


def test_cron_jobs_are_listed_by_name(connection: sa.Connection) -> None:
    for name in ("b", "c", "a"):
        create(connection, name)

    assert [row["name"] for row in crons.read_cron_jobs(connection)] == ["a", "b", "c"]
    assert crons.read_cron_jobs(connection)[0] == stored(connection, "a")


def test_the_newest_jobs_of_one_are_read_newest_first(connection: sa.Connection) -> None:
    create(connection)
    create(connection, "other")
    job_ids = [crons.trigger_cron_job(connection, REGISTRY, "nightly") for _ in range(4)]
    crons.trigger_cron_job(connection, REGISTRY, "other")
    functions.cancel_job(connection, job_ids[3])

    newest = crons.read_jobs_of(connection, stored(connection)["id"], most=3)

    assert [(job["id"], job["state"]) for job in newest] == [
        (job_ids[3], "cancelled"),
        (job_ids[2], "pending"),
        (job_ids[1], "pending"),
    ]


# ------------------------------------------------------------------------------------------------------- tick


def tick(conninfo: str) -> int:
    """How many jobs a scheduler enqueued that looked once."""

    async def look() -> int:
        async with await db.connect_async(conninfo, "tests") as connection:
            return await leases.tick_crons(connection, REGISTRY)

    return asyncio.run(look())


def overdue(engine: sa.Engine, since: timedelta, name: str = "nightly", **options: Any) -> dict[str, Any]:
    with engine.begin() as connection:
        create(connection, name, **options)
        put(connection, name, next_run_at=crons.read_clock(connection) - since)
        return stored(connection, name)


def everything(engine: sa.Engine, name: str = "nightly") -> tuple[dict[str, Any], list[dict[str, Any]]]:
    with engine.begin() as connection:
        return stored(connection, name), jobs(connection)


def test_a_tick_enqueues_what_is_due_with_all_that_was_said_and_records_it(database: str, engine: sa.Engine) -> None:
    with engine.begin() as connection:
        account_id = make.account(connection)
    before = overdue(
        engine,
        MINUTE,
        pattern="hourly",
        handler="greet",
        payload={"name": "Ada"},
        priority=3,
        max_attempts=2,
        backoff=FIXED,
        timeout=MINUTE,
        account_id=account_id,
    )

    assert tick(database) == 1

    row, (job,) = everything(engine)
    expected = {
        "handler": "greet",
        "state": "pending",
        "payload": {"name": "Ada"},
        "origin": "cron",
        "cron_job_id": row["id"],
        "priority": 3,
        "max_attempts": 2,
        "backoff": FIXED,
        "timeout_ms": 60_000,
        "account_id": account_id,
    }
    assert job | expected == job
    assert (row["run_count"], row["last_job_id"], row["last_error"]) == (1, job["id"], None)
    assert before["next_run_at"] < row["last_run_at"] < row["next_run_at"]
    assert row["next_run_at"] == next_fire("hourly", "UTC", row["last_run_at"])


def test_a_tick_leaves_what_is_not_due_and_what_is_disabled(database: str, engine: sa.Engine) -> None:
    with engine.begin() as connection:
        create(connection)
        create(connection, "disabled")
        put(connection, "disabled", enabled=False, next_run_at=datetime(2020, 1, 1, tzinfo=UTC))

    assert tick(database) == 0
    assert everything(engine)[1] == []


def test_however_many_schedulers_look_one_job_is_enqueued(database: str, engine: sa.Engine) -> None:
    overdue(engine, MINUTE, pattern="hourly")
    together = threading.Barrier(3)
    ticked = []

    def scheduler() -> None:
        together.wait(30)
        ticked.append(tick(database))

    threads = [threading.Thread(target=scheduler) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    row, enqueued = everything(engine)
    assert sorted(ticked) == [0, 0, 1]
    assert (row["run_count"], len(enqueued)) == (1, 1)


@pytest.mark.parametrize("pattern", ["* * * * *", "every minute", "daily"])
def test_after_a_year_of_downtime_there_is_one_catch_up(database: str, engine: sa.Engine, pattern: str) -> None:
    overdue(engine, YEAR, pattern=pattern)

    assert [tick(database), tick(database)] == [1, 0]

    row, enqueued = everything(engine)
    assert (row["run_count"], len(enqueued)) == (1, 1)
    assert row["next_run_at"] > row["last_run_at"]


def test_an_interval_keeps_its_pace_whenever_it_is_ticked(database: str, engine: sa.Engine) -> None:
    before = overdue(engine, timedelta(seconds=200), pattern="every 90 seconds")

    tick(database)

    row, _ = everything(engine)
    assert row["next_run_at"] == before["next_run_at"] + timedelta(seconds=270)


def by_sql(engine: sa.Engine, name: str, **values: Any) -> None:
    columns = {"name": name, "pattern": "hourly", "handler": "noop"} | values
    query = f"INSERT INTO flatearth.cron_jobs ({', '.join(columns)}) VALUES ({', '.join(f':{key}' for key in columns)})"
    with engine.begin() as connection:
        connection.execute(sa.text(query), columns)


def test_a_row_that_plain_sql_wrote_gets_a_next_run_and_no_job_yet(database: str, engine: sa.Engine) -> None:
    by_sql(engine, "theirs", time_zone="Europe/Berlin", pattern="daily_3am")

    with engine.begin() as connection:
        before = crons.read_clock(connection)
    assert tick(database) == 0

    row, enqueued = everything(engine, "theirs")
    assert row["next_run_at"] == next_fire("daily_3am", "Europe/Berlin", before)
    assert (row["enabled"], row["run_count"], enqueued) == (True, 0, [])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"pattern": "0 0 30 2 *"}, "'0 0 30 2 *' is no pattern that ever fires"),
        ({"pattern": "* * * * * *"}, "'* * * * * *' is no pattern"),
        ({"pattern": "every second"}, "'every second' is not an interval of a minute to 366 days"),
        ({"pattern": "*/" + "9" * 5_000 + " * * * *"}, "is no pattern"),
        ({"time_zone": "Mars/Olympus"}, "There is no time zone 'Mars/Olympus'"),
        ({"time_zone": "../etc/passwd"}, "There is no time zone '../etc/passwd'"),
        ({"time_zone": ""}, "There is no time zone ''"),
    ],
)
@pytest.mark.parametrize("next_run_at", [None, "2020-01-01T00:00:00Z"])
def test_a_bad_row_that_plain_sql_wrote_is_disabled_and_says_why_and_the_others_go_on(
    database: str, engine: sa.Engine, values: dict[str, Any], words: str, next_run_at: str | None
) -> None:
    by_sql(engine, "bad", next_run_at=next_run_at, **values)
    overdue(engine, MINUTE)

    assert tick(database) == 1

    row, enqueued = everything(engine, "bad")
    assert not row["enabled"]
    assert words in row["last_error"]
    assert [job["cron_job_id"] for job in enqueued] == [everything(engine)[0]["id"]]


@pytest.mark.parametrize(
    "values",
    [
        {"next_run_at": "0044-03-15 12:00+00 BC"},
        {"next_run_at": "2020-01-01T00:00:00Z", "payload": f'{{"number": {"9" * 5_000}}}'},
    ],
    ids=["before the common era", "a number of 5,000 digits"],
)
def test_a_row_that_python_cannot_read_does_not_stop_the_others(
    database: str, engine: sa.Engine, values: dict[str, Any]
) -> None:
    with contextlib.suppress(IntegrityError):  # or it is not let in
        by_sql(engine, "unreadable", **values)
    overdue(engine, MINUTE)

    tick(database)

    with engine.begin() as connection:
        query = sa.select(tables.cron_jobs.c.run_count).where(tables.cron_jobs.c.name == "nightly")
        assert connection.execute(query).scalar_one() == 1


def test_a_run_that_its_account_s_limit_refuses_is_left_out_and_says_why(database: str, engine: sa.Engine) -> None:
    with engine.begin() as connection:
        account_id = make.account(connection)
        functions.set_job_limit(connection, account_id, 0)
    overdue(engine, MINUTE, account_id=account_id, pattern="hourly")

    assert tick(database) == 0

    row, enqueued = everything(engine)
    assert enqueued == []
    assert "may enqueue 0 jobs a minute" in row["last_error"]
    assert (row["enabled"], row["run_count"]) == (True, 0)
    assert row["next_run_at"] > row["created_at"]


def test_a_job_of_a_heavy_handler_asks_for_a_run_of_its_own(database: str, engine: sa.Engine) -> None:
    overdue(engine, MINUTE, handler="heavy")

    tick(database)

    with engine.begin() as connection:
        assert connection.execute(sa.text("SELECT own_run FROM flatearth.live_jobs")).scalars().all() == [True]


def test_a_tick_and_a_change_at_the_same_moment_do_not_undo_each_other(database: str, engine: sa.Engine) -> None:
    overdue(engine, MINUTE, pattern="hourly")
    with engine.begin() as connection:
        crons.disable_cron_job(connection, "nightly")
        assert tick(database) == 0  # not in the way of the others either: it does not wait

    row, enqueued = everything(engine)
    assert (row["enabled"], row["next_run_at"], row["run_count"], enqueued) == (False, None, 0, [])
