"""What holds in every workspace, as a list of what does not."""

import polars as pl

from flatearth_pipelines.workspaces.workspace import REFERENCES, TYPED_REFERENCES, Workspace

UNIQUE = {
    "accesses": ["board_id", "user_id"],
    "entropies": ["container_type", "container_id"],
    "tags": ["account_id", "title"],
    "taggings": ["tag_id", "card_id"],
    "assignments": ["card_id", "user_id"],
    "watches": ["card_id", "user_id"],
    "pins": ["card_id", "user_id"],
}

REQUIRED = {"account_id", "board_id", "user_id", "card_id", "tag_id", "eventable_id", "container_id", "created_at"}

LATER = ["cancelled_at", "verified_at", "closed_at", "postponed_at", "activity_spike_at", "last_active_at"]


def violations(workspace: Workspace) -> list[str]:
    """Empty for a workspace that the database takes and in which nothing happens before what it follows from."""
    frames = dict(workspace.tables())
    found = [violation for name, frame in frames.items() for violation in _of_itself(name, frame)]
    for name, frame in frames.items():
        for column, parent in REFERENCES.items():
            if column in frame.columns:
                found += _strays(name, frame, column, frames[parent])
        for key, parents in TYPED_REFERENCES.items():
            if f"{key}_id" in frame.columns:
                for kind, parent in parents.items():
                    found += _strays(name, frame.filter(pl.col(f"{key}_type") == kind), f"{key}_id", frames[parent])
    columns = frames["cards"].join(frames["columns"], left_on="column_id", right_on="id", suffix="_of_column")
    if (columns["board_id"] != columns["board_id_of_column"]).any():
        found.append("cards: in a column of another board")
    return found


def _of_itself(name: str, frame: pl.DataFrame) -> list[str]:
    found = [f"{name}: {column} is null" for column in REQUIRED & set(frame.columns) if frame[column].has_nulls()]
    found += [
        f"{name}: {time} before created_at"
        for time in set(LATER) & set(frame.columns)
        if (frame[time] < frame["created_at"]).any()
    ]
    if "id" in frame.columns and frame["id"].to_list() != list(range(1, frame.height + 1)):
        found.append(f"{name}: ids do not count from 1")
    if name in UNIQUE and frame.select(UNIQUE[name]).is_duplicated().any():
        found.append(f"{name}: {UNIQUE[name]} twice")
    return found


def _strays(name: str, frame: pl.DataFrame, column: str, parents: pl.DataFrame) -> list[str]:
    """Rows whose parent is missing, of another account, or younger than they."""
    account = pl.col("account_id" if "account_id" in parents.columns else "id").alias("parent_account_id")
    created = (pl.col("created_at") if "created_at" in parents.columns else pl.lit(None)).alias("parent_created_at")
    parents = parents.select(account, created, parent_id="id")
    linked = frame.filter(pl.col(column).is_not_null()).join(parents, left_on=column, right_on="parent_id", how="left")
    found = []
    if linked["parent_account_id"].has_nulls():
        found.append(f"{name}: {column} of nothing")
    if (linked["account_id"] != linked["parent_account_id"]).any():
        found.append(f"{name}: {column} of another account")
    if "created_at" in frame.columns and (linked["created_at"] < linked["parent_created_at"]).any():
        found.append(f"{name}: older than its {column}")
    return found
