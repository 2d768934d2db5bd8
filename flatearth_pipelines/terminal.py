"""What the commands print: tables for people, JSON for programs."""

import contextlib
import json
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

_WIDTH_OF_A_PIPE = 200
"""Columns of a table that nobody looks at on a terminal: wide enough not to cut what a script greps for."""


def console() -> Console:
    """Standard output; plain and wide where it is no terminal."""
    return Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=_WIDTH_OF_A_PIPE)


def print_rows(
    rows: Sequence[Mapping[str, object]], *, as_json: bool, title: str = "", empty: str = "Nothing."
) -> None:
    """The rows as a table, headed by their keys, or as one JSON array; instants in ISO 8601."""
    if as_json:
        print_json(list(rows))
        return
    if not rows:
        console().print(empty)
        return
    table = Table(title=title or None, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for key, value in rows[0].items():
        number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
        table.add_column(key.replace("_", " "), justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(_cell, row.values()))
    console().print(table)


def print_json(value: object) -> None:
    """One JSON value on standard output."""
    sys.stdout.write(json.dumps(value, default=_jsonable, ensure_ascii=False) + "\n")


def _cell(value: object) -> str | Text:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return Text(str(value))  # as it is: a title may hold what would be markup


def _jsonable(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else str(value)


@contextlib.contextmanager
def progress(told: str, total: int | None) -> Generator[Callable[[int], None]]:
    """How far it is, on a terminal's standard error; nothing in a pipe."""
    terminal = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,.0f}"))
    with Progress(
        *columns,
        TaskProgressColumn(),
        TimeElapsedColumn(),
        console=terminal,
        transient=True,
        disable=not terminal.is_terminal,
    ) as bars:
        bar = bars.add_task(told, total=total)
        yield lambda count: bars.advance(bar, count)
