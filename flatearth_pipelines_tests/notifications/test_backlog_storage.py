"""Whether anything is new."""

import polars as pl
import sqlalchemy as sa

from flatearth_pipelines.notifications import storage
from flatearth_pipelines.notifications.backlog_storage import is_anything_new, read_backlog
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.notifications.workspace import Workspace


def test_there_is_something_new_while_an_event_or_a_text_waits(connection: sa.Connection) -> None:
    work = Workspace(connection)
    assert not is_anything_new(connection)
    event = work.event(connection)
    assert is_anything_new(connection)
    assert read_backlog(connection) == {"events_waiting": 1, "texts_waiting": 0}
    storage.delete_events(connection, pl.Series([event]))
    make.comment(connection, work.card, "@[Ada](user:1)")
    assert is_anything_new(connection)
    assert read_backlog(connection) == {"events_waiting": 0, "texts_waiting": 1}
