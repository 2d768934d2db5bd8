"""The rows of files: those that are old, held while their objects go, and which objects have no row."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

_HOLD = sa.text("""
SELECT f.id, f.storage_key, to_jsonb(f.created_at) #>> '{}'
FROM flatearth.files AS f
WHERE f.created_at < :before
AND (f.created_at, f.id) > (CAST(:after_at AS timestamptz), :after_id)
ORDER BY f.created_at, f.id
LIMIT :most
FOR UPDATE SKIP LOCKED
""").bindparams(sa.bindparam("before", type_=sa.DateTime(timezone=True)))

_DELETE = sa.text("DELETE FROM flatearth.files WHERE id = ANY(:ids)").bindparams(
    sa.bindparam("ids", type_=ARRAY(sa.BigInteger))
)

_WITHOUT_ROW = sa.text("""
SELECT k.key FROM unnest(:keys) AS k (key)
WHERE NOT EXISTS (
    SELECT FROM flatearth.files AS f
    WHERE f.storage_key = ANY(ARRAY[k.key, '/' || k.key, k.key || '/', '/' || k.key || '/'])
)
""").bindparams(sa.bindparam("keys", type_=ARRAY(sa.Text)))
# The storage drops a slash at either end of a key.

_BEGINNING = ("-infinity", 0)


class OldFile(NamedTuple):
    """A row that is held."""

    id: int
    storage_key: str
    created_at: str
    """In ISO 8601."""


def hold_old_files(connection: sa.Connection, before: datetime, after: OldFile | None, most: int) -> list[OldFile]:
    """Up to so many files that were uploaded before then, strictly, the oldest first; held until the transaction ends.

    Those that somebody else holds are left out.
    """
    after_at, after_id = _BEGINNING if after is None else (after.created_at, after.id)
    values = {"before": before, "after_at": after_at, "after_id": after_id, "most": most}
    return [OldFile(*row) for row in connection.execute(_HOLD, values)]


def delete_files(connection: sa.Connection, ids: Sequence[int]) -> int:
    """Delete these rows; how many there were."""
    return connection.execute(_DELETE, {"ids": ids}).rowcount


def without_row(connection: sa.Connection, keys: Sequence[str]) -> list[str]:
    """Those of the keys that no file has."""
    return list(connection.execute(_WITHOUT_ROW, {"keys": keys}).scalars())
