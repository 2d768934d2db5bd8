"""Several connections to the mail server at once. What is put in comes out with what became of it, in any order."""

import atexit
import contextlib
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Generic, NamedTuple, Self, TypeVar

from flatearth_pipelines.errors import FlatEarthError
from flatearth_pipelines.mailer import SMTP_SECONDS, Answer, Fate, Line
from flatearth_pipelines.message import Message, one_line
from flatearth_pipelines.settings import Settings

T = TypeVar("T")

FRESH_SECONDS = 60.0
"""How old what was read for a mail may be when the mail is begun. Far less than a claim lasts."""

_LOST_IN_A_ROW = 3
"""So many lost connections one after the other, or as many as there are lines, mean that the server is away."""

_GATHER_SECONDS = 0.02
"""How long `look` waits for more once something is done: to record each mail by itself costs as much as to send it."""

_IDLE_LINES = 10


class Sent(NamedTuple, Generic[T]):
    """What became of one item."""

    item: T
    answer: Answer | None
    """None: it was not tried, because it waited for too long or everything was stopped."""


class Senders(Generic[T]):
    """Threads with a connection each that write the mail about an item, and send it.

    A line that cannot connect leaves its item to the others; when the last one cannot, the server is away: everything
    that waits gets that answer, and nothing is tried any more.
    """

    def __init__(
        self,
        settings: Settings,
        compose: Callable[[T], Message],
        *,
        connections: int,
        seconds: float = SMTP_SECONDS,
        fresh_seconds: float = FRESH_SECONDS,
    ) -> None:
        self.outage: str | None = None
        """Why the server cannot be reached, once that is so."""
        self._compose = compose
        self._fresh = fresh_seconds
        self._inbox: SimpleQueue[tuple[T, float] | None] = SimpleQueue()
        self._done: SimpleQueue[Sent[T]] = SimpleQueue()
        self._taken: list[Sent[T]] = []
        self._backlog = 0
        self._stopping = False
        self._lock = threading.Lock()
        self._connecting = connections
        self._lost = 0
        self._most_lost = max(_LOST_IN_A_ROW, connections)
        self._threads = [
            threading.Thread(target=self._work, args=(Line(settings, seconds),), name=f"mail {number}", daemon=True)
            for number in range(connections)
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def backlog(self) -> int:
        """How many were put and not forgotten yet."""
        return self._backlog

    def put(self, items: Iterable[T]) -> None:
        """Send these too, unless they have waited for longer than what was read for them is good for."""
        until = time.monotonic() + self._fresh
        for item in items:
            self._backlog += 1
            self._inbox.put((item, until))

    def look(self, seconds: float) -> list[Sent[T]]:
        """What is done and not forgotten; waits for so long for the first of it, and a moment for more.

        It is the same at the next look: an interrupt between the two loses nothing of it.
        """
        with contextlib.suppress(Empty):
            if seconds > 0:
                self._taken.append(self._done.get(timeout=seconds))
                if self._backlog > 1:
                    time.sleep(_GATHER_SECONDS)
            while True:
                self._taken.append(self._done.get_nowait())
        return list(self._taken)

    def forget(self, sent: Sequence[Sent[T]]) -> None:
        """These are recorded: no later look finds them."""
        del self._taken[: len(sent)]
        self._backlog -= len(sent)

    def stop(self) -> None:
        """Begin nothing more: what waits comes out untried."""
        self._stopping = True

    def close(self) -> None:
        """Stop, and say goodbye to the server once what is being sent is sent."""
        self.stop()
        for _ in self._threads:
            self._inbox.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self, line: Line) -> None:
        with line:
            while (waiting := self._inbox.get()) is not None:
                item, until = waiting
                if self._stopping:
                    answer = None
                elif self.outage is not None:
                    answer = Answer(Fate.LATER, self.outage, unreachable=True)
                elif time.monotonic() > until:
                    answer = None
                else:
                    answer = self._sent(line, item)
                    if answer.unreachable and self._leaves(answer):
                        self._inbox.put(waiting)
                        return
                self._done.put(Sent(item, answer))

    def _sent(self, line: Line, item: T) -> Answer:
        try:
            message = self._compose(item)
        except FlatEarthError as error:
            return Answer(Fate.REFUSED, str(error))
        except Exception as error:  # noqa: BLE001 - a defect in the mail of one must not keep the others from theirs
            return Answer(Fate.REFUSED, one_line(f"its mail cannot be written: {type(error).__name__}: {error}"))
        answer = line.send(message)
        with self._lock:
            self._lost = self._lost + 1 if answer.lost else 0
            if self._lost >= self._most_lost:
                self.outage = self.outage or answer.said
        return answer

    def _leaves(self, answer: Answer) -> bool:
        """Whether others are left to send; otherwise the server is away."""
        with self._lock:
            if self._connecting == 1:
                self.outage = self.outage or answer.said
                return False
            self._connecting -= 1
            return True


class _KeptLines:
    """Connections of this process that nobody uses at the moment, for jobs that send one mail each."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: dict[str, list[Line]] = {}

    @contextlib.contextmanager
    def line(self, settings: Settings) -> Generator[Line]:
        """A line for one thread, kept afterwards."""
        with self._lock:
            idle = self._idle.get(settings.smtp_url)
            line = idle.pop() if idle else Line(settings)
        try:
            yield line
        except BaseException:
            line.close()
            raise
        with self._lock:
            idle = self._idle.setdefault(settings.smtp_url, [])
            if len(idle) < _IDLE_LINES:
                idle.append(line)
                return
        line.close()

    def close(self) -> None:
        """Say goodbye to the servers."""
        with self._lock:
            lines = [line for idle in self._idle.values() for line in idle]
            self._idle.clear()
        for line in lines:
            line.close()


KEPT_LINES = _KeptLines()

atexit.register(KEPT_LINES.close)
