from pathlib import Path

import pytest
import sqlalchemy as sa

from flatearth_pipelines import database as db
from flatearth_pipelines import tables
from flatearth_pipelines.errors import FlatEarthError
from flatearth_pipelines.launch import run_job
from flatearth_pipelines.settings import Settings
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.factories import DAY


def test_a_run_through_dagster_comes_back_with_what_it_said(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLATEARTH_HOME", str(tmp_path))
    pool = db.engine(database, "tests")
    with pool.begin() as connection:
        account_id = make.account(connection)
        make.user(connection, account_id, "owner")
        board_id = make.board(connection, account_id, name="Roadmap")
        made = make.card(connection, board_id)
        long_ago = sa.func.now() - 31 * DAY
        connection.execute(sa.update(tables.cards).where(tables.cards.c.id == made).values(last_active_at=long_ago))
    pool.dispose()

    done = run_job(Settings.from_environment(), "auto_postpone")

    assert done["postponed"] == 1
    assert done["boards_with_most_postponed"] == [{"board": board_id, "name": "Roadmap", "postponed": 1}]
    assert "RUN_SUCCESS" in (tmp_path / "logs" / "auto_postpone.log").read_text()


def test_a_run_that_fails_names_the_log_that_says_why(
    empty_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del empty_database
    monkeypatch.setenv("FLATEARTH_HOME", str(tmp_path))
    with pytest.raises(FlatEarthError, match=r"auto_postpone failed: see .*auto_postpone\.log"):
        run_job(Settings.from_environment(), "auto_postpone")
    assert "The database is not migrated" in (tmp_path / "logs" / "auto_postpone.log").read_text()
