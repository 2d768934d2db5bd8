"""The bytes that are sent about an event, in each format. docs/webhooks.md describes the JSON, field by field.

The same event makes the same bytes, to the byte: they are signed and stored, and every attempt sends them again.
"""

import html
import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, NamedTuple

from flatearth_pipelines.errors import WrongUsage
from flatearth_pipelines.message import one_line

VERSION = 1
"""Of the JSON: a field may be added within it, but none goes or changes its meaning."""

FORMATS = ("json", "slack", "campfire")

CONTENT_TYPES: Mapping[str, str] = MappingProxyType(
    {"json": "application/json", "slack": "application/json", "campfire": "text/html; charset=utf-8"}
)
"""By format."""

_DEEDS = {
    "card_assigned": "assigned {card}",
    "card_auto_postponed": "moved {card} to Not now, since nothing happened to it,",
    "card_board_changed": "moved {card} to {board}",
    "card_closed": "closed {card}",
    "card_created": "created {card}",
    "card_deleted": "deleted {card}",
    "card_moved": "moved {card}",
    "card_postponed": "moved {card} to Not now",
    "card_published": "added {card}",
    "card_reopened": "reopened {card}",
    "card_resumed": "took {card} back out of Not now",
    "card_sent_back_to_triage": "sent {card} back to triage",
    "card_tagged": "tagged {card}",
    "card_title_changed": "changed the title of {card}",
    "card_triaged": "moved {card} to another column",
    "card_unassigned": "took somebody off {card}",
    "card_untagged": "took a tag off {card}",
    "card_updated": "edited {card}",
    "comment_created": "commented on {card}",
    "comment_deleted": "deleted a comment on {card}",
    "comment_updated": "edited a comment on {card}",
}

ACTIONS = tuple(_DEEDS)
"""What a webhook may subscribe to; the database knows the same ones."""

_WITH_EXCERPT = frozenset({"comment_created", "comment_updated"})

_TITLE_LENGTH = 140
_EXCERPT_LENGTH = 280
_NAME_LENGTH = 60
"""Characters that a chat shows; the JSON has all."""

_READ = 1_000
"""Characters of a text that are looked at for a chat: a comment may have megabytes."""

_MENTION = re.compile(r"@\[([^\]\r\n]*)\]\(user:[0-9]+\)")


class Event(NamedTuple):
    """Something that happened, as it is read when its payload is written; texts are whatever people typed."""

    id: int
    action: str
    created_at: datetime
    account_id: int
    account: str
    board_id: int
    board: str
    creator_id: int
    creator: str
    card_id: int | None
    """None, as all of the card: it is gone."""
    card_number: int | None
    card_title: str | None
    comment_id: int | None
    """None, as its body: the event is of a card, or the comment is gone."""
    comment_body: str | None
    particulars: dict[str, Any]


class _Chat(NamedTuple):
    """How a chat writes a text, and a link from an address and a written text."""

    text: Callable[[str], str]
    link: Callable[[str, str], str]
    line_break: str


def body(event: Event, format: str, public_url: str) -> bytes:  # noqa: A002 - what the column is called
    """What is sent about the event: UTF-8, with lone surrogates as `?`.

    Raises:
        WrongUsage: there is no such format.
    """
    if format == "json":
        return _json(event.action, event.created_at, _data(event, public_url))
    return _said(_sentence(event, public_url, _chat(format)), format)


def direct_body(type_: str, data: Mapping[str, Any], at: datetime, format: str) -> bytes:  # noqa: A002
    """What is sent on behalf of an application that names the type itself: in a chat the `text` of the data, else both.

    Raises:
        WrongUsage: there is no such format, or the data has something in it that JSON has not.
    """
    if format == "json":
        return _json(type_, at, data)
    chat = _chat(format)
    text = data.get("text")
    if not isinstance(text, str) or not one_line(text):
        text = f"{type_} {_dumped(data)}"
    return _said(chat.line_break.join(chat.text(one_line(line)) for line in text.splitlines()), format)


def _json(type_: str, at: datetime, data: Mapping[str, Any]) -> bytes:
    timestamp = at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    said = {"type": type_, "timestamp": timestamp, "version": VERSION, "data": data}
    return _dumped(said).encode("utf-8", "replace")


def _data(event: Event, public_url: str) -> dict[str, Any]:
    return {
        "event": {"id": event.id, "particulars": _in_order(event.particulars)},
        "account": {"id": event.account_id, "name": event.account},
        "board": {"id": event.board_id, "name": event.board, "url": _board_url(event, public_url)},
        "card": None
        if event.card_id is None
        else {
            "id": event.card_id,
            "number": event.card_number,
            "title": event.card_title,
            "url": _card_url(event, public_url),
        },
        "comment": None if event.comment_id is None else {"id": event.comment_id, "body": event.comment_body},
        "creator": {"id": event.creator_id, "name": event.creator},
    }


def _in_order(particulars: dict[str, Any]) -> Any:
    """The same, with keys in the order of the alphabet at every depth."""
    return json.loads(json.dumps(particulars, sort_keys=True)) if particulars else {}


def _dumped(said: Mapping[str, Any]) -> str:
    try:
        return json.dumps(said, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise WrongUsage(f"data is no JSON: {one_line(str(error))[:200]}") from None


def _sentence(event: Event, public_url: str, chat: _Chat) -> str:
    deed = _DEEDS.get(event.action, "did something to {card}")
    if "{board}" not in deed:
        deed += " in {board}"
    title = _short(event.card_title or "", _TITLE_LENGTH) or "Untitled"
    title = title if event.card_number is None else f"#{event.card_number} {title}"
    card = "a card" if event.card_id is None else chat.link(_card_url(event, public_url), chat.text(title))
    name = _short(event.board, _NAME_LENGTH) or f"Board {event.board_id}"
    board = chat.link(_board_url(event, public_url), chat.text(name))
    who = chat.text(_short(event.creator, _NAME_LENGTH) or "Somebody")
    sentence = f"{who} {deed.format(card=card, board=board)}"
    if event.action in _WITH_EXCERPT and event.comment_body:
        excerpt = _MENTION.sub(r"@\1", event.comment_body[:_READ])
        sentence += f": {chat.text(_short(excerpt, _EXCERPT_LENGTH))}"
    return sentence


def _said(text: str, format: str) -> bytes:  # noqa: A002
    return (_dumped({"text": text}) if format == "slack" else text).encode("utf-8", "replace")


def _chat(format: str) -> _Chat:  # noqa: A002
    if format not in _CHATS:
        raise WrongUsage(f"format is {format[:100]!a}: it takes {', '.join(FORMATS)}")
    return _CHATS[format]


def _slack_text(text: str) -> str:
    """Without a meaning to Slack: it takes commands, such as to call everybody, only between < and >."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _slack_link(url: str, text: str) -> str:
    return f"<{_slack_text(url).replace('|', '%7C')}|{text}>"


def _html_link(url: str, text: str) -> str:
    return f'<a href="{html.escape(url)}">{text}</a>'


_CHATS = {"slack": _Chat(_slack_text, _slack_link, "\n"), "campfire": _Chat(html.escape, _html_link, "<br>")}


def _board_url(event: Event, public_url: str) -> str:
    return f"{public_url}/boards/{event.board_id}"


def _card_url(event: Event, public_url: str) -> str:
    return f"{public_url}/cards/{event.card_id}"


def _short(text: str, length: int) -> str:
    """In one line, cut between two words when it is longer."""
    line = one_line(text[:_READ])
    if len(line) <= length:
        return line
    cut = line[:length]
    return f"{cut.rpartition(' ')[0] or cut}…"
