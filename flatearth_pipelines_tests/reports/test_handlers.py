"""The morning mail as the queue sends it."""

from datetime import UTC, date
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import ValidationError

from flatearth_pipelines import database as db
from flatearth_pipelines import tables
from flatearth_pipelines.handlers import HANDLERS
from flatearth_pipelines.queue.functions import enqueue_job
from flatearth_pipelines.queue.handlers import Context, Guarantee, Refused
from flatearth_pipelines.reports.days import yesterday
from flatearth_pipelines.reports.handlers import MORNING_REPORT, MorningReport
from flatearth_pipelines_tests.queue.workers import drained
from flatearth_pipelines_tests.reports.office import Office


def office_with_a_day(connection: sa.Connection) -> Office:
    """Where four comments were written yesterday."""
    office = Office(connection, name="Acme")
    values = {"day": yesterday(db.now(connection)), "account_id": office.account, "board_id": office.board}
    connection.execute(sa.insert(tables.daily_reports).values(comments=4, **values))
    return office


def run(connection: sa.Connection, account_id: int | None, of_the_job: int | None = None) -> Any:
    context = Context(1, 1, of_the_job, lambda *_: None)
    context.lend(connection)
    return MORNING_REPORT.run(context, MorningReport(account_id=account_id))


def test_it_is_transactional_and_takes_an_account_or_none() -> None:
    assert HANDLERS["morning_report"] is MORNING_REPORT
    assert MORNING_REPORT.guarantee is Guarantee.TRANSACTIONAL
    assert MorningReport.model_validate({}).account_id is None
    for wrong in ({"account_id": 0}, {"account_id": 2**63}, {"day": "2026-11-22"}):
        with pytest.raises(ValidationError):
            MorningReport.model_validate(wrong)


def test_it_is_about_the_day_before_in_utc(connection: sa.Connection) -> None:
    office = office_with_a_day(connection)
    day: date = yesterday(db.now(connection).astimezone(UTC))
    assert run(connection, office.account) == {"day": day.isoformat(), "readers": 1}


def test_a_job_of_an_account_mails_the_owners_of_that_account_only(connection: sa.Connection) -> None:
    ours, _ = office_with_a_day(connection), office_with_a_day(connection)
    assert run(connection, None, of_the_job=ours.account)["readers"] == 1
    assert run(connection, ours.account, of_the_job=ours.account)["readers"] == 1
    assert run(connection, None)["readers"] == 2


def test_a_job_of_an_account_may_not_name_another_one(connection: sa.Connection) -> None:
    ours, theirs = office_with_a_day(connection), office_with_a_day(connection)
    with pytest.raises(Refused, match=rf"^There is no account {theirs.account} in account {ours.account}$"):
        run(connection, theirs.account, of_the_job=ours.account)


def test_the_owner_gets_one_mail_however_often_it_runs_on_a_day(
    engine: sa.Engine, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLATEARTH_SMTP_URL", f"file:{tmp_path}")
    with engine.begin() as connection:
        office = office_with_a_day(connection)
        query = sa.select(tables.users.c.email).where(tables.users.c.id == office.owner)
        address = connection.execute(query).scalar_one()
    for _ in range(2):
        with engine.begin() as connection:
            enqueue_job(connection, HANDLERS, "morning_report")
        drained(database, HANDLERS)

    (file,) = tmp_path.rglob("*.eml")
    mail = message_from_bytes(file.read_bytes(), policy=policy.default)
    assert mail["To"] == address
    assert mail["Subject"].startswith("Acme on ")
    body = mail.get_body(("plain",))
    assert body is not None
    assert "\n  4 comments\n" in body.get_content()
