"""A delivery from end to end: what is due is sent to a real server, and what became of it is recorded."""

import base64
import json
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import partial

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from standardwebhooks import Webhook, WebhookVerificationError

from flatearth_pipelines import tables
from flatearth_pipelines.claimant import claimant
from flatearth_pipelines.webhooks import claim_storage, delivery_storage, endpoint_storage
from flatearth_pipelines.webhooks.delivery import Delivery, Options, Report
from flatearth_pipelines.webhooks.functions import enable_webhook, rotate_secret
from flatearth_pipelines.webhooks.sealing import seal, unseal
from flatearth_pipelines.webhooks.settlement import MOST_ATTEMPTS, WAITS
from flatearth_pipelines_tests.factories import MICROSECOND, SECRET_KEY
from flatearth_pipelines_tests.processes import until
from flatearth_pipelines_tests.webhooks import observed
from flatearth_pipelines_tests.webhooks.receiver import Received, Receiver, status
from flatearth_pipelines_tests.webhooks.runs import deliver, dispatch, limit, settings, waiting
from flatearth_pipelines_tests.webhooks.workspace import Workspace, deliveries, disabled

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


@pytest.fixture
def hook(engine: sa.Engine, office: Workspace, receiver: Receiver) -> int:
    """A webhook of the receiver."""
    with engine.begin() as connection:
        return office.webhook(connection, url=receiver.url())


def row(engine: sa.Engine, delivery_id: int) -> observed.Row:
    with engine.connect() as connection:
        return observed.delivery(connection, delivery_id)


def end(engine: sa.Engine, delivery_id: int) -> tuple[str, int, str | None]:
    """Its state, how often it was tried, and what came of it the last time."""
    found = row(engine, delivery_id)
    return found["state"], found["attempts"], found["last_code"]


def webhook(engine: sa.Engine, hook: int) -> observed.Row:
    with engine.connect() as connection:
        return observed.webhook(connection, hook)


def now(engine: sa.Engine) -> datetime:
    with engine.connect() as connection:
        return observed.now(connection)


def change(engine: sa.Engine, table: sa.Table, **values: object) -> None:
    """Every row of it."""
    with engine.begin() as connection:
        connection.execute(sa.update(table).values(**values))


def due(engine: sa.Engine, hook: int, count: int = 1) -> list[int]:
    """As many deliveries that an application wants sent."""
    with engine.begin() as connection:
        return deliveries(connection, hook, count)


def secret_of(engine: sa.Engine, hook: int) -> str:
    return unseal(SECRET_KEY, webhook(engine, hook)["sealed_secret"], f"webhook {hook}")


def is_signed_by(secret: str, received: Received) -> bool:
    try:
        Webhook(secret).verify(received.body, received.headers)
    except WebhookVerificationError:
        return False
    return True


# What is sent


def test_an_event_is_sent_once_signed_and_all_of_it_is_recorded(
    engine: sa.Engine, office: Workspace, receiver: Receiver, hook: int
) -> None:
    with engine.begin() as connection:
        event = office.event(connection, column="Done")
    dispatch(engine)

    first, second = deliver(engine), deliver(engine)

    got = receiver.one()
    said = json.loads(got.body)
    with engine.connect() as connection:
        (delivery,) = observed.deliveries(connection)
        (attempt,) = observed.attempts(connection)
        assert observed.payloads(connection) == {(event, "json"): got.body}
    assert (got.path, got.id, got.headers["content-type"]) == ("/hook", f"msg_{delivery['id']}", "application/json")
    assert is_signed_by(secret_of(engine, hook), got)
    assert (said["type"], said["data"]["event"]) == ("card_closed", {"id": event, "particulars": {"column": "Done"}})
    assert said["data"]["card"]["url"] == f"http://localhost:3000/cards/{office.card}"
    assert (first.completed, dict(first.outcomes), second.outcomes.total()) == (1, {"ok": 1}, 0)
    assert (delivery["state"], delivery["attempts"], delivery["last_code"]) == ("completed", 1, "ok")
    assert delivery["completed_at"] <= now(engine)
    assert (attempt["attempt"], attempt["code"], attempt["status"]) == (1, "ok", 200)
    assert (str(attempt["address"]), attempt["response"], attempt["detail"]) == ("127.0.0.2", b"hello", None)
    assert attempt["started_at"] <= delivery["completed_at"]


@pytest.mark.parametrize("signature", ["ed25519", "rsa-sha256"])
def test_an_endpoint_is_sent_the_signature_that_it_wants_and_verifies_it_with_its_public_key(
    engine: sa.Engine, office: Workspace, receiver: Receiver, signature: str
) -> None:
    with engine.begin() as connection:
        hook = office.webhook(connection, url=receiver.url(), signature=signature)
    due(engine, hook)

    deliver(engine)

    got, public = receiver.one(), webhook(engine, hook)["public_key"]
    signed = f"{got.id}.{got.headers['webhook-timestamp']}.".encode() + got.body
    if signature == "ed25519":
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(public.removeprefix("whpk_")))
        key.verify(base64.b64decode(got.headers["webhook-signature"].removeprefix("v1a,")), signed)
    else:
        rsa = load_pem_public_key(public.encode())
        assert isinstance(rsa, RSAPublicKey)
        rsa.verify(base64.b64decode(got.headers["x-webhook-signature"]), signed, PKCS1v15(), SHA256())


@pytest.mark.parametrize(
    ("format_", "content_type"),
    [("json", "application/json"), ("slack", "application/json"), ("campfire", "text/html; charset=utf-8")],
)
def test_an_endpoint_is_sent_the_format_that_it_wants(
    engine: sa.Engine, office: Workspace, receiver: Receiver, format_: str, content_type: str
) -> None:
    with engine.begin() as connection:
        office.webhook(connection, url=receiver.url(), format=format_)
        event = office.event(connection)
    dispatch(engine)

    deliver(engine)

    got = receiver.one()
    assert got.headers["content-type"] == content_type
    assert b"Fix the bug" in got.body
    with engine.connect() as connection:
        assert observed.payloads(connection) == {(event, format_): got.body}


def test_what_an_application_says_by_itself_is_sent_byte_for_byte_and_stored_nowhere_else(
    engine: sa.Engine, receiver: Receiver, hook: int
) -> None:
    with engine.begin() as connection:
        delivery_id = delivery_storage.insert_direct(connection, hook, "invoice.paid", b'{"a":"\xc3\xa9"}')

    deliver(engine)

    assert receiver.one().body == b'{"a":"\xc3\xa9"}'
    assert end(engine, delivery_id) == ("completed", 1, "ok")
    with engine.connect() as connection:
        assert observed.payloads(connection) == {}


def test_the_bytes_are_the_same_for_every_attempt_and_every_endpoint_also_when_the_card_is_renamed_meanwhile(
    engine: sa.Engine, office: Workspace, receiver: Receiver
) -> None:
    with engine.begin() as connection:
        office.webhook(connection, url=receiver.url())
        office.webhook(connection, url=receiver.url("/other"))
        office.event(connection)
    receiver.answers = {"/hook": [status(500)], "/other": [status(500), status(500)]}
    dispatch(engine)
    deliver(engine)
    change(engine, tables.cards, title="Renamed")
    change(engine, tables.events, action="card_moved")

    for hours in (1, 2):
        deliver(engine, as_of=now(engine) + hours * HOUR)

    assert [len(receiver.received(path)) for path in ("/hook", "/other")] == [2, 3]
    (body,) = {each.body for each in receiver.received()}
    assert b"Fix the bug" in body
    assert len({each.id for each in receiver.received("/hook")}) == 1
    assert len({each.id for each in receiver.received()}) == 2


def test_a_new_secret_signs_at_once_and_the_previous_one_too_until_its_time_is_over(
    engine: sa.Engine, receiver: Receiver, hook: int
) -> None:
    old = secret_of(engine, hook)
    with engine.begin() as connection:
        new = rotate_secret(connection, SECRET_KEY, hook, HOUR).secret
    due(engine, hook)
    deliver(engine)
    change(engine, tables.webhooks, previous_secret_until=now(engine))
    due(engine, hook)
    deliver(engine)

    during, after = receiver.received()

    assert (is_signed_by(new, during), is_signed_by(old, during)) == (True, True)
    assert (is_signed_by(new, after), is_signed_by(old, after)) == (True, False)


def test_a_previous_secret_that_cannot_be_read_is_left_out_and_the_current_one_signs(
    engine: sa.Engine, receiver: Receiver, hook: int
) -> None:
    secret, unreadable = secret_of(engine, hook), seal("another key", "whsec_x", f"webhook {hook}")
    change(engine, tables.webhooks, previous_sealed_secret=unreadable, previous_secret_until=now(engine) + HOUR)
    due(engine, hook)

    assert deliver(engine).completed == 1
    assert is_signed_by(secret, receiver.one())


@pytest.mark.parametrize(
    "particulars",
    [
        '{"n": 1e400}',
        f'{{"n": {400 * "9"}.5}}',
        f'{{"n": {5_000 * "9"}}}',
        f'{{"n": {2_000 * "["}{2_000 * "]"}}}',
        "[1]",
        '"x"',
        "null",
    ],
    ids=["huge", "huge and not whole", "long", "deep", "a list", "a text", "nothing"],
)
def test_whatever_json_an_application_put_into_particulars_the_event_is_sent(
    engine: sa.Engine, office: Workspace, receiver: Receiver, hook: int, particulars: str
) -> None:
    assert hook
    with engine.begin() as connection:
        event, other = office.event(connection), office.event(connection)
        put = sa.text("UPDATE flatearth.events SET particulars = CAST(:json AS jsonb) WHERE id = :id")
        connection.execute(put, {"json": particulars, "id": event})
    dispatch(engine)

    assert deliver(engine).completed == 2

    assert sorted(json.loads(each.body)["data"]["event"]["id"] for each in receiver.received()) == [event, other]


# What is not sent


def test_of_an_event_that_was_deleted_before_it_was_composed_nothing_is_sent_and_the_delivery_has_ended(
    engine: sa.Engine, office: Workspace, receiver: Receiver, hook: int
) -> None:
    with engine.begin() as connection:
        office.event(connection)
    dispatch(engine)
    with engine.begin() as connection:
        connection.execute(sa.delete(tables.events))
        ((delivery_id, _),) = observed.states(connection).items()

    report = deliver(engine)

    assert (report.errored, dict(report.outcomes)) == (1, {"event_gone": 1})
    assert end(engine, delivery_id) == ("errored", 1, "event_gone")
    assert receiver.received() == []
    assert webhook(engine, hook)["consecutive_failures"] == 0, "the endpoint has no part in it"


def test_an_event_that_was_deleted_after_it_was_composed_is_sent_all_the_same(
    engine: sa.Engine, office: Workspace, receiver: Receiver, hook: int
) -> None:
    assert hook
    with engine.begin() as connection:
        office.event(connection)
    receiver.answers["/hook"] = [status(500)]
    dispatch(engine)
    deliver(engine)
    with engine.begin() as connection:
        connection.execute(sa.delete(tables.events))

    assert deliver(engine, as_of=now(engine) + HOUR).completed == 1


def test_a_secret_that_cannot_be_read_sends_nothing_and_is_tried_again(
    engine: sa.Engine, receiver: Receiver, hook: int
) -> None:
    change(engine, tables.webhooks, sealed_secret=seal("another key", "whsec_x", f"webhook {hook}"))
    (delivery_id,) = due(engine, hook)

    report = deliver(engine)

    assert (report.retried, dict(report.outcomes)) == (1, {"no_secret": 1})
    assert end(engine, delivery_id) == ("pending", 1, "no_secret")
    assert receiver.received() == []
    assert webhook(engine, hook)["consecutive_failures"] == 0, "the endpoint has no part in it"
    with engine.begin() as connection:
        (attempt,) = observed.attempts(connection)
        assert attempt["detail"] == "its secret was sealed with another FLATEARTH_SECRET_KEY: rotate it"
        rotate_secret(connection, SECRET_KEY, hook)

    assert deliver(engine, as_of=now(engine) + HOUR).completed == 1


def test_a_secret_that_is_none_fails_its_own_delivery_and_no_other(
    engine: sa.Engine, office: Workspace, receiver: Receiver, hook: int
) -> None:
    with engine.begin() as connection:
        broken = office.webhook(connection, url=receiver.url("/broken"))
        values = {"sealed_secret": seal(SECRET_KEY, "no secret", f"webhook {broken}")}
        connection.execute(sa.update(tables.webhooks).where(tables.webhooks.c.id == broken).values(values))
    (fails,), (arrives,) = due(engine, broken), due(engine, hook)

    deliver(engine)

    assert end(engine, fails) == ("pending", 1, "bad_answer")
    assert end(engine, arrives) == ("completed", 1, "ok")


def test_an_address_that_webhooks_may_not_reach_gets_nothing(engine: sa.Engine, receiver: Receiver, hook: int) -> None:
    (delivery_id,) = due(engine, hook)

    deliver(engine, given=settings(webhook_allow_networks=""))

    assert end(engine, delivery_id) == ("errored", 1, "bad_url")
    assert receiver.received() == []


@pytest.mark.parametrize("cancelled", [True, False], ids=["cancelled", "disabled"])
def test_what_waits_for_a_disabled_webhook_or_a_cancelled_account_goes_on_when_that_is_over(
    engine: sa.Engine, receiver: Receiver, hook: int, *, cancelled: bool
) -> None:
    ids = due(engine, hook, 2)
    if cancelled:
        change(engine, tables.accounts, cancelled_at=sa.func.now())
    else:
        change(engine, tables.webhooks, **disabled())
    deliver(engine)
    deliver(engine, ids)
    assert receiver.received() == []
    if cancelled:
        change(engine, tables.accounts, cancelled_at=None)
    else:
        with engine.begin() as connection:
            enable_webhook(connection, hook)

    deliver(engine)

    assert len(receiver.received()) == 2


# Again, and again


def test_what_fails_is_tried_again_exactly_when_its_wait_is_over_and_given_up_after_the_eighth_attempt(
    engine: sa.Engine, receiver: Receiver, hook: int
) -> None:
    receiver.answers["/hook"] = status(500)
    (delivery_id,) = due(engine, hook)
    at = now(engine)

    for attempt, planned in enumerate(WAITS, start=1):
        assert dict(deliver(engine, as_of=at).outcomes) == {"http_5xx": 1}
        assert end(engine, delivery_id) == ("pending", attempt, "http_5xx")
        later = row(engine, delivery_id)["next_attempt_at"]
        slack = now(engine) - at if attempt == 1 else timedelta(0)  # the first wait begins at the real now
        assert 0.8 * planned <= later - at <= 1.2 * planned + slack
        assert deliver(engine, as_of=later - MICROSECOND).outcomes.total() == 0
        at = later

    report = deliver(engine, as_of=at)

    assert (report.errored, report.retried) == (1, 0)
    assert end(engine, delivery_id) == ("errored", MOST_ATTEMPTS, "http_5xx")
    assert deliver(engine, as_of=at + 1_000 * HOUR).outcomes.total() == 0
    assert len(receiver.received()) == 8
    assert {each.id for each in receiver.received()} == {f"msg_{delivery_id}"}
    with engine.connect() as connection:
        assert [each["attempt"] for each in observed.attempts(connection)] == [*range(1, 9)]


@pytest.mark.parametrize(
    ("asked", "least", "most"),
    [("0", 4, 6), ("8", 8, 8), ("3600", 8, 12), ("nonsense", 4, 6), ("-5", 4, 6)],
)
def test_an_endpoint_that_asks_for_time_gets_between_one_and_two_times_the_planned_wait(
    engine: sa.Engine, receiver: Receiver, hook: int, *, asked: str, least: int, most: int
) -> None:
    receiver.answers["/hook"] = status(503, f"Retry-After: {asked}")
    (delivery_id,) = due(engine, hook)
    as_of = now(engine) + HOUR

    deliver(engine, as_of=as_of)

    assert least * SECOND <= row(engine, delivery_id)["next_attempt_at"] - as_of <= most * SECOND


@pytest.mark.parametrize(
    ("code", "named"),
    [(302, "redirect"), (404, "http_4xx"), (429, "throttled"), (500, "http_5xx"), (299, "ok")],
)
def test_an_answer_is_logged_by_its_code_and_with_its_body(
    engine: sa.Engine, receiver: Receiver, hook: int, code: int, named: str
) -> None:
    receiver.answers["/hook"] = status(code, "Location: http://127.0.0.1:9/")
    (delivery_id,) = due(engine, hook)

    deliver(engine)

    assert end(engine, delivery_id) == ("completed" if named == "ok" else "pending", 1, named)
    with engine.connect() as connection:
        (attempt,) = observed.attempts(connection)
    assert (attempt["code"], attempt["status"], attempt["response"]) == (named, code, str(code).encode())


def test_one_delivery_is_sent_once_more_with_its_id_and_its_bytes(
    engine: sa.Engine, office: Workspace, receiver: Receiver, hook: int
) -> None:
    assert hook
    with engine.begin() as connection:
        office.events(connection, 2)
    dispatch(engine)
    deliver(engine)
    first, _ = receiver.received()
    with engine.begin() as connection:
        delivery_id = int(first.id.removeprefix("msg_"))
        assert delivery_storage.redeliver(connection, [delivery_id]) == [delivery_id]

    assert deliver(engine).completed == 1

    *_, again = receiver.received()
    assert (again.id, again.body) == (first.id, first.body)
    assert end(engine, delivery_id) == ("completed", 1, "ok")


def test_all_that_never_arrived_since_a_time_is_sent_once_it_is_recovered(
    engine: sa.Engine, receiver: Receiver, hook: int
) -> None:
    arrived = due(engine, hook, 2)
    deliver(engine)
    since = now(engine)
    lost = due(engine, hook, 3)
    with engine.begin() as connection:
        given_up = sa.update(tables.webhook_deliveries).where(tables.webhook_deliveries.c.id.in_(lost))
        connection.execute(given_up.values(state="errored", attempts=8))
        assert delivery_storage.recover(connection, hook, since) == 3

    assert deliver(engine).completed == 3

    assert [each.id for each in receiver.received()][:2] == [f"msg_{each}" for each in arrived]
    assert {each.id for each in receiver.received()[2:]} == {f"msg_{each}" for each in lost}


# The breaker


def test_after_five_failures_in_a_row_nothing_is_sent_and_exactly_when_the_wait_is_over_one_probe(
    engine: sa.Engine, receiver: Receiver, hook: int
) -> None:
    receiver.answers["/hook"] = status(500)
    ids = due(engine, hook, 20)

    report = deliver(engine, per_endpoint=1)

    assert (report.opened, len(receiver.received())) == (1, 5)
    open_until = webhook(engine, hook)["open_until"]
    assert deliver(engine, as_of=open_until - MICROSECOND).outcomes.total() == 0
    assert deliver(engine, as_of=open_until).outcomes.total() == 1
    assert len(receiver.received()) == 6
    assert webhook(engine, hook)["open_until"] == open_until + 2 * MINUTE
    receiver.answers.clear()
    at = open_until + 2 * MINUTE
    assert deliver(engine, as_of=at).completed == 20, "the probe, and then all the others"
    assert webhook(engine, hook)["open_until"] is None
    assert {end(engine, each)[0] for each in ids} == {"completed"}


def test_a_probe_is_alone_until_it_is_answered(engine: sa.Engine, receiver: Receiver, hook: int) -> None:
    five = {"consecutive_failures": 5, "first_failure_at": now(engine), "trips": 1, "open_until": now(engine)}
    change(engine, tables.webhooks, **five)
    due(engine, hook, 20)
    receiver.open.clear()
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(deliver, engine)
        until(lambda: receiver.at_work["/hook"] > 0)
        receiver.open.set()
        assert run.result(timeout=60).completed == 20
    first, *_ = receiver.received()
    with engine.connect() as connection:
        starts = {each["delivery_id"]: each["started_at"] for each in observed.attempts(connection)}
        duration = observed.attempts(connection, int(first.id.removeprefix("msg_")))[0]["duration_ms"]
    began = starts.pop(int(first.id.removeprefix("msg_")))
    assert min(starts.values()) >= began + duration * timedelta(milliseconds=1)


def test_what_failed_ten_times_for_more_than_an_hour_is_disabled_its_owner_told_and_nothing_more_sent(
    engine: sa.Engine, office: Workspace, receiver: Receiver, hook: int
) -> None:
    failing = {"consecutive_failures": 9, "first_failure_at": now(engine) - HOUR, "trips": 1}
    change(engine, tables.webhooks, **failing, open_until=now(engine))
    receiver.answers["/hook"] = status(500)
    due(engine, hook, 5)

    report = deliver(engine, given=settings(alert_email="ops@flatearth.example"))

    assert (report.disabled, report.opened, len(receiver.received())) == (1, 0, 1)
    assert webhook(engine, hook)["disabled_reason"] == "10 deliveries in a row have failed"
    with engine.connect() as connection:
        owner = connection.execute(
            sa.select(tables.users.c.email).where(tables.users.c.id == office.owner)
        ).scalar_one()
        assert [mail["to"] for mail in observed.mails(connection)] == sorted([owner, "ops@flatearth.example"])
    assert deliver(engine, as_of=now(engine) + 24 * HOUR).outcomes.total() == 0


def test_an_endpoint_that_is_gone_is_disabled_at_once_its_owner_told_and_the_delivery_not_tried_again(
    engine: sa.Engine, receiver: Receiver, hook: int
) -> None:
    receiver.answers["/hook"] = status(410)
    ids = due(engine, hook, 3)

    report = deliver(engine, per_endpoint=1)

    assert (report.disabled, report.errored, len(receiver.received())) == (1, 1, 1)
    assert end(engine, ids[0]) == ("errored", 1, "gone")
    assert [end(engine, each) for each in ids[1:]] == 2 * [("pending", 0, None)]
    assert webhook(engine, hook)["disabled_reason"] == "it answered 410 Gone"
    with engine.connect() as connection:
        assert len(observed.mails(connection)) == 1


def test_one_that_is_enabled_again_is_sent_what_waited(engine: sa.Engine, receiver: Receiver, hook: int) -> None:
    receiver.answers["/hook"] = [status(410)]
    due(engine, hook, 3)
    deliver(engine, per_endpoint=1)
    with engine.begin() as connection:
        enable_webhook(connection, hook)

    assert deliver(engine).completed == 2


# Many endpoints


def test_of_one_endpoint_no_more_requests_are_at_work_than_it_may_have(
    engine: sa.Engine, receiver: Receiver, hook: int
) -> None:
    due(engine, hook, 12)
    receiver.open.clear()
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(deliver, engine, per_endpoint=3)
        until(lambda: receiver.at_work["/hook"] == 3)
        receiver.open.set()
        assert run.result(timeout=60).completed == 12

    assert receiver.most_at_work["/hook"] == 3


def test_no_more_requests_are_at_work_than_a_run_may_have(
    engine: sa.Engine, office: Workspace, receiver: Receiver
) -> None:
    with engine.begin() as connection:
        for number in range(10):
            deliveries(connection, office.webhook(connection, url=receiver.url(f"/{number}")), 2)
    receiver.open.clear()
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(deliver, engine, in_flight=4)
        until(lambda: receiver.at_work.total() == 4)
        receiver.open.set()
        assert run.result(timeout=60).completed == 20


def test_endpoints_take_turns_and_after_the_last_one_comes_the_first_again(
    engine: sa.Engine, office: Workspace, receiver: Receiver
) -> None:
    paths = [f"/{number}" for number in range(5)]
    with engine.begin() as connection:
        for path in paths:
            deliveries(connection, office.webhook(connection, url=receiver.url(path)), 6)

    report = deliver(engine, in_flight=1, per_endpoint=1)

    assert report.completed == 30
    order = [each.path for each in receiver.received()]
    for at in range(0, 30, 5):
        assert sorted(order[at : at + 5]) == paths


def test_an_endpoint_that_does_not_answer_keeps_no_other_one_waiting(
    engine: sa.Engine, office: Workspace, receiver: Receiver
) -> None:
    """The first one, which has more waiting than a run takes at once."""
    silent = Receiver()
    silent.open.clear()
    with silent.serving(), ThreadPoolExecutor(1) as pool:
        with engine.begin() as connection:
            deliveries(connection, office.webhook(connection, url=silent.url()), 200)
            deliveries(connection, office.webhook(connection, url=receiver.url()), 50)
        run = pool.submit(deliver, engine, in_flight=20)
        until(lambda: len(receiver.received()) == 50)
        assert len(silent.received()) == silent.at_work["/hook"] == 5, "as many as it may have, and those only once"
        silent.open.set()
        assert run.result(timeout=60).completed == 250


def test_several_runs_at_once_send_each_delivery_once(
    engine: sa.Engine, office: Workspace, receiver: Receiver, hook: int
) -> None:
    with engine.begin() as connection:
        hooks = [hook, *(office.webhook(connection, url=receiver.url(f"/{number}")) for number in range(3))]
        for each in hooks:
            deliveries(connection, each, 50)
    with ThreadPoolExecutor(3) as pool:
        reports = list(pool.map(lambda _: deliver(engine, in_flight=5, per_endpoint=3), range(2)))

    assert sum(report.completed for report in reports) == 200
    assert len({each.id for each in receiver.received()}) == len(receiver.received()) == 200
    assert max(receiver.most_at_work.values()) <= 3


# Which, and how long


def test_named_deliveries_are_sent_now_as_far_as_they_wait(engine: sa.Engine, receiver: Receiver, hook: int) -> None:
    later, other, done = due(engine, hook, 3)
    change(engine, tables.webhook_deliveries, next_attempt_at=now(engine) + HOUR)
    with engine.begin() as connection:
        ended = sa.update(tables.webhook_deliveries).where(tables.webhook_deliveries.c.id == done)
        connection.execute(ended.values(state="errored"))

    assert deliver(engine, [later, done, 999_999]).completed == 1

    assert receiver.one().id == f"msg_{later}"
    assert end(engine, other) == ("pending", 0, None)


def test_a_run_that_stays_sends_what_is_dispatched_meanwhile(
    engine: sa.Engine, other_engine: sa.Engine, receiver: Receiver, hook: int
) -> None:
    due(engine, hook)
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(deliver, other_engine, stay_seconds=3)
        until(lambda: len(receiver.received()) == 1)
        due(engine, hook)
        assert run.result(timeout=60).completed == 2


def test_each_time_that_there_is_work_a_run_stays_as_long_again(
    engine: sa.Engine, other_engine: sa.Engine, receiver: Receiver, hook: int
) -> None:
    def sent_are(count: int) -> bool:
        return len(receiver.received()) == count

    due(engine, hook)
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(deliver, other_engine, stay_seconds=2)
        for sent in (1, 2):
            until(partial(sent_are, sent))
            time.sleep(1.2)  # twice that is more than it stays once
            due(engine, hook)
        assert run.result(timeout=60).completed == 3


def test_everything_that_is_due_is_sent_however_much_it_is(engine: sa.Engine, receiver: Receiver, hook: int) -> None:
    due(engine, hook, 100)

    report = deliver(engine, in_flight=3, per_endpoint=2)

    assert (report.completed, report.outcomes.total()) == (100, 100)
    assert len({each.id for each in receiver.received()}) == 100


# What dies, and who is too slow


def test_what_a_run_held_that_is_gone_is_sent_at_once_under_the_same_id_and_what_one_holds_that_lives_is_not(
    engine: sa.Engine, other_engine: sa.Engine, receiver: Receiver, hook: int
) -> None:
    (delivery_id,) = due(engine, hook)
    with other_engine.connect() as dying, claimant(dying) as claim:
        with dying.begin():
            claim_storage.claim_these(dying, claim, [delivery_id])
        assert deliver(engine).outcomes.total() == 0
        dying.invalidate()

    report = deliver(engine)

    assert (report.rescued, report.completed) == (1, 1)
    assert receiver.one().id == f"msg_{delivery_id}"
    assert end(engine, delivery_id) == ("completed", 2, "ok")


def test_one_that_is_too_slow_loses_its_deliveries_when_its_lease_is_over_and_changes_nothing_any_more(
    engine: sa.Engine, other_engine: sa.Engine, receiver: Receiver, hook: int
) -> None:
    (delivery_id,) = due(engine, hook)
    receiver.answers["/hook"] = [status(410)]
    receiver.open.clear()
    with ThreadPoolExecutor(1) as pool:
        zombie = pool.submit(deliver, other_engine, [delivery_id])
        until(lambda: receiver.at_work["/hook"] == 1)
        change(engine, tables.webhook_deliveries, claimed_until=now(engine))
        with engine.begin() as connection:
            assert claim_storage.rescue(connection, uuid.uuid4()) == 1
        receiver.open.set()
        report = zombie.result(timeout=60)

    assert (report.lost_to_others, report.outcomes.total(), report.disabled) == (1, 0, 0)
    assert end(engine, delivery_id) == ("pending", 1, None)
    assert webhook(engine, hook)["active"], "a zombie does not judge either"
    assert deliver(engine).completed == 1
    assert [each.id for each in receiver.received()] == 2 * [f"msg_{delivery_id}"]


def interrupting(report: Report) -> None:
    if report.completed:
        raise KeyboardInterrupt


def test_an_interrupted_run_records_what_was_answered_and_hands_back_what_was_not_sent(
    engine: sa.Engine, receiver: Receiver, hook: int
) -> None:
    ids = due(engine, hook, 30)
    with engine.connect() as connection:
        limit(connection)
        delivery = Delivery(connection, settings(), Options(in_flight=2, per_endpoint=20), interrupting)
        with pytest.raises(KeyboardInterrupt):
            delivery.run()

    sent = len(receiver.received())
    assert 0 < delivery.report.completed == sent < 30
    ends = [end(engine, each) for each in ids]
    assert ends.count(("completed", 1, "ok")) == sent
    assert ends.count(("pending", 0, None)) == 30 - sent
    assert deliver(engine).completed == 30 - sent
    assert len({each.id for each in receiver.received()}) == len(receiver.received()) == 30


def test_a_run_that_is_interrupted_between_a_claim_and_its_sending_hands_back_all_of_it(
    engine: sa.Engine, receiver: Receiver, hook: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    ids = due(engine, hook, 5)
    monkeypatch.setattr(endpoint_storage, "read_endpoints", interrupt)
    with engine.connect() as connection:
        delivery = Delivery(connection, settings(), Options())
        with pytest.raises(KeyboardInterrupt):
            delivery.run()

    assert delivery.report.handed_back == 5
    assert [end(engine, each) for each in ids] == 5 * [("pending", 0, None)]
    assert receiver.received() == []


@pytest.mark.parametrize("table", [tables.webhooks, tables.accounts], ids=["webhook", "account"])
def test_what_goes_with_its_webhook_or_its_account_while_it_is_sent_is_nobodys(
    engine: sa.Engine, receiver: Receiver, hook: int, table: sa.Table
) -> None:
    due(engine, hook, 3)
    receiver.open.clear()
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(deliver, engine)
        until(lambda: receiver.at_work["/hook"] == 3)
        with engine.begin() as connection:
            connection.execute(sa.delete(table))
        receiver.open.set()
        report = run.result(timeout=60)

    assert (report.lost_to_others, report.outcomes.total()) == (3, 0)


def test_somebody_who_has_a_delivery_locked_is_waited_for_and_what_became_of_it_is_recorded(
    engine: sa.Engine, other_engine: sa.Engine, receiver: Receiver, hook: int
) -> None:
    ids = due(engine, hook, 3)
    receiver.open.clear()
    with ThreadPoolExecutor(1) as pool, other_engine.connect() as somebody:
        run = pool.submit(deliver, engine)
        until(lambda: receiver.at_work["/hook"] == 3)
        somebody.execute(sa.select(tables.webhook_deliveries).with_for_update())
        receiver.open.set()
        until(lambda: waiting(engine) == 1)
        somebody.rollback()
        run.result(timeout=60)

    assert [end(engine, each) for each in ids] == 3 * [("completed", 1, "ok")]
