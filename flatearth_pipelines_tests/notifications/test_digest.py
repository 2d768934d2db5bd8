"""What the mail about a bundle says: pure, no database."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flatearth_pipelines.notifications.digest import (
    Bundle,
    Digest,
    Item,
    digest,
    readable,
    reason_for_no_mail,
    time_zone,
)

NOON = datetime(2026, 11, 22, 12, 30, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
URL = "https://earth.example"


def item(**values: Any) -> Item:
    defaults: dict[str, Any] = {
        "total": 1,
        "action": "card_closed",
        "for_you": False,
        "actor": "Ada",
        "board_id": 1,
        "board": "Roadmap",
        "card_id": 7,
        "number": 42,
        "title": "Fix the bug",
        "body": None,
        "created_at": NOON,
    }
    return Item(**defaults | values)


def bundle(*items: Item, **values: Any) -> Bundle:
    defaults: dict[str, Any] = {
        "id": 3,
        "account_id": 1,
        "user_id": 5,
        "attempts": 1,
        "status": "processing",
        "email": "bo@acme.example",
        "time_zone": "UTC",
        "active": True,
        "account": "Acme",
        "cancelled": False,
        "frequency": "daily",
        "suppressed": False,
        "in_several_accounts": False,
        "read_at": NOON,
    }
    return Bundle(**defaults | values, items=[each._replace(total=max(each.total, len(items))) for each in items])


def said(*items: Item, **values: Any) -> Digest:
    return digest(bundle(*items, **values), URL, f"{URL}/unsubscribe/x")


# Why there is none


def test_a_person_with_something_unread_gets_a_mail() -> None:
    assert reason_for_no_mail(bundle(item())) is None


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"cancelled": True}, "account_cancelled"),
        ({"active": False}, "user_inactive"),
        ({"frequency": "never"}, "never"),
        ({"email": None}, "no_address"),
        ({"email": ""}, "no_address"),
        ({"suppressed": True}, "suppressed"),
    ],
)
def test_nobody_to_send_it_to_is_the_reason_whether_there_is_something_or_not(
    values: dict[str, Any], reason: str
) -> None:
    assert reason_for_no_mail(bundle(item(), **values)) == reason
    assert reason_for_no_mail(bundle(**values)) == reason


def test_nothing_unread_is_a_reason() -> None:
    assert reason_for_no_mail(bundle()) == "nothing_unread"


# The subject


@pytest.mark.parametrize(
    ("total", "subject"), [(1, "1 new notification"), (2, "2 new notifications"), (1_234, "1,234 new notifications")]
)
def test_the_subject_says_how_many_there_are(total: int, subject: str) -> None:
    assert said(item(total=total)).subject == subject


def test_to_a_person_in_several_accounts_the_subject_names_the_account() -> None:
    assert said(item(), in_several_accounts=True).subject == "1 new notification in Acme"
    assert said(item(), in_several_accounts=True, account="A\r\nBcc: eve").subject == "1 new notification in A Bcc: eve"
    assert said(item(), in_several_accounts=True, account=" ").subject == "1 new notification"


# Boards, cards, and what happened


def test_what_happened_is_grouped_by_board_then_card_and_in_the_order_of_time() -> None:
    shown = said(
        item(board_id=2, board="website", card_id=1, title="b", created_at=NOON),
        item(board_id=1, board="Roadmap", card_id=2, title="c", created_at=NOON + MINUTE),
        item(board_id=2, board="website", card_id=3, title="a", created_at=NOON - MINUTE),
        item(board_id=2, board="website", card_id=1, title="b", created_at=NOON - 2 * MINUTE, actor="Bo"),
        item(board_id=3, board="Alpha", card_id=4, title="d", created_at=NOON),
    )

    assert [(board.name, [card.title for card in board.cards]) for board in shown.boards] == [
        ("Alpha", ["d"]),
        ("Roadmap", ["c"]),
        ("website", ["b", "a"]),
    ]
    happenings = shown.boards[2].cards[0].happenings
    assert [f"{happening.actor} {happening.deed}" for happening in happenings] == ["Bo closed this", "Ada closed this"]


def test_two_boards_of_the_same_name_stay_two() -> None:
    shown = said(item(board_id=1), item(board_id=2), item(board_id=1, card_id=8))
    assert [(board.url, len(board.cards)) for board in shown.boards] == [(f"{URL}/boards/1", 2), (f"{URL}/boards/2", 1)]


def test_a_card_has_its_number_and_links_go_to_the_application() -> None:
    shown = said(item())
    (card,) = shown.boards[0].cards
    assert (card.number, card.url, shown.boards[0].url) == (42, f"{URL}/cards/7", f"{URL}/boards/1")
    assert (shown.notifications_url, shown.settings_url) == (f"{URL}/notifications", f"{URL}/settings/notifications")
    assert shown.unsubscribe_url == f"{URL}/unsubscribe/x"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"action": "mention"}, "Ada mentioned you"),
        ({"action": "card_assigned"}, "Ada assigned this"),
        ({"action": "card_assigned", "for_you": True}, "Ada assigned this to you"),
        ({"action": "card_published"}, "Ada added this card"),
        ({"action": "card_postponed"}, "Ada moved this to Not now"),
        ({"action": "comment_created"}, "Ada commented"),
        ({"action": "card_turned_blue"}, "Ada did this: card turned blue"),
        ({"action": "comment_created", "actor": None}, "Somebody commented"),
        ({"action": "comment_created", "actor": " \n"}, "Somebody commented"),
        ({"action": "comment_created", "actor": "Ada\r\nBcc: eve"}, "Ada Bcc: eve commented"),
    ],
)
def test_a_sentence_says_who_did_what(values: dict[str, Any], sentence: str) -> None:
    (happening,) = said(item(**values)).boards[0].cards[0].happenings
    assert f"{happening.actor} {happening.deed}" == sentence


def test_a_comment_is_shown_in_one_line_with_mentions_by_their_name() -> None:
    body = "Thanks @[Bo Chen](user:5),\n\nit *works* now <b>"
    assert said(item(body=body)).boards[0].cards[0].happenings[0].excerpt == "Thanks @Bo Chen, it *works* now <b>"


def test_a_card_without_a_title_and_a_board_without_a_name_can_be_told_apart() -> None:
    (board,) = said(item(title=" ", board="")).boards
    assert (board.name, board.cards[0].title) == ("Board 1", "Untitled")


def test_what_is_not_shown_is_counted() -> None:
    assert said(item(total=60), item(total=60)).more == 58
    assert said(item()).more == 0


def test_the_preview_is_the_first_that_is_shown() -> None:
    assert said(item(action="comment_created")).preview == "Ada commented: Fix the bug"


@pytest.mark.parametrize(
    ("items", "reasons"),
    [
        ([item()], ["activity"]),
        ([item(), item(action="mention")], ["mention", "activity"]),
        ([item(action="card_assigned", for_you=True)], ["assignment"]),
    ],
)
def test_the_reasons_are_named_the_strongest_first(items: list[Item], reasons: list[str]) -> None:
    assert said(*items).reasons == reasons


# Times


@pytest.mark.parametrize(
    ("zone", "at"),
    [
        ("UTC", "Sun 22 Nov, 12:30"),
        ("Europe/Berlin", "Sun 22 Nov, 13:30"),
        ("Asia/Kolkata", "Sun 22 Nov, 18:00"),
        ("Pacific/Auckland", "Mon 23 Nov, 01:30"),
        ("No/Such_Zone", "Sun 22 Nov, 12:30"),
        ("../../etc/passwd", "Sun 22 Nov, 12:30"),
        ("", "Sun 22 Nov, 12:30"),
        ("Europe", "Sun 22 Nov, 12:30"),
        ("\0", "Sun 22 Nov, 12:30"),
    ],
)
def test_times_are_in_the_persons_zone_or_in_utc_where_that_is_none(zone: str, at: str) -> None:
    shown = said(item(), time_zone=zone)
    assert shown.boards[0].cards[0].happenings[0].at == at
    assert shown.zone == (zone if at != "Sun 22 Nov, 12:30" else "UTC")


@pytest.mark.parametrize(("hour", "at"), [(0, "Sun 25 Oct, 02:30"), (1, "Sun 25 Oct, 02:30"), (2, "Sun 25 Oct, 03:30")])
def test_on_the_day_the_clocks_change_a_time_is_what_the_clock_showed(hour: int, at: str) -> None:
    instant = datetime(2026, 10, 25, hour, 30, tzinfo=UTC)
    shown = said(item(created_at=instant), time_zone="Europe/Berlin")
    assert shown.boards[0].cards[0].happenings[0].at == at


# Long and odd texts


@pytest.mark.parametrize(
    ("text", "length", "shown"),
    [
        ("exactly", 7, "exactly"),
        ("exactly so", 9, "exactly…"),
        ("unbreakable", 5, "unbre…"),
        ("a b", 2, "a…"),
    ],
)
def test_a_long_text_is_cut_between_two_words(text: str, length: int, shown: str) -> None:
    assert readable(text, length) == shown


@given(st.text(), st.integers(1, 50))
def test_a_text_is_one_line_and_not_longer_than_allowed_and_a_dot(text: str, length: int) -> None:
    line = readable(text, length)
    assert len(line) <= length + 1
    assert "\n" not in line
    assert "\r" not in line


typed = st.builds(
    item,
    board=st.text(),
    title=st.text(),
    body=st.none() | st.text(),
    actor=st.none() | st.text(),
    board_id=st.integers(1, 3),
    card_id=st.integers(1, 5),
)


@given(st.lists(typed, min_size=1))
def test_every_notification_that_was_read_is_shown_once_whatever_people_typed(items: list[Item]) -> None:
    shown = said(*items)
    happenings = [happening for board in shown.boards for card in board.cards for happening in card.happenings]
    assert len(happenings) == len(items)
    assert shown.more == 0


def test_a_zone_is_looked_up_once() -> None:
    assert time_zone("Europe/Berlin") is time_zone("Europe/Berlin")


def test_a_bundle_counts_what_it_has_and_not_what_was_read_of_it() -> None:
    whole = bundle(item(total=60))
    assert (whole.total, replace(whole, items=[]).total) == (60, 0)
