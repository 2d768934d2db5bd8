"""`flatearth crons`: what recurs, when, and how it went."""

import json
import sys
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from zoneinfo import ZoneInfo

import click

from flatearth_pipelines import database
from flatearth_pipelines.errors import WrongUsage
from flatearth_pipelines.queue import cron_storage as storage
from flatearth_pipelines.queue.crons import NAMED, WrongPattern, next_fire
from flatearth_pipelines.queue.terminal_context import handlers
from flatearth_pipelines.settings import Settings
from flatearth_pipelines.terminal import console, print_json, print_rows

_NEXT_RUNS = 5

_MOST_SECONDS = 2_147_483

_LISTED = (
    "id",
    "name",
    "pattern",
    "time_zone",
    "handler",
    "enabled",
    "next_run_at",
    "last_run_at",
    "run_count",
    "last_error",
)

_RESET = ("max-attempts", "backoff", "timeout", "account")

_json = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
_name = click.argument("name")
_values = (
    click.option("--payload", metavar="JSON", help="What the handler is told; default {}."),
    click.option("--zone", "time_zone", metavar="ZONE", help="Of the pattern, such as Europe/Berlin; default UTC."),
    click.option("--priority", type=int, metavar="N", help="Of its jobs, higher first; default 0."),
    click.option("--max-attempts", type=int, metavar="N", help="Of each job, 1 to 25; default the handler's."),
    click.option("--backoff", metavar="JSON", help="Between attempts; default the handler's."),
    click.option("--timeout", type=float, metavar="SECONDS", help="Of each attempt; default the handler's."),
    click.option("--account", "account_id", type=int, metavar="ID", help="The account that the jobs belong to."),
)
_PATTERN_HELP = f"Five cron fields, 'every 5 minutes', or {', '.join(NAMED)}."


@click.group()
def crons() -> None:
    """See, set and trigger recurring jobs."""


@crons.command("list")
@_json
def list_(*, as_json: bool) -> None:
    """List the cron jobs by name; instants in UTC."""
    with database.transaction(Settings.from_environment(), "flatearth crons") as connection:
        rows = storage.read_cron_jobs(connection)
    shown = rows if as_json else [{name: row[name] for name in _LISTED} for row in rows]
    print_rows(shown, as_json=as_json, empty="There are no cron jobs.")


@crons.command()
@_name
@_json
def show(*, name: str, as_json: bool) -> None:
    """Show the cron job NAME, its next runs in its zone, and its last jobs."""
    with database.transaction(Settings.from_environment(), "flatearth crons") as connection:
        row = storage.read_cron_job(connection, name)
        jobs = storage.read_jobs_of(connection, row["id"])
        runs = _next_runs(row, storage.read_clock(connection))
    if as_json:
        print_json(row | {"next_runs": runs, "jobs": jobs})
        return
    fields = [{"field": field, "value": _text(value)} for field, value in row.items() if value is not None]
    print_rows(fields, as_json=False)
    console().print()
    if runs:
        print_rows([{f"next runs ({row['time_zone']})": run} for run in runs], as_json=False)
    else:
        console().print("No next run: it is disabled." if not row["enabled"] else "No next run: its pattern is wrong.")
    console().print()
    print_rows(jobs, as_json=False, empty="No jobs of it are kept.")


def _with_values(command: click.decorators.FC) -> click.decorators.FC:
    for option in reversed(_values):
        command = option(command)
    return command


@crons.command()
@_name
@click.option("--pattern", required=True, metavar="PATTERN", help=_PATTERN_HELP)
@click.option("--handler", required=True, metavar="HANDLER", help="What runs.")
@_with_values
@click.option("--disabled", is_flag=True, help="Do not run it yet.")
def create(*, name: str, pattern: str, handler: str, disabled: bool, **values: Any) -> None:
    """Have a handler run whenever a pattern fires."""
    options = cast("storage.Options", _given(values))
    with database.transaction(Settings.from_environment(), "flatearth crons") as connection:
        new_id = storage.create_cron_job(
            connection, handlers(), name, pattern, handler, enabled=not disabled, **options
        )
        row = storage.read_cron_job(connection, name)
    click.echo(f"Created cron job {new_id}, {name}. {_when(row)}")


@crons.command()
@_name
@click.option("--pattern", metavar="PATTERN", help=_PATTERN_HELP)
@click.option("--handler", metavar="HANDLER", help="What runs.")
@_with_values
@click.option(
    "--reset", multiple=True, type=click.Choice(_RESET), help="Back to the default; may be given several times."
)
def update(*, name: str, reset: tuple[str, ...], **values: Any) -> None:
    """Change the cron job NAME; what is not named stays."""
    columns = {"account": "account_id", "max-attempts": "max_attempts"}
    changes = _given(values) | {columns.get(each, each): None for each in reset}
    if not changes:
        raise WrongUsage("Name what to change, such as --pattern daily")
    with database.transaction(Settings.from_environment(), "flatearth crons") as connection:
        storage.update_cron_job(connection, handlers(), name, **cast("storage.Changes", changes))
        row = storage.read_cron_job(connection, name)
    click.echo(f"Changed cron job {name}. {_when(row)}")


@crons.command()
@_name
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(*, name: str, yes: bool) -> None:
    """Delete the cron job NAME; jobs that it has enqueued already stay."""
    if not yes and sys.stdin.isatty():
        click.confirm(f"Delete the cron job {name}?", abort=True)
    with database.transaction(Settings.from_environment(), "flatearth crons") as connection:
        storage.delete_cron_job(connection, name)
    click.echo(f"Deleted cron job {name}.")


@crons.command()
@_name
def enable(*, name: str) -> None:
    """Have the cron job NAME run again, from its next time on."""
    with database.transaction(Settings.from_environment(), "flatearth crons") as connection:
        changed = storage.enable_cron_job(connection, handlers(), name)
        row = storage.read_cron_job(connection, name)
    done = f"Enabled cron job {name}." if changed else f"Nothing to do: cron job {name} is enabled."
    click.echo(f"{done} {_when(row)}")


@crons.command()
@_name
def disable(*, name: str) -> None:
    """Have the cron job NAME not run until it is enabled."""
    with database.transaction(Settings.from_environment(), "flatearth crons") as connection:
        changed = storage.disable_cron_job(connection, name)
    click.echo(f"Disabled cron job {name}." if changed else f"Nothing to do: cron job {name} is disabled.")


@crons.command()
@_name
def trigger(*, name: str) -> None:
    """Enqueue the job of NAME now, beside its schedule, also when it is disabled."""
    with database.transaction(Settings.from_environment(), "flatearth crons") as connection:
        job_id = storage.trigger_cron_job(connection, handlers(), name)
    click.echo(f"Enqueued job {job_id}.")


def _next_runs(row: dict[str, Any], now: datetime) -> list[datetime]:
    """In the row's zone. None of a disabled row, or of one that SQL wrote and that cannot be followed."""
    if not row["enabled"]:
        return []
    runs = [] if row["next_run_at"] is None else [row["next_run_at"]]
    try:
        while len(runs) < _NEXT_RUNS:
            latest = runs[-1] if runs else None
            runs.append(next_fire(row["pattern"], row["time_zone"], max(now, latest or now), anchor=latest))
        zone = ZoneInfo(row["time_zone"])
    except WrongPattern:
        return []
    return [run.astimezone(zone) for run in runs]


def _given(values: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, as `storage` takes them."""
    given = {name: value for name, value in values.items() if value is not None}
    for name in given.keys() & {"payload", "backoff"}:
        given[name] = _json_object(name, given[name])
    if "timeout" in given:
        seconds = given["timeout"]
        if not 0 < seconds <= _MOST_SECONDS:  # nan neither
            raise WrongUsage(f"--timeout is {seconds}: it takes seconds, up to {_MOST_SECONDS:,}")
        given["timeout"] = timedelta(seconds=seconds)
    return given


def _json_object(option: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise WrongUsage(f"--{option} takes a JSON object, such as {{}}")
    return value


def _when(row: dict[str, Any]) -> str:
    if not row["enabled"]:
        return "It is disabled."
    if row["next_run_at"] is None:
        return "It runs when its pattern fires next."
    return f"It runs next at {row['next_run_at'].astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC."


def _text(value: object) -> str:
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    return str(value)
