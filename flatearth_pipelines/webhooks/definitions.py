"""The job that turns new events into webhook deliveries, and the sensor that starts it."""

import time

import dagster as dg
from pydantic import Field

from flatearth_pipelines.dagster_coordinator import AT_ONCE
from flatearth_pipelines.errors import WrongUsage
from flatearth_pipelines.resources import Postgres, clear_failure, log_now_and_then
from flatearth_pipelines.sensing import start_when_due
from flatearth_pipelines.webhooks import dispatch_storage
from flatearth_pipelines.webhooks.dispatching import BATCH_SIZE, Outcome, dispatch_new

LARGEST_BATCH = 50_000

_LOCK = "flatearth.dispatch_webhooks"
_LONGEST_SECONDS = 86_400

dispatched_events = dg.AssetSpec(
    "dispatched_events",
    group_name="webhooks",
    description="Deliveries that dispatch_webhooks wrote, and events that wait: its Plots show them over the runs.",
    kinds={"postgres"},
)


class DispatchConfig(dg.Config):
    """What a run may be told; every default is the ordinary run."""

    dry_run: bool = Field(default=False, description="Report the same numbers and write nothing.")
    batch_size: int = Field(default=BATCH_SIZE, description=f"Events in one transaction, 1 to {LARGEST_BATCH:,}.")
    stay_seconds: float = Field(default=0.0, description="How long to wait for more once nothing is new.")
    longest_seconds: float = Field(default=900.0, description="After this nothing is begun; the next run goes on.")


@dg.op
def dispatch_events(context: dg.OpExecutionContext, config: DispatchConfig, postgres: Postgres) -> None:
    """Write a delivery of every new event for each endpoint that wants to hear of it."""
    with clear_failure(), postgres.alone(context, _LOCK) as session:
        if isinstance(session, str):
            context.log.info(f"Nothing done: events are being dispatched by {session}")
            context.add_output_metadata({"skipped": True, "held_by": session, "deliveries": 0})
            return
        _check(config)
        began = time.monotonic()
        if config.dry_run:
            outcome = Outcome()
            with session.begin():
                outcome.add(dispatch_storage.rehearse(session))
        else:
            log = log_now_and_then(context)
            outcome = dispatch_new(
                session,
                batch_size=config.batch_size,
                stay_seconds=config.stay_seconds,
                longest_seconds=config.longest_seconds,
                progress=lambda far: log(f"{far.by_action.total():,} deliveries of {far.events:,} events so far"),
            )
        with session.begin():
            waiting = dispatch_storage.read_waiting(session)
    _report(context, config, outcome, waiting, time.monotonic() - began)


def _check(config: DispatchConfig) -> None:
    if not 1 <= config.batch_size <= LARGEST_BATCH:
        raise WrongUsage(f"batch_size is {config.batch_size}: it takes 1 to {LARGEST_BATCH:,}")
    for name in ("stay_seconds", "longest_seconds"):
        seconds = getattr(config, name)
        if not 0 <= seconds <= _LONGEST_SECONDS:  # which no NaN is
            raise WrongUsage(f"{name} is {seconds:g}: it takes 0 to {_LONGEST_SECONDS:,}")


def _report(
    context: dg.OpExecutionContext, config: DispatchConfig, outcome: Outcome, waiting: int, seconds: float
) -> None:
    counts = {"deliveries": outcome.by_action.total(), "events": outcome.events, "events_waiting": waiting}
    context.log.info(_sentence(outcome, dry_run=config.dry_run))
    context.add_output_metadata(
        {**counts, "deliveries_by_action": _table(outcome), "seconds": seconds, "dry_run": config.dry_run}
    )
    if not config.dry_run:
        context.log_event(dg.AssetMaterialization(dispatched_events.key, metadata=counts))


def _sentence(outcome: Outcome, *, dry_run: bool) -> str:
    if not outcome.events:
        return "Nothing to do: no event is new that an endpoint wants to hear of"
    done = "would be written" if dry_run else "written"
    return f"{outcome.by_action.total():,} deliveries of {outcome.events:,} events {done}"


def _table(outcome: Outcome) -> dg.TableMetadataValue:
    most_first = sorted(outcome.by_action.items(), key=lambda row: (-row[1], row[0]))
    return dg.MetadataValue.table(
        records=[dg.TableRecord({"action": action, "deliveries": many}) for action, many in most_first],
        schema=dg.TableSchema([dg.TableColumn("action", "string"), dg.TableColumn("deliveries", "int")]),
    )


@dg.job(tags={"feature": "webhooks", ".dagster/repository": "__repository__@flatearth"} | AT_ONCE)
def dispatch_webhooks() -> None:
    """Turn new events into deliveries, one for each endpoint that wants to hear of them."""
    dispatch_events()


@dg.sensor(
    job=dispatch_webhooks,
    minimum_interval_seconds=1,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Starts a run when there are new events and none is at work: it waits inside its tick.",
)
def dispatch_webhooks_on_new_events(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Wait up to 25 s for something new."""
    return start_when_due(
        context, "dispatch_webhooks", lock=_LOCK, is_due=dispatch_storage.is_anything_new, run_config=_STAYING
    )


_STAYING = dg.RunConfig(ops={"dispatch_events": DispatchConfig(stay_seconds=20)})
"""A run that was started by the sensor stays for a while, so that the next events are dispatched at once."""

defs = dg.Definitions(assets=[dispatched_events], jobs=[dispatch_webhooks], sensors=[dispatch_webhooks_on_new_events])
