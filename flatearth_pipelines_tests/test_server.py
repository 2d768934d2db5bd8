"""`flatearth up`, `down` and `status`, as processes, with a home of their own."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from flatearth_pipelines import database as db
from flatearth_pipelines import inbox
from flatearth_pipelines.settings import Settings

FLATEARTH = str(Path(sys.executable).with_name("flatearth"))

HEALTH = """
    { instance { daemonHealth { allDaemonStatuses { daemonType required healthy lastHeartbeatErrors { message } } } } }
"""

LOCATIONS = "{ repositoriesOrError { ... on RepositoryConnection { nodes { name location { name } } } } }"


@pytest.fixture(scope="module")
def module_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Migrated once, so that not every test pays for it."""
    settings = Settings.from_environment({"FLATEARTH_HOME": str(tmp_path_factory.mktemp("home"))})
    db.prepare(settings)
    db.embedded_server(settings).stop()
    return settings.home


@pytest.fixture
def home(module_home: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    """Where nothing runs: neither before the test nor after it, whatever became of it."""
    monkeypatch.delenv("FLATEARTH_DATABASE_URL", raising=False)
    monkeypatch.setenv("FLATEARTH_HOME", str(module_home))
    yield module_home
    for pid in _processes(module_home):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    db.embedded_server(Settings.from_environment()).stop()


def test_up_serves_everything_until_ctrl_c_and_leaves_nothing_behind(home: Path) -> None:
    port = _free_port()
    with _up("--port", str(port)) as up:
        assert "Starting" in _line(up)
        assert _line(up).startswith(f"Flat Earth is at http://127.0.0.1:{port} ")

        with urllib.request.urlopen(f"http://127.0.0.1:{port}/server_info", timeout=10) as answer:
            assert "dagster_version" in json.load(answer)
        _until(lambda: _all_daemons_are_healthy(port))
        nodes = _graphql(port, LOCATIONS)["repositoriesOrError"]["nodes"]
        assert nodes == [{"name": "__repository__", "location": {"name": "flatearth"}}]

        state, where = _status("UI and daemon")
        assert (state, where) == ("running", f"http://127.0.0.1:{port}")
        assert _status("database")[0] == "running"
        assert _status("schema")[0].startswith("migrated to ")
        _assert_listens_on_loopback_only(port)

        second = _flatearth("up", "--port", str(_free_port()))
        assert (second.returncode, second.stdout) == (2, "")
        assert second.stderr == (
            f"Error: Flat Earth runs already, on http://127.0.0.1:{port}: `flatearth down` stops it\n"
        )
        assert up.poll() is None, "which the first one survives"

        up.send_signal(signal.SIGINT)
        assert _rest(up) == ["Stopping ...", "Stopped."]
        assert up.wait(60) == 0
    _assert_nothing_runs(home)
    assert _status("UI and daemon")[0] == "stopped"
    assert _status("database")[0] == "stopped"
    assert _processes(home) == [], "looking starts nothing"


@pytest.mark.skipif(
    inbox.command() is None and "CI" not in os.environ,
    reason="mail-devel is not installed: `make inbox` does that",
)
def test_up_shows_emails_in_the_inbox_where_that_is_installed_and_no_mail_server_is_named(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FLATEARTH_SMTP_URL", raising=False)
    with _up("--port", str(_free_port())) as up:
        assert "Starting" in _line(up)
        assert f" and its emails at {inbox.URL} - " in _line(up)
        _until(inbox.is_running)
        up.send_signal(signal.SIGINT)
        assert up.wait(60) == 0
    _assert_nothing_runs(home)


@pytest.mark.parametrize("ask", [signal.SIGINT, signal.SIGTERM])
def test_up_stops_when_asked_also_when_it_was_started_with_sigint_ignored(home: Path, ask: signal.Signals) -> None:
    """As a shell starts what runs in its background."""
    ignoring = ["sh", "-c", 'trap "" INT; exec "$0" "$@"', FLATEARTH]
    with _up("--port", str(_free_port()), program=ignoring) as up:
        assert "Starting" in _line(up)
        up.send_signal(ask)
        assert _rest(up)[-1] == "Stopped."
        assert up.wait(60) == 0
    _assert_nothing_runs(home)


def test_down_in_another_process_stops_it(home: Path) -> None:
    with _up("--port", str(_free_port())) as up:
        assert "Starting" in _line(up)
        done = _flatearth("down")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines()[0] == "Stopped the UI and the daemon."
        assert up.wait(60) == 0
    _assert_nothing_runs(home)
    assert _flatearth("down").stdout == "The embedded Postgres was not running.\n"


def test_down_cleans_up_after_a_kill_9_of_up(home: Path) -> None:
    with _up("--port", str(_free_port())) as up:
        assert "Starting" in _line(up)
        assert _line(up).startswith("Flat Earth is at"), "Dagster's own children run by then"
        up.kill()
    assert len(_processes(home)) > 4, "they outlive it"
    assert _flatearth("down").returncode == 0
    _assert_nothing_runs(home)


def test_up_takes_the_place_of_one_that_was_killed(home: Path) -> None:
    port = _free_port()
    with _up("--port", str(port)) as killed:
        assert "Starting" in _line(killed)
        _until((home / "up.json").is_file)
        killed.kill()
    assert _status("UI and daemon")[0] == "stopped"
    with _up("--port", str(_free_port())) as up:
        assert "Starting" in _line(up)
        up.send_signal(signal.SIGINT)
        assert up.wait(60) == 0
    _assert_nothing_runs(home)


@pytest.mark.parametrize("name", ["webserver", "daemon"])
def test_when_a_part_ends_by_itself_everything_stops_and_one_line_says_why(home: Path, name: str) -> None:
    with _up("--port", str(_free_port())) as up:
        assert "Starting" in _line(up)
        _until((home / "up.json").is_file)
        (child,) = _processes(home, f"dagster-{name}")
        os.kill(child, signal.SIGKILL)
        assert up.stderr is not None
        error = up.stderr.read()
        assert up.wait(60) == 1
    assert re.fullmatch(rf"Error: The {name} ended by itself: [^\n]+\n", error)
    assert str(home / "logs" / f"{name}.log") in error
    _assert_nothing_runs(home)


def test_a_taken_port_is_said_in_one_line_and_nothing_is_started(home: Path) -> None:
    with socket.socket() as somebody:
        somebody.bind(("127.0.0.1", 0))
        somebody.listen()
        port = somebody.getsockname()[1]
        done = _flatearth("up", "--port", str(port))
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(rf"Error: Port {port} is not free [^\n]+--port\n", done.stderr)
    assert _processes(home) == []


def test_up_on_a_database_that_is_not_there_is_one_line(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLATEARTH_DATABASE_URL", "postgresql://ada:hunter2@127.0.0.1:1/earth")
    done = _flatearth("up", "--port", str(_free_port()))
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"Error: Postgres cannot be reached: [^\n]+\n", done.stderr)
    assert "hunter2" not in done.stderr
    assert _processes(home) == []
    assert _status("database") == (
        "unreachable",
        "postgresql://ada@127.0.0.1:1/earth: " + done.stderr.removeprefix("Error: ").strip(),
    )


def test_status_of_a_database_of_ones_own_says_what_is_missing(home: Path, empty_database: str) -> None:
    del home, empty_database
    assert _status("database")[0] == "running"
    assert _status("schema")[0].endswith(" is pending")


def test_status_is_a_table_for_people_too(home: Path) -> None:
    done = _flatearth("status")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["part", "database", "UI"]
    assert str(home) in done.stdout


def _up(*arguments: str, program: list[str] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*(program or [FLATEARTH]), "up", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _line(up: subprocess.Popen[str]) -> str:
    """The next line that it prints; it tells on standard error why there is none."""
    assert up.stdout is not None
    line = up.stdout.readline()
    if not line:
        assert up.stderr is not None
        pytest.fail(f"it ended: {up.stderr.read()}")
    return line


def _rest(up: subprocess.Popen[str]) -> list[str]:
    assert up.stdout is not None
    return up.stdout.read().splitlines()


def _flatearth(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([FLATEARTH, *arguments], capture_output=True, text=True, check=False, timeout=90)


def _status(part: str) -> tuple[str, str]:
    rows = json.loads(_flatearth("status", "--json").stdout)
    (row,) = [row for row in rows if row["part"] == part]
    return row["state"], row["where"]


def _graphql(port: int, query: str) -> dict[str, Any]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/graphql",
        json.dumps({"query": query}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310 - http
        data: dict[str, Any] = json.load(answer)["data"]
        return data


def _all_daemons_are_healthy(port: int) -> bool:
    statuses = _graphql(port, HEALTH)["instance"]["daemonHealth"]["allDaemonStatuses"]
    required = [status for status in statuses if status["required"]]
    assert {"SCHEDULER", "SENSOR", "BACKFILL", "QUEUED_RUN_COORDINATOR"} <= {
        status["daemonType"] for status in required
    }
    assert not any(status["lastHeartbeatErrors"] for status in required), required
    return all(status["healthy"] for status in required)


def _assert_listens_on_loopback_only(port: int) -> None:
    if not Path("/proc/net/tcp").is_file():
        return
    listening = "0A"
    addresses = {
        fields[1]
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        for fields in map(str.split, Path(table).read_text().splitlines()[1:])
        if fields[3] == listening and fields[1].endswith(f":{port:04X}")
    }
    assert addresses == {f"0100007F:{port:04X}"}


def _assert_nothing_runs(home: Path) -> None:
    """A process that was told to stop may take a moment."""
    _until(lambda: _processes(home) == [], 20)
    assert not db.embedded_server(Settings.from_environment()).is_running()
    assert not (home / "postgres" / "data" / "postmaster.pid").exists()
    assert not (home / "up.json").exists()


def _processes(home: Path, program: str = "") -> list[int]:
    """The processes that have this home in their environment or in their arguments, but for this one."""
    command = ["ps", "axeww", "-o", "pid=,stat=,command="]
    nothing = {"PATH": os.environ["PATH"]}  # else ps would find itself
    listed = subprocess.run(command, capture_output=True, text=True, check=True, env=nothing)
    rows = [line.split(None, 2) for line in listed.stdout.splitlines() if str(home) in line and program in line]
    return [int(pid) for pid, state, _ in rows if state[0] != "Z" and int(pid) != os.getpid()]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _until(reached: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.1)
