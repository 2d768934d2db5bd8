"""What each target of a clean-up is: the rows and the objects that go, and what goes with them."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Protocol

from sqlalchemy import Connection

from flatearth_pipelines import tables
from flatearth_pipelines.cleanup.outcome import Batch
from flatearth_pipelines.cleanup.retention import ORPHANS_KEEP_FOR, Retention
from flatearth_pipelines.cleanup.storage import Aged
from flatearth_pipelines.cleanup.tag_storage import UnusedTags
from flatearth_pipelines.settings import Settings


class Rows(Protocol):
    """What goes when it is before an instant, strictly."""

    def delete_batch(self, connection: Connection, before: datetime, after: Any, most: int) -> Batch:
        """Delete up to so many in the caller's transaction, going on after the `last` of the batch before."""

    def count_due(self, connection: Connection, before: datetime) -> int:
        """How many there are."""

    def oldest(self, connection: Connection, since: datetime | None = None) -> str | None:
        """The age of the oldest of those not before `since`, due or not, in ISO 8601; None when there is none."""


class Part(NamedTuple):
    """One kind of what a target deletes."""

    name: str
    rows: Rows
    keep_for: timedelta


def parts_of(retention: Retention, settings: Callable[[], Settings]) -> list[Part]:
    """What the target deletes, itself first. Only for files is the storage of the settings opened."""
    if retention.target == "files":
        # obstore takes 25 ms and 4 MB.
        from flatearth_pipelines.cleanup.files import OldFiles, OrphanedObjects  # noqa: PLC0415
        from flatearth_pipelines.objects import Objects  # noqa: PLC0415

        objects = Objects(settings().storage_url)
        return [
            Part("files", OldFiles(objects), retention.keep_for),
            Part("orphaned_objects", OrphanedObjects(objects), ORPHANS_KEEP_FOR),
        ]
    return [Part(name, rows(), retention.keep_for) for name, rows in _ROWS[retention.target].items()]


def counted(retention: Retention) -> Rows:
    """The rows of the target itself, to be counted: opens no storage."""
    rows = _ROWS.get(retention.target, {retention.target: lambda: Aged(tables.files.c.created_at)})
    return next(iter(rows.values()))()


_ROWS: dict[str, dict[str, Callable[[], Rows]]] = {
    "webhook_deliveries": {
        "webhook_deliveries": lambda: Aged(tables.webhook_deliveries.c.created_at),
        # One is composed after its deliveries are created: nothing needs one that is older than they may be.
        "webhook_payloads": lambda: Aged(tables.webhook_payloads.c.created_at),
    },
    "sessions": {"sessions": lambda: Aged(tables.sessions.c.expires_at)},
    "audit_logs": {"audit_logs": lambda: Aged(tables.api_audit_logs.c.created_at)},
    "tags": {"tags": UnusedTags},
}
