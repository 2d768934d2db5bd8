"""Ways to run a clean-up."""

from datetime import datetime
from typing import Any

import dagster as dg
import sqlalchemy as sa

from flatearth_pipelines.cleanup.outcome import Swept
from flatearth_pipelines.cleanup.retention import RETENTIONS, Retention
from flatearth_pipelines.cleanup.sweeping import rehearse, sweep
from flatearth_pipelines.cleanup.targets import parts_of
from flatearth_pipelines.definitions import defs
from flatearth_pipelines.settings import Settings
from flatearth_pipelines_tests.dagster_runs import failure_of, metadata_of
from flatearth_pipelines_tests.factories import NOON


def run(engine: sa.Engine, target: str, as_of: datetime = NOON, **changes: Any) -> Swept:
    """The job's mechanism without Dagster; one that waits for ever fails instead."""
    retention = RETENTIONS[target].changed(**changes)
    swept = Swept()
    with engine.connect() as connection:
        with connection.begin():
            connection.execute(sa.text("SET statement_timeout = '60s'"))
        sweep(connection, retention, parts_of(retention, Settings.from_environment), as_of, swept=swept)
    return swept


def dry_run(engine: sa.Engine, target: str, as_of: datetime = NOON) -> Swept:
    retention = RETENTIONS[target]
    with engine.connect() as connection:
        return rehearse(connection, parts_of(retention, Settings.from_environment), as_of)


def execute(instance: dg.DagsterInstance, retention: Retention, **config: Any) -> dg.ExecuteInProcessResult:
    """The job, as of `NOON` unless told otherwise."""
    return defs.resolve_job_def(retention.job).execute_in_process(
        instance=instance,
        run_config={"ops": {f"sweep_{retention.target}": {"config": {"as_of": NOON.isoformat()} | config}}},
        raise_on_error=False,
    )


def succeeded(instance: dg.DagsterInstance, retention: Retention, **config: Any) -> dict[str, Any]:
    """The metadata of a run that must succeed."""
    return metadata_of(execute(instance, retention, **config))


def failed(instance: dg.DagsterInstance, retention: Retention, **config: Any) -> str:
    """The reason of a run that must fail at its only step, for good; it is one line."""
    return failure_of(execute(instance, retention, **config))


def log_of(instance: dg.DagsterInstance, result: dg.ExecuteInProcessResult) -> list[str]:
    return [entry.user_message for entry in instance.all_logs(result.run_id)]
