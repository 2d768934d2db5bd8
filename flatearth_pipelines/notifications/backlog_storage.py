"""Whether anything is new, and how much: what a sensor asks, without Polars."""

import sqlalchemy as sa

_ANYTHING_NEW = sa.text("""
SELECT
    (SELECT event_id FROM flatearth.unnotified_events ORDER BY event_id LIMIT 1) IS NOT NULL
    OR (SELECT id FROM flatearth.unscanned_sources ORDER BY id LIMIT 1) IS NOT NULL
""")
# By the index, which remembers what is deleted: a sequential scan, as for EXISTS, would visit all that was there today.

_BACKLOG = sa.text("""
SELECT
    (SELECT count(*) FROM flatearth.unnotified_events) AS events_waiting,
    (SELECT count(*) FROM flatearth.unscanned_sources) AS texts_waiting
""")


def is_anything_new(connection: sa.Connection) -> bool:
    """Whether there are events that nobody was told of, or texts that were not looked at."""
    return bool(connection.execute(_ANYTHING_NEW).scalar_one())


def read_backlog(connection: sa.Connection) -> dict[str, int]:
    """How many events and texts wait: `events_waiting`, `texts_waiting`."""
    return dict(connection.execute(_BACKLOG).mappings().one())
