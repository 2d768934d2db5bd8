"""Whom the morning mail is for, and that nobody gets it twice."""

from typing import Any

import pytest
import sqlalchemy as sa

from flatearth_pipelines import tables
from flatearth_pipelines.reports import morning_storage
from flatearth_pipelines.reports.metrics import METRICS
from flatearth_pipelines.reports.morning_storage import Mail
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.factories import DAY
from flatearth_pipelines_tests.reports.office import TODAY, Office


@pytest.fixture
def office(connection: sa.Connection) -> Office:
    """With two rows of the day: its own, and that of its board."""
    office = Office(connection, name="Acme")
    write(connection, office, board_id=None, active_people=2, bundles_mailed=3)
    write(connection, office, board_id=office.board, active_people=2, comments=4)
    return office


def write(connection: sa.Connection, office: Office, **values: Any) -> None:
    row = sa.insert(tables.daily_reports).values(day=TODAY, account_id=office.account, **values)
    connection.execute(row)


def readers(connection: sa.Connection, office: Office) -> list[int]:
    return [each["user_id"] for each in morning_storage.read_readers(connection, TODAY, office.account)]


def test_a_reader_is_told_the_sum_over_the_account_s_rows_with_every_person_once(
    connection: sa.Connection, office: Office
) -> None:
    (reader,) = morning_storage.read_readers(connection, TODAY, office.account)

    told = {name: reader[name] for name in METRICS}
    assert told == dict.fromkeys(METRICS, 0) | {"active_people": 2, "bundles_mailed": 3, "comments": 4}
    assert (reader["account"], reader["user_id"]) == ("Acme", office.owner)


def test_every_owner_with_an_address_reads_it_and_nobody_else(connection: sa.Connection, office: Office) -> None:
    second = make.user(connection, office.account, "owner")
    make.user(connection, office.account, "admin")
    make.user(connection, office.account, "owner", active=False)
    make.user(connection, office.account, "owner", email=None)
    assert readers(connection, office) == [office.owner, second]


def test_who_wants_no_email_notifications_does_not_read_it(connection: sa.Connection, office: Office) -> None:
    make.settings(connection, office.owner, "never")
    weekly = make.user(connection, office.account, "owner")
    make.settings(connection, weekly, "weekly")
    assert readers(connection, office) == [weekly]


def test_nobody_reads_of_a_cancelled_account(connection: sa.Connection, office: Office) -> None:
    connection.execute(
        sa.update(tables.accounts).where(tables.accounts.c.id == office.account).values(cancelled_at=sa.func.now())
    )
    assert readers(connection, office) == []


def test_nobody_reads_of_a_day_when_nothing_happened(connection: sa.Connection, office: Office) -> None:
    assert morning_storage.read_readers(connection, TODAY - DAY, office.account) == []
    assert morning_storage.read_readers(connection, TODAY + DAY, office.account) == []


def test_without_an_account_the_owners_of_all_read_it(connection: sa.Connection, office: Office) -> None:
    other = Office(connection)
    write(connection, other, board_id=None, bundles_mailed=1)
    assert [each["user_id"] for each in morning_storage.read_readers(connection, TODAY, None)] == [
        office.owner,
        other.owner,
    ]


def test_a_mail_about_a_day_is_enqueued_once_for_each_person_and_day(connection: sa.Connection) -> None:
    mails = [Mail(user_id, f"person{user_id}@acme.example", "A day", "It went well") for user_id in (1, 2)]
    for day in (TODAY, TODAY, TODAY + DAY):
        morning_storage.enqueue_mails(connection, day, mails)

    jobs = connection.execute(sa.text("SELECT handler, payload FROM flatearth.jobs ORDER BY id")).all()

    assert [job.handler for job in jobs] == ["send_email"] * 4
    assert jobs[0].payload == {"to": "person1@acme.example", "subject": "A day", "text": "It went well"}


def test_more_mails_than_a_call_takes_are_enqueued_too(connection: sa.Connection) -> None:
    mails = [Mail(number, "ada@acme.example", "A day", "It went well") for number in range(1_001)]
    morning_storage.enqueue_mails(connection, TODAY, mails)
    assert connection.execute(sa.text("SELECT count(*) FROM flatearth.jobs")).scalar_one() == 1_001


def test_no_mails_are_no_jobs(connection: sa.Connection) -> None:
    morning_storage.enqueue_mails(connection, TODAY, [])
    assert connection.execute(sa.text("SELECT count(*) FROM flatearth.jobs")).scalar_one() == 0
