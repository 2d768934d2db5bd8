"""When a window ends: its frequency, the clocks that change, quiet hours and quiet days."""

from datetime import UTC, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flatearth_pipelines.contract import call
from flatearth_pipelines.errors import WrongUsage
from flatearth_pipelines_tests.factories import MICROSECOND

HOUR = timedelta(hours=1)
BERLIN = ZoneInfo("Europe/Berlin")
"""Its clocks go from 02:00 to 03:00 on 29 March 2026, and from 03:00 back to 02:00 on 25 October 2026."""

SUNDAY = datetime(2026, 11, 22, 12, tzinfo=UTC)


def end(
    connection: sa.Connection, starts_at: datetime, frequency: str = "every_30_minutes", **choices: Any
) -> datetime:
    """What the SQL function says, for somebody in UTC without quiet times unless told otherwise."""
    said: datetime = call(
        connection,
        sa.func.flatearth.bundle_end(
            starts_at,
            frequency,
            sa.cast(choices.get("zone", "UTC"), sa.Text),
            sa.cast(choices.get("quiet_from"), sa.Time),
            sa.cast(choices.get("quiet_until"), sa.Time),
            sa.cast(choices.get("quiet_days", []), sa.ARRAY(sa.SmallInteger)),
        ),
    )
    return said


def berlin(*moment: int, fold: int = 0) -> datetime:
    return datetime(*moment, fold=fold, tzinfo=BERLIN)  # type: ignore[misc, arg-type]  # year, month, day, hour, minute


# Frequencies


@pytest.mark.parametrize(
    ("frequency", "period"),
    [
        ("every_30_minutes", timedelta(minutes=30)),
        ("every_few_hours", 4 * HOUR),
        ("daily", 24 * HOUR),
        ("weekly", 7 * 24 * HOUR),
    ],
)
def test_a_window_is_as_long_as_its_frequency_says(
    connection: sa.Connection, frequency: str, period: timedelta
) -> None:
    for starts_at in (SUNDAY, SUNDAY + MICROSECOND, SUNDAY + 11 * HOUR + timedelta(minutes=59)):
        assert end(connection, starts_at, frequency) == starts_at + period


def test_never_has_no_window(connection: sa.Connection) -> None:
    assert end(connection, SUNDAY, "never") is None


@pytest.mark.parametrize("frequency", ["hourly", "", "Daily"])
def test_another_frequency_is_refused(connection: sa.Connection, frequency: str) -> None:
    with pytest.raises(WrongUsage, match="not never, every_30_minutes, every_few_hours, daily or weekly"):
        end(connection, SUNDAY, frequency)


# The clocks that change


@pytest.mark.parametrize(
    ("frequency", "starts_at", "ends_at", "hours"),
    [
        ("daily", berlin(2026, 3, 28, 12), berlin(2026, 3, 29, 12), 23),
        ("weekly", berlin(2026, 3, 25, 12), berlin(2026, 4, 1, 12), 7 * 24 - 1),
        ("daily", berlin(2026, 10, 24, 12), berlin(2026, 10, 25, 12), 25),
        ("weekly", berlin(2026, 10, 21, 12), berlin(2026, 10, 28, 12), 7 * 24 + 1),
        ("daily", berlin(2026, 3, 29, 12), berlin(2026, 3, 30, 12), 24),
    ],
)
def test_a_day_or_week_in_which_the_clocks_change_is_an_hour_shorter_or_longer(
    connection: sa.Connection, frequency: str, starts_at: datetime, ends_at: datetime, hours: int
) -> None:
    assert end(connection, starts_at, frequency, zone="Europe/Berlin") == ends_at
    assert ends_at.astimezone(UTC) - starts_at.astimezone(UTC) == hours * HOUR


@pytest.mark.parametrize("frequency", ["every_30_minutes", "every_few_hours"])
@pytest.mark.parametrize("starts_at", [berlin(2026, 3, 29, 1, 45), berlin(2026, 10, 25, 1, 45)])
def test_half_an_hour_and_four_hours_are_as_long_when_the_clocks_change(
    connection: sa.Connection, frequency: str, starts_at: datetime
) -> None:
    there, in_utc = (end(connection, starts_at, frequency, zone=zone) for zone in ("Europe/Berlin", "UTC"))
    assert there == in_utc


def test_a_day_that_would_end_in_the_hour_that_is_skipped_ends_as_long_after_the_change(
    connection: sa.Connection,
) -> None:
    assert end(connection, berlin(2026, 3, 28, 2, 30), "daily", zone="Europe/Berlin") == berlin(2026, 3, 29, 3, 30)


def test_a_day_that_would_end_in_the_hour_that_comes_twice_ends_in_the_second(connection: sa.Connection) -> None:
    ends_at = end(connection, berlin(2026, 10, 24, 2, 30), "daily", zone="Europe/Berlin")
    assert ends_at == berlin(2026, 10, 25, 2, 30, fold=1).astimezone(UTC)


@pytest.mark.parametrize("zone", ["Mars/Olympus", "", "Europe/Berlin; drop table users", None])
def test_a_zone_that_nobody_knows_counts_as_utc(connection: sa.Connection, zone: str | None) -> None:
    before_the_change = berlin(2026, 3, 28, 12).astimezone(UTC)
    assert end(connection, before_the_change, "daily", zone=zone) == before_the_change + 24 * HOUR


# Quiet hours

NIGHT: dict[str, Any] = {"quiet_from": time(22), "quiet_until": time(7, 30)}
LUNCH: dict[str, Any] = {"quiet_from": time(12), "quiet_until": time(13)}


@pytest.mark.parametrize(
    ("would_end", "ends"),
    [
        ((2026, 11, 22, 21, 59), (2026, 11, 22, 21, 59)),
        ((2026, 11, 22, 22, 0), (2026, 11, 23, 7, 30)),
        ((2026, 11, 22, 23, 59), (2026, 11, 23, 7, 30)),
        ((2026, 11, 23, 0, 0), (2026, 11, 23, 7, 30)),
        ((2026, 11, 23, 7, 29), (2026, 11, 23, 7, 30)),
        ((2026, 11, 23, 7, 30), (2026, 11, 23, 7, 30)),
    ],
)
def test_a_window_that_ends_in_quiet_hours_over_midnight_ends_with_them(
    connection: sa.Connection, would_end: tuple[int, ...], ends: tuple[int, ...]
) -> None:
    starts_at = berlin(*would_end) - timedelta(minutes=30)
    assert end(connection, starts_at, zone="Europe/Berlin", **NIGHT) == berlin(*ends)


@pytest.mark.parametrize(
    ("would_end", "ends"), [((11, 59), (11, 59)), ((12, 0), (13, 0)), ((12, 59), (13, 0)), ((13, 0), (13, 0))]
)
def test_a_window_that_ends_in_quiet_hours_within_a_day_ends_with_them(
    connection: sa.Connection, would_end: tuple[int, int], ends: tuple[int, int]
) -> None:
    starts_at = berlin(2026, 11, 22, *would_end) - 4 * HOUR
    ends_at = end(connection, starts_at, "every_few_hours", zone="Europe/Berlin", **LUNCH)
    assert ends_at == berlin(2026, 11, 22, *ends)


def test_the_instant_before_quiet_hours_is_not_quiet_and_neither_is_the_one_at_their_end(
    connection: sa.Connection,
) -> None:
    for would_end, ends in (
        (SUNDAY - MICROSECOND, SUNDAY - MICROSECOND),
        (SUNDAY, SUNDAY + HOUR),
        (SUNDAY + HOUR - MICROSECOND, SUNDAY + HOUR),
        (SUNDAY + HOUR, SUNDAY + HOUR),
    ):
        assert end(connection, would_end - timedelta(minutes=30), **LUNCH) == ends


def test_quiet_hours_in_a_zone_that_nobody_knows_are_those_of_utc(connection: sa.Connection) -> None:
    starts_at = SUNDAY - timedelta(minutes=30)
    assert end(connection, starts_at, zone="Mars/Olympus", **LUNCH) == SUNDAY + HOUR


def test_quiet_hours_that_end_in_the_hour_that_is_skipped_end_after_the_change(connection: sa.Connection) -> None:
    quiet: dict[str, Any] = {"quiet_from": time(22), "quiet_until": time(2, 30)}
    assert end(connection, berlin(2026, 3, 28, 22), zone="Europe/Berlin", **quiet) == berlin(2026, 3, 29, 3, 30)


def test_quiet_hours_that_end_in_the_hour_that_comes_twice_end_in_the_second(connection: sa.Connection) -> None:
    quiet: dict[str, Any] = {"quiet_from": time(22), "quiet_until": time(2, 30)}
    ends_at = end(connection, berlin(2026, 10, 24, 22), zone="Europe/Berlin", **quiet)
    assert ends_at == berlin(2026, 10, 25, 2, 30, fold=1).astimezone(UTC)


# Quiet days


def test_a_window_that_ends_on_quiet_days_ends_at_the_first_midnight_after_them(connection: sa.Connection) -> None:
    ends_at = end(connection, berlin(2026, 11, 20, 12), "daily", zone="Europe/Berlin", quiet_days=[6, 7])
    assert ends_at == berlin(2026, 11, 23, 0)


def test_the_last_instant_before_a_quiet_day_is_not_quiet_and_neither_is_the_first_after_it(
    connection: sa.Connection,
) -> None:
    saturday = datetime(2026, 11, 21, tzinfo=UTC)
    half_an_hour = timedelta(minutes=30)
    assert end(connection, saturday - half_an_hour - MICROSECOND, quiet_days=[6]) == saturday - MICROSECOND
    assert end(connection, saturday - half_an_hour, quiet_days=[6]) == saturday + 24 * HOUR
    assert end(connection, saturday + 23 * HOUR + half_an_hour, quiet_days=[6]) == saturday + 24 * HOUR


def test_after_quiet_days_come_the_quiet_hours(connection: sa.Connection) -> None:
    ends_at = end(connection, berlin(2026, 11, 20, 12), "daily", zone="Europe/Berlin", quiet_days=[6, 7], **NIGHT)
    assert ends_at == berlin(2026, 11, 23, 7, 30)


def test_quiet_hours_that_end_on_a_quiet_day_end_after_it_and_its_own_quiet_hours(connection: sa.Connection) -> None:
    friday_night = berlin(2026, 11, 20, 23)
    assert end(connection, friday_night, zone="Europe/Berlin", quiet_days=[6], **NIGHT) == berlin(2026, 11, 22, 7, 30)


def test_six_quiet_days_and_all_but_a_microsecond_of_the_seventh_leave_that(connection: sa.Connection) -> None:
    nearly_all: dict[str, Any] = {
        "quiet_from": time(0),
        "quiet_until": time(23, 59, 59, 999_999),
        "quiet_days": [1, 2, 3, 4, 5, 6],
    }
    assert end(connection, SUNDAY + 12 * HOUR, **nearly_all) == SUNDAY + (7 * 24 + 12) * HOUR - MICROSECOND


# Anything


@st.composite
def quiet_times(draw: st.DrawFn) -> dict[str, Any]:
    quiet_from, quiet_until = draw(st.tuples(st.times(), st.times()).filter(lambda ends: ends[0] != ends[1]))
    hours = {"quiet_from": quiet_from, "quiet_until": quiet_until} if draw(st.booleans()) else {}
    return {**hours, "quiet_days": draw(st.lists(st.integers(1, 7), unique=True, max_size=6))}


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    starts_at=st.datetimes(datetime(2026, 1, 1), datetime(2027, 12, 31), timezones=st.just(UTC)),  # noqa: DTZ001 - see timezones
    frequency=st.sampled_from(["every_30_minutes", "every_few_hours", "daily", "weekly"]),
    zone=st.sampled_from(
        ["UTC", "Europe/Berlin", "America/St_Johns", "Asia/Kathmandu", "Africa/Cairo", "Pacific/Apia"]
    ),
    quiet=quiet_times(),
)
def test_quiet_times_only_ever_put_an_end_off_and_to_a_moment_that_is_not_quiet(
    connection: sa.Connection, starts_at: datetime, frequency: str, zone: str, quiet: dict[str, Any]
) -> None:
    without = end(connection, starts_at, frequency, zone=zone)
    ends_at = end(connection, starts_at, frequency, zone=zone, **quiet)

    assert starts_at < without <= ends_at
    assert not is_quiet(ends_at.astimezone(ZoneInfo(zone)), **quiet)
    if ends_at > without:
        assert is_quiet(without.astimezone(ZoneInfo(zone)), **quiet)
    assert ends_at - without < timedelta(days=15)


def is_quiet(
    local: datetime, quiet_days: list[int], quiet_from: time | None = None, quiet_until: time | None = None
) -> bool:
    if local.isoweekday() in quiet_days:
        return True
    if quiet_from is None or quiet_until is None:
        return False
    if quiet_from < quiet_until:
        return quiet_from <= local.time() < quiet_until
    return local.time() >= quiet_from or local.time() < quiet_until
