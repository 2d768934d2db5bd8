"""`flatearth jobs run`: a drain without Dagster."""

import contextlib
import signal
from collections import Counter
from collections.abc import Generator

import click

from flatearth_pipelines import database
from flatearth_pipelines.queue.clerk import Options
from flatearth_pipelines.queue.drain import Drain
from flatearth_pipelines.queue.ledger import Report
from flatearth_pipelines.queue.terminal_context import handlers
from flatearth_pipelines.settings import Settings
from flatearth_pipelines.terminal import print_rows


@click.command()
@click.option("--concurrency", type=click.IntRange(1, 100), default=10, show_default=True, help="Jobs at once.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
def run(*, concurrency: int, as_json: bool) -> None:
    """Run what is due now in this process, without Dagster, and say how it went.

    Whoever is to hear of dead jobs is told by the next run of run_due_jobs.
    """
    outcomes: Counter[tuple[str, str]] = Counter()
    conninfo = database.prepare(Settings.from_environment())
    try:
        with _terminated_as_interrupted():
            _drain(conninfo, Options(concurrency=concurrency), outcomes)
            while _drain(conninfo, Options(concurrency=1, own_run=True), outcomes).claimed:
                pass
    except BaseException:
        if outcomes:
            _print_outcomes(outcomes, as_json=as_json)
        raise
    _print_outcomes(outcomes, as_json=as_json)


def _print_outcomes(outcomes: Counter[tuple[str, str]], *, as_json: bool) -> None:
    rows = [{"handler": handler, "outcome": outcome, "jobs": n} for (handler, outcome), n in sorted(outcomes.items())]
    print_rows(rows, as_json=as_json, empty="Nothing to do: no job was due.")


def _drain(conninfo: str, options: Options, outcomes: Counter[tuple[str, str]]) -> Report:
    """Drain, and add to the outcomes, also of one that is interrupted."""
    drain = Drain(conninfo, handlers(), "flatearth jobs run", options)
    try:
        return drain.run_in_thread(
            lambda: click.echo("Stopping: what runs may finish, the rest is handed back.", err=True)
        )
    finally:
        outcomes.update(drain.report.outcomes)


@contextlib.contextmanager
def _terminated_as_interrupted() -> Generator[None]:
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
