"""What the tests of webhooks share."""

from collections.abc import Generator

import pytest
import sqlalchemy as sa

from flatearth_pipelines_tests.factories import SECRET_KEY
from flatearth_pipelines_tests.webhooks.receiver import Receiver
from flatearth_pipelines_tests.webhooks.workspace import Workspace


@pytest.fixture
def office(engine: sa.Engine) -> Workspace:
    """A committed workspace."""
    with engine.begin() as connection:
        return Workspace(connection)


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> str:
    """The secret of the environment, which a database of one's own needs."""
    monkeypatch.setenv("FLATEARTH_SECRET_KEY", SECRET_KEY)
    return SECRET_KEY


@pytest.fixture
def receiver() -> Generator[Receiver]:
    """Who takes webhooks."""
    with Receiver().serving() as receiver:
        yield receiver
