"""Jobs as people and schedulers start them: `dagster job execute` in a process of its own."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from flatearth_pipelines_tests.conftest import ROOT

PROGRAMS = Path(sys.executable).parent

_DEADLINE_SECONDS = 60


@contextlib.contextmanager
def job_execute(tmp_path: Path, job: str, op: str, config: dict[str, Any]) -> Generator[subprocess.Popen[str]]:
    """The running process; killed at the end if it still runs."""
    file = tmp_path / f"config{len(list(tmp_path.iterdir()))}.yaml"
    file.write_text(json.dumps({"ops": {op: {"config": config}}}))  # which is YAML too
    process = subprocess.Popen(
        [PROGRAMS / "dagster", "job", "execute", "-m", "flatearth_pipelines.definitions", "-j", job, "-c", file],
        cwd=ROOT,
        env={**os.environ, "PWD": str(ROOT), "PYTHONWARNINGS": "ignore"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Its exit code and all that it printed."""
    output, _ = process.communicate(timeout=_DEADLINE_SECONDS)
    return process.returncode, output


def until(condition: Callable[[], bool]) -> None:
    """Wait for it, for a minute at most."""
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
