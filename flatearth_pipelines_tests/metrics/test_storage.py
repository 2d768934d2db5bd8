"""What is read at a scrape."""

import sqlalchemy as sa

from flatearth_pipelines.metrics.storage import Runs, read
from flatearth_pipelines_tests.queue.workers import add

_RUNS = """
CREATE SCHEMA dagster;
CREATE TABLE dagster.runs (pipeline_name text, status text, end_time float8);
INSERT INTO dagster.runs VALUES
    ('one', 'SUCCESS', 10), ('one', 'SUCCESS', 20), ('one', 'FAILURE', 30), ('one', 'STARTED', NULL),
    ('other', 'FAILURE', 5), ('third', 'CANCELED', 7)
"""


def test_an_empty_database_has_nothing_that_waits_and_no_runs(connection: sa.Connection) -> None:
    seen = read(connection)
    assert (seen.events_for_notifications, seen.events_for_webhooks) == (0, 0)
    assert (seen.bundles_overdue, seen.deliveries_overdue, seen.runs) == (0, 0, [])
    assert seen.queue["waiting"] == 0


def test_the_last_success_and_failure_of_each_job_are_seen_and_nothing_of_what_has_not_ended(
    engine: sa.Engine,
) -> None:
    with engine.begin() as connection:
        for statement in _RUNS.split(";"):
            connection.execute(sa.text(statement))
        assert read(connection).runs == [Runs("one", 20, 30), Runs("other", None, 5)]


def test_a_job_that_is_due_is_seen_with_its_wait(engine: sa.Engine) -> None:
    add(engine, "noop")
    with engine.begin() as connection:
        seen = read(connection)
    assert seen.queue["waiting"] == 1
    assert seen.queue["oldest_wait_seconds"] > 0


def test_a_look_takes_five_seconds_at_most_and_changes_nothing_after_it(engine: sa.Engine) -> None:
    show = sa.text("SHOW statement_timeout")
    with engine.connect() as connection:
        with connection.begin():
            read(connection)
            assert connection.execute(show).scalar() == "5s"
        with connection.begin():
            assert connection.execute(show).scalar() == "0"
