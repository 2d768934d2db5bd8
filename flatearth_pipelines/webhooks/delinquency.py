"""When an endpoint is left alone, and when it is given up: the breaker's thresholds. docs/states.md draws it.

`delivery_storage.judge` applies them in one statement; a test holds that against a plain reading of these.
"""

from datetime import timedelta

OPENS_AFTER = 5
"""Failures in a row. Source: the product's specification."""

FIRST_WAIT = timedelta(minutes=1)
LONGEST_WAIT = timedelta(hours=1)
"""How long nothing is sent after the first time that it opens; twice as long after each probe that fails. Ours: at ten
failures in a row an hour has passed, a minute short of which nothing is disabled."""

DISABLES_AFTER = 10
DISABLES_LATER_THAN = timedelta(hours=1)
"""Failures in a row, the first of them longer ago than this, strictly. Source: Fizzy, the application whose ideas the
product follows."""


def wait(trips: int) -> timedelta:
    """How long the breaker stays open when it opens for the time that comes after so many, 0 for the first."""
    return min(FIRST_WAIT * (1 << min(trips, 32)), LONGEST_WAIT)


def is_delinquent(failures: int, failing_for: timedelta) -> bool:
    """Whether an endpoint is disabled after so many failures in a row, the first of them so long ago."""
    return failures >= DISABLES_AFTER and failing_for > DISABLES_LATER_THAN
