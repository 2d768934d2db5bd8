"""What becomes of a job whose worker was lost."""

from datetime import timedelta
from typing import Any

import pytest

from flatearth_pipelines.queue.backoff import Fixed
from flatearth_pipelines.queue.handlers import Guarantee, Handler, NoPayload
from flatearth_pipelines.queue.settlement import Orphan, Verdict, verdict

SECOND = timedelta(seconds=1)


def orphan(**values: Any) -> Orphan:
    defaults: dict[str, Any] = {
        "id": 1,
        "handler": "call",
        "attempts": 1,
        "max_attempts": None,
        "backoff": None,
        "stop_reason": None,
    }
    return Orphan(**defaults | values)


def handler(guarantee: Guarantee = Guarantee.AT_LEAST_ONCE, **options: Any) -> Handler:
    defaults: dict[str, Any] = {"max_attempts": 3, "backoff": Fixed(7 * SECOND)}
    return Handler("call", NoPayload, lambda *_: None, guarantee, **defaults | options)


@pytest.mark.parametrize("guarantee", [Guarantee.AT_LEAST_ONCE, Guarantee.TRANSACTIONAL])
@pytest.mark.parametrize("attempts", [1, 2])
def test_it_runs_again_after_its_handlers_backoff(guarantee: Guarantee, attempts: int) -> None:
    assert verdict(orphan(attempts=attempts), handler(guarantee), 0) == Verdict("The worker was lost", 7 * SECOND)


def test_its_own_backoff_comes_before_its_handlers() -> None:
    backoff = {"kind": "list", "seconds": [1, 2]}

    assert verdict(orphan(attempts=2, backoff=backoff), handler(), 0).retry_in == 2 * SECOND


def test_the_default_backoff_is_spread_by_chance() -> None:
    default = Handler("call", NoPayload, lambda *_: None)

    assert verdict(orphan(), default, 0.5).retry_in == 7.5 * SECOND


def test_it_is_dead_after_its_handlers_last_attempt() -> None:
    assert verdict(orphan(attempts=3), handler(), 0) == Verdict("The worker was lost in attempt 3 of 3", None)


@pytest.mark.parametrize(("max_attempts", "is_dead"), [(1, True), (2, True), (3, False), (25, False)])
def test_its_own_number_of_attempts_comes_before_its_handlers(max_attempts: int, *, is_dead: bool) -> None:
    said = verdict(orphan(attempts=2, max_attempts=max_attempts), handler(max_attempts=1), 0)

    assert (said.retry_in is None) is is_dead


@pytest.mark.parametrize("max_attempts", [None, 25])
def test_at_most_once_is_dead_in_its_first_attempt_whatever_the_job_says(max_attempts: int | None) -> None:
    said = verdict(orphan(max_attempts=max_attempts), handler(Guarantee.AT_MOST_ONCE), 0)

    assert said == Verdict("The worker was lost, and this handler runs at most once", None)


@pytest.mark.parametrize(("attempts", "retry_in"), [(1, 0 * SECOND), (4, 0 * SECOND), (5, None)])
def test_an_unknown_handler_has_five_attempts_without_a_wait(attempts: int, retry_in: timedelta | None) -> None:
    assert verdict(orphan(attempts=attempts), None, 0).retry_in == retry_in


def test_an_unknown_handlers_job_keeps_to_its_own_backoff_and_attempts() -> None:
    told = orphan(attempts=6, max_attempts=7, backoff={"kind": "fixed", "seconds": 9})

    assert verdict(told, None, 0).retry_in == 9 * SECOND
    assert verdict(told._replace(attempts=7), None, 0).retry_in is None
