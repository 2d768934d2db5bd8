"""What an op may ask for. Only this module and the `…definitions.py` files know Dagster."""

import contextlib
import time
from collections.abc import Callable, Generator
from datetime import datetime

import dagster as dg
import psycopg
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError

from flatearth_pipelines import database
from flatearth_pipelines.errors import FlatEarthError
from flatearth_pipelines.instants import instant
from flatearth_pipelines.settings import Settings

_TRY_LOCK = sa.text("SELECT pg_try_advisory_lock(hashtextextended(:name, 0))")

_SECONDS_BETWEEN_LOGS = 10


class Postgres(dg.ConfigurableResource):  # type: ignore[type-arg]  # generic for Dagster's own use
    """The database that the environment names, or the embedded one; started and migrated where that is ours to do."""

    @contextlib.contextmanager
    def connection(self, context: dg.OpExecutionContext) -> Generator[sa.Connection]:
        """A session of this run, named after it in `pg_stat_activity`.

        When the run is cancelled, so is the statement at work in Postgres, which would otherwise go on.
        """
        application = f"flatearth {context.job_name} {context.run_id[:8]}"
        pool = database.engine(database.prepare(Settings.from_environment()), application)
        event.listen(pool, "invalidate", _cancel_statement)  # SQLAlchemy drops a connection that is interrupted
        try:
            with pool.connect() as connection:
                driver = connection.connection.driver_connection
                try:
                    yield connection
                except BaseException:
                    _cancel_statement(driver)
                    raise
        finally:
            pool.dispose()

    @contextlib.contextmanager
    def alone(self, context: dg.OpExecutionContext, name: str) -> Generator[sa.Connection | str]:
        """A session that holds the lock of that name, or else who holds it, in words.

        The lock is the session's: a run that dies lets go of it at once, and it binds runs from the command line too.
        """
        with self.connection(context) as connection:
            with connection.begin():
                free = connection.execute(_TRY_LOCK, {"name": name}).scalar_one()
                holder = None if free else database.lock_holder(connection, name)
            yield connection if free else holder or "another run, which has just ended"


class Clock(dg.ConfigurableResource):  # type: ignore[type-arg]  # generic for Dagster's own use
    """The one instant of a run."""

    def as_of(self, connection: sa.Connection, text: str | None) -> datetime:
        """The instant in a run's config, or the database's now."""
        if text is not None:
            return instant(text)
        with connection.begin():
            return database.now(connection)


def log_now_and_then(context: dg.OpExecutionContext) -> Callable[[str], None]:
    """What logs a sentence unless it is less than ten seconds since the one before, or since now."""
    last = time.monotonic()

    def log(sentence: str) -> None:
        nonlocal last
        if time.monotonic() - last >= _SECONDS_BETWEEN_LOGS:
            last = time.monotonic()
            context.log.info(sentence)

    return log


@contextlib.contextmanager
def clear_failure() -> Generator[None]:
    """Turn what a person has to mend into a run failure of one line, which is not retried."""
    try:
        yield
    except FlatEarthError as error:
        raise dg.Failure(str(error), allow_retries=False) from None
    except (psycopg.Error, DBAPIError) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        lost = isinstance(cause, psycopg.OperationalError)
        said = " ".join(str(cause).split())
        sentence = f"Postgres broke off: {said}. The next run does the rest" if lost else f"Postgres refused: {said}"
        raise dg.Failure(sentence, allow_retries=False) from None


def _cancel_statement(driver: object, *_: object) -> None:
    if isinstance(driver, psycopg.Connection) and driver.info.transaction_status == psycopg.pq.TransactionStatus.ACTIVE:
        database.cancel_statement(driver)
