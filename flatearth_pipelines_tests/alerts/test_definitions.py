"""A run that fails is told of: by a real run, to a real mail server or an outbox."""

import email
import email.policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa

from flatearth_pipelines import tables
from flatearth_pipelines.alerts.definitions import tell_of_failed_runs
from flatearth_pipelines.definitions import defs

WRONG = {"ops": {"postpone_stale_cards": {"config": {"as_of": "yesterday"}}}}


@pytest.fixture
def outbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where mail to the operator goes."""
    monkeypatch.setenv("FLATEARTH_ALERT_EMAIL", "Ops <ops@acme.example>")
    monkeypatch.setenv("FLATEARTH_SMTP_URL", f"file:{tmp_path / 'outbox'}")
    return tmp_path / "outbox"


def mails(outbox: Path) -> list[EmailMessage]:
    return [
        email.message_from_bytes(file.read_bytes(), policy=email.policy.default) for file in sorted(outbox.glob("*"))
    ]


def fail(instance: dg.DagsterInstance, job: str = "auto_postpone", run_config: Any = WRONG) -> dg.DagsterRun:
    """The run of a job that has failed, after its sensor was told."""
    definition = defs.resolve_job_def(job)
    result = definition.execute_in_process(instance=instance, run_config=run_config, raise_on_error=False)
    assert not result.success
    context = dg.build_run_status_sensor_context(
        sensor_name="tell_of_failed_runs",
        dagster_event=result.get_run_failure_event(),
        dagster_instance=instance,
        dagster_run=result.dagster_run,
    ).for_run_failure()
    tell_of_failed_runs(context)
    return result.dagster_run


@pytest.mark.usefixtures("database")
def test_a_failed_run_is_mailed_with_its_reason_and_its_page_once_an_hour_for_each_job(
    engine: sa.Engine, instance: dg.DagsterInstance, outbox: Path
) -> None:
    run = fail(instance)

    (mail,) = mails(outbox)
    assert (mail["To"], mail["Subject"]) == ("Ops <ops@acme.example>", "A run of auto_postpone has failed")
    assert f"/runs/{run.run_id}\n" in mail.get_content()
    assert "\n    postpone_stale_cards: as_of 'yesterday' is not a date and time" in mail.get_content()

    fail(instance)
    assert len(mails(outbox)) == 1

    fail(instance, "delete_unused_tags", {"ops": {"sweep_tags": {"config": {"as_of": "yesterday"}}}})
    assert {each["Subject"] for each in mails(outbox)} == {
        "A run of auto_postpone has failed",
        "A run of delete_unused_tags has failed",
    }

    with engine.begin() as connection:
        connection.execute(sa.update(tables.alerts).values(told_at=sa.func.now() - sa.text("interval '1 hour'")))
    fail(instance)
    assert any("1 other of this job failed" in each.get_content() for each in mails(outbox))


@pytest.mark.usefixtures("database")
def test_without_an_address_it_is_a_warning_in_the_log(
    instance: dg.DagsterInstance, outbox: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("FLATEARTH_ALERT_EMAIL")
    fail(instance)
    said = capfd.readouterr().err
    assert "A run of auto_postpone has failed: postpone_stale_cards: as_of 'yesterday' is not a date and time" in said
    assert "Nobody is told: FLATEARTH_ALERT_EMAIL is not set" in said
    assert not outbox.exists()


@pytest.mark.usefixtures("database")
def test_a_mail_that_no_server_takes_now_is_left_to_the_queue_which_tries_again(
    engine: sa.Engine, instance: dg.DagsterInstance, outbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLATEARTH_SMTP_URL", "smtp://ada:s3cret@127.0.0.1:1")
    fail(instance)

    with engine.begin() as connection:
        (job,) = connection.execute(sa.select(tables.jobs.c.handler, tables.jobs.c.payload)).all()
    assert (job.handler, job.payload["to"]) == ("send_email", "Ops <ops@acme.example>")
    assert job.payload["subject"] == "A run of auto_postpone has failed"
    assert not outbox.exists()


def test_a_database_that_is_away_ends_in_a_warning_without_a_secret(
    instance: dg.DagsterInstance, outbox: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FLATEARTH_DATABASE_URL", "postgresql://me:s3cret@127.0.0.1:1/none")
    fail(instance)
    said = capfd.readouterr().err
    assert "Nobody is told: Postgres cannot be reached" in said
    assert "s3cret" not in said
    assert not outbox.exists()
