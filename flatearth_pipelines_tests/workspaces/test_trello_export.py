import json
from datetime import UTC, datetime
from typing import Any

import pytest

from flatearth_pipelines.errors import WrongUsage
from flatearth_pipelines.workspaces.trello_export import LONGEST_LABEL, storable, trello_board

LIST = "60d5ecb2f1e7a52f3c8b4567"
CARD = "61000000f1e7a52f3c8b0001"

Export = dict[str, Any]


def export(**card: Any) -> Export:
    """A board with one list and one card, whose fields may be chosen; None leaves the field null."""
    whole = {"id": CARD, "name": "Paint the fence", "idList": LIST, "dateLastActivity": "2022-02-04T14:51:12.990Z"}
    return {"name": "Home", "lists": [{"id": LIST, "name": "Doing"}], "cards": [whole | card]}


def test_json_text_bytes_and_what_they_parse_to_are_read_alike() -> None:
    board = export()
    assert trello_board(board) == trello_board(json.dumps(board)) == trello_board(json.dumps(board).encode())


def test_a_byte_order_mark_is_no_hindrance() -> None:
    assert trello_board(json.dumps(export()).encode("utf-8-sig")).name == "Home"


@pytest.mark.parametrize("text", ["", "no", '{"lists": [', b"\xff\xfe\xfd", "[" * 100_000, "1" * 5_000])
def test_what_is_not_json_is_refused_in_one_line(text: str | bytes) -> None:
    with pytest.raises(WrongUsage, match=r"^this is not (JSON: .+|a Trello board: .+)$"):
        trello_board(text)


@pytest.mark.parametrize(
    "board",
    [[], "board", None, 1, {}, {"lists": []}, {"cards": []}, {"lists": {}, "cards": []}, {"lists": [], "cards": None}],
)
def test_json_without_lists_and_cards_is_not_a_board(board: object) -> None:
    with pytest.raises(WrongUsage, match=r"^this is not a Trello board"):
        trello_board(json.dumps(board))


@pytest.mark.parametrize("key", ["lists", "cards", "labels", "members", "actions"])
@pytest.mark.parametrize("rows", [[1], ["text"], [None], [[]]])
def test_rows_that_are_no_objects_are_named(key: str, rows: list[object]) -> None:
    with pytest.raises(WrongUsage, match=f"its {key} are not a list of objects"):
        trello_board(export() | {key: rows})


@pytest.mark.parametrize("key", ["lists", "cards", "labels", "members"])
@pytest.mark.parametrize("row", [{}, {"id": None}, {"id": ""}, {"id": 7}, {"id": ["a"]}])
def test_a_row_without_an_id_is_named(key: str, row: Export) -> None:
    with pytest.raises(WrongUsage, match=f"one of the board's {key} has no id"):
        trello_board(export() | {key: [row]})


def test_a_card_without_a_date_is_named() -> None:
    for card in (export(dateLastActivity=None), _without("dateLastActivity")):
        with pytest.raises(WrongUsage, match=r'^the card "Paint the fence" has no date of last activity'):
            trello_board(card)


@pytest.mark.parametrize(
    "date",
    ["soon", "", "2022-02-30T00:00:00Z", "2022-02-04", "2022-02-04T14:51:12", 5, [], {}, "0001-01-01T00:00:00+23:00"],
)
def test_a_card_with_a_date_that_is_none_is_named_with_it(date: object) -> None:
    with pytest.raises(WrongUsage, match=r'^the card "Paint the fence" has no date .+ that can be read: .+'):
        trello_board(export(dateLastActivity=date))


@pytest.mark.parametrize("list_id", [None, "elsewhere", 5, []])
def test_a_card_in_an_unknown_list_is_named(list_id: object) -> None:
    with pytest.raises(WrongUsage, match=r'^the card "Paint the fence" is in a list that the board does not have'):
        trello_board(export(idList=list_id))


@pytest.mark.parametrize("key", ["idMembers", "idLabels"])
@pytest.mark.parametrize("ids", ["abc", [1], [None], {"a": 1}, 5])
def test_ids_that_are_no_list_of_texts_are_named(key: str, ids: object) -> None:
    with pytest.raises(WrongUsage, match=f'^the card "Paint the fence" has {key} that are not a list of ids'):
        trello_board(export(**{key: ids}))


def test_a_card_without_a_title_is_named_by_its_id() -> None:
    with pytest.raises(WrongUsage, match=CARD):
        trello_board(export(name="", dateLastActivity=None))


def test_a_long_or_broken_title_makes_no_long_or_broken_message() -> None:
    with pytest.raises(WrongUsage) as refused:
        trello_board(export(name="line\nbreak\ud800" + "x" * 10_000, dateLastActivity=None))
    assert len(str(refused.value)) < 200
    assert str(refused.value).isprintable()


def test_two_cards_with_one_id_are_refused() -> None:
    board = export()
    with pytest.raises(WrongUsage, match="two cards with the same id"):
        trello_board(board | {"cards": board["cards"] * 2})


def test_a_comment_without_a_date_is_refused_with_the_name_of_its_card() -> None:
    with pytest.raises(WrongUsage, match=r'^a comment on the card "Paint the fence" has no date$'):
        trello_board(export() | {"actions": [{"type": "commentCard", "data": {"card": {"id": CARD}}}]})


def test_a_comment_on_a_card_that_is_gone_is_left_out() -> None:
    gone = {"type": "commentCard", "date": "bad", "data": {"card": {"id": "gone"}}}
    assert trello_board(export() | {"actions": [gone, {"type": "commentCard"}, {"type": "other"}, {}]}).comments == []


@pytest.mark.parametrize(
    ("card_id", "created_at"),
    [
        ("61000000ffff", datetime(2021, 7, 27, 12, 45, 52, tzinfo=UTC)),
        ("00000000ffff", datetime(1970, 1, 1, tzinfo=UTC)),
        # Made after its last activity, or at a time that its id does not say: then it was made by it.
        ("70000000ffff", datetime(2022, 2, 4, 14, 51, 12, 990_000, tzinfo=UTC)),
        ("not a date", datetime(2022, 2, 4, 14, 51, 12, 990_000, tzinfo=UTC)),
        ("+1234567", datetime(2022, 2, 4, 14, 51, 12, 990_000, tzinfo=UTC)),
    ],
)
def test_a_card_was_made_in_the_second_that_its_id_starts_with_but_never_after_its_last_activity(
    card_id: str, created_at: datetime
) -> None:
    assert trello_board(export(id=card_id)).cards[0].created_at == created_at


@pytest.mark.parametrize(("number", "read"), [(7, 7), (0, 0), (None, None), (-1, None), (True, None), (2**63, None)])
def test_a_number_that_is_none_is_null(number: object, read: int | None) -> None:
    assert trello_board(export(idShort=number)).cards[0].number == read


def test_lists_stand_in_the_order_of_their_place_and_those_without_one_last() -> None:
    lists = [
        {"id": "c", "name": "third"},
        {"id": "b", "name": "second", "pos": 2},
        {"id": "a", "name": "first", "pos": 1.5},
    ]
    board = trello_board({"lists": lists, "cards": []})
    assert [column.name for column in board.lists.values()] == ["first", "second", "third"]


@pytest.mark.parametrize(
    ("label", "title"),
    [
        ({"name": "Sales", "color": "green"}, "Sales"),
        ({"name": "", "color": "green"}, "green"),
        ({"name": " ", "color": "green"}, "green"),
        ({"name": "", "color": None}, "unnamed"),
        ({"name": "x" * (LONGEST_LABEL + 1)}, "x" * LONGEST_LABEL),
    ],
)
def test_a_label_without_a_name_is_called_by_its_colour_and_a_long_one_is_cut(label: Export, title: str) -> None:
    assert trello_board(export() | {"labels": [{"id": "l"} | label]}).labels == {"l": title}


@pytest.mark.parametrize(
    ("text", "stored"),
    [("a\0b", "ab"), ("\0", ""), ("\ud83d", "\ufffd"), ("a\udc00b", "a\ufffdb"), ("😀 שלום", "😀 שלום")],
)
def test_what_postgres_refuses_is_taken_out_of_a_text(text: str, stored: str) -> None:
    assert storable(text) == stored


def test_a_character_in_two_escapes_stays_whole() -> None:
    assert trello_board(json.dumps(export(name="😀"))).cards[0].name == "😀"


def _without(field: str) -> Export:
    board = export()
    del board["cards"][0][field]
    return board
