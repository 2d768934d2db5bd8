"""The job that mails the windows that are over, and what starts it."""

import time
from collections.abc import Iterator

import dagster as dg
from pydantic import Field
from sqlalchemy import Connection

from flatearth_pipelines.dagster_coordinator import AT_ONCE
from flatearth_pipelines.errors import WrongSetting, WrongUsage
from flatearth_pipelines.instants import instant
from flatearth_pipelines.notifications.backlog_storage import read_health, seconds_to_next
from flatearth_pipelines.notifications.delivery import BATCH_SIZE, CONNECTIONS, Delivery, Options, Report, rehearse
from flatearth_pipelines.resources import Postgres, clear_failure, log_now_and_then
from flatearth_pipelines.secret_key import secret_key
from flatearth_pipelines.sensing import start_when_due
from flatearth_pipelines.settings import Settings

LARGEST_BATCH = 1_000
MOST_CONNECTIONS = 32

_LOCK = "flatearth.deliver_bundles"
_TAGS = {"feature": "notifications", ".dagster/repository": "__repository__@flatearth"}
_LONGEST_STAY = 3_600
_LONGEST_ANSWER = 30

_LEAD_SECONDS = 2.5
"""How long before a window's end the sensor asks for a run: that takes about two seconds to begin."""

_WITHOUT_MAIL = (
    "nothing_unread",
    "never",
    "suppressed",
    "user_inactive",
    "no_address",
    "account_cancelled",
)

delivered_bundles = dg.AssetSpec(
    "delivered_bundles",
    group_name="notifications",
    description="What became of bundles, and how many wait: its Plots show them over the runs.",
    kinds={"postgres"},
)


class DeliverBundlesConfig(dg.Config):
    """What a run may be told; every default is the ordinary run."""

    as_of: str | None = Field(
        default=None,
        description="The instant to judge by, in ISO 8601 with an offset (2026-11-22T09:00:00+00:00). Default: now.",
    )
    dry_run: bool = Field(default=False, description="Report what would be sent, write nothing and send nothing.")
    batch_size: int = Field(default=BATCH_SIZE, description=f"Bundles in one claim, 1 to {LARGEST_BATCH:,}.")
    connections: int = Field(
        default=CONNECTIONS, description=f"Connections to the mail server at once, 1 to {MOST_CONNECTIONS}."
    )
    stay_seconds: float = Field(default=0.0, description="How long to wait for more once nothing is due.")
    answer_seconds: float = Field(
        default=20.0, description=f"How long the mail server may take for one answer, more than 0 to {_LONGEST_ANSWER}."
    )


@dg.op
def mail_due_bundles(context: dg.OpExecutionContext, config: DeliverBundlesConfig, postgres: Postgres) -> None:
    """Send every person whose window is over one email with what is unread in it."""
    with clear_failure(), postgres.alone(context, _LOCK) as session:
        if isinstance(session, str):
            context.log.info(f"Nothing done: bundles are being delivered by {session}")
            context.add_output_metadata({"skipped": True, "held_by": session, "mailed": 0})
            return
        options = _options(config)
        began = time.monotonic()
        if config.dry_run:
            report = rehearse(session, options)
        else:
            log = log_now_and_then(context)
            delivery = Delivery(
                session,
                Settings.from_environment(),
                options,
                lambda report: log(f"{report.outcomes['mailed']:,} bundles mailed so far"),
            )
            try:
                report = delivery.run()
            except BaseException:
                context.log.info(f"Stopped: {_sentence(delivery.report, dry_run=False)}")
                raise
        with session.begin():
            health = read_health(session)
    _publish(context, config, report, health, time.monotonic() - began)


def _options(config: DeliverBundlesConfig) -> Options:
    if not 1 <= config.batch_size <= LARGEST_BATCH:
        raise WrongUsage(f"batch_size is {config.batch_size}: it takes 1 to {LARGEST_BATCH:,}")
    if not 1 <= config.connections <= MOST_CONNECTIONS:
        raise WrongUsage(f"connections is {config.connections}: it takes 1 to {MOST_CONNECTIONS}")
    if not 0 <= config.stay_seconds <= _LONGEST_STAY:  # which no NaN is
        raise WrongUsage(f"stay_seconds is {config.stay_seconds:g}: it takes 0 to {_LONGEST_STAY:,}")
    if not 0 < config.answer_seconds <= _LONGEST_ANSWER:
        raise WrongUsage(f"answer_seconds is {config.answer_seconds:g}: it takes more than 0 to {_LONGEST_ANSWER}")
    return Options(
        as_of=None if config.as_of is None else instant(config.as_of),
        batch_size=config.batch_size,
        connections=config.connections,
        stay_seconds=config.stay_seconds,
        answer_seconds=config.answer_seconds,
    )


def _publish(
    context: dg.OpExecutionContext,
    config: DeliverBundlesConfig,
    report: Report,
    health: dict[str, int],
    seconds: float,
) -> None:
    counts = {
        "mailed": report.outcomes["mailed"],
        "notifications_mailed": report.notifications,
        "without_mail": sum(report.outcomes[reason] for reason in _WITHOUT_MAIL),
        "retried": report.outcomes["retried"] + report.put_off,
        "undeliverable": report.outcomes["undeliverable"],
        "failed": report.outcomes["refused"] + report.outcomes["exhausted"],
    }
    context.log.info(_sentence(report, dry_run=config.dry_run))
    if report.outage is not None:
        context.log.warning(f"The mail server is away: {report.outage}. What is due waits for its next attempt")
    context.add_output_metadata(
        {
            **counts,
            "outcomes": _table(report),
            "rescued": report.rescued,
            "handed_back": report.outcomes["handed_back"],
            "lost_to_others": report.lost_to_others,
            **health,
            "seconds": seconds,
            "dry_run": config.dry_run,
        }
    )
    if not config.dry_run:
        context.log_event(dg.AssetMaterialization(delivered_bundles.key, metadata={**counts, **health}))


def _sentence(report: Report, *, dry_run: bool) -> str:
    outcomes = {name: count for name, count in report.outcomes.items() if count}
    if report.put_off:
        outcomes["put off"] = report.put_off
    if not outcomes:
        return "Nothing to do: no window is over"
    told = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in sorted(outcomes.items()))
    return f"Bundles that would end so: {told}" if dry_run else f"Bundles: {told}"


def _table(report: Report) -> dg.TableMetadataValue:
    return dg.MetadataValue.table(
        records=[
            dg.TableRecord({"outcome": outcome, "bundles": count})
            for outcome, count in sorted(report.outcomes.items(), key=lambda row: (-row[1], row[0]))
            if count
        ],
        schema=dg.TableSchema([dg.TableColumn("outcome", "string"), dg.TableColumn("bundles", "int")]),
    )


@dg.job(tags=_TAGS | AT_ONCE)
def deliver_bundles() -> None:
    """Send each person whose window is over one email with what is unread in it."""
    mail_due_bundles()


deliver_bundles_every_30_minutes = dg.ScheduleDefinition(
    name="deliver_bundles_every_30_minutes",
    job=deliver_bundles,
    cron_schedule="*/30 * * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="The fallback of the sensor.",
)


@dg.sensor(
    job=deliver_bundles,
    minimum_interval_seconds=1,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Starts a run shortly before a window ends, unless one is at work: it waits inside its tick.",
)
def deliver_bundles_when_due(context: dg.SensorEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """Wait up to 25 s for a window to be about to end."""
    try:
        secret_key(Settings.from_environment())
    except WrongSetting as error:  # a run would fail of it, and another one, and another one
        yield dg.SkipReason(str(error))
        return
    yield start_when_due(context, "deliver_bundles", lock=_LOCK, is_due=_is_about_to_be_due, run_config=_STAYING)


def _is_about_to_be_due(connection: Connection) -> bool:
    seconds = seconds_to_next(connection)
    return seconds is not None and seconds <= _LEAD_SECONDS


_STAYING = dg.RunConfig(ops={"mail_due_bundles": DeliverBundlesConfig(stay_seconds=10.0)})
"""A run that was started by the sensor stays for a while: it was started before something is due."""

defs = dg.Definitions(
    assets=[delivered_bundles],
    jobs=[deliver_bundles],
    schedules=[deliver_bundles_every_30_minutes],
    sensors=[deliver_bundles_when_due],
)
