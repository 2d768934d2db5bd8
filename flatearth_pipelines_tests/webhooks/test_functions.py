"""What an application and an operator say of webhooks."""

import base64
from collections.abc import Callable
from datetime import timedelta
from ipaddress import ip_network
from typing import Any

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from flatearth_pipelines.errors import NotFound, WrongUsage
from flatearth_pipelines.webhooks import functions
from flatearth_pipelines.webhooks.functions import Created
from flatearth_pipelines.webhooks.payload import ACTIONS
from flatearth_pipelines.webhooks.sealing import Unreadable, unseal
from flatearth_pipelines.webhooks.signing import Signer
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.factories import MICROSECOND, NOON, SECRET_KEY
from flatearth_pipelines_tests.webhooks import observed
from flatearth_pipelines_tests.webhooks.workspace import Workspace, disabled

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
URL = "https://hooks.acme.example/flatearth"
KNOWN = ", ".join(ACTIONS)

Create = Callable[..., Created]


@pytest.fixture
def work(connection: sa.Connection) -> Workspace:
    return Workspace(connection)


@pytest.fixture
def create(connection: sa.Connection, work: Workspace) -> Create:
    """A webhook with these values, the others all right."""
    right: dict[str, Any] = {"account_id": work.account, "name": "Chat", "url": URL, "actions": ["card_closed"]}
    return lambda **values: functions.create_webhook(connection, SECRET_KEY, **right | values)


def count(connection: sa.Connection) -> int:
    return int(connection.execute(sa.text("SELECT count(*) FROM flatearth.webhooks")).scalar_one())


def secret_of(connection: sa.Connection, webhook_id: int, *, previous: bool = False, key: str = SECRET_KEY) -> str:
    """As a delivery reads it."""
    row = observed.webhook(connection, webhook_id)
    return unseal(key, row["previous_sealed_secret" if previous else "sealed_secret"], f"webhook {webhook_id}")


# A new webhook


def test_a_webhook_is_active_at_once_with_what_was_said_and_an_hmac_secret_of_its_own(
    connection: sa.Connection, work: Workspace, create: Create
) -> None:
    first, second = create(actions=["comment_created", "card_closed"]), create(board_id=work.board, format="slack")

    row = observed.webhook(connection, first.id)
    assert (row["account_id"], row["board_id"], row["name"], row["url"]) == (work.account, None, "Chat", URL)
    assert (row["actions"], row["format"]) == (["comment_created", "card_closed"], "json")
    assert (row["signature"], row["public_key"], first.public_key) == ("standard", None, None)
    assert (row["active"], observed.breaker(connection, first.id)) == (True, (0, None, 0, None))
    other = observed.webhook(connection, second.id)
    assert (other["board_id"], other["format"]) == (work.board, "slack")
    assert first.secret.startswith("whsec_")
    assert first.secret != second.secret
    assert first.id < second.id


@pytest.mark.parametrize("signature", ["standard", "ed25519", "rsa-sha256"])
def test_the_secret_that_is_told_is_the_one_that_signs(
    connection: sa.Connection, create: Create, signature: str
) -> None:
    created = create(signature=signature)

    assert secret_of(connection, created.id) == created.secret
    told, kept = (Signer(signature, [secret]) for secret in (created.secret, secret_of(connection, created.id)))
    assert told.headers("msg_1", NOON, b"{}") == kept.headers("msg_1", NOON, b"{}")
    assert observed.webhook(connection, created.id)["public_key"] == created.public_key


def test_the_public_key_that_is_told_verifies_what_the_secret_signs(create: Create) -> None:
    rsa, ed25519 = create(signature="rsa-sha256"), create(signature="ed25519")
    signed = f"msg_1.{int(NOON.timestamp())}.{{}}".encode()

    assert rsa.public_key is not None
    key = load_pem_public_key(rsa.public_key.encode())
    assert isinstance(key, RSAPublicKey)
    said = Signer("rsa-sha256", [rsa.secret]).headers("msg_1", NOON, b"{}")["X-Webhook-Signature"]
    key.verify(base64.b64decode(said), signed, PKCS1v15(), SHA256())

    assert ed25519.public_key is not None
    raw = base64.b64decode(ed25519.public_key.removeprefix("whpk_"))
    said = Signer("ed25519", [ed25519.secret]).headers("msg_1", NOON, b"{}")["webhook-signature"]
    Ed25519PublicKey.from_public_bytes(raw).verify(base64.b64decode(said.removeprefix("v1a,")), signed)


def test_an_account_without_anybody_and_one_that_is_cancelled_may_have_one(
    connection: sa.Connection, create: Create
) -> None:
    empty, cancelled = make.account(connection), make.account(connection, cancelled_at=NOON)
    for account_id in (empty, cancelled):
        assert observed.webhook(connection, create(account_id=account_id).id)["account_id"] == account_id


def test_an_event_after_it_is_one_that_it_is_told_of(
    connection: sa.Connection, work: Workspace, create: Create
) -> None:
    work.event(connection, "card_closed")
    create(actions=["card_closed"])
    event = work.event(connection, "card_closed")

    assert observed.undispatched(connection) == [event]


def test_an_action_that_is_named_twice_counts_once_and_all_of_them_may_be_named(
    connection: sa.Connection, create: Create
) -> None:
    twice, every = create(actions=["card_closed", "card_created", "card_closed"]), create(actions=ACTIONS)

    assert observed.webhook(connection, twice.id)["actions"] == ["card_closed", "card_created"]
    assert observed.webhook(connection, every.id)["actions"] == list(ACTIONS)


@pytest.mark.parametrize("name", ["x", 200 * "x", "部門 👩‍💻 <b>'; --", "a  b", "\u00a0a\u3000b"])
def test_a_name_is_any_line_of_1_to_200_characters(connection: sa.Connection, create: Create, name: str) -> None:
    assert observed.webhook(connection, create(name=f" {name}\t").id)["name"] == name.strip()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "The name is blank: it takes 1 to 200 characters"),
        (" \t\r\n\u3000", "The name is blank"),
        (201 * "x", "The name has 201 characters: it takes 1 to 200"),
        (10_000 * "x", "The name has 10,000 characters"),
        ("a\nb", r"The name 'a\nb' has a line break or a control character: it takes one line of text"),
        ("a\0b", r"'a\x00b'"),
        ("\x1b[31mred", r"'\x1b[31mred'"),
        ("a\x9bb", r"'a\x9bb'"),
        ("a\u202eb", r"'a\u202eb'"),
        ("a\u2028b", r"'a\u2028b'"),
        ("a\ud800b", r"'a\ud800b'"),
    ],
    ids=ascii,
)
def test_a_name_that_is_blank_too_long_or_no_line_of_text_is_refused(
    connection: sa.Connection, create: Create, name: str, words: str
) -> None:
    before = count(connection)
    with pytest.raises(WrongUsage) as refusal:
        create(name=name)
    assert words in str(refusal.value)
    assert str(refusal.value).isprintable()
    assert count(connection) == before


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://ada:s3cret@hooks.acme.example", "it has a user or a password before its host"),
        ("https://hooks.acme.example:8080/", "its port is neither 80 nor 443"),
        ("ftp://hooks.acme.example/", "http"),
        ("javascript:alert(1)", "http"),
        ("hooks.acme.example", "http"),
        ("", "http"),
        ("http://127.0.0.1/", "its host is a private or reserved address"),
        ("http://10.0.0.1/?token=s3cret", "its host is a private or reserved address"),
        ("http://169.254.169.254/latest/meta-data", "its host is a private or reserved address"),
        ("http://[::1]/", "its host is a private or reserved address"),
        ("http://[::ffff:10.0.0.1]/", "its host is a private or reserved address"),
        ("http://2130706433/", "its host is an address that is not written as"),
        ("http://localhost/", "its host is this machine"),
        ("https://hooks.acme.example/\n", "a blank, a backslash or a character that cannot be seen"),
        ("https://hooks.acme.example/\0", "a blank, a backslash or a character that cannot be seen"),
        ("https://hooks.acme.example/\ud800", "a blank, a backslash or a character that cannot be seen"),
        ("https://hooks.acme.example/" + 1_974 * "x", "it has more than 2,000 characters"),
    ],
    ids=lambda value: ascii(value)[:50],
)
def test_a_url_that_nothing_is_sent_to_is_refused_with_the_reason_and_is_not_repeated(
    connection: sa.Connection, create: Create, url: str, words: str
) -> None:
    before = count(connection)
    with pytest.raises(WrongUsage, match=r"^The URL cannot be used: ") as refusal:
        create(url=url)
    assert words in str(refusal.value)
    assert "s3cret" not in str(refusal.value)
    assert count(connection) == before


def test_a_url_of_exactly_2_000_characters_is_taken(connection: sa.Connection, create: Create) -> None:
    url = "https://hooks.acme.example/" + 1_973 * "x"
    assert len(url) == 2_000
    assert observed.webhook(connection, create(url=url).id)["url"] == url


def test_a_private_url_and_any_port_are_taken_where_the_network_is_allowed(create: Create) -> None:
    assert create(url="http://10.1.2.3:8080/", allowed=[ip_network("10.1.0.0/16")])
    with pytest.raises(WrongUsage, match="private or reserved"):
        create(url="http://10.2.2.3:8080/", allowed=[ip_network("10.1.0.0/16")])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"actions": []}, f"There is no action to be told of: it takes any of {KNOWN}"),
        ({"actions": ["card_closed", "card_eaten"]}, f"There is no action 'card_eaten': there are {KNOWN}"),
        ({"actions": [""]}, "There is no action '': there are card_assigned"),
        ({"actions": ["CARD_CLOSED"]}, "There is no action 'CARD_CLOSED'"),
        ({"actions": ["\n" + 1_000 * "x"]}, r"There is no action '\nxxx"),
        ({"format": "xml"}, "There is no format 'xml': there are json, slack, campfire"),
        ({"signature": "md5"}, "There is no signature 'md5': there are standard, ed25519, rsa-sha256"),
    ],
)
def test_what_is_not_known_is_refused_in_one_line_that_lists_what_is(
    connection: sa.Connection, create: Create, change: dict[str, Any], words: str
) -> None:
    before = count(connection)
    with pytest.raises(WrongUsage) as refusal:
        create(**change)
    assert words in str(refusal.value)
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < 600
    assert count(connection) == before


@pytest.mark.parametrize("number", [0, -1, 2**63 - 1, 2**63, 10**30])
def test_an_account_or_a_board_that_is_not_there_is_named(
    connection: sa.Connection, work: Workspace, create: Create, number: int
) -> None:
    before = count(connection)
    with pytest.raises(NotFound, match=f"^There is no account {number}$"):
        create(account_id=number)
    with pytest.raises(NotFound, match=f"^There is no board {number} in account {work.account}$"):
        create(board_id=number)
    assert count(connection) == before


def test_a_board_of_another_account_is_not_there(connection: sa.Connection, create: Create) -> None:
    with pytest.raises(NotFound, match=r"^There is no board "):
        create(board_id=Workspace(connection).board)


# Secrets in the database


def test_who_reads_the_database_without_the_key_has_nothing_to_sign_with(
    connection: sa.Connection, create: Create
) -> None:
    for signature in ("standard", "ed25519", "rsa-sha256"):
        created = create(signature=signature)
        row = observed.webhook(connection, created.id)
        stored = b"".join(str(value).encode() + (value if isinstance(value, bytes) else b"") for value in row.values())

        secret = created.secret.splitlines()[1] if signature == "rsa-sha256" else created.secret.partition("_")[2]
        assert secret
        assert secret.encode() not in stored
        if signature == "standard":
            assert base64.b64decode(secret) not in stored
        with pytest.raises(Unreadable):
            secret_of(connection, created.id, key="another key")


def test_a_sealed_secret_that_is_moved_to_another_webhook_cannot_be_read_there(
    connection: sa.Connection, create: Create
) -> None:
    ours, theirs = create(), create()
    connection.execute(
        sa.text(
            "UPDATE flatearth.webhooks AS w SET sealed_secret = o.sealed_secret"
            " FROM flatearth.webhooks AS o WHERE w.id = :ours AND o.id = :theirs"
        ),
        {"ours": ours.id, "theirs": theirs.id},
    )

    with pytest.raises(Unreadable):
        secret_of(connection, ours.id)
    assert secret_of(connection, theirs.id) == theirs.secret


def test_a_new_webhook_shows_its_secret_to_nobody_who_prints_it(create: Create) -> None:
    created = create(signature="ed25519")
    assert created.secret not in repr(created)
    assert str(created.id) in repr(created)


# Rotation


@pytest.mark.parametrize("signature", ["standard", "ed25519", "rsa-sha256"])
def test_after_a_rotation_the_old_secret_is_kept_beside_the_new_one_for_a_day(
    connection: sa.Connection, create: Create, signature: str
) -> None:
    created = create(signature=signature)

    fresh = functions.rotate_secret(connection, SECRET_KEY, created.id)

    assert secret_of(connection, created.id) == fresh.secret != created.secret
    assert secret_of(connection, created.id, previous=True) == created.secret
    row = observed.webhook(connection, created.id)
    assert row["public_key"] == fresh.public
    assert row["previous_secret_until"] == connection.execute(sa.select(sa.func.now())).scalar_one() + DAY


def test_of_two_rotations_within_a_day_the_first_secret_is_not_valid_any_more(
    connection: sa.Connection, create: Create
) -> None:
    created = create()
    second = functions.rotate_secret(connection, SECRET_KEY, created.id)
    third = functions.rotate_secret(connection, SECRET_KEY, created.id, HOUR)

    assert secret_of(connection, created.id) == third.secret
    assert secret_of(connection, created.id, previous=True) == second.secret


def test_a_secret_that_is_kept_for_nothing_is_not_kept_and_one_may_be_kept_for_exactly_30_days(
    connection: sa.Connection, create: Create
) -> None:
    created = create()

    functions.rotate_secret(connection, SECRET_KEY, created.id, timedelta(0))
    row = observed.webhook(connection, created.id)
    assert (row["previous_sealed_secret"], row["previous_secret_until"]) == (None, None)

    functions.rotate_secret(connection, SECRET_KEY, created.id, 30 * DAY)
    assert observed.webhook(connection, created.id)["previous_sealed_secret"] is not None


@pytest.mark.parametrize("keep_for", [-MICROSECOND, 30 * DAY + MICROSECOND, timedelta.max, timedelta.min])
def test_a_secret_is_kept_for_no_negative_time_and_not_for_a_microsecond_more_than_30_days(
    connection: sa.Connection, create: Create, keep_for: timedelta
) -> None:
    created = create()
    with pytest.raises(WrongUsage, match=r"it takes up to 30 days$"):
        functions.rotate_secret(connection, SECRET_KEY, created.id, keep_for)
    assert secret_of(connection, created.id) == created.secret


def test_a_secret_that_cannot_be_read_with_the_key_of_today_is_replaced_and_not_kept(
    connection: sa.Connection, create: Create
) -> None:
    created = create()

    fresh = functions.rotate_secret(connection, "another key", created.id)

    assert secret_of(connection, created.id, key="another key") == fresh.secret
    assert observed.webhook(connection, created.id)["previous_sealed_secret"] is None


def test_a_webhook_that_is_disabled_has_its_secret_rotated_and_stays_disabled(
    connection: sa.Connection, work: Workspace
) -> None:
    webhook_id = work.webhook(connection, **disabled())

    fresh = functions.rotate_secret(connection, SECRET_KEY, webhook_id)

    assert secret_of(connection, webhook_id) == fresh.secret
    assert not observed.webhook(connection, webhook_id)["active"]


@pytest.mark.parametrize("webhook_id", [0, -1, 2**63 - 1, 2**63])
def test_a_webhook_that_is_not_there_is_named(connection: sa.Connection, webhook_id: int) -> None:
    for call in (
        lambda: functions.rotate_secret(connection, SECRET_KEY, webhook_id),
        lambda: functions.enable_webhook(connection, webhook_id),
        lambda: functions.disable_webhook(connection, webhook_id, "by hand"),
    ):
        with pytest.raises(NotFound, match=f"^There is no webhook {webhook_id}$"):
            call()


# Enabled and disabled


def test_a_webhook_that_is_disabled_is_told_of_nothing_new_until_it_is_enabled(
    connection: sa.Connection, work: Workspace, create: Create
) -> None:
    created = create()

    assert functions.disable_webhook(connection, created.id, "too\n loud\0")
    work.event(connection)
    assert functions.enable_webhook(connection, created.id)
    event = work.event(connection)

    assert observed.undispatched(connection) == [event]
    assert not functions.enable_webhook(connection, created.id)


@pytest.mark.parametrize(
    ("reason", "kept"),
    [("too\n loud\0", "too loud"), (10_000 * "x", 300 * "x"), ("a\ud800b\x1b", "a b")],
    ids=["lines", "long", "surrogate"],
)
def test_a_reason_is_kept_as_one_line_of_at_most_300_characters(
    connection: sa.Connection, create: Create, reason: str, kept: str
) -> None:
    created = create()
    assert functions.disable_webhook(connection, created.id, reason)
    assert observed.webhook(connection, created.id)["disabled_reason"] == kept
    assert not functions.disable_webhook(connection, created.id, "again")
    assert observed.webhook(connection, created.id)["disabled_reason"] == kept


@pytest.mark.parametrize("reason", ["", " \n", "\0\x1b"])
def test_a_reason_that_is_blank_is_none(connection: sa.Connection, create: Create, reason: str) -> None:
    created = create()
    with pytest.raises(WrongUsage, match="blank"):
        functions.disable_webhook(connection, created.id, reason)
    assert observed.webhook(connection, created.id)["active"]
