"""The queue handler that mails owners what the day before came to.

A handler, and no job of Dagster's: who wants the mail, at which hour of which zone, is an account's own choice, which
a cron job of the queue holds. Without one nobody gets it.
"""

from datetime import timedelta

from pydantic import Field

from flatearth_pipelines import database
from flatearth_pipelines.queue.handlers import Context, Guarantee, Handler, Payload, Refused, Result
from flatearth_pipelines.reports import morning_storage
from flatearth_pipelines.reports.days import yesterday
from flatearth_pipelines.reports.morning import letter
from flatearth_pipelines.settings import Settings


class MorningReport(Payload):
    """Whose owners; None for those of all accounts."""

    account_id: int | None = Field(default=None, gt=0, lt=2**63)


def morning_report(context: Context, payload: MorningReport) -> Result:
    """Mail every owner what the day before, in UTC, came to in their account; nobody where nothing happened.

    The mails are jobs `send_email`, enqueued exactly once: whoever runs this again on the same day sends none.
    """
    if payload.account_id and context.account_id not in {None, payload.account_id}:
        raise Refused(f"There is no account {payload.account_id} in account {context.account_id}")
    day = yesterday(database.now(context.connection))
    url = Settings.from_environment().public_url
    readers = morning_storage.read_readers(context.connection, day, payload.account_id or context.account_id)
    mails = [
        morning_storage.Mail(reader["user_id"], reader["email"], *letter(reader["account"], day, reader, url))
        for reader in readers
    ]
    morning_storage.enqueue_mails(context.connection, day, mails)
    return {"day": day.isoformat(), "readers": len(readers)}


MORNING_REPORT = Handler(
    "morning_report", MorningReport, morning_report, Guarantee.TRANSACTIONAL, timeout=timedelta(minutes=5)
)
