"""The contract's SQLSTATEs as errors of this package, in one line."""

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from flatearth_pipelines.contract import call, contract_errors
from flatearth_pipelines.errors import FlatEarthError, LimitReached, NotFound, NotPermitted, WrongUsage


@pytest.mark.parametrize(
    ("sqlstate", "kind"),
    [("42501", NotPermitted), ("P0002", NotFound), ("22023", WrongUsage), ("53400", LimitReached)],
)
def test_each_sqlstate_of_the_contract_is_an_error_of_its_own_with_the_sentence_of_postgres(
    connection: sa.Connection, sqlstate: str, kind: type[FlatEarthError]
) -> None:
    with pytest.raises(kind, match=r"^as the function says$"), contract_errors():
        connection.execute(sa.text(f"DO $$ BEGIN RAISE 'as the function says' USING errcode = '{sqlstate}'; END $$"))


def test_any_other_sqlstate_is_left_as_it_is(connection: sa.Connection) -> None:
    with pytest.raises(DBAPIError) as raised, contract_errors():
        connection.execute(sa.text("SELECT 1 / 0"))
    assert isinstance(raised.value.orig, psycopg.errors.DivisionByZero)


def test_what_a_function_returns_is_returned(connection: sa.Connection) -> None:
    assert call(connection, sa.func.abs(-7)) == 7


@pytest.mark.parametrize(
    ("argument", "words"),
    [("a\x00b", "NUL"), ("\ud800", "lone surrogate"), (2**63, "out of range")],
    ids=["NUL", "a lone surrogate", "beyond bigint"],
)
def test_an_argument_that_postgres_cannot_store_is_wrong_usage_in_one_line(
    connection: sa.Connection, argument: object, words: str
) -> None:
    text = isinstance(argument, str)
    function = sa.func.length(argument) if text else sa.func.abs(sa.cast(argument, sa.BigInteger))
    with pytest.raises(WrongUsage, match=words) as refused:
        call(connection, function)
    assert "\n" not in str(refused.value)
