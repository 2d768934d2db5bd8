"""Files: the object first, then the row; and orphans on either side. In a directory, and on a real S3 server."""

import os
import signal
from collections.abc import Callable, Generator
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import dagster as dg
import psycopg
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flatearth_pipelines import tables
from flatearth_pipelines.cleanup.files import OldFiles, OrphanedObjects
from flatearth_pipelines.cleanup.outcome import Swept
from flatearth_pipelines.cleanup.retention import RETENTIONS
from flatearth_pipelines.cleanup.sweeping import sweep
from flatearth_pipelines.cleanup.targets import parts_of
from flatearth_pipelines.errors import StorageUnavailable
from flatearth_pipelines.objects import Objects
from flatearth_pipelines.settings import Settings
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.cleanup import observed
from flatearth_pipelines_tests.cleanup.runs import dry_run, execute, failed, log_of, run, succeeded
from flatearth_pipelines_tests.factories import DAY, MICROSECOND, NOON
from flatearth_pipelines_tests.processes import ended, job_execute, until
from flatearth_pipelines_tests.s3 import Server, deaf_front, environment, s3_server

FILES = RETENTIONS["files"]

LATER = datetime.fromisoformat("2200-01-01T00:00:00+00:00")
"""By then every object that a test has written is old."""


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


def use(monkeypatch: pytest.MonkeyPatch, url: str) -> Objects:
    monkeypatch.setenv("FLATEARTH_STORAGE_URL", url)
    return Objects(Settings.from_environment().storage_url)


@pytest.fixture
def bucket(s3: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Objects:
    """The storage of the environment, empty: a prefix of the test's own."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    return use(monkeypatch, f"s3://acme/{tmp_path.name}")


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Objects:
    """Likewise a directory."""
    return use(monkeypatch, f"file:{quote(str(tmp_path / 'objects'))}")


@pytest.fixture(params=["directory", "bucket"])
def objects(request: pytest.FixtureRequest) -> Objects:
    storage: Objects = request.getfixturevalue(request.param)
    return storage


@pytest.fixture
def account(engine: sa.Engine) -> int:
    with engine.begin() as connection:
        return make.account(connection)


def upload(engine: sa.Engine, objects: Objects, account: int, key: str, age: timedelta = 31 * DAY) -> int:
    """A file, its row and its object."""
    objects.put(key, b"x")
    with engine.begin() as connection:
        return make.file(connection, account, key, age)


def keys(objects: Objects) -> list[str]:
    return sorted(stored.key for part in objects.listed("files", 1_000) for stored in part)


def stored(engine: sa.Engine) -> list[str]:
    """The keys of the rows."""
    with engine.connect() as connection:
        return sorted(connection.execute(sa.select(tables.files.c.storage_key)).scalars())


# The boundary


def test_a_file_of_exactly_30_days_stays_and_one_a_microsecond_older_goes_object_and_row(
    engine: sa.Engine, objects: Objects, account: int
) -> None:
    upload(engine, objects, account, "files/exactly", 30 * DAY)
    upload(engine, objects, account, "files/older", 30 * DAY + MICROSECOND)
    upload(engine, objects, account, "files/new", timedelta(0))
    objects.put("exports/1", b"not ours")

    assert run(engine, "files").deleted == {"files": 1, "orphaned_objects": 0}

    assert stored(engine) == keys(objects) == ["files/exactly", "files/new"]
    assert [part[0].key for part in objects.listed("exports", 10)] == ["exports/1"]


@pytest.mark.usefixtures("objects")
def test_a_row_without_an_object_is_deleted_when_it_is_due_and_not_before(engine: sa.Engine, account: int) -> None:
    with engine.begin() as connection:
        make.file(connection, account, "files/lost", 31 * DAY)
        make.file(connection, account, "files/lost too", 30 * DAY)

    assert run(engine, "files").deleted["files"] == 1
    assert stored(engine) == ["files/lost too"]


def test_an_object_without_a_row_goes_when_it_is_older_than_a_day_strictly(
    engine: sa.Engine, objects: Objects, account: int
) -> None:
    upload(engine, objects, account, "files/known", timedelta(0))
    objects.put("files/orphan", b"x")
    written = {each.key: each.modified_at for part in objects.listed("files", 10) for each in part}
    a_day_old = written["files/orphan"] + DAY

    with engine.begin() as connection:
        connection.execute(sa.update(tables.files).values(created_at=a_day_old))  # not due at any of these instants
    assert run(engine, "files", as_of=a_day_old - MICROSECOND).deleted == {"files": 0, "orphaned_objects": 0}
    assert run(engine, "files", as_of=a_day_old).deleted["orphaned_objects"] == 0
    assert keys(objects) == ["files/known", "files/orphan"]
    assert run(engine, "files", as_of=a_day_old + MICROSECOND).deleted == {"files": 0, "orphaned_objects": 1}
    assert keys(objects) == ["files/known"]


def test_an_upload_of_today_whose_row_is_still_to_come_stays(engine: sa.Engine, objects: Objects, account: int) -> None:
    del account
    objects.put("files/just now", b"x")
    with engine.connect() as connection:
        now = connection.execute(sa.select(sa.func.now())).scalar_one()
    assert run(engine, "files", as_of=now, keep_for="0 days").deleted["orphaned_objects"] == 0
    assert keys(objects) == ["files/just now"]


def test_a_row_whose_key_begins_with_a_slash_is_the_row_of_its_object(
    engine: sa.Engine, directory: Objects, account: int
) -> None:
    upload(engine, directory, account, "/files/a", -1_000_000 * DAY / 10)
    assert run(engine, "files", as_of=NOON + 20_000 * DAY).deleted == {"files": 0, "orphaned_objects": 0}
    assert keys(directory) == ["files/a"]


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    drawn=st.lists(st.tuples(st.booleans(), st.none() | st.integers(-2, 2)), max_size=12),
    batch_size=st.integers(1, 4),
)
def test_after_a_run_every_object_has_its_row_and_only_what_was_due_is_gone(
    engine: sa.Engine, directory: Objects, drawn: list[tuple[bool, int | None]], batch_size: int
) -> None:
    """Each of them an object or not, and a row or none, so many microseconds older than its time."""
    with engine.begin() as connection:
        connection.execute(sa.delete(tables.accounts))
        directory.delete(keys(directory))
        owner = make.account(connection)
        for number, (has_object, older) in enumerate(drawn):
            if has_object:
                directory.put(f"files/{number}", b"")
            if older is not None:
                row = {"account_id": owner, "storage_key": f"files/{number}"}
                row["created_at"] = LATER - 30 * DAY - older * MICROSECOND
                connection.execute(sa.insert(tables.files).values(row))
    rows = {f"files/{number}": older for number, (_, older) in enumerate(drawn) if older is not None}
    there = {f"files/{number}" for number, (has_object, _) in enumerate(drawn) if has_object}

    rehearsed = dry_run(engine, "files", as_of=LATER)
    assert (set(stored(engine)), set(keys(directory))) == (set(rows), there)
    swept = run(engine, "files", as_of=LATER, batch_size=batch_size)

    stay = {key for key, older in rows.items() if older <= 0}
    assert set(stored(engine)) == stay
    assert set(keys(directory)) == stay & there
    assert swept.deleted == rehearsed.deleted
    assert swept.deleted == {"files": len(rows) - len(stay), "orphaned_objects": len(there - rows.keys())}


# What the storage does not let go of


def test_a_file_whose_object_cannot_be_deleted_stays_and_the_others_go_and_it_is_said(
    engine: sa.Engine, directory: Objects, account: int, instance: dg.DagsterInstance
) -> None:
    upload(engine, directory, account, "files/a")
    upload(engine, directory, account, "files/b", 32 * DAY)
    upload(engine, directory, account, "files/new", DAY)
    impossible = "files/" + 300 * "x"  # no directory lets go of a name of that length
    with engine.begin() as connection:
        make.file(connection, account, impossible, 31 * DAY + MICROSECOND)

    result = execute(instance, FILES, batch_size=1)

    assert result.success
    assert stored(engine) == ["files/new", impossible]
    assert keys(directory) == ["files/new"]
    (warning,) = (line for line in log_of(instance, result) if "objects stay" in line)
    assert warning.startswith("1 objects stay, and the next run tries again. The storage file:")
    assert "File name too long" in warning
    assert succeeded(instance, FILES)["refused"] == 1


def test_a_key_that_no_object_can_have_is_a_row_without_an_object(
    engine: sa.Engine, objects: Objects, account: int
) -> None:
    with engine.begin() as connection:
        for key in ("../a", "files//a", "files/./b", "files/\n"):
            make.file(connection, account, key)
    upload(engine, objects, account, "files/a")
    assert run(engine, "files").deleted["files"] == 5
    assert (stored(engine), keys(objects)) == ([], [])


# A storage that fails


def sweep_files(engine: sa.Engine, swept: Swept, batch_size: int, progress: Callable[[], None]) -> None:
    retention = FILES.changed(batch_size=batch_size)
    with engine.connect() as connection:
        parts = parts_of(retention, Settings.from_environment)
        sweep(connection, retention, parts, NOON, swept=swept, progress=progress)


def test_a_server_that_dies_between_two_batches_loses_nothing_and_the_next_run_goes_on(
    engine: sa.Engine, s3: Server, bucket: Objects, account: int
) -> None:
    names = [f"files/{number}" for number in range(6)]
    for number, key in enumerate(names):
        upload(engine, bucket, account, key, 40 * DAY - number * DAY / 24)
    swept = Swept()
    with pytest.raises(StorageUnavailable, match=r"^The storage s3://acme/[^\n]+ says: [^\n]+$"):
        sweep_files(engine, swept, 2, s3.kill)
    try:
        assert swept.deleted == {"files": 2}
        assert stored(engine) == names[2:]
    finally:
        s3.start()
    assert keys(bucket) == names[2:]

    assert run(engine, "files").deleted == {"files": 4, "orphaned_objects": 0}
    assert (stored(engine), keys(bucket)) == ([], [])


def test_a_server_that_deletes_and_does_not_say_so_leaves_rows_which_the_next_run_deletes(
    engine: sa.Engine, s3: Server, bucket: Objects, account: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["files/a", "files/b"]
    for key in names:
        upload(engine, bucket, account, key)
    with deaf_front(s3.port) as port:
        monkeypatch.setenv("AWS_ENDPOINT_URL", environment(port)["AWS_ENDPOINT_URL"])
        assert keys(Objects(bucket.url)) == names, "it answers whatever is no deletion"
        swept = run(engine, "files")
    assert (swept.deleted["files"], swept.refused, swept.remaining) == (0, 2, 2)
    assert stored(engine) == names
    assert keys(bucket) == []

    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.environment["AWS_ENDPOINT_URL"])
    assert run(engine, "files").deleted["files"] == 2
    assert stored(engine) == []


def test_a_storage_that_is_away_fails_the_run_in_one_line_and_nothing_is_lost(
    engine: sa.Engine, bucket: Objects, account: int, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(engine, bucket, account, "files/a")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")

    assert failed(instance, FILES).startswith("The storage s3://acme/")
    assert stored(engine) == keys(bucket) == ["files/a"]


def test_a_bucket_that_is_not_there_fails_the_run_and_no_row_is_taken_for_one_without_an_object(
    engine: sa.Engine, bucket: Objects, account: int, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(engine, bucket, account, "files/a")
    monkeypatch.setenv("FLATEARTH_STORAGE_URL", "s3://none-of-ours")

    assert failed(instance, FILES).startswith("The storage s3://none-of-ours says: NoSuchBucket")
    assert stored(engine) == ["files/a"]


# Whole runs


def test_a_run_of_the_job_against_s3_deletes_objects_and_rows_and_sweeps_orphans(
    engine: sa.Engine, bucket: Objects, account: int, instance: dg.DagsterInstance
) -> None:
    for number in range(12):
        upload(engine, bucket, account, f"files/{number}")
    bucket.put("files/orphan", b"x")

    metadata = succeeded(instance, FILES, batch_size=5, as_of=LATER.isoformat(), keep_for="30 days")

    assert (metadata["deleted"], metadata["orphaned_objects_deleted"], metadata["remaining"]) == (12, 1, 0)
    assert (stored(engine), keys(bucket)) == ([], [])


def test_a_run_killed_in_the_middle_leaves_no_object_without_its_row_and_the_next_run_finishes(
    engine: sa.Engine, database: str, directory: Objects, account: int, tmp_path: Path
) -> None:
    names = [f"files/{number:05}" for number in range(3_000)]
    for key in names:
        directory.put(key, b"")
    with engine.begin() as connection:
        values = [{"account_id": account, "storage_key": key, "created_at": NOON - 31 * DAY} for key in names]
        connection.execute(sa.insert(tables.files), values)
    (tmp_path / "runs").mkdir()
    config = {"as_of": NOON.isoformat(), "batch_size": 10}

    with job_execute(tmp_path / "runs", FILES.job, "sweep_files", config) as process:
        until(lambda: observed.count(engine, tables.files) <= len(names) - 50)
        process.kill()
        exit_code, _ = ended(process)
    until(lambda: sessions(database) == 0)

    assert exit_code == -signal.SIGKILL
    left = stored(engine)
    assert 0 < len(left) < len(names)
    assert len(left) % 10 == 0, "rows go in whole batches"
    assert set(keys(directory)) <= set(left)
    assert len(left) - len(keys(directory)) <= 10

    with job_execute(tmp_path / "runs", FILES.job, "sweep_files", config) as process:
        exit_code, output = ended(process)
    assert exit_code == 0, output
    assert (stored(engine), keys(directory)) == ([], [])


def test_orphans_in_directories_that_vanish_with_them_are_all_found(
    engine: sa.Engine, directory: Objects, account: int
) -> None:
    del account
    for number in range(200):
        directory.put(f"files/{number % 20}/{number}/a", b"")
    assert run(engine, "files", as_of=LATER, batch_size=7).deleted["orphaned_objects"] == 200
    assert keys(directory) == []


def test_the_time_holds_for_orphans_too(engine: sa.Engine, directory: Objects, account: int) -> None:
    del account
    for number in range(5):
        directory.put(f"files/{number}", b"")
    swept = run(engine, "files", as_of=LATER, batch_size=2, max_seconds=0)
    assert (swept.deleted["orphaned_objects"], swept.budget_hit) == (2, True)


def test_the_parts_themselves_count_what_is_due_and_name_the_oldest_file(
    connection: sa.Connection, tmp_path: Path
) -> None:
    objects = Objects(f"file:{tmp_path}")
    objects.put("files/orphan", b"")
    os.utime(tmp_path / "files" / "orphan", (0, 0))
    owner = make.account(connection)
    make.file(connection, owner, "files/a", 31 * DAY)
    make.file(connection, owner, "files/b", DAY)
    files, orphans = OldFiles(objects), OrphanedObjects(objects)

    assert files.count_due(connection, NOON - 30 * DAY) == 1
    assert files.oldest(connection) == (NOON - 31 * DAY).isoformat()
    assert files.oldest(connection, NOON - 30 * DAY) == (NOON - DAY).isoformat()
    assert orphans.count_due(connection, NOON) == 1


def sessions(conninfo: str) -> int:
    """How many the job has in this database."""
    query = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name LIKE 'flatearth delete_old_files %'"
    )
    with psycopg.connect(conninfo) as connection:
        (count,) = connection.execute(query).fetchone() or (0,)
        return int(count)
