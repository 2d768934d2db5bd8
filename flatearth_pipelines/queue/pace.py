"""How many jobs a drain claims: as many as keep its workers busy, in large pieces when jobs are quick."""

import time

from flatearth_pipelines.queue.attempts import Workers
from flatearth_pipelines.queue.ledger import Ledger

_AHEAD_SECONDS = 0.1
"""Work that is claimed before there is room for it: enough to keep the workers busy, little to lose with a worker."""

_SHORTEST_MEASURE = 0.001
"""Seconds over which a rate says something."""


class Pace:
    """How fast jobs end, and what follows for the next claim."""

    def __init__(self, ledger: Ledger, workers: Workers, most: int) -> None:
        self._ledger = ledger
        self._workers = workers
        self._most = most
        self._rate = 0.0
        self._at = time.monotonic()
        self._ended = 0

    def measure(self) -> None:
        """Since the last time; workers that had nothing to do were not slow, so then the rate falls by half at most."""
        now = time.monotonic()
        if now - self._at >= _SHORTEST_MEASURE:
            rate = (self._ledger.ended - self._ended) / (now - self._at)
            self._rate = max(rate, self._rate / 2) if self._workers.ran_dry else rate
            self._at, self._ended, self._workers.ran_dry = now, self._ledger.ended, False

    def wanted(self) -> int:
        """As many as have room, and what the workers do in the next moment; `most` is the most."""
        soon = int(self._rate * _AHEAD_SECONDS)
        room = self._workers.room
        wanted = min(self._most, max(room, soon - self._workers.waiting))
        # A fast queue is claimed in large pieces: a claim of a few jobs costs as much as one of a hundred.
        return wanted if room > 0 or wanted >= min(self._most, soon) // 2 else 0
