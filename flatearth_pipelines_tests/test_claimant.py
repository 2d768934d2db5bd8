import uuid

import pytest
import sqlalchemy as sa

from flatearth_pipelines.claimant import claimant

_IS_FREE = sa.text("SELECT pg_try_advisory_xact_lock(hashtextextended(CAST(:claim AS text), 0))")


def _is_free(engine: sa.Engine, claim: uuid.UUID) -> bool:
    with engine.begin() as connection:
        return bool(connection.execute(_IS_FREE, {"claim": claim}).scalar_one())


def test_a_token_is_alive_until_its_block_ends(engine: sa.Engine, other_engine: sa.Engine) -> None:
    with engine.connect() as connection:
        with claimant(connection) as claim:
            assert not _is_free(other_engine, claim)
        assert _is_free(other_engine, claim)


def test_a_token_ends_with_its_session_and_the_end_of_its_block_is_none_the_worse(
    engine: sa.Engine, other_engine: sa.Engine
) -> None:
    with engine.connect() as connection, claimant(connection) as claim:
        with connection.begin():
            pid = connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()
        with other_engine.begin() as somebody:
            ended = sa.text("SELECT pg_terminate_backend(:pid, 10000)")
            assert somebody.execute(ended, {"pid": pid}).scalar_one()
        assert _is_free(other_engine, claim)


def test_an_error_in_the_block_is_passed_on_and_frees_the_token(engine: sa.Engine, other_engine: sa.Engine) -> None:
    claims: list[uuid.UUID] = []

    def fail() -> None:
        with engine.connect() as connection, claimant(connection) as claim:
            claims.append(claim)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()

    assert _is_free(other_engine, claims[0])


def test_two_tokens_are_not_the_same(engine: sa.Engine, other_engine: sa.Engine) -> None:
    with (
        engine.connect() as connection,
        other_engine.connect() as other,
        claimant(connection) as mine,
        claimant(other) as theirs,
    ):
        assert mine != theirs
