"""Emails as bytes, read with the standard library's parser: what goes in comes out, and nothing else."""

import email
import email.header
import email.policy
import re
from datetime import timedelta
from email.message import EmailMessage

import email_validator
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flatearth_pipelines import message
from flatearth_pipelines.message import Attachment, Message, WrongMessage, compose, domain, mailbox, one_line

SENDER = "Flat Earth <notifications@flatearth.local>"
TO = "ada@acme.example"

BREAKS = ["\r\n", "\n", "\r", "\0", "\r\n\r\n"]

anything = st.text(st.characters(exclude_categories=["Cs"]))
no_breaks = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"), min_size=1)


# What goes in comes out


@given(no_breaks, anything, anything)
@example("=?utf-8?q?not_an_encoded_word?=", "=?utf-8?q?x?=", "=3D")
@example(" blanks around ", "trailing blanks   \n", "<p>x</p>" * 500)
@example("x" * 500, "." * 3 + "\n.\n..\nFrom me\n", "\x00\x01\x7f")
@example("地球" * 200, "--=_boundary\n--=_\n", "a\r\nb\rc\n")
@example("👩‍👩‍👧‍👦 " * 40, "مرحبا", "<p>\u202e</p>")
def test_subject_text_and_html_are_read_as_they_were_written(subject: str, text: str, html: str) -> None:
    message = parsed(compose(SENDER, TO, subject, text, html=html))

    assert header_text(message, "Subject") == subject
    assert body(message, "plain") == with_end(text)
    assert body(message, "html") == with_end(html)


@given(no_breaks, st.binary())
@example("résumé 地球.pdf", b"\r\n.\r\n")
@example('a "quoted" \\ name; filename=x.exe', b"")
@example("../../etc/passwd", b"x" * 57)
def test_a_file_arrives_with_its_name_type_and_content(name: str, content: bytes) -> None:
    message = parsed(compose(SENDER, TO, "Subject", "Text", attachments=[Attachment(name, "text/x-thing", content)]))

    (file,) = message.iter_attachments()
    assert file.get_content_type() == "text/x-thing"
    assert file.get_payload(decode=True) == content
    if name.isprintable() and name == name.strip():
        assert file.get_filename() == name
    assert body(message, "plain") == "Text\n"


def test_text_html_and_files_stand_beside_each_other() -> None:
    files = [Attachment(name, "application/pdf", name.encode()) for name in ("a.pdf", "b.pdf")]
    message = parsed(compose(SENDER, TO, "Subject", "Text", html="<p>Text</p>", attachments=files))

    kinds = [part.get_content_type() for part in message.walk()]
    assert kinds == [
        "multipart/mixed",
        "multipart/alternative",
        "text/plain",
        "text/html",
        "application/pdf",
        "application/pdf",
    ]
    assert [file.get_filename() for file in message.iter_attachments()] == ["a.pdf", "b.pdf"]


@given(no_breaks, anything, anything)
def test_every_line_is_ascii_ends_in_crlf_and_is_not_too_long(subject: str, text: str, html: str) -> None:
    content = compose(SENDER, TO, subject, text, html=html).content

    assert content.isascii()
    assert content.endswith(b"\r\n")
    assert not re.search(rb"(?<!\r)\n|\r(?!\n)|\x00", content)
    assert max(map(len, content.split(b"\r\n"))) <= 998


def test_plain_ascii_is_not_encoded() -> None:
    content = compose(SENDER, TO, "Subject", "Just words = and signs.", html="<p>Just</p>").content

    assert content.count(b"Content-Transfer-Encoding: 7bit\r\n") == 2
    assert b"\r\nJust words = and signs.\r\n" in content
    assert b"\r\nSubject: Subject\r\n" in content


def test_a_lone_surrogate_becomes_a_question_mark() -> None:
    message = parsed(compose(SENDER, TO, "a \ud800", "b \ud800", html="c \ud800"))

    assert message["Subject"] == "a ?"
    assert (body(message, "plain"), body(message, "html")) == ("b ?\n", "c ?\n")


def test_ten_megabytes_arrive() -> None:
    text = "grüße aus der ferne " * 500_000
    assert body(parsed(compose(SENDER, TO, "Long", text)), "plain") == text + "\n"


# Headers


def test_a_message_says_who_when_and_which() -> None:
    message = compose(SENDER, f"Ada L. <{TO}>", "Subject", "Text", headers={"Auto-Submitted": "auto-generated"})
    read = parsed(message)

    assert (message.sender, message.recipient) == ("notifications@flatearth.local", TO)
    assert read["From"] == SENDER
    assert read["To"].addresses[0].display_name == "Ada L."
    assert read["Date"].datetime.utcoffset() == timedelta(0)
    assert read["Message-ID"] == message.message_id
    assert message.message_id.endswith("@flatearth.local>")
    assert read["Auto-Submitted"] == "auto-generated"
    assert read["MIME-Version"] == "1.0"


def test_every_message_has_an_id_of_its_own_unless_it_is_given_one() -> None:
    ids = {compose(SENDER, TO, "Subject", "Text").message_id for _ in range(10)}
    assert len(ids) == 10
    assert compose(SENDER, TO, "Subject", "Text", message_id="<a@b>").message_id == "<a@b>"


def test_a_header_that_is_long_is_not_folded() -> None:
    url = "<https://earth.example/unsubscribe/" + "x" * 500 + ">"
    content = compose(SENDER, TO, "Subject", "Text", headers={"List-Unsubscribe": url}).content

    assert f"\r\nList-Unsubscribe: {url}\r\n".encode() in content


@pytest.mark.parametrize("sign", BREAKS)
@pytest.mark.parametrize("place", ["subject", "to", "name of to", "sender", "message id", "header", "file", "type"])
def test_a_line_break_anywhere_in_a_header_is_refused(place: str, sign: str) -> None:
    evil = f"{sign}Bcc: eve@evil.example"
    values = {
        "subject": "Subject",
        "to": TO,
        "name of to": "Ada",
        "sender": "notifications@flatearth.local",
        "message id": "<a@b>",
        "header": "value",
        "file": "a.txt",
        "type": "text/plain",
    }
    values[place] += evil
    with pytest.raises(WrongMessage) as refusal:
        compose(
            values["sender"],
            "{name of to} <{to}>".format(**values),
            values["subject"],
            "Text",
            message_id=values["message id"],
            headers={"X-Header": values["header"]},
            attachments=[Attachment(values["file"], values["type"], b"")],
        )
    assert not re.search(r"[\r\n\0]", str(refusal.value))


@pytest.mark.parametrize("sign", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029", "\t"])
def test_what_some_programs_take_for_a_line_break_makes_no_header(sign: str) -> None:
    content = compose(SENDER, TO, f"Subject{sign}Bcc: eve@evil.example", "Text").content

    assert b"Bcc" not in content.partition(b"\r\n\r\n")[0]
    assert parsed(Message("", "", "", content))["Bcc"] is None


def test_a_header_longer_than_a_line_may_be_is_refused() -> None:
    with pytest.raises(WrongMessage, match="X-Header is too long for a header: 1,000 characters"):
        compose(SENDER, TO, "Subject", "Text", headers={"X-Header": "x" * 1_000})


# Addresses


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("ada@acme.example", "ada@acme.example"),
        ("Ada.L+tag@Acme.EXAMPLE", "Ada.L+tag@acme.example"),
        ("ada@flatearth.local", "ada@flatearth.local"),
        ("ada@localhost", "ada@localhost"),
        ("ada@acme.test", "ada@acme.test"),
        ("ada@bücher.example", "ada@xn--bcher-kva.example"),
        ("pelé@acme.example", "pelé@acme.example"),
        ("Ada <ada@acme.example>", "ada@acme.example"),
        ('"Ada, L." <ada@acme.example>', "ada@acme.example"),
        ("<ada@acme.example>", "ada@acme.example"),
    ],
)
def test_an_address_is_found_with_or_without_a_name(text: str, address: str) -> None:
    assert mailbox(text).address == address


@given(st.from_regex(message._ORDINARY, fullmatch=True))  # noqa: SLF001
def test_the_short_cut_for_usual_addresses_says_what_the_library_says(text: str) -> None:
    found = email_validator.validate_email(
        text, check_deliverability=False, globally_deliverable=False, strict=True, test_environment=True
    )
    assert mailbox(text).address == found.ascii_email


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ada",
        "@acme.example",
        "ada@",
        "ada@acme..example",
        "ada@-acme.example",
        "a da@acme.example",
        "ada@acme.example, eve@evil.example",
        "Ada <ada@acme.example>, Eve <eve@evil.example>",
        "ada@acme.example>\r\nRCPT TO:<eve@evil.example",
        "ada@acme.example\n",
        "ada@acme.example\0",
        "ada@[127.0.0.1]",
        "ada@acme.example\ud800",
        f"{'a' * 65}@acme.example",
    ],
)
def test_what_is_no_address_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(WrongMessage) as refusal:
        mailbox(text)
    assert "is no address" in str(refusal.value)
    assert "\n" not in str(refusal.value)


@given(no_breaks)
@example('Ada "the" Lovelace, PhD')
@example("Ada \\ Lovelace (x)")
@example("Žluťoučký kůň " * 20)
def test_a_name_of_any_kind_stands_beside_its_address(name: str) -> None:
    sender = compose(SENDER, TO, "Subject", "Text")
    assert parsed(sender)["To"].addresses[0].addr_spec == TO
    quoted = re.sub(r'(["\\])', r"\\\1", name)
    try:
        message = compose(SENDER, f'"{quoted}" <{TO}>', "Subject", "Text")
    except WrongMessage:
        return  # the standard library's parser found no single address in it
    (to,) = parsed(message)["To"].addresses
    assert to.addr_spec == TO


def test_a_sender_whose_address_is_not_ascii_is_refused() -> None:
    with pytest.raises(WrongMessage, match="cannot send"):
        compose("pelé@acme.example", TO, "Subject", "Text")


def test_the_domain_of_the_sender_is_that_of_the_message_ids() -> None:
    assert domain("Flat Earth <notifications@Earth.example>") == "earth.example"


# One line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("as it is", "as it is"),
        ("  two\r\nlines\tand  blanks \n", "two lines and blanks"),
        ("bell\x07nul\x00next\x85line\u2028par\u2029end", "bell nul next line par end"),
        ("\u202egnp.exe\u2066x\u2069", "gnp.exex"),
        ("lone \ud800 surrogate", "lone surrogate"),
        ("👩‍👩‍👧 שלום مرحبا 地球", "👩‍👩‍👧 שלום مرحبا 地球"),
        ("", ""),
    ],
)
def test_one_line_keeps_words_and_no_control_characters(text: str, line: str) -> None:
    assert one_line(text) == line


def parsed(message: Message) -> EmailMessage:
    read = email.message_from_bytes(message.content.replace(b"\r\n", b"\n"), policy=email.policy.default)
    assert isinstance(read, EmailMessage)
    assert not read.defects
    return read


def header_text(message: EmailMessage, name: str) -> str:
    """Decoded without the blanks that a parser may add or take away."""
    decoded = email.header.decode_header(dict(message.raw_items())[name])
    return "".join(part.decode(charset or "ascii") if isinstance(part, bytes) else part for part, charset in decoded)


def body(message: EmailMessage, kind: str) -> str:
    """Of the text or the HTML, with its line ends as they are in memory."""
    part = message.get_body((kind,))
    assert part is not None
    content = part.get_payload(decode=True)
    assert isinstance(content, bytes)
    return content.decode().replace("\r\n", "\n")


def with_end(text: str) -> str:
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    return lines if lines.endswith("\n") else f"{lines}\n"
