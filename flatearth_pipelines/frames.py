"""Postgres <-> Polars: the only place where rows change shape. Every schema is stated, none inferred."""

import struct
import sys
from array import array
from collections.abc import Mapping
from typing import Any, LiteralString

import polars as pl
import sqlalchemy as sa
from psycopg import sql

from flatearth_pipelines.bigints import BigintArray
from flatearth_pipelines.driver import driver_connection

_POSTGRES_EPOCH_US = 946_684_800_000_000
"""2000-01-01 in microseconds since 1970: what `timestamptz_send` counts from."""

_INT8 = 20
"""The type of `bigint`, by its OID."""

_COPY_ROWS = 100_000
"""Rows turned to csv at a time, which bounds the memory of `append_frame`."""


def read_frame(connection: sa.Connection, query: sa.Executable, schema: pl.Schema) -> pl.DataFrame:
    """The query's rows as exactly `schema`, also when there are none; for hundreds of rows, not for millions."""
    return pl.DataFrame(connection.execute(query).all(), schema=schema, orient="row")


def read_packed(
    connection: sa.Connection, query: LiteralString, parameters: Mapping[str, Any], schema: pl.Schema
) -> pl.DataFrame:
    """The result of a query that packs each column into one bytea, as `schema`: some ten times faster than rows.

    The query returns one row with a bytea per column of the schema: `string_agg(int8send(x), '')` for an integer,
    `string_agg(timestamptz_send(t), '')` for an instant, all over the same order of rows; null for no rows.
    A bytea holds 1 GB, 134 million rows: bound the query.
    """
    with driver_connection(connection).cursor(binary=True) as cursor:
        row = cursor.execute(query, parameters, prepare=False).fetchone() or ()
    return pl.DataFrame(
        [unpacked(name, dtype, packed) for (name, dtype), packed in zip(schema.items(), row, strict=True)]
    )


def bigint_array(values: pl.Series) -> BigintArray:
    """The integers as an `int8[]` to bind; null stays null."""
    count = len(values)
    nulls = values.null_count() > 0
    header = struct.pack(">iiI", 1 if count else 0, nulls, _INT8) + (struct.pack(">ii", count, 1) if count else b"")
    if nulls:
        elements = (b"\xff\xff\xff\xff" if value is None else struct.pack(">iq", 8, value) for value in values)
        return BigintArray(header + b"".join(elements))
    numbers = array("q", values.to_list())
    if sys.byteorder == "little":
        numbers.byteswap()
    packed, framed = numbers.tobytes(), bytearray(12 * count)
    framed[3::12] = b"\x08" * count  # each element: its length in four bytes, then itself
    for place in range(8):
        framed[4 + place :: 12] = packed[place::8]
    return BigintArray(header + framed)


def append_frame(connection: sa.Connection, table: sa.Table, frame: pl.DataFrame) -> None:
    """Insert the frame's rows by COPY, in the connection's transaction."""
    copy_in = sql.SQL("copy {} ({}) from stdin (format csv)").format(
        sql.Identifier(table.schema or "public", table.name), sql.SQL(", ").join(map(sql.Identifier, frame.columns))
    )
    with driver_connection(connection).cursor() as cursor, cursor.copy(copy_in) as copy:
        for part in frame.iter_slices(_COPY_ROWS):
            # Quoted text, so that an empty string is not null and a backslash-dot not the end.
            copy.write(part.write_csv(include_header=False, quote_style="non_numeric"))


def unpacked(name: str, dtype: pl.DataType, packed: bytes | None) -> pl.Series:
    """One column of `read_packed`: eight bytes a value, in network order."""
    if not packed:
        return pl.Series(name, [], dtype)
    integers = pl.Array(pl.Int64(), len(packed) // 8)
    values = pl.Series(name, [packed]).bin.reinterpret(dtype=integers, endianness="big").explode()
    return (values + _POSTGRES_EPOCH_US).cast(dtype) if isinstance(dtype, pl.Datetime) else values.cast(dtype)
