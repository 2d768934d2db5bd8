from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from cronsim import CronSim
from hypothesis import given
from hypothesis import strategies as st

from flatearth_pipelines.cleanup.retention import (
    LONGEST,
    ORPHANS_KEEP_FOR,
    RETENTIONS,
    cutoff,
    in_words,
    retention_of,
    span_of,
)
from flatearth_pipelines.errors import WrongUsage
from flatearth_pipelines_tests.factories import DAY, MICROSECOND, NOON

ANY = RETENTIONS["audit_logs"]


def test_what_is_kept_for_how_long() -> None:
    assert {target: retention.keep_for for target, retention in RETENTIONS.items()} == {
        "tags": DAY,
        "webhook_deliveries": 7 * DAY,
        "sessions": timedelta(0),
        "audit_logs": 90 * DAY,
        "files": 30 * DAY,
    }
    assert ORPHANS_KEEP_FOR == DAY


def test_batches_are_of_5_000_rows_but_of_1_000_files_and_a_run_takes_a_minute() -> None:
    sizes = {target: retention.batch_size for target, retention in RETENTIONS.items()}
    assert sizes.pop("files") == 1_000
    assert set(sizes.values()) == {5_000}
    assert {retention.max_seconds for retention in RETENTIONS.values()} == {60}


def test_no_two_run_within_five_minutes_of_each_other_or_of_the_queues_own() -> None:
    night = datetime(2026, 11, 22, tzinfo=UTC)
    crons = [*(retention.cron for retention in RETENTIONS.values()), "40 3 * * *"]
    starts = sorted(next(CronSim(cron, night)) for cron in crons)
    assert all(later - earlier >= timedelta(minutes=5) for earlier, later in pairwise(starts))


def test_every_job_says_what_it_does_in_a_sentence_with_the_time() -> None:
    for retention in RETENTIONS.values():
        assert retention.sentence.startswith("Delete ")
        assert "{" not in retention.sentence
        assert retention.keep_for == timedelta(0) or in_words(retention.keep_for) in retention.sentence


def test_a_target_is_found_by_its_name_or_by_its_job() -> None:
    for target, retention in RETENTIONS.items():
        assert retention_of(target) is retention_of(retention.job) is retention
    with pytest.raises(WrongUsage, match=r"^There is no target 'dust': there are webhook_deliveries, .*tags$"):
        retention_of("dust")


# One run's own


def test_what_is_not_given_stays() -> None:
    assert ANY.changed() == ANY
    changed = ANY.changed(keep_for="2 hours")
    assert (changed.keep_for, changed.batch_size) == (timedelta(hours=2), ANY.batch_size)


def test_the_ends_of_every_range_are_taken() -> None:
    least = ANY.changed(keep_for="0 seconds", batch_size=1, max_seconds=0)
    assert (least.keep_for, least.batch_size, least.max_seconds) == (timedelta(0), 1, 0)
    most = ANY.changed(keep_for="36500 days", batch_size=50_000, max_seconds=86_400)
    assert (most.keep_for, most.batch_size, most.max_seconds) == (LONGEST, 50_000, 86_400)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"batch_size": 0}, "batch_size is 0: it takes 1 to 50,000"),
        ({"batch_size": 50_001}, "batch_size is 50001: it takes 1 to 50,000"),
        ({"max_seconds": -0.1}, "max_seconds is -0.1: it takes 0 to 86,400"),
        ({"max_seconds": 86_400.5}, "max_seconds is 86400.5: it takes 0 to 86,400"),
        ({"max_seconds": float("nan")}, "max_seconds is nan: it takes 0 to 86,400"),
        ({"max_seconds": float("inf")}, "max_seconds is inf: it takes 0 to 86,400"),
    ],
)
def test_what_is_out_of_its_range_is_refused_in_one_line(change: dict[str, Any], said: str) -> None:
    with pytest.raises(WrongUsage) as refused:
        ANY.changed(**change)
    assert str(refused.value) == said


# Spans


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("7 days", 7 * DAY),
        ("1 day", DAY),
        ("1 days", DAY),
        ("36hours", timedelta(hours=36)),
        ("  0.5   weeks ", timedelta(days=3, hours=12)),
        ("90 minutes", timedelta(minutes=90)),
        ("0 seconds", timedelta(0)),
        ("0.000001 seconds", MICROSECOND),
        ("36500 days", LONGEST),
    ],
)
def test_a_span_is_a_number_and_a_unit(text: str, span: timedelta) -> None:
    assert span_of(text) == span


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        "days",
        "-1 days",
        "7 months",
        "1 day 2 hours",
        "1e3 days",
        "nan days",
        "36500.00000000001 days",
        "9999999999999 days",
        "\N{ARABIC-INDIC DIGIT SEVEN} days",
        "7 days\n; drop",
    ],
)
def test_what_is_no_span_or_more_than_a_hundred_years_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(WrongUsage, match=r"^keep_for is [^\n]+ such as '7 days', up to 36,500 days$"):
        span_of(text)


@given(st.timedeltas(timedelta(0), LONGEST))
def test_a_span_in_words_is_read_as_itself(span: timedelta) -> None:
    assert span_of(in_words(span)) == span


@pytest.mark.parametrize(
    ("span", "words"),
    [
        (timedelta(0), "0 days"),
        (DAY, "1 day"),
        (90 * DAY, "90 days"),
        (timedelta(hours=36), "36 hours"),
        (timedelta(seconds=61), "61 seconds"),
        (MICROSECOND, "0.000001 seconds"),
    ],
)
def test_words_are_the_largest_unit_that_fits(span: timedelta, words: str) -> None:
    assert in_words(span) == words


# The instant


@given(st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)), st.timedeltas(-DAY, LONGEST))  # noqa: DTZ001
def test_what_is_exactly_so_old_is_not_before_the_cutoff_and_a_microsecond_older_is(
    as_of: datetime, keep_for: timedelta
) -> None:
    keep_for = max(keep_for, timedelta(0))
    limit = cutoff(as_of, keep_for)
    assert not as_of - keep_for < limit
    assert as_of - keep_for - MICROSECOND < limit


def test_an_instant_before_all_calendars_is_refused_in_one_line() -> None:
    first = datetime(1, 1, 1, tzinfo=UTC)
    assert cutoff(first, timedelta(0)) == first
    with pytest.raises(WrongUsage, match=r"^as_of 0001-01-01T00:00:00\+00:00 is too early to look back 90 days$"):
        cutoff(first, ANY.keep_for)
    assert cutoff(NOON, ANY.keep_for) == NOON - 90 * DAY
