"""People at work: connections that keep touching random due cards, and what a run does to them."""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

import psycopg

from benchmarks.data import DataSet, WrongResult
from benchmarks.servers import connected
from flatearth_pipelines import database

WRITERS = 4
CARDS_A_TRANSACTION = 3

_LEAD_SECONDS = 0.3
"""For which the writers are at work before the run begins."""

_DUE_CARDS = """
select id from flatearth.cards join board_rules using (board_id)
where status = 'published' and closed_at is null and postponed_at is null and %s - last_active_at > period
"""

_TOUCH = """
update flatearth.cards set last_active_at = clock_timestamp()
where id = %s and postponed_at is null
returning id
"""
# Of a card that is postponed by now it changes nothing: whatever it returns, and then commits, must stay active.

_AFTERWARDS = """
select
    count(*) filter (where id = any(%(touched)s) and postponed_at = %(as_of)s),
    count(*) filter (where postponed_at = %(as_of)s and (column_id is not null or activity_spike_at is not null)),
    count(*) filter (where postponed_at = %(as_of)s and actor_id is not null)
        - (select count(*) from flatearth.events where created_at = %(as_of)s and action = 'card_auto_postponed'),
    count(*) filter (
        where status = 'published' and closed_at is null and postponed_at is null
        and %(as_of)s - last_active_at > period
    ),
    (select deadlocks from pg_stat_database where datname = current_database())
from flatearth.cards join board_rules using (board_id)
"""


@dataclass(frozen=True)
class Contention:
    """How a run and the people at work got on with each other."""

    died: bool
    """The run lost a deadlock and all its work with it."""
    wrong: int
    """Cards that were postponed although somebody's touch of them was committed before."""
    left: int
    """Due cards that the run left to the next one, because somebody was writing to them."""
    deadlocks: int
    """That Postgres found, whoever lost."""
    longest_wait: float
    """Seconds that one transaction of a writer took."""
    transactions: int


@dataclass
class _Writer:
    """One connection that touches due cards, three per transaction, in random order, until told to stop."""

    conninfo: str
    cards: list[int]
    seed: int
    stop: threading.Event
    touched: list[int] = field(default_factory=list)
    longest: float = 0.0
    transactions: int = 0

    def work(self) -> None:
        chance = random.Random(self.seed)  # noqa: S311 - not a secret
        with database.connect(self.conninfo, "flatearth benchmark writer") as connection:
            while not self.stop.is_set():
                began = time.monotonic()
                self.touched += self._transaction(connection, chance.sample(self.cards, CARDS_A_TRANSACTION))
                self.longest = max(self.longest, time.monotonic() - began)
                self.transactions += 1

    @staticmethod
    def _transaction(connection: psycopg.Connection, cards: list[int]) -> list[int]:
        """The cards that it touched; none if it lost a deadlock, which Postgres counts."""
        try:
            with connection.transaction():
                rows = [connection.execute(_TOUCH, [card]).fetchone() for card in cards]
        except psycopg.errors.DeadlockDetected:
            return []
        return [row[0] for row in rows if row]


def among_writers(conninfo: str, data: DataSet, run: Callable[[str, datetime], object]) -> Contention:
    """What the run and the writers do to each other."""
    with connected(conninfo) as connection:
        cards = [card for (card,) in connection.execute(_DUE_CARDS, [data.as_of])]
    stop = threading.Event()
    writers = [_Writer(conninfo, cards, seed, stop) for seed in range(WRITERS)]
    threads = [threading.Thread(target=writer.work) for writer in writers]
    for thread in threads:
        thread.start()
    try:
        time.sleep(_LEAD_SECONDS)
        died = _dies_of_a_deadlock(lambda: run(conninfo, data.as_of))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    return _judged(conninfo, data, writers, died=died)


def _dies_of_a_deadlock(run: Callable[[], object]) -> bool:
    try:
        run()
    except psycopg.errors.DeadlockDetected:
        return True
    return False


def _judged(conninfo: str, data: DataSet, writers: list[_Writer], *, died: bool) -> Contention:
    touched = [card for writer in writers for card in writer.touched]
    with connected(conninfo) as connection:
        values = {"touched": touched, "as_of": data.as_of}
        [(wrong, halfway, unrecorded, left, deadlocks)] = connection.execute(_AFTERWARDS, values).fetchall()
    if halfway or unrecorded:
        raise WrongResult(f"{halfway} cards postponed halfway, {unrecorded} events too few")
    return Contention(
        died=died,
        wrong=wrong,
        left=left,
        deadlocks=deadlocks,
        longest_wait=max(writer.longest for writer in writers),
        transactions=sum(writer.transactions for writer in writers),
    )
