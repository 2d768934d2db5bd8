"""`flatearth webhooks`, as people type it: who is told, and by which secret."""

import base64
import re
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa

from flatearth_pipelines.embedded import EmbeddedServer
from flatearth_pipelines.webhooks.payload import ACTIONS
from flatearth_pipelines.webhooks.sealing import unseal
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.console import Flatearth, Ran
from flatearth_pipelines_tests.factories import NOON, SECRET_KEY
from flatearth_pipelines_tests.webhooks import observed
from flatearth_pipelines_tests.webhooks.workspace import Workspace, disabled

URL = "https://hooks.acme.example/flatearth"

UNKNOWN = 999_999

_ID = ("show", "deliveries", "test", "enable", "disable", "rotate")
"""Commands that take the id of a webhook and nothing else."""


@pytest.fixture(autouse=True)
def environment(secret: str) -> None:
    assert secret


@pytest.fixture
def flatearth(main: Flatearth) -> Flatearth:
    """`flatearth webhooks` with these arguments."""
    return partial(main, "webhooks")


@pytest.fixture
def create(flatearth: Flatearth, office: Workspace) -> Flatearth:
    """`create` with these options beside those that it needs."""
    needed = {"--account": office.account, "--name": "Chat", "--url": URL, "--actions": "card_closed"}

    def command(*options: object) -> Ran:
        rest = [each for name, value in needed.items() if name not in options for each in (name, value)]
        return flatearth("create", *rest, *options)

    return command


def row(engine: sa.Engine, webhook_id: int) -> observed.Row:
    with engine.connect() as connection:
        return observed.webhook(connection, webhook_id)


def count(engine: sa.Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(sa.text("SELECT count(*) FROM flatearth.webhooks")).scalar_one())


def secret_of(engine: sa.Engine, webhook_id: int) -> str:
    """As a delivery reads it."""
    return unseal(SECRET_KEY, row(engine, webhook_id)["sealed_secret"], f"webhook {webhook_id}")


def assert_one_line(ran: Ran, exit_code: int, words: str) -> None:
    assert (ran.exit_code, ran.out) == (exit_code, ""), ran
    assert ran.err.startswith("Error: ")
    assert words in ran.err
    assert ran.err.count("\n") == 1, ran.err


# create


def test_create_prints_the_id_and_this_once_the_secret(engine: sa.Engine, create: Flatearth) -> None:
    ran = create()

    assert (ran.exit_code, ran.err) == (0, "")
    told = re.fullmatch(r"id: (\d+)\nsecret: (whsec_\S+)\n", ran.out)
    assert told is not None
    assert secret_of(engine, int(told[1])) == told[2]


def test_every_option_of_create_reaches_the_webhook(engine: sa.Engine, create: Flatearth, office: Workspace) -> None:
    options = ("--board", office.board, "--actions", " card_closed,,comment_created ", "--format", "campfire")

    created = create(*options, "--name", " Ops ", "--signature", "ed25519", "--json").json()

    assert list(created) == ["id", "secret", "public_key"]
    stored = row(engine, created["id"])
    assert (stored["account_id"], stored["board_id"], stored["name"]) == (office.account, office.board, "Ops")
    assert (stored["url"], stored["actions"]) == (URL, ["card_closed", "comment_created"])
    assert (stored["format"], stored["signature"]) == ("campfire", "ed25519")
    assert (stored["public_key"], secret_of(engine, created["id"])) == (created["public_key"], created["secret"])


def test_create_prints_the_public_key_of_a_pair_and_null_for_none_in_json(create: Flatearth) -> None:
    printed = create("--signature", "rsa-sha256").out

    assert printed.index("secret: -----BEGIN PRIVATE KEY-----") < printed.index(
        "public key: -----BEGIN PUBLIC KEY-----"
    )
    assert create("--json").json()["public_key"] is None


WRONG = {
    "unknown account": (1, ("--account", UNKNOWN), f"There is no account {UNKNOWN}"),
    "highest account": (1, ("--account", 2**63 - 1), f"There is no account {2**63 - 1}"),
    "unknown board": (1, ("--board", UNKNOWN), f"There is no board {UNKNOWN} in account "),
    "unknown action": (
        2,
        ("--actions", "card_eaten"),
        f"There is no action 'card_eaten': there are {', '.join(ACTIONS)}",
    ),
    "no action": (2, ("--actions", " , "), "There is no action to be told of: it takes any of card_assigned"),
    "unknown format": (2, ("--format", "xml"), "There is no format 'xml': there are json, slack, campfire"),
    "unknown signature": (2, ("--signature", "md5"), "There is no signature 'md5': there are standard, ed25519"),
    "blank name": (2, ("--name", " "), "The name is blank: it takes 1 to 200 characters"),
    "name of 10,000 characters": (2, ("--name", 10_000 * "x"), "The name has 10,000 characters"),
    "name with a line break": (2, ("--name", "a\nb"), r"The name 'a\nb' has a line break"),
    "name that steers a terminal": (2, ("--name", "\x1b]0;x\x07"), r"The name '\x1b]0;x\x07' has"),
    "user and password": (2, ("--url", "https://ada:s3cret@acme.example"), "it has a user or a password"),
    "odd port": (2, ("--url", "https://acme.example:8443"), "its port is neither 80 nor 443"),
    "other scheme": (2, ("--url", "file:///etc/passwd"), "The URL cannot be used: "),
    "private address": (2, ("--url", "http://192.168.0.1/?key=s3cret"), "its host is a private or reserved address"),
    "this machine": (2, ("--url", "http://localhost"), "its host is this machine"),
}


def test_what_cannot_be_created_is_one_line_and_nothing_is_written(
    engine: sa.Engine, create: Flatearth, subtests: pytest.Subtests
) -> None:
    for name, (exit_code, options, words) in WRONG.items():
        with subtests.test(name):
            ran = create(*options)
            assert_one_line(ran, exit_code, words)
            assert "s3cret" not in ran.err
    assert count(engine) == 0


@pytest.mark.parametrize("option", ["--account", "--board"])
@pytest.mark.parametrize("number", [0, -1, 2**63, "one"])
def test_an_id_that_no_row_can_have_is_wrong_usage(
    engine: sa.Engine, create: Flatearth, option: str, number: object
) -> None:
    ran = create(option, number)
    assert (ran.exit_code, ran.out) == (2, "")
    assert option in ran.err
    assert count(engine) == 0


def test_a_board_of_another_account_is_not_there(engine: sa.Engine, create: Flatearth, office: Workspace) -> None:
    with engine.begin() as connection:
        theirs = Workspace(connection).board
    assert_one_line(create("--board", theirs), 1, f"There is no board {theirs} in account {office.account}")


def test_an_account_without_anybody_may_have_a_webhook(engine: sa.Engine, create: Flatearth) -> None:
    with engine.begin() as connection:
        account_id = make.account(connection)
    assert create("--account", account_id).exit_code == 0


def test_a_private_url_is_taken_where_its_network_is_allowed(
    engine: sa.Engine, create: Flatearth, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLATEARTH_WEBHOOK_ALLOW_NETWORKS", "10.1.0.0/16")

    created = create("--url", "http://10.1.2.3:8080/hook", "--json").json()

    assert row(engine, created["id"])["url"] == "http://10.1.2.3:8080/hook"
    assert_one_line(create("--url", "http://10.2.2.3:8080/hook"), 2, "private or reserved")


def test_without_a_secret_key_a_database_of_ones_own_gets_no_webhook_and_one_line_says_why(
    engine: sa.Engine, create: Flatearth, flatearth: Flatearth, monkeypatch: pytest.MonkeyPatch
) -> None:
    webhook_id = create("--json").json()["id"]
    before = row(engine, webhook_id)
    monkeypatch.delenv("FLATEARTH_SECRET_KEY")

    for ran in (create(), create("--json"), flatearth("rotate", webhook_id), flatearth("test", webhook_id)):
        assert_one_line(ran, 2, "FLATEARTH_SECRET_KEY is not set")

    assert (count(engine), row(engine, webhook_id)) == (1, before)
    with engine.connect() as connection:
        assert observed.deliveries(connection) == []
    assert flatearth("show", webhook_id).exit_code == flatearth("list").exit_code == 0


def test_with_the_embedded_database_the_key_is_made_when_it_is_needed_first(
    main: Flatearth, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("FLATEARTH_DATABASE_URL", "FLATEARTH_SECRET_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FLATEARTH_HOME", str(tmp_path))
    try:
        assert main("demo", "--cards", 1).exit_code == 0
        ran = main("webhooks", "create", "--account", 1, "--name", "x", "--url", URL, "--actions", "card_closed")
    finally:
        EmbeddedServer(tmp_path).stop()
    assert ran.exit_code == 0, ran.err
    assert (tmp_path / "secret_key").stat().st_mode & 0o077 == 0


# list and show


def test_list_has_the_newest_first_with_their_state_and_failures(
    engine: sa.Engine, flatearth: Flatearth, office: Workspace
) -> None:
    failing = {"consecutive_failures": 7, "first_failure_at": NOON}
    with engine.begin() as connection:
        active = office.webhook(connection)
        opened = office.webhook(connection, **failing, trips=1, open_until=NOON)
        silent = office.webhook(connection, **disabled())
        theirs = Workspace(connection).webhook(connection)

    def listed(*options: object) -> list[int]:
        return [row["id"] for row in flatearth("list", "--json", *options).json()]

    rows = {row["id"]: (row["state"], row["failures"]) for row in flatearth("list", "--json").json()}
    assert rows == {theirs: ("active", 0), silent: ("disabled", 0), opened: ("open", 7), active: ("active", 0)}
    assert list(rows) == sorted(rows, reverse=True)
    assert listed("--account", office.account) == [silent, opened, active]
    assert listed("--account", office.account, "--limit", 1, "--offset", 1) == [opened]
    assert listed("--account", UNKNOWN) == []
    printed = flatearth("list", "--account", office.account).out.splitlines()
    assert [line.split()[0] for line in printed[1:]] == [str(silent), str(opened), str(active)]
    assert "disabled" in printed[1]


@pytest.mark.usefixtures("database")
def test_an_empty_list_says_so(flatearth: Flatearth) -> None:
    assert flatearth("list") == Ran(0, "No webhooks.\n", "")
    assert flatearth("list", "--json").json() == []


def test_list_leaves_out_what_a_url_says_after_its_question_mark_and_show_has_it(
    engine: sa.Engine, flatearth: Flatearth, office: Workspace
) -> None:
    with engine.begin() as connection:
        webhook_id = office.webhook(connection, url=f"{URL}?token=s3cret")

    for ran in (flatearth("list"), flatearth("list", "--json")):
        assert f"{URL}?…" in ran.out
        assert "s3cret" not in ran.out
    assert flatearth("show", webhook_id, "--json").json()["url"] == f"{URL}?token=s3cret"


def test_show_has_all_but_the_secrets_and_the_newest_ten_deliveries_with_their_last_attempt(
    engine: sa.Engine, flatearth: Flatearth, office: Workspace
) -> None:
    with engine.begin() as connection:
        webhook_id = office.webhook(connection, **disabled("it answered 410 Gone"))
        event = office.event(connection)
        ids = [make.delivery(connection, webhook_id) for _ in range(10)]
        newest = make.delivery(connection, webhook_id, event, state="errored", attempts=1)
        make.attempt(connection, newest, "gone", status=410, duration_ms=34, address="203.0.113.7")

    shown = flatearth("show", webhook_id, "--json").json()

    stored = row(engine, webhook_id)
    assert shown.keys() == stored.keys() - {"sealed_secret", "previous_sealed_secret"} | {"state", "deliveries"}
    assert (shown["state"], shown["disabled_reason"]) == ("disabled", "it answered 410 Gone")
    assert [each["id"] for each in shown["deliveries"]] == [newest, *ids[:0:-1]]
    first = shown["deliveries"][0]
    assert (first["code"], first["status"], first["duration_ms"]) == ("gone", 410, 34)
    assert (first["address"], first["type"], first["event_id"]) == ("203.0.113.7", "card_closed", event)
    printed = flatearth("show", webhook_id).out
    for words in ("it answered 410 Gone", URL, "card_assigned, card_auto_postponed", "203.0.113.7", str(newest)):
        assert words in printed


def test_show_of_a_webhook_without_deliveries_says_so(
    engine: sa.Engine, flatearth: Flatearth, office: Workspace
) -> None:
    with engine.begin() as connection:
        webhook_id = office.webhook(connection)

    assert flatearth("show", webhook_id).out.endswith("\nNo deliveries.\n")
    assert flatearth("show", webhook_id, "--json").json()["deliveries"] == []


def test_no_command_but_create_and_rotate_ever_prints_a_secret_or_the_key_that_seals_it(
    engine: sa.Engine, create: Flatearth, flatearth: Flatearth, subtests: pytest.Subtests
) -> None:
    for signature in ("standard", "ed25519", "rsa-sha256"):
        with subtests.test(signature):
            created = create("--signature", signature, "--json").json()
            rotated = flatearth("rotate", created["id"], "--json").json()
            with engine.begin() as connection:
                delivery_id = make.delivery(connection, created["id"])
            commands: list[tuple[object, ...]] = [(name, created["id"]) for name in _ID if name != "rotate"]
            commands += [("list",), ("log", delivery_id), ("redeliver", delivery_id)]
            commands += [(*each, "--json") for each in commands if each[0] not in {"enable", "disable", "redeliver"}]
            stored = row(engine, created["id"])

            said = "".join("".join(map(str, flatearth(*command))) for command in commands)

            secrets = [SECRET_KEY, created["secret"], rotated["secret"]]
            secrets += [line for secret in secrets[1:] for line in secret.splitlines()[1:-1]]
            for sealed in (stored["sealed_secret"], stored["previous_sealed_secret"]):
                secrets += [str(sealed), sealed.hex(), base64.b64encode(sealed).decode()]
            assert not [secret for secret in secrets if secret in said]
            assert "whsec_" not in said
            assert "whsk_" not in said
            assert "PRIVATE KEY" not in said


# enable, disable, rotate


def test_disable_and_enable_say_what_changed_or_that_nothing_did(
    engine: sa.Engine, flatearth: Flatearth, office: Workspace
) -> None:
    with engine.begin() as connection:
        webhook_id = office.webhook(connection)

    assert flatearth("enable", webhook_id).out == f"Nothing to do: webhook {webhook_id} is enabled.\n"
    assert flatearth("disable", webhook_id) == Ran(0, f"Disabled webhook {webhook_id}.\n", "")
    assert row(engine, webhook_id)["disabled_reason"] == "by hand"
    assert flatearth("disable", webhook_id).out == f"Nothing to do: webhook {webhook_id} is disabled.\n"
    assert flatearth("enable", webhook_id) == Ran(0, f"Enabled webhook {webhook_id}.\n", "")
    flatearth("disable", webhook_id, "--reason", "too loud")
    assert row(engine, webhook_id)["disabled_reason"] == "too loud"
    assert_one_line(flatearth("disable", webhook_id, "--reason", " "), 2, "blank")


def test_enable_closes_an_open_breaker_and_forgets_the_failures(
    engine: sa.Engine, flatearth: Flatearth, office: Workspace
) -> None:
    failing = {"consecutive_failures": 7, "first_failure_at": NOON, "trips": 1, "open_until": NOON}
    with engine.begin() as connection:
        webhook_id = office.webhook(connection, **failing)

    assert flatearth("enable", webhook_id).out == f"Enabled webhook {webhook_id}.\n"

    with engine.connect() as connection:
        assert observed.breaker(connection, webhook_id) == (0, None, 0, None)


def test_rotate_prints_the_new_secret_and_until_when_the_old_one_is_valid(
    engine: sa.Engine, create: Flatearth, flatearth: Flatearth
) -> None:
    created = create("--json").json()

    ran = flatearth("rotate", created["id"])

    told = re.fullmatch(r"id: \d+\nsecret: (whsec_\S+)\nThe old one is valid until (.+) UTC\.\n", ran.out)
    assert told is not None
    stored = row(engine, created["id"])
    assert (secret_of(engine, created["id"]), ran.exit_code) == (told[1], 0)
    assert told[1] != created["secret"]
    assert f"{stored['previous_secret_until']:%Y-%m-%d %H:%M:%S}" == told[2]


def test_rotate_keeps_the_old_secret_for_a_day_or_as_many_hours_as_are_said_or_not_at_all(
    engine: sa.Engine, create: Flatearth, flatearth: Flatearth
) -> None:
    webhook_id = create("--signature", "ed25519", "--json").json()["id"]
    for options, hours in (((), 24), (("--keep-hours", 1), 1), (("--keep-hours", 720), 720)):
        before = row(engine, webhook_id)["public_key"]

        told = flatearth("rotate", webhook_id, *options, "--json").json()

        stored = row(engine, webhook_id)
        assert told.keys() == {"id", "secret", "public_key", "previous_secret_until"}
        assert (told["id"], told["public_key"]) == (webhook_id, stored["public_key"])
        assert told["public_key"] != before
        assert told["previous_secret_until"] == stored["previous_secret_until"].isoformat()
        with engine.connect() as connection:
            left = stored["previous_secret_until"] - observed.now(connection)
        assert timedelta(hours=hours) - timedelta(minutes=5) < left <= timedelta(hours=hours)

    assert flatearth("rotate", webhook_id, "--keep-hours", 0).out.endswith("The old one is not valid.\n")
    assert row(engine, webhook_id)["previous_sealed_secret"] is None


@pytest.mark.parametrize("hours", ["-1", "721", "1.5", "9" * 20])
def test_an_old_secret_is_kept_for_0_to_720_whole_hours(
    engine: sa.Engine, create: Flatearth, flatearth: Flatearth, hours: str
) -> None:
    created = create("--json").json()
    ran = flatearth("rotate", created["id"], "--keep-hours", hours)
    assert (ran.exit_code, ran.out) == (2, "")
    assert secret_of(engine, created["id"]) == created["secret"]


# What is not there


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("command", _ID)
def test_a_webhook_that_is_not_there_is_one_line_and_exit_code_one(flatearth: Flatearth, command: str) -> None:
    assert flatearth(command, UNKNOWN) == Ran(1, "", f"Error: There is no webhook {UNKNOWN}\n")
    assert flatearth(command, 2**63 - 1) == Ran(1, "", f"Error: There is no webhook {2**63 - 1}\n")


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("command", _ID)
@pytest.mark.parametrize("number", [0, -1, 2**63, "one", ""])
def test_an_id_that_no_webhook_can_have_is_wrong_usage_of_every_command(
    flatearth: Flatearth, command: str, number: object
) -> None:
    ran = flatearth(command, number)
    assert (ran.exit_code, ran.out) == (2, "")
    assert "Traceback" not in ran.err
