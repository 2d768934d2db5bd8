"""What stands in a Trello board's JSON export, checked: what is missing or wrong is found here or nowhere."""

import json
import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from math import inf
from typing import Any

from flatearth_pipelines.errors import WrongUsage

LONGEST_LABEL = 255
"""Characters; Postgres can index no more than some 2,700 bytes."""

_LARGEST_NUMBER = 2**63 - 1

_SECONDS = re.compile("[0-9a-fA-F]{8}")
"""A Trello id starts with the second of its creation."""

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class TrelloList:
    """A column."""

    name: str
    closed: bool


@dataclass(frozen=True)
class TrelloCard:
    """A card; `closed` is about itself, not its list, and no id stands twice in `members` or `labels`."""

    id: str
    name: str
    list_id: str
    closed: bool
    number: int | None
    members: list[str]
    labels: list[str]
    last_active_at: datetime
    created_at: datetime
    """Never after the last activity."""


@dataclass(frozen=True)
class TrelloComment:
    """A comment on one of the export's cards; nobody may be known to be its author."""

    card_id: str
    author: str | None
    text: str
    created_at: datetime


@dataclass(frozen=True)
class TrelloBoard:
    """A board with everything by its Trello id, in the order in which it is shown; texts as Postgres takes them."""

    name: str
    lists: dict[str, TrelloList]
    labels: dict[str, str]
    members: dict[str, str]
    authors: dict[str, str]
    """Names of those who did something, members or not."""
    cards: list[TrelloCard]
    comments: list[TrelloComment]
    """Oldest first."""
    created_at: datetime | None
    """None: its id does not say."""


def trello_board(export: str | bytes | Mapping[str, Any]) -> TrelloBoard:
    """The board in the export, as JSON or as what it parses to; fields that are not needed are not looked at.

    Raises:
        WrongUsage: it is not JSON, not a board, or something in it cannot be understood, which is named.
    """
    board = _parsed(export) if isinstance(export, (str, bytes)) else export
    if not isinstance(board, Mapping) or not all(isinstance(board.get(key), list) for key in ("lists", "cards")):
        raise WrongUsage("this is not a Trello board: it takes the JSON that Trello exports, with lists and cards")
    lists = {
        _id(row, "lists"): TrelloList(_text(row.get("name")), row.get("closed") is True)
        for row in sorted(_objects(board, "lists"), key=_place)
    }
    cards = [_card(row, lists) for row in _objects(board, "cards")]
    titles = {card.id: _named(card.name or card.id) for card in cards}
    if len(titles) < len(cards):
        raise WrongUsage("the board has two cards with the same id")
    actions = _objects(board, "actions")
    return TrelloBoard(
        name=_text(board.get("name")) or "Trello board",
        lists=lists,
        labels={_id(row, "labels"): _label(row) for row in _objects(board, "labels")},
        members={_id(row, "members"): _person(row) for row in _objects(board, "members")},
        authors={
            author["id"]: _person(author)
            for author in (_object(action, "memberCreator") for action in actions)
            if isinstance(author.get("id"), str)
        },
        cards=cards,
        # The file has the newest first.
        comments=[
            _comment(action, titles)
            for action in reversed(actions)
            if action.get("type") == "commentCard" and _commented(action) in titles
        ],
        created_at=_created_at(board.get("id")),
    )


def storable(text: str) -> str:
    """Without what Postgres refuses: a NUL goes, half a character becomes the sign for one that is lost."""
    return _LONE_SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text.replace("\0", ""))


def _parsed(export: str | bytes) -> object:
    try:
        return json.loads(export)
    except (ValueError, RecursionError) as error:
        raise WrongUsage(f"this is not JSON: {' '.join(str(error).split())}") from None


def _card(row: Mapping[str, Any], lists: Mapping[str, TrelloList]) -> TrelloCard:
    card_id = _id(row, "cards")
    name = _text(row.get("name"))
    named = _named(name or card_id)
    list_id = row.get("idList")
    if not isinstance(list_id, str) or list_id not in lists:
        raise WrongUsage(f"{named} is in a list that the board does not have: {reprlib.repr(list_id)}")
    last_active_at = _instant(row.get("dateLastActivity"), f"{named} has no date of last activity (dateLastActivity)")
    created_at = _created_at(card_id)
    return TrelloCard(
        id=card_id,
        name=name,
        list_id=list_id,
        closed=row.get("closed") is True,
        number=_number(row.get("idShort")),
        members=_ids(row, "idMembers", named),
        labels=_ids(row, "idLabels", named),
        last_active_at=last_active_at,
        created_at=min(created_at or last_active_at, last_active_at),
    )


def _comment(action: Mapping[str, Any], titles: Mapping[str, str]) -> TrelloComment:
    card_id = str(_commented(action))
    author = action.get("idMemberCreator")
    return TrelloComment(
        card_id=card_id,
        author=author if isinstance(author, str) else None,
        text=_text(_object(action, "data").get("text")),
        created_at=_instant(action.get("date"), f"a comment on {titles[card_id]} has no date"),
    )


def _commented(action: Mapping[str, Any]) -> str | None:
    card_id = _object(_object(action, "data"), "card").get("id")
    return card_id if isinstance(card_id, str) else None


def _label(row: Mapping[str, Any]) -> str:
    return (_text(row.get("name")).strip() or _text(row.get("color")) or "unnamed")[:LONGEST_LABEL]


def _person(row: Mapping[str, Any]) -> str:
    return _text(row.get("fullName")) or _text(row.get("username")) or _text(row.get("id"))


def _objects(board: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    rows = board.get(key)
    if rows is None:
        return []
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise WrongUsage(f"this is not a Trello board: its {key} are not a list of objects")
    return rows


def _object(parent: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Empty, where there is none."""
    value = parent.get(key)
    return value if isinstance(value, Mapping) else {}


def _id(row: Mapping[str, Any], key: str) -> str:
    value = row.get("id")
    if not isinstance(value, str) or not value:
        raise WrongUsage(f"one of the board's {key} has no id")
    return value


def _ids(row: Mapping[str, Any], key: str, named: str) -> list[str]:
    values = row.get(key)
    if values is None:
        return []
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise WrongUsage(f"{named} has {key} that are not a list of ids: {reprlib.repr(values)}")
    return list(dict.fromkeys(values))


def _instant(value: object, missing: str) -> datetime:
    if value is None:
        raise WrongUsage(missing)
    try:
        at = datetime.fromisoformat(value) if isinstance(value, str) else None
        if at is not None and at.tzinfo is not None:
            return at.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise WrongUsage(f"{missing} that can be read: {reprlib.repr(value)}")


def _created_at(trello_id: object) -> datetime | None:
    seconds = _SECONDS.match(trello_id) if isinstance(trello_id, str) else None
    return datetime.fromtimestamp(int(seconds[0], 16), UTC) if seconds else None


def _place(row: Mapping[str, Any]) -> float:
    """Where a list stands on the board; those that do not say come last, as they come."""
    pos = row.get("pos")
    return pos if isinstance(pos, (int, float)) else inf


def _number(value: object) -> int | None:
    return value if type(value) is int and 0 <= value <= _LARGEST_NUMBER else None


def _named(title: str) -> str:
    return f'the card "{reprlib.repr(title)[1:-1]}"'


def _text(value: object) -> str:
    return storable(value) if isinstance(value, str) else ""
