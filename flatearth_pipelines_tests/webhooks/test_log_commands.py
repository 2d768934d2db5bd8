"""Of `flatearth webhooks`, as people type it, what says how deliveries went and has them sent again."""

import base64
import json
from datetime import timedelta
from functools import partial

import pytest
import sqlalchemy as sa

from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.console import Flatearth, Ran
from flatearth_pipelines_tests.factories import MICROSECOND, NOON
from flatearth_pipelines_tests.webhooks import observed
from flatearth_pipelines_tests.webhooks.servers import REACHABLE, http_server, listener
from flatearth_pipelines_tests.webhooks.workspace import Workspace, disabled
from flatearth_pipelines_tests.webhooks.workspace import deliveries as many_deliveries

UNKNOWN = 999_999
AN_INSTANT = "2026-11-22T12:00:00+00:00"

GONE = b"HTTP/1.1 410 Gone\r\nContent-Length: 4\r\n\r\ngone"
BROKEN = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 6\r\n\r\nbroken"


@pytest.fixture(autouse=True)
def environment(secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert secret
    monkeypatch.setenv("FLATEARTH_WEBHOOK_ALLOW_NETWORKS", REACHABLE)


@pytest.fixture
def flatearth(main: Flatearth) -> Flatearth:
    """`flatearth webhooks` with these arguments."""
    return partial(main, "webhooks")


@pytest.fixture
def hook(engine: sa.Engine, office: Workspace) -> int:
    with engine.begin() as connection:
        return office.webhook(connection)


def states(engine: sa.Engine) -> dict[int, str]:
    with engine.connect() as connection:
        return observed.states(connection)


# deliveries


def test_deliveries_has_the_newest_first_of_the_states_that_are_asked_for_with_their_last_attempt(
    engine: sa.Engine, flatearth: Flatearth, office: Workspace, hook: int
) -> None:
    with engine.begin() as connection:
        first = make.delivery(connection, hook, office.event(connection), state="errored", attempts=8)
        make.attempt(connection, first, "timeout")
        make.attempt(connection, first, "http_5xx", status=503, duration_ms=1_234, address="203.0.113.7")
        second = make.delivery(connection, hook)
        make.delivery(connection, office.webhook(connection))

    def listed(*options: object) -> list[int]:
        return [row["id"] for row in flatearth("deliveries", hook, "--json", *options).json()]

    assert listed() == [second, first]
    assert listed("--state", "errored") == [first]
    assert listed("--state", "errored", "--state", "pending") == [second, first]
    assert listed("--limit", 1) == [second]
    assert listed("--limit", 1, "--offset", 1) == [first]
    assert listed("--limit", 0) == []
    shown = flatearth("deliveries", hook, "--json").json()[1]
    assert (shown["type"], shown["code"], shown["status"]) == ("card_closed", "http_5xx", 503)
    assert (shown["duration_ms"], shown["address"], shown["attempts"]) == (1234, "203.0.113.7", 8)
    printed = flatearth("deliveries", hook).out.splitlines()
    assert [line.split()[0] for line in printed] == ["id", str(second), str(first)]
    assert "203.0.113.7" in printed[2]


def test_a_webhook_without_deliveries_says_so_and_an_unknown_state_is_wrong_usage(
    flatearth: Flatearth, hook: int
) -> None:
    assert flatearth("deliveries", hook) == Ran(0, "No deliveries.\n", "")
    assert flatearth("deliveries", hook, "--json").json() == []
    assert flatearth("deliveries", hook, "--state", "lost") == Ran(
        2, "", "Error: There is no state 'lost': there are pending, in_progress, completed, errored\n"
    )
    assert flatearth("deliveries", hook, "--limit", -1).exit_code == 2


# log


def test_log_has_every_attempt_with_its_answer_as_text_or_in_base64(
    engine: sa.Engine, flatearth: Flatearth, hook: int
) -> None:
    binary = b"\x89PNG\r\n\xff"
    with engine.begin() as connection:
        delivery_id = make.delivery(connection, hook)
        make.attempt(connection, delivery_id, "dns", detail="no such name")
        make.attempt(connection, delivery_id, "http_5xx", attempt=2, status=503, response="Zoë\n".encode())
        make.attempt(connection, delivery_id, attempt=3, status=200, response=binary, address="203.0.113.7")
        make.attempt(connection, delivery_id, attempt=4, status=204, response=b"")

    first, second, third, fourth = flatearth("log", delivery_id, "--json").json()

    assert (first["code"], first["detail"], first["response"], first["response_encoding"]) == (
        "dns",
        "no such name",
        None,
        None,
    )
    assert first["started_at"] == NOON.isoformat()
    assert (second["attempt"], second["response"], second["response_encoding"]) == (2, "Zoë\n", "utf-8")
    assert (third["response_encoding"], base64.b64decode(third["response"])) == ("base64", binary)
    assert (fourth["response"], fourth["response_encoding"]) == ("", "utf-8")
    printed = flatearth("log", delivery_id).out
    assert "Answer to attempt 2, utf-8:\nZoë\n" in printed
    assert f"Answer to attempt 3, base64:\n{base64.b64encode(binary).decode()}\n" in printed
    assert "no such name" in printed
    assert "attempt 1," not in printed
    assert "attempt 4," not in printed


@pytest.mark.parametrize(
    ("response", "text"),
    [
        (19_999 * b"x" + "é".encode()[:1], 19_999 * "x"),
        (19_998 * b"x" + "é".encode(), 19_998 * "x" + "é"),
        (19_997 * b"x" + "👍".encode()[:3], 19_997 * "x"),
        (19_998 * b"x" + "é".encode()[:1], None),
        (19_999 * b"x" + b"\xff", None),
    ],
)
def test_an_answer_that_was_cut_within_a_character_is_still_text_and_a_shorter_one_is_not(
    engine: sa.Engine, flatearth: Flatearth, hook: int, response: bytes, text: str | None
) -> None:
    with engine.begin() as connection:
        delivery_id = make.delivery(connection, hook)
        make.attempt(connection, delivery_id, response=response)

    (shown,) = flatearth("log", delivery_id, "--json").json()

    assert shown["response"] == (base64.b64encode(response).decode() if text is None else text)


def test_an_answer_cannot_steer_the_terminal_and_json_has_it_as_it_came(
    engine: sa.Engine, flatearth: Flatearth, hook: int
) -> None:
    evil = "a\r\n\tb\x1b[2J\x00\x9b1m\u202ec\x7f [bold]"
    with engine.begin() as connection:
        delivery_id = make.delivery(connection, hook)
        make.attempt(connection, delivery_id, response=evil.encode())

    printed = flatearth("log", delivery_id).out

    assert printed.endswith("a\n\tb\ufffd[2J\ufffd\ufffd1m\ufffdc\ufffd [bold]\n")
    assert flatearth("log", delivery_id, "--json").json()[0]["response"] == evil


def test_a_delivery_that_was_not_tried_has_an_empty_log_and_one_that_is_not_there_is_named(
    engine: sa.Engine, flatearth: Flatearth, hook: int
) -> None:
    with engine.begin() as connection:
        delivery_id = make.delivery(connection, hook)

    assert flatearth("log", delivery_id) == Ran(0, "No attempts.\n", "")
    assert flatearth("log", delivery_id, "--json").json() == []
    for number in (UNKNOWN, 2**63 - 1):
        assert flatearth("log", number) == Ran(1, "", f"Error: There is no delivery {number}\n")


# test


@pytest.mark.parametrize(
    ("format_", "content_type"), [("json", "application/json"), ("campfire", "text/html; charset=utf-8")]
)
def test_test_sends_a_ping_now_and_says_how_it_was_answered(
    engine: sa.Engine, flatearth: Flatearth, office: Workspace, format_: str, content_type: str
) -> None:
    with http_server() as server:
        with engine.begin() as connection:
            hook = office.webhook(connection, url=server.url, format=format_)

        ran = flatearth("test", hook)
        told = flatearth("test", hook, "--json").json()

    assert (ran.exit_code, ran.err) == (0, "")
    assert ran.out.count("ok") == 1
    assert (told["code"], told["status"], told["address"], told["response"]) == ("ok", 200, REACHABLE, "hello")
    assert states(engine)[told["delivery_id"]] == "completed"
    assert list(states(engine).values()) == ["completed"] * 2
    request = server.requests[1]
    headers = {name.lower(): value for name, value in request.headers}
    assert headers["content-type"] == content_type
    assert headers["webhook-signature"].startswith("v1,")
    if format_ == "json":
        said = json.loads(request.body)
        assert (said["type"], said["data"]["webhook"]) == ("ping", {"id": hook})
    else:
        assert request.body == b"This is a test of a webhook."


@pytest.mark.parametrize(("answer", "said"), [(BROKEN, ("http_5xx", 503)), (GONE, ("gone", 410))])
def test_a_ping_that_is_not_taken_ends_with_one_and_is_not_tried_again(
    engine: sa.Engine, flatearth: Flatearth, office: Workspace, answer: bytes, said: tuple[str, int]
) -> None:
    with http_server(answer) as server:
        with engine.begin() as connection:
            hook = office.webhook(connection, url=server.url)

        ran = flatearth("test", hook, "--json")

    told = ran.json()
    assert (ran.exit_code, told["code"], told["status"]) == (1, *said)
    assert len(server.requests) == 1
    assert states(engine) == {told["delivery_id"]: "errored"}
    with engine.connect() as connection:
        assert observed.breaker(connection, hook)[0] == 1
    assert said[0] in flatearth("log", told["delivery_id"]).out


def test_a_ping_to_a_private_address_is_blocked_and_nobody_is_knocked_at(
    engine: sa.Engine, flatearth: Flatearth, office: Workspace
) -> None:
    with listener() as nobody:
        with engine.begin() as connection:
            hook = office.webhook(connection, url=f"http://127.0.0.1:{nobody.port}/?token=s3cret")

        ran = flatearth("test", hook)

        assert nobody.knocks == 0
    assert ran.exit_code == 1
    assert "bad_url" in ran.out
    assert "s3cret" not in ran.out + ran.err


def test_a_ping_whose_secret_another_key_has_sealed_is_not_sent_and_says_what_to_do(
    engine: sa.Engine, flatearth: Flatearth, office: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLATEARTH_SECRET_KEY", "another key")
    with http_server() as server:
        with engine.begin() as connection:
            hook = office.webhook(connection, url=server.url)

        ran = flatearth("test", hook)
        assert ran.exit_code == 1
        assert "no_secret" in ran.out
        assert server.requests == []

        assert flatearth("rotate", hook).exit_code == 0
        assert flatearth("test", hook).exit_code == 0


def test_an_endpoint_whose_breaker_is_open_is_tested_all_the_same_and_a_success_closes_it(
    engine: sa.Engine, flatearth: Flatearth, office: Workspace
) -> None:
    with http_server() as server, engine.begin() as connection:
        later = observed.now(connection) + timedelta(hours=1)
        failing = {"consecutive_failures": 7, "first_failure_at": NOON, "trips": 2, "open_until": later}
        hook = office.webhook(connection, url=server.url, **failing)
        connection.commit()

        assert flatearth("test", hook).exit_code == 0

    with engine.connect() as connection:
        assert observed.breaker(connection, hook) == (0, None, 0, None)


def test_a_webhook_that_is_disabled_is_not_tested(engine: sa.Engine, flatearth: Flatearth, office: Workspace) -> None:
    with http_server() as server:
        with engine.begin() as connection:
            hook = office.webhook(connection, url=server.url, **disabled())

        assert flatearth("test", hook) == Ran(1, "", f"Error: Webhook {hook} is disabled: enable it to test it\n")

    assert server.requests == []
    assert states(engine) == {}


def test_a_run_of_somebody_else_leaves_the_ping_to_this_process_for_a_minute(
    engine: sa.Engine, flatearth: Flatearth, office: Workspace
) -> None:
    with http_server() as server:
        with engine.begin() as connection:
            hook = office.webhook(connection, url=server.url)

        delivery_id = flatearth("test", hook, "--json").json()["delivery_id"]

    with engine.connect() as connection:
        row = observed.delivery(connection, delivery_id)
    assert row["created_at"] + timedelta(minutes=1) <= row["next_attempt_at"]


def test_only_the_ping_is_sent_and_what_else_waits_goes_on_waiting(
    engine: sa.Engine, flatearth: Flatearth, office: Workspace
) -> None:
    with http_server() as server:
        with engine.begin() as connection:
            hook = office.webhook(connection, url=server.url)
            waiting = make.delivery(connection, hook)

        flatearth("test", hook)

    assert len(server.requests) == 1
    assert states(engine)[waiting] == "pending"


# redeliver


def test_redeliver_has_what_ended_wait_again_and_names_the_others(
    engine: sa.Engine, flatearth: Flatearth, hook: int
) -> None:
    with engine.begin() as connection:
        done = make.delivery(connection, hook, state="completed", completed_at=NOON, attempts=1)
        failed = make.delivery(connection, hook, state="errored", attempts=8)
        left, waiting = make.delivery(connection, hook, state="errored"), make.delivery(connection, hook)

    ran = flatearth("redeliver", failed, done, failed)
    assert ran == Ran(0, f"Delivery {failed} waits again.\nDelivery {done} waits again.\n", "")
    assert states(engine) == {done: "pending", failed: "pending", left: "errored", waiting: "pending"}
    with engine.connect() as connection:
        assert observed.delivery(connection, failed)["attempts"] == 0

    ran = flatearth("redeliver", waiting, left, UNKNOWN, 2**63 - 1)
    assert (ran.exit_code, ran.out) == (1, f"Delivery {left} waits again.\n")
    assert ran.err == (
        f"Error: Delivery {waiting} has not ended: it is pending\n"
        f"Error: There is no delivery {UNKNOWN}\n"
        f"Error: There is no delivery {2**63 - 1}\n"
    )


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("ids", [[], [0], [-1], [2**63], ["one"]])
def test_redeliver_without_ids_or_with_what_is_none_is_wrong_usage(flatearth: Flatearth, ids: list[object]) -> None:
    ran = flatearth("redeliver", *ids)
    assert (ran.exit_code, ran.out) == (2, "")


# recover


def test_recover_has_all_that_was_tried_since_an_instant_and_has_not_arrived_due_now(
    engine: sa.Engine, flatearth: Flatearth, office: Workspace, hook: int
) -> None:
    tried = {"attempts": 3, "next_attempt_at": sa.text("now() + interval '10 hours'")}
    with engine.begin() as connection:
        before = make.delivery(connection, hook, type="note", state="errored", created_at=NOON - MICROSECOND)
        exactly = make.delivery(connection, hook, type="note", state="errored", created_at=NOON)
        done = make.delivery(connection, hook, state="completed", created_at=NOON)
        waiting = make.delivery(connection, hook, type="note", created_at=NOON, **tried)
        theirs = make.delivery(connection, office.webhook(connection), state="errored", created_at=NOON)

    assert flatearth("recover", hook, "--since", AN_INSTANT) == Ran(0, "2 deliveries wait again.\n", "")

    after = states(engine)
    assert (after.pop(exactly), after.pop(waiting)) == ("pending", "pending")
    assert after == {before: "errored", done: "completed", theirs: "errored"}
    with engine.connect() as connection:
        assert observed.delivery(connection, waiting)["next_attempt_at"] <= observed.now(connection)
    nothing = "Nothing to do: all that was tried since then has arrived.\n"
    assert flatearth("recover", hook, "--since", AN_INSTANT) == Ran(0, nothing, "")
    assert flatearth("recover", hook, "--since", "9999-12-31T23:59:59-14:00") == Ran(0, nothing, "")
    assert flatearth("recover", hook, "--since", "0001-01-01T00:00:00+14:00").out == "1 delivery waits again.\n"


def test_recover_goes_on_after_the_most_that_one_transaction_takes(
    engine: sa.Engine, flatearth: Flatearth, hook: int
) -> None:
    with engine.begin() as connection:
        many_deliveries(connection, hook, 5_001)
        connection.execute(sa.text("UPDATE flatearth.webhook_deliveries SET state = 'errored'"))

    ran = flatearth("recover", hook, "--since", "2000-01-01T00:00:00+00:00")

    assert ran == Ran(0, "5,001 deliveries wait again.\n", "")
    assert set(states(engine).values()) == {"pending"}


def test_recover_of_a_webhook_that_is_not_there_and_since_no_instant_is_one_line(
    flatearth: Flatearth, hook: int
) -> None:
    unknown = flatearth("recover", UNKNOWN, "--since", AN_INSTANT)
    assert unknown == Ran(1, "", f"Error: There is no webhook {UNKNOWN}\n")
    for text, words in (("yesterday", "is not a date and time"), ("2026-11-22T12:00:00", "has no zone")):
        ran = flatearth("recover", hook, "--since", text)
        assert (ran.exit_code, ran.out) == (2, "")
        assert ran.err.startswith(f"Error: --since '{text}' {words}")
    assert flatearth("recover", hook).exit_code == 2
