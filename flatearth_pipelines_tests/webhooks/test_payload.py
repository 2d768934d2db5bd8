"""The bytes that are sent about an event."""

import html
import json
import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flatearth_pipelines.errors import WrongUsage
from flatearth_pipelines.webhooks.payload import ACTIONS, CONTENT_TYPES, FORMATS, Event, body, direct_body
from flatearth_pipelines_tests.conftest import ROOT

URL = "https://earth.example"
NOON = datetime(2026, 11, 22, 12, 30, 0, 1, tzinfo=UTC)
MIGRATION = (ROOT / "sql" / "migrations" / "0005_webhooks.sql").read_text()

CHATS = [each for each in FORMATS if each != "json"]

GONE: dict[str, Any] = {"card_id": None, "card_number": None, "card_title": None}


def event(**values: Any) -> Event:
    defaults: dict[str, Any] = {
        "id": 981,
        "action": "card_closed",
        "created_at": NOON,
        "account_id": 1,
        "account": "Acme",
        "board_id": 3,
        "board": "Roadmap",
        "creator_id": 2,
        "creator": "Ada",
        "card_id": 7,
        "card_number": 42,
        "card_title": "Fix the bug",
        "comment_id": None,
        "comment_body": None,
        "particulars": {},
    }
    return Event(**defaults | values)


def comment(text: str, **values: Any) -> Event:
    return event(**{"action": "comment_created", "comment_id": 12, "comment_body": text} | values)


def said(what: Event, format_: str) -> str:
    """The sentence, as the chat is sent it."""
    return chat_text(body(what, format_, URL), format_)


def chat_text(content: bytes, format_: str) -> str:
    if format_ == "campfire":
        return content.decode()
    message = json.loads(content)
    assert list(message) == ["text"]
    assert isinstance(message["text"], str)
    return message["text"]


def shown(what: Event, format_: str) -> str:
    """What a person reads of it: links by their text, escapes as what they stand for."""
    return read(said(what, format_), format_)


def read(text: str, format_: str) -> str:
    link = r"<[^<>|]*\|([^<>]*)>" if format_ == "slack" else r'<a href="[^"<>]*">([^<>]*)</a>'
    return html.unescape(re.sub(link, r"\1", text))


# JSON


def test_the_json_is_the_documented_one_in_one_line_with_its_fields_in_order() -> None:
    assert body(comment("It works", particulars={"a": [1]}), "json", URL).decode() == (
        '{"type":"comment_created","timestamp":"2026-11-22T12:30:00.000001Z","version":1,"data":{'
        '"event":{"id":981,"particulars":{"a":[1]}},'
        '"account":{"id":1,"name":"Acme"},'
        '"board":{"id":3,"name":"Roadmap","url":"https://earth.example/boards/3"},'
        '"card":{"id":7,"number":42,"title":"Fix the bug","url":"https://earth.example/cards/7"},'
        '"comment":{"id":12,"body":"It works"},'
        '"creator":{"id":2,"name":"Ada"}}}'
    )


def test_the_example_of_the_documentation_is_what_is_sent() -> None:
    (example,) = re.findall(r"```json\n(.*?)```", (ROOT / "docs" / "webhooks.md").read_text(), re.DOTALL)
    sent = comment("It *works* now, @[Bo Chen](user:5)")
    assert json.loads(example) == json.loads(body(sent, "json", URL))
    assert list(json.loads(example)["data"]) == list(json.loads(body(sent, "json", URL))["data"])


@pytest.mark.parametrize("action", ACTIONS)
def test_the_type_is_the_action(action: str) -> None:
    message = json.loads(body(event(action=action), "json", URL))
    assert (message["type"], message["version"]) == (action, 1)


def test_without_a_card_or_a_comment_there_is_null() -> None:
    data = json.loads(body(event(action="card_deleted", **GONE), "json", URL))["data"]
    assert (data["card"], data["comment"]) == (None, None)
    assert data["board"]["id"] == 3


def test_a_comment_whose_card_is_there_has_both_and_a_card_without_number_and_title_is_still_one() -> None:
    data = json.loads(body(comment("", card_number=None, card_title=""), "json", URL))["data"]
    assert data["card"] == {"id": 7, "number": None, "title": "", "url": f"{URL}/cards/7"}
    assert data["comment"] == {"id": 12, "body": ""}


@pytest.mark.parametrize(
    ("at", "timestamp"),
    [
        (datetime(2026, 11, 22, 12, tzinfo=UTC), "2026-11-22T12:00:00.000000Z"),
        (datetime(2026, 11, 22, 1, tzinfo=timezone(timedelta(hours=2))), "2026-11-21T23:00:00.000000Z"),
        (datetime(2026, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), "2026-12-31T23:59:59.999999Z"),
    ],
)
def test_the_timestamp_is_in_utc_with_microseconds(at: datetime, timestamp: str) -> None:
    assert json.loads(body(event(created_at=at), "json", URL))["timestamp"] == timestamp


def test_what_people_typed_is_all_there_in_json_however_long() -> None:
    long = "<b>&\u202e🦀\n" * 10_000
    data = json.loads(body(comment(long, card_title=long, board=long), "json", URL))["data"]
    assert (data["comment"]["body"], data["card"]["title"], data["board"]["name"]) == (long, long, long)


def test_the_same_event_makes_the_same_bytes_in_whatever_order_its_particulars_are_read() -> None:
    one = event(particulars={"a": {"x": 1, "y": 2}, "b": None})
    other = event(particulars={"b": None, "a": {"y": 2, "x": 1}})
    assert one == other
    for format_ in FORMATS:
        assert body(one, format_, URL) == body(other, format_, URL) == body(one, format_, URL)


# Chats

WORDS = {
    "card_assigned": "Ada assigned #42 Fix the bug in Roadmap",
    "card_auto_postponed": "Ada moved #42 Fix the bug to Not now, since nothing happened to it, in Roadmap",
    "card_board_changed": "Ada moved #42 Fix the bug to Roadmap",
    "card_closed": "Ada closed #42 Fix the bug in Roadmap",
    "card_created": "Ada created #42 Fix the bug in Roadmap",
    "card_deleted": "Ada deleted #42 Fix the bug in Roadmap",
    "card_moved": "Ada moved #42 Fix the bug in Roadmap",
    "card_postponed": "Ada moved #42 Fix the bug to Not now in Roadmap",
    "card_published": "Ada added #42 Fix the bug in Roadmap",
    "card_reopened": "Ada reopened #42 Fix the bug in Roadmap",
    "card_resumed": "Ada took #42 Fix the bug back out of Not now in Roadmap",
    "card_sent_back_to_triage": "Ada sent #42 Fix the bug back to triage in Roadmap",
    "card_tagged": "Ada tagged #42 Fix the bug in Roadmap",
    "card_title_changed": "Ada changed the title of #42 Fix the bug in Roadmap",
    "card_triaged": "Ada moved #42 Fix the bug to another column in Roadmap",
    "card_unassigned": "Ada took somebody off #42 Fix the bug in Roadmap",
    "card_untagged": "Ada took a tag off #42 Fix the bug in Roadmap",
    "card_updated": "Ada edited #42 Fix the bug in Roadmap",
    "comment_created": "Ada commented on #42 Fix the bug in Roadmap",
    "comment_deleted": "Ada deleted a comment on #42 Fix the bug in Roadmap",
    "comment_updated": "Ada edited a comment on #42 Fix the bug in Roadmap",
}


def test_the_database_knows_the_same_actions_and_formats_in_the_same_order() -> None:
    (actions,) = re.findall(r"actions <@ array\[([^]]*)\]", MIGRATION)
    assert re.findall(r"'(\w+)'", actions) == list(ACTIONS) == list(WORDS)
    formats = re.findall(r"format_is_known check \(format in \(([^)]*)\)\)", MIGRATION)
    assert [re.findall(r"'(\w+)'", each) for each in formats] == [list(FORMATS)] * 2


@pytest.mark.parametrize("format_", CHATS)
@pytest.mark.parametrize("action", ACTIONS)
def test_a_sentence_says_who_did_what_for_every_action(action: str, format_: str) -> None:
    assert shown(event(action=action), format_) == WORDS[action]
    assert shown(event(action=action, **GONE), format_) == WORDS[action].replace("#42 Fix the bug", "a card")


@pytest.mark.parametrize(
    ("format_", "text"),
    [
        ("slack", f"Ada closed <{URL}/cards/7|#42 Fix the bug> in <{URL}/boards/3|Roadmap>"),
        (
            "campfire",
            f'Ada closed <a href="{URL}/cards/7">#42 Fix the bug</a> in <a href="{URL}/boards/3">Roadmap</a>',
        ),
    ],
)
def test_a_sentence_links_the_card_and_the_board(format_: str, text: str) -> None:
    assert said(event(), format_) == text


@pytest.mark.parametrize("format_", CHATS)
@pytest.mark.parametrize("action", ["comment_created", "comment_updated"])
def test_a_comment_is_shown_in_one_line_with_mentions_by_their_name_and_a_deleted_one_is_not(
    format_: str, action: str
) -> None:
    text = "Thanks @[Bo <Chen>](user:5),\n\nit *works* now"
    assert shown(comment(text, action=action), format_) == f"{WORDS[action]}: Thanks @Bo <Chen>, it *works* now"
    assert shown(comment(text, action=action, comment_id=None, comment_body=None), format_) == WORDS[action]
    assert "works" not in shown(comment(text, action="comment_deleted"), format_)


@pytest.mark.parametrize("format_", CHATS)
@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"creator": " \n"}, "Somebody closed #42 Fix the bug in Roadmap"),
        ({"board": ""}, "Ada closed #42 Fix the bug in Board 3"),
        ({"card_title": "\0"}, "Ada closed #42 Untitled in Roadmap"),
        ({"card_number": None}, "Ada closed Fix the bug in Roadmap"),
        ({"card_title": "{board} {0} %s"}, "Ada closed #42 {board} {0} %s in Roadmap"),
        ({"action": "card_turned_blue"}, "Ada did something to #42 Fix the bug in Roadmap"),
        ({"creator": "Ada\r\nEve", "card_title": "a\tb\0c\x85d"}, "Ada Eve closed #42 a b c d in Roadmap"),
        ({"card_title": "🦀 שלום עולם 地球"}, "Ada closed #42 🦀 שלום עולם 地球 in Roadmap"),
        ({"card_title": "evil \u202etxt.exe"}, "Ada closed #42 evil txt.exe in Roadmap"),
        ({"card_title": "half \ud83e of one"}, "Ada closed #42 half of one in Roadmap"),
    ],
)
def test_whatever_people_typed_stays_in_its_place(format_: str, values: dict[str, Any], sentence: str) -> None:
    assert shown(event(**values), format_) == sentence


@pytest.mark.parametrize(("length", "cut"), [(140, False), (141, True)])
@pytest.mark.parametrize("format_", CHATS)
def test_a_title_of_140_characters_is_not_yet_cut(format_: str, length: int, *, cut: bool) -> None:
    title = "&" * length
    assert shown(event(card_title=title), format_) == f"Ada closed #42 {'&' * 140}{'…' * cut} in Roadmap"


@pytest.mark.parametrize("format_", CHATS)
def test_a_long_text_is_cut_between_two_words_and_one_of_megabytes_is_not_read_to_its_end(format_: str) -> None:
    assert shown(comment("word " * 1_000_000), format_).endswith(f": {' '.join(['word'] * 56)}…")
    assert shown(comment("@[" * 1_000_000), format_).endswith(f": {'@[' * 140}…")
    assert len(said(event(card_title="a " * 1_000_000, board="b" * 1_000_000, creator="c" * 1_000_000), format_)) < 500


@pytest.mark.parametrize(
    ("typed", "slack", "campfire"),
    [
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ("Q&A &amp; &lt;", "Q&amp;A &amp;amp; &amp;lt;", "Q&amp;A &amp;amp; &amp;lt;"),
        ("<!channel> <!here>", "&lt;!channel&gt; &lt;!here&gt;", "&lt;!channel&gt; &lt;!here&gt;"),
        ("<@U012AB3CD>", "&lt;@U012AB3CD&gt;", "&lt;@U012AB3CD&gt;"),
        ("<https://evil.example|earth>", "&lt;https://evil.example|earth&gt;", "&lt;https://evil.example|earth&gt;"),
        ("\"'", "\"'", "&quot;&#x27;"),
        ('" onclick="', '" onclick="', "&quot; onclick=&quot;"),
    ],
)
@pytest.mark.parametrize("field", ["card_title", "board", "creator", "comment_body"])
def test_nothing_that_people_typed_has_a_meaning_to_the_chat(typed: str, slack: str, campfire: str, field: str) -> None:
    what = comment("x", **{field: typed})
    assert slack in said(what, "slack")
    assert campfire in said(what, "campfire")


def test_an_address_of_ours_with_odd_characters_does_not_break_out_of_its_link() -> None:
    url = "https://earth.example/a|b&c"
    assert json.loads(body(event(), "slack", url))["text"].startswith(
        "Ada closed <https://earth.example/a%7Cb&amp;c/cards/7|#42"
    )
    assert b'<a href="https://earth.example/a|b&amp;c/cards/7">#42' in body(event(), "campfire", url)


typed = st.text(st.characters() | st.sampled_from("<>&|\"'\0\u202e\ud800\n"), max_size=80)


events = st.builds(
    event,
    action=st.sampled_from([*ACTIONS, "another"]),
    creator=typed,
    board=typed,
    card_title=typed,
    comment_id=st.just(12),
    comment_body=st.none() | typed,
)


@given(events, st.sampled_from(CHATS))
def test_whatever_is_typed_a_chat_gets_utf8_in_one_line_and_no_markup_but_our_links(what: Event, format_: str) -> None:
    sentence = said(what, format_)
    assert not re.search(
        "[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\u202a-\\u202e\\u2066-\\u2069\\ud800-\\udfff]", sentence
    )
    opens = f"<{URL}/" if format_ == "slack" else f'<a href="{URL}/'
    assert sentence.count(opens) == 2
    assert sentence.count("<") == sentence.count(">") == (2 if format_ == "slack" else 4)
    assert body(what, format_, URL) == body(what, format_, URL)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(st.text(), json_values, max_size=4),
    st.text(),
    st.datetimes(timezones=st.just(UTC), min_value=datetime(1000, 1, 1)),  # noqa: DTZ001 - hypothesis adds the zone
)
def test_a_receiver_reads_exactly_what_the_event_says(particulars: dict[str, Any], title: str, at: datetime) -> None:
    content = body(event(particulars=particulars, card_title=title, created_at=at), "json", URL)
    message = json.loads(content)
    assert b"\n" not in content
    assert message["data"]["event"]["particulars"] == particulars
    assert message["data"]["card"]["title"] == title
    assert datetime.fromisoformat(message["timestamp"]) == at


# What an application sends itself


def test_what_an_application_sends_has_its_type_and_its_data() -> None:
    content = direct_body("invoice.paid", {"id": 7, "text": "é <b>"}, NOON, "json")
    assert content.decode() == (
        '{"type":"invoice.paid","timestamp":"2026-11-22T12:30:00.000001Z","version":1,"data":{"id":7,"text":"é <b>"}}'
    )


@pytest.mark.parametrize(
    ("data", "slack", "campfire"),
    [
        ({"text": "Paid & <!channel>"}, "Paid &amp; &lt;!channel&gt;", "Paid &amp; &lt;!channel&gt;"),
        ({"text": "one\r\n two\0\nthree"}, "one\ntwo\nthree", "one<br>two<br>three"),
        ({"id": 7}, 'paid {"id":7}', "paid {&quot;id&quot;:7}"),
        ({"text": 7}, 'paid {"text":7}', "paid {&quot;text&quot;:7}"),
        ({"text": " \n\0"}, 'paid {"text":" \\n\\u0000"}', "paid {&quot;text&quot;:&quot; \\n\\u0000&quot;}"),
        ({}, "paid {}", "paid {}"),
        ({"text": "half \ud83e"}, "half", "half"),
    ],
)
def test_a_chat_gets_the_text_of_the_data_or_else_the_type_and_the_data(
    data: dict[str, Any], slack: str, campfire: str
) -> None:
    assert chat_text(direct_body("paid", data, NOON, "slack"), "slack") == slack
    assert chat_text(direct_body("paid", data, NOON, "campfire"), "campfire") == campfire


@pytest.mark.parametrize("format_", CHATS)
def test_half_a_character_is_left_out_of_a_chat(format_: str) -> None:
    content = direct_body("half \ud83e", {"id": "half \udd80"}, NOON, format_)
    assert read(chat_text(content, format_), format_) == 'half {"id":"half "}'


def test_half_a_character_is_a_question_mark_in_json() -> None:
    message = json.loads(body(event(card_title="half \ud83e", particulars={"a": "\udd80"}), "json", URL))
    assert message["data"]["card"]["title"] == "half ?"
    assert message["data"]["event"]["particulars"] == {"a": "?"}
    direct = json.loads(direct_body("half \ud83e", {"\udd80": "\udd80"}, NOON, "json"))
    assert (direct["type"], direct["data"]) == ("half ?", {"?": "?"})


def test_a_nul_is_escaped_in_json() -> None:
    assert b"a\\u0000b" in body(event(card_title="a\0b"), "json", URL)


_endless: dict[str, Any] = {}
_endless["again"] = _endless


@pytest.mark.parametrize(
    "data",
    [{"a": float("nan")}, {"a": float("inf")}, {"a": NOON}, {"a": b"hunter2"}, {"a": {1}}, {(1, 2): 3}, _endless],
)
def test_data_that_json_does_not_have_is_refused_in_one_line(data: dict[str, Any]) -> None:
    for format_ in FORMATS:
        with pytest.raises(WrongUsage, match=r"^data is no JSON: [^\n]+$") as refused:
            direct_body("paid", data, NOON, format_)
        assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("format_", ["", "JSON", "xml\n"])
def test_another_format_is_refused_in_one_line_that_names_those_that_there_are(format_: str) -> None:
    with pytest.raises(WrongUsage, match=r"^format is '[^\n]*': it takes json, slack, campfire$"):
        body(event(), format_, URL)
    with pytest.raises(WrongUsage, match=r"^format is '[^\n]*': it takes json, slack, campfire$"):
        direct_body("paid", {}, NOON, format_)


def test_every_format_has_its_content_type() -> None:
    assert CONTENT_TYPES == {
        "json": "application/json",
        "slack": "application/json",
        "campfire": "text/html; charset=utf-8",
    }
    assert list(CONTENT_TYPES) == list(FORMATS)
