"""How a run that somebody waits for gets its process: a worker that has everything imported, and waits for a run.

A process of Python, Dagster and this code takes two seconds to start. After the first run that is asked for at once the
daemon keeps one such worker in reserve, until the daemon ends or a file of the code changes.
"""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from dagster import DagsterRun
from dagster._core.launcher import DefaultRunLauncher, LaunchRunContext
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import serialize_value

from flatearth_pipelines.dagster_coordinator import AT_ONCE

_WORKER_TAG = "flatearth/worker_pid"
"""On the run: the process that executes it, on the machine of the daemon."""

_MODULE = "flatearth_pipelines.warm_worker"

_RESERVE_AFTER_SECONDS = 5.0
"""After a launch, before the next worker is started: the run is to have the processor to itself first."""


class RunLauncher(DefaultRunLauncher):
    """Dagster's own, but for runs tagged `AT_ONCE` that a sensor asks for: those take the worker in reserve."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._disposed = False
        self._reserve: subprocess.Popen[str] | None = None
        self._reserve_of = 0
        """The version of the code that it has imported."""
        self._at_work: list[subprocess.Popen[str]] = []

    @property
    def in_reserve(self) -> int | None:
        """The process that waits for a run."""
        return None if self._reserve is None else self._reserve.pid

    def launch_run(self, context: LaunchRunContext) -> None:
        """Start the run in a process of its own."""
        run = context.dagster_run
        if "dagster/sensor_name" not in run.tags or not run.tags.items() >= AT_ONCE.items():
            super().launch_run(context)
            return
        worker = self._taken()
        if worker is None or not self._handed_over(run, worker):
            super().launch_run(context)
        self._timer = threading.Timer(_RESERVE_AFTER_SECONDS, self.keep_one)
        self._timer.daemon = True
        self._timer.start()

    def terminate(self, run_id: str) -> bool:
        """Interrupt the run; False when it runs no more."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished or _WORKER_TAG not in run.tags:
            return bool(super().terminate(run_id))  # type: ignore[no-untyped-call]  # Dagster's own
        pid = _worker(run)
        if pid is None:
            return False
        self._instance.report_run_canceling(run)
        os.kill(pid, signal.SIGINT)
        return True

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Of the runs in our own workers; Dagster's code server looks after the others itself."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Whether the process of the run is there."""
        if _WORKER_TAG in run.tags and _worker(run) is None:
            return CheckRunHealthResult(WorkerStatus.FAILED, "Its process is gone")
        return CheckRunHealthResult(WorkerStatus.RUNNING)

    def dispose(self) -> None:
        """Let the worker in reserve go."""
        if self._timer is not None:
            self._timer.cancel()
        with self._lock:
            self._disposed = True
            self._drop_reserve()
            self._reap()

    def _taken(self) -> subprocess.Popen[str] | None:
        with self._lock:
            if self._reserve_of != _version():
                self._drop_reserve()
            worker, self._reserve = self._reserve, None
        return worker if worker is not None and worker.poll() is None else None

    def _handed_over(self, run: DagsterRun, worker: subprocess.Popen[str]) -> bool:
        if run.job_code_origin is None or worker.stdin is None:
            return False
        arguments = ExecuteRunArgs(
            job_origin=run.job_code_origin, run_id=run.run_id, instance_ref=self._instance.get_ref()
        )
        self._instance.add_run_tags(run.run_id, {_WORKER_TAG: str(worker.pid)})
        try:
            worker.stdin.write(serialize_value(arguments) + "\n")
            worker.stdin.close()
        except OSError:  # it has ended this moment
            return False
        self._at_work.append(worker)
        return True

    def keep_one(self) -> None:
        """Start the worker in reserve, unless there is one."""
        with self._lock:
            self._reap()
            if not self._disposed and (self._reserve is None or self._reserve.poll() is not None):
                self._reserve_of = _version()
                self._reserve = subprocess.Popen(  # noqa: S603 - this program and a module of ours
                    [sys.executable, "-m", _MODULE], stdin=subprocess.PIPE, text=True, encoding="utf-8"
                )

    def _drop_reserve(self) -> None:
        if self._reserve is not None and self._reserve.stdin is not None:
            self._reserve.stdin.close()
            self._reserve.kill()  # it has nothing to lose
            self._reserve.wait()
        self._reserve = None

    def _reap(self) -> None:
        self._at_work = [worker for worker in self._at_work if worker.poll() is None]


def _version() -> int:
    """When a file of this package was last written, in nanoseconds."""
    return max(path.stat().st_mtime_ns for path in Path(__file__).parent.rglob("*.py"))


def _worker(run: DagsterRun) -> int | None:
    """The process of the run, unless it has ended; its number may be another program's by now."""
    pid = run.tags[_WORKER_TAG]
    listed = subprocess.run(["ps", "-o", "command=", "-p", pid], capture_output=True, text=True, check=False)  # noqa: S603, S607
    return int(pid) if _MODULE in listed.stdout else None
