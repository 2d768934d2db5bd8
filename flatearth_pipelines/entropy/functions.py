"""The SQL functions of entropy from Python: a board's period, and the cards that are soon to be postponed."""

from datetime import datetime

import polars as pl
import sqlalchemy as sa

from flatearth_pipelines.contract import call, contract_errors
from flatearth_pipelines.frames import read_frame

SOON_CARDS = pl.Schema(
    {"card_id": pl.Int64(), "number": pl.Int64(), "title": pl.String(), "last_active_at": pl.Datetime("us", "UTC")}
)


def auto_postpone_period_ms(connection: sa.Connection, actor_id: int, board_id: int) -> int:
    """The SQL function of that name: the effective period of a board, in milliseconds.

    Raises:
        NotPermitted: the actor is inactive, of another account, or has no access to the board.
        NotFound: there is no such actor or board.
    """
    return int(call(connection, sa.func.flatearth.auto_postpone_period_ms(actor_id, board_id)))


def set_auto_postpone_period(
    connection: sa.Connection, actor_id: int, container_type: str, container_id: int, period_ms: int | None
) -> None:
    """The SQL function of that name: set the period of an `account` or `board`; None has it inherit again.

    Raises:
        NotPermitted: the actor is not an active owner or admin of that account.
        NotFound: there is no such actor, account or board.
        WrongUsage: the period is not positive, or the container neither an account nor a board.
    """
    period = sa.cast(period_ms, sa.BigInteger)
    call(connection, sa.func.flatearth.set_auto_postpone_period(actor_id, container_type, container_id, period))


def postponing_soon(
    connection: sa.Connection, actor_id: int, board_id: int, as_of: datetime | None = None
) -> pl.DataFrame:
    """The SQL function of that name: `SOON_CARDS`, cards idle for more than 0.75 of the board's period, longest first.

    Overdue cards are among them. Raises what `auto_postpone_period_ms` raises.
    """
    instants = [] if as_of is None else [as_of]
    soon = sa.func.flatearth.postponing_soon(actor_id, board_id, *instants).table_valued(
        sa.column("id"), sa.column("number"), sa.column("title"), sa.column("last_active_at")
    )
    with contract_errors():
        query = sa.select(soon.c.id, soon.c.number, soon.c.title, soon.c.last_active_at)
        return read_frame(connection, query, SOON_CARDS)
