"""The jobs that delete what is over, each with its nightly schedule: one for each target of `retention.py`."""

import time
from datetime import datetime

import dagster as dg
from pydantic import Field

from flatearth_pipelines.cleanup.outcome import Swept
from flatearth_pipelines.cleanup.retention import LARGEST_BATCH, MOST_SECONDS, RETENTIONS, Retention, in_words
from flatearth_pipelines.cleanup.sweeping import rehearse, sweep
from flatearth_pipelines.cleanup.targets import parts_of
from flatearth_pipelines.resources import Clock, Postgres, clear_failure, log_now_and_then
from flatearth_pipelines.settings import Settings


class SweepConfig(dg.Config):
    """What a run may be told; every default is the ordinary run."""

    as_of: str | None = Field(
        default=None,
        description="The instant to judge by, in ISO 8601 with an offset (2026-11-22T09:00:00+00:00). Default: now.",
    )
    dry_run: bool = Field(default=False, description="Report the same numbers and delete nothing.")
    keep_for: str | None = Field(
        default=None, description="What is exactly so old stays: '7 days', '36 hours'. Default: see retention.py."
    )
    batch_size: int | None = Field(
        default=None, description=f"Rows in one transaction, 1 to {LARGEST_BATCH:,}. Default: see retention.py."
    )
    max_seconds: float | None = Field(
        default=None,
        description=f"After this no batch is begun and the next run goes on, 0 to {MOST_SECONDS:,}. Default: 60.",
    )


def _definitions(retention: Retention) -> dg.Definitions:
    """The op, the job and the schedule of a target, and the asset that plots what it deletes."""
    deleted = dg.AssetSpec(
        f"deleted_{retention.target}",
        group_name="cleanup",
        description=f"What {retention.job} deletes, and what remains that is due: its Plots show them over the runs.",
        kinds={"postgres"},
    )

    @dg.op(name=f"sweep_{retention.target}", description=retention.sentence)
    def sweep_target(context: dg.OpExecutionContext, config: SweepConfig, postgres: Postgres, clock: Clock) -> None:
        with clear_failure(), postgres.alone(context, f"flatearth.{retention.job}") as session:
            if isinstance(session, str):
                context.log.info(f"Nothing done: the same work is being done by {session}")
                context.add_output_metadata({"skipped": True, "held_by": session, "deleted": 0})
                return
            ours = retention.changed(
                keep_for=config.keep_for, batch_size=config.batch_size, max_seconds=config.max_seconds
            )
            as_of = clock.as_of(session, config.as_of)
            began = time.monotonic()
            parts = parts_of(ours, Settings.from_environment)
            if config.dry_run:
                swept = rehearse(session, parts, as_of)
            else:
                swept = Swept()
                log = log_now_and_then(context)
                try:
                    sweep(
                        session,
                        ours,
                        parts,
                        as_of,
                        swept=swept,
                        progress=lambda: log(f"{swept.told() or 'nothing'} deleted so far"),
                    )
                except BaseException:
                    context.log.info(f"Stopped: {swept.told() or 'nothing'} deleted")
                    raise
        _report(context, ours, as_of, swept, deleted, dry_run=config.dry_run, seconds=time.monotonic() - began)

    @dg.job(
        name=retention.job,
        description=retention.sentence,
        tags={"feature": "cleanup", ".dagster/repository": "__repository__@flatearth"},
    )
    def job() -> None:
        sweep_target()

    schedule = dg.ScheduleDefinition(
        name=f"{retention.job}_daily",
        job=job,
        cron_schedule=retention.cron,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"Every night: {retention.sentence[0].lower()}{retention.sentence[1:]}",
    )
    return dg.Definitions(assets=[deleted], jobs=[job], schedules=[schedule])


def _report(
    context: dg.OpExecutionContext,
    retention: Retention,
    as_of: datetime,
    swept: Swept,
    asset: dg.AssetSpec,
    *,
    dry_run: bool,
    seconds: float,
) -> None:
    context.log.info(_sentence(retention, swept, dry_run=dry_run))
    for warning in swept.warnings(retention.what, retention.max_seconds):
        context.log.warning(warning)
    context.add_output_metadata(
        {
            **swept.summary(),
            "keep_for": in_words(retention.keep_for),
            "as_of": as_of.isoformat(),
            "seconds": seconds,
            "dry_run": dry_run,
        }
    )
    if not dry_run:
        context.log_event(dg.AssetMaterialization(asset.key, metadata=swept.counts()))


def _sentence(retention: Retention, swept: Swept, *, dry_run: bool) -> str:
    told = swept.told()
    if told:
        return f"{told} {'would be deleted' if dry_run else 'deleted'}"
    return f"Nothing to do: there are no {retention.what} to delete"


defs = dg.Definitions.merge(*map(_definitions, RETENTIONS.values()))
