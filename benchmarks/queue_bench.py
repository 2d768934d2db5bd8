"""How the figures of the queue measure: jobs a second of a drain, on a fresh copy, verified; a row that compares."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks import queue_limit
from benchmarks.children import seconds_of
from benchmarks.queue_backlogs import Backlog
from benchmarks.queue_peers.peers import Peers
from benchmarks.report import Gate, Row, Spread
from benchmarks.servers import Lab, connected
from flatearth_pipelines import database

_HOLD = "begin isolation level repeatable read; select count(*) from flatearth.live_jobs where id = 0"


@dataclass(frozen=True)
class Bench:
    """Where and how much is measured."""

    lab: Lab
    home: Path
    peers: Peers
    jobs: int
    """Of the long backlog; the short one has a tenth, the history twenty times as many."""
    rounds: int

    @property
    def short(self) -> Backlog:
        """A tenth of the jobs."""
        return Backlog("short", self.jobs // 10)

    @property
    def long(self) -> Backlog:
        """All of them."""
        return Backlog("long", self.jobs)

    @property
    def history(self) -> Backlog:
        """The short backlog, and twenty times the jobs that have ended."""
        return Backlog("history", self.jobs // 10, finished=20 * self.jobs)

    def of_peer(self, name: str, jobs: int, payload_bytes: int = 0) -> Backlog | None:
        """As many jobs of that peer, if it is there."""
        peer = self.peers.found.get(name)
        size = f"_{payload_bytes}" if payload_bytes else ""
        return Backlog(f"{name}_{jobs}{size}", jobs, peer, payload_bytes=payload_bytes) if peer else None

    def drained(self, backlog: Backlog, processes: int = 1) -> Callable[[], float]:
        """Jobs a second of ours."""
        command = (sys.executable, "-m", "benchmarks.queue_drain")
        return self._timed(backlog, lambda conninfo: seconds_of(*[(*command, conninfo)] * processes))

    def drained_by_peer(self, backlog: Backlog) -> Callable[[], float]:
        """Jobs a second of a peer."""
        command = backlog.peer.command if backlog.peer else ()
        return self._timed(backlog, lambda conninfo: seconds_of((*command, "drain", database.url(conninfo))))

    def limit(self, backlog: Backlog) -> Callable[[], float]:
        """Jobs a second of the same statements alone."""
        return self._timed(backlog, lambda conninfo: queue_limit.drain(conninfo, backlog.jobs))

    def drained_while_held(self, backlog: Backlog) -> Callable[[], float]:
        """Jobs a second of ours beside a transaction that looked at the queue once and stays open."""

        def seconds(conninfo: str) -> float:
            with connected(conninfo) as connection:
                connection.execute(_HOLD)
                taken = seconds_of((sys.executable, "-m", "benchmarks.queue_drain", conninfo))
                connection.execute("rollback")
                return taken

        return self._timed(backlog, seconds)

    def _timed(self, backlog: Backlog, seconds: Callable[[str], float]) -> Callable[[], float]:
        backlog.build(self.lab)

        def once() -> float:
            conninfo = backlog.fresh(self.lab)
            taken = seconds(conninfo)
            backlog.verify(conninfo)
            return backlog.jobs / taken

        return once


def faster(
    figure: str, what: str, rates: Mapping[str, Sequence[float]], pair: tuple[str, str], least: float | None = None
) -> Row:
    """Our rate as a multiple of the rival's, in the same round; without the rival only ours."""
    ours, rival = pair
    mine = f"{median(rates[ours]):,.0f} jobs/s"
    gate = None if least is None else Gate(least=least)
    if rival not in rates:
        return Row(figure, what, mine, "skipped", gate=str(gate or ""))
    ratio = Spread.of_ratios(rates[ours], rates[rival])
    passed = gate.holds(ratio.middle) if gate else None
    return Row(figure, what, mine, f"{median(rates[rival]):,.0f} jobs/s", str(ratio), str(gate or ""), passed)
