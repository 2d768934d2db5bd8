"""How to reach Postgres: the embedded server or the one that the environment names, at the right schema."""

import contextlib
from collections.abc import Generator
from datetime import datetime
from urllib.parse import quote, urlencode

import psycopg
import sqlalchemy as sa
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from flatearth_pipelines import bigints, schema
from flatearth_pipelines.embedded import EmbeddedServer
from flatearth_pipelines.errors import DatabaseUnavailable
from flatearth_pipelines.settings import Settings

_SESSION = "-c timezone=UTC -c client_connection_check_interval=5s"
"""A client that is gone has its statement cancelled within 5 s, and its locks released."""


bigints.register()

_LOCK_HOLDER = sa.text("""
SELECT a.application_name || ', since ' || to_char(a.backend_start, 'YYYY-MM-DD HH24:MI:SS') || ' UTC'
FROM pg_locks AS l
JOIN pg_stat_activity AS a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
AND (l.classid::int8 << 32 | l.objid::int8) = hashtextextended(:name, 0)
""")


def embedded_server(settings: Settings) -> EmbeddedServer:
    """The server of `FLATEARTH_HOME`, running or not."""
    return EmbeddedServer(settings.home, settings.postgres_programs)


def connection_string(settings: Settings) -> str:
    """Of the database, for libpq. Starts the embedded server where that is the database and it does not run."""
    if settings.database is not None:
        return settings.database
    server = embedded_server(settings)
    server.start()
    return server.connection_string()


def url(conninfo: str, *, with_password: bool = False) -> str:
    """The connection string as a URL that libpq and most drivers take; without its password unless asked for."""
    parameters = {
        key: str(value)
        for key, value in conninfo_to_dict(conninfo).items()
        if value is not None and (with_password or not key.endswith("password"))
    }
    host, port = parameters.pop("host", ""), parameters.pop("port", "")
    user, password = quote(parameters.pop("user", ""), safe=""), quote(parameters.pop("password", ""), safe="")
    database = quote(parameters.pop("dbname", ""), safe="")
    if not host or any(sign in host + port for sign in "/,:"):  # a socket, several hosts, IPv6: not in this place
        parameters |= {"host": host} if host else {}
        parameters |= {"port": port} if port else {}
        host = port = ""
    login = user + (f":{password}" if password else "")
    address = (f"{login}@" if login else "") + host + (f":{port}" if port else "")
    query = f"?{urlencode(parameters, quote_via=quote)}" if parameters else ""
    return f"postgresql://{address}/{database}{query}"


def connect(conninfo: str, application: str) -> psycopg.Connection:
    """A connection in UTC whose statements end with it; `application` is its name in `pg_stat_activity`.

    Raises:
        DatabaseUnavailable: in one line, without the password.
    """
    try:
        return psycopg.connect(_session(conninfo, application))
    except psycopg.OperationalError as error:
        raise DatabaseUnavailable(f"Postgres cannot be reached: {_one_line(error)}") from None


async def connect_async(conninfo: str, application: str) -> psycopg.AsyncConnection:
    """As `connect`, for an event loop, and in autocommit mode."""
    try:
        return await psycopg.AsyncConnection.connect(_session(conninfo, application), autocommit=True)
    except psycopg.OperationalError as error:
        raise DatabaseUnavailable(f"Postgres cannot be reached: {_one_line(error)}") from None


def engine(conninfo: str, application: str, connections: int = 2) -> sa.Engine:
    """A SQLAlchemy engine over `connect`; so many connections at most, checked before use."""
    return sa.create_engine(
        "postgresql+psycopg://",
        creator=lambda: connect(conninfo, application),
        use_native_hstore=False,  # saves a look-up of the type at every first connection
        pool_size=1,
        max_overflow=connections - 1,
        pool_pre_ping=True,
    )


@contextlib.contextmanager
def connections(conninfo: str, application: str) -> Generator[sa.Engine]:
    """As `engine`, and at the end none is left open."""
    pool = engine(conninfo, application)
    try:
        yield pool
    finally:
        pool.dispose()


def prepare(settings: Settings) -> str:
    """The connection string of a database at this code's schema. The embedded one is migrated on the way.

    Raises:
        DatabaseUnavailable: it is not there.
        WrongSchema: somebody's own database is not migrated; that is theirs to do.
    """
    conninfo = connection_string(settings)
    with contextlib.closing(connect(conninfo, "flatearth prepare")) as connection:
        if settings.database is None and schema.pending(connection):
            from flatearth_pipelines import migrate  # noqa: PLC0415 - yoyo costs every other process 13 MB

            migrate.migrate(connection)
        schema.verify(connection)
    return conninfo


@contextlib.contextmanager
def transaction(settings: Settings, application: str) -> Generator[sa.Connection]:
    """One transaction on a prepared database: committed at the end, rolled back by an error."""
    with connections(prepare(settings), application) as pool, pool.begin() as connection:
        yield connection


def lock_holder(connection: sa.Connection, name: str) -> str | None:
    """Who holds the advisory lock of that name in this database, and since when, in words; None when it is free."""
    return connection.execute(_LOCK_HOLDER, {"name": name}).scalar()


def now(connection: sa.Connection) -> datetime:
    """The instant at which the connection's transaction began, by the database's clock: no other machine's counts."""
    instant: datetime = connection.execute(sa.select(sa.func.now())).scalar_one()
    return instant


def cancel_statement(connection: psycopg.Connection) -> None:
    """Have Postgres cancel what the connection has at work, if anything; from another thread too."""
    with contextlib.suppress(psycopg.Error):
        connection.cancel_safe(timeout=5)


def _session(conninfo: str, application: str) -> str:
    options = " ".join(filter(None, [str(conninfo_to_dict(conninfo).get("options") or ""), _SESSION]))
    return make_conninfo(conninfo, options=options, application_name=application)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
