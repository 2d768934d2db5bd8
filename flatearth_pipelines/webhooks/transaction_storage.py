"""One transaction that gives way to others, and does not wait for long."""

import contextlib
import time
from collections.abc import Callable, Generator
from typing import TypeVar

import sqlalchemy as sa
from psycopg.errors import DeadlockDetected, ForeignKeyViolation, LockNotAvailable, SerializationFailure
from sqlalchemy.exc import DBAPIError

from flatearth_pipelines.errors import FlatEarthError

Result = TypeVar("Result")

_ATTEMPTS = 5
_PAUSE_SECONDS = 0.05
"""After the first attempt; twice as long after the second, and so on."""

_BY_INDEX = sa.text("""
SELECT set_config(s.name, s.value, true)
FROM (
    VALUES
    ('enable_seqscan', 'off'), ('enable_hashjoin', 'off'), ('enable_mergejoin', 'off'), ('jit', 'off'),
    ('lock_timeout', '2s')
) AS s (name, value)
""")
# A batch looks to the planner like a reason to read whole tables, of which it then reads what was sent long ago.


class Contended(FlatEarthError):
    """Somebody else's transaction was in the way: nothing was written, and it may be tried again."""


@contextlib.contextmanager
def transaction(connection: sa.Connection) -> Generator[None]:
    """One transaction on the connection, committed at the end, whose queries look rows up by index.

    Raises:
        Contended: it lost a deadlock, waited 2 s for somebody, or an event or endpoint of it was deleted meanwhile.
    """
    try:
        with connection.begin():
            connection.execute(_BY_INDEX)
            yield
    except DBAPIError as error:
        if isinstance(error.orig, (DeadlockDetected, ForeignKeyViolation, LockNotAvailable, SerializationFailure)):
            said = error.orig.diag.message_primary
            raise Contended(f"Somebody else was in the way, the next run goes on: {said}") from error
        raise


def attempted(connection: sa.Connection, work: Callable[[], Result]) -> Result:
    """What the work returns, done in a `transaction`, and once more in another one while somebody is in its way.

    Raises:
        Contended: somebody was, five times.
    """
    for attempt in range(1, _ATTEMPTS):
        try:
            with transaction(connection):
                return work()
        except Contended:
            time.sleep(_PAUSE_SECONDS * attempt)
    with transaction(connection):
        return work()
