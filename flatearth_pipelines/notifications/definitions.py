"""The job that tells people of new events and mentions, and the sensor that starts it."""

import time

import dagster as dg
from pydantic import Field

from flatearth_pipelines.dagster_coordinator import AT_ONCE
from flatearth_pipelines.errors import WrongUsage
from flatearth_pipelines.notifications.backlog_storage import is_anything_new, read_backlog
from flatearth_pipelines.notifications.outcome import BATCH_SIZE, Outcome
from flatearth_pipelines.resources import Postgres, clear_failure, log_now_and_then
from flatearth_pipelines.sensing import start_when_due

LARGEST_BATCH = 10_000

_LOCK = "flatearth.notify_recipients"
_LONGEST_SECONDS = 86_400

created_notifications = dg.AssetSpec(
    "created_notifications",
    group_name="notifications",
    description="What notify_recipients wrote, and what waits: its Plots show them over the runs.",
    kinds={"postgres"},
)


class NotifyConfig(dg.Config):
    """What a run may be told; every default is the ordinary run."""

    batch_size: int = Field(
        default=BATCH_SIZE, description=f"Events, or texts, in one transaction, 1 to {LARGEST_BATCH:,}."
    )
    stay_seconds: float = Field(default=0.0, description="How long to wait for more once nothing is new.")
    longest_seconds: float = Field(default=900.0, description="After this nothing is begun; the next run goes on.")


@dg.op
def notify_people(context: dg.OpExecutionContext, config: NotifyConfig, postgres: Postgres) -> None:
    """Turn every new event and mention into notifications, each in its person's window."""
    from flatearth_pipelines.notifications.notifying import notify  # noqa: PLC0415 - every other run starts without Polars

    with clear_failure(), postgres.alone(context, _LOCK) as session:
        if isinstance(session, str):
            context.log.info(f"Nothing done: people are being told by {session}")
            context.add_output_metadata({"skipped": True, "held_by": session, "notifications": 0})
            return
        _check(config)
        began = time.monotonic()
        log = log_now_and_then(context)
        outcome = notify(
            session,
            batch_size=config.batch_size,
            stay_seconds=config.stay_seconds,
            longest_seconds=config.longest_seconds,
            progress=lambda so_far: log(f"{so_far.notifications:,} notifications of {so_far.events:,} events so far"),
        )
        with session.begin():
            backlog = read_backlog(session)
    _report(context, outcome, backlog, time.monotonic() - began)


def _check(config: NotifyConfig) -> None:
    if not 1 <= config.batch_size <= LARGEST_BATCH:
        raise WrongUsage(f"batch_size is {config.batch_size}: it takes 1 to {LARGEST_BATCH:,}")
    for name in ("stay_seconds", "longest_seconds"):
        seconds = getattr(config, name)
        if not 0 <= seconds <= _LONGEST_SECONDS:  # which no NaN is
            raise WrongUsage(f"{name} is {seconds:g}: it takes 0 to {_LONGEST_SECONDS:,}")


def _report(context: dg.OpExecutionContext, outcome: Outcome, backlog: dict[str, int], seconds: float) -> None:
    counts = {
        "notifications": outcome.notifications,
        "mentions": outcome.mentions,
        "events": outcome.events,
        "windows_opened": outcome.bundles,
        "held_back": outcome.held_back,
    }
    context.log.info(_sentence(outcome))
    if outcome.held_back:
        context.log.warning(
            f"{outcome.held_back:,} events or texts wait: a session does not let go of the row of somebody they are for"
        )
    context.add_output_metadata(
        {
            **counts,
            "notifications_by_action": _table(outcome),
            "texts": outcome.texts,
            **backlog,
            "seconds": seconds,
        }
    )
    context.log_event(dg.AssetMaterialization(created_notifications.key, metadata={**counts, **backlog}))


def _sentence(outcome: Outcome) -> str:
    if outcome.events == outcome.texts == 0:
        return "Nothing to do: no event is new"
    return (
        f"{outcome.notifications:,} notifications of {outcome.events:,} events and {outcome.mentions:,} mentions;"
        f" {outcome.bundles:,} windows opened"
    )


def _table(outcome: Outcome) -> dg.TableMetadataValue:
    most_first = sorted(outcome.by_action.items(), key=lambda row: (-row[1], row[0]))
    return dg.MetadataValue.table(
        records=[dg.TableRecord({"action": action, "notifications": many}) for action, many in most_first],
        schema=dg.TableSchema([dg.TableColumn("action", "string"), dg.TableColumn("notifications", "int")]),
    )


@dg.job(tags={"feature": "notifications", ".dagster/repository": "__repository__@flatearth"} | AT_ONCE)
def notify_recipients() -> None:
    """Tell people of what is new: of events, and of mentions in titles and comments."""
    notify_people()


@dg.sensor(
    job=notify_recipients,
    minimum_interval_seconds=1,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Starts a run when there are new events or texts and none is at work: it waits inside its tick.",
)
def notify_recipients_on_new_events(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Wait up to 25 s for something new."""
    return start_when_due(context, "notify_recipients", lock=_LOCK, is_due=is_anything_new, run_config=_STAYING)


_STAYING = dg.RunConfig(ops={"notify_people": NotifyConfig(stay_seconds=20)})
"""A run that was started by the sensor stays for a while, so that the next events are told at once."""

defs = dg.Definitions(
    assets=[created_notifications], jobs=[notify_recipients], sensors=[notify_recipients_on_new_events]
)
