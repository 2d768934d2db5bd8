"""A token to claim rows with, alive as long as its session: what somebody who died held is known at once."""

import contextlib
import uuid
from collections.abc import Generator

import sqlalchemy as sa
from psycopg import Error as PsycopgError
from sqlalchemy.exc import DBAPIError

_LOCK = sa.text("SELECT pg_advisory_lock(hashtextextended(CAST(:claim AS text), 0))")
_UNLOCK = sa.text("SELECT pg_advisory_unlock(hashtextextended(CAST(:claim AS text), 0))")


@contextlib.contextmanager
def claimant(connection: sa.Connection) -> Generator[uuid.UUID]:
    """A token whose advisory lock the connection's session holds: nobody else gets that while the session lives."""
    claim = uuid.uuid4()
    with connection.begin():
        connection.execute(_LOCK, {"claim": str(claim)})
    try:
        yield claim
    finally:
        with (
            contextlib.suppress(DBAPIError, PsycopgError),
            connection.begin(),
        ):  # else the session, and the lock, is gone
            connection.execute(_UNLOCK, {"claim": str(claim)})
