"""Whether anything is new or due."""

import uuid

import polars as pl
import sqlalchemy as sa

from flatearth_pipelines.notifications import storage
from flatearth_pipelines.notifications.backlog_storage import (
    is_anything_new,
    read_backlog,
    read_health,
    seconds_to_next,
)
from flatearth_pipelines.notifications.delivery_storage import claim_due
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.notifications.workspace import Workspace, bundle


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


# When something is due


def test_the_seconds_to_the_next_are_those_of_the_earliest_that_waits(
    connection: sa.Connection,
) -> None:
    work = Workspace(connection)
    assert seconds_to_next(connection) is None
    bundle(connection, work.person(connection), "-2 hours", "-1 hour", status="delivered")
    assert seconds_to_next(connection) is None
    bundle(connection, work.person(connection), "-1 hour", "1 hour")
    assert 3_500 < (seconds_to_next(connection) or 0) <= 3_600
    bundle(connection, work.person(connection), "-1 hour", "-10 seconds")
    assert -70 < (seconds_to_next(connection) or 0) <= -10


def test_the_health_counts_what_waits_is_due_and_at_work(connection: sa.Connection) -> None:
    work = Workspace(connection)
    assert read_health(connection) == {"waiting": 0, "due": 0, "processing": 0}
    for _ in range(2):
        bundle(connection, work.person(connection), "-1 hour", "-1 minute")
    claim_due(connection, uuid.uuid4(), None, 2)
    bundle(connection, work.person(connection), "-1 hour", "1 hour")
    bundle(connection, work.person(connection), "-1 hour", "-1 minute")
    bundle(connection, work.person(connection), "-1 hour", "-1 minute", status="delivered")

    assert read_health(connection) == {"waiting": 1, "due": 1, "processing": 2}
