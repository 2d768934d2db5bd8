import contextlib
import shutil
from datetime import UTC, timedelta
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy import exc

from flatearth_pipelines import database as db
from flatearth_pipelines import migrate, schema, tables
from flatearth_pipelines.errors import DatabaseUnavailable, WrongSchema
from flatearth_pipelines.settings import Settings
from flatearth_pipelines_tests import factories as make

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1)
HOST = st.sampled_from(["localhost", "db.example", "10.0.0.1", "::1", "fe80::1%eth0", "a,b", "/var/run", "/srv/a b/ü"])

CONNECTION_STRINGS = st.fixed_dictionaries(
    {},
    optional={
        "user": TEXT,
        "password": TEXT,
        "dbname": TEXT,
        "host": HOST,
        "port": st.integers(1, 65535).map(str) | st.just("5432,5433"),
        "options": TEXT,
        "application_name": TEXT,
        "connect_timeout": st.just("3"),
        "sslmode": st.sampled_from(["disable", "require", "verify-full"]),
    },
)


# The URL


@given(CONNECTION_STRINGS)
def test_the_url_with_its_password_means_the_same_to_libpq_as_the_connection_string(parameters: dict[str, str]) -> None:
    url = db.url(make_conninfo(**parameters), with_password=True)
    assert conninfo_to_dict(url) == parameters


@given(CONNECTION_STRINGS)
def test_the_url_is_without_its_password_unless_asked_for(parameters: dict[str, str]) -> None:
    shown = conninfo_to_dict(db.url(make_conninfo(**parameters)))
    assert shown == {key: value for key, value in parameters.items() if key != "password"}


def test_the_url_is_without_the_password_of_the_ssl_key_too() -> None:
    assert "hunter2" not in db.url("host=h dbname=earth sslpassword=hunter2")


@given(CONNECTION_STRINGS)
def test_the_url_is_accepted_as_the_setting(parameters: dict[str, str]) -> None:
    conninfo = make_conninfo(**parameters)
    settings = Settings.from_environment({"FLATEARTH_DATABASE_URL": db.url(conninfo, with_password=True)})
    assert settings.database is not None
    assert conninfo_to_dict(settings.database) == parameters


def test_the_url_of_the_test_database_connects(database: str) -> None:
    with psycopg.connect(db.url(database, with_password=True)) as connection:
        assert connection.info.dbname == conninfo_to_dict(database)["dbname"]


# The connection


def test_a_session_is_in_utc_ends_its_statements_with_its_client_and_has_a_name(database: str) -> None:
    with db.connect(database, "flatearth tests") as connection:
        query = "select current_setting(name) from unnest(%s::text[]) as name"
        names = ["timezone", "client_connection_check_interval", "application_name"]
        assert connection.execute(query, [names]).fetchall() == [("UTC",), ("5s",), ("flatearth tests",)]


def test_options_of_ones_own_are_kept(database: str) -> None:
    with db.connect(make_conninfo(database, options="-c statement_timeout=1234"), "tests") as connection:
        query = "select current_setting('statement_timeout'), current_setting('timezone')"
        assert connection.execute(query).fetchone() == ("1234ms", "UTC")


UNREACHABLE = {
    "nothing listens there": {"host": "127.0.0.1", "port": "1"},
    "no such socket": {"host": "/nowhere"},
    "no such host": {"host": "no-such-host.invalid"},
    "no number for a port": {"host": "127.0.0.1", "port": "a"},
    "no such certificate": {"host": "127.0.0.1", "port": "1", "sslmode": "verify-full", "sslrootcert": "/nowhere"},
}


@pytest.mark.parametrize("where", UNREACHABLE.values(), ids=UNREACHABLE)
def test_a_database_that_is_not_there_is_one_line_without_the_password(where: dict[str, str]) -> None:
    conninfo = make_conninfo(user="ada", password="hunter2", dbname="earth", **where)  # noqa: S106
    with pytest.raises(DatabaseUnavailable, match=r"^Postgres cannot be reached: [^\n]+$") as refusal:
        db.connect(conninfo, "tests")
    assert "hunter2" not in str(refusal.value)
    assert refusal.value.__cause__ is None
    assert refusal.value.__suppress_context__, "libpq's own message is not printed beside it"


def test_a_database_that_does_not_exist_on_a_server_that_does_is_one_line(server: str) -> None:
    with pytest.raises(DatabaseUnavailable, match=r'^Postgres cannot be reached: [^\n]*"no_such_database"[^\n]*$'):
        db.connect(make_conninfo(server, dbname="no_such_database"), "tests")


def test_a_driver_error_of_the_engine_is_the_same_one_line() -> None:
    engine = db.engine(make_conninfo(host="127.0.0.1", port="1", password="hunter2"), "tests")  # noqa: S106
    with pytest.raises(DatabaseUnavailable, match=r"^Postgres cannot be reached: [^\n]+$"), engine.connect():
        pass
    engine.dispose()


def test_an_engine_replaces_a_connection_that_was_cut_before_it_is_used_again(database: str) -> None:
    engine = db.engine(database, "tests")
    with engine.connect() as connection:
        pid = connection.execute(sa.text("select pg_backend_pid()")).scalar_one()
    with psycopg.connect(database) as somebody:
        somebody.execute("select pg_terminate_backend(%s)", [pid])
    with engine.connect() as connection:
        assert connection.execute(sa.text("select pg_backend_pid()")).scalar_one() != pid
    engine.dispose()


def test_an_engine_has_two_connections_and_not_a_third(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = db.engine(database, "tests")
    monkeypatch.setattr(engine.pool, "_timeout", 0.1)
    with engine.connect(), engine.connect(), pytest.raises(exc.TimeoutError):
        engine.connect()
    engine.dispose()


# At the right schema


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("FLATEARTH_DATABASE_URL", raising=False)
    return tmp_path_factory.mktemp("home")


def test_the_embedded_database_is_started_and_migrated_on_the_way(home: Path) -> None:
    settings = Settings.from_environment({"FLATEARTH_HOME": str(home)})
    try:
        conninfo = db.prepare(settings)
        with psycopg.connect(conninfo) as connection:
            schema.verify(connection)
        assert db.prepare(settings) == conninfo, "again"
        db.embedded_server(settings).stop()
        with db.transaction(settings, "tests") as connection_again:
            assert connection_again.execute(sa.select(sa.func.count()).select_from(tables.accounts)).scalar_one() == 0
    finally:
        db.embedded_server(settings).stop()


def test_a_database_of_ones_own_is_never_migrated_behind_ones_back(empty_database: str) -> None:
    with pytest.raises(WrongSchema, match=r"^[^\n]+flatearth db migrate[^\n]*$"):
        db.prepare(Settings.from_environment())
    with psycopg.connect(empty_database) as connection:
        assert connection.execute("select to_regnamespace('flatearth')").fetchone() == (None,)


def test_a_migrated_database_of_ones_own_is_ready(database: str) -> None:
    assert conninfo_to_dict(db.prepare(Settings.from_environment())) == conninfo_to_dict(database)


def test_a_database_further_than_the_code_is_refused(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = tmp_path / "migrations"
    shutil.copytree(schema.directory(), older)
    newest = max(older.glob("*.rollback.sql")).name.removesuffix(".rollback.sql")
    (older / f"{newest}.sql").unlink()
    monkeypatch.setattr(schema, "directory", lambda: older)
    with pytest.raises(WrongSchema, match=rf"^[^\n]+{newest}[^\n]+$"):
        db.prepare(Settings.from_environment())
    with psycopg.connect(database) as connection:
        assert newest in schema.applied(connection)


def test_a_database_rolled_back_by_one_is_refused_until_it_is_migrated(database: str) -> None:
    with psycopg.connect(database) as connection:
        (name,) = migrate.roll_back(connection)
        with pytest.raises(WrongSchema, match=name):
            db.prepare(Settings.from_environment())
        migrate.migrate(connection)
    db.prepare(Settings.from_environment())


# One transaction


def test_a_transaction_is_committed_at_its_end(database: str) -> None:
    with db.transaction(Settings.from_environment(), "tests") as connection:
        make.account(connection)
    assert _accounts(database) == 1


def test_a_transaction_is_rolled_back_by_an_error(database: str) -> None:
    with contextlib.suppress(KeyError), db.transaction(Settings.from_environment(), "tests") as connection:
        make.account(connection)
        raise KeyError
    assert _accounts(database) == 0


def test_a_transaction_leaves_no_connection_behind(database: str) -> None:
    with db.transaction(Settings.from_environment(), "flatearth one"):
        pass
    with psycopg.connect(database) as connection:
        query = "select count(*) from pg_stat_activity where application_name = 'flatearth one' and state is not null"
        assert connection.execute(query).fetchone() == (0,)


def test_now_is_the_databases_and_stands_still_for_a_transaction(connection: sa.Connection) -> None:
    first = db.now(connection)
    connection.execute(sa.text("select pg_sleep(0.01)"))
    assert db.now(connection) == first
    assert first.utcoffset() == timedelta(0)
    clock = connection.execute(sa.text("select clock_timestamp()")).scalar_one()
    assert timedelta(milliseconds=10) <= clock.astimezone(UTC) - first < timedelta(minutes=10)


def _accounts(database: str) -> int:
    with psycopg.connect(database) as connection:
        row = connection.execute("select count(*) from flatearth.accounts").fetchone()
        assert row is not None
        return int(row[0])
