"""Runs that end themselves by SIGKILL right before the n-th statement or commit that they would send to Postgres.

As a program it reads such numbers from its standard input, and has one process after the other come to that step.
"""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path

from sqlalchemy import Connection, event

from flatearth_pipelines import database
from flatearth_pipelines.settings import Settings
from flatearth_pipelines.webhooks.delivery import Delivery, Options
from flatearth_pipelines.webhooks.dispatching import dispatch_new

APPLICATION = "a doomed run"


@contextlib.contextmanager
def doomed(what: str) -> Generator[Callable[[int], bool]]:
    """What runs `dispatch` or `deliver` on the database of the environment, and says whether it came to that step."""
    with subprocess.Popen(
        [sys.executable, "-m", __name__, what],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        lines, answers = process.stdin, process.stdout

        def end_at(step: int) -> bool:
            lines.write(f"{step}\n")
            lines.flush()
            code = int(answers.readline())
            assert code in {0, -signal.SIGKILL}
            return code != 0

        yield end_at
        lines.close()


def _main(what: str) -> None:
    for line in sys.stdin:
        child = os.fork()
        if not child:
            _run(what, int(line))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


def _run(what: str, step: int) -> None:
    settings = Settings.from_environment()
    engine = database.engine(database.connection_string(settings), APPLICATION)
    steps = itertools.count(1)

    def count(*_: object) -> None:
        if next(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(engine, "before_cursor_execute", count)
    event.listen(engine, "commit", count)
    with engine.connect() as connection:
        _RUNS[what](connection, settings)


def _dispatch(connection: Connection, _settings: Settings) -> None:
    dispatch_new(connection, batch_size=2)


def _deliver(connection: Connection, settings: Settings) -> None:
    Delivery(connection, settings, Options()).run()


_RUNS = {"dispatch": _dispatch, "deliver": _deliver}

if __name__ == "__main__":
    _main(sys.argv[1])
