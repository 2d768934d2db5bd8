"""Processes with their time and memory, and rounds in which all variants take turns."""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import IO, TypeVar

from benchmarks.data import WrongResult
from benchmarks.servers import say
from flatearth_pipelines import database
from flatearth_pipelines.settings import project

Result = TypeVar("Result")


@dataclass(frozen=True)
class Run:
    """What processes took."""

    seconds: float
    """Of ours: from the first that connects to the last that is done. Of others: from start to end."""
    peak_mb: float
    """Resident memory of a whole process, in millions of bytes; of the largest, where there are several."""


def rounds(number: int, variants: Mapping[str, Callable[[], Result]]) -> dict[str, list[Result]]:
    """What each variant returned, round by round; every other round goes through them backwards."""
    results: dict[str, list[Result]] = {name: [] for name in variants}
    for index in range(number):
        for name in list(variants)[:: -1 if index % 2 else 1]:
            results[name].append(variants[name]())
            result = results[name][-1]
            say(f"  round {index + 1} of {number}, {name}: {f'{result:.3f}' if isinstance(result, float) else result}")
    return results


def ours(conninfo: str, as_of: datetime, shards: int = 1) -> Run:
    """Postpone what is due with that many processes at once, which all begin when the last is ready."""
    arguments = [[conninfo, as_of.isoformat(), str(remainder), str(shards)] for remainder in range(shards)]
    children = [_pipeline(each) for each in arguments]
    try:
        for child in children:
            _pipe(child.stdout).readline()
        for child in children:
            _pipe(child.stdin).write("go\n")
            _pipe(child.stdin).flush()
        lines = [_pipe(child.stdout).readline() for child in children]
        peaks = [_reaped(child) for child in children]
    finally:
        for child in children:
            child.kill()
            _pipe(child.stdin).close()
            _pipe(child.stdout).close()
    spans = [json.loads(line) for line in lines]
    return Run(max(span["ended"] for span in spans) - min(span["began"] for span in spans), max(peaks))


def dagster_job(conninfo: str, module: str, job: str, config: Mapping[str, object] | None = None) -> Run:
    """`dagster job execute`, as a person types it at the root of the checkout, on that database, with that config."""
    command = [sys.executable, "-m", "dagster", "job", "execute", "-m", module, "-j", job]
    environment = {**os.environ, "PWD": str(project()), "FLATEARTH_DATABASE_URL": database.url(conninfo)}
    with tempfile.TemporaryFile("w+") as output, tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        json.dump(config or {}, file)
        file.flush()
        began = time.monotonic()
        child = subprocess.Popen(
            [*command, "-c", file.name],
            cwd=project(),
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            peak = _reaped(child, output)
        finally:
            child.kill()
        return Run(time.monotonic() - began, peak)


def own_peak_mb() -> float:
    """Of this process: a child counts from it, until it grows beyond, because Linux counts from before its exec."""
    return _megabytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def _pipeline(arguments: Sequence[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.pipeline", *arguments]
    return subprocess.Popen(command, cwd=project(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _pipe(stream: IO[str] | None) -> IO[str]:
    if stream is None:
        raise TypeError("this process was started without pipes")
    return stream


def _reaped(child: subprocess.Popen[str] | subprocess.Popen[bytes], output: IO[str] | None = None) -> float:
    """The child's peak of resident memory, once it has ended.

    Raises:
        WrongResult: it failed, with the end of its output.
    """
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        said = ""
        if output:
            output.seek(0)
            said = output.read()[-2000:]
        raise WrongResult(f"{child.args!r} ended with {child.returncode}: {said}")
    return _megabytes(usage.ru_maxrss)


def _megabytes(ru_maxrss: int) -> float:
    """Linux counts in units of 1,024 bytes, macOS in bytes."""
    return ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
