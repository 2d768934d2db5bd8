"""A person's data on a board, deleted by a job that the application enqueues as it takes the access away."""

from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import ValidationError

from flatearth_pipelines.cleanup.handlers import REVOKE_BOARD_ACCESS, RevokeBoardAccess
from flatearth_pipelines.handlers import HANDLERS
from flatearth_pipelines.queue.handlers import Guarantee
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.cleanup.boards import NOTHING, OF_EACH, keep, kept
from flatearth_pipelines_tests.cleanup.test_access_storage import UNKNOWN, Office
from flatearth_pipelines_tests.queue.workers import drained

TAKE_AWAY = """
WITH gone AS (DELETE FROM flatearth.accesses WHERE board_id = :board AND user_id = :person)
SELECT flatearth.enqueue_job('revoke_board_access', jsonb_build_object('board_id', :board, 'user_id', :person))
"""
"""As an application in any language does."""


@pytest.fixture
def office(engine: sa.Engine) -> Office:
    """The first person has access to the first board, and keeps things of it."""
    with engine.begin() as connection:
        office = Office(connection)
        make.access(connection, office.boards[0], office.people[0])
        keep(connection, office.boards[0], office.people[0])
        return office


def take_away(connection: sa.Connection, board: int, person: int) -> int:
    """The id of the job."""
    values = {"board": board, "person": person}
    return int(connection.execute(sa.text(TAKE_AWAY), values).scalar_one())


def job(engine: sa.Engine, job_id: int) -> Any:
    with engine.connect() as connection:
        return connection.execute(sa.text(f"SELECT * FROM flatearth.jobs WHERE id = {job_id}")).one()


def test_the_project_has_it_and_it_is_transactional() -> None:
    assert HANDLERS["revoke_board_access"] is REVOKE_BOARD_ACCESS
    assert REVOKE_BOARD_ACCESS.guarantee is Guarantee.TRANSACTIONAL


def test_it_is_enqueued_with_the_access_in_one_transaction_and_deletes_what_the_person_keeps(
    engine: sa.Engine, database: str, office: Office
) -> None:
    board, person = office.boards[0], office.people[0]
    with engine.begin() as connection:
        job_id = take_away(connection, board, person)

    drained(database, HANDLERS)

    ended = job(engine, job_id)
    assert (ended.state, ended.result) == ("succeeded", {"revoked": True, **OF_EACH})
    with engine.connect() as connection:
        assert kept(connection, person) == NOTHING


def test_an_access_whose_end_is_rolled_back_keeps_everything(engine: sa.Engine, database: str, office: Office) -> None:
    board, person = office.boards[0], office.people[0]
    with engine.connect() as connection:
        before = kept(connection, person)
        take_away(connection, board, person)
        connection.rollback()

    drained(database, HANDLERS)

    with engine.connect() as connection:
        assert kept(connection, person) == before


def test_who_was_given_access_again_before_the_job_ran_keeps_everything_and_the_job_has_succeeded(
    engine: sa.Engine, database: str, office: Office
) -> None:
    board, person = office.boards[0], office.people[0]
    with engine.begin() as connection:
        before = kept(connection, person)
        job_id = take_away(connection, board, person)
    with engine.begin() as connection:
        make.access(connection, board, person)

    drained(database, HANDLERS)

    ended = job(engine, job_id)
    reason = f"User {person} has access to board {board}: take that away first"
    assert (ended.state, ended.result) == ("succeeded", {"revoked": False, "reason": reason})
    with engine.connect() as connection:
        assert kept(connection, person) == before


def test_what_can_never_succeed_is_not_tried_again(engine: sa.Engine, database: str, office: Office) -> None:
    with engine.begin() as connection:
        job_id = take_away(connection, office.boards[0], UNKNOWN)

    drained(database, HANDLERS)

    ended = job(engine, job_id)
    assert (ended.state, ended.attempts) == ("failed", 1)
    assert f"There is no user {UNKNOWN}" in ended.last_error


@pytest.mark.parametrize("payload", ["{}", '{"board_id": 1}', '{"board_id": 0, "user_id": 1}', '{"user_id": 1}'])
def test_a_payload_that_does_not_name_both_is_refused(payload: str) -> None:
    with pytest.raises(ValidationError):
        RevokeBoardAccess.model_validate_json(payload)
