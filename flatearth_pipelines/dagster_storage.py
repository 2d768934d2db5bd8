"""Where Dagster keeps its own runs: the schema `dagster` of the same database."""

from collections.abc import Mapping
from typing import Any, Self

import click
import psycopg
import sqlalchemy as sa
from dagster._serdes import ConfigurableClassData
from dagster_postgres import DagsterPostgresStorage
from psycopg.conninfo import conninfo_to_dict

from flatearth_pipelines import database
from flatearth_pipelines.errors import FlatEarthError
from flatearth_pipelines.settings import Settings

_PREPARED = "select to_regclass('dagster.instance_info') is not null"


class SameDatabaseStorage(DagsterPostgresStorage):
    """Dagster's Postgres storage in the database of `Settings`, so that one variable, or none, names both.

    dagster.yaml can only copy an environment variable: it could neither derive this URL from ours nor start the
    embedded server.
    """

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """Nothing to configure: the environment says it all."""
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:  # noqa: ARG003
        """Open the storage, and create its tables at the first opening of all."""
        try:
            conninfo = database.connection_string(Settings.from_environment())
            session = database.connect(conninfo, "flatearth dagster storage")
        except FlatEarthError as error:
            raise click.ClickException(str(error)) from None
        with session as connection:
            if connection.execute(_PREPARED).fetchone() == (True,):
                return cls(dagster_url(conninfo), inst_data=inst_data)
            # Two processes that create Dagster's tables at once fail; the end of the transaction unlocks.
            connection.execute("select pg_advisory_xact_lock(hashtextextended('flatearth.dagster_storage', 0))")
            _create_schema(conninfo)
            return cls(dagster_url(conninfo), inst_data=inst_data)


def dagster_url(conninfo: str) -> str:
    """The SQLAlchemy URL of Dagster's storage for a libpq connection string.

    psycopg2 is named, because dagster-postgres 0.29 speaks nothing else and SQLAlchemy 2.1 would take psycopg 3.
    """
    parameters = {key: str(value) for key, value in conninfo_to_dict(conninfo).items() if value is not None}
    user = parameters.pop("user", None)
    options = f"{parameters.pop('options', '')} -c search_path=dagster".strip()
    url = sa.URL.create(
        "postgresql+psycopg2",
        username=user,
        # Without a user SQLAlchemy would drop the password; among the other parameters it reaches libpq.
        password=parameters.pop("password", None) if user else None,
        database=parameters.pop("dbname", None),
        query=parameters | {"options": options},
    )
    return url.render_as_string(hide_password=False)


def _create_schema(conninfo: str) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("create schema if not exists dagster")
