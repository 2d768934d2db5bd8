"""The command line of every benchmark: options, a home for the data sets, the figures in turn, the table at the end."""

import argparse
import contextlib
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Generic, NamedTuple, NoReturn, TypeVar

from benchmarks.data import WrongResult
from benchmarks.report import Row, print_table
from benchmarks.servers import Lab, running, say, surroundings
from flatearth_pipelines.errors import FlatEarthError

Bench = TypeVar("Bench")


class Suite(NamedTuple, Generic[Bench]):
    """What one module measures."""

    module: str
    about: str
    """The module's docstring, whose second paragraph is the command's description."""
    unit: str
    """Of what the data sets have so many, and the name of that option."""
    size: int
    """At which the gates are meant."""
    fewest: int
    figures: Mapping[str, Callable[[Bench], Sequence[Row]]]
    bench: Callable[[Lab, Path, int, int], Bench]
    """Of the server, the home, the size and the rounds."""
    besides: Callable[[Bench], str] = lambda _bench: ""
    """What the table's heading says besides."""


def run(suite: Suite[Bench]) -> NoReturn:
    """Run the figures that were asked for, print the table, and exit with 1 if a gate is missed at full size."""
    options = _options(suite)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with _home(options.home, keep=options.keep) as home, running(home) as lab:
            bench = suite.bench(lab, home, options.size, options.rounds)
            rows: list[Row] = []
            for name in options.only:
                say(f"{name}: {(suite.figures[name].__doc__ or '').strip()}")
                rows += suite.figures[name](bench)
            spread = f"Medians of {options.rounds} or more rounds, with the least and the most."
            heading = "\n".join(filter(None, [surroundings(lab), suite.besides(bench), spread]))
            print_table(rows, heading, markdown=options.markdown)
    except (FlatEarthError, WrongResult) as error:
        sys.exit(f"Error: {error}")
    except KeyboardInterrupt:
        sys.exit("Interrupted.")
    sys.exit(int(options.size == suite.size and any(row.passed is False for row in rows)))


def _options(suite: Suite[Bench]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m {suite.module}", description=suite.about.split("\n\n")[1])
    parser.add_argument(
        f"--{suite.unit}",
        metavar="N",
        dest="size",
        type=_at_least(suite.fewest),
        default=suite.size,
        help="of the ordinary data sets (%(default)s)",
    )
    parser.add_argument("--rounds", type=_at_least(1), default=3, help="of each comparison, at least (%(default)s)")
    parser.add_argument(
        "--only", nargs="+", choices=suite.figures, default=list(suite.figures), metavar="NAME", help="some figures"
    )
    parser.add_argument("--home", type=Path, help="keep server and data sets there, and use what is there")
    parser.add_argument("--keep", action="store_true", help="leave the data sets for a later --home")
    parser.add_argument("--markdown", action="store_true", help="print the table for the README")
    return parser.parse_args()


def _at_least(fewest: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        value = int(text)
        if value < fewest:
            raise argparse.ArgumentTypeError(f"it takes a number from {fewest} on")
        return value

    return number


@contextlib.contextmanager
def _home(chosen: Path | None, *, keep: bool) -> Generator[Path]:
    """The directory that was chosen, or a temporary one that goes at the end."""
    home = chosen.absolute() if chosen else Path(tempfile.mkdtemp(prefix="flatearth-bench-"))
    try:
        yield home
    finally:
        if chosen or keep:
            say(f"The data sets are in {home}")
        else:
            shutil.rmtree(home)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt
