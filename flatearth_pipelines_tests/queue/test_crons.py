"""When recurring work is due, by the clocks of a place."""

import contextlib
import operator
import re
import zoneinfo
from collections import Counter
from datetime import UTC, datetime, time, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flatearth_pipelines.errors import WrongUsage
from flatearth_pipelines.queue.crons import NAMED, WrongPattern, next_fire

MICROSECOND = timedelta(microseconds=1)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)

SUNDAY_NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)

ZONES = sorted(name for name in zoneinfo.available_timezones() if name[0].isupper())

zones = st.sampled_from(ZONES)
instants = st.datetimes(min_value=datetime(2026, 1, 1), max_value=datetime(2500, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - hypothesis adds the zone


def fires(pattern: str, zone: str, after: str, until: str) -> list[str]:
    """What the zone's clocks show at each run within those local times, with the offset from UTC."""
    place = ZoneInfo(zone)
    instant, end = (datetime.fromisoformat(text).replace(tzinfo=place).astimezone(UTC) for text in (after, until))
    shown = []
    while (instant := next_fire(pattern, zone, instant)) <= end:
        shown.append(f"{instant.astimezone(place):%d %H:%M %z}")
    return shown


# --------------------------------------------------------------------------------------------------- patterns


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("hourly", "2026-11-22T13:00"),
        ("daily", "2026-11-23T00:00"),
        ("daily_3am", "2026-11-23T03:00"),
        ("daily_9am", "2026-11-23T09:00"),
        ("weekdays_9am", "2026-11-23T09:00"),
        ("business_hours", "2026-11-23T09:00"),
        ("weekly", "2026-11-23T00:00"),
        ("monthly", "2026-12-01T00:00"),
        ("yearly", "2027-01-01T00:00"),
        ("30 12 * * *", "2026-11-22T12:30"),
        ("*/20 * * * *", "2026-11-22T12:20"),
        ("0 9 * * 1-5", "2026-11-23T09:00"),
        ("0 9 * * MON,Wed", "2026-11-23T09:00"),
        ("0 9 31 * *", "2026-12-31T09:00"),
        ("0 9 L * *", "2026-11-30T09:00"),
        ("0 9 * * 5#2", "2026-12-11T09:00"),
        ("0 9 25 * 2", "2026-11-24T09:00"),
    ],
)
def test_a_pattern_fires_next(pattern: str, expected: str) -> None:
    assert next_fire(pattern, "UTC", SUNDAY_NOON) == datetime.fromisoformat(expected + "+00:00")


def test_every_name_is_a_pattern() -> None:
    assert all(next_fire(name, "UTC", SUNDAY_NOON) == next_fire(NAMED[name], "UTC", SUNDAY_NOON) for name in NAMED)


def test_business_hours_are_each_full_hour_from_9_to_17_on_monday_to_friday() -> None:
    week = fires("business_hours", "UTC", "2026-11-22T00:00", "2026-11-29T23:59")

    assert week == [f"{day} {hour:02}:00 +0000" for day in range(23, 28) for hour in range(9, 18)]


def test_weekdays_9am_leaves_out_the_weekend() -> None:
    friday_morning = datetime(2026, 11, 20, 9, tzinfo=UTC)

    assert next_fire("weekdays_9am", "UTC", friday_morning) == friday_morning + 3 * DAY


def test_a_pattern_fires_strictly_after() -> None:
    at_nine = datetime(2026, 11, 23, 9, tzinfo=UTC)

    assert next_fire("daily_9am", "UTC", at_nine - MICROSECOND) == at_nine
    assert next_fire("daily_9am", "UTC", at_nine) == at_nine + DAY
    assert next_fire("daily_9am", "UTC", at_nine + MICROSECOND) == at_nine + DAY


@pytest.mark.parametrize("pattern", ["daily", "every hour"])
def test_an_instant_is_returned_in_utc(pattern: str) -> None:
    after = SUNDAY_NOON.astimezone(ZoneInfo("Asia/Kolkata"))

    assert next_fire(pattern, "Asia/Kolkata", after, anchor=after).tzinfo is UTC


@pytest.mark.parametrize("pattern", ["daily", "*/7 * * * *", "every 3 hours"])
def test_after_any_downtime_the_next_run_is_ahead(pattern: str) -> None:
    last = SUNDAY_NOON - 400 * DAY

    assert SUNDAY_NOON < next_fire(pattern, "UTC", SUNDAY_NOON, anchor=last) <= SUNDAY_NOON + DAY


# ------------------------------------------------------------------------------------------------------ zones


@pytest.mark.parametrize(
    ("zone", "in_january", "in_july"),
    [
        ("UTC", 9, 9),
        ("Europe/Berlin", 8, 7),
        ("America/New_York", 14, 13),
        ("Asia/Tokyo", 0, 0),
    ],
)
def test_a_time_is_the_zone_s(zone: str, in_january: int, in_july: int) -> None:
    assert next_fire("daily_9am", zone, datetime(2026, 1, 15, tzinfo=UTC) - SECOND).hour == in_january
    assert next_fire("daily_9am", zone, datetime(2026, 7, 15, tzinfo=UTC) - SECOND).hour == in_july


@pytest.mark.parametrize(
    "zone",
    [
        "",
        " ",
        ".",
        "..",
        "../etc/passwd",
        "/etc/passwd",
        "/usr/share/zoneinfo/UTC",
        "Europe",
        "Europe/",
        "Europe/Atlantis",
        "Europe/Berlin ",
        "Europe/Berlin/x",
        "Europe/Ber\0lin",
        "\ud800",
        "+02:00",
        "UTC+2",
        "localtime",
        "right/UTC",
        "posixrules",
        "__init__.py",
        "zone.tab",
        "X" * 5_000,
    ],
)
@pytest.mark.parametrize("pattern", ["daily", "every hour"])
def test_what_is_no_zone_is_refused_in_one_line(pattern: str, zone: str) -> None:
    with pytest.raises(
        WrongPattern, match=r"There is no time zone '.*it takes a name such as Europe/Berlin"
    ) as refused:
        next_fire(pattern, zone, SUNDAY_NOON)

    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 500


# ------------------------------------------------------------------------------------- when the clocks change

BERLIN_SPRING = ("Europe/Berlin", "2026-03-28T01:00", "2026-03-30T23:00")  # on the 29th 02:00 is 03:00
BERLIN_AUTUMN = ("Europe/Berlin", "2026-10-24T01:00", "2026-10-26T23:00")  # on the 25th 03:00 is 02:00
NEW_YORK_SPRING = ("America/New_York", "2026-03-07T00:30", "2026-03-09T23:00")  # on the 8th 02:00 is 03:00
NEW_YORK_AUTUMN = ("America/New_York", "2026-10-31T00:30", "2026-11-02T23:00")  # on the 1st 02:00 is 01:00
LORD_HOWE_SPRING = ("Australia/Lord_Howe", "2026-10-03T00:30", "2026-10-05T23:00")  # on the 4th 02:00 is 02:30
LORD_HOWE_AUTUMN = ("Australia/Lord_Howe", "2026-04-04T00:30", "2026-04-06T23:00")  # on the 5th 02:00 is 01:30
HAVANA_SPRING = ("America/Havana", "2026-03-06T23:30", "2026-03-09T23:00")  # on the 8th 00:00 is 01:00
HAVANA_AUTUMN = ("America/Havana", "2026-10-30T23:30", "2026-11-02T20:00")  # on the 1st 01:00 is 00:00
NUUK_SPRING = ("America/Nuuk", "2026-03-27T12:00", "2026-03-30T12:00")  # on the 28th 23:00 is midnight


@pytest.mark.parametrize(
    ("change", "pattern", "expected"),
    [
        (BERLIN_SPRING, "30 2 * * *", ["28 02:30 +0100", "29 03:00 +0200", "30 02:30 +0200"]),
        (BERLIN_SPRING, "0 2 * * *", ["28 02:00 +0100", "29 03:00 +0200", "30 02:00 +0200"]),
        (BERLIN_SPRING, "daily_3am", ["28 03:00 +0100", "29 03:00 +0200", "30 03:00 +0200"]),
        (BERLIN_AUTUMN, "30 2 * * *", ["24 02:30 +0200", "25 02:30 +0200", "26 02:30 +0100"]),
        (BERLIN_AUTUMN, "0 2 * * *", ["24 02:00 +0200", "25 02:00 +0200", "26 02:00 +0100"]),
        (BERLIN_AUTUMN, "daily_3am", ["24 03:00 +0200", "25 03:00 +0100", "26 03:00 +0100"]),
        (NEW_YORK_SPRING, "30 2 * * *", ["07 02:30 -0500", "08 03:00 -0400", "09 02:30 -0400"]),
        (NEW_YORK_AUTUMN, "30 1 * * *", ["31 01:30 -0400", "01 01:30 -0400", "02 01:30 -0500"]),
        (NEW_YORK_AUTUMN, "0 2 * * *", ["31 02:00 -0400", "01 02:00 -0500", "02 02:00 -0500"]),
        (LORD_HOWE_SPRING, "15 2 * * *", ["03 02:15 +1030", "04 02:30 +1100", "05 02:15 +1100"]),
        (LORD_HOWE_SPRING, "30 2 * * *", ["03 02:30 +1030", "04 02:30 +1100", "05 02:30 +1100"]),
        (LORD_HOWE_AUTUMN, "45 1 * * *", ["04 01:45 +1100", "05 01:45 +1100", "06 01:45 +1030"]),
        (LORD_HOWE_AUTUMN, "0 2 * * *", ["04 02:00 +1100", "05 02:00 +1030", "06 02:00 +1030"]),
        (HAVANA_SPRING, "daily", ["07 00:00 -0500", "08 01:00 -0400", "09 00:00 -0400"]),
        (HAVANA_AUTUMN, "daily", ["31 00:00 -0400", "01 00:00 -0400", "02 00:00 -0500"]),
        (NUUK_SPRING, "30 23 * * *", ["27 23:30 -0200", "29 00:00 -0100", "29 23:30 -0100"]),
    ],
)
def test_a_daily_run_happens_right_after_the_gap_and_the_first_time_in_the_overlap(
    change: tuple[str, str, str], pattern: str, expected: list[str]
) -> None:
    assert fires(pattern, *change) == expected


@pytest.mark.parametrize(
    ("change", "pattern", "expected"),
    [
        (BERLIN_SPRING, "*/30 2 * * *", [2, 1, 2]),
        (BERLIN_AUTUMN, "*/30 2 * * *", [2, 2, 2]),
        (BERLIN_AUTUMN, "* 2 * * *", [60, 60, 60]),
        (BERLIN_AUTUMN, "0 1-4 * * *", [3, 4, 4]),  # from 01:00 on, exclusively
        (BERLIN_SPRING, "0 */12 * * *", [1, 2, 2]),
        (LORD_HOWE_AUTUMN, "*/15 1 * * *", [4, 4, 4]),
        (LORD_HOWE_SPRING, "*/15 2 * * *", [4, 2, 4]),
        (HAVANA_SPRING, "0 */12 * * *", [2, 2, 2]),
        (HAVANA_AUTUMN, "0 */12 * * *", [2, 2, 2]),
        (HAVANA_AUTUMN, "0 */24 * * *", [1, 1, 1]),
    ],
)
def test_several_runs_of_one_hour_are_not_lost_in_the_gap_and_not_doubled_in_the_overlap(
    change: tuple[str, str, str], pattern: str, expected: list[int]
) -> None:
    assert list(Counter(shown[:2] for shown in fires(pattern, *change)).values()) == expected


@pytest.mark.parametrize(
    ("change", "pattern", "expected"),
    [
        (BERLIN_SPRING, "30 2 * * 0", ["29 03:00 +0200"]),
        (BERLIN_AUTUMN, "30 2 * * 0", ["25 02:30 +0200"]),
        (NEW_YORK_SPRING, "30 2 * * 0", ["08 03:00 -0400"]),
        (NEW_YORK_AUTUMN, "30 1 * * 0", ["01 01:30 -0400"]),
        (LORD_HOWE_SPRING, "15 2 * * 0", ["04 02:30 +1100"]),
        (LORD_HOWE_AUTUMN, "45 1 * * 0", ["05 01:45 +1100"]),
        (BERLIN_SPRING, "weekly", ["30 00:00 +0200"]),
        (BERLIN_AUTUMN, "weekly", ["26 00:00 +0100"]),
        (LORD_HOWE_SPRING, "weekly", ["05 00:00 +1100"]),
        (BERLIN_SPRING, "30 2 29 3 *", ["29 03:00 +0200"]),
    ],
)
def test_a_weekly_or_yearly_run_on_the_day_of_the_change_happens_once(
    change: tuple[str, str, str], pattern: str, expected: list[str]
) -> None:
    assert fires(pattern, *change) == expected


@pytest.mark.parametrize("change", [BERLIN_SPRING, BERLIN_AUTUMN, LORD_HOWE_SPRING, LORD_HOWE_AUTUMN, NEW_YORK_AUTUMN])
def test_business_hours_are_nine_runs_a_day_in_the_weeks_around_a_change(change: tuple[str, str, str]) -> None:
    zone, day, _ = change
    first = datetime.fromisoformat(day)

    runs = fires("business_hours", zone, (first - 7 * DAY).isoformat(), (first + 7 * DAY).isoformat())

    assert set(Counter(run[:2] for run in runs).values()) == {9}
    assert len(runs) == 90
    assert {run[3:8] for run in runs} == {f"{hour:02}:00" for hour in range(9, 18)}


@pytest.mark.parametrize(
    ("change", "day", "hours"),
    [
        (BERLIN_SPRING, "29", 23),
        (BERLIN_AUTUMN, "25", 25),
        (NEW_YORK_SPRING, "08", 23),
        (NEW_YORK_AUTUMN, "01", 25),
        (LORD_HOWE_SPRING, "04", 23),
        (LORD_HOWE_AUTUMN, "05", 24),
    ],
)
@pytest.mark.parametrize("pattern", ["hourly", "0 0-23 * * *", "0 */1 * * *"])
def test_a_run_of_every_hour_happens_in_each_hour_that_passes(
    change: tuple[str, str, str], day: str, hours: int, pattern: str
) -> None:
    assert sum(shown.startswith(day) for shown in fires(pattern, *change)) == hours


@pytest.mark.parametrize("change", [BERLIN_SPRING, BERLIN_AUTUMN, LORD_HOWE_SPRING, LORD_HOWE_AUTUMN])
@pytest.mark.parametrize("minutes", [1, 15])
def test_a_run_of_every_few_minutes_goes_on_at_that_pace(change: tuple[str, str, str], minutes: int) -> None:
    zone, day, _ = change
    start = (datetime.fromisoformat(day) + DAY).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC) - HOUR
    instants = [start]
    while instants[-1] < start + 4 * HOUR:
        instants.append(next_fire(f"*/{minutes} * * * *", zone, instants[-1]))

    assert {later - sooner for sooner, later in pairwise(instants)} == {minutes * MINUTE}


@pytest.mark.parametrize(
    ("pattern", "zone", "in_the_second_of_the_two", "expected"),
    [
        ("30 2 * * *", "Europe/Berlin", "2026-10-25T01:10+00:00", "2026-10-26T01:30+00:00"),
        ("30 1 * * *", "America/New_York", "2026-11-01T06:10+00:00", "2026-11-02T06:30+00:00"),
        ("45 1 * * *", "Australia/Lord_Howe", "2026-04-04T15:10+00:00", "2026-04-05T15:15+00:00"),
    ],
)
def test_who_looks_in_the_second_of_two_equal_hours_does_not_see_the_first_again(
    pattern: str, zone: str, in_the_second_of_the_two: str, expected: str
) -> None:
    assert next_fire(pattern, zone, datetime.fromisoformat(in_the_second_of_the_two)) == datetime.fromisoformat(
        expected
    )


def test_a_run_that_the_gap_has_moved_is_not_repeated_by_who_looks_right_after_it() -> None:
    after_the_gap = datetime(2026, 3, 29, 1, tzinfo=UTC)

    assert next_fire("30 2 * * *", "Europe/Berlin", after_the_gap - MICROSECOND) == after_the_gap
    assert next_fire("30 2 * * *", "Europe/Berlin", after_the_gap) == datetime(2026, 3, 30, 0, 30, tzinfo=UTC)


# -------------------------------------------------------------------------------------------------- intervals


@pytest.mark.parametrize(
    ("pattern", "interval"),
    [
        ("every minute", MINUTE),
        ("every 1 minute", MINUTE),
        ("every 60 seconds", MINUTE),
        ("every 90 seconds", 90 * SECOND),
        ("every 5 minutes", 5 * MINUTE),
        ("every hour", HOUR),
        ("every 36 hours", 36 * HOUR),
        ("every day", DAY),
        ("every 366 days", 366 * DAY),
        ("every 31622400 seconds", 366 * DAY),
    ],
)
def test_an_interval_counts_from_where_it_starts(pattern: str, interval: timedelta) -> None:
    assert next_fire(pattern, "UTC", SUNDAY_NOON + SECOND) == SUNDAY_NOON + SECOND + interval


def test_an_interval_keeps_to_its_anchor() -> None:
    def after(passed: timedelta) -> timedelta:
        return next_fire("every 5 minutes", "UTC", SUNDAY_NOON + passed, anchor=SUNDAY_NOON) - SUNDAY_NOON

    assert after(timedelta()) == 5 * MINUTE
    assert after(5 * MINUTE - MICROSECOND) == 5 * MINUTE
    assert after(5 * MINUTE) == 10 * MINUTE
    assert after(12 * MINUTE) == 15 * MINUTE
    assert after(-MICROSECOND) == timedelta()


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Australia/Lord_Howe"])
@pytest.mark.parametrize("month", [3, 4, 10])
def test_an_interval_takes_as_long_when_the_clocks_change(zone: str, month: int) -> None:
    place = ZoneInfo(zone)
    anchor = datetime(2026, month, 1, tzinfo=place)

    for day in range(31):
        after = (anchor.astimezone(UTC) + day * DAY + HOUR).astimezone(place)
        assert next_fire("every day", zone, after, anchor=anchor) == anchor.astimezone(UTC) + (day + 1) * DAY
        assert next_fire("every day", zone, after) == after.astimezone(UTC) + DAY


@pytest.mark.parametrize(
    "pattern",
    [
        "every second",
        "every 59 seconds",
        "every 0 minutes",
        "every 367 days",
        "every 8785 hours",
        "every 999999999 days",
    ],
)
def test_an_interval_below_a_minute_or_beyond_a_year_is_refused(pattern: str) -> None:
    with pytest.raises(WrongPattern, match=f"'{pattern}' is not an interval of a minute to 366 days"):
        next_fire(pattern, "UTC", SUNDAY_NOON)


# ------------------------------------------------------------------------------------- what cannot be followed


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        " ",
        "rubbish",
        "@reboot",
        "@daily",
        "Daily",
        "* * * *",
        "* * * * * *",
        "*/5 * * * * *",
        "0 * * * * *",
        "60 * * * *",
        "* 24 * * *",
        "0 0 0 * *",
        "0 0 32 * *",
        "0 0 * 13 *",
        "0 0 * * 8",
        "-1 * * * *",
        "5-1 * * * *",
        "*/0 * * * *",
        "1,,2 * * * *",
        "1.5 * * * *",
        "٣ * * * *",
        "every",
        "every 5",
        "every -5 minutes",
        "every 1.5 hours",
        "every ٣ minutes",
        "every 5 fortnights",
        "every 5 minutes ",
        "every 99999999999999999999 hours",
        "0 0 30 2 *",
        "0 0 31 4,6,9,11 *",
        "0 0 * * *\0",
        "\ud800 * * * *",
        f"*/{'9' * 5_000} * * * *",
        "0," * 50_000 + "0 * * * *",
    ],
)
def test_what_is_no_pattern_or_never_fires_is_refused_in_one_line(pattern: str) -> None:
    with pytest.raises(WrongPattern, match=r"is no pattern that ever fires.*it takes five cron fields") as refused:
        next_fire(pattern, "Europe/Berlin", SUNDAY_NOON)

    assert isinstance(refused.value, WrongUsage)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 500


def test_every_minute_of_an_hour_may_be_listed() -> None:
    listed = ",".join(map(str, range(60)))

    assert next_fire(f"{listed} * * * *", "UTC", SUNDAY_NOON) == SUNDAY_NOON + MINUTE


# ------------------------------------------------------------------------------------------- rare and far days


@pytest.mark.parametrize(
    ("pattern", "after", "expected"),
    [
        ("0 0 29 2 *", 2026, 2028),
        ("0 0 29 2 *", 2097, 2104),
        ("0 0 * 2 1#5", 2097, 2112),  # a fifth Monday in February
    ],
)
def test_the_29_of_february_waits_for_a_leap_year(pattern: str, after: int, expected: int) -> None:
    fire = next_fire(pattern, "UTC", datetime(after, 1, 1, tzinfo=UTC))

    assert fire == datetime(expected, 2, 29, tzinfo=UTC)


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "Pacific/Niue"])
@pytest.mark.parametrize("pattern", ["yearly", "0 0 29 2 *", "every 366 days"])
def test_before_the_year_10000_there_is_no_next_run_any_more(pattern: str, zone: str) -> None:
    last_minute = datetime(9999, 12, 31, 23, 59, tzinfo=UTC)

    with pytest.raises(WrongPattern, match=re.escape(f"{pattern!r} never fires again")):
        next_fire(pattern, zone, last_minute)


def test_a_year_far_ahead_has_its_runs() -> None:
    assert fires("daily_9am", "Europe/Berlin", "9998-07-01T00:00", "9998-07-02T12:00") == [
        "01 09:00 +0200",
        "02 09:00 +0200",
    ]


# ------------------------------------------------------------------------------------------------- properties


@settings(max_examples=40)
@given(zone=zones, year=st.integers(2026, 2499), at=st.times())
@example(zone="Europe/Berlin", year=2026, at=time(2, 30))
@example(zone="America/New_York", year=2026, at=time(1, 30))
@example(zone="Australia/Lord_Howe", year=2026, at=time(1, 45))
@example(zone="Antarctica/Troll", year=2026, at=time(1))
@example(zone="America/Nuuk", year=2026, at=time(23, 30))
@example(zone="Egypt", year=2026, at=time(0))
def test_a_daily_run_happens_once_on_every_day_of_a_year(zone: str, year: int, at: time) -> None:
    place, at = ZoneInfo(zone), at.replace(second=0, microsecond=0)
    pattern = f"{at.minute} {at.hour} * * *"
    instant = next_fire(pattern, zone, datetime(year - 1, 12, 31, 23, 59, 59, tzinfo=place))
    runs = []
    while (local := instant.astimezone(place)).year == year:
        runs.append(local)
        instant = next_fire(pattern, zone, instant)

    days = Counter(local.date() for local in runs if local.time() == at)
    for local in runs:
        if local.time() != at:  # a gap ends here: it stands for a time within it
            before = (local.astimezone(UTC) - MICROSECOND).astimezone(place)
            meant = before.replace(hour=at.hour, minute=at.minute, second=0, microsecond=0, tzinfo=None)
            if meant < before.replace(tzinfo=None):  # the gap goes over midnight
                meant += timedelta(days=1)
            assert before.replace(tzinfo=None) < meant < local.replace(tzinfo=None)
            days[meant.date()] += 1

    assert set(days.values()) == {1}
    assert len(days) == (datetime(year + 1, 1, 1, tzinfo=UTC) - datetime(year, 1, 1, tzinfo=UTC)).days


def fields(least: int, most: int) -> st.SearchStrategy[str]:
    number = st.integers(least, most)
    span = st.tuples(number, number).map(lambda pair: f"{min(pair)}-{max(pair)}")
    step = st.tuples(st.one_of(st.just("*"), span), st.integers(1, 40)).map(lambda pair: f"{pair[0]}/{pair[1]}")
    listed = st.lists(number, min_size=1, max_size=3).map(lambda numbers: ",".join(map(str, numbers)))
    return st.one_of(st.just("*"), listed, span, step)


patterns = st.one_of(
    st.tuples(fields(0, 59), fields(0, 23), fields(1, 31), fields(1, 12), fields(0, 7)).map(" ".join),
    st.tuples(fields(0, 59), fields(0, 4)).map(lambda pair: f"{pair[0]} {pair[1]} * * *"),
    st.sampled_from(sorted(NAMED)),
    st.integers(60, 86_400).map("every {} seconds".format),
)
around_changes = st.sampled_from(
    [datetime(2026, 3, 29, 1, tzinfo=UTC), datetime(2026, 10, 25, 1, tzinfo=UTC), datetime(2026, 4, 4, 15, tzinfo=UTC)]
)
near_changes = st.builds(operator.add, around_changes, st.timedeltas(-2 * HOUR, 2 * HOUR))


@settings(max_examples=300)
@given(
    pattern=patterns,
    zone=st.one_of(st.sampled_from(["Europe/Berlin", "Europe/London", "Australia/Lord_Howe"]), zones),
    after=st.one_of(near_changes, instants),
    share=st.floats(0, 1, exclude_max=True),
)
def test_the_next_run_is_strictly_ahead_and_nothing_is_left_out_before_it(
    pattern: str, zone: str, after: datetime, share: float
) -> None:
    try:
        fire = next_fire(pattern, zone, after, anchor=after)
    except WrongPattern:
        return  # 30 February

    assert fire > after
    between = min(after + (fire - after) * share, fire - MICROSECOND)
    assert next_fire(pattern, zone, between, anchor=after) == fire


@settings(max_examples=200)
@given(
    pattern=st.one_of(st.text(), st.text("0123456789*/-,#LW evrymin", max_size=30)), zone=st.one_of(st.text(), zones)
)
def test_any_text_is_followed_or_refused_as_a_wrong_pattern(pattern: str, zone: str) -> None:
    with contextlib.suppress(WrongPattern):
        assert next_fire(pattern, zone, SUNDAY_NOON) > SUNDAY_NOON
