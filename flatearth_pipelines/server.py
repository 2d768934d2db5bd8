"""Everything on one machine: embedded Postgres, Dagster's two processes and an inbox, as children of one process."""

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import click

from flatearth_pipelines import database, inbox, schema
from flatearth_pipelines.errors import DatabaseUnavailable, FlatEarthError, WrongUsage
from flatearth_pipelines.settings import Settings, project

ADDRESS = "127.0.0.1"

_PROGRAMS = ("dagster-", inbox.PROGRAM)

_READY_SECONDS = 60
_STOP_SECONDS = 10


@dataclass(frozen=True)
class _Child:
    name: str
    process: subprocess.Popen[bytes]
    log: Path


def up(settings: Settings, port: int) -> None:
    """Run everything until SIGINT or SIGTERM, then stop everything; raises when a part of it ends by itself.

    Raises:
        WrongUsage: the port is taken, or it runs already.
    """
    if running := _running(settings):
        raise WrongUsage(f"Flat Earth runs already, on http://{ADDRESS}:{running['port']}: `flatearth down` stops it")
    _refuse_taken(port)
    stop_asked = _StopAsked()
    database.prepare(settings)
    logs = settings.home / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        if settings.database is None:
            stack.callback(database.embedded_server(settings).stop)
        listen = ("-h", ADDRESS, "-p", str(port))
        mailed = {"FLATEARTH_SMTP_URL": inbox.SMTP_URL} if inbox.is_wanted() else {}
        children = [
            _start("webserver", logs, [_program("dagster-webserver"), *listen, "-w", "workspace.yaml"], mailed),
            _start("daemon", logs, [_program("dagster-daemon"), "run", "-w", "workspace.yaml"], mailed),
        ]
        # One that runs already is as good, and one that ends by itself is no reason to end.
        beside = [_start("inbox", logs, inbox.command() or [], {})] if mailed and not inbox.is_running() else []
        stack.callback(_end, [child.process for child in children + beside])
        stack.enter_context(_recorded(settings, port, *children, *beside))
        _wait(children, port, stop_asked, f" and its emails at {inbox.URL}" if mailed else "")
    click.echo("Stopped.")


def stop(settings: Settings) -> bool:
    """Stop the `up` of this home, wherever it was started, and wait for it; return whether there was one."""
    running = _running(settings)
    if running is None:
        return False
    os.kill(running["pid"], signal.SIGTERM)
    deadline = time.monotonic() + 2 * _STOP_SECONDS
    while _running(settings) and time.monotonic() < deadline:
        time.sleep(0.1)
    return True


def status(settings: Settings) -> list[dict[str, str]]:
    """A row for the database, the schema and the UI: what it is, and how it is."""
    server = database.embedded_server(settings)
    embedded = settings.database is None
    if embedded and not server.is_running():
        rows = [{"part": "database", "state": "stopped", "where": f"embedded, in {settings.home / 'postgres'}"}]
    else:
        conninfo = database.connection_string(settings)
        rows = _database_rows(conninfo, "embedded, " if embedded else "")
    running = _running(settings)
    where = f"http://{ADDRESS}:{running['port']}" if running else "`flatearth up` starts it"
    return [*rows, {"part": "UI and daemon", "state": "running" if running else "stopped", "where": where}]


def _database_rows(conninfo: str, kind: str) -> list[dict[str, str]]:
    where = kind + database.url(conninfo)
    try:
        with contextlib.closing(database.connect(conninfo, "flatearth status")) as connection:
            version = connection.info.server_version // 10_000
            steps = schema.status(connection)
    except DatabaseUnavailable as error:
        return [{"part": "database", "state": "unreachable", "where": f"{where}: {error}"}]
    amiss = [step for step in steps if step.state != "applied"]
    state = f"{amiss[0].migration} is {amiss[0].state}" if amiss else f"migrated to {steps[-1].migration}"
    return [
        {"part": "database", "state": "running", "where": f"{where} (Postgres {version})"},
        {"part": "schema", "state": state, "where": "flatearth"},
    ]


class _StopAsked:
    """Becomes true at SIGINT or SIGTERM.

    Handlers of our own also undo an ignored SIGINT, which a background process inherits from its shell and Dagster's
    processes would inherit from us: they could then be stopped by SIGKILL alone.
    """

    def __init__(self) -> None:
        self._asked = False
        signal.signal(signal.SIGINT, self._ask)
        signal.signal(signal.SIGTERM, self._ask)

    def __bool__(self) -> bool:
        return self._asked

    def _ask(self, _signal: int, _frame: FrameType | None) -> None:
        self._asked = True


def _wait(children: list[_Child], port: int, stop_asked: _StopAsked, emails: str) -> None:
    click.echo("Starting the UI and the daemon ...")
    announced = False
    deadline = time.monotonic() + _READY_SECONDS
    while not stop_asked:
        for child in children:
            if child.process.poll() is not None:
                raise FlatEarthError(f"The {child.name} ended by itself: {_reason(child.log)} (more in {child.log})")
        if not announced and _answers(port):
            announced = True
            click.echo(f"Flat Earth is at http://{ADDRESS}:{port}{emails} - Ctrl-C stops it.")
        if not announced and time.monotonic() > deadline:
            raise FlatEarthError(f"The UI did not answer within {_READY_SECONDS} seconds (see {children[0].log})")
        time.sleep(0.2)
    click.echo("Stopping ...")


def _program(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _start(name: str, logs: Path, command: list[str], variables: dict[str, str]) -> _Child:
    """A process with all that it starts in a group of its own, so that Ctrl-C reaches only us."""
    log = logs / f"{name}.log"
    home = project()
    dagster = {"DAGSTER_HOME": str(home), "PWD": str(home), "PYTHONWARNINGS": "ignore"}
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own virtual environment's programs
            command,
            cwd=home,
            env={**os.environ, **dagster, **variables},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return _Child(name, process, log)


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    """Ask all of them to stop at once; what has not stopped in time is killed, with all that it started."""
    for process in processes:
        process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + _STOP_SECONDS
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0, deadline - time.monotonic()))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def _recorded(settings: Settings, port: int, *children: _Child) -> Generator[None]:
    """What `stop` and `status` need to know, in a file that is locked for as long as this process lives."""
    with _record(settings).open("a+") as record:
        fcntl.flock(record, fcntl.LOCK_EX | fcntl.LOCK_NB)
        record.truncate(0)
        pids = [child.process.pid for child in children]
        record.write(json.dumps({"pid": os.getpid(), "port": port, "children": pids}))
        record.flush()
        try:
            yield
        finally:
            _record(settings).unlink(missing_ok=True)


def _record(settings: Settings) -> Path:
    return settings.home / "up.json"


def _running(settings: Settings) -> dict[str, Any] | None:
    """What the running `up` recorded. One that was killed is not running; what it left behind is ended first."""
    try:
        with _record(settings).open("r+") as file:
            record: dict[str, Any] = json.load(file)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return record
    except (OSError, ValueError):
        return None
    for pid in record["children"]:
        command = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False)  # noqa: S603, S607
        if any(name in command.stdout for name in _PROGRAMS):  # and not another program that got the same id since
            _end_group(pid)
    _record(settings).unlink(missing_ok=True)
    return None


def _end_group(pid: int) -> None:
    """End the processes of somebody who is gone, all that do not end when they are asked to."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_SECONDS
        while time.monotonic() < deadline:
            os.killpg(pid, 0)
            time.sleep(0.1)
        os.killpg(pid, signal.SIGKILL)


def _refuse_taken(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ADDRESS, port))
        except OSError as error:
            raise WrongUsage(f"Port {port} is not free ({error.strerror}): choose another with --port") from None


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{ADDRESS}:{port}/server_info", timeout=2):
            return True
    except (urllib.error.URLError, OSError):
        return False


def _reason(log: Path) -> str:
    return (log.read_text(errors="replace").strip().splitlines() or ["no reason given"])[-1]
