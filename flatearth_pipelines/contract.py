"""The contract of the SQL functions: how they are called from Python, and their SQLSTATEs as this package's errors."""

import contextlib
import re
from collections.abc import Generator
from typing import Any

import psycopg
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from flatearth_pipelines.errors import LimitReached, NotFound, NotPermitted, WrongUsage

_KINDS = {
    "42501": NotPermitted,
    "P0002": NotFound,
    "22023": WrongUsage,
    "53400": LimitReached,
    "23503": NotFound,
    "22003": WrongUsage,
    "22P02": WrongUsage,
    "22P05": WrongUsage,
    "22007": WrongUsage,
    "22008": WrongUsage,
    "22015": WrongUsage,
    "23514": WrongUsage,
}


def call(connection: sa.Connection, function: sa.Function[Any]) -> Any:
    """What the SQL function returns. Raises what `contract_errors` raises."""
    with contract_errors():
        return connection.execute(sa.select(function)).scalar_one()


@contextlib.contextmanager
def contract_errors() -> Generator[None]:
    """The contract's SQLSTATEs as this package's errors, with Postgres's own sentence."""
    try:
        yield
    except DBAPIError as error:
        if not isinstance(error.orig, psycopg.Error):
            raise
        if isinstance(error.orig, psycopg.DataError) and error.orig.sqlstate is None:
            raise WrongUsage(str(error.orig)) from None  # psycopg's own: a text with NUL
        kind = _KINDS.get(error.orig.sqlstate or "")
        if kind is None:
            raise
        raise kind(_sentence(error.orig)) from None
    except UnicodeEncodeError:
        raise WrongUsage("A text has a lone surrogate, which Postgres cannot store") from None


def _sentence(error: psycopg.Error) -> str:
    missing = re.fullmatch(r"Key \(account_id\)=\((\d+)\) is not .*", error.diag.message_detail or "")
    return f"There is no account {missing[1]}" if missing else error.diag.message_primary or "Postgres refused"
