from datetime import UTC, datetime, timedelta
from itertools import count

import polars as pl
import psycopg
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import ProgrammingError

from flatearth_pipelines import frames
from flatearth_pipelines.frames import append_frame, bigint_array, read_frame, read_packed

INSTANT = pl.Datetime("us", "UTC")
LEAST, LARGEST = -(2**63), 2**63 - 1

_names = count(1)

ROWS = pl.Schema({"id": pl.Int64(), "words": pl.String(), "flag": pl.Boolean(), "at": INSTANT, "position": pl.Int32()})

TEXTS = [
    "",
    " ",
    "\\.",
    "\\N",
    "NULL",
    "null",
    '"',
    '""',
    'it\'s; "quoted", and not',
    "a,b",
    "a\tb",
    "two\nlines",
    "carriage\rreturn",
    "\r\n",
    "\\.\n",
    "back\\slash\\",
    "emoji 🌍🏽‍🚀",
    "地球",
    "\x01\x7f",
    "é",
]


def _table(connection: sa.Connection) -> sa.Table:
    """An empty table for `ROWS`, gone with the transaction."""
    table = sa.Table(
        f"rows_{next(_names)}",
        sa.MetaData(schema="pg_temp"),
        sa.Column("id", sa.BigInteger),
        sa.Column("words", sa.Text),
        sa.Column("flag", sa.Boolean),
        sa.Column("at", sa.DateTime(timezone=True)),
        sa.Column("position", sa.Integer),
    )
    connection.execute(sa.schema.CreateTable(table))
    return table


def _read(connection: sa.Connection, table: sa.Table) -> pl.DataFrame:
    return read_frame(connection, sa.select(table).order_by(table.c.id), ROWS)


# read_frame


def test_a_read_without_rows_still_has_the_stated_schema(connection: sa.Connection) -> None:
    frame = _read(connection, _table(connection))
    assert frame.schema == ROWS
    assert frame.is_empty()


def test_a_column_of_nothing_but_nulls_has_the_stated_type(connection: sa.Connection) -> None:
    query = sa.text("select 1, null, null, null, null")
    assert read_frame(connection, query, ROWS).schema == ROWS


def test_a_value_that_does_not_fit_the_schema_is_refused_and_never_changed(connection: sa.Connection) -> None:
    query = sa.text("select 'one'")
    with pytest.raises((TypeError, pl.exceptions.PolarsError)):
        read_frame(connection, query, pl.Schema({"id": pl.Int64()}))


# append_frame


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_arrives_as_it_is(connection: sa.Connection, text: str) -> None:
    table = _table(connection)
    append_frame(connection, table, pl.DataFrame({"id": [1], "words": [text]}))
    assert connection.execute(sa.select(table.c.words)).scalar_one() == text


def test_null_and_the_empty_text_stay_different(connection: sa.Connection) -> None:
    table = _table(connection)
    append_frame(connection, table, pl.DataFrame({"id": [1, 2, 3], "words": [None, "", "x"]}))
    query = sa.select(table.c.id).where(table.c.words.is_(None))
    assert connection.execute(query).scalars().all() == [1]
    assert _read(connection, table)["words"].to_list() == [None, "", "x"]


def test_a_row_of_one_null_is_a_row(connection: sa.Connection) -> None:
    table = _table(connection)
    append_frame(connection, table, pl.DataFrame({"words": [None, "", None]}, schema={"words": pl.String()}))
    assert connection.execute(sa.select(sa.func.count(), sa.func.count(table.c.words)).select_from(table)).one() == (
        3,
        1,
    )


def test_columns_that_the_frame_does_not_have_take_their_default(connection: sa.Connection) -> None:
    connection.execute(sa.text("create temp table defaults (id bigint, position int default 7)"))
    table = sa.Table("defaults", sa.MetaData(schema="pg_temp"), sa.Column("id", sa.BigInteger))
    append_frame(connection, table, pl.DataFrame({"id": [1]}))
    assert connection.execute(sa.text("select position from defaults")).scalar_one() == 7


def test_a_column_may_be_called_like_a_keyword_or_have_quotes(connection: sa.Connection) -> None:
    table = sa.Table('a "table"', sa.MetaData(schema="pg_temp"), sa.Column("order", sa.Text), sa.Column('"', sa.Text))
    connection.execute(sa.schema.CreateTable(table))
    append_frame(connection, table, pl.DataFrame({"order": ["a"], '"': ["b"]}))
    assert connection.execute(sa.select(table)).one() == ("a", "b")


def test_an_empty_frame_appends_nothing(connection: sa.Connection) -> None:
    table = _table(connection)
    append_frame(connection, table, pl.DataFrame(schema=ROWS))
    assert _read(connection, table).is_empty()


def test_a_frame_of_several_parts_arrives_whole(connection: sa.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "_COPY_ROWS", 3)
    table = _table(connection)
    append_frame(connection, table, pl.DataFrame({"id": range(10), "words": ["", "\\.", "\n", '"', None] * 2}))
    assert _read(connection, table)["id"].to_list() == list(range(10))
    assert _read(connection, table)["words"].to_list() == ["", "\\.", "\n", '"', None] * 2


def test_json_arrives_as_json(connection: sa.Connection) -> None:
    table = sa.Table("documents", sa.MetaData(schema="pg_temp"), sa.Column("particulars", JSONB))
    connection.execute(sa.schema.CreateTable(table))
    append_frame(connection, table, pl.DataFrame({"particulars": ['{"a": "b\\n\\"c\\""}', "{}"]}))
    assert connection.execute(sa.select(table)).scalars().all() == [{"a": 'b\n"c"'}, {}]


def test_a_refused_row_takes_the_whole_frame_with_it(connection: sa.Connection) -> None:
    table = _table(connection)
    with pytest.raises(psycopg.DataError), connection.begin_nested():
        append_frame(connection, table, pl.DataFrame({"id": [1, 2], "position": ["1", "not a number"]}))
    assert _read(connection, table).is_empty()


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"))
"""What Postgres can store."""

AT = st.datetimes(timezones=st.just(UTC))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.none() | TEXT | st.sampled_from(TEXTS),
            st.none() | st.booleans(),
            st.none() | AT,
            st.none() | st.integers(-(2**31), 2**31 - 1),
        ),
        max_size=8,
    )
)
def test_what_is_appended_is_read_back(
    connection: sa.Connection, rows: list[tuple[str | None, bool | None, datetime | None, int | None]]
) -> None:
    written = pl.DataFrame([(number, *row) for number, row in enumerate(rows)], schema=ROWS, orient="row")
    table = _table(connection)
    append_frame(connection, table, written)
    assert_frame_equal(_read(connection, table), written)


# read_packed


def test_a_packed_read_without_rows_still_has_the_stated_schema(connection: sa.Connection) -> None:
    schema = pl.Schema({"id": pl.Int64(), "at": INSTANT})
    query = """
        select string_agg(int8send(x), ''), string_agg(timestamptz_send(now()), '') from generate_series(1, 0) as x
    """
    frame = read_packed(connection, query, {}, schema)
    assert frame.schema == schema
    assert frame.is_empty()


def test_a_single_packed_row_is_a_row(connection: sa.Connection) -> None:
    frame = read_packed(connection, "select string_agg(int8send(7), '')", {}, pl.Schema({"id": pl.Int64()}))
    assert frame.to_dict(as_series=False) == {"id": [7]}


def test_packed_columns_keep_their_order_and_parameters_are_bound(connection: sa.Connection) -> None:
    query = """
        select string_agg(int8send(x), '' order by x desc), string_agg(int8send(x * 10), '' order by x desc)
        from generate_series(1, %(rows)s) as x
    """
    frame = read_packed(connection, query, {"rows": 3}, pl.Schema({"x": pl.Int64(), "tens": pl.Int64()}))
    assert frame.rows() == [(3, 30), (2, 20), (1, 10)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.lists(st.integers(LEAST, LARGEST) | st.sampled_from([LEAST, -1, 0, LARGEST]), min_size=1))
def test_packed_integers_come_back(connection: sa.Connection, integers: list[int]) -> None:
    query = """
        select string_agg(int8send(x), '' order by place)
        from unnest(%(array)s) with ordinality as _ (x, place)
    """
    array = bigint_array(pl.Series(integers, dtype=pl.Int64()))
    assert read_packed(connection, query, {"array": array}, pl.Schema({"x": pl.Int64()}))["x"].to_list() == integers


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.lists(AT, min_size=1))
def test_packed_instants_come_back_to_the_microsecond(connection: sa.Connection, instants: list[datetime]) -> None:
    assert _packed_instants(connection, instants) == instants


MICROSECOND = timedelta(microseconds=1)
EPOCH_1970, EPOCH_2000 = datetime(1970, 1, 1, tzinfo=UTC), datetime(2000, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "at",
    [
        datetime(1, 1, 1, tzinfo=UTC),
        EPOCH_1970 - MICROSECOND,
        EPOCH_1970,
        EPOCH_2000 - MICROSECOND,
        EPOCH_2000,
        EPOCH_2000 + MICROSECOND,
        datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    ],
)
def test_an_instant_at_the_edge_of_an_epoch_comes_back_packed_and_by_copy(
    connection: sa.Connection, at: datetime
) -> None:
    assert _packed_instants(connection, [at]) == [at]
    table = _table(connection)
    append_frame(connection, table, pl.DataFrame({"at": [at]}, schema={"at": INSTANT}))
    assert connection.execute(sa.select(table.c.at)).scalar_one() == at


def _packed_instants(connection: sa.Connection, instants: list[datetime]) -> list[datetime]:
    query = """
        select string_agg(timestamptz_send(at), '' order by place)
        from unnest(%(instants)s::timestamptz[]) with ordinality as _ (at, place)
    """
    return read_packed(connection, query, {"instants": instants}, pl.Schema({"at": INSTANT}))["at"].to_list()


# bigint_array


@pytest.mark.parametrize("integers", [[], [0], [LEAST, LARGEST], [None], [1, None, 3], [None, None]])
def test_an_array_arrives_with_its_nulls_also_when_empty(connection: sa.Connection, integers: list[int | None]) -> None:
    array = bigint_array(pl.Series(integers, dtype=pl.Int64()))
    query = sa.select(sa.literal(array, sa.types.NullType()))
    assert connection.execute(query).scalar_one() == integers


def test_a_frame_is_written_in_the_transaction_of_its_connection(connection: sa.Connection) -> None:
    with connection.begin_nested() as inner:
        table = _table(connection)
        append_frame(connection, table, pl.DataFrame({"id": [1]}))
        inner.rollback()
    with pytest.raises(ProgrammingError), connection.begin_nested():
        connection.execute(sa.select(table))
