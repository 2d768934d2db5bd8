"""The jobs that drain the queue, what starts them, and jobs for people who live in the UI."""

import time
from collections.abc import Iterator
from datetime import timedelta

import dagster as dg
import sqlalchemy as sa
from pydantic import Field

from flatearth_pipelines import database, mailer
from flatearth_pipelines.dagster_coordinator import AT_ONCE
from flatearth_pipelines.errors import FlatEarthError, WrongUsage
from flatearth_pipelines.queue import storage
from flatearth_pipelines.queue.alerts import alert_text, summary
from flatearth_pipelines.queue.clerk import MOST_A_CLAIM, Options
from flatearth_pipelines.queue.drain import Drain
from flatearth_pipelines.queue.handlers import Registry
from flatearth_pipelines.queue.ledger import OUTCOMES, Report
from flatearth_pipelines.resources import Postgres, clear_failure
from flatearth_pipelines.sensing import AT_WORK, ON_ITS_WAY, on_its_way, wait_for_work
from flatearth_pipelines.settings import Settings

_TAGS = {"feature": "queue", ".dagster/repository": "__repository__@flatearth"}

_AHEAD = timedelta(seconds=2)
"""A drain takes about as long to start: it is asked for so long before a job is due, and waits for it."""

_MOST_OWN_RUNS = 2

queue_health = dg.AssetSpec(
    "queue_health",
    group_name="queue",
    description="Jobs that wait, run and are dead, the oldest wait, the throughput: its Plots show them over the runs.",
    kinds={"postgres"},
)


class DrainConfig(dg.Config):
    """What a drain may be told; every default is the ordinary run."""

    concurrency: int = Field(default=10, description="Jobs at work at once, 1 to 100.")
    batch_size: int = Field(default=MOST_A_CLAIM, description="Jobs in one claim at most, 1 to 1,000.")
    stay_seconds: float = Field(default=0.0, description="How long to wait for more once nothing is due.")
    longest_seconds: float = Field(default=900.0, description="After this nothing is claimed; the next run goes on.")
    lease_seconds: float = Field(
        default=300.0, description="How long the jobs of a worker that is lost wait to be run again. It is renewed."
    )
    grace_seconds: float = Field(default=10.0, description="How long running jobs may finish when the run is stopped.")
    alongside: bool = Field(default=False, description="Drain although another run does: for several workers.")


@dg.op
def drain_due_jobs(
    context: dg.OpExecutionContext, config: DrainConfig, postgres: Postgres, job_handlers: dg.ResourceParam[Registry]
) -> None:
    """Run every job that is due, with a bounded number at once."""
    with clear_failure():
        _check(config)
        if config.alongside:
            _drain(context, config, job_handlers, own_run=False)
        else:
            with postgres.alone(context, "flatearth.run_due_jobs") as session:
                if isinstance(session, str):
                    context.log.info(f"Nothing done: the jobs are being run by {session}")
                    context.add_output_metadata({"skipped": True, "held_by": session, "succeeded": 0})
                    return
                _drain(context, config, job_handlers, own_run=False)
        _tell_of_dead_jobs(context)  # without the lock: a mail server may take its time


@dg.op
def drain_heavy_job(
    context: dg.OpExecutionContext, config: DrainConfig, job_handlers: dg.ResourceParam[Registry]
) -> None:
    """Run one due job that asks for a run of its own."""
    with clear_failure():
        _check(config)
        _drain(context, config, job_handlers, own_run=True)
        _tell_of_dead_jobs(context)


def _check(config: DrainConfig) -> None:
    if not 1 <= config.concurrency <= 100:  # noqa: PLR2004
        raise WrongUsage(f"concurrency is {config.concurrency}: it takes 1 to 100")
    if not 1 <= config.batch_size <= MOST_A_CLAIM:
        raise WrongUsage(f"batch_size is {config.batch_size}: it takes 1 to {MOST_A_CLAIM:,}")
    for name, least in (("lease_seconds", 1), ("stay_seconds", 0), ("longest_seconds", 0), ("grace_seconds", 0)):
        seconds = getattr(config, name)
        if not least <= seconds <= 86_400:  # noqa: PLR2004 - which no NaN is
            raise WrongUsage(f"{name} is {seconds:g}: it takes {least} to 86,400")


def _drain(context: dg.OpExecutionContext, config: DrainConfig, registry: Registry, *, own_run: bool) -> None:
    conninfo = database.prepare(Settings.from_environment())
    options = Options(
        concurrency=1 if own_run else config.concurrency,
        batch_size=config.batch_size,
        lease=timedelta(seconds=config.lease_seconds),
        stay=timedelta(seconds=config.stay_seconds),
        longest=timedelta(seconds=config.longest_seconds),
        grace=timedelta(seconds=config.grace_seconds),
        own_run=own_run,
    )
    drain = Drain(conninfo, registry, f"flatearth {context.job_name} {context.run_id[:8]}", options)
    began = time.monotonic()
    try:
        drain.run_in_thread(lambda: context.log.info("Stopping: nothing more is claimed, what runs may finish"))
    except BaseException:
        report = drain.report
        told = f"{report.total('succeeded'):,} jobs were done, {report.total('handed back'):,} handed back"
        context.log.info(f"Stopped: {told}")
        raise
    finally:
        _report(context, conninfo, drain.report, time.monotonic() - began)


def _report(context: dg.OpExecutionContext, conninfo: str, report: Report, seconds: float) -> None:
    application = f"flatearth {context.job_name} {context.run_id[:8]}"
    with database.connections(conninfo, application) as pool, pool.begin() as connection:
        health = storage.read_health(connection)
    totals = {name.replace(" ", "_"): report.total(name) for name in OUTCOMES}
    context.log.info(_sentence(report, seconds))
    context.add_output_metadata(
        {
            **totals,
            "by_handler": _table(report),
            "claimed": report.claimed,
            "rescued": report.rescued,
            "cron_ticks": report.cron_ticks,
            "lost_to_others": report.fenced,
            "seconds": seconds,
        }
    )
    context.log_event(dg.AssetMaterialization(queue_health.key, metadata=health))


def _tell_of_dead_jobs(context: dg.OpExecutionContext) -> None:
    """A mail for each handler; once one cannot be sent the others are left to the next run too."""
    settings = Settings.from_environment()
    application = f"flatearth {context.job_name} {context.run_id[:8]}"
    with database.connections(database.prepare(settings), application) as pool:
        with pool.begin() as connection:
            handlers = storage.handlers_to_tell_of(connection)
        try:
            for handler in handlers:
                with pool.begin() as connection:
                    alert = storage.take_alert(connection, handler)
                    if alert is None:
                        continue
                    context.log.warning(summary(alert))
                    if settings.alert_email:
                        subject, text = alert_text(alert)
                        mailer.send(settings, mailer.text_message(settings, settings.alert_email, subject, text))
        except mailer.MailNotSent as error:
            context.log.warning(f"{error}; the next run tells of what nobody was told of yet")


def _sentence(report: Report, seconds: float) -> str:
    if not report.outcomes:
        return "Nothing to do: no job was due"
    told = ", ".join(f"{report.total(outcome):,} {outcome}" for outcome in OUTCOMES if report.total(outcome))
    return f"{told} in {seconds:.1f} s"


def _table(report: Report) -> dg.TableMetadataValue:
    return dg.MetadataValue.table(
        records=[
            dg.TableRecord({"handler": handler, "outcome": outcome, "jobs": jobs})
            for (handler, outcome), jobs in sorted(report.outcomes.items())
        ],
        schema=dg.TableSchema(
            [dg.TableColumn("handler", "string"), dg.TableColumn("outcome", "string"), dg.TableColumn("jobs", "int")]
        ),
    )


@dg.job(tags=_TAGS | AT_ONCE)
def run_due_jobs() -> None:
    """Run the one-off and recurring jobs that are due."""
    drain_due_jobs()


@dg.job(tags=_TAGS)
def run_heavy_job() -> None:
    """Run one due job of a handler that asks for a run of its own, such as an export."""
    drain_heavy_job()


@dg.schedule(
    job=run_due_jobs,
    cron_schedule="*/5 * * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="The fallback of the sensor; rescues the jobs of lost workers.",
)
def run_due_jobs_every_5_minutes() -> Iterator[dg.RunRequest | dg.SkipReason]:
    """Start a drain, unless one is at work: that one does all of this itself."""
    try:
        with database.transaction(Settings.from_environment(), "flatearth run_due_jobs_every_5_minutes") as connection:
            drained = storage.is_being_drained(connection)
    except FlatEarthError as error:
        yield dg.SkipReason(str(error))
        return
    yield dg.SkipReason("A run is at work") if drained else dg.RunRequest()


@dg.sensor(
    jobs=[run_due_jobs, run_heavy_job],
    minimum_interval_seconds=1,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Starts a drain when jobs are due and none is at work: it waits inside its tick instead of polling.",
)
def run_due_jobs_when_due(context: dg.SensorEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """Wait up to 25 s for something to be due."""

    def look(connection: sa.Connection) -> list[dg.RunRequest] | str:
        light, heavy = storage.is_due(connection, ahead=_AHEAD)
        drained = storage.is_being_drained(connection)
        requests = []
        if light and not drained and not on_its_way(context, "run_due_jobs"):
            requests.append(dg.RunRequest(job_name="run_due_jobs", run_config=_STAYING))
        if heavy and on_its_way(context, "run_heavy_job", started=True) < _MOST_OWN_RUNS:
            requests.append(dg.RunRequest(job_name="run_heavy_job"))
        if requests or not light:
            return requests or ""
        return AT_WORK if drained else ON_ITS_WAY

    found = wait_for_work("flatearth run_due_jobs_when_due", look)
    yield from [found] if isinstance(found, dg.SkipReason) else found


_STAYING = dg.RunConfig(ops={"drain_due_jobs": DrainConfig(stay_seconds=30)})
"""A drain that was started by the sensor stays for a while, so that the next jobs begin at once."""


defs = dg.Definitions(
    assets=[queue_health],
    jobs=[run_due_jobs, run_heavy_job],
    schedules=[run_due_jobs_every_5_minutes],
    sensors=[run_due_jobs_when_due],
)
