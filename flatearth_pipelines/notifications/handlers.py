"""Queue handlers: any email that an application wants sent, and the delivery of one bundle."""

import functools
from datetime import timedelta

from pydantic import Field
from sqlalchemy import Engine

from flatearth_pipelines import database
from flatearth_pipelines.errors import NotFound, WrongUsage
from flatearth_pipelines.mailer import Fate, MailNotSent
from flatearth_pipelines.notifications import suppression_storage
from flatearth_pipelines.notifications.bundle_storage import read_one
from flatearth_pipelines.notifications.delivery import Delivery, Options
from flatearth_pipelines.notifications.letter import message_id
from flatearth_pipelines.notifications.mail_payload import SendEmail
from flatearth_pipelines.notifications.transport import KEPT_LINES
from flatearth_pipelines.queue.backoff import Listed
from flatearth_pipelines.queue.functions import enqueue_job
from flatearth_pipelines.queue.handlers import Context, Handler, Payload, Refused, Registry, Result
from flatearth_pipelines.settings import Settings

_WAITS = Listed(
    (
        timedelta(seconds=10),
        timedelta(minutes=1),
        timedelta(minutes=5),
        timedelta(minutes=15),
        timedelta(hours=1),
        timedelta(hours=4),
        timedelta(hours=12),
    )
)

_SESSIONS = 4


def send_email(context: Context, payload: SendEmail) -> Result:
    """Send an email: a text, with HTML and attachments, or a template with its data.

    A server that does not want it now is asked again; one that says that nobody is there has the address suppressed,
    and nothing is sent to it any more. A crash between sending and recording sends it twice, with one Message-ID.
    """
    settings = Settings.from_environment()
    try:
        message = payload.message(settings.mail_from, message_id("job", context.job_id, settings.mail_from))
    except WrongUsage as error:
        raise Refused(str(error)) from None
    engine = _engine(database.connection_string(settings))
    with engine.connect() as connection:
        suppressed = suppression_storage.is_suppressed(connection, message.recipient)
    if suppressed:
        return {"sent": False, "reason": "suppressed"}
    with KEPT_LINES.line(settings) as line:
        answer = line.send(message)
    if answer.fate is Fate.LATER:
        raise MailNotSent(f"{line.where} did not take the mail: {answer.said}")
    if answer.fate is Fate.NOBODY:
        with engine.begin() as connection:
            suppression_storage.suppress(connection, [(message.recipient, answer.said)], "smtp")
    if answer.fate is not Fate.TAKEN:
        raise Refused(f"{line.where} refused the mail: {answer.said}")
    return {"sent": True, "message_id": message.message_id}


class DeliverBundle(Payload):
    """Which bundle."""

    bundle_id: int = Field(gt=0, lt=2**63)


def deliver_bundle(context: Context, payload: DeliverBundle) -> Result:
    """Deliver one bundle if its window is over; if it is not yet, look again when it is.

    What a server does not want now waits for the bundle's own next attempt; the job has done its part.
    """
    settings = Settings.from_environment()
    with _engine(database.connection_string(settings)).connect() as connection:
        try:
            with connection.begin():
                bundle = read_one(connection, payload.bundle_id)
                due = bundle["due_at"] <= database.now(connection)
                if bundle["status"] == "pending" and not due:
                    enqueue_job(
                        connection,
                        Registry([DELIVER_BUNDLE]),
                        DELIVER_BUNDLE.name,
                        payload.model_dump(),
                        run_at=bundle["due_at"],
                        job_key=f"{DELIVER_BUNDLE.name} {payload.bundle_id}",
                        on_conflict="replace",
                        account_id=context.account_id,
                    )
            if bundle["status"] == "pending" and due:
                Delivery(connection, settings, Options(connections=1)).run([payload.bundle_id])
                with connection.begin():
                    bundle = read_one(connection, payload.bundle_id)
        except NotFound as error:
            raise Refused(str(error)) from None
    if bundle["status"] == "failed":
        raise Refused(bundle["last_error"])
    return {"status": bundle["status"], "outcome": bundle["outcome"], "due_at": bundle["due_at"].isoformat()}


@functools.lru_cache(maxsize=2)
def _engine(conninfo: str) -> Engine:
    """Sessions of this process, kept from job to job."""
    return database.engine(conninfo, "flatearth mail", connections=_SESSIONS)


SEND_EMAIL = Handler("send_email", SendEmail, send_email, max_attempts=8, backoff=_WAITS)

DELIVER_BUNDLE = Handler("deliver_bundle", DeliverBundle, deliver_bundle)
