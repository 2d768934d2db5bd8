"""The job that sends webhook deliveries, and the sensor that starts it."""

import time

import dagster as dg
from pydantic import Field
from sqlalchemy import Connection

from flatearth_pipelines.dagster_coordinator import AT_ONCE
from flatearth_pipelines.errors import WrongSetting, WrongUsage
from flatearth_pipelines.instants import instant
from flatearth_pipelines.resources import Postgres, clear_failure, log_now_and_then
from flatearth_pipelines.secret_key import secret_key
from flatearth_pipelines.sensing import start_when_due
from flatearth_pipelines.settings import Settings
from flatearth_pipelines.webhooks.backlog_storage import has_just_happened, read_due, read_health, seconds_to_next

MOST_IN_FLIGHT = 1_000
MOST_PER_ENDPOINT = 100

_IN_FLIGHT = 200
_PER_ENDPOINT = 5
_LOCK = "flatearth.deliver_webhooks"
_LONGEST_STAY = 3_600

_LEAD_SECONDS = 2.0
"""How long before a delivery is due the sensor asks for a run: that takes about two seconds to begin."""

delivered_webhooks = dg.AssetSpec(
    "delivered_webhooks",
    group_name="webhooks",
    description="What became of deliveries, and how many wait: its Plots show them over the runs.",
    kinds={"postgres"},
)


class DeliverWebhooksConfig(dg.Config):
    """What a run may be told; every default is the ordinary run."""

    as_of: str | None = Field(
        default=None,
        description="The instant to judge by, in ISO 8601 with an offset (2026-11-22T09:00:00+00:00). Default: now.",
    )
    dry_run: bool = Field(default=False, description="Report how many would be tried, write nothing and send nothing.")
    in_flight: int = Field(default=_IN_FLIGHT, description=f"Requests at once, 1 to {MOST_IN_FLIGHT:,}.")
    per_endpoint: int = Field(
        default=_PER_ENDPOINT, description=f"Requests at once to one endpoint, 1 to {MOST_PER_ENDPOINT}."
    )
    stay_seconds: float = Field(default=0.0, description="How long to wait for more once nothing is due.")


@dg.op
def send_due_webhooks(context: dg.OpExecutionContext, config: DeliverWebhooksConfig, postgres: Postgres) -> None:
    """Send every delivery that is due, and record what came of it."""
    from flatearth_pipelines.webhooks.delivery import Delivery, Options, Report  # noqa: PLC0415 - aiohttp takes 0.2 s

    with clear_failure(), postgres.alone(context, _LOCK) as session:
        if isinstance(session, str):
            context.log.info(f"Nothing done: webhooks are being delivered by {session}")
            context.add_output_metadata({"skipped": True, "held_by": session, "completed": 0})
            return
        _check(config)
        as_of = None if config.as_of is None else instant(config.as_of)
        began = time.monotonic()
        report = Report()
        if config.dry_run:
            with session.begin():
                due = read_due(session, as_of)
            said = f"{due:,} deliveries are due and would be tried" if due else _NOTHING
        else:
            log = log_now_and_then(context)
            delivery = Delivery(
                session,
                Settings.from_environment(),
                Options(
                    as_of=as_of,
                    in_flight=config.in_flight,
                    per_endpoint=config.per_endpoint,
                    stay_seconds=config.stay_seconds,
                ),
                lambda far: log(f"{far.completed:,} deliveries completed so far, {far.retried:,} to be tried again"),
            )
            try:
                report = delivery.run()
            except BaseException:
                context.log.info(f"Stopped: {_sentence(delivery.report.outcomes)}")
                raise
            due, said = report.outcomes.total(), _sentence(report.outcomes)
        with session.begin():
            health = read_health(session)
    context.log.info(said)
    counts = {
        "completed": report.completed,
        "retried": report.retried,
        "errored": report.errored,
        "endpoints_newly_open": report.opened,
        "endpoints_newly_disabled": report.disabled,
    }
    context.add_output_metadata(
        {
            **counts,
            "due": due,
            "attempts_by_code": _table(report.outcomes),
            "rescued": report.rescued,
            "handed_back": report.handed_back,
            "lost_to_others": report.lost_to_others,
            **health,
            "seconds": time.monotonic() - began,
            "dry_run": config.dry_run,
        }
    )
    if not config.dry_run:
        context.log_event(dg.AssetMaterialization(delivered_webhooks.key, metadata={**counts, **health}))


_NOTHING = "Nothing to do: no delivery is due"


def _check(config: DeliverWebhooksConfig) -> None:
    if not 1 <= config.in_flight <= MOST_IN_FLIGHT:
        raise WrongUsage(f"in_flight is {config.in_flight}: it takes 1 to {MOST_IN_FLIGHT:,}")
    if not 1 <= config.per_endpoint <= MOST_PER_ENDPOINT:
        raise WrongUsage(f"per_endpoint is {config.per_endpoint}: it takes 1 to {MOST_PER_ENDPOINT}")
    if not 0 <= config.stay_seconds <= _LONGEST_STAY:  # which no NaN is
        raise WrongUsage(f"stay_seconds is {config.stay_seconds:g}: it takes 0 to {_LONGEST_STAY:,}")


def _sentence(outcomes: dict[str, int]) -> str:
    told = ", ".join(f"{count:,} {code}" for code, count in _most_first(outcomes))
    return f"Attempts: {told}" if told else _NOTHING


def _table(outcomes: dict[str, int]) -> dg.TableMetadataValue:
    return dg.MetadataValue.table(
        records=[dg.TableRecord({"code": code, "attempts": count}) for code, count in _most_first(outcomes)],
        schema=dg.TableSchema([dg.TableColumn("code", "string"), dg.TableColumn("attempts", "int")]),
    )


def _most_first(outcomes: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(outcomes.items(), key=lambda row: (-row[1], row[0]))


@dg.job(tags={"feature": "webhooks", ".dagster/repository": "__repository__@flatearth"} | AT_ONCE)
def deliver_webhooks() -> None:
    """Send the webhook deliveries that are due."""
    send_due_webhooks()


@dg.sensor(
    job=deliver_webhooks,
    minimum_interval_seconds=1,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Starts a run shortly before a delivery is due, unless one is at work: it waits inside its tick.",
)
def deliver_webhooks_when_due(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Wait up to 25 s for a delivery to be about to be due."""
    try:
        secret_key(Settings.from_environment())
    except WrongSetting as error:  # a run would fail of it, and another one, and another one
        return dg.SkipReason(str(error))
    return start_when_due(context, "deliver_webhooks", lock=_LOCK, is_due=_is_about_to_be_due, run_config=_STAYING)


def _is_about_to_be_due(connection: Connection) -> bool:
    seconds = seconds_to_next(connection)
    # A run takes as long to start as the one that dispatches: it is asked for at the same time, and waits for that.
    return (seconds is not None and seconds <= _LEAD_SECONDS) or has_just_happened(connection)


_STAYING = dg.RunConfig(ops={"send_due_webhooks": DeliverWebhooksConfig(stay_seconds=20.0)})
"""A run that was started by the sensor stays for a while, so that what is dispatched next is sent at once."""

defs = dg.Definitions(assets=[delivered_webhooks], jobs=[deliver_webhooks], sensors=[deliver_webhooks_when_due])
