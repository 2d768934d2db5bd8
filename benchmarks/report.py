"""The table at the end: medians with their spread, and whether each gate holds."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Self

from flatearth_pipelines.terminal import print_rows


@dataclass(frozen=True)
class Spread:
    """A median and what it lies between."""

    middle: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Of what the rounds measured."""
        return cls(median(values), min(values), max(values))

    @classmethod
    def of_ratios(cls, above: Sequence[float], below: Sequence[float]) -> Self:
        """Of the ratios within each round."""
        return cls.of([one / other for one, other in zip(above, below, strict=True)])

    def __str__(self) -> str:
        return f"{_short(self.middle)} ({_short(self.low)}-{_short(self.high)})"


@dataclass(frozen=True)
class Gate:
    """The most or the least that a figure may be."""

    most: float | None = None
    least: float | None = None
    unit: str = ""

    def holds(self, value: float) -> bool:
        """Whether the value passes."""
        return (self.most is None or value <= self.most) and (self.least is None or value >= self.least)

    def __str__(self) -> str:
        bound = f"at least {self.least:g}" if self.most is None else f"at most {self.most:g}"
        return f"{bound} {self.unit}".strip()


@dataclass(frozen=True)
class Row:
    """One figure, as it is printed; without a gate it is only reported."""

    figure: str
    what: str
    ours: str
    rival: str
    ratio: str = ""
    gate: str = ""
    passed: bool | None = None


def compared(
    figure: str,
    what: str,
    ours: Sequence[float],
    rival: Sequence[float],
    gate: Gate | None = None,
    *,
    times_slower: bool = False,
) -> Row:
    """Seconds against seconds: ours divided by the rival's, or how many times slower the rival is."""
    ratio = Spread.of_ratios(rival, ours) if times_slower else Spread.of_ratios(ours, rival)
    return Row(
        figure,
        what,
        f"{_short(median(ours))} s",
        f"{_short(median(rival))} s",
        str(ratio),
        str(gate or ""),
        gate.holds(ratio.middle) if gate else None,
    )


def measured(figure: str, what: str, ours: float, rival: float | None = None, gate: Gate | None = None) -> Row:
    """One number with the gate's unit, such as a peak of memory in MB; the rival's beside it."""
    unit = gate.unit if gate else "MB"
    beside = "" if rival is None else f"{_short(rival)} {unit}".strip()
    passed = gate.holds(ours) if gate else None
    return Row(figure, what, f"{_short(ours)} {unit}".strip(), beside, gate=str(gate or ""), passed=passed)


def print_table(rows: Sequence[Row], heading: str, *, markdown: bool) -> None:
    """The rows for a person at a terminal, plain text for a pipe, or a table for the README."""
    cells = [
        {
            "figure": row.figure,
            "what": row.what,
            "ours": row.ours,
            "rival": row.rival,
            "ratio": row.ratio,
            "gate": row.gate,
            "holds": {True: "✓", False: "✗", None: ""}[row.passed],
        }
        for row in rows
    ]
    print(heading, end="\n\n")
    if not markdown:
        print_rows(cells, as_json=False)
        return
    for line in [list(cells[0]), ["---"] * len(cells[0]), *(list(cell.values()) for cell in cells)]:
        print(f"| {' | '.join(line)} |")


def _short(value: float) -> str:
    """Three digits that count, or four."""
    if value == int(value):
        return f"{value:,.0f}"
    decimals = 3 if abs(value) < 1 else 2 if abs(value) < 100 else 1  # noqa: PLR2004
    return f"{value:,.{decimals}f}"
