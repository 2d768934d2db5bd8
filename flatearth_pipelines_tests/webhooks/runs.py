"""Ways to run the jobs, without Dagster."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from flatearth_pipelines.settings import Settings
from flatearth_pipelines.webhooks.delivery import Delivery, Options, Report
from flatearth_pipelines.webhooks.dispatching import Outcome, dispatch_new
from flatearth_pipelines_tests.factories import SECRET_KEY
from flatearth_pipelines_tests.webhooks.receiver import ALLOWED


def dispatch(engine: sa.Engine, **options: Any) -> Outcome:
    """All that is new; a run that waits for ever fails instead."""
    with engine.connect() as connection:
        limit(connection)
        return dispatch_new(connection, **options)


def settings(**values: str) -> Settings:
    """Of an installation whose webhooks may reach this machine."""
    variables = {"secret_key": SECRET_KEY, "webhook_allow_networks": ALLOWED, **values}
    return Settings.from_environment({f"FLATEARTH_{name.upper()}": value for name, value in variables.items()})


def deliver(
    engine: sa.Engine, ids: Sequence[int] | None = None, *, given: Settings | None = None, **options: Any
) -> Report:
    """All that is due, or these; a run that waits for ever fails instead."""
    with engine.connect() as connection:
        limit(connection)
        return Delivery(connection, given or settings(), Options(**options)).run(ids)


def limit(connection: sa.Connection) -> None:
    """No statement of the session takes longer."""
    with connection.begin():
        connection.execute(sa.text("SET statement_timeout = '20s'"))


def waiting(engine: sa.Engine) -> int:
    """How many sessions wait for a lock of somebody else."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with engine.connect() as connection:
        return int(connection.execute(sa.text(query)).scalar_one())
