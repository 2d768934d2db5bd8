"""A board exported from Trello as an account of its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import polars as pl

from flatearth_pipelines.workspaces.trello_export import TrelloBoard, storable, trello_board
from flatearth_pipelines.workspaces.workspace import SCHEMAS, Workspace

_ACCOUNT = _BOARD = _OWNER = 1
"""Ids: there is one account and one board, and the owner is the first of the people."""


@dataclass(frozen=True)
class _Person:
    name: str
    role: str
    active: bool = True


_SYSTEM = _Person("System", "system")

_NOBODY = ""
"""Not a Trello id: the owner of a board without members."""


_Rows = list[tuple[object, ...]]


def trello_workspace(export: str | bytes | Mapping[str, Any], as_of: datetime) -> Workspace:
    """One account with one board, both named after Trello's, in the order of the file.

    Lists become columns, labels tags, members users without an email, the first of them the owner. Others who
    commented or are assigned become inactive users. Archived cards and those of archived lists are closed since
    their last activity. Who made a card is not known. There are no events: nobody is told of what was long ago.

    Raises:
        WrongUsage: as `trello_export.trello_board`.
    """
    board = trello_board(export)
    happened = [card.created_at for card in board.cards] + [comment.created_at for comment in board.comments]
    since = min([as_of, board.created_at or as_of, *happened])
    people = _people(board)
    numbers = {trello_id: number for number, trello_id in enumerate(people, start=1)}
    rows: dict[str, _Rows] = {
        "accounts": [(_ACCOUNT, board.name, None, since)],
        "users": [
            (number, _ACCOUNT, person.name, None, person.role, person.active, None, "UTC", since)
            for number, person in enumerate([*people.values(), _SYSTEM], start=1)
        ],
        "boards": [(_BOARD, _ACCOUNT, _OWNER, board.name, True, since)],
        "columns": [
            (place + 1, _ACCOUNT, _BOARD, column.name, place) for place, column in enumerate(board.lists.values())
        ],
        **_card_rows(board, numbers),
        **_tag_rows(board, since),
    }
    return Workspace(
        **{name: pl.DataFrame(rows.get(name, []), schema=schema, orient="row") for name, schema in SCHEMAS.items()}
    )


def _people(board: TrelloBoard) -> dict[str, _Person]:
    """By their Trello ids, the owner first; the members are active, the others are not."""
    people = {
        trello_id: _Person(name, "member" if number else "owner")
        for number, (trello_id, name) in enumerate(board.members.items())
    } or {_NOBODY: _Person("Board owner", "owner")}
    strangers = [
        *(member for card in board.cards for member in card.members),
        *(comment.author for comment in board.comments if comment.author is not None),
    ]
    for stranger in strangers:
        people.setdefault(stranger, _Person(board.authors.get(stranger) or storable(stranger), "member", active=False))
    return people


def _card_rows(board: TrelloBoard, people: Mapping[str, int]) -> dict[str, _Rows]:
    """The rows of `cards`, `assignments` and `comments`."""
    columns = {list_id: number for number, list_id in enumerate(board.lists, start=1)}
    cards = {card.id: number for number, card in enumerate(board.cards, start=1)}
    return {
        "cards": [
            (
                cards[card.id],
                _ACCOUNT,
                _BOARD,
                columns[card.list_id],
                None,
                card.number,
                card.name,
                "published",
                card.last_active_at if card.closed or board.lists[card.list_id].closed else None,
                None,
                None,
                card.last_active_at,
                card.created_at,
            )
            for card in board.cards
        ],
        "assignments": [
            (_ACCOUNT, cards[card.id], people[member], card.created_at)
            for card in board.cards
            for member in card.members
        ],
        "comments": [
            (
                number,
                _ACCOUNT,
                cards[comment.card_id],
                people[comment.author] if comment.author is not None else None,
                comment.text,
                comment.created_at,
            )
            for number, comment in enumerate(board.comments, start=1)
        ],
    }


def _tag_rows(board: TrelloBoard, since: datetime) -> dict[str, _Rows]:
    """The rows of `tags` and `taggings`: labels of one title are one tag, on each card once."""
    tags = {title: number for number, title in enumerate(dict.fromkeys(board.labels.values()), start=1)}
    taggings = dict.fromkeys(
        (tags[board.labels[label]], card, created_at)
        for card, (labels, created_at) in enumerate(((card.labels, card.created_at) for card in board.cards), start=1)
        for label in labels
        if label in board.labels
    )
    return {
        "tags": [(number, _ACCOUNT, title, since) for title, number in tags.items()],
        "taggings": [
            (number, _ACCOUNT, tag, card, created_at)
            for number, (tag, card, created_at) in enumerate(taggings, start=1)
        ],
    }
