"""Ways to run the queue's Dagster jobs in this process, with the resources that they have in production."""

from typing import Any

import dagster as dg

from flatearth_pipelines.definitions import defs
from flatearth_pipelines.queue.handlers import Registry


def execute(
    instance: dg.DagsterInstance, job: str = "run_due_jobs", handlers: Registry | None = None, **config: Any
) -> dg.ExecuteInProcessResult:
    """With these handlers instead of the project's own."""
    definition = defs.resolve_job_def(job)
    (op,) = definition.nodes
    return definition.execute_in_process(
        instance=instance,
        run_config={"ops": {op.name: {"config": config}}},
        resources=None if handlers is None else {"job_handlers": handlers},
        raise_on_error=False,
    )


def succeeded(
    instance: dg.DagsterInstance, job: str = "run_due_jobs", handlers: Registry | None = None, **config: Any
) -> dict[str, Any]:
    """The metadata of a run that must succeed."""
    result = execute(instance, job, handlers, **config)
    assert result.success
    return metadata_of(result)


def failed(
    instance: dg.DagsterInstance, job: str = "run_due_jobs", handlers: Registry | None = None, **config: Any
) -> str:
    """The reason of a run that must fail at its only step, for good; it is one line."""
    result = execute(instance, job, handlers, **config)
    assert not result.success
    (event,) = (event for event in result.all_events if event.is_step_failure)
    failure = event.step_failure_data.user_failure_data
    assert failure is not None, event.step_failure_data.error
    assert failure.description is not None
    assert "\n" not in failure.description
    return failure.description


def metadata_of(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    (event,) = (event for event in result.all_events if event.is_successful_output)
    plain: dict[str, Any] = {}
    for name, value in event.step_output_data.metadata.items():
        if isinstance(value, dg.TableMetadataValue):
            plain[name] = [dict(record.data) for record in value.records]
        else:
            plain[name] = value.value
    return plain


def log_of(instance: dg.DagsterInstance, result: dg.ExecuteInProcessResult, level: int = 0) -> list[str]:
    """What the run logged itself, of this level or a higher one."""
    return [
        entry.user_message
        for entry in instance.all_logs(result.run_id)
        if entry.dagster_event is None and int(entry.level) >= level
    ]
