"""The schema's history: numbered SQL files, applied in order, each in one transaction with the record of it.

yoyo reads the files, pairs each with its rollback and keeps the log (`flatearth._yoyo_migration`, `_yoyo_log`). What
this module adds: a session advisory lock instead of yoyo's lock table, which a killed process would leave locked for
ever; the mark in the migration's own transaction, so that a kill leaves either both or neither; and a checksum of
every applied file, so that an edited one is refused.
"""

import contextlib
import time
from collections.abc import Generator
from pathlib import Path

import psycopg
from yoyo import read_migrations
from yoyo.backends.core.postgresql import PostgresqlPsycopgBackend
from yoyo.connections import parse_uri
from yoyo.migrations import Migration, default_migration_table

from flatearth_pipelines import schema
from flatearth_pipelines.errors import DatabaseUnavailable, WrongSchema

LOCK_TIMEOUT_SECONDS = 120.0
"""How long one migration waits for another."""

_LOCK = "select pg_try_advisory_lock(hashtextextended('flatearth.migrate', 0))"
_UNLOCK = "select pg_advisory_unlock(hashtextextended('flatearth.migrate', 0))"
_POLL_SECONDS = 0.2
# Polled, because a session that waits inside pg_advisory_lock holds a snapshot, which a concurrent index build in a
# migration would wait for in turn.

_CHECKSUMS = """
create table if not exists flatearth.migration_checksums (
    migration_id text primary key,
    checksum text not null
)
"""


class _Backend(PostgresqlPsycopgBackend):  # type: ignore[misc]  # yoyo has no type information
    """A backend of yoyo on a connection of ours."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._ours = connection
        super().__init__(parse_uri("postgresql+psycopg:///"), default_migration_table)

    def connect(self, dburi: object) -> psycopg.Connection:  # noqa: ARG002 - yoyo's signature
        return self._ours

    @contextlib.contextmanager
    def lock(self, timeout: float = 10) -> Generator[None]:  # noqa: ARG002 - yoyo's signature
        """Do nothing: `_locked` holds the advisory lock."""
        yield


def migrate(connection: psycopg.Connection) -> list[str]:
    """Apply what is pending, in order, and return its names; from many processes at once, one does the work.

    Raises:
        WrongSchema: an applied file was edited, or the database is further than this code.
    """
    with _locked(connection) as backend:
        _refuse_edited(connection)
        before = schema.applied(connection)
        applied = []
        for migration in [m for m in _files() if m.id not in before]:
            with backend.transaction():
                migration.process_steps(backend, "apply")
                backend.log_migration(migration, "apply")
                backend.mark_one(migration, log=False)
                connection.execute(
                    "insert into flatearth.migration_checksums values (%s, %s)",
                    [migration.id, schema.checksum(Path(migration.path))],
                )
            applied.append(migration.id)
        return applied


def roll_back(connection: psycopg.Connection, count: int = 1) -> list[str]:
    """Take back the last `count` migrations, newest first, and return their names. Their data goes.

    Raises:
        WrongSchema: the database is further than this code, which therefore cannot take it back.
    """
    with _locked(connection) as backend:
        _refuse_edited(connection)
        applied = schema.applied(connection)
        taken_back = []
        for migration in [m for m in reversed(_files()) if m.id in applied][:count]:
            with backend.transaction():
                migration.process_steps(backend, "rollback")
                backend.log_migration(migration, "rollback")
                backend.unmark_one(migration, log=False)
                connection.execute("delete from flatearth.migration_checksums where migration_id = %s", [migration.id])
            taken_back.append(migration.id)
        return taken_back


def _files() -> list[Migration]:
    return list(read_migrations(str(schema.directory())))


def _refuse_edited(connection: psycopg.Connection) -> None:
    for step in schema.status(connection):
        if step.state == "edited":
            raise WrongSchema(f"{step.migration}.sql was changed after it was applied: restore it, add a new migration")
        if step.state == "unknown":
            raise WrongSchema(f"The database is further than this code ({step.migration} is unknown to it)")


@contextlib.contextmanager
def _locked(connection: psycopg.Connection) -> Generator[_Backend]:
    """A backend of yoyo while no other process migrates; the lock ends with the session, however it ends."""
    with schema.autocommit(connection):
        waited = 0.0
        while connection.execute(_LOCK).fetchone() != (True,):
            if waited >= LOCK_TIMEOUT_SECONDS:
                raise DatabaseUnavailable(f"Another migration has been running for {LOCK_TIMEOUT_SECONDS:.0f} seconds")
            time.sleep(_POLL_SECONDS)
            waited += _POLL_SECONDS
        try:
            connection.execute("create schema if not exists flatearth")
            connection.execute("set search_path to flatearth")
            backend = _Backend(connection)
            backend.ensure_internal_schema_updated()
            connection.execute(_CHECKSUMS)
            yield backend
        finally:
            if not connection.closed and connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE:
                connection.execute("reset search_path")
                connection.execute(_UNLOCK)
