"""One run of ours in a process of its own: `python -m benchmarks.pipeline CONNINFO AS_OF REMAINDER OF`.

Prints `ready` when everything is imported, begins at the first line on its standard input, and prints one JSON object:
when it began and ended by the monotonic clock, which all processes of a machine share, and what it did.
"""

import json
import sys
import time
from datetime import datetime

from flatearth_pipelines import database
from flatearth_pipelines.entropy.backlog import postpone_backlog
from flatearth_pipelines.entropy.portions import Shard


def main() -> None:
    """Connect, postpone what is due, and say how long both took."""
    conninfo, as_of, remainder, of = sys.argv[1:]
    print("ready", flush=True)
    sys.stdin.readline()
    began = time.monotonic()
    with database.engine(conninfo, "flatearth benchmark").connect() as connection:
        outcome = postpone_backlog(connection, datetime.fromisoformat(as_of), shard=Shard(int(remainder), int(of)))
    ended = time.monotonic()
    print(json.dumps({"began": began, "ended": ended, "due": outcome.due, "postponed": outcome.postponed}))


if __name__ == "__main__":
    main()
