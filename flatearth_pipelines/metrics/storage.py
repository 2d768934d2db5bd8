"""When Dagster's jobs last succeeded and failed, and what the features say of their backlogs, in one transaction."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import sqlalchemy as sa

from flatearth_pipelines.notifications import backlog_storage as notifications
from flatearth_pipelines.queue import storage as queue
from flatearth_pipelines.webhooks import backlog_storage as webhooks

_HURRY = sa.text("SET LOCAL statement_timeout = '5s'")
"""A monitoring system gives up after 10 s, and asks again."""

_WAITING_FOR_WEBHOOKS = sa.text("SELECT count(*) FROM flatearth.undispatched_events")

_HAS_RUNS = sa.text("SELECT to_regclass('dagster.runs') IS NOT NULL")

_LAST_RUNS = sa.text("""
SELECT
    pipeline_name AS job,
    max(end_time) FILTER (WHERE status = 'SUCCESS') AS succeeded,
    max(end_time) FILTER (WHERE status = 'FAILURE') AS failed
FROM dagster.runs
WHERE status IN ('SUCCESS', 'FAILURE')
GROUP BY pipeline_name
ORDER BY pipeline_name
""")


class Runs(NamedTuple):
    """A job's last runs, in seconds since 1970."""

    job: str
    succeeded: float | None
    failed: float | None


class Seen(NamedTuple):
    """Everything at one moment."""

    queue: Mapping[str, Any]
    events_for_notifications: int
    events_for_webhooks: int
    bundles: Mapping[str, int]
    bundles_overdue: float
    """Seconds for which the oldest has been due."""
    deliveries: Mapping[str, int]
    deliveries_overdue: float
    runs: list[Runs]
    """None before Dagster has had its first one."""


def read(connection: sa.Connection) -> Seen:
    """Look at everything, for five seconds at most; in the caller's transaction."""
    connection.execute(_HURRY)
    bundles_next, deliveries_next = notifications.seconds_to_next(connection), webhooks.seconds_to_next(connection)
    return Seen(
        queue=queue.read_health(connection),
        events_for_notifications=notifications.read_backlog(connection)["events_waiting"],
        events_for_webhooks=connection.execute(_WAITING_FOR_WEBHOOKS).scalar_one(),
        bundles=notifications.read_health(connection),
        bundles_overdue=_overdue(bundles_next),
        deliveries=webhooks.read_health(connection),
        deliveries_overdue=_overdue(deliveries_next),
        runs=[Runs(*row) for row in connection.execute(_LAST_RUNS)]
        if connection.execute(_HAS_RUNS).scalar_one()
        else [],
    )


def _overdue(seconds_to_next: float | None) -> float:
    return 0.0 if seconds_to_next is None else max(0.0, -seconds_to_next)
