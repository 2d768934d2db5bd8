"""`flatearth cleanup`: what is due to be deleted, and a run of it."""

import click

from flatearth_pipelines import database
from flatearth_pipelines.cleanup.outcome import Swept
from flatearth_pipelines.cleanup.retention import RETENTIONS, cutoff, in_words, retention_of
from flatearth_pipelines.cleanup.sweeping import rehearse, sweep
from flatearth_pipelines.cleanup.targets import counted, parts_of
from flatearth_pipelines.instants import instant
from flatearth_pipelines.settings import Settings
from flatearth_pipelines.terminal import print_json, print_rows, progress

_APPLICATION = "flatearth cleanup"

_json = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
_as_of = click.option("--as-of", metavar="ISO8601", help="The instant to judge by, with its offset; default now.")


@click.group()
def cleanup() -> None:
    """See what is over, and delete it."""


@cleanup.command("list")
@_as_of
@_json
def list_(*, as_of: str | None, as_json: bool) -> None:
    """List what is kept for how long, how much of it is due, and the job that deletes it every night (UTC)."""
    rows = []
    with database.transaction(Settings.from_environment(), _APPLICATION) as connection:
        at = instant(as_of) if as_of is not None else database.now(connection)
        for retention in RETENTIONS.values():
            found = counted(retention)
            rows.append(
                {
                    "target": retention.target,
                    "keep_for": in_words(retention.keep_for),
                    "due": found.count_due(connection, cutoff(at, retention.keep_for)),
                    "oldest": found.oldest(connection),
                    "job": retention.job,
                    "schedule": retention.cron,
                }
            )
    print_rows(rows, as_json=as_json)


@cleanup.command()
@click.argument("target")
@click.option("--dry-run", is_flag=True, help="Say how many, and delete nothing.")
@_as_of
@click.option("--keep-for", metavar="SPAN", help="Another time than the listed one, such as '36 hours'.")
@click.option("--batch-size", type=int, metavar="ROWS", help="Rows in one transaction.")
@click.option("--max-seconds", type=float, metavar="SECONDS", help="After this no batch is begun.")
@_json
def run(
    *,
    target: str,
    dry_run: bool,
    as_of: str | None,
    keep_for: str | None,
    batch_size: int | None,
    max_seconds: float | None,
    as_json: bool,
) -> None:
    """Delete what is due of TARGET, in this process, without Dagster; beside a run of its job that is harmless."""
    retention = retention_of(target).changed(keep_for=keep_for, batch_size=batch_size, max_seconds=max_seconds)
    settings = Settings.from_environment()
    with (
        database.connections(database.prepare(settings), _APPLICATION) as pool,
        pool.connect() as connection,
    ):
        with connection.begin():
            at = instant(as_of) if as_of is not None else database.now(connection)
        parts = parts_of(retention, lambda: settings)
        if dry_run:
            swept = rehearse(connection, parts, at)
        else:
            swept = Swept()
            with connection.begin():
                due = parts[0].rows.count_due(connection, cutoff(at, retention.keep_for))
            with progress(f"Deleting {retention.what}", due) as advance:
                shown = 0

                def show() -> None:
                    nonlocal shown
                    done = swept.deleted[parts[0].name]
                    advance(done - shown)
                    shown = done

                sweep(connection, retention, parts, at, swept=swept, progress=show)
    if as_json:
        print_json({"target": retention.target, "as_of": at, "dry_run": dry_run, **swept.summary()})
        return
    told = swept.told()
    click.echo(f"{told} {'would be deleted' if dry_run else 'deleted'}." if told else "Nothing to do.")
    for warning in swept.warnings(retention.what, retention.max_seconds):
        click.echo(f"Warning: {warning}.", err=True)
