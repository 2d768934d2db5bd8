"""Periods as people write them: in days."""

from decimal import Decimal, DecimalException

from flatearth_pipelines.errors import WrongUsage

MILLISECONDS_A_DAY = 86_400_000

_MOST_MS = 2**63 - 1


def period_ms(days: str) -> int:
    """The period in milliseconds; a fraction of a day is fine as long as it is whole milliseconds.

    Raises:
        WrongUsage: not a number, not positive, finer than a millisecond, or more than Postgres's bigint holds.
    """
    try:
        milliseconds = Decimal(days) * MILLISECONDS_A_DAY
    except DecimalException:
        milliseconds = Decimal("NaN")
    if milliseconds.is_finite() and 0 < milliseconds < _MOST_MS + 1:
        nearest = milliseconds.to_integral_value()
        # A day has 27 as a factor, so that `in_days` cannot be exact: the last digits that it gave are let pass.
        milliseconds = nearest if abs(milliseconds - nearest) <= nearest * Decimal("1e-24") else milliseconds
    if not milliseconds.is_finite() or not 0 < milliseconds <= _MOST_MS or milliseconds != int(milliseconds):
        raise WrongUsage(f"{days!r} is not a period: it takes a positive number of days, such as 30 or 0.5")
    return int(milliseconds)


def in_days(milliseconds: int) -> str:
    """The period as `period_ms` takes it: exact, without trailing zeros."""
    return f"{(Decimal(milliseconds) / MILLISECONDS_A_DAY).normalize():f}"
