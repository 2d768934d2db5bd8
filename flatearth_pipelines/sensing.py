"""Sensors that wait inside their tick for something to do, and start one run for it, not several."""

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import dagster as dg
import psycopg
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from flatearth_pipelines import database
from flatearth_pipelines.errors import FlatEarthError
from flatearth_pipelines.message import one_line
from flatearth_pipelines.settings import Settings

TICK_SECONDS = 25
LOOK_SECONDS = 0.2
"""How long a tick waits for something to do, and how often it looks. A tick of more than 60 s fails."""

AT_WORK = "A run is at work on what is due"
ON_ITS_WAY = "A run is on its way"

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

    def look(connection: sa.Connection) -> list[dg.RunRequest] | str:
        if not is_due(connection):
            return ""
        if database.lock_holder(connection, lock) is not None:
            return AT_WORK
        if on_its_way(context, job_name):
            return ON_ITS_WAY
        return [dg.RunRequest(job_name=job_name, run_config=run_config)]

    found = wait_for_work(f"flatearth sensor of {job_name}", look)
    return found if isinstance(found, dg.SkipReason) else found[0]


def wait_for_work(
    application: str, look: Callable[[sa.Connection], Sequence[dg.RunRequest] | str]
) -> Sequence[dg.RunRequest] | dg.SkipReason:
    """Look five times a second for up to 25 s, and return the first runs that are asked for.

    `look` says why none is although something is due, or nothing. A Postgres that is not there, or goes away, is a
    skip of one line: the next tick looks again.
    """
    until = time.monotonic() + TICK_SECONDS
    seen = ""
    try:
        conninfo = database.prepare(Settings.from_environment())
        with database.connections(conninfo, application) as pool:
            while True:
                with pool.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                    found = look(connection)
                if not isinstance(found, str):
                    return found
                seen = found or seen
                if time.monotonic() >= until:
                    return dg.SkipReason(seen or "Nothing is due")
                time.sleep(LOOK_SECONDS)
    except FlatEarthError as error:
        return dg.SkipReason(str(error))
    except DBAPIError as error:
        if not isinstance(error.orig, psycopg.OperationalError):
            raise
        return dg.SkipReason(f"Postgres broke off: {one_line(str(error.orig))}")


def on_its_way(context: dg.SensorEvaluationContext, job_name: str, *, started: bool = False) -> int:
    """How many runs of the job are about to begin to work; with `started`, also those that have begun."""
    about_to = [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING]
    runs = context.instance.get_runs_count(dg.RunsFilter(job_name=job_name, statuses=about_to))
    recently = None if started else datetime.fromtimestamp(time.time() - _STARTING_SECONDS, UTC)
    begun = dg.RunsFilter(job_name=job_name, statuses=[dg.DagsterRunStatus.STARTED], created_after=recently)
    return runs + context.instance.get_runs_count(begun)
