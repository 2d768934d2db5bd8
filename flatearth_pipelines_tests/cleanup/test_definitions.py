"""The Dagster jobs of clean-ups on a real database, with the resources that they have in production."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest
import sqlalchemy as sa

from flatearth_pipelines import tables
from flatearth_pipelines.cleanup.retention import RETENTIONS, Retention
from flatearth_pipelines.definitions import defs
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.cleanup import observed
from flatearth_pipelines_tests.cleanup.runs import execute, failed, log_of, succeeded
from flatearth_pipelines_tests.factories import DAY, MICROSECOND, NOON

EVERY = pytest.mark.parametrize("retention", RETENTIONS.values(), ids=RETENTIONS)

SESSIONS = RETENTIONS["sessions"]


@pytest.fixture(autouse=True)
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of objects, empty."""
    monkeypatch.setenv("FLATEARTH_STORAGE_URL", f"file:{tmp_path / 'objects'}")
    return tmp_path / "objects"


ROWS: dict[str, tuple[sa.Table, Callable[[sa.Connection, int, Any], Any]]] = {
    "webhook_deliveries": (
        tables.webhook_deliveries,
        lambda connection, account, age: make.delivery(
            connection, make.webhook(connection, account), created_at=NOON - age
        ),
    ),
    "sessions": (
        tables.sessions,
        lambda connection, account, age: make.session(connection, make.user(connection, account), age),
    ),
    "audit_logs": (tables.api_audit_logs, make.audit_log),
    "files": (
        tables.files,
        lambda connection, account, age: make.file(connection, account, f"files/{age.total_seconds()}", age),
    ),
    "tags": (tables.tags, make.tag),
}
"""How a row of each target comes to be, so long before `NOON`."""


@EVERY
def test_a_run_deletes_what_is_a_microsecond_too_old_leaves_the_rest_and_says_so(
    engine: sa.Engine, instance: dg.DagsterInstance, retention: Retention
) -> None:
    table, new = ROWS[retention.target]
    with engine.begin() as connection:
        account = make.account(connection)
        for age in (retention.keep_for, retention.keep_for + MICROSECOND, retention.keep_for + 400 * DAY):
            new(connection, account, age)

    metadata = succeeded(instance, retention)

    assert metadata.pop("seconds") > 0
    assert metadata.pop("keep_for") in {"7 days", "0 days", "90 days", "30 days", "1 day"}
    beside = {"webhook_deliveries": {"webhook_payloads_deleted": 0}, "files": {"orphaned_objects_deleted": 0}}
    assert metadata == {
        "deleted": 2,
        **beside.get(retention.target, {}),
        "remaining": 0,
        "refused": 0,
        "oldest_left": (NOON - retention.keep_for).isoformat(),
        "budget_hit": False,
        "batches": 1,
        "as_of": NOON.isoformat(),
        "dry_run": False,
    }
    assert observed.count(engine, table) == 1


@EVERY
def test_a_dry_run_publishes_the_same_numbers_and_deletes_nothing_and_plots_nothing(
    engine: sa.Engine, instance: dg.DagsterInstance, retention: Retention
) -> None:
    table, new = ROWS[retention.target]
    with engine.begin() as connection:
        account = make.account(connection)
        for age in (retention.keep_for, retention.keep_for + MICROSECOND):
            new(connection, account, age)

    result = execute(instance, retention, dry_run=True)

    assert result.get_asset_materialization_events() == []
    assert observed.count(engine, table) == 2
    rehearsed, done = succeeded(instance, retention, dry_run=True), succeeded(instance, retention)
    for metadata in (rehearsed, done):
        for own in ("seconds", "dry_run", "batches"):
            metadata.pop(own)
    assert rehearsed == done
    assert done["deleted"] == 1


@EVERY
@pytest.mark.usefixtures("database")
def test_nothing_to_do_is_a_success_that_says_so(instance: dg.DagsterInstance, retention: Retention) -> None:
    result = execute(instance, retention)

    assert result.success
    assert f"Nothing to do: there are no {retention.what} to delete" in log_of(instance, result)


@EVERY
def test_every_job_runs_at_its_time_in_utc_by_default(retention: Retention) -> None:
    schedule = defs.resolve_schedule_def(f"{retention.job}_daily")
    assert (schedule.job_name, schedule.cron_schedule) == (retention.job, retention.cron)
    assert (schedule.execution_timezone, schedule.default_status) == ("UTC", dg.DefaultScheduleStatus.RUNNING)


def test_the_times_that_others_rely_on() -> None:
    assert RETENTIONS["tags"].cron == "2 4 * * *"
    assert RETENTIONS["webhook_deliveries"].cron == "0 3 * * *"


# What the UI plots


@EVERY
def test_what_was_deleted_and_what_remains_is_materialized_so_that_the_ui_plots_it(
    engine: sa.Engine, instance: dg.DagsterInstance, retention: Retention
) -> None:
    _, new = ROWS[retention.target]
    with engine.begin() as connection:
        new(connection, make.account(connection), retention.keep_for + MICROSECOND)

    (event,) = execute(instance, retention).get_asset_materialization_events()

    assert event.asset_key == dg.AssetKey(f"deleted_{retention.target}")
    assert event.materialization.metadata["deleted"] == dg.MetadataValue.int(1)
    assert event.materialization.metadata["remaining"] == dg.MetadataValue.int(0)
    assert defs.resolve_asset_graph().has(event.asset_key)


# Config


def test_keep_for_batch_size_and_max_seconds_hold_for_the_run(engine: sa.Engine, instance: dg.DagsterInstance) -> None:
    expired(engine, 3 * DAY, 4 * DAY, 5 * DAY, DAY)

    metadata = succeeded(instance, SESSIONS, keep_for="2 days", batch_size=1, max_seconds=0)

    assert (metadata["deleted"], metadata["batches"], metadata["keep_for"]) == (1, 1, "2 days")
    assert (metadata["budget_hit"], metadata["remaining"]) == (True, 2)


def test_by_default_the_instant_is_the_databases_now(engine: sa.Engine, instance: dg.DagsterInstance) -> None:
    with engine.begin() as connection:
        person = make.user(connection, make.account(connection))
        for span in ("-1 hour", "1 hour"):
            row = {"user_id": person, "expires_at": sa.func.now() + sa.cast(span, sa.Interval)}
            connection.execute(sa.insert(tables.sessions).values(row))
    assert succeeded(instance, SESSIONS, as_of=None)["deleted"] == 1


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"batch_size": 0}, "batch_size is 0: it takes 1 to 50,000"),
        ({"max_seconds": -1.0}, "max_seconds is -1: it takes 0 to 86,400"),
        ({"keep_for": "soon"}, "keep_for is 'soon': it takes a number of weeks, days, hours, minutes or seconds"),
        ({"as_of": "2026-11-22T09:00"}, "as_of '2026-11-22T09:00' has no zone"),
        ({"as_of": "0001-01-01T00:00:00+00:00", "keep_for": "1 day"}, "as_of 0001-01-01T00:00:00+00:00 is too early"),
    ],
)
def test_a_config_that_makes_no_sense_fails_the_run_in_one_line(
    instance: dg.DagsterInstance, config: dict[str, Any], words: str
) -> None:
    assert failed(instance, SESSIONS, **config).startswith(words)


# Beside others


def test_a_second_run_succeeds_names_the_holder_of_the_lock_and_does_nothing(
    engine: sa.Engine, database: str, instance: dg.DagsterInstance
) -> None:
    expired(engine, DAY)
    with psycopg.connect(database, application_name="the night shift", autocommit=True) as holder:
        holder.execute("SELECT pg_advisory_lock(hashtextextended('flatearth.delete_expired_sessions', 0))")
        result = execute(instance, SESSIONS)

        assert result.success
        assert any("the night shift" in line for line in log_of(instance, result))
        assert observed.count(engine, tables.sessions) == 1
        assert succeeded(instance, RETENTIONS["audit_logs"])["deleted"] == 0, "another one has a lock of its own"
    assert succeeded(instance, SESSIONS)["deleted"] == 1


def test_what_remains_is_warned_of(engine: sa.Engine, other_engine: sa.Engine, instance: dg.DagsterInstance) -> None:
    expired(engine, DAY, 2 * DAY)
    with other_engine.connect() as somebody:
        somebody.execute(sa.text("SELECT FROM flatearth.sessions ORDER BY id LIMIT 1 FOR UPDATE"))
        result = execute(instance, SESSIONS)

        assert any("1 due sessions remain: somebody holds them" in line for line in log_of(instance, result))
    result = execute(instance, SESSIONS)
    assert not any("remain" in line for line in log_of(instance, result))


def expired(engine: sa.Engine, *ages: Any) -> None:
    """Sessions of one person."""
    with engine.begin() as connection:
        person = make.user(connection, make.account(connection))
        for age in ages:
            make.session(connection, person, age)
