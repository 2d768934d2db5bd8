"""How Dagster launches runs: from its queue, but a run that somebody waits for at once."""

from dagster import DagsterRun, DagsterRunStatus
from dagster._core.run_coordinator import QueuedRunCoordinator, SubmitRunContext

AT_ONCE = {"flatearth/launch": "at once"}
"""The tag of jobs that do not queue: they take one place, whatever else runs, and never wait for one."""


class RunCoordinator(QueuedRunCoordinator):
    """Dagster's own, which looks into its queue once a second; what is tagged `AT_ONCE` is launched when asked for."""

    def submit_run(self, context: SubmitRunContext) -> DagsterRun:
        """The run, launched or in the queue."""
        run = context.dagster_run
        if run.status is not DagsterRunStatus.NOT_STARTED or not run.tags.items() >= AT_ONCE.items():
            return super().submit_run(context)
        self._instance.launch_run(run.run_id, context.workspace)
        return self._instance.get_run_by_id(run.run_id) or run
