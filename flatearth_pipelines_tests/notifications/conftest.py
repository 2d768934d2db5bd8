"""What the tests of deliveries share."""

from collections.abc import Generator

import pytest
import sqlalchemy as sa

from flatearth_pipelines.notifications.transport import KEPT_LINES
from flatearth_pipelines_tests.notifications.mails import KEY
from flatearth_pipelines_tests.notifications.workspace import Workspace
from flatearth_pipelines_tests.smtp import Server, smtp_server


@pytest.fixture
def post() -> Generator[Server]:
    """A mail server that takes everything."""
    with smtp_server() as post:
        yield post
        KEPT_LINES.close()


@pytest.fixture
def office(engine: sa.Engine) -> Workspace:
    """A committed workspace."""
    with engine.begin() as connection:
        return Workspace(connection)


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> str:
    """The secret of the environment, which a database of one's own needs."""
    monkeypatch.setenv("FLATEARTH_SECRET_KEY", KEY)
    return KEY
