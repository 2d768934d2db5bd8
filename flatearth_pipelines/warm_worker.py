"""A process that has Dagster and the code location imported, and executes one run: `python -m` this module.

It waits for one line on its standard input: the arguments of Dagster's `dagster api execute_run`, in JSON. The end of
the input instead ends it: its launcher is gone, or does not need it.
"""

import signal
import sys

import dagster_postgres  # noqa: F401 - the storage that the run will open
from dagster._cli.api import execute_run_command

from flatearth_pipelines.definitions import defs


def main() -> None:
    """Wait, execute, end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal that the daemon is in: there is no run to stop yet
    defs.get_repository_def()
    arguments = sys.stdin.readline()
    if not arguments:
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    execute_run_command.main([arguments.strip()], prog_name="execute_run")


if __name__ == "__main__":
    main()
