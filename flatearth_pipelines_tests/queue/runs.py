"""Ways to run the queue's Dagster jobs in this process, with the resources that they have in production."""

from datetime import timedelta
from typing import Any

import dagster as dg

from flatearth_pipelines.definitions import defs
from flatearth_pipelines.queue.backoff import Fixed
from flatearth_pipelines.queue.handlers import Context, NoPayload, Refused, Registry
from flatearth_pipelines_tests.dagster_runs import failure_of, metadata_of
from flatearth_pipelines_tests.queue import workers

HOUR = timedelta(hours=1)


def noop(_context: Context, _payload: NoPayload) -> None:
    """Nothing."""


def refuse(_context: Context, _payload: NoPayload) -> None:
    """Die at once."""
    raise Refused("never")


def fail(_context: Context, _payload: NoPayload) -> None:
    """Fail, to be retried."""
    raise RuntimeError("not now")


REGISTRY = Registry(
    [
        workers.handler(noop),
        workers.handler(refuse),
        workers.handler(fail, backoff=Fixed(HOUR)),
        workers.handler(noop, name="heavy", own_run=True),
    ]
)


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
    return metadata_of(execute(instance, job, handlers, **config))


def failed(
    instance: dg.DagsterInstance, job: str = "run_due_jobs", handlers: Registry | None = None, **config: Any
) -> str:
    """The reason of a run that must fail at its only step, for good; it is one line."""
    return failure_of(execute(instance, job, handlers, **config))


def log_of(instance: dg.DagsterInstance, result: dg.ExecuteInProcessResult, level: int = 0) -> list[str]:
    """What the run logged itself, of this level or a higher one."""
    return [
        entry.user_message
        for entry in instance.all_logs(result.run_id)
        if entry.dagster_event is None and int(entry.level) >= level
    ]
