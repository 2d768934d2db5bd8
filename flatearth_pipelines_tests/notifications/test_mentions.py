"""Who is mentioned in a text."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flatearth_pipelines.notifications.mentions import NAMED, TEXTS, named, within

AUTHOR = 1
"""Of every text here, unless told otherwise."""


def text(body: str, *, author_id: int | None = AUTHOR, is_silent: bool = False) -> pl.DataFrame:
    return pl.DataFrame([("comment", 7, 3, 5, author_id, is_silent, body)], schema=TEXTS, orient="row")


def people(texts: pl.DataFrame) -> list[int]:
    """The ids of those who are named, ascending."""
    frame = named(texts.lazy()).collect()
    assert frame.schema == NAMED
    return sorted(frame["user_id"].to_list())


@pytest.mark.parametrize(
    ("body", "ids"),
    [
        ("@[Ada](user:5)", [5]),
        ("Have a look, @[Ada Lovelace](user:5)!", [5]),
        ("@[Ada](user:5) and @[Bob](user:6)", [5, 6]),
        ("@[Ada](user:5)@[Bob](user:6)", [5, 6]),
        ("@[Ada](user:5), and again @[Ada L.](user:5)", [5]),
        ("@[Ada](user:007)", [7]),
        ("@[](user:5)", [5]),
        ("@[アダ 🦀 עדה](user:5)", [5]),
        ("@[Ada [ops]](user:5)", [5]),
        ("@[[Ada]](user:5)", [5]),
        ("@[Ada ]( ops](user:5)", []),
        ("@[A]d[a](user:5)", [5]),
        ("@[see](https://example.com) @[Ada](user:5)", [5]),
        ("@[Ada](user:9223372036854775807)", [9223372036854775807]),
    ],
)
def test_a_mention_is_an_at_sign_a_name_in_brackets_and_a_user_in_parentheses(body: str, ids: list[int]) -> None:
    assert people(text(body)) == ids


@pytest.mark.parametrize(
    "body",
    [
        "",
        "Ada",
        "@Ada",
        "[Ada](user:5)",
        "@ [Ada](user:5)",
        "@[Ada] (user:5)",
        "@[Ada](user:)",
        "@[Ada](user:-5)",
        "@[Ada](user:5.0)",
        "@[Ada](user: 5)",
        "@[Ada](User:5)",
        "@[Ada](card:5)",
        "@[Ada](user:5",
        "@[Ada\nLovelace](user:5)",
        "@[Ada](user:\N{ARABIC-INDIC DIGIT FIVE})",
        "@[Ada](user:9223372036854775808)",
        "@[Ada](user:99999999999999999999)",
        "@[see](https://example.com) [Ada](user:5)",
    ],
)
def test_anything_else_is_no_mention(body: str) -> None:
    assert people(text(body)) == []


def test_nobody_mentions_themselves(subtests: pytest.Subtests) -> None:
    body = f"@[Me](user:{AUTHOR}) and @[Ada](user:5)"
    with subtests.test("the author is left out"):
        assert people(text(body)) == [5]
    with subtests.test("where the author is gone, nobody is"):
        assert people(text(body, author_id=None)) == [AUTHOR, 5]


def test_a_draft_and_a_system_user_mention_nobody() -> None:
    assert people(text("@[Ada](user:5)", is_silent=True)) == []


def test_every_text_has_its_own_mentions_with_where_they_stand_and_whose_they_are() -> None:
    texts = pl.DataFrame(
        [
            ("card", 7, 3, 5, 1, False, "@[Ada](user:5)"),
            ("comment", 7, 3, 5, 2, False, "@[Ada](user:5)"),
            ("comment", 8, 4, 6, None, False, "nobody"),
        ],
        schema=TEXTS,
        orient="row",
    )
    assert sorted(named(texts.lazy()).collect().rows()) == [("card", 7, 3, 5, 1, 5), ("comment", 7, 3, 5, 2, 5)]


def test_no_text_names_nobody() -> None:
    assert people(pl.DataFrame(schema=TEXTS)) == []


def test_a_text_of_ten_megabytes_is_read_to_its_end() -> None:
    assert people(text("@[" * 5_000_000 + "](user:6) @[Ada](user:5)")) == [5, 6]


@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_characters="[]()\r\n", exclude_categories=["Cs"])), st.integers(0, 2**63 - 1)
        )
    ),
    st.text(st.characters(exclude_characters="@[]", exclude_categories=["Cs"])),
)
def test_whatever_the_names_and_whatever_stands_between_them_all_are_found(
    mentioned: list[tuple[str, int]], between: str
) -> None:
    body = between.join(f"@[{name}](user:{user_id})" for name, user_id in mentioned)
    assert people(text(body, author_id=None)) == sorted({user_id for _, user_id in mentioned})


@pytest.mark.parametrize(
    ("most", "taken"), [(0, [1]), (10, [1]), (29, [1]), (30, [1, 2]), (60, [1, 2, 3]), (99, [1, 2, 3])]
)
def test_as_many_texts_are_taken_as_fit_and_one_in_any_case(most: int, taken: list[int]) -> None:
    sources = pl.LazyFrame({"id": [1, 2, 3], "bytes": [10, 20, 30]})
    assert within(sources, most).collect()["id"].to_list() == taken
