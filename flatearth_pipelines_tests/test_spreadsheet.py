import pytest
from hypothesis import given
from hypothesis import strategies as st

from flatearth_pipelines.spreadsheet import guarded


@pytest.mark.parametrize("sign", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20"])
def test_what_begins_like_a_formula_is_put_behind_an_apostrophe(sign: str) -> None:
    assert guarded(f"{sign}1+1") == f"'{sign}1+1"


@pytest.mark.parametrize("text", ["", "Roadmap", "1+1", " =1+1", "a@b", "\u2212 2", "\U0001f680 =1"])
def test_everything_else_is_left_as_it_is(text: str) -> None:
    assert guarded(text) == text


@given(st.text())
def test_no_text_is_lost_and_none_is_guarded_twice(text: str) -> None:
    assert guarded(text).removeprefix("'") == text.removeprefix("'")
    assert guarded(guarded(text)) == guarded(text)
