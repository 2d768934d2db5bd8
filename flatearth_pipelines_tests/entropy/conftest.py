"""Sessions of a test's own database."""

from collections.abc import Generator

import dagster as dg
import pytest
import sqlalchemy as sa

from flatearth_pipelines import database as db


@pytest.fixture
def engine(database: str) -> Generator[sa.Engine]:
    """Sessions that commit."""
    engine = db.engine(database, "tests")
    yield engine
    engine.dispose()


@pytest.fixture
def other_engine(database: str) -> Generator[sa.Engine]:
    """Sessions of somebody else on the same database."""
    engine = db.engine(database, "somebody else")
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def instance() -> Generator[dg.DagsterInstance]:
    """Dagster's own storage, in memory."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance
