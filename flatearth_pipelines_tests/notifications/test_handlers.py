"""The queue's handlers for mail: as applications enqueue them in SQL, run by a real drain, over real SMTP."""

import json
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from flatearth_pipelines.errors import WrongUsage
from flatearth_pipelines.handlers import HANDLERS
from flatearth_pipelines.notifications.handlers import DELIVER_BUNDLE, SEND_EMAIL
from flatearth_pipelines.queue.functions import enqueue_job, enqueue_jobs
from flatearth_pipelines.queue.handlers import Guarantee
from flatearth_pipelines_tests.notifications import observed
from flatearth_pipelines_tests.notifications.mails import change, due_bundle, due_bundles, ends, notify, row
from flatearth_pipelines_tests.notifications.workspace import Workspace, bundle
from flatearth_pipelines_tests.queue.workers import drained
from flatearth_pipelines_tests.smtp import Server, free_port, smtp_server

MAIL = {"to": "Ada@acme.example", "subject": "Hello", "text": "How are you?"}


@pytest.fixture(autouse=True)
def environment(post: Server, secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert secret
    monkeypatch.setenv("FLATEARTH_SMTP_URL", post.url)


def enqueue(engine: sa.Engine, handler: str, payload: dict[str, Any], **options: Any) -> int:
    """By SQL, as an application in any language does."""
    arguments = "".join(f", {name} => :{name}" for name in options)
    query = sa.text(f"SELECT flatearth.enqueue_job(:handler, CAST(:payload AS jsonb){arguments})")
    with engine.begin() as connection:
        values = {"handler": handler, "payload": json.dumps(payload), **options}
        job_id: int = connection.execute(query, values).scalar_one()
        return job_id


def job(engine: sa.Engine, job_id: int) -> Any:
    with engine.connect() as connection:
        return connection.execute(sa.text(f"SELECT * FROM flatearth.jobs WHERE id = {job_id}")).one()


def run(engine: sa.Engine, database: str, handler: str, payload: dict[str, Any], **options: Any) -> Any:
    """The job, after a drain."""
    job_id = enqueue(engine, handler, payload, **options)
    drained(database, HANDLERS)
    return job(engine, job_id)


def test_the_project_has_both_and_they_may_run_again_after_a_crash() -> None:
    assert (HANDLERS["send_email"], HANDLERS["deliver_bundle"]) == (SEND_EMAIL, DELIVER_BUNDLE)
    assert {SEND_EMAIL.guarantee, DELIVER_BUNDLE.guarantee} == {Guarantee.AT_LEAST_ONCE}


# send_email


def test_an_email_is_sent_and_its_id_kept_with_the_job(engine: sa.Engine, database: str, post: Server) -> None:
    ended = run(engine, database, "send_email", MAIL)

    mail = post.mail()
    assert (mail["To"], mail["Subject"], mail.get_content()) == ("Ada@acme.example", "Hello", "How are you?\n")
    assert ended.state == "succeeded"
    assert ended.result == {"sent": True, "message_id": mail["Message-ID"]}


def test_thousands_are_enqueued_at_once_and_sent_over_few_connections(
    engine: sa.Engine, database: str, post: Server
) -> None:
    news = {"template": "newsletter", "subject": "News", "data": {"paragraphs": ["It is new."]}}
    jobs = [
        {"handler": "send_email", "payload": news | {"to": f"person{number}@acme.example"}} for number in range(500)
    ]
    with engine.begin() as connection:
        enqueue_jobs(connection, HANDLERS, jobs)

    report = drained(database, HANDLERS, concurrency=5)

    assert report.total("succeeded") == 500
    assert (len(post.mails), set(post.recipients().values())) == (500, {1})
    assert post.connections <= 5 + 500 / 100


def test_a_server_that_does_not_want_it_now_is_asked_again_under_the_same_message_id(
    engine: sa.Engine, database: str, post: Server
) -> None:
    post.hangs_up = True
    waiting = run(engine, database, "send_email", MAIL)
    post.hangs_up = False
    post.answers["RCPT"] = "451 4.7.1 later"
    change(engine, "UPDATE flatearth.live_jobs SET run_at = now() - interval '1 second'")
    drained(database, HANDLERS)
    later = job(engine, waiting.id)
    post.answers.clear()
    change(engine, "UPDATE flatearth.live_jobs SET run_at = now() - interval '1 second'")
    drained(database, HANDLERS)

    assert (waiting.state, waiting.attempts) == ("pending", 1)
    assert (later.state, later.attempts) == ("pending", 2)
    assert later.last_error == f"MailNotSent: 127.0.0.1:{post.port} did not take the mail: 451 4.7.1 later"
    assert job(engine, waiting.id).state == "succeeded"
    first, second = post.mails
    assert first["Message-ID"] == second["Message-ID"]


def test_a_server_that_is_down_is_asked_again_and_the_password_stands_nowhere(
    engine: sa.Engine, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    with monkeypatch.context() as down:
        down.setenv("FLATEARTH_SMTP_URL", f"smtp://ada:s3cret@127.0.0.1:{port}")
        waiting = run(engine, database, "send_email", MAIL)
    assert waiting.state == "pending"
    assert waiting.run_at - waiting.created_at > timedelta(seconds=9)
    assert "s3cret" not in waiting.last_error

    monkeypatch.setenv("FLATEARTH_SMTP_URL", f"smtp://127.0.0.1:{port}")
    change(engine, "UPDATE flatearth.live_jobs SET run_at = now() - interval '1 second'")
    with smtp_server(port) as back:
        drained(database, HANDLERS)
        assert len(back.mails) == 1


def test_an_address_that_does_not_exist_is_a_dead_job_and_gets_nothing_any_more(
    engine: sa.Engine, database: str, post: Server
) -> None:
    post.answers["RCPT"] = "550 5.1.1 nobody"
    dead = run(engine, database, "send_email", MAIL)
    post.answers.clear()

    other = run(engine, database, "send_email", MAIL | {"to": "ADA@ACME.EXAMPLE"})

    assert (dead.state, dead.attempts) == ("failed", 1)
    assert "550 5.1.1 nobody" in dead.last_error
    assert (other.state, other.result) == ("succeeded", {"sent": False, "reason": "suppressed"})
    assert post.mails == []


def test_any_other_refusal_is_a_dead_job_and_the_address_stays_good(
    engine: sa.Engine, database: str, post: Server
) -> None:
    post.answers["DATA"] = "554 5.6.0 spam"
    dead = run(engine, database, "send_email", MAIL)
    post.answers.clear()

    assert (dead.state, dead.attempts) == ("failed", 1)
    assert "554 5.6.0 spam" in dead.last_error
    assert run(engine, database, "send_email", MAIL).result["sent"] is True


@pytest.mark.parametrize(
    "payload",
    [
        MAIL | {"to": "ada"},
        MAIL | {"subject": "Hello\r\nBcc: eve@evil.example"},
        MAIL | {"to": "ada@acme.example\r\nBcc: eve@evil.example"},
        {"to": "ada@acme.example", "template": "verification", "data": {}},
    ],
)
def test_what_cannot_be_sent_and_came_by_sql_is_a_dead_job_without_a_retry(
    engine: sa.Engine, database: str, post: Server, payload: dict[str, Any]
) -> None:
    dead = run(engine, database, "send_email", payload)

    assert (dead.state, dead.attempts) == ("failed", 1)
    assert "The payload is not valid: " in dead.last_error
    assert post.mails == []


def test_a_lone_surrogate_is_refused_before_it_is_enqueued(engine: sa.Engine) -> None:
    with engine.begin() as connection, pytest.raises(WrongUsage):
        enqueue_job(connection, HANDLERS, "send_email", MAIL | {"text": "lone \ud800"})


# deliver_bundle


def test_a_bundle_that_is_due_is_delivered_alone(
    engine: sa.Engine, database: str, post: Server, office: Workspace
) -> None:
    with engine.begin() as connection:
        first, second = due_bundles(connection, office, 2)

    ended = run(engine, database, "deliver_bundle", {"bundle_id": first})

    assert ends(engine) == {first: ("delivered", "mailed"), second: ("pending", None)}
    assert (ended.state, ended.result["status"], ended.result["outcome"]) == ("succeeded", "delivered", "mailed")
    assert len(post.mails) == 1


def test_a_bundle_whose_window_is_not_over_is_looked_at_again_when_it_is(
    engine: sa.Engine, database: str, post: Server, office: Workspace
) -> None:
    with engine.begin() as connection:
        person = office.person(connection)
        notify(connection, office, person)
        bundle_id = bundle(connection, person, "-1 hour", "1 hour")
        (window,) = observed.bundles(connection, person)

    ended = run(engine, database, "deliver_bundle", {"bundle_id": bundle_id})

    assert (ended.state, ended.result["status"]) == ("succeeded", "pending")
    with engine.connect() as connection:
        (again,) = connection.execute(sa.text("SELECT * FROM flatearth.jobs WHERE state = 'pending'")).all()
    assert (again.handler, again.payload, again.run_at) == (
        "deliver_bundle",
        {"bundle_id": bundle_id},
        window["ends_at"],
    )
    assert post.mails == []

    change(engine, "UPDATE flatearth.notification_bundles SET ends_at = clock_timestamp()")
    change(engine, "UPDATE flatearth.live_jobs SET run_at = now() - interval '1 second'")
    drained(database, HANDLERS)
    assert ends(engine) == {bundle_id: ("delivered", "mailed")}
    assert len(post.mails) == 1


def test_a_bundle_that_is_delivered_already_is_not_sent_again(
    engine: sa.Engine, database: str, post: Server, office: Workspace
) -> None:
    with engine.begin() as connection:
        bundle_id = due_bundle(connection, office)
    for _ in range(2):
        ended = run(engine, database, "deliver_bundle", {"bundle_id": bundle_id})

    assert (ended.state, ended.result["outcome"]) == ("succeeded", "mailed")
    assert len(post.mails) == 1


def test_what_the_server_does_not_want_now_waits_for_the_bundles_own_next_attempt(
    engine: sa.Engine, database: str, post: Server, office: Workspace
) -> None:
    post.answers["RCPT"] = "451 later"
    with engine.begin() as connection:
        bundle_id = due_bundle(connection, office)

    ended = run(engine, database, "deliver_bundle", {"bundle_id": bundle_id})

    assert (ended.state, ended.result["status"]) == ("succeeded", "pending")
    assert row(engine, bundle_id)["next_attempt_at"].isoformat() == ended.result["due_at"]


def test_a_bundle_that_failed_and_one_that_is_not_there_are_dead_jobs_that_say_so(
    engine: sa.Engine, database: str, post: Server, office: Workspace
) -> None:
    post.answers["RCPT"] = "550 5.7.1 no"
    with engine.begin() as connection:
        bundle_id = due_bundle(connection, office)

    refused = run(engine, database, "deliver_bundle", {"bundle_id": bundle_id})
    unknown = run(engine, database, "deliver_bundle", {"bundle_id": 999_999})

    assert (refused.state, refused.last_error) == ("failed", "Refused: 550 5.7.1 no")
    assert (unknown.state, unknown.last_error) == ("failed", "Refused: There is no bundle 999999")


def test_several_jobs_for_several_bundles_at_once_send_each_once(
    engine: sa.Engine, database: str, post: Server, office: Workspace
) -> None:
    with engine.begin() as connection:
        ids = due_bundles(connection, office, 20)
        jobs = [{"handler": "deliver_bundle", "payload": {"bundle_id": bundle_id}} for bundle_id in ids * 2]
        enqueue_jobs(connection, HANDLERS, jobs)

    drained(database, HANDLERS)

    assert set(ends(engine).values()) == {("delivered", "mailed")}
    assert (len(post.mails), set(post.recipients().values())) == (20, {1})
