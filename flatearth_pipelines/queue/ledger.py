"""What has ended in a drain and is not yet recorded, and the numbers of what was."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import psycopg

from flatearth_pipelines.queue import leases
from flatearth_pipelines.queue.handlers import Result
from flatearth_pipelines.queue.leases import Job
from flatearth_pipelines.queue.results import kept_result

OUTCOMES = ("succeeded", "retried", "failed", "cancelled", "handed back")


@dataclass
class Report:
    """What a drain did: numbers of jobs by handler and outcome."""

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    claimed: int = 0
    rescued: int = 0
    cron_ticks: int = 0
    fenced: int = 0
    """Ended here, but the lease was lost before it could be recorded: they are somebody else's."""

    def total(self, outcome: str) -> int:
        """Of all handlers."""
        return sum(count for (_, ended), count in self.outcomes.items() if ended == outcome)


class Ledger:
    """Jobs that a drain holds, until it is recorded how they ended."""

    def __init__(self, report: Report) -> None:
        self.ended = 0
        """Jobs whose handler is done with them."""
        self._report = report
        self._handler_of: dict[int, str] = {}
        self._forget()

    def claim(self, jobs: Iterable[Job]) -> None:
        """These jobs are held from now on."""
        for job in jobs:
            self._handler_of[job.id] = job.handler
            self._report.claimed += 1

    def holds(self, job_id: int) -> bool:
        """Whether the job has not been recorded yet."""
        return job_id in self._handler_of

    def succeed(self, job_id: int, result: Result) -> None:
        """It ends well, with what it returned."""
        self._succeeded.append(job_id)
        if result is not None:
            self._results[str(job_id)] = kept_result(result)

    def fail(self, job_id: int, error: str, retry_in_ms: int | None) -> None:
        """It is run again, or with None is dead."""
        self._failed.append((job_id, error, retry_in_ms))

    def cancel(self, job_id: int, reason: str) -> None:
        """It stopped because somebody wanted it to."""
        self._cancelled.setdefault(reason, []).append(job_id)

    def hand_back(self, job_id: int) -> None:
        """It waits again, as if it had not been claimed."""
        self._returned.append(job_id)

    def move(self, job_id: int) -> None:
        """It waits again, for a run of its own."""
        self._heavy.append(job_id)

    def settled(self, job_id: int) -> None:
        """Its own transaction recorded that it succeeded."""
        self._count([job_id], "succeeded")

    def leave(self, job_id: int) -> None:
        """It is somebody else's by now."""
        self._handler_of.pop(job_id, None)
        self._report.fenced += 1

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to record."""
        return not (self._succeeded or self._failed or self._cancelled or self._returned or self._heavy)

    async def record(self, connection: psycopg.AsyncConnection, lease_id: int) -> "Recorded":
        """Send everything to Postgres, in the connection's pipeline; the answer is read after its end."""
        sent = Recorded(self._succeeded, self._failed, self._cancelled, self._returned + self._heavy)
        cursors = sent.cursors
        if self._succeeded:
            cursors.append(await leases.finish(connection, lease_id, self._succeeded, self._results))
        if self._failed:
            cursors.append(await leases.fail(connection, lease_id, self._failed))
        for reason, job_ids in self._cancelled.items():
            cursors.append(await leases.cancel(connection, lease_id, job_ids, reason))
        if self._returned:
            cursors.append(await leases.hand_back(connection, lease_id, self._returned))
        if self._heavy:
            cursors.append(await leases.hand_back(connection, lease_id, self._heavy, own_run=True))
        self._forget()
        return sent

    async def count(self, recorded: "Recorded") -> None:
        """Count what was recorded."""
        done = sum([(await cursor.fetchone() or (0,))[0] for cursor in recorded.cursors])
        self._report.fenced += recorded.jobs - done
        self._count(recorded.succeeded, "succeeded")
        for job_id, _, retry_in_ms in recorded.failed:
            self._count([job_id], "failed" if retry_in_ms is None else "retried")
        for job_ids in recorded.cancelled.values():
            self._count(job_ids, "cancelled")
        self._count(recorded.handed_back, "handed back")

    def _count(self, job_ids: Iterable[int], outcome: str) -> None:
        outcomes, handler_of = self._report.outcomes, self._handler_of
        for job_id in job_ids:
            outcomes[handler_of.pop(job_id), outcome] += 1

    def _forget(self) -> None:
        self._succeeded: list[int] = []
        self._results: dict[str, Any] = {}
        self._failed: list[tuple[int, str, int | None]] = []
        self._cancelled: dict[str, list[int]] = {}
        self._returned: list[int] = []
        self._heavy: list[int] = []


@dataclass
class Recorded:
    """What was sent to Postgres, and where it answers."""

    succeeded: list[int]
    failed: list[tuple[int, str, int | None]]
    cancelled: dict[str, list[int]]
    handed_back: list[int]
    cursors: list[psycopg.AsyncCursor[Any]] = field(default_factory=list)

    @property
    def jobs(self) -> int:
        """How many."""
        cancelled = sum(map(len, self.cancelled.values()))
        return len(self.succeeded) + len(self.failed) + cancelled + len(self.handed_back)
