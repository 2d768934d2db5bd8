from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import polars as pl
import psycopg
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings

from flatearth_pipelines import database as db
from flatearth_pipelines import frames, tables
from flatearth_pipelines.errors import WrongUsage
from flatearth_pipelines.workspaces import storage
from flatearth_pipelines.workspaces.sample import sample_workspaces
from flatearth_pipelines.workspaces.trello import trello_workspace
from flatearth_pipelines.workspaces.workspace import SCHEMAS, Workspace
from flatearth_pipelines_tests.workspaces.test_trello import NOON, Export, exports


def sample(cards: int = 200, seed: int = 1) -> Workspace:
    (part,) = sample_workspaces(cards, seed, NOON)
    return part


def stored(connection: sa.Connection, name: str, loaded: pl.DataFrame) -> pl.DataFrame:
    """What the database has under the loaded ids, or of the loaded cards."""
    table = tables.metadata.tables[f"{tables.SCHEMA}.{name}"]
    key = "id" if "id" in loaded.columns else "card_id"
    columns = [
        sa.cast(table.c[column], sa.Text) if column == "particulars" else table.c[column] for column in loaded.columns
    ]
    query = sa.select(*columns).where(table.c[key].in_(loaded[key].unique().to_list()))
    return frames.read_frame(connection, query, SCHEMAS[name])


def test_every_row_arrives_as_it_was(connection: sa.Connection) -> None:
    loaded = storage.load(connection, sample())
    for name, frame in loaded.tables():
        assert frame.height > 0, name
        assert stored(connection, name, frame).sort(frame.columns).equals(frame.sort(frame.columns)), name


def test_rows_still_mean_each_other_under_their_new_ids(connection: sa.Connection) -> None:
    storage.load(connection, sample(seed=2))
    before, loaded = sample(), storage.load(connection, sample())
    assert loaded.counts() == before.counts()
    # Ids are handed out in ascending order: counted from 1 again, the workspace is the one it was.
    back = {name: frame["id"].rank("dense") for name, frame in loaded.tables() if "id" in frame.columns}
    for name, ranks in back.items():
        assert ranks.to_list() == list(range(1, ranks.len() + 1)), name
    titles = loaded.taggings.join(loaded.tags, left_on="tag_id", right_on="id")["title"]
    assert titles.to_list() == before.taggings.join(before.tags, left_on="tag_id", right_on="id")["title"].to_list()
    for kind, parent in [("card", "cards"), ("comment", "comments")]:
        events = loaded.events.filter(eventable_type=kind)
        parents: pl.DataFrame = getattr(loaded, parent)
        assert 0 < events.join(parents, left_on="eventable_id", right_on="id", how="semi").height == events.height


def test_nulls_stay_null(connection: sa.Connection) -> None:
    before, loaded = sample(), storage.load(connection, sample())
    assert loaded.cards["column_id"].is_null().to_list() == before.cards["column_id"].is_null().to_list()


def test_an_empty_workspace_loads_nothing(connection: sa.Connection) -> None:
    nothing = Workspace(**{name: schema.to_frame() for name, schema in SCHEMAS.items()})
    assert storage.load(connection, nothing).counts() == dict.fromkeys(SCHEMAS, 0)


def test_a_row_that_breaks_a_constraint_is_refused(connection: sa.Connection) -> None:
    before = sample()
    broken = Workspace(**dict(before.tables()) | {"cards": before.cards.with_columns(account_id=pl.lit(1, pl.Int64()))})
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        storage.load(connection, broken)


def test_two_loads_at_once_share_no_id(database: str) -> None:
    one, other = db.engine(database, "one"), db.engine(database, "other")
    with one.begin() as first, other.begin() as second:
        loaded = [storage.load(session, sample()) for session in (first, second, first)]
    ids = pl.concat([part.cards["id"] for part in loaded])
    assert ids.is_unique().all()
    with one.begin() as session:
        assert session.execute(sa.select(sa.func.count()).select_from(tables.cards)).scalar_one() == 600
    one.dispose()
    other.dispose()


def test_a_load_that_breaks_off_leaves_nothing(database: str) -> None:
    def breaks_off() -> Iterator[Workspace]:
        yield sample()
        raise WrongUsage("enough")

    engine = db.engine(database, "tests")
    with pytest.raises(WrongUsage), engine.begin() as session:
        list(storage.load_parts(session, breaks_off()))
    with engine.begin() as session:
        assert session.execute(sa.select(sa.func.count()).select_from(tables.accounts)).scalar_one() == 0
    engine.dispose()


def test_nobody_else_takes_statistics_after_the_first_part(database: str) -> None:
    """Autovacuum would: of tables that look empty to it, for which foreign key checks then get bad plans."""
    engine = db.engine(database, "tests")
    parts = [sample(seed=seed) for seed in range(3)]
    with engine.begin() as session, psycopg.connect(database, autocommit=True) as other:
        other.execute("set lock_timeout = '50ms'")
        for number, _ in enumerate(storage.load_parts(session, parts)):
            if number > 0:
                with pytest.raises(psycopg.errors.LockNotAvailable):
                    other.execute("analyze flatearth.columns")
    engine.dispose()


def test_the_planner_knows_what_was_loaded(connection: sa.Connection) -> None:
    (loaded,) = storage.load_parts(connection, [sample()])
    estimate = sa.text("select reltuples from pg_class where oid = 'flatearth.cards'::regclass")
    assert connection.execute(estimate).scalar_one() >= loaded.cards.height


def test_now_is_the_beginning_of_the_transaction_in_utc(connection: sa.Connection) -> None:
    now = storage.read_now(connection)
    assert now == storage.read_now(connection)
    assert now.utcoffset() == timedelta(0)
    assert now > datetime(2025, 1, 1, tzinfo=UTC)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(export=exports())
def test_whatever_trello_exports_the_database_takes(connection: sa.Connection, export: Export) -> None:
    try:
        made = trello_workspace(export, NOON)
    except WrongUsage:
        return
    loaded = storage.load(connection, made)
    assert stored(connection, "cards", loaded.cards).sort("id").equals(loaded.cards)
