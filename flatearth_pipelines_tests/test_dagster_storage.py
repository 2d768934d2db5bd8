import os
import shutil
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import make_conninfo

from flatearth_pipelines.dagster_storage import dagster_url

ROOT = Path(__file__).parents[1]

OPEN = "from dagster import DagsterInstance\nwith DagsterInstance.get() as instance: print(instance.get_runs_count())"
"""A program that opens Dagster's storage, as each of Dagster's own does first of all."""

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1)


@pytest.fixture
def dagster_home(tmp_path: Path) -> Path:
    """A home with the project's dagster.yaml, so that nothing is written into the checkout."""
    shutil.copy(ROOT / "dagster.yaml", tmp_path)
    return tmp_path


@pytest.fixture
def session(empty_database: str) -> Generator[psycopg.Connection]:
    with psycopg.connect(empty_database, autocommit=True) as connection:
        yield connection


def test_four_processes_at_once_on_an_empty_database_all_succeed(
    session: psycopg.Connection, dagster_home: Path
) -> None:
    processes = [_opening(dagster_home) for _ in range(4)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, outputs
    assert [out for out, _ in outputs] == ["0\n"] * 4
    in_schema = (
        "select table_schema, count(*) > 10 from information_schema.tables where table_schema = any(%s) group by 1"
    )
    mine = ["dagster", "flatearth", "public"]
    assert session.execute(in_schema, [mine]).fetchall() == [("dagster", True)], "and in no other schema"
    session.execute("insert into dagster.runs (run_id, status, run_body) values ('one', 'SUCCESS', '{}')")
    assert _opened(dagster_home) == "1\n", "a later one finds what is there"


def test_a_database_that_is_not_there_is_said_without_the_password(
    dagster_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLATEARTH_DATABASE_URL", "postgresql://ada:hunter2@127.0.0.1:1/earth")
    with _opening(dagster_home) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "Postgres cannot be reached" in err
    assert "hunter2" not in out + err


# The URL


def test_the_url_connects_with_the_schema_and_ones_own_options(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("create schema dagster")
    conninfo = make_conninfo(database, options="-c statement_timeout=1234", application_name="a b'c")
    engine = sa.create_engine(dagster_url(conninfo))
    with engine.connect() as connection:
        query = "select current_schema(), current_setting('statement_timeout'), current_setting('application_name')"
        assert connection.execute(sa.text(query)).one() == ("dagster", "1234ms", "a b'c")
        assert connection.dialect.driver == "psycopg2"
    engine.dispose()


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "user": TEXT,
            "password": TEXT,
            "dbname": TEXT,
            "host": st.sampled_from(["localhost", "db.example", "::1", "/var/run/postgresql", "/srv/a b/ü"]),
            "port": st.integers(1, 65535).map(str),
            "application_name": TEXT,
            "sslmode": st.sampled_from(["disable", "require"]),
        },
    )
)
def test_everything_that_libpq_would_get_reaches_psycopg2(parameters: dict[str, str]) -> None:
    url = sa.make_url(dagster_url(make_conninfo(**parameters)))
    arguments, keywords = url.get_dialect()().create_connect_args(url)
    reached = {key: str(value) for key, value in keywords.items()}
    assert arguments in ([], ["dsn="], [""])
    assert reached == parameters | {"options": "-c search_path=dagster"}


def test_ones_own_options_stand_before_the_schema() -> None:
    url = sa.make_url(dagster_url("options='-c work_mem=8MB -c geqo=off'"))
    assert url.query["options"] == "-c work_mem=8MB -c geqo=off -c search_path=dagster"


def test_the_url_of_several_hosts_keeps_them_and_their_order() -> None:
    url = sa.make_url(dagster_url("host=a,b port=1,2 dbname=earth"))
    _, keywords = url.get_dialect()().create_connect_args(url)
    assert (keywords["host"], str(keywords["port"])) == ("a,b", "1,2")


def _opening(home: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", OPEN],
        cwd=home,
        env={**os.environ, "DAGSTER_HOME": str(home), "PWD": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _opened(home: Path) -> str:
    with _opening(home) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out
