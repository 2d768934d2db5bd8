"""Getting the peers: each is installed from its registry into the benchmark's home, at a pinned version."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.servers import say

_SCRIPTS = Path(__file__).parent

_PYTHON = ("pgqueuer==1.6.0", "asyncpg==0.32.0", "uvloop==0.23.0", "procrastinate==3.10.0", "psycopg[binary]==3.3.9")
_NODE = ("graphile-worker@0.18.0",)

_INSTALL_SECONDS = 600


@dataclass(frozen=True)
class Peer:
    """A queue that does the same work, and how to see that it did all of it."""

    name: str
    version: str
    command: tuple[str, ...]
    """Its worker, which takes what to do, and on which database."""
    remaining: str
    """Counts the jobs that are not done."""


@dataclass(frozen=True)
class Peers:
    """Those that could be installed; of the others why not."""

    found: dict[str, Peer]
    missing: dict[str, str]

    def __str__(self) -> str:
        found = [f"{peer.name} {peer.version}" for peer in self.found.values()]
        return ", ".join(found + [f"{name} skipped: {why}" for name, why in self.missing.items()])


def installed(home: Path) -> Peers:
    """All that this machine can get; nothing is installed twice into the same home."""
    peers = Peers({}, {})
    python = home / "peers" / "python"
    why = _python_packages(python)
    for name, version, remaining in [
        ("pgqueuer", "1.6.0", "select count(*) from pgqueuer"),
        ("procrastinate", "3.10.0", "select count(*) from procrastinate_jobs where status <> 'succeeded'"),
    ]:
        command = (str(python / "bin" / "python"), str(_SCRIPTS / f"{name}_worker.py"))
        _note(peers, Peer(name, version, command, remaining), why)
    node = home / "peers" / "node"
    why = _node_packages(node)
    command = ("node", str(node / "graphile_worker.mjs"))
    remaining = "select count(*) from graphile_worker._private_jobs"
    _note(peers, Peer("graphile-worker", "0.18.0", command, remaining), why)
    return peers


def _note(peers: Peers, peer: Peer, why: str | None) -> None:
    if why is None:
        peers.found[peer.name] = peer
    else:
        say(f"{peer.name} is skipped: {why}")
        peers.missing[peer.name] = why


def _python_packages(place: Path) -> str | None:
    """None, or why they are not there."""
    say(f"installing {', '.join(_PYTHON)} into {place}")
    pip = [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    return _done(place, _PYTHON, [sys.executable, "-m", "venv", str(place)], [*pip, *_PYTHON])


def _node_packages(place: Path) -> str | None:
    """None, or why they are not there."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        return "there is no node or npm on this machine"
    say(f"installing {', '.join(_NODE)} into {place}")
    npm = ["npm", "install", "--prefix", str(place), "--no-audit", "--no-fund", "--loglevel", "error"]
    why = _done(place, _NODE, [*npm, *_NODE])
    if why is None:
        shutil.copy(_SCRIPTS / "graphile_worker.mjs", place)
    return why


def _done(place: Path, packages: tuple[str, ...], *commands: list[str]) -> str | None:
    """Run the commands, unless they have been run; what went wrong in one line."""
    note = place / "installed"
    if note.is_file() and note.read_text() == " ".join(packages):
        return None
    place.mkdir(parents=True, exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    for command in commands:
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=_INSTALL_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"it cannot be installed: {error}"
        if done.returncode != 0:
            said = [line for line in done.stderr.splitlines() if "error" in line.lower() and "complete log" not in line]
            return f"it cannot be installed: {said[-1][:200] if said else 'no reason given'}"
    note.write_text(" ".join(packages))
    return None
