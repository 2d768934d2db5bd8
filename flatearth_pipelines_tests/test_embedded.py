import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from flatearth_pipelines import database as db
from flatearth_pipelines.embedded import PORTS, EmbeddedServer
from flatearth_pipelines.errors import DatabaseUnavailable
from flatearth_pipelines.settings import Settings

START = """
import sys, time
from pathlib import Path
from flatearth_pipelines.embedded import EmbeddedServer
print(EmbeddedServer(Path(sys.argv[1])).start(), flush=True)
time.sleep(float(sys.argv[2]))
"""
"""A program that starts the server of a home, says whether it was the one that started it, and lives on for a while."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Generator[EmbeddedServer]:
    """A new server, in a path with a space and a quote; for tests that only look at it."""
    server = EmbeddedServer(tmp_path_factory.mktemp("ada's own"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a server that was stopped; to be copied, since creating one takes seconds."""
    server = EmbeddedServer(tmp_path_factory.mktemp("stopped"))
    server.start()
    server.stop()
    return server.home


@pytest.fixture
def own(tmp_path_factory: pytest.TempPathFactory, stopped: Path) -> Generator[EmbeddedServer]:
    """A server of the test's own, which was used before and does not run."""
    server = EmbeddedServer(shutil.copytree(stopped, tmp_path_factory.mktemp("own") / "home"))
    yield server
    server.stop()


@pytest.fixture
def new_server(tmp_path_factory: pytest.TempPathFactory) -> Generator[EmbeddedServer]:
    """A server of the test's own that was never started."""
    server = EmbeddedServer(tmp_path_factory.mktemp("new") / "home")
    yield server
    server.stop()


# Who may enter


def test_the_socket_asks_for_no_password(running: EmbeddedServer) -> None:
    assert _ask(running.connection_string(), "select current_user, current_database()") == ("flatearth", "flatearth")
    assert "password" not in conninfo_to_dict(running.connection_string())


def test_tcp_takes_the_password(running: EmbeddedServer) -> None:
    assert conninfo_to_dict(running.tcp_url())["host"] == "127.0.0.1"
    assert _ask(running.tcp_url(), "select inet_server_addr()::text") == ("127.0.0.1/32",)


@pytest.mark.parametrize("password", ["wrong", ""])
def test_tcp_refuses_any_other_password(
    running: EmbeddedServer, password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSFILE", os.devnull)
    with pytest.raises(psycopg.OperationalError, match="password"):
        _ask(make_conninfo(running.tcp_url(), password=password), "select")


def test_it_listens_on_127_0_0_1_and_nowhere_else(running: EmbeddedServer) -> None:
    assert _ask(running.connection_string(), "show listen_addresses") == ("127.0.0.1",)
    port = int(str(conninfo_to_dict(running.tcp_url())["port"]))
    if Path("/proc/net/tcp").is_file():
        listening = "0A"
        addresses = {
            fields[1]
            for table in ("/proc/net/tcp", "/proc/net/tcp6")
            for fields in map(str.split, Path(table).read_text().splitlines()[1:])
            if fields[3] == listening and fields[1].endswith(f":{port:04X}")
        }
        assert addresses == {f"0100007F:{port:04X}"}


def test_only_its_user_can_reach_the_socket_the_data_and_the_password(running: EmbeddedServer) -> None:
    socket_directory = Path(str(conninfo_to_dict(running.connection_string())["host"]))
    postgres = running.home / "postgres"
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (socket_directory, postgres, postgres / "data")}
    assert set(modes.values()) == {0o700}, modes
    assert stat.S_IMODE((postgres / "password").stat().st_mode) == 0o600
    assert {stat.S_IMODE(log.stat().st_mode) for log in (running.home / "logs").iterdir()} == {0o600}


def test_no_two_servers_have_the_same_password(running: EmbeddedServer, stopped: Path) -> None:
    assert len((stopped / "postgres" / "password").read_text()) > 30
    assert (stopped / "postgres" / "password").read_text() != (running.home / "postgres" / "password").read_text()


def test_it_is_durable(running: EmbeddedServer) -> None:
    query = (
        "select current_setting('fsync'), current_setting('full_page_writes'), current_setting('synchronous_commit')"
    )
    assert _ask(running.connection_string(), query) == ("on", "on", "on")


def test_it_speaks_utf_8_and_utc(running: EmbeddedServer) -> None:
    query = "select current_setting('server_encoding'), current_setting('timezone'), current_setting('log_timezone')"
    assert _ask(running.connection_string(), query) == ("UTF8", "UTC", "UTC")


# Start and stop


def test_a_second_start_joins_the_running_server(running: EmbeddedServer) -> None:
    before = _started_at(running)
    assert running.start() is False
    assert _start_elsewhere(running) == "False"
    assert _started_at(running) == before


def test_it_outlives_the_process_that_started_it(own: EmbeddedServer) -> None:
    assert _start_elsewhere(own) == "True"
    assert own.is_running()
    assert own.start() is False


def test_it_survives_a_kill_9_of_the_process_that_started_it_and_the_next_joins(own: EmbeddedServer) -> None:
    with _starter(own, lives=60) as starter:
        assert _said(starter) == "True"
        before = _started_at(own)
        starter.kill()
        starter.wait()
    assert own.start() is False
    assert _started_at(own) == before


def test_after_a_kill_9_at_any_moment_of_the_start_the_next_one_has_a_running_server(own: EmbeddedServer) -> None:
    for delay in (0.1, 0.15, 0.2, 0.25, 0.3, 0.35):
        with _starter(own) as starter:
            time.sleep(delay)
            starter.kill()
        own.start()
        assert _ask(own.connection_string(), "select 1") == (1,)
        assert own.stop()


def test_six_processes_that_start_it_at_once_get_one_server(new_server: EmbeddedServer) -> None:
    with contextlib.ExitStack() as stack:
        starters = [stack.enter_context(_starter(new_server)) for _ in range(6)]
        assert sorted(map(_said, starters)) == ["False"] * 5 + ["True"]
        assert [starter.wait() for starter in starters] == [0] * 6
    assert len({_postmaster(new_server), _postmaster_of(new_server.connection_string())}) == 1


def test_after_a_kill_9_of_the_server_the_next_start_recovers_what_was_committed(own: EmbeddedServer) -> None:
    own.start()
    with psycopg.connect(own.connection_string()) as connection:
        connection.execute("create table kept as select 1 as one")
    os.kill(_postmaster(own), signal.SIGKILL)
    _until_gone(own)
    assert own.start() is True
    assert _ask(own.connection_string(), "select one from kept") == (1,)


def test_a_killed_server_is_not_running_and_there_is_nothing_to_stop(own: EmbeddedServer) -> None:
    own.start()
    os.kill(_postmaster(own), signal.SIGKILL)
    _until_gone(own)
    assert not own.is_running()
    assert own.stop() is False


def test_stop_stops_it_and_says_so_once(own: EmbeddedServer) -> None:
    own.start()
    postmaster = _postmaster(own)
    assert own.stop() is True
    assert not own.is_running()
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(postmaster)], capture_output=True, text=True, check=False)
    assert state.stdout.strip()[:1] in {"", "Z"}, "gone, or only waiting for its parent to notice"
    assert own.stop() is False


def test_stop_does_not_wait_for_those_who_are_connected(own: EmbeddedServer) -> None:
    own.start()
    with psycopg.connect(own.connection_string()) as connection:
        connection.execute("create table lost as select 1 as one")
        assert own.stop() is True
        with pytest.raises(psycopg.OperationalError):
            connection.execute("select 1")
    own.start()
    assert _ask(own.connection_string(), "select to_regclass('lost')") == (None,)


def test_stopping_what_was_never_started_is_false_and_creates_nothing(new_server: EmbeddedServer) -> None:
    assert new_server.stop() is False
    assert new_server.is_running() is False
    assert not new_server.home.exists()


def test_a_port_that_somebody_else_took_meanwhile_is_exchanged_for_another(own: EmbeddedServer) -> None:
    with socket.socket() as somebody:
        somebody.bind(("127.0.0.1", 0))
        somebody.listen()
        taken = somebody.getsockname()[1]
        (own.home / "postgres" / "port").write_text(f"{taken}\n")
        own.start()
        assert _port(own) != taken
        assert _port(own) in PORTS
        assert _ask(own.tcp_url(), "show port") == (str(_port(own)),)
        exchanged = _port(own)
        own.stop()
        own.start()
        assert _port(own) == exchanged, "it is remembered"


# Where it lives


def test_an_initdb_that_was_interrupted_is_replaced(new_server: EmbeddedServer) -> None:
    unfinished = new_server.home / "postgres" / "data.unfinished"
    (unfinished / "base" / "1").mkdir(parents=True)
    (unfinished / "PG_VERSION").write_text("18\n")
    assert new_server.start() is True
    assert not unfinished.exists()
    assert _ask(new_server.connection_string(), "select 1") == (1,)


def test_after_a_kill_9_in_the_middle_of_initdb_the_next_start_creates_it(new_server: EmbeddedServer) -> None:
    unfinished = new_server.home / "postgres" / "data.unfinished"
    with _starter(new_server) as starter:
        deadline = time.monotonic() + 30
        while not (unfinished / "PG_VERSION").is_file():
            assert time.monotonic() < deadline
            time.sleep(0.005)
        starter.kill()
    assert new_server.start() is True, "at once, although the orphaned initdb may still be writing"
    assert not unfinished.exists()
    assert _ask(new_server.connection_string(), "select 1") == (1,)
    assert _ask(new_server.tcp_url(), "select 1") == (1,), "with the password that the file has"


def test_a_path_too_long_for_a_socket_gets_one_elsewhere_which_is_private_too(tmp_path: Path, stopped: Path) -> None:
    server = EmbeddedServer(shutil.copytree(stopped, tmp_path / ("x" * 200)))
    try:
        assert server.start() is True
        elsewhere = Path(str(conninfo_to_dict(server.connection_string())["host"]))
        assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o700
        assert elsewhere.stat().st_uid == os.getuid()
        assert not elsewhere.is_relative_to(server.home)
        assert _ask(server.connection_string(), "select 1") == (1,)
        assert _start_elsewhere(server) == "False"
        assert server.stop() is True
        elsewhere.chmod(0o777)
        with pytest.raises(DatabaseUnavailable, match=rf"^{elsewhere} is not a private directory[^\n]+$"):
            server.start()
        elsewhere.chmod(0o700)
    finally:
        server.stop()
        shutil.rmtree(Path(str(conninfo_to_dict(server.connection_string())["host"])), ignore_errors=True)


def test_a_server_that_does_not_come_up_is_one_line_that_names_the_log(own: EmbeddedServer) -> None:
    with (own.home / "postgres" / "data" / "postgresql.conf").open("a") as configuration:
        configuration.write("shared_buffers = 'nonsense'\n")
    with pytest.raises(DatabaseUnavailable, match=r"^The embedded Postgres does not start: [^\n]+ \(more in [^\n]+\)$"):
        own.start()


def test_with_a_database_of_ones_own_nothing_embedded_is_touched(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("FLATEARTH_HOME", str(home))
    settings = Settings.from_environment()
    with db.transaction(settings, "tests") as connection:
        assert db.now(connection)
    for command in (["db", "status"], ["db", "url"], ["entropy", "preview"], ["status"], ["down"]):
        done = subprocess.run(
            [Path(sys.executable).with_name("flatearth"), *command], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    assert not home.exists()
    assert _ask(database, "select 1") == (1,)


# As whom it runs


def test_an_ordinary_user_may_start_it(stopped: Path) -> None:
    """The other tests say it of the user who runs them; where that is root, here is somebody else."""
    if os.geteuid() != 0:
        assert (stopped / "postgres" / "data").stat().st_uid == os.geteuid()
        return
    nobody = 65534
    with tempfile.TemporaryDirectory() as directory:
        os.chown(directory, nobody, nobody)
        server = EmbeddedServer(Path(directory) / "home")
        started = _as_nobody(server, START, "0")
        assert (started.stdout, started.returncode) == ("True\n", 0), started.stderr
        try:
            data = server.home / "postgres" / "data"
            assert {data.stat().st_uid, (data / "PG_VERSION").stat().st_uid} == {nobody}
            assert _postmaster_of(server.tcp_url()) == _postmaster(server)
        finally:
            stopped_again = _as_nobody(server, START.replace("start()", "stop()"), "0")
        assert stopped_again.stdout == "True\n", stopped_again.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, whom Postgres refuses")
def test_root_may_start_it_where_it_may_not_make_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in most containers; stood in for by a machine without `unshare`."""
    monkeypatch.setenv("PATH", "/nowhere")
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        server = EmbeddedServer(Path(directory) / "home")
        try:
            assert server.start() is True
            assert _ask(server.connection_string(), "select 1") == (1,)
            assert _ask(server.tcp_url(), "select 1") == (1,)
        finally:
            server.stop()


def _as_nobody(server: EmbeddedServer, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it without root's rights, but for reading: the interpreter may lie in root's home."""
    prefix = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    reading = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    for command in ([*prefix], [*prefix, *reading]):
        python = [*command, sys.executable, "-c"]
        if not shutil.which("setpriv"):
            break
        if subprocess.run([*python, ""], capture_output=True, cwd="/", check=False).returncode == 0:
            return subprocess.run(
                [*python, program, str(server.home), *arguments],
                capture_output=True,
                text=True,
                cwd="/",
                env={"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[1])},
                check=False,
            )
    if os.environ.get("CI"):
        pytest.fail("nobody can run this interpreter, or there is no setpriv")
    pytest.skip("nobody can run this interpreter, or there is no setpriv")


def _ask(conninfo: str, query: str) -> tuple[object, ...] | None:
    with psycopg.connect(conninfo) as connection:
        return connection.execute(query.encode()).fetchone()


def _started_at(server: EmbeddedServer) -> object:
    return _ask(server.connection_string(), "select pg_postmaster_start_time()")


def _postmaster(server: EmbeddedServer) -> int:
    return int((server.home / "postgres" / "data" / "postmaster.pid").read_text().splitlines()[0])


def _postmaster_of(conninfo: str) -> int:
    """The process id that the server itself has written down."""
    answer = _ask(conninfo, "select split_part(pg_read_file('postmaster.pid'), chr(10), 1)")
    assert answer is not None
    return int(str(answer[0]))


def _port(server: EmbeddedServer) -> int:
    return int((server.home / "postgres" / "port").read_text())


def _until_gone(server: EmbeddedServer) -> None:
    deadline = time.monotonic() + 30
    while server.is_running():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _starter(server: EmbeddedServer, lives: float = 0) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", START, str(server.home), str(lives)], stdout=subprocess.PIPE, text=True
    )


def _said(starter: subprocess.Popen[str]) -> str:
    assert starter.stdout is not None
    return starter.stdout.readline().strip()


def _start_elsewhere(server: EmbeddedServer) -> str:
    with _starter(server) as starter:
        return _said(starter)
