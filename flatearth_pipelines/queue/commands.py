"""`flatearth jobs`: what waits, runs and has ended; enqueue, retry, cancel, pause, and drain without Dagster."""

import json
import re
import sys
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

import click

from flatearth_pipelines import database
from flatearth_pipelines.errors import LimitReached, NotFound, WrongUsage
from flatearth_pipelines.instants import instant
from flatearth_pipelines.queue import functions, operator_storage, storage
from flatearth_pipelines.queue.enqueue_command import enqueue
from flatearth_pipelines.queue.handlers import storable
from flatearth_pipelines.queue.job_lines import days
from flatearth_pipelines.queue.run_command import run
from flatearth_pipelines.queue.terminal_context import handlers
from flatearth_pipelines.settings import Settings
from flatearth_pipelines.terminal import console, print_json, print_rows, progress

_APPLICATION = "flatearth jobs"

_STATES = ("pending", "running", "succeeded", "failed", "cancelled")

_WHOLE_QUEUE = "*"


_INTEGER = click.IntRange(-(2**31), 2**31 - 1)
_ID = click.IntRange(1, 2**63 - 1)
_COUNT = click.IntRange(0, 2**31 - 1)


def _storable(_context: click.Context, _parameter: click.Parameter, text: str | None) -> str | None:
    return None if text is None else storable(text)


_json = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
_ids = click.argument("ids", metavar="ID...", nargs=-1, type=_ID)


@click.group()
def jobs() -> None:
    """See and steer the job queue."""


@jobs.command("list")
@click.option("--state", "states", multiple=True, metavar="S", help=f"Any of {', '.join(_STATES)}; repeatable.")
@click.option("--handler", callback=_storable, metavar="H", help="Of this handler.")
@click.option("--key", callback=_storable, metavar="K", help="With this job key or concurrency key.")
@click.option("--since", metavar="ISO8601", help="Created at this instant or later.")
@click.option("--until", metavar="ISO8601", help="Created before it.")
@click.option("--limit", type=_COUNT, default=50, show_default=True, help="How many, the newest first.")
@click.option("--offset", type=_COUNT, default=0, help="How many of the newest to leave out.")
@_json
def list_(*, states: tuple[str, ...], since: str | None, until: str | None, as_json: bool, **filters: Any) -> None:
    """List jobs, the newest first; instants in UTC."""
    for state in states:
        if state not in _STATES:
            raise WrongUsage(f"There is no state {state!r}: there are {', '.join(_STATES)}")
    filters |= {"since": _instant("--since", since), "until": _instant("--until", until)}
    with database.transaction(Settings.from_environment(), _APPLICATION) as connection:
        rows = storage.read_jobs(connection, states=states, **filters)
    shown = rows if as_json else [row | {"id": str(row["id"])} for row in rows]  # as `show` and `retry` take it
    print_rows(shown, as_json=as_json, empty="No jobs.")


@jobs.command()
@click.argument("job_id", metavar="ID", type=_ID)
@_json
def show(*, job_id: int, as_json: bool) -> None:
    """Show all of one job: its options, progress, result and last error."""
    with database.transaction(Settings.from_environment(), _APPLICATION) as connection:
        job = storage.read_job(connection, job_id)
    if as_json:
        print_json(job)
        return
    texts = {
        name: json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value
        for name, value in (job | {"id": str(job_id)}).items()
        if value is not None
    }
    print_rows([{"field": name, "value": value} for name, value in texts.items()], as_json=False)


@jobs.command()
@_json
def stats(*, as_json: bool) -> None:
    """Count the jobs by handler and state, and say how the queue is."""
    with database.transaction(Settings.from_environment(), _APPLICATION) as connection:
        rows = storage.read_statistics(connection)
        health = storage.read_health(connection)
        paused = storage.read_pauses(connection)
    if as_json:
        print_json({"by_handler": rows, "health": health, "paused": paused})
        return
    print_rows(rows, as_json=False, empty="No jobs.")
    oldest = health["oldest_wait_seconds"]
    console().print(
        "\n{waiting:,} wait, {scheduled:,} are for later, {running:,} run, {dead:,} are dead;"
        " {finished_per_minute:,.1f} ended a minute.".format(**health)
        + (f" The oldest has waited for {oldest:,.0f} s." if oldest else "")
    )
    if paused:
        told = ["the whole queue" if handler == _WHOLE_QUEUE else handler for handler in paused]
        console().print(f"Paused: {', '.join(told)}.", markup=False)


@jobs.command()
@_ids
@click.option("--handler", callback=_storable, metavar="H", help="All failed jobs of this handler.")
@click.option("--all", "every", is_flag=True, help="All failed jobs.")
def retry(*, ids: tuple[int, ...], handler: str | None, every: bool) -> None:
    """Have failed or cancelled jobs wait again, due now."""
    if (len(ids) > 0) + (handler is not None) + every != 1:
        raise WrongUsage("Name the jobs in one way: ids, --handler H or --all")

    def change(connection: Any, job_id: int) -> str:
        functions.retry_job(connection, job_id)
        return f"Job {job_id} waits again."

    meant = ids or _of_handler(("failed",), handler)
    _for_each(meant, change, done="Retried", listed=bool(ids))


@jobs.command()
@_ids
@click.option("--handler", callback=_storable, metavar="H", help="All unfinished jobs of this handler.")
def cancel(*, ids: tuple[int, ...], handler: str | None) -> None:
    """Have waiting jobs never run, and tell running ones to stop."""
    if (len(ids) > 0) + (handler is not None) != 1:
        raise WrongUsage("Name the jobs in one way: ids or --handler H")

    def change(connection: Any, job_id: int) -> str | None:
        if functions.cancel_job(connection, job_id):
            return f"Job {job_id} is cancelled, or told to stop."
        if ids:
            raise WrongUsage(f"job {job_id} has ended already")
        return None

    meant = ids or _of_handler(("pending", "running"), handler)
    _for_each(meant, change, done="Cancelled", listed=bool(ids))


@jobs.command()
@_ids
def delete(*, ids: tuple[int, ...]) -> None:
    """Delete jobs that wait or have ended, with their history."""
    if not ids:
        raise WrongUsage("Name the jobs by their ids")

    def change(connection: Any, job_id: int) -> str:
        functions.delete_job(connection, job_id)
        return f"Job {job_id} is deleted."

    _for_each(ids, change, done="Deleted", listed=True)


@jobs.command()
@click.option("--older-than", metavar="DAYS", default="7", show_default=True, help="Succeeded and cancelled jobs.")
@click.option("--failed-older-than", metavar="DAYS", default="30", show_default=True, help="Failed jobs.")
@click.option("--dry-run", is_flag=True, help="Say what would be dropped, and drop nothing.")
@_json
def cleanup(*, older_than: str, failed_older_than: str, dry_run: bool, as_json: bool) -> None:
    """Drop whole old of history that ended longer ago; old in UTC."""
    keep = days("--older-than", older_than), days("--failed-older-than", failed_older_than)
    with database.transaction(Settings.from_environment(), _APPLICATION) as connection:
        old = operator_storage.read_old_days(connection, *keep)
        if not dry_run:
            storage.drop_history(connection, *keep)
    count = sum(day["jobs"] for day in old)
    if as_json:
        print_json({"dry_run": dry_run, "jobs": count, "days": old})
        return
    if old:
        print_rows(old, as_json=False)
    click.echo(f"{'Would drop' if dry_run else 'Dropped'} {count:,} jobs." if old else "Nothing to do: none is older.")


@jobs.command()
@click.argument("handler", default=_WHOLE_QUEUE)
def pause(*, handler: str) -> None:
    """Start nothing more of HANDLER, or of the whole queue; what runs goes on."""
    _check_known(handler)
    with database.transaction(Settings.from_environment(), _APPLICATION) as connection:
        changed = functions.pause_jobs(connection, handler)
    click.echo(f"{_named(handler)} is paused." if changed else f"Nothing to do: {_named(handler)} is paused already.")


@jobs.command()
@click.argument("handler", default=_WHOLE_QUEUE, callback=_storable)
def resume(*, handler: str) -> None:
    """Go on with HANDLER, or with the whole queue."""
    with database.transaction(Settings.from_environment(), _APPLICATION) as connection:
        changed = functions.resume_jobs(connection, handler)
    if not changed:
        _check_known(handler)
    click.echo(f"{_named(handler)} is resumed." if changed else f"Nothing to do: {_named(handler)} is not paused.")


@jobs.command(context_settings={"ignore_unknown_options": True})
@click.option("--account", "account_id", type=_ID, required=True, metavar="ID", help="The account.")
@click.argument("per_minute", metavar="N|none")
def limit(*, account_id: int, per_minute: str) -> None:
    """Let an account enqueue at most N jobs a minute, or any number again."""
    most = None if per_minute == "none" else int(per_minute) if re.fullmatch(r"\d{1,9}", per_minute, re.ASCII) else -1
    if most == -1:
        raise WrongUsage(f"N is {per_minute!r}: it takes jobs a minute, 0 or more, or none")
    with database.transaction(Settings.from_environment(), _APPLICATION) as connection:
        functions.set_job_limit(connection, account_id, most)
    told = "any number of jobs" if most is None else f"at most {most:,} jobs a minute"
    click.echo(f"Account {account_id} may enqueue {told}.")


jobs.add_command(enqueue)
jobs.add_command(run)


def _check_known(handler: str) -> None:
    if handler != _WHOLE_QUEUE:
        handlers()[handler]


def _named(handler: str) -> str:
    return "The whole queue" if handler == _WHOLE_QUEUE else handler


def _of_handler(states: tuple[str, ...], handler: str | None) -> list[int]:
    """The jobs of the handler, which may be one that this code does not know (any more)."""
    with database.transaction(Settings.from_environment(), _APPLICATION) as connection:
        ids = operator_storage.read_job_ids(connection, states, handler)
    if not ids and handler is not None:
        _check_known(handler)
    return ids


def _for_each(ids: Iterable[int], change: Callable[[Any, int], str | None], *, done: str, listed: bool) -> None:
    """Change each in a transaction of its own: one that is refused keeps no other back, and ends it all with 1."""
    meant = list(dict.fromkeys(ids))
    changed = refused = 0
    with (
        database.connections(database.prepare(Settings.from_environment()), _APPLICATION) as pool,
        pool.connect() as connection,
        progress(done, None if listed else len(meant)) as advance,
    ):
        for job_id in meant:
            try:
                with connection.begin():
                    said = change(connection, job_id)
            except (NotFound, WrongUsage, LimitReached) as error:
                refused += 1
                click.echo(f"Error: {error}", err=True)
            else:
                changed += said is not None
                if listed:
                    click.echo(said)
            advance(1)
    if not listed:
        click.echo(f"{done} {changed:,} jobs." if changed or refused else "Nothing to do: there is no such job.")
    if refused:
        sys.exit(1)


def _instant(option: str, text: str | None) -> datetime | None:
    return None if text is None else instant(text, option)
