"""A second session that reads beside a run's own: one process of Postgres answers one session, and machines have more.

It only reads. Where Postgres has no session left for it, the run's own reads everything.
"""

import contextlib
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor

import polars as pl
from sqlalchemy import Connection

from flatearth_pipelines import database
from flatearth_pipelines.driver import driver_connection
from flatearth_pipelines.entropy import storage
from flatearth_pipelines.entropy.portions import Shard
from flatearth_pipelines.errors import DatabaseUnavailable

_FEWEST_BOARDS = 100
"""Whose cards are read by one session: what two could save is less than what a thread takes."""


class Companion:
    """Two sessions on one database, each busy with its half."""

    def __init__(self, connection: Connection, threads: ThreadPoolExecutor) -> None:
        self._own = connection
        self._threads = threads
        self._other: Future[Connection] = threads.submit(connection.engine.connect)

    def boards_and_periods(self, shard: Shard) -> tuple[pl.DataFrame, pl.DataFrame]:
        """The `BOARDS` and the `PERIODS` of the shard's accounts."""
        return self._both(
            lambda connection: storage.read_boards(connection, shard),
            lambda connection: storage.read_periods(connection, shard),
        )

    def stale_cards(self, cutoffs: pl.DataFrame) -> pl.DataFrame:
        """The active `CARDS` before their board's cut-off."""
        if cutoffs.height < _FEWEST_BOARDS:
            with self._own.begin():
                return storage.read_stale_cards(self._own, cutoffs)
        half = cutoffs.height // 2
        return pl.concat(
            self._both(
                lambda connection: storage.read_stale_cards(connection, cutoffs.head(half)),
                lambda connection: storage.read_stale_cards(connection, cutoffs.slice(half)),
            )
        )

    def close(self, *, interrupted: bool) -> None:
        """End the other session; interrupted, with what it is at."""
        with contextlib.suppress(DatabaseUnavailable):
            other = self._other.result()
            if interrupted:
                database.cancel_statement(driver_connection(other))
            self._threads.shutdown()
            other.close()

    def _both(
        self, mine: Callable[[Connection], pl.DataFrame], others: Callable[[Connection], pl.DataFrame]
    ) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Both results, worked out at the same time, each in a transaction of its own."""
        asked = self._threads.submit(self._read, others)
        with self._own.begin():
            own = mine(self._own)
        found = asked.result()
        if found is None:
            with self._own.begin():
                found = others(self._own)
        return own, found

    def _read(self, read: Callable[[Connection], pl.DataFrame]) -> pl.DataFrame | None:
        """What the other session reads; None when there is no such session."""
        try:
            other = self._other.result()
        except DatabaseUnavailable:
            return None
        with other.begin():
            return read(other)


@contextlib.contextmanager
def companion(connection: Connection) -> Generator[Companion]:
    """The session with another one beside it, which is gone at the end."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="flatearth companion") as threads:
        both = Companion(connection, threads)
        try:
            yield both
        except BaseException:
            both.close(interrupted=True)
            raise
        both.close(interrupted=False)
