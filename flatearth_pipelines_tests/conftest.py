"""Three kinds of tests, told apart by their fixture.

* none: a pure rule.
* `connection`: a transaction on a migrated database, rolled back at the end.
* `database`: a migrated database of the test's own, for what commits, for several sessions and for whole processes.

The server is an embedded one of the test session's own, or the one of FLATEARTH_TEST_DATABASE_URL, whose user may
create databases.
"""

import contextlib
import io
import os
import sys
from collections.abc import Generator
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa
from hypothesis import settings
from psycopg.conninfo import make_conninfo

from flatearth_pipelines import cli, migrate
from flatearth_pipelines import database as db
from flatearth_pipelines.embedded import EmbeddedServer
from flatearth_pipelines.settings import Settings
from flatearth_pipelines_tests import databases
from flatearth_pipelines_tests.console import Flatearth, Ran

ROOT = Path(__file__).parents[1]

settings.register_profile("flatearth", deadline=None)  # a machine may stall
settings.load_profile("flatearth")


_LONGEST = (
    "test_ui",
    "test_server",
    "test_ui_queue",
    "test_processes",
    "test_crashes",
    "test_definitions",
    "test_drain",
)
"""Files that take longest: first, so that at the end no process waits long for another."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """The libpq connection string of a server where databases may be created."""
    if url := os.environ.get("FLATEARTH_TEST_DATABASE_URL"):
        given = Settings.from_environment({"FLATEARTH_DATABASE_URL": url}).database
        assert given is not None
        yield given
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


@pytest.fixture(scope="session")
def _databases(server: str, template: str) -> Generator[databases.Databases]:
    pool = databases.Databases(server, template)
    yield pool
    pool.close()


@pytest.fixture
def database(server: str, _databases: databases.Databases, monkeypatch: pytest.MonkeyPatch) -> Generator[str]:
    """The connection string of a migrated, empty database of the test's own, which is also the environment's."""
    name = _databases.take()
    yield _in_environment(monkeypatch, make_conninfo(server, dbname=name))
    _databases.give_back(name)


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


@contextlib.contextmanager
def _new_database(server: str, template: str = "template1") -> Generator[str]:
    name = databases.create(server, template)
    try:
        yield name
    finally:
        databases.drop(server, name)


def _in_environment(monkeypatch: pytest.MonkeyPatch, conninfo: str) -> str:
    monkeypatch.setenv("FLATEARTH_DATABASE_URL", db.url(conninfo, with_password=True))
    return conninfo
