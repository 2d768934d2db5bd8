"""The job that postpones stale cards, whole or by shard of accounts, and its hourly schedule."""

from datetime import datetime
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from flatearth_pipelines.entropy.portions import BATCH_SIZE, EVERY_ACCOUNT, Shard
from flatearth_pipelines.errors import WrongUsage
from flatearth_pipelines.resources import Clock, Postgres, clear_failure, log_now_and_then

if TYPE_CHECKING:
    import polars as pl

    from flatearth_pipelines.entropy.backlog import Outcome

LARGEST_BATCH = 100_000

_TOP_BOARDS = 20

SHARDS = dg.StaticPartitionsDefinition([f"accounts {remainder} of 4" for remainder in range(4)])
"""By account id modulo four: a backfill of all of them is one `auto_postpone`, in as many processes as may run."""

auto_postponed_cards = dg.AssetSpec(
    "auto_postponed_cards",
    group_name="entropy",
    description="Cards that auto_postpone moved to Not now; its Plots show their number over the runs.",
    kinds={"postgres"},
)


class PostponeStaleCardsConfig(dg.Config):
    """What a run may be told; every default is the ordinary run."""

    as_of: str | None = Field(
        default=None,
        description="The instant to judge by, in ISO 8601 with an offset (2026-11-22T09:00:00+00:00). Default: now.",
    )
    dry_run: bool = Field(default=False, description="Report the same numbers and write nothing.")
    batch_size: int = Field(
        default=BATCH_SIZE, description=f"Cards in one transaction, 1 to {LARGEST_BATCH:,}: people wait for it at most."
    )


@dg.op
def postpone_stale_cards(
    context: dg.OpExecutionContext, config: PostponeStaleCardsConfig, postgres: Postgres, clock: Clock
) -> None:
    """Move every card that was idle for longer than its board allows to "Not now", with an event."""
    from flatearth_pipelines.entropy import storage  # noqa: PLC0415 - every other run starts without Polars: 0.15 s
    from flatearth_pipelines.entropy.backlog import postpone_backlog  # noqa: PLC0415 - likewise

    shard = _shard(context)
    lock = f"flatearth.auto_postpone {shard.remainder} of {shard.of}"
    with clear_failure(), postgres.alone(context, lock) as session:
        if isinstance(session, str):
            context.log.info(f"Nothing done: the same work is being done by {session}")
            context.add_output_metadata({"skipped": True, "held_by": session, "postponed": 0})
            return
        _check(config)
        as_of = clock.as_of(session, config.as_of)
        log = log_now_and_then(context)
        outcome = postpone_backlog(
            session,
            as_of,
            shard=shard,
            batch_size=config.batch_size,
            dry_run=config.dry_run,
            progress=lambda postponed, due: log(f"{postponed:,} of {due:,} due cards postponed so far"),
        )
        with session.begin():
            names = storage.read_board_names(session, outcome.by_board["board_id"].head(_TOP_BOARDS))
    _report(context, config, as_of, outcome, names)


def _shard(context: dg.OpExecutionContext) -> Shard:
    if not context.has_partition_key:
        return EVERY_ACCOUNT
    shards = SHARDS.get_partition_keys()
    return Shard(remainder=shards.index(context.partition_key), of=len(shards))


def _check(config: PostponeStaleCardsConfig) -> None:
    if not 1 <= config.batch_size <= LARGEST_BATCH:
        raise WrongUsage(f"batch_size is {config.batch_size}: it takes 1 to {LARGEST_BATCH:,}")


def _report(
    context: dg.OpExecutionContext,
    config: PostponeStaleCardsConfig,
    as_of: datetime,
    outcome: "Outcome",
    names: "pl.DataFrame",
) -> None:
    counts = {
        "postponed": outcome.postponed,
        "due": outcome.due,
        "changed_meanwhile": outcome.changed_meanwhile,
        "unattributed": outcome.unattributed,
    }
    context.log.info(_sentence(outcome, dry_run=config.dry_run))
    context.add_output_metadata(
        {
            **counts,
            "boards_with_most_postponed": _table(outcome, names),  # early: the UI folds a long list
            "scanned": outcome.scanned,
            "boards": outcome.boards,
            "as_of": as_of.isoformat(),
            "dry_run": config.dry_run,
        }
    )
    if not config.dry_run:
        context.log_event(dg.AssetMaterialization(auto_postponed_cards.key, metadata=counts))


def _sentence(outcome: "Outcome", *, dry_run: bool) -> str:
    if outcome.due == 0:
        return f"Nothing to do: no card is due on {outcome.boards:,} boards"
    done = "would be postponed" if dry_run else "postponed"
    return (
        f"{outcome.postponed:,} of {outcome.due:,} due cards {done}; {outcome.changed_meanwhile:,} changed meanwhile,"
        f" {outcome.unattributed:,} unattributed"
    )


def _table(outcome: "Outcome", names: "pl.DataFrame") -> dg.TableMetadataValue:
    top = outcome.by_board.head(_TOP_BOARDS).join(names, on="board_id", how="left", maintain_order="left")
    return dg.MetadataValue.table(
        records=[
            dg.TableRecord({"board": row["board_id"], "name": row["name"] or "", "postponed": row["postponed"]})
            for row in top.iter_rows(named=True)
        ],
        schema=dg.TableSchema(
            [dg.TableColumn("board", "int"), dg.TableColumn("name", "string"), dg.TableColumn("postponed", "int")]
        ),
    )


@dg.job(tags={"feature": "entropy", ".dagster/repository": "__repository__@flatearth"})
def auto_postpone() -> None:
    """Postpone every card that has gone stale."""
    postpone_stale_cards()


@dg.job(
    partitions_def=SHARDS,
    tags={"feature": "entropy", ".dagster/repository": "__repository__@flatearth"},
)
def auto_postpone_by_shard() -> None:
    """Postpone the stale cards of a quarter of the accounts; backfill all four when one process is too slow."""
    postpone_stale_cards()


auto_postpone_hourly = dg.ScheduleDefinition(
    name="auto_postpone_hourly",
    job=auto_postpone,
    cron_schedule="0 * * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Postpone stale cards at every full hour.",
)

defs = dg.Definitions(
    assets=[auto_postponed_cards], jobs=[auto_postpone, auto_postpone_by_shard], schedules=[auto_postpone_hourly]
)
