"""The queue's handler for webhooks: as applications enqueue it in SQL, run by a real drain."""

import json
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import ValidationError

from flatearth_pipelines.errors import WrongUsage
from flatearth_pipelines.handlers import HANDLERS
from flatearth_pipelines.queue.functions import enqueue_job, enqueue_jobs
from flatearth_pipelines.queue.handlers import Context, Guarantee, Handler, Registry
from flatearth_pipelines.settings import Settings
from flatearth_pipelines.webhooks.delivery import Delivery, Options
from flatearth_pipelines.webhooks.handlers import SEND_WEBHOOK, SendWebhook
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.factories import NOON
from flatearth_pipelines_tests.queue.workers import drained
from flatearth_pipelines_tests.webhooks import observed
from flatearth_pipelines_tests.webhooks.servers import REACHABLE, http_server
from flatearth_pipelines_tests.webhooks.workspace import Workspace, disabled

PAID = {"type": "invoice.paid", "data": {"id": 7, "amount": 12.5, "to": "Zoë"}}

MEGABYTE = 1_048_576


@pytest.fixture(autouse=True)
def environment(secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert secret
    monkeypatch.setenv("FLATEARTH_WEBHOOK_ALLOW_NETWORKS", REACHABLE)


@pytest.fixture
def hook(engine: sa.Engine, office: Workspace) -> int:
    with engine.begin() as connection:
        return office.webhook(connection)


def enqueue(engine: sa.Engine, payload: dict[str, Any], account_id: int | None = None) -> int:
    """By SQL, as an application in any language does."""
    query = sa.text("SELECT flatearth.enqueue_job('send_webhook', CAST(:payload AS jsonb), account_id => :account_id)")
    with engine.begin() as connection:
        values = {"payload": json.dumps(payload), "account_id": account_id}
        return int(
            connection.execute(query.bindparams(sa.bindparam("account_id", type_=sa.BigInteger)), values).scalar_one()
        )


def job(engine: sa.Engine, job_id: int) -> Any:
    with engine.connect() as connection:
        return connection.execute(sa.text(f"SELECT * FROM flatearth.jobs WHERE id = {job_id}")).one()


def run(engine: sa.Engine, database: str, payload: dict[str, Any], account_id: int | None = None) -> Any:
    """The job, after a drain."""
    job_id = enqueue(engine, payload, account_id)
    drained(database, HANDLERS)
    return job(engine, job_id)


def deliveries(engine: sa.Engine) -> list[observed.Row]:
    with engine.connect() as connection:
        return observed.deliveries(connection)


def test_the_project_has_it_and_what_it_writes_commits_with_the_job() -> None:
    assert HANDLERS["send_webhook"] is SEND_WEBHOOK
    assert SEND_WEBHOOK.guarantee is Guarantee.TRANSACTIONAL


# What it takes


@pytest.mark.parametrize("type_", ["a", "invoice.paid", "x_1.2", 100 * "a"])
def test_a_type_is_1_to_100_small_letters_digits_dots_and_underscores(type_: str) -> None:
    assert SendWebhook(webhook_id=1, type=type_, data={}).type == type_


@pytest.mark.parametrize("type_", ["", 101 * "a", "Invoice", "a b", "a-b", "ä", "a\n", "\na", "a\0", "٣", 1, None])
def test_any_other_type_is_refused(type_: Any) -> None:
    with pytest.raises(ValidationError):
        SendWebhook(webhook_id=1, type=type_, data={})


@pytest.mark.parametrize(
    "change", [{"webhook_id": 0}, {"webhook_id": -1}, {"webhook_id": 2**63}, {"data": []}, {"x": 1}]
)
def test_an_id_that_postgres_could_not_have_given_data_that_is_no_object_and_anything_more_are_refused(
    change: dict[str, Any],
) -> None:
    right = {"webhook_id": 2**63 - 1, **PAID}
    assert SendWebhook.model_validate(right)
    with pytest.raises(ValidationError):
        SendWebhook.model_validate(right | change)


def test_what_is_missing_is_named_before_it_is_enqueued(engine: sa.Engine) -> None:
    with engine.begin() as connection, pytest.raises(WrongUsage, match=r"^The payload of send_webhook is not valid: "):
        enqueue_job(connection, HANDLERS, "send_webhook", {"webhook_id": 1})


# What it does


def test_a_message_is_a_delivery_that_is_due_and_the_job_knows_its_id(
    engine: sa.Engine, database: str, office: Workspace, hook: int
) -> None:
    ended = run(engine, database, {"webhook_id": hook, **PAID}, office.account)

    (row,) = deliveries(engine)
    assert (ended.state, ended.result) == ("succeeded", {"delivery_id": row["id"]})
    assert (row["webhook_id"], row["account_id"], row["event_id"]) == (hook, office.account, None)
    assert (row["type"], row["state"], row["attempts"]) == ("invoice.paid", "pending", 0)
    said = json.loads(row["body"])
    assert (said["type"], said["version"], said["data"]) == ("invoice.paid", 1, PAID["data"])
    assert row["next_attempt_at"] <= ended.finished_at


def test_it_is_sent_with_the_bytes_that_were_written_and_a_signature(
    engine: sa.Engine, database: str, office: Workspace
) -> None:
    with http_server() as server:
        with engine.begin() as connection:
            hook = office.webhook(connection, url=server.url)
        run(engine, database, {"webhook_id": hook, **PAID})
        with engine.connect() as connection:
            report = Delivery(connection, Settings.from_environment(), Options()).run()

    assert report.outcomes == {"ok": 1}
    (request,) = server.requests
    (row,) = deliveries(engine)
    assert request.body == row["body"]
    headers = {name.lower(): value for name, value in request.headers}
    assert headers["webhook-id"].endswith(str(row["id"]))
    assert headers["webhook-signature"].startswith("v1,")


@pytest.mark.parametrize(("format_", "body"), [("slack", b'{"text":"Paid"}'), ("campfire", b"Paid")])
def test_a_message_to_a_chat_is_its_text(
    engine: sa.Engine, database: str, office: Workspace, format_: str, body: bytes
) -> None:
    with engine.begin() as connection:
        hook = office.webhook(connection, format=format_)

    run(engine, database, {"webhook_id": hook, "type": "invoice.paid", "data": {"text": "Paid"}})

    assert [row["body"] for row in deliveries(engine)] == [body]


def test_a_webhook_gets_it_whatever_it_subscribed_to_and_of_whatever_board_it_is(
    engine: sa.Engine, database: str, office: Workspace
) -> None:
    with engine.begin() as connection:
        hook = office.webhook(connection, actions=["card_closed"], board_id=office.board)

    assert run(engine, database, {"webhook_id": hook, **PAID}).state == "succeeded"
    assert len(deliveries(engine)) == 1


def test_a_thousand_are_enqueued_at_once_and_each_is_written_exactly_once(
    engine: sa.Engine, database: str, hook: int
) -> None:
    with engine.begin() as connection:
        jobs = [
            {"handler": "send_webhook", "payload": {"webhook_id": hook, "type": "n", "data": {"n": number}}}
            for number in range(1_000)
        ]
        enqueue_jobs(connection, HANDLERS, jobs)

    report = drained(database, HANDLERS)

    assert report.total("succeeded") == 1_000
    numbers = sorted(json.loads(row["body"])["data"]["n"] for row in deliveries(engine))
    assert numbers == list(range(1_000))


def test_a_job_that_fails_after_the_delivery_was_written_leaves_none_and_writes_it_when_it_runs_again(
    engine: sa.Engine, database: str, hook: int
) -> None:
    def fails_first(context: Context, payload: SendWebhook) -> Any:
        """As when the worker is killed at that moment."""
        result = SEND_WEBHOOK.run(context, payload)
        if context.attempt == 1:
            raise RuntimeError("lost")
        return result

    failing = Handler("send_webhook", SendWebhook, fails_first, Guarantee.TRANSACTIONAL)
    job_id = enqueue(engine, {"webhook_id": hook, **PAID})
    drained(database, Registry([failing]))
    assert job(engine, job_id).state == "pending"
    assert deliveries(engine) == []

    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE flatearth.live_jobs SET run_at = now() - interval '1 second'"))
    drained(database, Registry([failing]))

    assert (job(engine, job_id).state, job(engine, job_id).attempts) == ("succeeded", 2)
    assert len(deliveries(engine)) == 1


def test_data_of_almost_8_megabytes_is_sent_whole_and_more_is_refused_when_it_is_enqueued(
    engine: sa.Engine, database: str, hook: int
) -> None:
    payload = {"webhook_id": hook, "type": "large", "data": {"text": (8 * MEGABYTE - 200) * "x"}}

    ended = run(engine, database, payload)

    assert ended.state == "succeeded"
    (row,) = deliveries(engine)
    assert json.loads(row["body"])["data"] == payload["data"]
    with engine.begin() as connection, pytest.raises(WrongUsage, match="8 MB is the most"):
        enqueue_job(connection, HANDLERS, "send_webhook", payload | {"data": {"text": 8 * MEGABYTE * "x"}})


def test_data_with_whatever_json_may_hold_is_sent(engine: sa.Engine, database: str, hook: int) -> None:
    data = {"": None, "a": [1, 2**70, -0.5, True, {"\u2028</script>": "\x01\ud7ff\U0010ffff"}], "type": "x"}

    assert run(engine, database, {"webhook_id": hook, "type": "odd", "data": data}).state == "succeeded"

    (row,) = deliveries(engine)
    assert json.loads(row["body"])["data"] == data


# What it refuses


def test_a_webhook_that_is_not_there_or_disabled_or_of_a_cancelled_account_is_a_dead_job_that_says_so(
    engine: sa.Engine, database: str, office: Workspace
) -> None:
    with engine.begin() as connection:
        silent = office.webhook(connection, **disabled())
        cancelled = make.webhook(connection, make.account(connection, cancelled_at=NOON))
    expected = {
        999_999: "Refused: There is no webhook 999999",
        silent: f"Refused: Webhook {silent} is disabled",
        cancelled: f"Refused: The account of webhook {cancelled} is cancelled",
    }

    dead = [run(engine, database, {"webhook_id": webhook_id, **PAID}) for webhook_id in expected]

    assert [(each.state, each.attempts) for each in dead] == [("failed", 1)] * 3
    assert [each.last_error for each in dead] == list(expected.values())
    assert deliveries(engine) == []


def test_a_job_of_an_account_reaches_no_webhook_of_another(engine: sa.Engine, database: str, office: Workspace) -> None:
    with engine.begin() as connection:
        theirs = Workspace(connection).webhook(connection)

    dead = run(engine, database, {"webhook_id": theirs, **PAID}, office.account)

    assert (dead.state, dead.attempts) == ("failed", 1)
    assert dead.last_error == f"Refused: There is no webhook {theirs} in account {office.account}"
    assert deliveries(engine) == []


@pytest.mark.parametrize(
    "payload",
    [
        {"webhook_id": 1, "type": "Invoice Paid", "data": {}},
        {"webhook_id": 1, "type": "a", "data": "x"},
        {"webhook_id": 2**63, "type": "a", "data": {}},
        {"webhook_id": 1, "type": "a"},
    ],
)
def test_what_is_not_valid_and_came_by_sql_is_a_dead_job_without_a_retry(
    engine: sa.Engine, database: str, payload: dict[str, Any]
) -> None:
    dead = run(engine, database, payload)

    assert (dead.state, dead.attempts) == ("failed", 1)
    assert "The payload is not valid: " in dead.last_error


def test_data_that_is_nested_too_deeply_to_be_written_is_a_dead_job_and_no_delivery(
    engine: sa.Engine, database: str, hook: int
) -> None:
    deep = 5_000 * '{"a":' + "1" + 5_000 * "}"
    with engine.begin() as connection:
        said = f'{{"webhook_id": {hook}, "type": "deep", "data": {{"a": {deep}}}}}'
        query = sa.text("SELECT flatearth.enqueue_job('send_webhook', CAST(:said AS jsonb))")
        job_id = connection.execute(query, {"said": said}).scalar_one()

    drained(database, HANDLERS)

    with engine.connect() as connection:  # not its payload, which Python cannot read
        state = sa.text("SELECT state FROM flatearth.jobs WHERE id = :id")
        assert connection.execute(state, {"id": job_id}).scalar_one() == "failed"
    assert deliveries(engine) == []
