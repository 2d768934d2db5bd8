"""Sensors that wait inside their tick for something to do, and start one run for it, not several."""

import time
from collections.abc import Callable
from datetime import UTC, datetime

import dagster as dg
import sqlalchemy as sa

from flatearth_pipelines import database
from flatearth_pipelines.errors import FlatEarthError
from flatearth_pipelines.settings import Settings

TICK_SECONDS = 25
LOOK_SECONDS = 0.2
"""How long a tick waits for something to do, and how often it looks. A tick of more than 60 s fails."""

_STARTING_SECONDS = 15
"""How long a run may take from being asked for to holding its lock, or a lease."""


def start_when_due(
    context: dg.SensorEvaluationContext,
    job_name: str,
    *,
    lock: str,
    is_due: Callable[[sa.Connection], bool],
    run_config: dg.RunConfig | None = None,
) -> dg.RunRequest | dg.SkipReason:
    """Wait up to 25 s for something to be due, and ask for a run of the job; a skip says what was seen.

    No run is asked for while one holds the `lock` of `Postgres.alone`, or is on its way to it. `is_due` is asked five
    times a second: it has to be one cheap query.
    """
    until = time.monotonic() + TICK_SECONDS
    try:
        conninfo = database.prepare(Settings.from_environment())
    except FlatEarthError as error:
        return dg.SkipReason(str(error))
    seen = "Nothing is due"
    with database.connections(conninfo, f"flatearth sensor of {job_name}") as pool:
        while True:
            with pool.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                due = is_due(connection)
                held = due and database.lock_holder(connection, lock) is not None
            if due and not held and not on_its_way(context, job_name):
                return dg.RunRequest(job_name=job_name, run_config=run_config)
            if due:
                seen = "A run is at work on what is due" if held else "A run is on its way"
            if time.monotonic() >= until:
                return dg.SkipReason(seen)
            time.sleep(LOOK_SECONDS)


def on_its_way(context: dg.SensorEvaluationContext, job_name: str, *, started: bool = False) -> int:
    """How many runs of the job are about to begin to work; with `started`, also those that have begun."""
    about_to = [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING]
    runs = context.instance.get_runs_count(dg.RunsFilter(job_name=job_name, statuses=about_to))
    recently = None if started else datetime.fromtimestamp(time.time() - _STARTING_SECONDS, UTC)
    begun = dg.RunsFilter(job_name=job_name, statuses=[dg.DagsterRunStatus.STARTED], created_after=recently)
    return runs + context.instance.get_runs_count(begun)
