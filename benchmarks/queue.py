"""Measure the headline figures of the job queue: `python -m benchmarks.queue`, or `make bench`.

Everything runs on an embedded Postgres of its own, beside peers that are installed from their registries into the
benchmark's home. A whole run takes about an hour and 20 GB of disk, which it gives back; `--jobs 5000` tries everything
out in a few minutes, with ratios that mean little.
"""

from benchmarks.command import Suite, run
from benchmarks.queue_bench import Bench
from benchmarks.queue_figures import FIGURES
from benchmarks.queue_peers import peers

if __name__ == "__main__":
    run(
        Suite(
            module="benchmarks.queue",
            about=__doc__ or "",
            unit="jobs",
            size=500_000,
            fewest=500,  # so that every part is at least a few jobs
            figures=FIGURES,
            bench=lambda lab, home, jobs, rounds: Bench(lab, home, peers.installed(home), jobs, rounds),
            besides=lambda bench: str(bench.peers),
        )
    )
