"""The least that Dagster can be asked to run: one op that does nothing, in the process that executes it."""

import dagster as dg


@dg.op
def do_nothing() -> None:
    """Do nothing."""


@dg.job(executor_def=dg.in_process_executor)
def empty() -> None:
    """Run one op that does nothing."""
    do_nothing()


defs = dg.Definitions(jobs=[empty])
