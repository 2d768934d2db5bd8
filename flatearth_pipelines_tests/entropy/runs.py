"""Ways to run the job."""

from datetime import datetime
from typing import Any

import dagster as dg
import sqlalchemy as sa

from flatearth_pipelines.definitions import defs
from flatearth_pipelines.entropy.backlog import Outcome, postpone_backlog
from flatearth_pipelines_tests.dagster_runs import failure_of, metadata_of
from flatearth_pipelines_tests.factories import NOON


def run(engine: sa.Engine, as_of: datetime = NOON, **options: Any) -> Outcome:
    """The job's pipeline without Dagster; one that waits for ever fails instead."""
    with engine.connect() as connection:
        with connection.begin():
            connection.execute(sa.text("SET statement_timeout = '20s'"))
        return postpone_backlog(connection, as_of, **options)


def execute(
    instance: dg.DagsterInstance, job: str = "auto_postpone", partition_key: str | None = None, **config: Any
) -> dg.ExecuteInProcessResult:
    return defs.resolve_job_def(job).execute_in_process(
        instance=instance,
        partition_key=partition_key,
        run_config={"ops": {"postpone_stale_cards": {"config": config}}},
        raise_on_error=False,
    )


def succeeded(instance: dg.DagsterInstance, job: str = "auto_postpone", **config: Any) -> dict[str, Any]:
    """The metadata of a run that must succeed."""
    return metadata_of(execute(instance, job, **config))


def failed(instance: dg.DagsterInstance, **config: Any) -> str:
    """The reason of a run that must fail at its only step, for good; it is one line."""
    return failure_of(execute(instance, **config))
