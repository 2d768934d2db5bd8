"""The Dagster job for people who live in the UI, on a real database."""

from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa

from flatearth_pipelines.definitions import defs
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.cleanup.boards import NOTHING, OF_EACH, keep, kept
from flatearth_pipelines_tests.cleanup.runs import log_of
from flatearth_pipelines_tests.cleanup.test_access_storage import UNKNOWN, Office
from flatearth_pipelines_tests.dagster_runs import failure_of, metadata_of


@pytest.fixture
def office(engine: sa.Engine) -> Office:
    with engine.begin() as connection:
        office = Office(connection)
        keep(connection, office.boards[0], office.people[0])
        return office


def execute(instance: dg.DagsterInstance, **config: Any) -> dg.ExecuteInProcessResult:
    return defs.resolve_job_def("revoke_board_access").execute_in_process(
        instance=instance,
        run_config={"ops": {"forget_person_on_board": {"config": config}}},
        raise_on_error=False,
    )


def test_the_run_deletes_it_and_publishes_how_much_and_after_that_there_is_nothing_to_do(
    engine: sa.Engine, instance: dg.DagsterInstance, office: Office
) -> None:
    config = {"board_id": office.boards[0], "user_id": office.people[0]}

    assert metadata_of(execute(instance, **config)) == {**OF_EACH, "deleted": 8, "dry_run": False}
    with engine.connect() as connection:
        assert kept(connection, office.people[0]) == NOTHING
    result = execute(instance, **config)
    assert metadata_of(result)["deleted"] == 0
    assert "Nothing to do: the person keeps nothing on that board" in log_of(instance, result)


def test_a_dry_run_publishes_the_same_numbers_and_deletes_nothing(
    engine: sa.Engine, instance: dg.DagsterInstance, office: Office
) -> None:
    with engine.connect() as connection:
        before = kept(connection, office.people[0])
    result = execute(instance, board_id=office.boards[0], user_id=office.people[0], dry_run=True)

    assert metadata_of(result) == {**OF_EACH, "deleted": 8, "dry_run": True}
    with engine.connect() as connection:
        assert kept(connection, office.people[0]) == before


def test_who_has_access_is_refused_in_one_line(engine: sa.Engine, instance: dg.DagsterInstance, office: Office) -> None:
    board, person = office.boards[0], office.people[0]
    with engine.begin() as connection:
        make.access(connection, board, person)
    said = failure_of(execute(instance, board_id=board, user_id=person))
    assert said == f"User {person} has access to board {board}: take that away first"


def test_without_both_names_the_run_fails_in_one_line(instance: dg.DagsterInstance, office: Office) -> None:
    for config in ({}, {"board_id": office.boards[0]}, {"user_id": office.people[0]}):
        assert failure_of(execute(instance, **config)) == "Name the board and the person: board_id and user_id"
    assert failure_of(execute(instance, board_id=UNKNOWN, user_id=1)) == f"There is no board {UNKNOWN}"
