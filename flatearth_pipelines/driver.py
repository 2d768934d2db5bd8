"""The driver below SQLAlchemy, for what is only asked of it: pipelines, arrays in binary, COPY."""

from typing import cast

import psycopg
import sqlalchemy as sa


def driver_connection(connection: sa.Connection) -> psycopg.Connection:
    """The psycopg connection below, in the same transaction."""
    return cast("psycopg.Connection", connection.connection.driver_connection)
