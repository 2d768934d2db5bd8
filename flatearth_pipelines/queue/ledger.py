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
        if result is not None:
            self._results[str(job_id)] = kept_result(result)
        self._succeeded.append(job_id)

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
        sent = Recorded(self._succeeded, self._results, self._failed, self._cancelled, self._returned, self._heavy)
        self._forget()  # before the first await, during which more may end
        if sent.succeeded:
            sent.ask(
                sent.succeeded, "succeeded", await leases.finish(connection, lease_id, sent.succeeded, sent.results)
            )
        if sent.failed:
            asked = await leases.fail(connection, lease_id, sent.failed)
            dead = [job_id for job_id, _, retry_in_ms in sent.failed if retry_in_ms is None]
            again = [job_id for job_id, _, retry_in_ms in sent.failed if retry_in_ms is not None]
            sent.ask(dead, "failed", asked)
            sent.ask(again, "retried", asked)
        for reason, job_ids in sent.cancelled.items():
            sent.ask(job_ids, "cancelled", await leases.cancel(connection, lease_id, job_ids, reason))
        if sent.returned:
            sent.ask(sent.returned, "handed back", await leases.hand_back(connection, lease_id, sent.returned))
        if sent.heavy:
            sent.ask(sent.heavy, "handed back", await leases.hand_back(connection, lease_id, sent.heavy, own_run=True))
        return sent

    async def count(self, recorded: "Recorded") -> None:
        """Count what was recorded: as many of each as were still this lease's."""
        left: dict[int, int] = {}
        for job_ids, outcome, cursor in recorded.asked:
            if id(cursor) not in left:
                left[id(cursor)] = (await cursor.fetchone() or (0,))[0]
            done = min(len(job_ids), left[id(cursor)])
            left[id(cursor)] -= done
            self._count(job_ids[:done], outcome)
            for job_id in job_ids[done:]:
                self.leave(job_id)

    def _count(self, job_ids: Iterable[int], outcome: str) -> None:
        for handler, jobs in Counter(map(self._handler_of.pop, job_ids)).items():
            self._report.outcomes[handler, outcome] += jobs

    def _forget(self) -> None:
        self._succeeded: list[int] = []
        self._results: dict[str, Any] = {}
        self._failed: list[tuple[int, str, int | None]] = []
        self._cancelled: dict[str, list[int]] = {}
        self._returned: list[int] = []
        self._heavy: list[int] = []


@dataclass
class Recorded:
    """What was sent to Postgres, and where it answers how many of them it was."""

    succeeded: list[int]
    results: dict[str, Any]
    failed: list[tuple[int, str, int | None]]
    cancelled: dict[str, list[int]]
    returned: list[int]
    heavy: list[int]
    asked: list[tuple[list[int], str, psycopg.AsyncCursor[Any]]] = field(default_factory=list)

    def ask(self, job_ids: list[int], outcome: str, cursor: psycopg.AsyncCursor[Any]) -> None:
        """The cursor says how many of these jobs ended so."""
        self.asked.append((job_ids, outcome, cursor))
