"""What becomes of a bundle after an attempt."""

from datetime import timedelta

import pytest

from flatearth_pipelines.mailer import Answer, Fate
from flatearth_pipelines.notifications.settlement import (
    MOST_ATTEMPTS,
    WAITS,
    Settlement,
    handed_back,
    settled,
    without_mail,
)

ID = "<bundle.x@earth.example>"


def after(fate: Fate, attempt: int = 1) -> Settlement:
    return settled(7, attempt, Answer(fate, "it said so"), ID, 3)


def test_a_mail_that_was_taken_is_delivered_with_its_id_and_its_number_of_notifications() -> None:
    assert after(Fate.TAKEN) == Settlement(7, "delivered", outcome="mailed", message_id=ID, items=3)


@pytest.mark.parametrize("attempt", range(1, MOST_ATTEMPTS))
def test_what_may_succeed_later_waits_longer_after_each_attempt(attempt: int) -> None:
    assert after(Fate.LATER, attempt) == Settlement(7, "pending", error="it said so", wait=WAITS[attempt - 1])


def test_waits_grow_from_a_minute_to_a_day() -> None:
    assert WAITS[0] == timedelta(minutes=1)
    assert WAITS[-1] == timedelta(days=1)
    assert list(WAITS) == sorted(set(WAITS))
    assert len(WAITS) == MOST_ATTEMPTS - 1


@pytest.mark.parametrize("attempt", [8, 9])
def test_from_the_eighth_attempt_on_nothing_is_tried_any_more(attempt: int) -> None:
    assert after(Fate.LATER, attempt) == Settlement(7, "failed", outcome="exhausted", error="it said so")


@pytest.mark.parametrize(("fate", "outcome"), [(Fate.NOBODY, "undeliverable"), (Fate.REFUSED, "refused")])
@pytest.mark.parametrize("attempt", [1, 8])
def test_what_cannot_succeed_fails_at_once_with_the_reason(fate: Fate, outcome: str, attempt: int) -> None:
    assert after(fate, attempt) == Settlement(7, "failed", outcome=outcome, error="it said so")


def test_what_needs_no_mail_is_delivered_with_the_reason() -> None:
    assert without_mail(7, "never") == Settlement(7, "delivered", outcome="never")


def test_what_was_not_tried_is_due_again_at_once() -> None:
    given_back = handed_back(7)
    assert (given_back.status, given_back.wait, given_back.handed_back) == ("pending", None, True)
