"""The keeper of a drain: a thread that does what must not wait for the event loop, which a handler may hold up."""

import contextlib
import threading
import time
from collections.abc import Callable
from datetime import timedelta

from flatearth_pipelines import database
from flatearth_pipelines.queue import leases
from flatearth_pipelines.queue.handlers import storable

_KEEP_SECONDS = 0.2
_RENEW_SECONDS = 5.0
"""How often the keeper looks, and renews the lease at least: that is also a sign of life."""

_LINE_LENGTH = 500


class Keeper:
    """Renews the lease, writes the progress of jobs, and passes on requests to stop, on a connection of its own."""

    def __init__(
        self,
        conninfo: str,
        application: str,
        lease_id: int,
        lease: timedelta,
        *,
        tell_cancelled: Callable[[list[tuple[int, str]]], None],
        give_up: Callable[[BaseException], None],
    ) -> None:
        self._conninfo = conninfo
        self._application = application
        self._lease_id = lease_id
        self._lease = lease
        self._tell_cancelled = tell_cancelled
        self._give_up = give_up
        self._ended = threading.Event()
        self._progress: dict[int, tuple[float, str]] = {}
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)

    def start(self) -> None:
        """Begin. Without its keeper a drain must end: `give_up` is called with whatever ended it."""
        self._thread.start()

    def end(self) -> None:
        """Stop looking; a statement at work is given 5 s."""
        self._ended.set()
        self._thread.join(5)

    def note_progress(self, job_id: int, percent: float, line: str) -> None:
        """To be written soon; of several only the last. From any thread."""
        with self._lock:
            self._progress[job_id] = (percent, " ".join(storable(line).split())[:_LINE_LENGTH])

    def _run(self) -> None:
        try:
            with contextlib.closing(database.connect(self._conninfo, self._application)) as connection:
                connection.autocommit = True
                renewed = time.monotonic()
                every = min(self._lease.total_seconds() / 5, _RENEW_SECONDS)
                while not self._ended.wait(min(_KEEP_SECONDS, every)):
                    if time.monotonic() - renewed >= every:
                        renewed = time.monotonic()
                        leases.renew_lease(connection, self._lease_id, self._lease)
                    with self._lock:
                        progress, self._progress = self._progress, {}
                    if progress:
                        leases.write_progress(connection, self._lease_id, progress)
                    requests = leases.read_stop_requests(connection, self._lease_id)
                    if requests:
                        self._tell_cancelled(requests)
        except Exception as error:  # noqa: BLE001 - whatever it was
            self._give_up(error)
