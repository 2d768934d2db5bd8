"""Ways to run the job."""

from typing import Any

import dagster as dg
import sqlalchemy as sa

from flatearth_pipelines.definitions import defs
from flatearth_pipelines.notifications import notifying
from flatearth_pipelines.notifications.notifying import notify
from flatearth_pipelines.notifications.outcome import Outcome
from flatearth_pipelines_tests.dagster_runs import failure_of, metadata_of


def run(engine: sa.Engine, **options: Any) -> Outcome:
    """The job's pipeline without Dagster; one that waits for ever fails instead."""
    with engine.connect() as connection:
        with connection.begin():
            connection.execute(sa.text("SET statement_timeout = '20s'"))
        return notify(connection, **options)


def run_within(connection: sa.Connection) -> None:
    """All that is new, in the transaction that the connection is in."""
    for work in (notifying.look_at_texts, notifying.tell_of_events):
        while work(connection, 1_000, 0) is not None:
            pass


def execute(instance: dg.DagsterInstance, **config: Any) -> dg.ExecuteInProcessResult:
    return defs.resolve_job_def("notify_recipients").execute_in_process(
        instance=instance, run_config={"ops": {"notify_people": {"config": config}}}, raise_on_error=False
    )


def succeeded(instance: dg.DagsterInstance, **config: Any) -> dict[str, Any]:
    """The metadata of a run that must succeed."""
    return metadata_of(execute(instance, **config))


def failed(instance: dg.DagsterInstance, **config: Any) -> str:
    """The reason of a run that must fail at its only step, for good; it is one line."""
    return failure_of(execute(instance, **config))
