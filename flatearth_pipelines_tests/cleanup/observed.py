"""What stands committed in the tables."""

import sqlalchemy as sa


def ids(engine: sa.Engine, table: sa.Table) -> list[int]:
    """Ascending."""
    with engine.connect() as connection:
        return sorted(connection.execute(sa.select(table.c.id)).scalars())


def count(engine: sa.Engine, table: sa.Table) -> int:
    with engine.connect() as connection:
        return int(connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())


def waiting_for_a_lock(engine: sa.Engine) -> int:
    """How many sessions of this database do."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with engine.connect() as connection:
        return int(connection.execute(sa.text(query)).scalar_one())
