"""The whole email about a bundle: its headers, and that nothing people typed reaches them."""

import re
from datetime import timedelta

import pytest

from flatearth_pipelines.errors import WrongSetting
from flatearth_pipelines.message import WrongMessage
from flatearth_pipelines.notifications.letter import Letterhead, contents, letter, message_id
from flatearth_pipelines.notifications.unsubscribe import Step, verdict
from flatearth_pipelines.settings import Settings
from flatearth_pipelines_tests.notifications.test_digest import NOON, bundle, item
from flatearth_pipelines_tests.smtp import parsed, part

KEY = "a secret of the tests"
HEAD = Letterhead("Flat Earth <notifications@earth.example>", "https://earth.example", KEY)

HOSTILE = [
    "\r\nBcc: eve@evil.example\r\n\r\nBody",
    "\nSubject: other",
    "=?utf-8?q?=0D=0ABcc:_eve@evil.example?=",
    "<script>alert(1)</script>",
    "x" * 10_000_000,
    "مرحبا שלום \u202egnp.exe 👩‍👩‍👧‍👦",
    "\ud800",
]


def test_it_goes_to_the_person_from_the_sender_with_both_parts() -> None:
    mail = parsed(letter(bundle(item()), HEAD).content)

    assert (mail["To"], mail["From"]) == ("bo@acme.example", HEAD.sender)
    assert mail["Subject"] == "1 new notification"
    assert mail.get_content_type() == "multipart/alternative"
    assert "Fix the bug" in part(mail, "plain")
    assert "Fix the bug" in part(mail, "html")


def test_the_message_id_depends_on_the_bundle_and_on_nothing_else() -> None:
    ids = {
        letter(bundle(item()), HEAD).message_id,
        letter(bundle(item(title="Other"), item(), account="Other", attempts=5), HEAD, NOON).message_id,
        message_id("bundle", 3, "somebody@earth.example"),
    }
    assert ids == {"<bundle.e8511e92-70b3-5fb4-8a1f-af4e450afef4@earth.example>"}
    assert letter(bundle(item(), id=4), HEAD).message_id not in ids
    assert message_id("job", 3, HEAD.sender) not in ids


def test_it_can_be_unsubscribed_from_with_one_click() -> None:
    mail = parsed(letter(bundle(item()), HEAD, NOON).content)

    assert mail["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    (url,) = re.findall(r"^<(https://earth\.example/unsubscribe/\S+)>$", mail["List-Unsubscribe"])
    assert url in part(mail, "plain")
    assert url in part(mail, "html")
    token = url.rpartition("/")[2]
    assert verdict("POST", token, KEY, NOON).user_id == 5
    assert verdict("POST", token, KEY, NOON + timedelta(days=30, seconds=1)).step is Step.EXPIRED


def test_it_says_that_a_machine_wrote_it_and_why() -> None:
    mail = parsed(letter(bundle(item(), item(action="mention")), HEAD).content)

    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail["X-Auto-Response-Suppress"] == "All"
    assert mail["List-Id"] == "<account-1.notifications.earth.example>"
    assert mail["X-FlatEarth-Reason"] == "mention, activity"


def test_of_the_same_bundle_and_instant_the_parts_are_the_same_to_the_byte() -> None:
    assert contents(bundle(item()), HEAD, NOON) == contents(bundle(item()), HEAD, NOON)
    mail = parsed(letter(bundle(item()), HEAD, NOON).content)
    _, page = contents(bundle(item()), HEAD, NOON)
    assert (part(mail, "html"), part(mail, "plain")) == (page.html, page.text)


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:20]))
def test_nothing_that_people_typed_becomes_a_header_or_more_than_a_line_of_text(text: str) -> None:
    typed = item(title=text, body=text, actor=text, board=text)
    content = letter(bundle(typed, account=text, in_several_accounts=True), HEAD).content
    mail = parsed(content)

    assert sorted(mail.keys()) == sorted(parsed(letter(bundle(item()), HEAD).content).keys())
    assert mail["Bcc"] is None
    assert len(content) < 30_000
    assert "\nBody" not in part(mail, "plain")
    assert "<script" not in part(mail, "html")


@pytest.mark.parametrize(
    "email", ["ada@acme.example\r\nBcc: eve@evil.example", "ada", "ada@acme.example, eve@evil.example"]
)
def test_an_address_that_is_none_is_refused(email: str) -> None:
    with pytest.raises(WrongMessage):
        letter(bundle(item(), email=email), HEAD)


def test_the_letterhead_is_what_the_environment_says() -> None:
    variables = {
        "FLATEARTH_MAIL_FROM": "Earth <earth@earth.example>",
        "FLATEARTH_PUBLIC_URL": "https://earth.example/",
        "FLATEARTH_SECRET_KEY": KEY,
    }
    head = Letterhead.of(Settings.from_environment(variables))
    assert head == Letterhead("Earth <earth@earth.example>", "https://earth.example", KEY)


def test_without_a_secret_there_is_no_letterhead() -> None:
    with pytest.raises(WrongSetting, match="FLATEARTH_SECRET_KEY"):
        Letterhead.of(Settings.from_environment({"FLATEARTH_DATABASE_URL": "postgresql://h/earth"}))
