"""Measure the headline figures of notifications and their emails: `python -m benchmarks.notifications`.

Everything runs on an embedded Postgres of its own, and mails go to a sink on 127.0.0.1 that throws them away. A whole
run takes about a quarter of an hour and 5 GB of disk, which it gives back; `--events 5000` tries everything out in two
minutes, with ratios that mean little.
"""

from benchmarks.command import Suite, run
from benchmarks.notification_figures import FIGURES, Bench

if __name__ == "__main__":
    run(
        Suite(
            module="benchmarks.notifications",
            about=__doc__ or "",
            unit="events",
            size=100_000,
            fewest=1_000,
            figures=FIGURES,
            bench=Bench,
        )
    )
