import polars as pl
import pytest

from flatearth_pipelines import tables
from flatearth_pipelines.workspaces.workspace import SCHEMAS, Workspace

NOTHING = {name: schema.to_frame() for name, schema in SCHEMAS.items()}


def test_a_frame_of_another_schema_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match=r"^tags has the schema"):
        Workspace(**NOTHING | {"tags": pl.DataFrame({"id": [1]})})


def test_counts_name_every_table_also_the_empty_ones() -> None:
    assert Workspace(**NOTHING).counts() == dict.fromkeys(SCHEMAS, 0)


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_column_is_one_of_the_database(name: str) -> None:
    columns = tables.metadata.tables[f"{tables.SCHEMA}.{name}"].columns
    assert set(SCHEMAS[name]) == {column.name for column in columns if column.computed is None}


def test_parents_come_before_their_children() -> None:
    order = list(SCHEMAS)
    for name in order:
        for key in tables.metadata.tables[f"{tables.SCHEMA}.{name}"].foreign_keys:
            assert order.index(key.column.table.name) < order.index(name)
