"""Jobs for people who live in the UI: retry, cancel, pause and resume in the launchpad; and the history's clean-up."""

from datetime import timedelta

import dagster as dg
import sqlalchemy as sa
from pydantic import Field

from flatearth_pipelines.errors import WrongUsage
from flatearth_pipelines.queue import functions, storage
from flatearth_pipelines.queue.handlers import Registry
from flatearth_pipelines.resources import Postgres, clear_failure

_TAGS = {"feature": "queue", ".dagster/repository": "__repository__@flatearth"}


class JobsConfig(dg.Config):
    """Which jobs an operator means."""

    ids: list[int] = Field(default=[], description="These jobs.")
    handler: str | None = Field(default=None, description="Or all jobs of this handler, the newest first.")
    limit: int = Field(default=1_000, description="At most so many.")
    dry_run: bool = Field(default=False, description="Say which, and change nothing.")


_WHOLE_QUEUE = "*"


class HandlerConfig(dg.Config):
    """What an operator pauses or resumes."""

    handler: str = Field(default=_WHOLE_QUEUE, description="A handler; * is the whole queue.")


class RetentionConfig(dg.Config):
    """How long ended jobs are kept."""

    keep_finished_days: float = Field(default=7.0, description="Succeeded and cancelled jobs.")
    keep_failed_days: float = Field(default=30.0, description="Failed jobs.")


@dg.op
def retry_ended_jobs(context: dg.OpExecutionContext, config: JobsConfig, postgres: Postgres) -> None:
    """Make failed or cancelled jobs wait again."""
    with clear_failure(), postgres.connection(context) as connection, connection.begin() as transaction:
        ids = []
        for job_id in _meant(connection, config, states=("failed",)):
            try:
                with connection.begin_nested():
                    ids.append(functions.retry_job(connection, job_id))
            except WrongUsage as error:
                if config.ids:
                    raise
                context.log.warning(f"Left alone: {error}")
        if config.dry_run:
            transaction.rollback()
        context.add_output_metadata({"retried": len(ids), "job_ids": ids[:100], "dry_run": config.dry_run})


@dg.op
def cancel_unfinished_jobs(context: dg.OpExecutionContext, config: JobsConfig, postgres: Postgres) -> None:
    """Cancel waiting jobs, and tell running ones to stop."""
    with clear_failure(), postgres.connection(context) as connection, connection.begin() as transaction:
        meant = _meant(connection, config, states=("pending", "running"))
        ids = [job_id for job_id in meant if functions.cancel_job(connection, job_id)]
        if config.dry_run:
            transaction.rollback()
        context.add_output_metadata({"cancelled": len(ids), "job_ids": ids[:100], "dry_run": config.dry_run})


@dg.op
def pause_handler(
    context: dg.OpExecutionContext, config: HandlerConfig, postgres: Postgres, job_handlers: dg.ResourceParam[Registry]
) -> None:
    """Start nothing more of a handler, or of the whole queue."""
    with clear_failure(), postgres.connection(context) as connection, connection.begin():
        if config.handler != _WHOLE_QUEUE:
            job_handlers[config.handler]  # who mistypes it is to hear of it
        changed = functions.pause_jobs(connection, config.handler)
        context.add_output_metadata({"changed": changed, "paused": storage.read_pauses(connection)})


@dg.op
def resume_handler(context: dg.OpExecutionContext, config: HandlerConfig, postgres: Postgres) -> None:
    """Go on with a handler, or with the whole queue."""
    with clear_failure(), postgres.connection(context) as connection, connection.begin():
        changed = functions.resume_jobs(connection, config.handler)
        context.add_output_metadata({"changed": changed, "paused": storage.read_pauses(connection)})


@dg.op
def drop_old_jobs(context: dg.OpExecutionContext, config: RetentionConfig, postgres: Postgres) -> None:
    """Drop the days of history that are over."""
    with clear_failure(), postgres.connection(context) as connection, connection.begin():
        for name in ("keep_finished_days", "keep_failed_days"):
            if not 0 <= getattr(config, name) <= 36_500:  # noqa: PLR2004 - which no NaN is
                raise WrongUsage(f"{name} is {getattr(config, name):g}: it takes 0 to 36,500")
        keep = timedelta(days=config.keep_finished_days), timedelta(days=config.keep_failed_days)
        dropped = storage.drop_history(connection, *keep)
        made = storage.make_partitions(connection)
        context.add_output_metadata({"dropped": dropped, "days_dropped": len(dropped), "days_made": made})


def _meant(connection: sa.Connection, config: JobsConfig, states: tuple[str, ...]) -> list[int]:
    if config.ids and config.handler:
        raise WrongUsage("Name jobs by ids or by handler, not both")
    if not config.ids and not config.handler:
        raise WrongUsage("Name the jobs: ids or a handler")
    if config.limit < 1:
        raise WrongUsage(f"limit is {config.limit}: it takes 1 or more")
    if config.ids:
        return config.ids[: config.limit]
    rows = storage.read_jobs(connection, states=states, handler=config.handler, limit=config.limit)
    return [row["id"] for row in rows]


@dg.job(tags=_TAGS)
def retry_jobs() -> None:
    """Retry failed jobs: in the launchpad, name ids or a handler."""
    retry_ended_jobs()


@dg.job(tags=_TAGS)
def cancel_jobs() -> None:
    """Cancel unfinished jobs: in the launchpad, name ids or a handler."""
    cancel_unfinished_jobs()


@dg.job(tags=_TAGS)
def pause_jobs() -> None:
    """Pause the queue, or one handler."""
    pause_handler()


@dg.job(tags=_TAGS)
def resume_jobs() -> None:
    """Resume the queue, or one handler."""
    resume_handler()


@dg.job(tags=_TAGS)
def delete_finished_jobs() -> None:
    """Drop the history of jobs: succeeded and cancelled ones after 7 days, failed ones after 30."""
    drop_old_jobs()


delete_finished_jobs_daily = dg.ScheduleDefinition(
    name="delete_finished_jobs_daily",
    job=delete_finished_jobs,
    cron_schedule="40 3 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Drop old job history every night.",
)

defs = dg.Definitions(
    jobs=[retry_jobs, cancel_jobs, pause_jobs, resume_jobs, delete_finished_jobs],
    schedules=[delete_finished_jobs_daily],
)
