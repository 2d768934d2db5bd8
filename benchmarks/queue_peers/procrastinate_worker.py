"""procrastinate, run by its own virtual environment: `procrastinate_worker.py install|fill|drain URL [JOBS]`.

`drain` prints `ready`, begins at the first line on standard input, and prints when it began and ended by the monotonic
clock. Of the concurrencies 1, 5, 10, 20 and 50, five was the fastest.
"""

import asyncio
import json
import logging
import sys
import time
from importlib import import_module

# By name, since type checkers look in this project's environment, where it is not.
App = import_module("procrastinate").App
PsycopgConnector = import_module("procrastinate").PsycopgConnector

_CONCURRENCY = 5
_CALL = 1_000


async def _noop() -> None:
    """Do nothing."""


async def _install(url: str) -> None:
    async with App(connector=PsycopgConnector(conninfo=url)).open_async() as app:
        await app.schema_manager.apply_schema_async()


async def _fill(url: str, jobs: int) -> None:
    async with App(connector=PsycopgConnector(conninfo=url)).open_async() as app:
        task = app.task(name="noop")(_noop)
        for start in range(0, jobs, _CALL):
            await task.batch_defer_async(*({} for _ in range(min(_CALL, jobs - start))))


async def _drain(url: str) -> None:
    connector = PsycopgConnector(conninfo=url, min_size=_CONCURRENCY + 1, max_size=_CONCURRENCY + 2)
    async with App(connector=connector).open_async() as app:
        app.task(name="noop")(_noop)
        await app.run_worker_async(
            concurrency=_CONCURRENCY, wait=False, listen_notify=False, install_signal_handlers=False
        )


def main() -> None:
    """Do what the arguments say."""
    logging.disable()
    what, url, *numbers = sys.argv[1:]
    if what == "install":
        asyncio.run(_install(url))
    elif what == "fill":
        asyncio.run(_fill(url, int(numbers[0])))
    else:
        print("ready", flush=True)
        sys.stdin.readline()
        began = time.monotonic()
        asyncio.run(_drain(url))
        print(json.dumps({"began": began, "ended": time.monotonic()}))


if __name__ == "__main__":
    main()
