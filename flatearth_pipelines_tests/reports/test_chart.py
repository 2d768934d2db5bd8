"""The picture of the last days."""

import base64
import re
from datetime import date, timedelta
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flatearth_pipelines.reports.chart import CHARTED_DAYS, SERIES, ceiling, chart, svg

DAY = date(2026, 11, 27)


def came_to(day: date, **counts: int) -> dict[str, date | int]:
    return {"day": day} | dict.fromkeys(SERIES, 0) | counts


def drawn(picture: str, shape: str) -> int:
    """How many of that shape, without those of the legend."""
    of_legend = len(SERIES) if shape == "circle" else 0
    return len(ET.fromstring(picture).findall(f"{{http://www.w3.org/2000/svg}}{shape}")) - of_legend  # noqa: S314 - ours


def test_each_day_has_a_dot_for_each_series_and_neighbours_a_line() -> None:
    days = [came_to(DAY - timedelta(days=ago), comments=ago) for ago in range(CHARTED_DAYS)]
    assert drawn(svg(DAY, days), "circle") == CHARTED_DAYS * len(SERIES)
    assert drawn(svg(DAY, days), "path") == (CHARTED_DAYS - 1) * len(SERIES)


def test_a_day_that_was_not_counted_is_a_gap() -> None:
    days = [came_to(DAY - timedelta(days=ago)) for ago in (0, 2, 3)]
    assert drawn(svg(DAY, days), "circle") == 3 * len(SERIES)
    assert drawn(svg(DAY, days), "path") == len(SERIES)


def test_days_outside_the_fourteen_are_not_drawn() -> None:
    days = [came_to(DAY + timedelta(days=1)), came_to(DAY - timedelta(days=CHARTED_DAYS))]
    assert drawn(svg(DAY, days), "circle") == 0


def test_no_day_at_all_is_an_empty_picture_that_names_its_days() -> None:
    picture = svg(DAY, [])
    assert drawn(picture, "circle") == 0
    assert "2026-11-14" in picture
    assert "2026-11-27" in picture


def test_the_highest_value_is_the_highest_dot_and_zero_is_on_the_axis() -> None:
    picture = svg(DAY, [came_to(DAY, cards_created=8)])
    heights = [float(y) for y in re.findall(r'cy="([\d.]+)" r="3"', picture)]
    assert heights == [16.0, 248.0, 248.0, 248.0, 248.0]


@pytest.mark.parametrize(
    ("highest", "expected"), [(0, 4), (4, 4), (5, 8), (8, 8), (9, 20), (21, 40), (81, 200), (200, 200), (201, 400)]
)
def test_the_axis_ends_at_the_least_of_4_8_and_20_times_a_power_of_ten_that_is_not_below(
    highest: int, expected: int
) -> None:
    assert ceiling(highest) == expected


@given(st.integers(0, 10**12))
def test_the_axis_is_never_below_and_its_quarters_are_whole(highest: int) -> None:
    assert ceiling(highest) >= highest
    assert ceiling(highest) % 4 == 0
    assert ceiling(highest) <= max(4, 5 * highest // 2)


def test_dagsters_markdown_has_the_picture_in_it() -> None:
    found = re.fullmatch(r"!\[The fourteen days up to 2026-11-27\]\(data:image/svg\+xml;base64,(.+)\)", chart(DAY, []))
    assert found
    assert base64.b64decode(found[1]).decode() == svg(DAY, [])
