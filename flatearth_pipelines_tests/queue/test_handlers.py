"""What a handler is, and what it is given."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from pydantic import ConfigDict, Field, ValidationError

from flatearth_pipelines.errors import NotFound, WrongUsage
from flatearth_pipelines.queue.handlers import (
    Context,
    Guarantee,
    Handler,
    NoPayload,
    Payload,
    Registry,
    Retry,
    Stopped,
    invalidity,
    one_line,
    storable,
)
from flatearth_pipelines_tests.factories import NOON

SECRET = "correct horse battery staple"  # noqa: S105 - what must not be shown


class Letter(Payload):
    to: str = Field(min_length=40)
    copies: int = 1


def post(_context: Context, _payload: Letter) -> None:
    """Post a letter.

    Not an e-mail.
    """


async def post_async(_context: Context, _payload: Letter) -> None:
    """Post a letter while others wait."""


REGISTRY = Registry([Handler("post", Letter, post), Handler("archive", NoPayload, post)])


def context() -> tuple[Context, list[Any]]:
    """Of job 7, and what it reports."""
    reported: list[Any] = []
    return Context(7, 1, None, lambda *said: reported.append(said)), reported


def test_a_handler_is_retried_five_times_at_least_once_within_five_minutes_unless_it_says_otherwise() -> None:
    handler = Handler("post", Letter, post)

    assert handler.guarantee is Guarantee.AT_LEAST_ONCE
    assert (handler.max_attempts, handler.timeout, handler.own_run) == (5, timedelta(minutes=5), False)


@pytest.mark.parametrize("max_attempts", [1, 25])
def test_one_to_25_attempts_are_taken(max_attempts: int) -> None:
    assert Handler("post", Letter, post, max_attempts=max_attempts).max_attempts == max_attempts


@pytest.mark.parametrize("max_attempts", [-1, 0, 26])
def test_no_attempts_and_more_than_25_are_refused(max_attempts: int) -> None:
    with pytest.raises(WrongUsage, match=rf"^post: max_attempts is {max_attempts}, not 1 to 25$"):
        Handler("post", Letter, post, max_attempts=max_attempts)


def test_a_transactional_handler_that_is_async_is_refused() -> None:
    with pytest.raises(WrongUsage, match=r"^post: a transactional handler is a plain function$"):
        Handler("post", Letter, post_async, Guarantee.TRANSACTIONAL)


def test_it_knows_whether_it_is_async_and_what_it_does() -> None:
    plain, coroutine = Handler("post", Letter, post), Handler("post", Letter, post_async)

    assert (plain.is_async, coroutine.is_async) == (False, True)
    assert plain.description == "Post a letter."


def test_a_function_without_a_docstring_has_an_empty_description() -> None:
    assert Handler("post", Letter, lambda *_: None).description == ""


def test_a_registry_finds_a_handler_by_its_name_and_names_the_known_ones_when_there_is_none() -> None:
    assert REGISTRY["post"].run is post
    assert REGISTRY.get("unknown") is None
    with pytest.raises(NotFound, match=r"^There is no handler 'unknown': there are archive, post$"):
        REGISTRY["unknown"]


def test_a_payload_is_returned_as_json_with_its_defaults() -> None:
    assert REGISTRY.validated("post", {"to": "x" * 40}) == {"to": "x" * 40, "copies": 1}


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        ({"to": SECRET}, "to: String should have at least 40 characters"),
        ({"to": "x" * 40, "copies": SECRET}, "copies: Input should be a valid integer"),
        ({"to": "x" * 40, "cc": SECRET}, "cc: Extra inputs are not permitted"),
        ({"copies": 1}, "to: Field required"),
    ],
)
def test_a_payload_that_is_not_valid_is_refused_with_its_field_and_without_its_value(
    payload: dict[str, Any], why: str
) -> None:
    with pytest.raises(WrongUsage, match=r"^The payload of post is not valid: ") as refusal:
        REGISTRY.validated("post", payload)

    assert why in str(refusal.value)
    assert SECRET not in str(refusal.value)


def test_an_invalidity_is_one_line_that_the_error_column_can_keep_whatever_the_names_of_the_fields() -> None:
    with pytest.raises(ValidationError) as error:
        NoPayload.model_validate({f"line\nbreak {number} {'x' * 1_000}": 1 for number in range(100)})

    said = invalidity(error.value)
    assert "\n" not in said
    assert len(said) <= 1_000


def test_a_payload_does_not_change() -> None:
    letter = Letter(to="x" * 40)

    with pytest.raises(ValidationError):
        setattr(letter, "copies", 2)  # noqa: B010 - a type checker would not let it pass
    assert Payload.model_config == ConfigDict(extra="forbid", frozen=True)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("no"), "ValueError: no"),
        (ValueError(), "ValueError"),
        (ValueError("one\ntwo\r\n\tthree"), "ValueError: one two three"),
        (ValueError("a\0b"), "ValueError: a\N{REPLACEMENT CHARACTER}b"),
        (ValueError("a\ud800b"), "ValueError: a?b"),
        (ValueError("é🙂"), "ValueError: é🙂"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
    ],
)
def test_an_error_becomes_one_line_that_postgres_can_store(error: BaseException, line: str) -> None:
    assert one_line(error) == line


@pytest.mark.parametrize(("length", "kept"), [(988, 1_000), (989, 1_000), (1_000_000, 1_000), (10, 22)])
def test_an_error_is_cut_at_a_thousand_characters(length: int, kept: int) -> None:
    assert len(one_line(ValueError("x" * length))) == kept


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def test_an_error_that_cannot_be_written_down_is_named_by_its_kind() -> None:
    assert one_line(Unspeakable()) == "Unspeakable"


def test_storable_text_is_left_as_it_is() -> None:
    assert storable("Zoë\n🙂") == "Zoë\n🙂"


@pytest.mark.parametrize("percent", [0, 0.5, 100])
def test_progress_is_0_to_100_and_a_line(percent: float) -> None:
    told, reported = context()

    told.progress(percent, "half of it")

    assert reported == [(7, percent, "half of it")]


@pytest.mark.parametrize("percent", [-0.001, 100.001, float("nan"), float("inf")])
def test_progress_beyond_0_to_100_is_refused(percent: float) -> None:
    told, reported = context()

    with pytest.raises(ValueError, match="not 0 to 100"):
        told.progress(percent)
    assert reported == []


def test_a_job_that_is_told_to_stop_says_so_with_the_first_reason() -> None:
    told, _ = context()
    told.check()
    assert not told.stop_requested

    told.request_stop("cancelled")
    told.request_stop("superseded")

    assert told.stop_requested
    with pytest.raises(Stopped, match=r"^cancelled$"):
        told.check()


def test_only_a_transactional_handler_has_a_connection() -> None:
    told, _ = context()

    with pytest.raises(RuntimeError, match="only a transactional handler"):
        _ = told.connection


def test_a_retry_is_at_an_instant_with_a_zone() -> None:
    assert Retry("later", at=NOON).at == NOON
    with pytest.raises(ValueError, match="zone"):
        Retry("later", at=datetime(2026, 11, 22))  # noqa: DTZ001 - that is the point
