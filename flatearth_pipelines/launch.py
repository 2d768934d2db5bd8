"""Run one job through Dagster, in a process of its own, and tell what it did."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg

from flatearth_pipelines.errors import FlatEarthError
from flatearth_pipelines.settings import Settings, project


def run_job(settings: Settings, job: str) -> dict[str, Any]:
    """Run the job as `dagster job execute` does, and return the metadata of its last step by name.

    What Dagster prints goes to `logs/<job>.log` in `FLATEARTH_HOME`.

    Raises:
        FlatEarthError: the run failed; the message names the log.
    """
    log = settings.home / "logs" / f"{job}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        done = subprocess.run(  # noqa: S603 - our own virtual environment's program
            [
                Path(sys.executable).parent / "dagster",
                "job",
                "execute",
                "-m",
                "flatearth_pipelines.definitions",
                "-j",
                job,
            ],
            cwd=project(),
            env={**os.environ, **_dagster_home()},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode != 0:
        raise FlatEarthError(f"The run of {job} failed: see {log}")
    return _last_metadata(job)


def _last_metadata(job: str) -> dict[str, Any]:
    os.environ.update(_dagster_home())
    with dg.DagsterInstance.get() as instance:
        (record,) = instance.get_run_records(
            dg.RunsFilter(job_name=job, statuses=[dg.DagsterRunStatus.SUCCESS]), limit=1
        )
        outputs = instance.get_records_for_run(
            record.dagster_run.run_id, of_type=dg.DagsterEventType.STEP_OUTPUT
        ).records
    event = outputs[-1].event_log_entry.get_dagster_event()
    return {name: _plain(value) for name, value in event.step_output_data.metadata.items()}


def _plain(value: dg.MetadataValue[Any]) -> object:
    """A table as a list of rows, everything else as it is."""
    return [record.data for record in value.records] if isinstance(value, dg.TableMetadataValue) else value.value


def _dagster_home() -> dict[str, str]:
    """Dagster's home is the checkout; its `.env` derives that from PWD."""
    return {"DAGSTER_HOME": str(project()), "PWD": str(project())}
