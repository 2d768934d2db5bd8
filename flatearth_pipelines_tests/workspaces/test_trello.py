import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flatearth_pipelines.errors import WrongUsage
from flatearth_pipelines.workspaces.trello import trello_workspace
from flatearth_pipelines.workspaces.workspace import Workspace
from flatearth_pipelines_tests.workspaces.consistency import violations

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)

BOARD, DOING, DONE = "5f5e1000", "5f5e1001", "5f5e1002"

FENCE, ROOF = "61000000f1e7a52f3c8b0001", "61000000f1e7a52f3c8b0002"

ADA, BO = "60000000f1e7a52f3c8b000a", "60000000f1e7a52f3c8b000b"

TOUCHED = datetime(2022, 2, 4, 14, 51, 12, 990_000, tzinfo=UTC)

Export = dict[str, Any]


def card(card_id: str = FENCE, **fields: Any) -> Export:
    return {"id": card_id, "name": "Paint", "idList": DOING, "dateLastActivity": "2022-02-04T14:51:12.990Z"} | fields


def comment(text: str, date: str, by: str = ADA, on: str = FENCE, **fields: Any) -> Export:
    data = {"text": text, "card": {"id": on}}
    return {"type": "commentCard", "idMemberCreator": by, "date": date, "data": data} | fields


def workspace(*cards: Export, **board: Any) -> Workspace:
    lists = [{"id": DOING, "name": "Doing", "pos": 1}, {"id": DONE, "name": "Done", "pos": 2, "closed": True}]
    members = [{"id": ADA, "fullName": "Ada"}, {"id": BO, "username": "bo"}]
    whole = {"id": BOARD, "name": "Home", "lists": lists, "members": members, "cards": list(cards)}
    return trello_workspace(whole | board, NOON)


def test_the_real_board_becomes_an_account() -> None:
    checkout = Path(__file__).parents[2]
    path = Path(os.environ.get("FLATEARTH_TRELLO_BOARD") or checkout.parent / "shared/data/trello-board.json")
    if not path.is_file():
        pytest.skip(f"{path} is not there; FLATEARTH_TRELLO_BOARD names another place")
    imported = trello_workspace(path.read_bytes(), NOON)
    assert violations(imported) == []
    expected = {"accounts": 1, "boards": 1, "columns": 7, "tags": 6, "cards": 63, "users": 6, "comments": 0}
    assert imported.counts().items() >= expected.items()
    assert set(imported.cards["last_active_at"].dt.year()) == {2022}


def test_account_and_board_are_named_after_the_board_and_begin_with_it() -> None:
    made = workspace(name="Home 🏡")
    begun = datetime(2020, 9, 13, 12, 26, 40, tzinfo=UTC)
    assert made.accounts.rows() == [(1, "Home 🏡", None, begun)]
    assert made.boards.rows() == [(1, 1, 1, "Home 🏡", True, begun)]


def test_an_account_begins_with_its_oldest_comment_where_that_is_the_oldest_of_all() -> None:
    made = workspace(card(), actions=[comment("Hi", "1999-01-01T00:00:00Z")])
    assert made.accounts["created_at"].item() == datetime(1999, 1, 1, tzinfo=UTC)


def test_a_board_from_the_future_begins_as_of_now() -> None:
    assert workspace(id="ffffffff").accounts["created_at"].item() == NOON


def test_an_account_begins_with_its_oldest_card_where_that_is_older_than_the_board() -> None:
    made = workspace(card("00000010ffff"))
    assert made.accounts["created_at"].item() == datetime(1970, 1, 1, 0, 0, 16, tzinfo=UTC)
    assert violations(made) == []


def test_the_first_member_owns_the_board_and_a_system_user_is_added() -> None:
    users = workspace().users.select("name", "email", "role", "active").rows()
    assert users == [
        ("Ada", None, "owner", True),
        ("bo", None, "member", True),
        ("System", None, "system", True),
    ]


def test_without_members_an_owner_is_made_up() -> None:
    for made in (workspace(members=[]), workspace(members=None)):
        assert made.users.select("name", "role").rows() == [
            ("Board owner", "owner"),
            ("System", "system"),
        ]


def test_an_empty_board_is_imported() -> None:
    made = trello_workspace({"lists": [], "cards": []}, NOON)
    assert violations(made) == []
    assert made.accounts.rows() == [(1, "Trello board", None, NOON)]


def test_a_card_keeps_its_number_its_list_and_its_last_activity() -> None:
    (row,) = workspace(card(idShort=12)).cards.rows(named=True)
    assert (row["number"], row["column_id"], row["title"], row["status"]) == (12, 1, "Paint", "published")
    assert (row["last_active_at"], row["created_at"]) == (TOUCHED, datetime(2021, 7, 27, 12, 45, 52, tzinfo=UTC))
    assert (row["closed_at"], row["postponed_at"], row["activity_spike_at"]) == (None, None, None)


def test_archived_cards_and_those_of_archived_lists_are_closed_since_their_last_activity() -> None:
    made = workspace(card(closed=True), card(ROOF, idList=DONE), card("open"))
    assert made.cards["closed_at"].to_list() == [TOUCHED, TOUCHED, None]


def test_labels_of_one_title_are_one_tag_and_on_a_card_once() -> None:
    labels = [
        {"id": "l1", "name": "Sales"},
        {"id": "l2", "name": "Sales"},
        {"id": "l3", "name": "", "color": "green"},
        {"id": "l4", "name": "green"},
    ]
    made = workspace(card(idLabels=["l1", "l2", "l3"]), card(ROOF, idLabels=["l4", "l4"]), labels=labels)
    assert made.tags["title"].to_list() == ["Sales", "green"]
    assert made.taggings.select("tag_id", "card_id").rows() == [(1, 1), (2, 1), (2, 2)]


def test_a_label_that_the_board_does_not_have_tags_nothing() -> None:
    assert workspace(card(idLabels=["gone"])).taggings.height == 0


def test_a_member_who_is_on_a_card_twice_is_assigned_once() -> None:
    made = workspace(card(idMembers=[BO, ADA, BO]))
    assert made.assignments.select("card_id", "user_id").rows() == [(1, 2), (1, 1)]


def test_comments_come_oldest_first() -> None:
    actions = [
        comment("second", "2022-02-02T00:00:00Z"),
        {"type": "updateCard"},
        comment("first", "2022-02-01T00:00:00Z", by=BO),
    ]
    made = workspace(card(), actions=actions)
    assert made.comments.select("id", "creator_id", "body").rows() == [(1, 2, "first"), (2, 1, "second")]


def test_assigned_and_commenting_people_who_are_no_members_are_inactive_users_by_name_or_else_by_id() -> None:
    actions = [
        comment("Hi", "2022-02-01T00:00:00Z", by="zoe", memberCreator={"id": "zoe", "fullName": "Zoe"}),
        comment("Ho", "2022-02-01T00:00:00Z", by="nameless"),
    ]
    made = workspace(card(idMembers=["zoe", "unknown"]), actions=actions)
    users = made.users.filter(~pl.col("active"))
    assert users.select("name", "role").rows() == [("Zoe", "member"), ("unknown", "member"), ("nameless", "member")]
    assert violations(made) == []


def test_a_comment_by_nobody_has_no_author() -> None:
    made = workspace(card(), actions=[comment("Hi", "2022-02-01T00:00:00Z") | {"idMemberCreator": None}])
    assert made.comments["creator_id"].to_list() == [None]


def test_texts_of_any_length_and_script_arrive_whole() -> None:
    text = "שלום 😀 \"quoted\", 'too'\r\n\\." * 10_000
    made = workspace(card(name=text), actions=[comment(text, "2022-02-01T00:00:00Z")])
    assert (made.cards["title"].item(), made.comments["body"].item()) == (text, text)


def test_there_are_no_events() -> None:
    assert workspace(card(), actions=[comment("Hi", "2022-02-01T00:00:00Z")]).events.height == 0


odd_texts = st.text(st.characters(codec=None), max_size=8)
"""With NUL and halves of characters."""

odd_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | odd_texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(odd_texts, inner, max_size=3),
    max_leaves=5,
)

ids = st.sampled_from([BOARD, DOING, DONE, FENCE, ROOF, ADA, BO])

list_ids = st.sampled_from([DOING, DONE])

dates = st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat)


def _id_of(row: Any) -> str:
    return str(row["id"])


sound_exports = st.fixed_dictionaries(
    {
        "id": ids,
        "name": odd_texts,
        "lists": st.lists(
            st.fixed_dictionaries({"id": list_ids, "name": odd_texts, "pos": st.floats(), "closed": st.booleans()}),
            min_size=2,
            max_size=2,
            unique_by=_id_of,
        ),
        "labels": st.lists(st.fixed_dictionaries({"id": ids, "name": odd_texts, "color": odd_texts}), max_size=4),
        "members": st.lists(
            st.fixed_dictionaries({"id": ids, "fullName": odd_texts, "username": odd_texts}), max_size=3
        ),
        "cards": st.lists(
            st.fixed_dictionaries(
                {
                    "id": ids | odd_texts.filter(bool),
                    "name": odd_texts,
                    "idList": list_ids,
                    "idShort": st.integers(),
                    "idMembers": st.lists(ids | odd_texts, max_size=3),
                    "idLabels": st.lists(ids | odd_texts, max_size=3),
                    "dateLastActivity": dates,
                    "closed": st.booleans(),
                }
            ),
            max_size=3,
            unique_by=_id_of,
        ),
        "actions": st.lists(
            st.fixed_dictionaries(
                {
                    "type": st.just("commentCard"),
                    "date": dates,
                    "idMemberCreator": ids,
                    "data": st.fixed_dictionaries({"text": odd_texts, "card": st.fixed_dictionaries({"id": ids})}),
                    "memberCreator": st.fixed_dictionaries({"id": ids, "fullName": odd_texts}),
                }
            ),
            max_size=3,
        ),
    }
)


@st.composite
def exports(draw: st.DrawFn) -> Export:
    """A sound export, up to three fields of which are missing or odd."""
    export = draw(sound_exports)
    rows = [export, *(row for value in export.values() if isinstance(value, list) for row in value)]
    for _ in range(draw(st.integers(0, 3))):
        row = draw(st.sampled_from(rows))
        field = draw(st.sampled_from(sorted(row) or ["id"]))
        row.pop(field, None)
        if draw(st.booleans()):
            row[field] = draw(odd_values)
    return export


@given(exports(), st.booleans())
def test_any_export_makes_a_consistent_workspace_or_is_refused(export: Export, as_text: bool) -> None:  # noqa: FBT001
    try:
        made = trello_workspace(json.dumps(export) if as_text else export, NOON)
    except WrongUsage as refusal:
        made = None
        message = str(refusal)
    if made is None:
        assert message.isprintable()
        return
    # The file may say that a comment is older than its card.
    assert set(violations(made)) <= {"comments: older than its card_id"}
    for _, frame in made.tables():
        for text in frame.select(pl.selectors.string()):
            assert not text.str.contains("\0", literal=True).any()


@given(odd_values)
def test_anything_else_is_refused(value: object) -> None:
    with pytest.raises(WrongUsage, match="not a Trello board"):
        trello_workspace(json.dumps(value), NOON)
