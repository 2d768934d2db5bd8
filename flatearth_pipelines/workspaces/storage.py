"""A workspace's way into the database."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import LiteralString

import polars as pl
import sqlalchemy as sa
from psycopg import sql

from flatearth_pipelines import frames, tables
from flatearth_pipelines.driver import driver_connection
from flatearth_pipelines.workspaces.workspace import REFERENCES, SCHEMAS, TYPED_REFERENCES, Workspace

_GROWTH = 4
"""Statistics are taken again after that many times as many parts: seldom enough to cost little."""

_RESERVE_IDS: LiteralString = """
    select string_agg(int8send(nextval(ids.sequence)), '')
    from (select pg_get_serial_sequence(%(table)s, 'id')::regclass as sequence offset 0) as ids,
        generate_series(1, %(rows)s)
"""
"""One call of nextval per row: whoever else inserts meanwhile gets other ids."""


def read_now(connection: sa.Connection) -> datetime:
    """The database's time at the start of the transaction."""
    now: datetime = connection.execute(sa.select(sa.func.transaction_timestamp())).scalar_one()
    return now


def load_parts(connection: sa.Connection, parts: Iterable[Workspace]) -> Iterator[Workspace]:
    """`load` for each part, one after the other, with what the planner needs to know in between.

    Postgres keeps the plans of its foreign key checks. One that was made while a table was empty, in the eyes of an
    autovacuum that cannot see this transaction, reads the whole table for every row that comes later. Statistics of
    our own give better plans, and keep autovacuum away until the transaction ends.
    """
    refresh_after = 1
    for number, part in enumerate(parts, start=1):
        yield load(connection, part)
        if number == refresh_after:
            _refresh_statistics(connection)
            refresh_after *= _GROWTH
    _refresh_statistics(connection)


def load(connection: sa.Connection, workspace: Workspace) -> Workspace:
    """The same workspace with the ids that its rows have in the database, once they are there.

    Every constraint is checked. In the caller's transaction: nobody else sees anything before its commit.
    """
    real = {name: _reserved_ids(connection, name, frame.height) for name, frame in _with_ids(workspace)}
    loaded = Workspace(**{name: _renumbered(name, frame, real) for name, frame in workspace.tables()})
    for name, frame in loaded.tables():
        frames.append_frame(connection, _table(name), frame)
    return loaded


def _refresh_statistics(connection: sa.Connection) -> None:
    names = sql.SQL(", ").join(sql.Identifier(tables.SCHEMA, name) for name in SCHEMAS)
    driver_connection(connection).execute(sql.SQL("analyze {}").format(names))


def _reserved_ids(connection: sa.Connection, name: str, rows: int) -> pl.Series:
    parameters = {"table": _table(name).fullname, "rows": rows}
    return frames.read_packed(connection, _RESERVE_IDS, parameters, pl.Schema({"id": pl.Int64()}))["id"]


def _renumbered(name: str, frame: pl.DataFrame, real: Mapping[str, pl.Series]) -> pl.DataFrame:
    """The frame with real ids, its own and those it refers to."""
    exchanged = [
        _exchanged(frame[key], real[owner]).alias(key)
        for key, owner in {"id": name, **REFERENCES}.items()
        if key in frame.columns
    ]
    for key, owners in TYPED_REFERENCES.items():
        if f"{key}_id" in frame.columns:
            ids, kinds = frame[f"{key}_id"], frame[f"{key}_type"]
            ids = pl.select(
                pl.coalesce(_exchanged(ids.set(kinds != kind, None), real[owner]) for kind, owner in owners.items())
            ).to_series()
            exchanged.append(ids.alias(f"{key}_id"))
    return frame.with_columns(exchanged)


def _exchanged(ids: pl.Series, real: pl.Series) -> pl.Series:
    """The real id of `n` is at the place `n - 1`; null stays null."""
    return real.gather(ids - 1)


def _with_ids(workspace: Workspace) -> Iterator[tuple[str, pl.DataFrame]]:
    return ((name, frame) for name, frame in workspace.tables() if "id" in frame.columns)


def _table(name: str) -> sa.Table:
    return tables.metadata.tables[f"{tables.SCHEMA}.{name}"]
