import hashlib
import shutil
from pathlib import Path

import psycopg
import pytest

from flatearth_pipelines import migrate, schema
from flatearth_pipelines.errors import WrongSchema
from flatearth_pipelines.schema import Step

NAMES = [path.stem for path in sorted(schema.directory().glob("*.sql")) if not path.stem.endswith(".rollback")]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the migrations, which is what the code has in this test."""
    copy = tmp_path / "migrations"
    shutil.copytree(schema.directory(), copy)
    monkeypatch.setattr(schema, "directory", lambda: copy)
    return copy


def test_the_migrations_are_numbered_without_a_gap() -> None:
    assert [int(name[:4]) for name in NAMES] == list(range(1, len(NAMES) + 1))


@pytest.mark.parametrize("name", NAMES)
def test_every_migration_has_its_rollback(name: str) -> None:
    assert (schema.directory() / f"{name}.rollback.sql").is_file()


def test_on_an_empty_database_everything_is_pending(empty_database: str) -> None:
    with psycopg.connect(empty_database) as connection:
        assert schema.status(connection) == [Step(name, "pending") for name in NAMES]
        assert schema.pending(connection) == NAMES
        assert schema.applied(connection) == {}


def test_asking_an_empty_database_leaves_it_empty(empty_database: str) -> None:
    with psycopg.connect(empty_database) as connection:
        schema.status(connection)
        assert connection.execute("select to_regnamespace('flatearth')").fetchone() == (None,)


def test_after_migrating_everything_is_applied(database: str) -> None:
    with psycopg.connect(database) as connection:
        assert schema.status(connection) == [Step(name, "applied") for name in NAMES]
        assert schema.pending(connection) == []
        schema.verify(connection)


def test_after_rolling_one_back_that_one_is_pending(database: str) -> None:
    with psycopg.connect(database) as connection:
        migrate.roll_back(connection)
        assert schema.status(connection)[-1] == Step(NAMES[-1], "pending")
        assert schema.pending(connection) == NAMES[-1:]


def test_an_edited_file_is_edited_also_by_a_single_space(database: str, files: Path) -> None:
    with (files / f"{NAMES[0]}.sql").open("a") as file:
        file.write(" ")
    with psycopg.connect(database) as connection:
        assert schema.status(connection)[0] == Step(NAMES[0], "edited")


def test_an_edited_rollback_is_nobodys_business(database: str, files: Path) -> None:
    with (files / f"{NAMES[0]}.rollback.sql").open("a") as file:
        file.write("\n-- mended\n")
    with psycopg.connect(database) as connection:
        assert schema.status(connection) == [Step(name, "applied") for name in NAMES]


def test_what_the_code_does_not_have_is_unknown(database: str, files: Path) -> None:
    (files / f"{NAMES[-1]}.sql").unlink()
    with psycopg.connect(database) as connection:
        assert schema.status(connection)[-1] == Step(NAMES[-1], "unknown")


def test_a_new_file_is_pending(database: str, files: Path) -> None:
    (files / "9999_more.sql").write_text("select 1;\n")
    with psycopg.connect(database) as connection:
        assert schema.pending(connection) == ["9999_more"]


def test_a_database_that_lacks_a_migration_is_refused_in_one_line_that_says_what_to_run(
    database: str, files: Path
) -> None:
    (files / "9999_more.sql").write_text("select 1;\n")
    with (
        psycopg.connect(database) as connection,
        pytest.raises(WrongSchema, match=r"^[^\n]*9999_more[^\n]*flatearth db migrate[^\n]*$"),
    ):
        schema.verify(connection)


def test_a_database_further_than_the_code_is_refused_in_one_line_that_names_the_migration(
    database: str, files: Path
) -> None:
    (files / f"{NAMES[-1]}.sql").unlink()
    with (
        psycopg.connect(database) as connection,
        pytest.raises(WrongSchema, match=rf"^[^\n]*further than this code \({NAMES[-1]}[^\n]*$"),
    ):
        schema.verify(connection)


def test_the_checksum_is_sha_256_of_the_files_bytes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"select 1;\r\n")
    assert schema.checksum(path) == hashlib.sha256(b"select 1;\r\n").hexdigest()


@pytest.mark.parametrize("before", [False, True])
def test_autocommit_lasts_as_long_as_the_block(empty_database: str, before: bool) -> None:  # noqa: FBT001
    with psycopg.connect(empty_database, autocommit=before) as connection:
        with schema.autocommit(connection):
            assert connection.autocommit
        assert connection.autocommit == before


def test_autocommit_survives_a_connection_that_breaks_off_inside(empty_database: str) -> None:
    with psycopg.connect(empty_database) as connection, schema.autocommit(connection):
        connection.close()
