"""Transactions that give way."""

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from flatearth_pipelines import tables
from flatearth_pipelines.webhooks.transaction_storage import Contended, attempted, transaction
from flatearth_pipelines_tests import factories as make

SETTINGS = "SELECT current_setting('enable_seqscan'), current_setting('lock_timeout')"


def accounts(engine: sa.Engine) -> int:
    with engine.connect() as connection:
        count: int = connection.execute(sa.select(sa.func.count()).select_from(tables.accounts)).scalar_one()
        return count


def test_what_it_did_is_committed_and_its_settings_are_gone_with_it(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        with transaction(connection):
            make.account(connection)
            assert tuple(connection.execute(sa.text(SETTINGS)).one()) == ("off", "2s")
        assert tuple(connection.execute(sa.text(SETTINGS)).one()) == ("on", "0")

    assert accounts(engine) == 1


@pytest.mark.parametrize("sqlstate", ["40001", "40P01", "23503", "55P03"])
def test_one_that_somebody_was_in_the_way_of_is_contended_and_nothing_of_it_stays(
    engine: sa.Engine, sqlstate: str
) -> None:
    with pytest.raises(Contended) as contended:
        make_an_account_and_fail(engine, sqlstate)

    assert str(contended.value) == "Somebody else was in the way, the next run goes on: in the way"
    assert accounts(engine) == 0


def test_any_other_error_is_left_as_it_is(engine: sa.Engine) -> None:
    with pytest.raises(DBAPIError) as raised:
        make_an_account_and_fail(engine, "23505")

    assert isinstance(raised.value.orig, psycopg.errors.UniqueViolation)
    assert accounts(engine) == 0


def test_it_waits_for_a_lock_but_not_for_ever(engine: sa.Engine, other_engine: sa.Engine) -> None:
    with engine.begin() as connection:
        account_id = make.account(connection)
    lock = sa.select(tables.accounts.c.id).where(tables.accounts.c.id == account_id).with_for_update()
    with other_engine.begin() as somebody:
        somebody.execute(lock)
        with engine.connect() as connection, pytest.raises(Contended, match="lock timeout"), transaction(connection):
            connection.execute(lock)


@pytest.mark.parametrize("failures", [0, 1, 4])
def test_work_that_somebody_was_in_the_way_of_is_done_again_and_what_it_did_before_is_gone(
    engine: sa.Engine, failures: int
) -> None:
    done = list[int]()

    def work() -> str:
        done.append(make.account(connection))
        if len(done) <= failures:
            connection.execute(sa.text("DO $$ BEGIN RAISE 'in the way' USING errcode = '40P01'; END $$"))
        return "done"

    with engine.connect() as connection:
        assert attempted(connection, work) == "done"

    assert (len(done), accounts(engine)) == (failures + 1, 1)


def test_work_is_given_up_when_somebody_was_in_its_way_five_times(engine: sa.Engine) -> None:
    done = list[int]()

    def work() -> None:
        done.append(make.account(connection))
        connection.execute(sa.text("DO $$ BEGIN RAISE 'in the way' USING errcode = '40P01'; END $$"))

    with engine.connect() as connection, pytest.raises(Contended, match="in the way"):
        attempted(connection, work)

    assert (len(done), accounts(engine)) == (5, 0)


def make_an_account_and_fail(engine: sa.Engine, sqlstate: str) -> None:
    with engine.connect() as connection, transaction(connection):
        make.account(connection)
        connection.execute(sa.text(f"DO $$ BEGIN RAISE 'in the way' USING errcode = '{sqlstate}'; END $$"))
