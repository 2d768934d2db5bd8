"""Somebody is told of dead jobs: once an hour for each handler, and in the end also when the mail server was down."""

import contextlib
import email
import email.policy
import logging
import socket
import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from pathlib import Path

import dagster as dg
import psycopg
import pytest
import sqlalchemy as sa

from flatearth_pipelines.queue import functions, storage
from flatearth_pipelines.queue.alerts import alert_text, summary
from flatearth_pipelines.queue.storage import Alert
from flatearth_pipelines_tests.queue.conftest import dead_job, in_background, wait_until_blocked
from flatearth_pipelines_tests.queue.runs import execute, log_of
from flatearth_pipelines_tests.queue.workers import DEADLINE, change, scalar

SINCE = datetime(2026, 11, 22, 12, 34, 56, tzinfo=UTC)
HOUR = timedelta(hours=1)


# What somebody is told


def test_a_mail_about_one_job_names_it_and_its_error_and_what_to_do() -> None:
    subject, text = alert_text(Alert("greet", 1, SINCE, [7], "ValueError: no name"))

    assert subject == "A job of greet died"
    for words in (
        "A job of the handler greet died, the first at 2026-11-22 12:34:56 UTC",
        "by itself.",
        "Jobs: 7\n",
        "Newest error: ValueError: no name",
        "flatearth jobs list --state failed --handler greet",
        "flatearth jobs retry 7",
    ):
        assert words in text


@pytest.mark.parametrize(("jobs", "ids"), [(5, "1, 2, 3, 4, 5\n"), (6, "1, 2, 3, 4, 5 and more\n")])
def test_a_mail_about_several_jobs_names_five_of_them(jobs: int, ids: str) -> None:
    subject, text = alert_text(Alert("greet", jobs, SINCE, [1, 2, 3, 4, 5], "no name"))

    assert subject == f"{jobs} jobs of greet died"
    assert "by themselves." in text
    assert f"Jobs: {ids}" in text


def test_the_log_is_told_in_one_line() -> None:
    line = summary(Alert("greet", 1_234, SINCE, [1, 2, 3, 4, 5], "ValueError: no name"))

    assert "1,234" in line
    assert "greet" in line
    assert "ValueError: no name" in line
    assert "\n" not in line


# Of what, and when


def test_the_dead_jobs_of_a_handler_are_told_of_together_the_oldest_ids_and_the_newest_error(
    connection: sa.Connection,
) -> None:
    ids = [dead_job(connection, error=f"error {number}") for number in range(7)]
    dead_job(connection, "greet")

    assert storage.handlers_to_tell_of(connection) == ["greet", "noop"]
    alert = storage.take_alert(connection, "noop")

    assert alert is not None
    first = connection.execute(sa.text("SELECT min(finished_at) FROM flatearth.dead_jobs WHERE handler = 'noop'"))
    assert alert == Alert("noop", 7, first.scalar_one(), ids[:5], "error 6")
    assert storage.handlers_to_tell_of(connection) == ["greet"]


def test_a_job_that_dies_within_the_hour_is_told_of_after_it(connection: sa.Connection) -> None:
    dead_job(connection)
    assert storage.take_alert(connection, "noop") is not None
    job_id = dead_job(connection)

    told_ago(connection, HOUR - timedelta(seconds=10))
    assert storage.handlers_to_tell_of(connection) == []
    assert storage.take_alert(connection, "noop") is None

    told_ago(connection, HOUR)
    assert storage.handlers_to_tell_of(connection) == ["noop"]
    alert = storage.take_alert(connection, "noop")
    assert alert is not None
    assert (alert.jobs, alert.first_ids) == (1, [job_id])


def test_nobody_is_told_of_a_dead_job_twice(connection: sa.Connection) -> None:
    dead_job(connection)
    storage.take_alert(connection, "noop")
    told_ago(connection, 2 * HOUR)

    assert storage.handlers_to_tell_of(connection) == []


def test_a_job_that_dies_again_after_a_retry_is_told_of_again(connection: sa.Connection) -> None:
    job_id = dead_job(connection)
    storage.take_alert(connection, "noop")
    functions.retry_job(connection, job_id)
    connection.execute(sa.text("DELETE FROM flatearth.live_jobs"))
    dead_job(connection)
    told_ago(connection, HOUR)

    assert storage.handlers_to_tell_of(connection) == ["noop"]


def test_a_handler_whose_dead_jobs_were_just_retried_uses_up_no_hour(connection: sa.Connection) -> None:
    """Between being named as one to tell of and being told of."""
    functions.retry_job(connection, dead_job(connection))
    assert storage.take_alert(connection, "noop") is None

    connection.execute(sa.text("DELETE FROM flatearth.live_jobs"))
    dead_job(connection)

    assert storage.handlers_to_tell_of(connection) == ["noop"]


def test_one_of_two_runs_at_once_tells(engine: sa.Engine, other_engine: sa.Engine) -> None:
    with engine.begin() as connection:
        dead_job(connection)

    with engine.connect() as connection:
        first = storage.take_alert(connection, "noop")
        second = in_background(other_engine, lambda other: storage.take_alert(other, "noop"))
        wait_until_blocked(engine)
        connection.commit()

    assert first is not None
    assert second.result(DEADLINE) is None


def test_the_other_of_two_runs_tells_when_the_first_could_not(engine: sa.Engine, other_engine: sa.Engine) -> None:
    with engine.begin() as connection:
        dead_job(connection)

    with engine.connect() as connection:
        storage.take_alert(connection, "noop")
        second = in_background(other_engine, lambda other: storage.take_alert(other, "noop"))
        wait_until_blocked(engine)
        connection.rollback()

    assert second.result(DEADLINE) is not None


# In a run


@pytest.fixture(scope="module")
def instance() -> Generator[dg.DagsterInstance]:
    """Dagster's own storage, in memory."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def outbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where mail to the operator goes."""
    monkeypatch.setenv("FLATEARTH_ALERT_EMAIL", "Ops <ops@acme.example>")
    monkeypatch.setenv("FLATEARTH_SMTP_URL", f"file:{tmp_path / 'outbox'}")
    return tmp_path / "outbox"


def test_a_job_that_dies_in_a_run_is_mailed_by_it_once_an_hour_for_each_handler(
    engine: sa.Engine, instance: dg.DagsterInstance, outbox: Path
) -> None:
    ids = {name: enqueue_unknown(engine, name) for name in ("one", "another")}

    warnings = warned(instance)

    by_subject = {mail["Subject"]: mail for mail in mails(outbox)}
    assert by_subject.keys() == {"A job of one died", "A job of another died"}
    for name, job_id in ids.items():
        mail = by_subject[f"A job of {name} died"]
        assert (mail["To"], mail["From"]) == (
            "Ops <ops@acme.example>",
            "Flat Earth <notifications@flatearth.local>",
        )
        assert f"Jobs: {job_id}\n" in mail.get_content()
        assert f"There is no handler '{name}'" in mail.get_content()
        assert any(name in line for line in warnings)

    enqueue_unknown(engine, "one")
    assert warned(instance) == []
    assert len(mails(outbox)) == 2
    change(engine, "UPDATE flatearth.job_alerts SET alerted_at = alerted_at - interval '1 hour'")
    warned(instance)
    assert len(mails(outbox)) == 3


def test_without_an_address_dead_jobs_are_a_warning_in_the_log_which_counts_as_told(
    engine: sa.Engine, instance: dg.DagsterInstance, outbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FLATEARTH_ALERT_EMAIL")
    enqueue_unknown(engine, "one")

    (line,) = warned(instance)

    assert "one" in line
    assert "There is no handler 'one'" in line
    assert warned(instance) == []
    assert scalar(engine, "SELECT count(*) FROM flatearth.dead_jobs WHERE alerted_at IS NULL") == 0
    assert not outbox.exists()


def test_a_mail_server_that_is_down_fails_no_run_and_the_next_one_tells(
    engine: sa.Engine, instance: dg.DagsterInstance, outbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueue_unknown(engine, "one")
    with monkeypatch.context() as down:
        down.setenv("FLATEARTH_SMTP_URL", "smtp://ada:s3cret@127.0.0.1:1")
        warnings = warned(instance)

    assert any("127.0.0.1:1 did not take the mail" in line for line in warnings)
    assert not any("s3cret" in line or "\n" in line for line in warnings)

    warned(instance)
    assert [mail["Subject"] for mail in mails(outbox)] == ["A job of one died"]


def test_an_outbox_that_cannot_be_written_fails_no_run_and_the_next_one_tells(
    engine: sa.Engine, instance: dg.DagsterInstance, outbox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueue_unknown(engine, "one")
    (tmp_path / "a file").touch()
    with monkeypatch.context() as down:
        down.setenv("FLATEARTH_SMTP_URL", f"file:{tmp_path / 'a file' / 'outbox'}")
        assert warned(instance)

    warned(instance)
    assert [mail["Subject"] for mail in mails(outbox)] == ["A job of one died"]


def test_a_mail_server_that_refuses_one_mail_is_not_asked_again_in_the_same_run(
    engine: sa.Engine, instance: dg.DagsterInstance, outbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that does not answer costs 20 s a mail."""
    for name in ("one", "another", "a third"):
        enqueue_unknown(engine, name)
    with monkeypatch.context() as down, refusing_server() as (url, connections):
        down.setenv("FLATEARTH_SMTP_URL", url)
        warned(instance)
        assert len(connections) == 1

    warned(instance)
    assert len(mails(outbox)) == 3


@pytest.mark.usefixtures("outbox")
def test_other_runs_can_drain_while_a_mail_server_lets_one_wait(
    engine: sa.Engine, database: str, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueue_unknown(engine, "one")
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        server.settimeout(DEADLINE)
        monkeypatch.setenv("FLATEARTH_SMTP_URL", f"smtp://127.0.0.1:{server.getsockname()[1]}")
        run = pool.submit(execute, instance)
        waiting, _ = server.accept()
        with waiting, psycopg.connect(database) as connection:
            lock = "SELECT pg_try_advisory_lock(hashtextextended('flatearth.run_due_jobs', 0))"
            free = connection.execute(lock).fetchone()
        assert run.result(DEADLINE).success
    assert free == (True,)


def warned(instance: dg.DagsterInstance) -> list[str]:
    """The warnings of a run, which must succeed."""
    result = execute(instance)
    assert result.success
    return log_of(instance, result, logging.WARNING)


def enqueue_unknown(engine: sa.Engine, handler: str) -> int:
    """A job that dies at once, because the project has no such handler."""
    with engine.begin() as connection:
        query = sa.text("SELECT flatearth.enqueue_job(:handler)")
        job_id: int = connection.execute(query, {"handler": handler}).scalar_one()
        return job_id


def told_ago(connection: sa.Connection, ago: timedelta) -> None:
    """Somebody was last told that long ago."""
    query = sa.text("UPDATE flatearth.job_alerts SET alerted_at = clock_timestamp() - CAST(:ago AS interval)")
    connection.execute(query, {"ago": ago})


def mails(outbox: Path) -> list[EmailMessage]:
    return [email.message_from_bytes(path.read_bytes(), policy=email.policy.default) for path in outbox.glob("*")]


@contextlib.contextmanager
def refusing_server() -> Generator[tuple[str, list[str]]]:
    """Its URL, and who has called."""
    connections: list[str] = []

    def answer() -> None:
        with contextlib.suppress(OSError):
            while True:
                caller, address = server.accept()
                connections.append(str(address))
                with caller:
                    caller.sendall(b"554 not today\r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield f"smtp://127.0.0.1:{server.getsockname()[1]}", connections
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
