"""What an application can have sent: what is refused before it is enqueued, and what becomes of the rest."""

import base64
from typing import Any

import pytest
from pydantic import ValidationError

from flatearth_pipelines.errors import WrongUsage
from flatearth_pipelines.notifications.handlers import SEND_EMAIL
from flatearth_pipelines.notifications.mail_payload import SendEmail
from flatearth_pipelines.queue.handlers import Registry
from flatearth_pipelines_tests.smtp import parsed, part

SENDER = "Flat Earth <notifications@earth.example>"
TO = "ada@acme.example"
TEXT = {"to": TO, "subject": "Hello", "text": "How are you?"}


def mail(payload: dict[str, Any]) -> Any:
    """As it arrives, when it was enqueued and read again."""
    stored = Registry([SEND_EMAIL]).validated("send_email", payload)
    return parsed(SendEmail.model_validate(stored).message(SENDER, "<job.1@earth.example>").content)


def test_a_text_with_a_subject() -> None:
    arrived = mail(TEXT)

    assert (arrived["To"], arrived["From"], arrived["Subject"]) == (TO, SENDER, "Hello")
    assert arrived["Message-ID"] == "<job.1@earth.example>"
    assert arrived["Auto-Submitted"] == "auto-generated"
    assert arrived.get_content() == "How are you?\n"


def test_an_html_beside_the_text() -> None:
    arrived = mail(TEXT | {"html": "<p>How are <b>you</b>?</p>"})
    assert part(arrived, "html") == "<p>How are <b>you</b>?</p>\n"
    assert part(arrived, "plain") == "How are you?\n"


def test_files_come_with_it() -> None:
    content = bytes(range(256))
    file = {"name": "a.bin", "content": base64.b64encode(content).decode()}
    (attached,) = mail(TEXT | {"attachments": [file]}).iter_attachments()
    assert (attached.get_filename(), attached.get_content_type()) == ("a.bin", "application/octet-stream")
    assert attached.get_payload(decode=True) == content


def test_a_verification_has_a_link_or_a_code() -> None:
    linked = mail({"to": TO, "template": "verification", "data": {"name": "Ada", "url": "https://earth.example/v/x"}})
    assert linked["Subject"] == "Confirm your email address"
    assert "Hello Ada," in part(linked, "plain")
    assert 'href="https://earth.example/v/x"' in part(linked, "html")
    coded = mail({"to": TO, "template": "verification", "data": {"code": "123 456", "subject": "Your code"}})
    assert coded["Subject"] == "Your code"
    assert "Your code: 123 456" in part(coded, "plain")


def test_a_newsletter_has_paragraphs_and_can_be_unsubscribed_from_with_one_click() -> None:
    url = "https://earth.example/unsubscribe/x"
    arrived = mail(
        {
            "to": TO,
            "subject": "News",
            "template": "newsletter",
            "data": {"paragraphs": ["One <b>.", "Two."], "url": "https://earth.example/news", "link_text": "All news"},
            "unsubscribe_url": url,
        }
    )
    assert arrived["Subject"] == "News"
    assert arrived["List-Unsubscribe"] == f"<{url}>"
    assert arrived["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert "One <b>.\n\nTwo.\n" in part(arrived, "plain")
    assert "All news: https://earth.example/news" in part(arrived, "plain")
    assert url in part(arrived, "plain")
    assert "One &lt;b&gt;." in part(arrived, "html")


def test_without_a_link_to_unsubscribe_there_is_no_header_of_it() -> None:
    assert mail(TEXT)["List-Unsubscribe"] is None


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ({}, "to: Field required"),
        ({"to": TO}, "it takes either a text or a template"),
        (TEXT | {"template": "verification"}, "it takes either a text or a template"),
        ({"to": TO, "text": "x"}, "with a text it takes a subject"),
        ({"to": TO, "subject": "x", "html": "<p>"}, "it takes either a text or a template"),
        (TEXT | {"data": {"name": "x"}}, "data is for a template"),
        (TEXT | {"to": "ada"}, "to: Value error, 'ada' is no address"),
        (TEXT | {"to": "ada@acme.example\r\nBcc: eve@evil.example"}, "is no address"),
        (TEXT | {"to": "ada@acme.example, eve@evil.example"}, "is no address"),
        (TEXT | {"subject": "Hello\r\nBcc: eve@evil.example"}, "subject: Value error, it has a line break"),
        (TEXT | {"subject": ""}, "subject: String should have at least 1 character"),
        (TEXT | {"bcc": "eve@evil.example"}, "bcc: Extra inputs are not permitted"),
        (TEXT | {"headers": {"Bcc": "eve@evil.example"}}, "headers: Extra inputs are not permitted"),
        (TEXT | {"unsubscribe_url": "javascript:alert(1)"}, "unsubscribe_url: Value error"),
        (TEXT | {"unsubscribe_url": "https://e.example/>\r\nBcc: x"}, "unsubscribe_url: Value error"),
        (TEXT | {"attachments": [{"name": "a", "content": "not base64!"}]}, "attachments.0.content"),
        (TEXT | {"attachments": [{"name": "a\r\nb", "content": ""}]}, "attachments.0.name"),
        (TEXT | {"attachments": [{"name": "a", "content": "", "content_type": "text"}]}, "attachments.0.content_type"),
        ({"to": TO, "template": "surprise"}, "template: Input should be 'verification' or 'newsletter'"),
        ({"to": TO, "template": "verification"}, "it takes a url, a code or both"),
        ({"to": TO, "template": "verification", "data": {"url": "javascript:alert(1)"}}, "no address that begins with"),
        ({"to": TO, "template": "verification", "data": {"code": "1", "x": "y"}}, "Extra inputs are not permitted"),
        ({"to": TO, "template": "newsletter", "data": {"paragraphs": ["x"]}}, "subject"),
        ({"to": TO, "template": "newsletter", "subject": "x", "data": {"paragraphs": []}}, "paragraphs"),
        ({"to": TO, "template": "verification", "data": {"code": "1"}, "html": "<p>"}, "with a template it takes no"),
    ],
)
def test_what_cannot_be_sent_is_refused_before_it_is_enqueued_in_one_line(payload: dict[str, Any], reason: str) -> None:
    with pytest.raises(WrongUsage, match=r"^The payload of send_email is not valid: ") as refusal:
        Registry([SEND_EMAIL]).validated("send_email", payload)
    assert reason in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_payload_cannot_be_changed_after_it_was_checked() -> None:
    payload = SendEmail.model_validate(TEXT)
    with pytest.raises(ValidationError):
        setattr(payload, "to", "eve@evil.example")  # noqa: B010 - what a type checker would refuse
