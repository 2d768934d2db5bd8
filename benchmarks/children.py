"""Workers in processes of their own, which begin together when the last has started and imported everything."""

import contextlib
import json
import signal
import subprocess
import tempfile
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import IO, Any

from benchmarks.data import WrongResult
from flatearth_pipelines.settings import project

_LONGEST_SECONDS = 1_200


@dataclass(frozen=True)
class Child:
    """A worker that waits for the word to begin."""

    process: subprocess.Popen[str]
    errors: IO[str]

    def begin(self) -> None:
        """Let it work."""
        _pipe(self.process.stdin).write("go\n")
        _pipe(self.process.stdin).flush()

    def said(self) -> dict[str, Any]:
        """What it reports at its end.

        Raises:
            WrongResult: it failed or did not end.
        """
        try:
            output, _ = self.process.communicate(timeout=_LONGEST_SECONDS)
        except subprocess.TimeoutExpired:
            raise WrongResult(f"{self.process.args!r} did not end within {_LONGEST_SECONDS} s") from None
        if self.process.returncode != 0 or not output:
            raise WrongResult(f"{self.process.args!r} ended with {self.process.returncode}: {self._complaint()}")
        report: dict[str, Any] = json.loads(output.splitlines()[-1])
        return report

    def ask_to_end(self) -> None:
        """It stops in good order at SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    def wait_until_ready(self) -> None:
        """Return when it has said so.

        Raises:
            WrongResult: it did not come that far.
        """
        if _pipe(self.process.stdout).readline().strip() != "ready":
            self.process.wait()
            raise WrongResult(f"{self.process.args!r} did not start: {self._complaint()}")

    def next_number(self) -> int:
        """What it says in its next line."""
        return int(_pipe(self.process.stdout).readline())

    def _complaint(self) -> str:
        self.errors.seek(0)
        return self.errors.read()[-2000:]


@contextlib.contextmanager
def started(commands: Sequence[Sequence[str]]) -> Generator[list[Child]]:
    """Workers that are ready; what still runs at the end of the block is killed."""
    with contextlib.ExitStack() as stack:
        children = []
        for command in commands:
            errors = stack.enter_context(tempfile.TemporaryFile("w+"))
            process = subprocess.Popen(
                command, cwd=project(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )
            stack.callback(_end, process)
            children.append(Child(process, errors))
        for child in children:
            child.wait_until_ready()
        yield children


def seconds_of(*commands: Sequence[str]) -> float:
    """From the first of these workers that connects to the last that is done."""
    with started(commands) as children:
        for child in children:
            child.begin()
        spans = [child.said() for child in children]
    return float(max(span["ended"] for span in spans) - min(span["began"] for span in spans))


def run(command: Sequence[str]) -> None:
    """Run a command that has to succeed.

    Raises:
        WrongResult: it failed, with the end of what it said.
    """
    done = subprocess.run(command, cwd=project(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise WrongResult(f"{command!r} ended with {done.returncode}: {(done.stderr + done.stdout)[-2000:]}")


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):
            _pipe(pipe).close()


def _pipe(stream: IO[str] | None) -> IO[str]:
    if stream is None:
        raise TypeError("this process was started without pipes")
    return stream
