"""`flatearth demo` and `flatearth import trello FILE`."""

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, BinaryIO

import click
from rich.console import Console

from flatearth_pipelines import database
from flatearth_pipelines.errors import WrongUsage
from flatearth_pipelines.instants import instant
from flatearth_pipelines.settings import Settings
from flatearth_pipelines.terminal import print_json, print_rows, progress
from flatearth_pipelines.workspaces import storage
from flatearth_pipelines.workspaces.sample import sample_workspaces
from flatearth_pipelines.workspaces.trello import trello_workspace

_YEARS = range(1970, 3000)

_TABLE = "boards_with_most_postponed"
_BOARDS = 10
"""Rows of that table that are shown."""

_as_json = click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")


@click.command()
@click.option("--cards", type=click.IntRange(min=1), default=10_000, show_default=True, help="How many, over all.")
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed gives the same workspace.")
@click.option("--as-of", metavar="ISO8601", help="When the workspace is looked at.  [default: the database's now]")
@click.option("--run", is_flag=True, help="Then run auto_postpone through Dagster, and show what it did.")
@_as_json
def demo(cards: int, seed: int, as_of: str | None, *, run: bool, as_json: bool) -> None:
    """Load a realistic workspace: accounts, people, boards and cards in every state."""
    given = None if as_of is None else _as_of(as_of)
    counts: Counter[str] = Counter()
    with (
        database.transaction(Settings.from_environment(), "flatearth demo") as connection,
        progress("Loading cards", cards) as advance,
    ):
        until = given or storage.read_now(connection)
        for part in storage.load_parts(connection, sample_workspaces(cards, seed, until)):
            counts.update(part.counts())
            advance(part.cards.height)
    if not as_json:
        _print_counts("Loaded", counts)
        click.echo(f"As it is on {until:%Y-%m-%d at %H:%M} UTC, with seed {seed}.")
    done = _auto_postpone() if run else {}
    if as_json:
        print_json({"as_of": until, "seed": seed, "counts": counts} | ({"auto_postpone": done} if run else {}))
    elif run:
        _print_run(done)


@click.group("import")
def import_() -> None:
    """Bring in a board from elsewhere."""


@import_.command()
@click.argument("file", type=click.File("rb"))
@_as_json
def trello(file: BinaryIO, *, as_json: bool) -> None:
    """Load a board exported from Trello as a new account. FILE is its JSON; - reads the standard input."""
    export = file.read()
    with database.transaction(Settings.from_environment(), "flatearth import trello") as connection:
        loaded = storage.load(connection, trello_workspace(export, storage.read_now(connection)))
    account, board = loaded.accounts["id"].item(), loaded.boards["id"].item()
    if as_json:
        print_json({"account_id": account, "board_id": board, "counts": loaded.counts()})
    else:
        _print_counts("Imported", loaded.counts())
        click.echo(f"Account {account}, board {board}. What would be postponed on it:")
        click.echo(f"    flatearth entropy preview --board {board}")


def _as_of(text: str) -> datetime:
    at = instant(text)
    if at.year not in _YEARS:
        raise WrongUsage(f"as_of {text!r} is too far away: a workspace fits into the years {_YEARS[0]} to {_YEARS[-1]}")
    return at.astimezone(UTC)


def _auto_postpone() -> dict[str, Any]:
    """Run the job on all that is due; what it says that it did."""
    from flatearth_pipelines.launch import run_job  # noqa: PLC0415 - Dagster takes half a second to import

    with Console(stderr=True).status("Running auto_postpone through Dagster ..."):
        return run_job(Settings.from_environment(), "auto_postpone")


def _print_run(done: dict[str, Any]) -> None:
    boards = done.pop(_TABLE, [])
    click.echo()
    print_rows([{"auto_postpone": name.replace("_", " "), "": value} for name, value in done.items()], as_json=False)
    click.echo()
    print_rows(boards[:_BOARDS], as_json=False, title="Boards with most postponed cards", empty="No card was due.")
    click.echo("\nSee it in the UI:   make up, then http://127.0.0.1:3000\nStop Postgres:      make down")


def _print_counts(title: str, counts: Mapping[str, int]) -> None:
    rows = [{"table": name, "rows": number} for name, number in counts.items() if number]
    print_rows(rows, as_json=False, title=title)
