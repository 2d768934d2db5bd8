"""The rows of files: which are held in which order, and which objects have none."""

import sqlalchemy as sa

from flatearth_pipelines import tables
from flatearth_pipelines.cleanup.file_storage import OldFile, delete_files, hold_old_files, without_row
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.factories import DAY, MICROSECOND, NOON

A_MONTH_AGO = NOON - 30 * DAY


def test_a_file_of_exactly_30_days_is_left_out_and_one_a_microsecond_older_is_held(connection: sa.Connection) -> None:
    account = make.account(connection)
    make.file(connection, account, "files/exactly", 30 * DAY)
    old = make.file(connection, account, "files/old", 30 * DAY + MICROSECOND)

    created_at = (A_MONTH_AGO - MICROSECOND).isoformat()
    assert hold_old_files(connection, A_MONTH_AGO, None, 10) == [OldFile(old, "files/old", created_at)]


def test_they_come_oldest_first_and_those_of_one_instant_by_id_and_none_is_passed_over_or_seen_twice(
    connection: sa.Connection,
) -> None:
    account = make.account(connection)
    ages = [40, 40, 50, 40, 31, 60]
    ids = [make.file(connection, account, f"files/{number}", age * DAY) for number, age in enumerate(ages)]
    order = [ids[place] for place in (5, 2, 0, 1, 3, 4)]

    for most in (1, 2, 3, 4):
        seen: list[int] = []
        last = None
        while held := hold_old_files(connection, A_MONTH_AGO, last, most):
            seen += [file.id for file in held]
            last = held[-1]
        assert seen == order


def test_a_file_that_somebody_holds_is_left_out(engine: sa.Engine, other_engine: sa.Engine) -> None:
    with engine.begin() as connection:
        account = make.account(connection)
        held, other = (make.file(connection, account, f"files/{name}") for name in "ab")
    with other_engine.connect() as somebody, engine.connect() as connection:
        somebody.execute(sa.text("SELECT FROM flatearth.files WHERE id = :id FOR UPDATE"), {"id": held})
        assert [file.id for file in hold_old_files(connection, A_MONTH_AGO, None, 10)] == [other]


def test_what_is_held_is_held_until_the_transaction_ends(engine: sa.Engine, other_engine: sa.Engine) -> None:
    with engine.begin() as connection:
        make.file(connection, make.account(connection), "files/a")
    with engine.connect() as connection, other_engine.connect() as somebody:
        assert len(hold_old_files(connection, A_MONTH_AGO, None, 10)) == 1
        assert hold_old_files(somebody, A_MONTH_AGO, None, 10) == []


def test_only_the_named_rows_are_deleted(connection: sa.Connection) -> None:
    account = make.account(connection)
    first, second = (make.file(connection, account, f"files/{name}") for name in "ab")
    assert delete_files(connection, [first, first + 1_000_000]) == 1
    assert delete_files(connection, []) == 0
    assert connection.execute(sa.select(tables.files.c.id)).scalars().all() == [second]


def test_a_key_has_a_row_also_when_that_says_it_with_a_slash_at_either_end(connection: sa.Connection) -> None:
    account = make.account(connection)
    for key in ("files/a", "/files/b", "files/c/", "/files/d/"):
        make.file(connection, account, key)

    asked = ["files/a", "files/b", "files/c", "files/d", "files/e", "files/A", "files/a/a"]
    assert sorted(without_row(connection, asked)) == ["files/A", "files/a/a", "files/e"]
