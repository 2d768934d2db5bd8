"""Three kinds of tests, told apart by their fixture.

* none: a pure rule.
* `connection`: a transaction on a migrated database, rolled back at the end.
* `database`: a migrated database of the test's own, for what commits, for several sessions and for whole processes.

The server is an embedded one of the test session's own, or the one of FLATEARTH_TEST_DATABASE_URL, whose user may
create databases.
"""

import io
import os
import sys
import uuid
from collections.abc import Generator
from pathlib import Path

import dagster as dg
import psycopg
import pytest
import sqlalchemy as sa
from psycopg import sql
from psycopg.conninfo import make_conninfo

from flatearth_pipelines import cli, migrate
from flatearth_pipelines import database as db
from flatearth_pipelines.embedded import EmbeddedServer
from flatearth_pipelines.settings import Settings
from flatearth_pipelines_tests.console import Flatearth, Ran

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """The libpq connection string of a server where databases may be created."""
    if url := os.environ.get("FLATEARTH_TEST_DATABASE_URL"):
        settings = Settings.from_environment({"FLATEARTH_DATABASE_URL": url})
        assert settings.database is not None
        yield settings.database
        return
    embedded = EmbeddedServer(tmp_path_factory.mktemp("server"))
    embedded.start()
    yield make_conninfo(embedded.connection_string(), dbname="postgres")
    embedded.stop()


@pytest.fixture(scope="session")
def template(server: str) -> Generator[str]:
    """The name of a migrated database that nobody is connected to."""
    with _new_database(server) as name:
        with db.connect(make_conninfo(server, dbname=name), "tests") as connection:
            migrate.migrate(connection)
        yield name


@pytest.fixture
def empty_database(server: str, monkeypatch: pytest.MonkeyPatch) -> Generator[str]:
    """The connection string of an empty database, which is also the environment's."""
    with _new_database(server) as name:
        yield _in_environment(monkeypatch, make_conninfo(server, dbname=name))


@pytest.fixture
def database(server: str, template: str, monkeypatch: pytest.MonkeyPatch) -> Generator[str]:
    """The connection string of a migrated database of the test's own, which is also the environment's."""
    with _new_database(server, template) as name:
        yield _in_environment(monkeypatch, make_conninfo(server, dbname=name))


@pytest.fixture
def engine(database: str) -> Generator[sa.Engine]:
    """Sessions that commit."""
    engine = db.engine(database, "tests")
    yield engine
    engine.dispose()


@pytest.fixture
def other_engine(database: str) -> Generator[sa.Engine]:
    """Sessions of somebody else on the same database."""
    engine = db.engine(database, "somebody else")
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def _shared_engine(server: str, template: str) -> Generator[sa.Engine]:
    with _new_database(server, template) as name:
        engine = db.engine(make_conninfo(server, dbname=name), "tests")
        yield engine
        engine.dispose()


@pytest.fixture
def connection(_shared_engine: sa.Engine) -> Generator[sa.Connection]:
    """A transaction on a migrated database that other tests use too: rolled back at the end."""
    with _shared_engine.connect() as connection:
        yield connection
        connection.rollback()


@pytest.fixture(scope="module")
def instance() -> Generator[dg.DagsterInstance]:
    """Dagster's own storage, in memory."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Flatearth:
    """The console script with these arguments, and bytes on its standard input."""

    def command(*arguments: object, stdin: bytes = b"") -> Ran:
        monkeypatch.setattr(sys, "argv", ["flatearth", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as end:
            cli.main()
        return Ran(int(end.value.code or 0), *capsys.readouterr())

    return command


class _new_database:  # noqa: N801 - used as a function
    """Create a database, copied from `template` where there is one, and drop it at the end."""

    def __init__(self, server: str, template: str = "template1") -> None:
        self._server = server
        self._template = template
        self._name = f"flatearth_test_{uuid.uuid4().hex[:12]}"

    def __enter__(self) -> str:
        with psycopg.connect(self._server, autocommit=True) as connection:
            connection.execute(
                sql.SQL("create database {} template {} strategy wal_log").format(
                    sql.Identifier(self._name), sql.Identifier(self._template)
                )
            )
        return self._name

    def __exit__(self, *_: object) -> None:
        with psycopg.connect(self._server, autocommit=True) as connection:
            connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(self._name)))


def _in_environment(monkeypatch: pytest.MonkeyPatch, conninfo: str) -> str:
    monkeypatch.setenv("FLATEARTH_DATABASE_URL", db.url(conninfo, with_password=True))
    return conninfo
