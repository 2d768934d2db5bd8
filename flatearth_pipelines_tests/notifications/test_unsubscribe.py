"""The token of a link to unsubscribe, and what an endpoint does with it."""

import base64
import hashlib
import hmac
import json
import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flatearth_pipelines.notifications.unsubscribe import Step, Verdict, token, unsubscribe_url, verdict

KEY = "a secret of the tests"
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)


def test_a_post_unsubscribes_the_person_of_the_token() -> None:
    assert verdict("POST", token(KEY, 7, NOON), KEY, NOON) == Verdict(Step.UNSUBSCRIBE, 7)


@pytest.mark.parametrize("method", ["GET", "HEAD", "get"])
def test_a_get_never_unsubscribes_it_asks(method: str) -> None:
    """Mail scanners follow links."""
    assert verdict(method, token(KEY, 7, NOON), KEY, NOON) == Verdict(Step.ASK, 7)


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "", "POST "])
def test_other_methods_do_nothing(method: str) -> None:
    assert verdict(method, token(KEY, 7, NOON), KEY, NOON) == Verdict(Step.WRONG_METHOD)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_token_is_valid_for_thirty_days_to_the_last_second(method: str) -> None:
    made = token(KEY, 7, NOON)
    assert verdict(method, made, KEY, NOON + 30 * DAY).user_id == 7
    assert verdict(method, made, KEY, NOON + 30 * DAY + SECOND - timedelta(microseconds=1)).user_id == 7
    assert verdict(method, made, KEY, NOON + 30 * DAY + SECOND) == Verdict(Step.EXPIRED)


@given(st.text(max_size=200))
@example("")
@example(".")
@example("e30.x")
@example("x" * 10_000)
@example("\ud800")
def test_what_is_no_token_of_ours_is_invalid(text: str) -> None:
    assert verdict("POST", text, KEY, NOON) == Verdict(Step.INVALID)


def test_a_token_of_another_secret_or_for_another_purpose_is_invalid() -> None:
    assert verdict("POST", token("another secret", 7, NOON), KEY, NOON) == Verdict(Step.INVALID)
    assert verdict("POST", signed({"user": 7, "until": 2**40}, salt="flatearth.download"), KEY, NOON).user_id is None


@given(st.data())
def test_a_token_that_was_changed_in_one_place_is_invalid(data: st.DataObject) -> None:
    made = token(KEY, 7, NOON)
    # The last sign of a base64 text has bits that say nothing.
    at = data.draw(st.integers(0, len(made) - 2))
    sign = data.draw(st.sampled_from("ABCxyz019-_").filter(lambda sign: sign != made[at]))
    assert verdict("POST", made[:at] + sign + made[at + 1 :], KEY, NOON).user_id is None


@pytest.mark.parametrize("payload", [[], {}, {"user": 7}, {"user": "x", "until": 1}, {"user": None, "until": None}, 7])
def test_a_signed_text_that_is_none_of_ours_is_invalid(payload: object) -> None:
    assert verdict("POST", signed(payload), KEY, NOON) == Verdict(Step.INVALID)


def test_another_language_can_make_and_verify_a_token_from_its_description() -> None:
    until = int((NOON + 30 * DAY).timestamp())
    assert token(KEY, 7, NOON) == signed({"user": 7, "until": until})


def test_a_link_is_short_and_has_nothing_that_a_mail_program_could_break() -> None:
    url = unsubscribe_url("https://earth.example", KEY, 2**63 - 1, NOON)
    assert re.fullmatch(r"https://earth\.example/unsubscribe/[A-Za-z0-9_.-]+", url)
    assert len(url) < 150


@pytest.mark.parametrize(
    ("step", "status"),
    [(Step.UNSUBSCRIBE, 200), (Step.ASK, 200), (Step.EXPIRED, 410), (Step.INVALID, 404), (Step.WRONG_METHOD, 405)],
)
def test_each_step_has_an_http_status(step: Step, status: int) -> None:
    assert step.status == status


def signed(payload: object, salt: str = "flatearth.unsubscribe") -> str:
    """By the words of the module's description, with the standard library alone."""
    text = encoded(json.dumps(payload, separators=(",", ":")).encode())
    key = hmac.new(KEY.encode(), salt.encode(), hashlib.sha256).digest()
    return f"{text}.{encoded(hmac.new(key, text.encode(), hashlib.sha256).digest())}"


def encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")
