"""What becomes of a delivery after an attempt."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flatearth_pipelines.webhooks.outcome import Answer, Code
from flatearth_pipelines.webhooks.settlement import MOST_ATTEMPTS, WAITS, Settlement, handed_back, settled

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)

FINAL = [Code.GONE, Code.BAD_URL, Code.EVENT_GONE]
PASSING = [code for code in Code if code not in {Code.OK, *FINAL}]


def after(
    code: Code = Code.HTTP_5XX, attempt: int = 1, *, jitter: float = 0.0, retry_after: timedelta | None = None
) -> Settlement:
    return settled(7, attempt, Answer(code, NOON, 12, retry_after=retry_after), jitter)


@pytest.mark.parametrize("attempt", [1, 8, 9])
def test_what_was_answered_with_success_is_completed_on_the_last_attempt_too(attempt: int) -> None:
    assert after(Code.OK, attempt, retry_after=SECOND) == Settlement(7, "completed")


@pytest.mark.parametrize(
    ("attempt", "wait"),
    [
        (1, timedelta(seconds=5)),
        (2, timedelta(minutes=5)),
        (3, timedelta(minutes=30)),
        (4, timedelta(hours=2)),
        (5, timedelta(hours=5)),
        (6, timedelta(hours=10)),
        (7, timedelta(hours=10)),
    ],
)
def test_each_wait_is_a_fifth_shorter_at_least_and_a_fifth_longer_at_most(attempt: int, wait: timedelta) -> None:
    assert after(attempt=attempt) == Settlement(7, "pending", wait=wait)
    assert after(attempt=attempt, jitter=-1.0).wait == wait * 0.8
    assert after(attempt=attempt, jitter=1.0).wait == wait * 1.2


def test_there_is_a_wait_between_any_two_attempts() -> None:
    assert len(WAITS) == MOST_ATTEMPTS - 1


@pytest.mark.parametrize("code", PASSING)
def test_every_other_failure_is_tried_again(code: Code) -> None:
    assert after(code, 7).state == "pending"


@pytest.mark.parametrize("code", PASSING)
@pytest.mark.parametrize("attempt", [8, 9])
def test_from_the_eighth_attempt_on_nothing_is_tried_any_more(code: Code, attempt: int) -> None:
    assert after(code, attempt, retry_after=SECOND) == Settlement(7, "errored")


@pytest.mark.parametrize("code", FINAL)
@pytest.mark.parametrize("attempt", [1, 8])
def test_an_endpoint_that_is_gone_a_bad_url_and_an_event_that_is_gone_end_it_at_once(code: Code, attempt: int) -> None:
    assert after(code, attempt, retry_after=SECOND) == Settlement(7, "errored")


MINUTES_4, MINUTES_5, MINUTES_6, MINUTES_8, MINUTES_10, MINUTES_12 = (
    timedelta(minutes=minutes) for minutes in (4, 5, 6, 8, 10, 12)
)


@pytest.mark.parametrize(
    ("jitter", "retry_after", "wait"),
    [
        (0.0, timedelta(0), MINUTES_5),
        (0.0, MINUTES_5 - SECOND, MINUTES_5),
        (0.0, MINUTES_5, MINUTES_5),
        (0.0, MINUTES_5 + SECOND, MINUTES_5 + SECOND),
        (0.0, MINUTES_10 - SECOND, MINUTES_10 - SECOND),
        (0.0, MINUTES_10, MINUTES_10),
        (0.0, MINUTES_10 + SECOND, MINUTES_10),
        (0.0, timedelta(days=1), MINUTES_10),
        (-1.0, MINUTES_4 + SECOND, MINUTES_4 + SECOND),
        (-1.0, timedelta(days=1), MINUTES_8),
        (1.0, MINUTES_5, MINUTES_6),
        (1.0, timedelta(days=1), MINUTES_12),
    ],
)
def test_retry_after_is_honoured_from_the_wait_itself_to_twice_as_long(
    jitter: float, retry_after: timedelta, wait: timedelta
) -> None:
    assert after(attempt=2, jitter=jitter, retry_after=retry_after) == Settlement(7, "pending", wait=wait)


@pytest.mark.parametrize("code", PASSING)
def test_retry_after_is_honoured_whatever_the_failure(code: Code) -> None:
    assert after(code, 2, retry_after=MINUTES_6).wait == MINUTES_6


@given(
    st.sampled_from(Code),
    st.integers(1, 12),
    st.floats(-1, 1),
    st.none() | st.timedeltas(timedelta(0), timedelta(days=365)),
)
def test_a_wait_is_never_shorter_than_planned_nor_longer_than_twice_that_and_only_what_is_pending_waits(
    code: Code, attempt: int, jitter: float, retry_after: timedelta | None
) -> None:
    end = after(code, attempt, jitter=jitter, retry_after=retry_after)
    assert (end.wait is not None) == (end.state == "pending")
    if end.wait is not None:
        planned = after(code, attempt, jitter=jitter).wait
        assert planned is not None
        assert WAITS[attempt - 1] * 0.8 <= planned <= WAITS[attempt - 1] * 1.2
        assert planned <= end.wait <= 2 * planned
    assert attempt < MOST_ATTEMPTS or end.state != "pending"


def test_what_was_not_tried_is_due_again_at_once_and_does_not_count() -> None:
    assert handed_back(7) == Settlement(7, "pending", wait=None, handed_back=True)
