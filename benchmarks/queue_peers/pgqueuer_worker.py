"""pgqueuer, run by its own virtual environment: `pgqueuer_worker.py install|fill|drain|enqueue URL [JOBS [BYTES]]`.

`drain` and `enqueue` print `ready`, begin at the first line on standard input, and print when they began and ended by
the monotonic clock. Batches of 100 with asyncpg and uvloop were the fastest of those that were tried.
"""

import json
import os
import sys
import time
from importlib import import_module

# By name, since type checkers look in this project's environment, where they are not.
asyncpg = import_module("asyncpg")
uvloop = import_module("uvloop")
PgQueuer = import_module("pgqueuer").PgQueuer
Queries = import_module("pgqueuer.queries").Queries
DRAIN = import_module("pgqueuer.types").QueueExecutionMode.drain

_BATCH = 100
_CALL = 1_000


async def _noop(_job: object) -> None:
    """Do nothing."""


async def _install(url: str) -> None:
    connection = await asyncpg.connect(url)
    await Queries.from_asyncpg_connection(connection).install()
    await connection.close()


async def _fill(url: str, jobs: int, payload_bytes: int) -> None:
    connection = await asyncpg.connect(url)
    queries = Queries.from_asyncpg_connection(connection)
    for start in range(0, jobs, _CALL):
        some = min(_CALL, jobs - start)
        payloads = [os.urandom(payload_bytes) if payload_bytes else None for _ in range(some)]
        await queries.enqueue(["noop"] * some, payloads, [0] * some)
    await connection.close()


async def _drain(url: str) -> None:
    connection = await asyncpg.connect(url)
    queue = PgQueuer.from_asyncpg_connection(connection)
    queue.entrypoint("noop")(_noop)
    await queue.run(batch_size=_BATCH, mode=DRAIN)


def main() -> None:
    """Do what the arguments say."""
    what, url, *numbers = sys.argv[1:]
    jobs, payload_bytes = (*map(int, numbers), 0, 0)[:2]
    if what in ("drain", "enqueue"):
        print("ready", flush=True)
        sys.stdin.readline()
    began = time.monotonic()
    if what == "install":
        uvloop.run(_install(url))
    elif what == "drain":
        uvloop.run(_drain(url))
    else:
        uvloop.run(_fill(url, jobs, payload_bytes))
    print(json.dumps({"began": began, "ended": time.monotonic()}))


if __name__ == "__main__":
    main()
