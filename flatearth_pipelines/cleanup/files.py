"""Files are a row and an object: the object goes first, so that no object is ever left that nobody knows of.

What a crash or a storage that fails leaves is a row without its object, which the next run deletes. Objects without a
row, such as uploads that were given up, are swept too.
"""

from collections.abc import Iterator
from datetime import datetime

import sqlalchemy as sa

from flatearth_pipelines.cleanup import file_storage
from flatearth_pipelines.cleanup.file_storage import OldFile
from flatearth_pipelines.cleanup.outcome import Batch
from flatearth_pipelines.cleanup.storage import Aged
from flatearth_pipelines.objects import Objects, Stored
from flatearth_pipelines.tables import files

PREFIX = "files"
"""Where the application's objects are; nothing else in the storage is looked at."""

_AT_ONCE = 1_000


class OldFiles:
    """Files that were uploaded before an instant, strictly, with their objects."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._rows = Aged(files.c.created_at)

    def delete_batch(self, connection: sa.Connection, before: datetime, after: OldFile | None, most: int) -> Batch:
        """Delete up to so many objects, then their rows, which are held meanwhile; go on after the file `after`.

        A row whose object the storage does not let go of stays. A storage that does not answer ends the transaction.
        """
        held = file_storage.hold_old_files(connection, before, after, most)
        refused = self._objects.delete([file.storage_key for file in held]) if held else {}
        gone = [file.id for file in held if file.storage_key not in refused]
        deleted = file_storage.delete_files(connection, gone)
        return Batch(len(held), deleted, held[-1] if held else after, tuple(refused.values()))

    def count_due(self, connection: sa.Connection, before: datetime) -> int:
        """How many there are."""
        return self._rows.count_due(connection, before)

    def oldest(self, connection: sa.Connection, since: datetime | None = None) -> str | None:
        """When the oldest was uploaded, of those not before `since`, in ISO 8601; None when there is none."""
        return self._rows.oldest(connection, since)


class OrphanedObjects:
    """Objects under `files/` that have no row and were written before an instant, strictly; of one clean-up."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._listing: Iterator[list[Stored]] | None = None

    def delete_batch(self, connection: sa.Connection, before: datetime, after: object, most: int) -> Batch:
        """Look at so many objects, those after the batch before, and delete the orphans among them."""
        del after
        if self._listing is None:
            self._listing = self._objects.listed(PREFIX, most)
        part = next(self._listing, [])
        keys = self._orphans(connection, part, before)
        refused = self._objects.delete(keys) if keys else {}
        return Batch(len(part), len(keys) - len(refused), None, tuple(refused.values()))

    def count_due(self, connection: sa.Connection, before: datetime) -> int:
        """How many there are; every object is looked at."""
        listing = self._objects.listed(PREFIX, _AT_ONCE)
        return sum(len(self._orphans(connection, part, before)) for part in listing)

    def oldest(self, connection: sa.Connection, since: datetime | None = None) -> None:
        """Not asked for: a storage has no index by age."""

    def _orphans(self, connection: sa.Connection, part: list[Stored], before: datetime) -> list[str]:
        old = [stored.key for stored in part if stored.modified_at < before]
        return file_storage.without_row(connection, old) if old else []
