"""Tags on no card. One may be put on a card at any moment, and deleting it would take the new tagging with it."""

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from flatearth_pipelines.cleanup.outcome import Batch

_LOWEST = -(2**63)
"""Below every id."""

_NEXT = sa.text("""
SELECT count(*), max(next.id)
FROM (SELECT t.id FROM flatearth.tags AS t WHERE t.id > :after ORDER BY t.id LIMIT :most) AS next
""")

_LOCK = sa.text("""
SELECT t.id FROM flatearth.tags AS t
WHERE t.id > :after AND t.id <= :last AND t.created_at < :before
AND NOT EXISTS (SELECT FROM flatearth.taggings AS g WHERE g.tag_id = t.id OFFSET 0)
FOR UPDATE SKIP LOCKED
""").bindparams(sa.bindparam("before", type_=sa.DateTime(timezone=True)))
# OFFSET 0 keeps it to one probe of the index for each tag: the planner would read all taggings for every batch. A tag
# that somebody is putting on a card is held by the foreign key of the tagging: skipped.

_DELETE = sa.text("""
DELETE FROM flatearth.tags AS t
WHERE t.id = ANY(:ids) AND NOT EXISTS (SELECT FROM flatearth.taggings AS g WHERE g.tag_id = t.id OFFSET 0)
""").bindparams(sa.bindparam("ids", type_=ARRAY(sa.BigInteger)))

_COUNT = sa.text("""
SELECT count(*) FROM flatearth.tags AS t
WHERE t.created_at < :before AND NOT EXISTS (SELECT FROM flatearth.taggings AS g WHERE g.tag_id = t.id)
""").bindparams(sa.bindparam("before", type_=sa.DateTime(timezone=True)))

_OLDEST = sa.text("""
SELECT to_jsonb(min(t.created_at)) #>> '{}' FROM flatearth.tags AS t
WHERE (:since IS NULL OR t.created_at >= :since)
AND NOT EXISTS (SELECT FROM flatearth.taggings AS g WHERE g.tag_id = t.id)
""").bindparams(sa.bindparam("since", type_=sa.DateTime(timezone=True)))


class UnusedTags:
    """Tags that are on no card and were made before an instant, strictly."""

    def delete_batch(self, connection: sa.Connection, before: datetime, after: int | None, most: int) -> Batch:
        """Look at so many tags, those after the id `after`, and delete the unused ones among them.

        So many are looked at, not deleted: where nearly all are in use, the few that are not would be held, and whoever
        wants to use one would wait, until enough were found.

        A tag that is being put on a card survives. The snapshot by which it is found to be unused may be older than its
        lock, and not show a tagging that was committed between them. The deletion, under the locks, has a newer one: in
        read committed, which `begin_batch` sees to.
        """
        first = _LOWEST if after is None else after
        found, last = connection.execute(_NEXT, {"after": first, "most": most}).one()
        if not found:
            return Batch(0, 0, after)
        unused = connection.execute(_LOCK, {"after": first, "last": last, "before": before}).scalars().all()
        deleted = connection.execute(_DELETE, {"ids": unused}).rowcount if unused else 0
        return Batch(found, deleted, last)

    def count_due(self, connection: sa.Connection, before: datetime) -> int:
        """How many there are."""
        return int(connection.execute(_COUNT, {"before": before}).scalar_one())

    def oldest(self, connection: sa.Connection, since: datetime | None = None) -> str | None:
        """When the oldest unused tag was made, of those made since then, in ISO 8601; None when there is none."""
        made: str | None = connection.execute(_OLDEST, {"since": since}).scalar_one()
        return made
