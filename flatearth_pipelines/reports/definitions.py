"""The jobs that count days: one partition each, or a range in one run; and the schedule that counts the day before."""

from collections.abc import Iterator
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from flatearth_pipelines.reports.chart import CHARTED_DAYS, chart
from flatearth_pipelines.reports.days import check_countable, day_of, days_between, days_to_count, yesterday
from flatearth_pipelines.resources import Clock, Postgres, clear_failure, log_now_and_then

if TYPE_CHECKING:
    import polars as pl

    from flatearth_pipelines.reports.reporting import Reported

_TAGS = {"feature": "reports", ".dagster/repository": "__repository__@flatearth"}

_LISTED_DAYS = 100

DAYS = dg.DailyPartitionsDefinition(start_date="2025-01-01", timezone="UTC")
"""Every day that is over. `daily_report_range` and `flatearth reports backfill` count those before, too."""

daily_report_figures = dg.AssetSpec(
    "daily_report_figures",
    partitions_def=DAYS,
    group_name="reports",
    description="What each day came to, over all accounts: its Plots show it over the days.",
    kinds={"postgres"},
)


class CountingConfig(dg.Config):
    """What a run may be told; every default is the ordinary run."""

    as_of: str | None = Field(
        default=None,
        description="The instant by which days are over, in ISO 8601 with an offset (2026-11-22T09:00:00+00:00)."
        " Default: now.",
    )
    dry_run: bool = Field(default=False, description="Report the same numbers and write nothing.")
    unfinished: bool = Field(default=False, description="Also count a day that is not over, as far as it has come.")


class RangeConfig(CountingConfig):
    """A range of days, both ends included; without any it is the day before."""

    first: str | None = Field(default=None, alias="from", description="The first day, YYYY-MM-DD. Default: `to`.")
    last: str | None = Field(default=None, alias="to", description="The last day, YYYY-MM-DD. Default: the day before.")


@dg.op
def write_daily_report(
    context: dg.OpExecutionContext, config: CountingConfig, postgres: Postgres, clock: Clock
) -> None:
    """Count what happened on the partition's day, or on the day before now, and replace the day's rows."""
    from flatearth_pipelines.reports.reporting import report_on  # noqa: PLC0415 - every other run starts without Polars
    from flatearth_pipelines.reports.storage import read_days, read_names  # noqa: PLC0415 - likewise

    with clear_failure(), postgres.connection(context) as session:
        as_of = clock.as_of(session, config.as_of)
        day = day_of(context.partition_key, "partition") if context.has_partition_key else yesterday(as_of)
        check_countable(day, as_of, unfinished=config.unfinished)
        reported = report_on(session, day, dry_run=config.dry_run)
        with session.begin():
            names = read_names(session, reported.busiest["board_id"])
            before = read_days(session, day - timedelta(days=CHARTED_DAYS - 1), day - timedelta(days=1))
    context.log.info(_sentence(reported, dry_run=config.dry_run))
    context.add_output_metadata(
        {
            **reported.totals._asdict(),
            "most_active_boards": _table(reported, names),
            "chart": dg.MetadataValue.md(chart(day, [*before, {"day": day} | reported.totals._asdict()])),
            "day": day.isoformat(),
            "rows": reported.rows,
            "rows_before": reported.rows_before,
            "changed": reported.changed,
            "over": day <= yesterday(as_of),
            "as_of": as_of.isoformat(),
            "dry_run": config.dry_run,
        }
    )
    if _is_for_good(config, day, as_of):
        _plot(context, reported)
        _mark(context, day)


@dg.op
def write_daily_reports(context: dg.OpExecutionContext, config: RangeConfig, postgres: Postgres, clock: Clock) -> None:
    """Count what happened on each day of a range, one transaction each, and replace the days' rows."""
    from flatearth_pipelines.reports.reporting import Reported, report_on_each  # noqa: PLC0415 - likewise

    done: list[Reported] = []
    with clear_failure(), postgres.connection(context) as session:
        as_of = clock.as_of(session, config.as_of)
        last = yesterday(as_of) if config.last is None else day_of(config.last, "to")
        check_countable(last, as_of, unfinished=config.unfinished)
        days = days_between(last if config.first is None else day_of(config.first, "from"), last)
        log = log_now_and_then(context)

        def told(reported: Reported) -> None:
            done.append(reported)
            if _is_for_good(config, reported.day, as_of):
                _plot(context, reported)
            log(f"{len(done):,} of {len(days):,} days counted, the last one {reported.day}")

        try:
            report_on_each(session, days, told, dry_run=config.dry_run)
        except BaseException:
            context.log.info(f"Stopped: {len(done):,} of {len(days):,} days are counted")
            raise
    rows = sum(each.rows for each in done)
    written = "would be written" if config.dry_run else "written"
    context.log.info(f"{len(done):,} days counted, {rows:,} rows {written}" if rows else _nothing(days[0], days[-1]))
    context.add_output_metadata(
        {
            **_sums(done),
            "by_day": _by_day(done),
            "from": days[0].isoformat(),
            "to": days[-1].isoformat(),
            "days": len(done),
            "days_changed": sum(each.changed for each in done),
            "rows": rows,
            "as_of": as_of.isoformat(),
            "dry_run": config.dry_run,
        }
    )


def _is_for_good(config: CountingConfig, day: date, as_of: datetime) -> bool:
    """Whether the day need not be counted again."""
    return not config.dry_run and day <= yesterday(as_of)


def _table(reported: "Reported", names: "pl.DataFrame") -> dg.TableMetadataValue:
    shown = ("cards_created", "cards_closed", "cards_postponed", "comments", "active_people")
    rows = reported.busiest.join(names, on="board_id", how="left", maintain_order="left").iter_rows(named=True)
    return dg.MetadataValue.table(
        records=[
            dg.TableRecord(
                {"board": row["board_id"], "name": row["board"] or "", "account": row["account"] or ""}
                | {name: row[name] for name in shown}
            )
            for row in rows
        ],
        schema=dg.TableSchema(
            [
                dg.TableColumn("board", "int"),
                dg.TableColumn("name", "string"),
                dg.TableColumn("account", "string"),
                *(dg.TableColumn(name, "int") for name in shown),
            ]
        ),
    )


def _by_day(done: "list[Reported]") -> dg.TableMetadataValue:
    """The newest days, the last one first: a long list is folded away."""
    records = [
        dg.TableRecord({"day": each.day.isoformat()} | each.totals._asdict()) for each in done[: -_LISTED_DAYS - 1 : -1]
    ]
    columns = [dg.TableColumn("day", "string")]
    columns += [dg.TableColumn(name, "int") for name in (done[0].totals._fields if done else ())]
    return dg.MetadataValue.table(records=records, schema=dg.TableSchema(columns))


def _sums(done: "list[Reported]") -> dict[str, int]:
    """Of what can be summed over days: the same people are active on many."""
    names = [name for name in done[0].totals._fields if name not in {"active_people", "accounts", "boards"}]
    return {name: sum(getattr(each.totals, name) for each in done) for name in names}


def _sentence(reported: "Reported", *, dry_run: bool) -> str:
    rows, day = reported.rows, reported.day
    if not rows:
        return _nothing(day, day)
    if not reported.changed:
        return f"{day}: {rows:,} rows, the same as before"
    written = "would be written" if dry_run else "written"
    return f"{day}: {rows:,} rows {written}, of {reported.totals.boards:,} boards; there were {reported.rows_before:,}"


def _nothing(first: date, last: date) -> str:
    span = f"on {first}" if first == last else f"from {first} to {last}"
    return f"Nothing to report: nothing happened {span}"


def _plot(context: dg.OpExecutionContext, reported: "Reported") -> None:
    if DAYS.has_partition_key(reported.day.isoformat()):
        figures: dict[str, Any] = reported.totals._asdict()
        event = dg.AssetMaterialization(daily_report_figures.key, metadata=figures, partition=reported.day.isoformat())
        context.log_event(event)


def _mark(context: dg.OpExecutionContext, day: date) -> None:
    """Have a run that was launched without a partition stand in the UI among those of its day."""
    if not context.has_partition_key and DAYS.has_partition_key(day.isoformat()):
        tags = {"dagster/partition": day.isoformat(), "dagster/partition_set": f"{context.job_name}_partition_set"}
        context.instance.add_run_tags(context.run_id, tags)


@dg.job(partitions_def=DAYS, tags=_TAGS)
def daily_report() -> None:
    """Count what happened on a day, for each account and board."""
    write_daily_report()


@dg.job(tags=_TAGS)
def daily_report_range() -> None:
    """Count what happened on each day of a range in one run, for long spans."""
    write_daily_reports()


@dg.schedule(
    job=daily_report,
    cron_schedule="10 0 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Count the day before, and what was missed of the past month.",
)
def daily_report_daily(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest]:
    """Ask for a run for each day that is to be counted: Dagster itself does not make up for ticks that were missed."""
    tick = context.scheduled_execution_time
    counted = {day_of(key) for key in _plotted(context)}
    for day in days_to_count(counted, yesterday(tick)):
        # A key is needed where there are several, and is good once: a day that fails is asked for by the next tick too.
        yield dg.RunRequest(partition_key=day.isoformat(), run_key=f"{day} at {tick.isoformat()}")


def _plotted(context: dg.ScheduleEvaluationContext) -> set[str]:
    """The days that were counted for good, as far as this Dagster knows; none where a tick is tried without one."""
    try:
        instance = context.instance
    except dg.DagsterInvariantViolationError:
        return set()
    return instance.get_materialized_partitions(daily_report_figures.key)


defs = dg.Definitions(
    assets=[daily_report_figures], jobs=[daily_report, daily_report_range], schedules=[daily_report_daily]
)
