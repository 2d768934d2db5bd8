"""A Postgres of the benchmark's own, and the fresh copy of a data set that every timed run starts from."""

import contextlib
import os
import platform
import sys
import time
from collections.abc import Generator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from flatearth_pipelines import database
from flatearth_pipelines.embedded import EmbeddedServer

TUNING = {
    "shared_buffers": "4GB",
    "effective_cache_size": "12GB",
    "maintenance_work_mem": "256MB",
    "max_wal_size": "4GB",
    "work_mem": "16MB",
}
"""What a machine of 16 GB is given: a quarter of it, by Postgres's manual. The rest is by default: fsync is on."""

_CLONE = "clone"

_WARM = """
select pg_prewarm(c.oid)
from pg_class as c
where c.relnamespace = 'flatearth'::regnamespace and c.relkind in ('r', 'i')
order by c.relkind desc, pg_relation_size(c.oid) desc
"""
# Indexes after tables, the large ones first: what does not fit pushes out a large table, the same one in every run.

_started = time.monotonic()


def say(text: str) -> None:
    """A line of progress on standard error, with the seconds since the start."""
    print(f"[{time.monotonic() - _started:6.0f} s] {text}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Lab:
    """The tuned server with its databases."""

    server: EmbeddedServer

    def conninfo(self, name: str) -> str:
        """Of one of its databases, for libpq."""
        return make_conninfo(self.server.connection_string(), dbname=name)

    def fresh(self, template: str) -> str:
        """The connection string of a new copy of that database: in memory, right after a checkpoint.

        There is one copy at a time: the one before is gone.
        """
        self.copy(template, _CLONE)
        with connected(self.conninfo(_CLONE)) as connection:
            connection.execute(_WARM)
            connection.execute("checkpoint")
        return self.conninfo(_CLONE)

    def copy(self, template: str, name: str) -> None:
        """Copy a database file by file, in place of one of that name."""
        self.drop(name)
        with connected(self.conninfo("postgres")) as connection:
            copy = sql.SQL("create database {} template {} strategy file_copy")
            connection.execute(copy.format(sql.Identifier(name), sql.Identifier(template)))

    def note_of(self, name: str) -> str | None:
        """What `remember` noted about a database; None if it is not there, or unfinished."""
        with connected(self.conninfo("postgres")) as connection:
            note = "select shobj_description(oid, 'pg_database') from pg_database where datname = %s"
            row = connection.execute(note, [name]).fetchone()
        return str(row[0]) if row and row[0] else None

    def remember(self, name: str, note: str) -> None:
        """Note that about a database, now that it is finished."""
        with connected(self.conninfo("postgres")) as connection:
            comment = sql.SQL("comment on database {} is {}")
            connection.execute(comment.format(sql.Identifier(name), note))

    def drop(self, name: str = _CLONE) -> None:
        """Drop a database, if it is there, whoever is connected."""
        with connected(self.conninfo("postgres")) as connection:
            connection.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))


@contextlib.contextmanager
def running(home: Path) -> Generator[Lab]:
    """The tuned server of that directory, until the end of the block."""
    lab = Lab(EmbeddedServer(home))
    lab.server.start()
    try:
        with connected(lab.conninfo("postgres")) as connection:
            for name, value in TUNING.items():
                connection.execute(sql.SQL("alter system set {} = {}").format(sql.Identifier(name), value))
        lab.server.stop()
        lab.server.start()
        yield lab
        lab.drop()
    finally:
        lab.server.stop()


@contextlib.contextmanager
def connected(conninfo: str) -> Generator[psycopg.Connection]:
    """A connection in UTC on which each statement is a transaction of its own."""
    with contextlib.closing(database.connect(conninfo, "flatearth benchmark")) as connection:
        connection.autocommit = True
        yield connection


def surroundings(lab: Lab) -> str:
    """The machine, the versions and the server's settings, in two lines."""
    with connected(lab.conninfo("postgres")) as connection:
        row = connection.execute("select current_setting('server_version'), current_setting('fsync')").fetchone()
        postgres, fsync = row or ("?", "?")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    settings = ", ".join(f"{name} {value}" for name, value in {**TUNING, "fsync": fsync}.items())
    return (
        f"{len(os.sched_getaffinity(0))} cores, {memory:.0f} GB of memory, {platform.system()} {platform.machine()};"
        f" Postgres {postgres} (embedded), Python {platform.python_version()}, Polars {version('polars')}\n{settings}"
    )
