"""Measure the headline figures of `auto_postpone`: `python -m benchmarks.entropy`, or `make bench`.

Everything runs on an embedded Postgres of its own. A whole run takes about half an hour and 20 GB of disk, which it
gives back; `--cards 50000` tries everything out in a few minutes, with ratios that mean little.
"""

from benchmarks.command import Suite, run
from benchmarks.figures import FIGURES, Bench

if __name__ == "__main__":
    run(
        Suite(
            module="benchmarks.entropy",
            about=__doc__ or "",
            unit="cards",
            size=1_000_000,
            fewest=1,
            figures=FIGURES,
            bench=lambda lab, _home, cards, rounds: Bench(lab, cards, rounds),
        )
    )
