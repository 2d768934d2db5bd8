"""A workspace before it has a place in a database: one frame per table, with ids that only it knows."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields

import polars as pl

_ID = pl.Int64()
AT = pl.Datetime("us", "UTC")
_TEXT = pl.String()

ACCOUNTS = pl.Schema({"id": _ID, "name": _TEXT, "cancelled_at": AT, "created_at": AT})

USERS = pl.Schema(
    {
        "id": _ID,
        "account_id": _ID,
        "name": _TEXT,
        "email": _TEXT,
        "role": _TEXT,
        "active": pl.Boolean(),
        "verified_at": AT,
        "time_zone": _TEXT,
        "created_at": AT,
    }
)

BOARDS = pl.Schema(
    {"id": _ID, "account_id": _ID, "creator_id": _ID, "name": _TEXT, "all_access": pl.Boolean(), "created_at": AT}
)

ENTROPIES = pl.Schema(
    {"id": _ID, "account_id": _ID, "container_type": _TEXT, "container_id": _ID, "auto_postpone_period_ms": pl.Int64()}
)

ACCESSES = pl.Schema({"id": _ID, "account_id": _ID, "board_id": _ID, "user_id": _ID, "involvement": _TEXT})

COLUMNS = pl.Schema({"id": _ID, "account_id": _ID, "board_id": _ID, "name": _TEXT, "position": pl.Int64()})

TAGS = pl.Schema({"id": _ID, "account_id": _ID, "title": _TEXT, "created_at": AT})

CARDS = pl.Schema(
    {
        "id": _ID,
        "account_id": _ID,
        "board_id": _ID,
        "column_id": _ID,
        "creator_id": _ID,
        "number": pl.Int64(),
        "title": _TEXT,
        "status": _TEXT,
        "closed_at": AT,
        "postponed_at": AT,
        "activity_spike_at": AT,
        "last_active_at": AT,
        "created_at": AT,
    }
)

TAGGINGS = pl.Schema({"id": _ID, "account_id": _ID, "tag_id": _ID, "card_id": _ID, "created_at": AT})

ASSIGNMENTS = pl.Schema({"account_id": _ID, "card_id": _ID, "user_id": _ID, "created_at": AT})

WATCHES = pl.Schema({"account_id": _ID, "card_id": _ID, "user_id": _ID, "watching": pl.Boolean(), "created_at": AT})

PINS = pl.Schema({"account_id": _ID, "card_id": _ID, "user_id": _ID, "created_at": AT})

COMMENTS = pl.Schema({"id": _ID, "account_id": _ID, "card_id": _ID, "creator_id": _ID, "body": _TEXT, "created_at": AT})

EVENTS = pl.Schema(
    {
        "id": _ID,
        "account_id": _ID,
        "board_id": _ID,
        "creator_id": _ID,
        "action": _TEXT,
        "eventable_type": _TEXT,
        "eventable_id": _ID,
        "particulars": _TEXT,
        "created_at": AT,
    }
)

SCHEMAS: Mapping[str, pl.Schema] = {
    "accounts": ACCOUNTS,
    "users": USERS,
    "boards": BOARDS,
    "entropies": ENTROPIES,
    "accesses": ACCESSES,
    "columns": COLUMNS,
    "tags": TAGS,
    "cards": CARDS,
    "taggings": TAGGINGS,
    "assignments": ASSIGNMENTS,
    "watches": WATCHES,
    "pins": PINS,
    "comments": COMMENTS,
    "events": EVENTS,
}

REFERENCES: Mapping[str, str] = {
    "account_id": "accounts",
    "user_id": "users",
    "creator_id": "users",
    "board_id": "boards",
    "column_id": "columns",
    "tag_id": "tags",
    "card_id": "cards",
}
"""Which table a column's ids are of."""

TYPED_REFERENCES: Mapping[str, Mapping[str, str]] = {
    "eventable": {"card": "cards", "comment": "comments"},
    "container": {"account": "accounts", "board": "boards"},
}
"""Which table the ids in `<key>_id` are of, by what `<key>_type` says."""


@dataclass(frozen=True)
class Workspace:
    """One frame per table, parents before children, each exactly as its schema says.

    Ids count 1, 2, 3 … in every table, and references mean them; `storage.load` exchanges them for real ones.
    """

    accounts: pl.DataFrame
    users: pl.DataFrame
    boards: pl.DataFrame
    entropies: pl.DataFrame
    accesses: pl.DataFrame
    columns: pl.DataFrame
    tags: pl.DataFrame
    cards: pl.DataFrame
    taggings: pl.DataFrame
    assignments: pl.DataFrame
    watches: pl.DataFrame
    pins: pl.DataFrame
    comments: pl.DataFrame
    events: pl.DataFrame

    def __post_init__(self) -> None:
        for name, frame in self.tables():
            if frame.schema != SCHEMAS[name]:
                raise TypeError(f"{name} has the schema {frame.schema}, not {SCHEMAS[name]}")

    def tables(self) -> Iterator[tuple[str, pl.DataFrame]]:
        """Every table's name and frame, parents before children."""
        return ((field.name, getattr(self, field.name)) for field in fields(self))

    def counts(self) -> dict[str, int]:
        """The number of rows per table, parents before children."""
        return {name: frame.height for name, frame in self.tables()}
