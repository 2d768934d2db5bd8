"""What ended: the view over all jobs, the daily partitions, what is kept of a payload, and for how long."""

from datetime import date, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from flatearth_pipelines.errors import WrongUsage
from flatearth_pipelines.queue import functions, storage
from flatearth_pipelines.queue.storage import read_job
from flatearth_pipelines_tests.factories import DAY
from flatearth_pipelines_tests.queue.conftest import (
    MINUTE,
    claim,
    dead_job,
    enqueue,
    fail,
    finish,
    finished_job,
    in_background,
    open_lease,
    wait_until_blocked,
)

PARENTS = ("finished_jobs", "dead_jobs")
KEEP = {"finished_jobs": 7 * DAY, "dead_jobs": 30 * DAY}
BOTH = pytest.mark.parametrize("parent", PARENTS)


def ended_job(connection: sa.Connection, parent: str, **options: Any) -> int:
    return {"finished_jobs": finished_job, "dead_jobs": dead_job}[parent](connection, **options)


def age(connection: sa.Connection, parent: str, job_id: int, by: timedelta) -> None:
    """Let the job have ended that long ago."""
    query = sa.text(f"UPDATE flatearth.{parent} SET finished_at = clock_timestamp() - :by WHERE id = :id")
    assert connection.execute(query, {"id": job_id, "by": by}).rowcount == 1


def stands_in(connection: sa.Connection, parent: str, job_id: int) -> str:
    """The partition that holds the job."""
    query = sa.text(f"SELECT tableoid::regclass::text FROM flatearth.{parent} WHERE id = :id")
    name: str = connection.execute(query, {"id": job_id}).scalar_one()
    return name.removeprefix("flatearth.")


def today(connection: sa.Connection) -> date:
    day: date = connection.execute(sa.text("SELECT (clock_timestamp() AT TIME ZONE 'UTC')::date")).scalar_one()
    return day


def partition(parent: str, day: date) -> str:
    return f"{parent}_{day:%Y%m%d}"


def partitions(connection: sa.Connection, parent: str) -> list[str]:
    query = sa.text(
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = CAST(:parent AS regclass) ORDER BY 1"
    )
    names = connection.execute(query, {"parent": f"flatearth.{parent}"}).scalars()
    return [name.removeprefix("flatearth.") for name in names]


def make_day(connection: sa.Connection, parent: str, day: date) -> str:
    """The partition of a day, as `make_job_partitions` made it on that day."""
    name = partition(parent, day)
    bounds = f"FROM ('{day} 00:00+00') TO ('{day + DAY} 00:00+00')"
    connection.execute(sa.text(f"CREATE TABLE flatearth.{name} PARTITION OF flatearth.{parent} FOR VALUES {bounds}"))
    return name


def drop_day(connection: sa.Connection, parent: str, day: date) -> None:
    connection.execute(sa.text(f"DROP TABLE flatearth.{partition(parent, day)}"))


def there(connection: sa.Connection, *job_ids: int) -> list[int]:
    query = sa.text("SELECT id FROM flatearth.jobs WHERE id = ANY(:ids) ORDER BY id")
    return list(connection.execute(query, {"ids": list(job_ids)}).scalars())


# --------------------------------------------------------------------------------------------------- the view of all


def test_the_view_shows_a_job_of_every_state_once_each(connection: sa.Connection) -> None:
    succeeded, failed, running = finished_job(connection), dead_job(connection), enqueue(connection)
    assert claim(connection, open_lease(connection)) == [running]
    cancelled, pending = enqueue(connection), enqueue(connection, delay=MINUTE)
    functions.cancel_job(connection, cancelled)
    rows = connection.execute(sa.text("SELECT id, state, attempts, last_error FROM flatearth.jobs ORDER BY id"))
    assert [tuple(row) for row in rows] == [
        (succeeded, "succeeded", 1, None),
        (failed, "failed", 1, "it broke"),
        (running, "running", 1, None),
        (cancelled, "cancelled", 0, "cancelled"),
        (pending, "pending", 0, None),
    ]


@BOTH
def test_a_job_that_ends_keeps_all_that_was_said_of_it(connection: sa.Connection, parent: str) -> None:
    options: dict[str, Any] = {
        "payload": {"n": 1},
        "job_key": "k",
        "concurrency_key": "c",
        "max_attempts": 2,
        "backoff": {"kind": "fixed", "seconds": 1},
        "timeout": MINUTE,
        "origin": "cron",
        "cron_job_id": 7,
    }
    job_id, lease_id = enqueue(connection, **options), open_lease(connection)
    claim(connection, lease_id)
    before = read_job(connection, job_id)
    assert (before["state"], before["attempts"]) == ("running", 1)
    if parent == "finished_jobs":
        finish(connection, lease_id, [job_id], {job_id: {"done": True}})
        changed = {"state": "succeeded", "result": {"done": True}}
    else:
        fail(connection, lease_id, [job_id])
        changed = {"state": "failed", "last_error": "it broke"}
    after = read_job(connection, job_id)
    assert after["finished_at"] >= before["started_at"]
    assert after == before | changed | {"finished_at": after["finished_at"]}


def test_progress_is_shown_while_the_job_runs(connection: sa.Connection) -> None:
    job_id, lease_id = enqueue(connection), open_lease(connection)
    claim(connection, lease_id)
    query = sa.text("INSERT INTO flatearth.job_progress (job_id, percent, line) VALUES (:id, 12.5, 'page 1')")
    connection.execute(query, {"id": job_id})
    assert read_job(connection, job_id).items() >= {"progress": 12.5, "progress_line": "page 1"}.items()
    finish(connection, lease_id, [job_id])
    assert read_job(connection, job_id)["progress"] is None


# ----------------------------------------------------------------------------------------------------- big payloads


@pytest.mark.parametrize(("kilobytes", "kept"), [(1, True), (4, False), (1_000, False)])
def test_a_big_payload_is_dropped_when_its_job_succeeds_and_only_then(
    connection: sa.Connection, kilobytes: int, *, kept: bool
) -> None:
    text = connection.execute(
        sa.text("SELECT string_agg(md5(n::text), '') FROM generate_series(1, :n) AS n"), {"n": kilobytes * 32}
    ).scalar_one()
    payload = {"text": text}
    assert read_job(connection, finished_job(connection, payload=payload))["payload"] == (payload if kept else None)

    failed = dead_job(connection, payload=payload)
    assert read_job(connection, failed)["payload"] == payload
    assert read_job(connection, functions.retry_job(connection, failed))["payload"] == payload
    functions.cancel_job(connection, failed)
    assert read_job(connection, failed)["payload"] == payload
    stopped, lease_id = enqueue(connection, payload=payload), open_lease(connection)
    claim(connection, lease_id)
    query = "SELECT flatearth.finish_jobs(:lease, ARRAY[:id]::bigint[], NULL, 'cancelled', 'enough')"
    connection.execute(sa.text(query), {"lease": lease_id, "id": stopped})
    assert read_job(connection, stopped).items() >= {"payload": payload, "last_error": "enough"}.items()


# ------------------------------------------------------------------------------------------------ the days are made


@BOTH
def test_a_job_ends_in_the_partition_of_its_day(connection: sa.Connection, parent: str) -> None:
    job_id = ended_job(connection, parent)
    assert stands_in(connection, parent, job_id) == partition(parent, read_job(connection, job_id)["finished_at"])


@BOTH
def test_a_job_that_ends_on_a_day_without_a_partition_goes_to_the_default_one(
    connection: sa.Connection, parent: str
) -> None:
    for ahead in range(2):  # midnight may pass
        drop_day(connection, parent, today(connection) + ahead * DAY)
    job_id = ended_job(connection, parent)
    assert stands_in(connection, parent, job_id) == f"{parent}_of_other_days"
    assert read_job(connection, job_id)["state"] in {"succeeded", "failed"}


@BOTH
def test_a_day_whose_jobs_stand_in_the_default_partition_already_is_left_there_and_others_are_made(
    connection: sa.Connection, parent: str
) -> None:
    day = today(connection)
    for ahead in range(4):
        drop_day(connection, parent, day + ahead * DAY)
    job_id = ended_job(connection, parent)
    storage.make_partitions(connection)
    made = partitions(connection, parent)
    assert partition(parent, read_job(connection, job_id)["finished_at"]) not in made
    assert partition(parent, day + 2 * DAY) in made
    assert there(connection, job_id) == [job_id]
    assert stands_in(connection, parent, ended_job(connection, parent)) == f"{parent}_of_other_days"


def test_today_and_the_three_days_after_it_are_made_as_far_as_they_are_missing(connection: sa.Connection) -> None:
    storage.make_partitions(connection)
    assert storage.make_partitions(connection) == 0
    day = today(connection)
    drop_day(connection, "finished_jobs", day + DAY)
    drop_day(connection, "dead_jobs", day + 2 * DAY)
    assert storage.make_partitions(connection) == 2
    for parent in PARENTS:
        wanted = [partition(parent, day + ahead * DAY) for ahead in range(4)]
        assert set(partitions(connection, parent)) >= {*wanted, f"{parent}_of_other_days"}


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "America/Los_Angeles"])
@pytest.mark.parametrize("style", ["ISO, MDY", "SQL, DMY", "German"])
def test_days_are_those_of_utc_whatever_the_session_s_time_zone_and_style(
    connection: sa.Connection, zone: str, style: str
) -> None:
    for parent in PARENTS:
        for name in partitions(connection, parent):
            if not name.endswith("_of_other_days"):
                connection.execute(sa.text(f"DROP TABLE flatearth.{name}"))
    connection.execute(sa.text(f"SET LOCAL TIME ZONE '{zone}'"))
    connection.execute(sa.text(f"SET LOCAL DateStyle TO {style}"))
    made = connection.execute(sa.text("SELECT flatearth.make_job_partitions(5)")).scalar_one()
    connection.execute(sa.text("SET LOCAL TIME ZONE 'UTC'"))
    connection.execute(sa.text("SET LOCAL DateStyle TO 'ISO, MDY'"))
    assert made == 12
    day = today(connection)
    query = "SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE oid = CAST(:name AS regclass)"
    for parent in PARENTS:
        tomorrow = {"name": f"flatearth.{partition(parent, day + DAY)}"}
        bounds = connection.execute(sa.text(query), tomorrow).scalar_one()
        assert bounds == f"FOR VALUES FROM ('{day + DAY} 00:00:00+00') TO ('{day + 2 * DAY} 00:00:00+00')"


def test_two_who_make_the_days_at_once_make_each_once(engine: sa.Engine, other_engine: sa.Engine) -> None:
    with engine.connect() as one:
        day = today(one)
        for parent in PARENTS:
            drop_day(one, parent, day + 2 * DAY)
        one.commit()
        assert storage.make_partitions(one) == 2
        other = in_background(other_engine, storage.make_partitions)
        wait_until_blocked(engine)
        one.commit()
        assert other.result(timeout=20) == 0


# --------------------------------------------------------------------------------------------- the days are dropped


def test_days_that_ended_before_the_age_of_their_kind_are_dropped_and_named(connection: sa.Connection) -> None:
    day = today(connection)
    over = [make_day(connection, parent, day - KEEP[parent] - DAY) for parent in reversed(PARENTS)]
    kept = [make_day(connection, parent, day - KEEP[parent]) for parent in PARENTS]
    kept.append(make_day(connection, "dead_jobs", day - 8 * DAY))
    assert storage.drop_history(connection, KEEP["finished_jobs"], KEEP["dead_jobs"]) == over
    names = {name for parent in PARENTS for name in partitions(connection, parent)}
    assert names >= {*kept, "finished_jobs_of_other_days", "dead_jobs_of_other_days"}
    assert names.isdisjoint(over)
    assert storage.make_partitions(connection) == 0


def test_by_default_finished_jobs_are_kept_seven_days_and_dead_ones_thirty(connection: sa.Connection) -> None:
    ids = {parent: [ended_job(connection, parent) for _ in range(3)] for parent in PARENTS}
    for parent, (old, young, _) in ids.items():
        age(connection, parent, old, KEEP[parent] + MINUTE)
        age(connection, parent, young, KEEP[parent] - MINUTE)
    connection.execute(sa.text("SELECT flatearth.drop_job_partitions()"))
    for old, young, new in ids.values():
        assert there(connection, old, young, new) == [young, new]


@BOTH
def test_a_job_of_the_boundary_day_goes_exactly_at_its_age(connection: sa.Connection, parent: str) -> None:
    """behaviour.md: "a row on the boundary day still goes exactly when the table above says"."""
    day = today(connection)
    for days in range(1, -2, -1):
        make_day(connection, parent, day - KEEP[parent] - days * DAY)
    old, young = ended_job(connection, parent), ended_job(connection, parent)
    age(connection, parent, old, KEEP[parent] + timedelta(milliseconds=1))
    age(connection, parent, young, KEEP[parent] - MINUTE)
    assert not stands_in(connection, parent, old).endswith("_of_other_days")
    storage.drop_history(connection, KEEP["finished_jobs"], KEEP["dead_jobs"])
    assert there(connection, old, young) == [young]


def test_an_unfinished_job_outlives_every_age(connection: sa.Connection) -> None:
    job_id = enqueue(connection)
    connection.execute(sa.text("UPDATE flatearth.live_jobs SET created_at = '2020-01-01', run_at = '2020-01-01'"))
    storage.drop_history(connection, timedelta(0), timedelta(0))
    assert there(connection, job_id) == [job_id]


@pytest.mark.parametrize("ages", [(-DAY, DAY), (DAY, -DAY), (None, DAY), (DAY, None)], ids=str)
def test_a_negative_age_is_refused_with_22023_and_nothing_is_dropped(connection: sa.Connection, ages: Any) -> None:
    job_id = finished_job(connection)
    age(connection, "finished_jobs", job_id, 300 * DAY)
    call = sa.text("SELECT flatearth.drop_job_partitions(CAST(:finished AS interval), CAST(:dead AS interval))")
    with pytest.raises(DBAPIError) as refused, connection.begin_nested():
        connection.execute(call, dict(zip(("finished", "dead"), ages, strict=True)))
    assert getattr(refused.value.orig, "sqlstate", None) == "22023"
    if None not in ages:
        with pytest.raises(WrongUsage), connection.begin_nested():
            storage.drop_history(connection, *ages)
    assert there(connection, job_id) == [job_id]


# ------------------------------------------------------------------------------------------------------------- keys


def keys(connection: sa.Connection) -> list[str]:
    return list(connection.execute(sa.text("SELECT job_key FROM flatearth.job_keys ORDER BY job_key")).scalars())


def test_a_key_goes_with_the_history_of_its_job_and_one_of_an_unfinished_job_stays(connection: sa.Connection) -> None:
    old, young = finished_job(connection, job_key="old"), finished_job(connection, job_key="young")
    waiting = enqueue(connection, job_key="waiting")
    age(connection, "finished_jobs", old, 8 * DAY)
    used = sa.text("UPDATE flatearth.job_keys SET used_at = now() - :age WHERE job_key = :key")
    for key, days in (("old", 8), ("young", 6), ("waiting", 60)):
        connection.execute(used, {"age": days * DAY, "key": key})
    storage.drop_history(connection, 7 * DAY, 30 * DAY)
    assert keys(connection) == ["waiting", "young"]
    assert enqueue(connection, job_key="waiting") == waiting
    assert enqueue(connection, job_key="young", window_seconds=3600) == young


def test_the_key_of_a_job_that_ended_lately_stays_however_long_ago_it_was_enqueued(connection: sa.Connection) -> None:
    job_id = finished_job(connection, job_key="k")
    connection.execute(sa.text("UPDATE flatearth.job_keys SET used_at = now() - interval '8 days'"))
    storage.drop_history(connection, 7 * DAY, 30 * DAY)
    assert enqueue(connection, job_key="k", window_seconds=3600) == job_id


# --------------------------------------------------------------------------------------------- beside somebody's read


def test_a_long_read_of_the_history_holds_up_neither_a_drain_that_makes_its_days_nor_one_that_ends_its_jobs(
    engine: sa.Engine, other_engine: sa.Engine
) -> None:
    """A dump reads for hours. A day that is not made yet is no harm: there are three ahead, and the default one."""
    with engine.connect() as reader, other_engine.connect() as drain:
        drop_day(reader, "finished_jobs", today(reader) + 3 * DAY)
        reader.commit()
        assert storage.read_jobs(reader) == []
        drain.execute(sa.text("SET statement_timeout = '5s'"))
        storage.make_partitions(drain)
        drain.commit()
        finished_job(drain)


def test_dropping_a_day_that_somebody_reads_does_not_hold_up_a_drain_that_ends_its_jobs(
    engine: sa.Engine, other_engine: sa.Engine
) -> None:
    with engine.connect() as reader:
        make_day(reader, "finished_jobs", today(reader) - 8 * DAY)
        job_id, lease_id = enqueue(reader), open_lease(reader)
        assert claim(reader, lease_id) == [job_id]
        reader.commit()
        assert len(storage.read_jobs(reader)) == 1
        dropping = in_background(other_engine, lambda connection: storage.drop_history(connection, 7 * DAY, 30 * DAY))
        wait_until_blocked(engine)
        with engine.connect() as drain:
            drain.execute(sa.text("SET statement_timeout = '5s'"))
            try:
                assert finish(drain, lease_id, [job_id]) == 1
            finally:
                reader.rollback()
                dropping.exception(timeout=20)
