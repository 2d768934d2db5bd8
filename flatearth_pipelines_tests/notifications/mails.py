"""Bundles that are due, and deliveries of them."""

from datetime import datetime
from typing import Any

import sqlalchemy as sa

from flatearth_pipelines import tables
from flatearth_pipelines.notifications.delivery import Delivery, Options, Report
from flatearth_pipelines.settings import Settings
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.notifications.workspace import Workspace, bundle

KEY = "a secret of the tests"


def settings(smtp_url: str, **values: Any) -> Settings:
    """Of an installation with a database of its own."""
    variables = {"smtp_url": smtp_url, "secret_key": KEY, **values}
    return Settings.from_environment({f"FLATEARTH_{name.upper()}": value for name, value in variables.items()})


def deliver(engine: sa.Engine, smtp_url: str, ids: list[int] | None = None, **options: Any) -> Report:
    """A whole run, without Dagster; one that waits for ever fails instead."""
    early = options.pop("early", False)
    with engine.connect() as connection:
        with connection.begin():
            connection.execute(sa.text("SET statement_timeout = '20s'"))
        return Delivery(connection, settings(smtp_url), Options(**options)).run(ids, early=early)


def due_bundle(connection: sa.Connection, work: Workspace, user_id: int | None = None, **values: Any) -> int:
    """A window of the last hour of somebody, who has one unread notification in it."""
    person = work.person(connection) if user_id is None else user_id
    notify(connection, work, person)
    return bundle(connection, person, "-1 hour", "-1 minute", **values)


def due_bundles(connection: sa.Connection, work: Workspace, count: int) -> list[int]:
    """As many, each of somebody else, at once; the person of bundle 7 has the address person7@acme.example."""
    connection.execute(
        sa.text("""
        WITH people AS (
            INSERT INTO flatearth.users (account_id, name, email)
            SELECT :account, 'Person ' || n, 'person' || n || '@acme.example' FROM generate_series(1, :count) AS n
            RETURNING id
        ),
        happened AS (
            INSERT INTO flatearth.events (account_id, board_id, creator_id, action, eventable_type, eventable_id)
            VALUES (:account, :board, :actor, 'card_closed', 'card', :card)
            RETURNING id
        ),
        told AS (
            INSERT INTO flatearth.notifications (account_id, user_id, creator_id, source_type, source_id, created_at)
            SELECT :account, people.id, :actor, 'event', happened.id, clock_timestamp() - interval '30 minutes'
            FROM people, happened
        )
        INSERT INTO flatearth.notification_bundles (account_id, user_id, starts_at, ends_at)
        SELECT :account, id, clock_timestamp() - interval '1 hour', clock_timestamp() - interval '1 minute' FROM people
        """),
        {"account": work.account, "count": count, "board": work.board, "actor": work.actor, "card": work.card},
    )
    return list(connection.execute(sa.select(tables.notification_bundles.c.id).order_by("id")).scalars())


def notify(
    connection: sa.Connection,
    work: Workspace,
    user_id: int,
    action: str = "card_closed",
    *,
    ago: str = "30 minutes",
    about: int | None = None,
    **values: Any,
) -> int:
    """A notification of that long ago, about the card or what is named, in no window but those that are there."""
    particulars = values.pop("particulars", {})
    event = make.event(connection, work.board, work.actor, action, about or work.card, **particulars)
    return notification(connection, user_id, "event", event, ago=ago, creator_id=work.actor, **values)


def notification(
    connection: sa.Connection, user_id: int, source_type: str, source_id: int, *, ago: str = "30 minutes", **values: Any
) -> int:
    """One that somebody has since then."""
    account_id = connection.execute(
        sa.select(tables.users.c.account_id).where(tables.users.c.id == user_id)
    ).scalar_one()
    at = {"created_at": sa.func.clock_timestamp() - sa.cast(ago, sa.Interval)}
    source = {"account_id": account_id, "user_id": user_id, "source_type": source_type, "source_id": source_id}
    query = sa.insert(tables.notifications).values(**source | at | values).returning(tables.notifications.c.id)
    new_id: int = connection.execute(query).scalar_one()
    return new_id


def row(engine: sa.Engine, bundle_id: int) -> dict[str, Any]:
    """The bundle as it stands."""
    with engine.connect() as connection:
        query = sa.select(tables.notification_bundles).where(tables.notification_bundles.c.id == bundle_id)
        return dict(connection.execute(query).mappings().one())


def ends(engine: sa.Engine) -> dict[int, tuple[str, str | None]]:
    """State and outcome of every bundle."""
    bundles = tables.notification_bundles.c
    with engine.connect() as connection:
        rows = connection.execute(sa.select(bundles.id, bundles.status, bundles.outcome))
        return {bundle_id: (status, outcome) for bundle_id, status, outcome in rows}


def now(engine: sa.Engine) -> datetime:
    """By the database's clock."""
    with engine.connect() as connection:
        instant: datetime = connection.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
        return instant


def change(engine: sa.Engine, statement: str, **values: Any) -> None:
    """Run it, and commit."""
    with engine.begin() as connection:
        connection.execute(sa.text(statement), values)
