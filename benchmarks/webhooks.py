"""Measure the headline figures of webhooks: `python -m benchmarks.webhooks`.

Everything runs on an embedded Postgres of its own, and requests go to a server on 127.0.0.1 that throws them away. A
whole run takes about half an hour and 5 GB of disk, which it gives back; `--events 2000` tries everything out in a few
minutes, with ratios that mean little.
"""

from benchmarks.command import Suite, run
from benchmarks.webhook_figures import FIGURES, Bench

if __name__ == "__main__":
    run(
        Suite(
            module="benchmarks.webhooks",
            about=__doc__ or "",
            unit="events",
            size=100_000,
            fewest=1_000,
            figures=FIGURES,
            bench=Bench,
        )
    )
