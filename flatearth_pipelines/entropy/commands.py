"""`flatearth entropy`: periods, what is due soon, and what a run would do."""

from datetime import UTC, datetime

import click
import polars as pl

from flatearth_pipelines import database
from flatearth_pipelines.entropy import functions, storage
from flatearth_pipelines.entropy.forecast import forecast
from flatearth_pipelines.entropy.periods import in_days, period_ms
from flatearth_pipelines.entropy.staleness import SOON, cutoffs, effective_periods
from flatearth_pipelines.errors import NotFound, WrongUsage
from flatearth_pipelines.instants import instant
from flatearth_pipelines.settings import Settings
from flatearth_pipelines.terminal import console, print_json, print_rows

_LISTED = 50
"""Rows of a table on the terminal; `--json` has them all."""

_json = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
_as_of = click.option("--as-of", metavar="ISO8601", help="The instant to judge by, with its offset; default now.")
_account = click.option("--account", "account_id", type=int, metavar="ID", help="The account.")
_board = click.option("--board", "board_id", type=int, metavar="ID", help="The board.")
_actor = click.option(
    "--actor", "actor_id", type=int, metavar="ID", help="The user to act for; default the first active owner or admin."
)


@click.group()
def entropy() -> None:
    """See and set when cards go stale, and what a run would postpone."""


@entropy.command()
@click.argument("board_id", metavar="BOARD", type=int)
@_as_of
@_json
def show(board_id: int, as_of: str | None, as_json: bool) -> None:
    """Show the period of BOARD, who chose it, and its cards."""
    (row,) = _forecast(board_id, as_of).rows
    print_json(row) if as_json else print_rows([row], as_json=False)


@entropy.command("set", context_settings={"ignore_unknown_options": True})
@_account
@_board
@_actor
@click.argument("days")
def set_period(account_id: int | None, board_id: int | None, actor_id: int | None, days: str) -> None:
    """Set the period of an account or a board to DAYS: any positive number, also 0.5."""
    container = _container(account_id, board_id)
    _change(container, actor_id, period_ms(days))
    click.echo(f"Cards of {container[0]} {container[1]} go stale after {in_days(period_ms(days))} days.")


@entropy.command()
@_account
@_board
@_actor
def clear(account_id: int | None, board_id: int | None, actor_id: int | None) -> None:
    """Have an account or a board inherit its period again."""
    container = _container(account_id, board_id)
    _change(container, actor_id, None)
    click.echo(f"{container[0].capitalize()} {container[1]} inherits its period again.")


@entropy.command()
@click.argument("board_id", metavar="BOARD", type=int)
@_actor
@_as_of
@_json
def soon(board_id: int, actor_id: int | None, as_of: str | None, as_json: bool) -> None:
    """List the cards of BOARD that will be postponed soon, longest idle first."""
    at = instant(as_of) if as_of is not None else None
    with database.transaction(Settings.from_environment(), "flatearth entropy") as connection:
        actor_id = storage.read_default_actor(connection, "board", board_id) if actor_id is None else actor_id
        cards = functions.postponing_soon(connection, actor_id, board_id, at)
    print_rows(cards.to_dicts(), as_json=as_json, empty="No card will be postponed soon.")


@entropy.command()
@_board
@_as_of
@_json
def preview(board_id: int | None, as_of: str | None, as_json: bool) -> None:
    """Show what a run would postpone, board by board; with --board, card by card. Writes nothing."""
    seen = _forecast(board_id, as_of)
    if as_json:
        print_json({"as_of": seen.as_of, "boards": seen.rows, "cards": seen.cards})
        return
    print_rows(seen.rows[:_LISTED], as_json=False, empty="There are no boards.")
    if len(seen.rows) > _LISTED:
        console().print(f"... and {len(seen.rows) - _LISTED:,} more boards (all of them with --json)")
    if seen.cards:
        console().print()
        print_rows(seen.cards[:_LISTED], as_json=False)
        if len(seen.cards) > _LISTED:
            console().print(f"... and {len(seen.cards) - _LISTED:,} more cards (all of them with --json)")
    at = f"{seen.as_of.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    console().print(f"\nAs of {at} {seen.due:,} cards are due, {seen.soon - seen.due:,} more will be soon.")


class _Forecast:
    """The boards and, for a single board, its cards that are due or will be soon, as rows to print."""

    def __init__(self, as_of: datetime, boards: pl.DataFrame, cards: pl.DataFrame) -> None:
        self.as_of = as_of
        self.rows = [
            {
                "board": row["board_id"],
                "name": row["name"],
                "days": in_days(row["period_ms"]),
                "chosen_by": row["chosen_by"],
                "active": row["active"],
                "soon": row["soon"],
                "due": row["due"],
            }
            for row in boards.iter_rows(named=True)
        ]
        self.cards = cards.to_dicts()
        self.due = int(boards["due"].sum())
        self.soon = int(boards["soon"].sum())


def _forecast(board_id: int | None, as_of: str | None) -> _Forecast:
    with database.transaction(Settings.from_environment(), "flatearth entropy") as connection:
        at = instant(as_of) if as_of is not None else database.now(connection)
        boards = storage.read_boards(connection, board_id=board_id)
        if board_id is not None and boards.is_empty():
            raise NotFound(f"There is no board {board_id}, or its account is cancelled")
        periods = effective_periods(boards.lazy(), storage.read_periods(connection).lazy())
        limits = cutoffs(periods, at)
        cards = storage.read_stale_cards(connection, cutoffs(periods, at, SOON).collect())
        active = storage.read_active_counts(connection, board_id)
        counted = forecast(periods, active.lazy(), cards.lazy(), limits).collect()
        names = storage.read_board_names(connection, counted["board_id"])
        listed = cards if board_id is not None else cards.clear()
        titles = storage.read_titles(connection, listed["card_id"])
    rows = counted.join(names, on="board_id", maintain_order="left")
    return _Forecast(at, rows, _card_rows(listed, titles, limits.collect()))


def _card_rows(cards: pl.DataFrame, titles: pl.DataFrame, limits: pl.DataFrame) -> pl.DataFrame:
    due = pl.col("last_active_at").dt.epoch("us") < pl.col("cutoff_us")
    return (
        cards.join(titles, on="card_id")
        .join(limits, on="board_id")
        .sort("last_active_at", "card_id")
        .select(
            card="card_id",
            number="number",
            title="title",
            last_active_at="last_active_at",
            postponed=pl.when(due).then(pl.lit("by the next run")).otherwise(pl.lit("soon")),
        )
    )


def _container(account_id: int | None, board_id: int | None) -> tuple[str, int]:
    if account_id is not None and board_id is None:
        return "account", account_id
    if board_id is not None and account_id is None:
        return "board", board_id
    raise WrongUsage("Name one container: --account ID or --board ID")


def _change(container: tuple[str, int], actor_id: int | None, period: int | None) -> None:
    with database.transaction(Settings.from_environment(), "flatearth entropy") as connection:
        actor_id = storage.read_default_actor(connection, *container) if actor_id is None else actor_id
        functions.set_auto_postpone_period(connection, actor_id, *container, period)
