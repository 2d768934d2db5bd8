"""From the cards that are due to the cards that are postponed: read, decide, write batch by batch."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from threading import Thread

import polars as pl
from sqlalchemy import Connection

from flatearth_pipelines.entropy import storage
from flatearth_pipelines.entropy.companion import Companion, companion
from flatearth_pipelines.entropy.portions import BATCH_SIZE, EVERY_ACCOUNT, Shard
from flatearth_pipelines.entropy.staleness import CARDS, actors, attributed, cutoffs, effective_periods, stale_cards

_FIRST_BOARDS = 2_500
_CARDS_A_READ = 50_000
"""Boards in the first read, and what the later ones aim at: a read holds each of its cards several times over."""

_HELD_CARDS = 100_000
"""Due cards, of 32 bytes each, after which a run writes before it reads on: what bounds its memory."""

BY_BOARD = pl.Schema({"board_id": pl.Int64(), "postponed": pl.Int64()})


@dataclass(frozen=True)
class Outcome:
    """What a run did, in numbers of cards; a dry run has the same numbers, with nothing changed meanwhile."""

    boards: int
    """Boards whose cards were looked at."""
    scanned: int
    """Cards that the index handed over as candidates."""
    due: int
    postponed: int
    changed_meanwhile: int
    """Due when they were read, and left alone because somebody touched them, or was about to."""
    unattributed: int
    """Postponed without an event, because their account has neither a system user nor an active owner."""
    by_board: pl.DataFrame
    """`BY_BOARD`, most postponed first."""


def postpone_backlog(
    connection: Connection,
    as_of: datetime,
    *,
    shard: Shard = EVERY_ACCOUNT,
    batch_size: int = BATCH_SIZE,
    dry_run: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Postpone every card that is due as of `as_of`, in transactions of `batch_size` cards.

    Interrupted at any point it leaves whole batches; the next call finds the rest. Calls `progress` after each batch
    with the cards postponed and due so far.
    """
    Thread(target=_start_engine, daemon=True).start()
    scanned = due = postponed = events = 0
    by_board = [pl.DataFrame(schema=BY_BOARD)]
    with companion(connection) as sessions:
        boards, periods = sessions.boards_and_periods(shard)
        limits = _collected(cutoffs(effective_periods(boards.lazy(), periods.lazy()), as_of).sort("board_id"))
        for candidates in _candidates(sessions, limits):
            scanned += candidates.height
            cards = _decided(connection, candidates, limits)
            due += cards.height
            for batch in cards.iter_slices(batch_size):
                done = _would_postpone(batch) if dry_run else storage.postpone(connection, batch, as_of)
                postponed += len(done.card_ids)
                events += done.events
                changed = (
                    batch
                    if len(done.card_ids) == batch.height
                    else batch.filter(pl.col("card_id").is_in(done.card_ids.implode()))
                )
                by_board.append(changed.group_by("board_id").agg(postponed=pl.len().cast(pl.Int64())))
                if progress:
                    progress(postponed, due)
    return Outcome(
        boards=boards.height,
        scanned=scanned,
        due=due,
        postponed=postponed,
        changed_meanwhile=due - postponed,
        unattributed=postponed - events,
        by_board=pl.concat(by_board).group_by("board_id").sum().sort("postponed", "board_id", descending=[True, False]),
    )


def _candidates(sessions: Companion, limits: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """The `CARDS` before their board's cut-off, by the boards' order, at most about `_HELD_CARDS` at a time."""
    held: list[pl.DataFrame] = []
    at, boards = 0, _FIRST_BOARDS
    while at < limits.height:
        cards = sessions.stale_cards(limits.slice(at, boards))
        at += boards
        boards = min(8 * boards, max(1, boards * _CARDS_A_READ // max(cards.height, 1)))
        held.append(cards)
        if sum(frame.height for frame in held) >= _HELD_CARDS:
            yield pl.concat(held)
            held.clear()
    yield pl.concat([pl.DataFrame(schema=CARDS), *held])


def _decided(connection: Connection, candidates: pl.DataFrame, limits: pl.DataFrame) -> pl.DataFrame:
    """The candidates that are stale, with their actor, in order of id."""
    stale = _collected(stale_cards(candidates.lazy(), limits.lazy()))
    with connection.begin():
        people = storage.read_people(connection, stale["account_id"].unique())
    return _collected(attributed(stale.lazy(), actors(people.lazy())))


def _collected(frame: pl.LazyFrame) -> pl.DataFrame:
    """The frame, by the engine that starts faster on frames of this size and takes 4 MB less than streaming."""
    return frame.collect(engine="in-memory")


def _start_engine() -> None:
    """Have Polars start its threads, which takes 3 ms, while Postgres reads."""
    pl.Series([b""]).bin.reinterpret(dtype=pl.Array(pl.Int64(), 0)).explode()
    pl.LazyFrame({"a": [1]}).sort("a").collect(engine="in-memory")


def _would_postpone(batch: pl.DataFrame) -> storage.Postponed:
    return storage.Postponed(batch["card_id"], batch.height - batch["actor_id"].null_count())
