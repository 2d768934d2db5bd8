"""What the last days came to, as a line chart that Dagster's Markdown shows: SVG in a data URI."""

import base64
import itertools
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from typing import Any

CHARTED_DAYS = 14

SERIES = {
    "cards_created": ("created", "#0072b2"),
    "cards_closed": ("closed", "#009e73"),
    "cards_postponed": ("postponed by hand", "#e69f00"),
    "cards_auto_postponed": ("postponed automatically", "#d55e00"),
    "comments": ("comments", "#cc79a7"),
}
"""Metric to its name and colour: those of Okabe and Ito, which people with any colour vision tell apart."""

_WIDTH, _HEIGHT = 760, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 190, 16, 32
_LINES = 4
"""Horizontal ones above the axis."""

_LEGEND_STEP = 22

_FONT = 'font-family="sans-serif" font-size="12"'


def chart(last: date, days: Sequence[Mapping[str, Any]]) -> str:
    """Markdown with the picture of the fourteen days up to `last`, of those that are there; others are gaps.

    `days` have a `day` and the `SERIES`, as `storage.read_days` returns them.
    """
    picture = base64.b64encode(svg(last, days).encode()).decode()
    return f"![The fourteen days up to {last}](data:image/svg+xml;base64,{picture})"


def svg(last: date, days: Sequence[Mapping[str, Any]]) -> str:
    """The picture itself."""
    shown = [last - timedelta(days=ago) for ago in range(CHARTED_DAYS - 1, -1, -1)]
    by_day = {each["day"]: each for each in days}
    highest = ceiling(max((int(day[name]) for day in by_day.values() for name in SERIES), default=0))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" {_FONT}>',
            f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
            *_axes(shown, highest),
            *(
                line
                for place, (name, (label, colour)) in enumerate(SERIES.items())
                for line in (
                    *_line([by_day[day][name] if day in by_day else None for day in shown], highest, colour),
                    *_legend(place, label, colour),
                )
            ),
            "</svg>",
        ]
    )


def ceiling(highest: int) -> int:
    """The least of 4, 8, 20, 40, 80, 200 and so on that is not below: four lines then stand at whole numbers."""
    size = 1
    while True:
        for step in (4, 8, 20):
            if step * size >= highest:
                return step * size
        size *= 10


def _axes(shown: Sequence[date], highest: int) -> Iterator[str]:
    for line in range(_LINES + 1):
        value = highest * line // _LINES
        y = _y(value, highest)
        yield f'<line x1="{_LEFT}" y1="{y}" x2="{_WIDTH - _RIGHT}" y2="{y}" stroke="#dddddd"/>'
        yield f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end" fill="#555555">{value:,}</text>'
    for place, anchor in ((0, "start"), (len(shown) // 2, "middle"), (len(shown) - 1, "end")):
        x, y = _x(place), _HEIGHT - _BOTTOM + 20
        yield f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="#555555">{shown[place]}</text>'


def _line(values: Sequence[int | None], highest: int, colour: str) -> Iterator[str]:
    """A dot for each day, and a line between neighbours."""
    points = [None if value is None else (_x(place), _y(value, highest)) for place, value in enumerate(values)]
    for one, other in itertools.pairwise(points):
        if one and other:
            yield f'<path d="M{one[0]} {one[1]}L{other[0]} {other[1]}" stroke="{colour}" stroke-width="2"/>'
    for point in points:
        if point:
            yield f'<circle cx="{point[0]}" cy="{point[1]}" r="3" fill="{colour}"/>'


def _legend(place: int, label: str, colour: str) -> Iterator[str]:
    x, y = _WIDTH - _RIGHT + 20, _TOP + 8 + place * _LEGEND_STEP
    yield f'<circle cx="{x}" cy="{y}" r="4" fill="{colour}"/>'
    yield f'<text x="{x + 12}" y="{y + 4}" fill="#333333">{label}</text>'


def _x(place: int) -> float:
    return round(_LEFT + place * (_WIDTH - _LEFT - _RIGHT) / (CHARTED_DAYS - 1), 1)


def _y(value: int, highest: int) -> float:
    return round(_HEIGHT - _BOTTOM - value * (_HEIGHT - _TOP - _BOTTOM) / highest, 1)
