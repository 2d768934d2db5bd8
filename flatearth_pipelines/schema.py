"""Where a database stands: which migrations this code has, and which of them were applied."""

import contextlib
import hashlib
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psycopg
from psycopg.pq import TransactionStatus

from flatearth_pipelines.errors import WrongSchema

State = Literal["applied", "pending", "edited", "unknown"]
"""Of a migration: an `edited` one was changed after it was applied, an `unknown` one is not in this code."""


@dataclass(frozen=True)
class Step:
    """A migration and where it stands in a database."""

    migration: str
    state: State


def status(connection: psycopg.Connection) -> list[Step]:
    """Every migration that this code or this database knows, in order."""
    there = applied(connection)
    here = {path.stem: checksum(path) for path in _files()}

    def state(name: str) -> State:
        if name not in here:
            return "unknown"
        if name not in there:
            return "pending"
        return "applied" if there[name] == here[name] else "edited"

    return [Step(name, state(name)) for name in sorted(here.keys() | there.keys())]


def verify(connection: psycopg.Connection) -> None:
    """Return if the database is exactly at this code's schema.

    Raises:
        WrongSchema: naming what is missing or too much, and what to do.
    """
    if missing := pending(connection):
        raise WrongSchema(f"The database is not migrated ({missing[0]} is missing): run `flatearth db migrate`")
    if unknown := sorted(applied(connection).keys() - {path.stem for path in _files()}):
        raise WrongSchema(f"The database is further than this code ({unknown[0]} is unknown to it): update the code")


def pending(connection: psycopg.Connection) -> list[str]:
    """The migrations that this code has and this database lacks, in order."""
    there = applied(connection)
    return [path.stem for path in _files() if path.stem not in there]


def applied(connection: psycopg.Connection) -> dict[str, str]:
    """The checksum of every applied migration; empty where nothing ever was."""
    with autocommit(connection):
        row = connection.execute("select to_regclass('flatearth.migration_checksums') is not null").fetchone()
        if row != (True,):
            return {}
        return dict(connection.execute("select migration_id, checksum from flatearth.migration_checksums").fetchall())


def checksum(path: Path) -> str:
    """SHA-256 of the file, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def directory() -> Path:
    """`sql/migrations` of the checkout, or inside the package where it was installed from a wheel."""
    inside = Path(__file__).parent / "sql" / "migrations"
    return inside if inside.is_dir() else Path(__file__).parents[1] / "sql" / "migrations"


@contextlib.contextmanager
def autocommit(connection: psycopg.Connection) -> Generator[None]:
    """Each statement a transaction of its own, for as long as the block lasts.

    After an interrupt a statement may still be at work: such a connection stays as it is.
    """
    before = connection.autocommit
    connection.autocommit = True
    try:
        yield
    finally:
        if connection.info.transaction_status == TransactionStatus.IDLE:
            connection.autocommit = before


def _files() -> list[Path]:
    return sorted(path for path in directory().glob("*.sql") if not path.stem.endswith(".rollback"))
