"""One drain of ours in a process of its own: `python -m benchmarks.queue_drain CONNINFO [STAY_SECONDS]`.

Prints `ready` when everything is imported, begins at the first line on its standard input, ends when nothing is due for
so long, or at SIGTERM, and prints one JSON object: when it began and ended by the monotonic clock, and when each job of
the handler `tell` began, by the clock that Postgres reads too.
"""

import json
import signal
import sys
import time
from datetime import timedelta

from flatearth_pipelines.queue.clerk import Options
from flatearth_pipelines.queue.drain import Drain
from flatearth_pipelines.queue.handlers import Context, Handler, NoPayload, Payload, Registry

_LIMIT = timedelta(minutes=1)

_began: dict[int, float] = {}


class Blob(Payload):
    """A payload of some size."""

    data: str


async def _noop(_context: Context, _payload: Payload) -> None:
    """Do nothing."""


async def _tell(context: Context, _payload: Payload) -> None:
    """Note the time."""
    _began[context.job_id] = time.time()


HANDLERS = Registry(
    [
        Handler("noop", NoPayload, _noop, timeout=_LIMIT),
        Handler("blob", Blob, _noop, timeout=_LIMIT),
        Handler("tell", NoPayload, _tell, timeout=_LIMIT),
    ]
)


def main() -> None:
    """Drain, and say how long it took."""
    conninfo, *stay = sys.argv[1:]
    options = Options(stay=timedelta(seconds=float(stay[0]) if stay else 0))
    drain = Drain(conninfo, HANDLERS, "flatearth benchmark", options)
    signal.signal(signal.SIGTERM, lambda *_: drain.stop())
    print("ready", flush=True)
    sys.stdin.readline()
    began = time.monotonic()
    report = drain.run()
    ended = time.monotonic()
    print(json.dumps({"began": began, "ended": ended, "done": report.total("succeeded"), "starts": _began}))


if __name__ == "__main__":
    main()
