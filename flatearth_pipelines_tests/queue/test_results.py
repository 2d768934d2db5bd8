"""Results that are kept, and those that cannot be."""

import json
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flatearth_pipelines.queue.results import kept_result

FRAME = len('{"text": ""}')

ANY_TEXT = st.text(st.characters(exclude_categories=[]), max_size=8)


def nested(depth: int) -> dict[str, Any]:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return {"value": value}


def circular() -> dict[str, Any]:
    result: dict[str, Any] = {}
    result["self"] = result
    return result


def test_no_result_is_none() -> None:
    assert kept_result(None) is None


@pytest.mark.parametrize(
    "result",
    [
        {},
        {"count": 3, "ratio": 0.5, "done": True, "nothing": None, "names": ["a", "b"], "more": {"deep": [1]}},
        {"text": "Zoë 🙂 \n \t \" \\ '"},
        {"text": "the six characters \\u0000 are harmless"},
        {"number": 10**1000},
        {"text": "x" * (65_536 - FRAME)},
    ],
)
def test_a_json_object_of_up_to_65536_bytes_is_kept_as_it_is(connection: sa.Connection, result: dict[str, Any]) -> None:
    assert kept_result(result) == result
    assert as_floats(stored(connection, result)) == as_floats(result)


@pytest.mark.parametrize(
    ("result", "why"),
    [
        ({"text": "x" * (65_536 - FRAME + 1)}, "it has 65537 bytes, more than 65536"),
        ({"text": "x" * 1_000_000}, "more than 65536"),
        ({"text": "a\0b"}, "a character that Postgres does not store"),
        ({"a\0b": 1}, "a character that Postgres does not store"),
        ({"text": "\ud800"}, "a character that Postgres does not store"),
        ({"\udfff": 1}, "a character that Postgres does not store"),
        ({"number": float("nan")}, "ValueError"),
        ({"number": [float("inf")]}, "ValueError"),
        ({"number": 10**5000}, "ValueError"),
        ({"value": Decimal(1)}, "TypeError"),
        ({"value": object()}, "TypeError"),
        ({(1, 2): "a key that is no text"}, "TypeError"),
        (circular(), "ValueError"),
        ([1, 2], "TypeError"),
        ("text", "ValueError"),
        (42, "TypeError"),
        (nested(100_000), "RecursionError"),
    ],
    ids=[
        *("one byte too many", "a megabyte", "nul", "nul in a key", "surrogate", "surrogate in a key", "nan", "inf"),
        *("number of 5,000 digits", "decimal", "object", "tuple as a key", "circular", "list", "text", "number"),
        "nested too deeply",
    ],
)
def test_in_place_of_what_cannot_be_kept_stands_why(result: Any, why: str) -> None:
    kept = kept_result(result)

    assert kept is not None
    assert list(kept) == ["not_kept"]
    assert why in kept["not_kept"]


@pytest.mark.parametrize("depth", [100, 900, 5_000, 20_000])
def test_whatever_its_depth_postgres_takes_what_is_kept(connection: sa.Connection, depth: int) -> None:
    kept = kept_result(nested(depth))

    assert kept is not None
    assert list(stored(connection, kept)) in (["value"], ["not_kept"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(
    st.dictionaries(
        ANY_TEXT,
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
            max_leaves=5,
        ),
        max_size=3,
    )
)
def test_postgres_takes_whatever_is_kept(connection: sa.Connection, result: dict[str, Any]) -> None:
    kept = kept_result(result)

    assert kept is not None
    assert as_floats(stored(connection, kept)) == as_floats(kept)


def as_floats(value: Any) -> Any:
    """Postgres writes a large float without an exponent, which Python then reads as another integer."""
    return json.loads(json.dumps(value), parse_int=float)


def stored(connection: sa.Connection, kept: dict[str, Any]) -> Any:
    """As it comes back from a column of jsonb."""
    query = sa.text("SELECT CAST(CAST(:kept AS jsonb) AS text)")
    text = connection.execute(query, {"kept": json.dumps(kept, ensure_ascii=False)}).scalar_one()
    return json.loads(text)
