"""Databases for tests: each is emptied and lent again, since to create one takes up to half a second."""

import uuid

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

_MANY_ROWS = 10_000
"""More are not deleted: a database with so much that is dead is none to start from."""

_LOOK = """
select
    md5(string_agg(object, ',' order by object)),
    not exists (select from pg_namespace where nspname = 'dagster')
from (
    select 'class ' || oid || ' ' || xmin from pg_class where relnamespace = 'flatearth'::regnamespace
    union all
    select 'function ' || oid || ' ' || xmin from pg_proc where pronamespace = 'flatearth'::regnamespace
    union all
    select 'constraint ' || oid || ' ' || xmin from pg_constraint where connamespace = 'flatearth'::regnamespace
    union all
    select 'trigger ' || oid || ' ' || xmin from pg_trigger
    union all
    select 'schema ' || oid || ' ' || xmin from pg_namespace
    union all
    select 'migration ' || m::text from flatearth._yoyo_migration as m
    union all
    select 'version ' || v::text from flatearth._yoyo_version as v
    union all
    select 'checksum ' || c::text from flatearth.migration_checksums as c
    union all
    select 'setting ' || setdatabase || ' ' || setrole || ' ' || setconfig::text from pg_db_role_setting
) as objects (object)
"""
# A row's xmin says who wrote it: any change of an object leaves another one.

_EMPTY = f"""
do $$
declare
    part regclass;
    gone bigint;
    rows bigint := 0;
begin
    set local session_replication_role = replica;
    for part in
        select oid from pg_class
        where relnamespace = 'flatearth'::regnamespace and relkind = 'r'
        and relname !~ '^_yoyo' and relname <> 'migration_checksums'
    loop
        execute format('delete from %s', part);
        get diagnostics gone = row_count;
        rows := rows + gone;
    end loop;
    if rows > {_MANY_ROWS} then
        raise exception 'too many rows';
    end if;
    perform setval(format('%I.%I', schemaname, sequencename), 1, false)
    from pg_sequences where schemaname = 'flatearth' and last_value is not null;
end
$$
"""


class Databases:
    """Copies of a template on a server; one at a time each is somebody's own."""

    def __init__(self, server: str, template: str) -> None:
        self._server = server
        self._template = template
        self._clean: list[str] = []
        self._looks: dict[str, object] = {}

    def take(self) -> str:
        """The name of a database that is as the template is."""
        if self._clean:
            return self._clean.pop()
        name = create(self._server, self._template)
        self._looks[name] = self._look(name)
        return name

    def give_back(self, name: str) -> None:
        """Empty it, or drop it where its schema was changed, much was written, or somebody will not let go of it."""
        try:
            with psycopg.connect(make_conninfo(self._server, dbname=name), autocommit=True) as connection:
                connection.execute(
                    "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
                    " where datname = current_database() and pid <> pg_backend_pid()"
                )
                connection.execute("set lock_timeout = '2s'")
                connection.execute(_EMPTY)
            if self._look(name) == self._looks[name]:
                self._clean.append(name)
                return
        except psycopg.Error:
            pass  # it is dropped, whatever it was
        drop(self._server, name)

    def close(self) -> None:
        """Drop what is left."""
        for name in self._clean:
            drop(self._server, name)

    def _look(self, name: str) -> object:
        with psycopg.connect(make_conninfo(self._server, dbname=name)) as connection:
            return connection.execute(_LOOK).fetchone()


def create(server: str, template: str = "template1") -> str:
    """The name of a new database."""
    name = f"flatearth_test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(
            sql.SQL("create database {} template {} strategy wal_log").format(
                sql.Identifier(name), sql.Identifier(template)
            )
        )
    return name


def drop(server: str, name: str) -> None:
    """Whoever is connected to it is not any more."""
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))
