"""What the mail about a bundle says, or why there is none."""

import functools
import re
import zoneinfo
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

from flatearth_pipelines.message import one_line

MOST_ITEMS = 50
"""Notifications that a mail shows, mentions before others and new ones before old; the rest is counted."""

EXCERPT_LENGTH = 1_000
"""Characters of a title or a comment that are read at all."""

_TITLE_LENGTH = 140
_EXCERPT_SHOWN = 280
_NAME_LENGTH = 60

_MENTION = re.compile(r"@\[([^\]]*)\]\(user:\d+\)")

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
"""In English whatever the machine's locale; strftime is also ten times slower."""

_DEEDS = {
    "mention": "mentioned you",
    "card_assigned": "assigned this",
    "card_published": "added this card",
    "card_closed": "closed this",
    "card_reopened": "reopened this",
    "card_postponed": "moved this to Not now",
    "card_triaged": "moved this to another column",
    "card_unassigned": "took somebody off this",
    "card_title_changed": "changed the title",
    "card_board_changed": "moved this to this board",
    "comment_created": "commented",
}


class Item(NamedTuple):
    """One notification as it was read; texts are whatever people typed."""

    total: int
    """How many the bundle has, this one and those that were not read included."""
    action: str
    """`mention`, or what the event is."""
    for_you: bool
    """The reader is whom the card was assigned to."""
    actor: str | None
    board_id: int
    board: str
    card_id: int
    number: int | None
    title: str
    body: str | None
    """Of the comment that it is about."""
    created_at: datetime


@dataclass(frozen=True)
class Bundle:
    """One window and its person, as they are when the mail is written."""

    id: int
    account_id: int
    user_id: int
    attempts: int
    status: str
    email: str | None
    time_zone: str
    active: bool
    """And not the account's system user."""
    account: str
    cancelled: bool
    frequency: str
    suppressed: bool
    in_several_accounts: bool
    read_at: datetime
    items: list[Item]

    @property
    def total(self) -> int:
        """The number of unread notifications, those that the mail only counts included."""
        return self.items[0].total if self.items else 0


@dataclass(frozen=True)
class Happening:
    """Something that happened to a card."""

    actor: str
    deed: str
    excerpt: str
    at: str


@dataclass(frozen=True)
class Card:
    """A card, and what happened to it, in that order."""

    title: str
    number: int | None
    url: str
    happenings: list[Happening]


@dataclass(frozen=True)
class Board:
    """A board, and its cards, in the order in which something happened to them first."""

    name: str
    url: str
    cards: list[Card]


@dataclass(frozen=True)
class Digest:
    """What the templates show."""

    subject: str
    preview: str
    """What many readers show beside the subject."""
    account: str
    boards: list[Board]
    more: int
    """Notifications that are only counted."""
    zone: str
    notifications_url: str
    settings_url: str
    unsubscribe_url: str
    reasons: list[str]
    """Why the person gets it: any of mention, assignment and activity."""


def reason_for_no_mail(bundle: Bundle) -> str | None:
    """Why nothing is sent, the first that holds; None when a mail is."""
    if bundle.cancelled:
        return "account_cancelled"
    if not bundle.active:
        return "user_inactive"
    if bundle.frequency == "never":
        return "never"
    if not bundle.email:
        return "no_address"
    if bundle.suppressed:
        return "suppressed"
    return None if bundle.items else "nothing_unread"


def digest(bundle: Bundle, public_url: str, unsubscribe_url: str) -> Digest:
    """What the mail says: boards by their name, times in the person's zone, or UTC where that is none."""
    zone = time_zone(bundle.time_zone)
    by_board = sorted(bundle.items, key=lambda item: (item.board.casefold(), item.board_id, item.created_at))
    boards = [_board(list(items), zone, public_url) for _, items in groupby(by_board, key=attrgetter("board_id"))]
    account = _short(bundle.account, _NAME_LENGTH)
    first = boards[0].cards[0]
    return Digest(
        subject=_subject(bundle.total, account if bundle.in_several_accounts else None),
        preview=f"{first.happenings[0].actor} {first.happenings[0].deed}: {first.title}",
        account=account,
        boards=boards,
        more=bundle.total - len(bundle.items),
        zone=str(zone),
        notifications_url=f"{public_url}/notifications",
        settings_url=f"{public_url}/settings/notifications",
        unsubscribe_url=unsubscribe_url,
        reasons=_reasons(bundle.items),
    )


@functools.lru_cache(maxsize=1_024)
def time_zone(name: str) -> tzinfo:
    """The zone of that name, or UTC: what a person typed may be no zone."""
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return UTC


def readable(text: str, length: int) -> str:
    """The text in one line, mentions by their name, cut between two words when it is longer."""
    return _short(_MENTION.sub(r"@\1", text) if "](user:" in text else text, length)


def _subject(count: int, account: str | None) -> str:
    many = "1 new notification" if count == 1 else f"{count:,} new notifications"
    return f"{many} in {account}" if account else many


def _board(items: list[Item], zone: tzinfo, public_url: str) -> Board:
    first = items[0]
    cards: dict[int, list[Item]] = {}
    for item in items:
        cards.setdefault(item.card_id, []).append(item)
    return Board(
        name=_short(first.board, _NAME_LENGTH) or f"Board {first.board_id}",
        url=f"{public_url}/boards/{first.board_id}",
        cards=[_card(card, zone, public_url) for card in cards.values()],
    )


def _card(items: list[Item], zone: tzinfo, public_url: str) -> Card:
    first = items[0]
    return Card(
        title=readable(first.title, _TITLE_LENGTH) or "Untitled",
        number=first.number,
        url=f"{public_url}/cards/{first.card_id}",
        happenings=[_happening(item, zone) for item in items],
    )


def _happening(item: Item, zone: tzinfo) -> Happening:
    at = item.created_at.astimezone(zone)
    return Happening(
        actor=_short(item.actor or "", _NAME_LENGTH) or "Somebody",
        deed=_deed(item),
        excerpt=readable(item.body, _EXCERPT_SHOWN) if item.body else "",
        at=f"{_DAYS[at.weekday()]} {at.day} {_MONTHS[at.month - 1]}, {at.hour:02}:{at.minute:02}",
    )


def _deed(item: Item) -> str:
    if item.for_you:
        return "assigned this to you"
    known = _DEEDS.get(item.action)
    return known or f"did this: {_short(item.action.replace('_', ' '), _NAME_LENGTH)}"


def _reasons(items: Iterable[Item]) -> list[str]:
    kinds = {"mention" if item.action == "mention" else "assignment" if item.for_you else "activity" for item in items}
    return sorted(kinds, key=["mention", "assignment", "activity"].index)


def _short(text: str, length: int) -> str:
    line = one_line(text)
    if len(line) <= length:
        return line
    cut = line[:length]
    return f"{cut.rpartition(' ')[0] or cut}…"
