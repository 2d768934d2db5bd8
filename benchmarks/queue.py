"""Measure the headline figures of the job queue: `python -m benchmarks.queue`, or `make bench`.

Everything runs on an embedded Postgres of its own, beside peers that are installed from their registries into the
benchmark's home. A whole run takes about an hour and 20 GB of disk, which it gives back; `--jobs 5000` tries everything
out in a few minutes, with ratios that mean little.
"""

import argparse
import contextlib
import shutil
import signal
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import NoReturn

from benchmarks.data import WrongResult
from benchmarks.queue_bench import Bench
from benchmarks.queue_figures import FIGURES
from benchmarks.queue_peers import peers
from benchmarks.report import print_table
from benchmarks.servers import running, say, surroundings
from flatearth_pipelines.errors import FlatEarthError

FULL_SIZE = 500_000
"""Jobs at which the gates are meant."""


def main() -> int:
    """Run the figures that were asked for, print the table, and return 1 if a gate is missed at full size."""
    options = _options()
    signal.signal(signal.SIGTERM, _interrupt)
    with _home(options.home, keep=options.keep) as home, running(home) as lab:
        found = peers.installed(home)
        bench = Bench(lab, home, found, options.jobs, options.rounds)
        rows = []
        for name in options.only:
            say(f"{name}: {(FIGURES[name].__doc__ or '').strip()}")
            rows += FIGURES[name](bench)
        spread = f"Medians of {options.rounds} or more rounds, with the least and the most."
        print_table(rows, f"{surroundings(lab)}\n{found}\n{spread}", markdown=options.markdown)
    return int(options.jobs == FULL_SIZE and any(row.passed is False for row in rows))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.queue", description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("--jobs", type=_size, default=FULL_SIZE, help="of the long backlog (%(default)s)")
    parser.add_argument("--rounds", type=_size, default=3, help="of each comparison, at least (%(default)s)")
    parser.add_argument(
        "--only", nargs="+", choices=FIGURES, default=list(FIGURES), metavar="NAME", help="some figures"
    )
    parser.add_argument("--home", type=Path, help="keep server, peers and data sets there, and use what is there")
    parser.add_argument("--keep", action="store_true", help="leave the data sets for a later --home")
    parser.add_argument("--markdown", action="store_true", help="print the table for the README")
    options = parser.parse_args()
    if options.jobs < _FEWEST:
        parser.error(f"--jobs takes {_FEWEST} or more")
    return options


_FEWEST = 500
"""So that every part of it is at least a few jobs."""


def _size(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("it takes a number from 1 on")
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


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (FlatEarthError, WrongResult) as error:
        sys.exit(f"Error: {error}")
    except KeyboardInterrupt:
        sys.exit("Interrupted.")
