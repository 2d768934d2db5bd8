"""The sensor that tells of runs that have failed."""

import dagster as dg

from flatearth_pipelines import database, mailer
from flatearth_pipelines.alerts import storage
from flatearth_pipelines.alerts.letter import Failed, subject_and_text, summary
from flatearth_pipelines.errors import FlatEarthError
from flatearth_pipelines.message import one_line
from flatearth_pipelines.settings import Settings

_REASON_LENGTH = 500


@dg.run_failure_sensor(
    name="tell_of_failed_runs",
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Mails FLATEARTH_ALERT_EMAIL about a run that failed, at most once an hour for each job. Runs of"
    " `dagster job execute` fail before the eyes of who started them, and are not told of.",
)
def tell_of_failed_runs(context: dg.RunFailureSensorContext) -> None:
    """Tell of one failed run, unless one of its job was told of within the hour."""
    run = context.dagster_run
    reasons = [_reason(event) for event in context.get_step_failure_events()]
    failed = Failed(
        run.job_name, run.run_id, reasons or [one_line(context.failure_event.message or "it ended without a reason")]
    )
    context.log.warning(summary(failed))
    try:
        settings = Settings.from_environment()
        if settings.alert_email is None:
            context.log.warning("Nobody is told: FLATEARTH_ALERT_EMAIL is not set")
            return
        _tell(settings, settings.alert_email, failed)
    except FlatEarthError as error:
        context.log.warning(f"Nobody is told: {error}")


defs = dg.Definitions(sensors=[tell_of_failed_runs])


def _tell(settings: Settings, to: str, failed: Failed) -> None:
    """Send it now: were it left to the queue, nobody would hear of a queue that fails. Only when that fails, too."""
    with database.transaction(settings, "flatearth tell_of_failed_runs") as connection:
        untold = storage.take(connection, f"failed run of {failed.job}")
        if untold is None:
            return
        subject, text = subject_and_text(failed, untold)
        try:
            mailer.send(settings, mailer.text_message(settings, to, subject, text))
        except mailer.MailNotSent:
            storage.mail_later(connection, to, subject, text)


def _reason(event: dg.DagsterEvent) -> str:
    """What the op said, in one line, without the names of exceptions' modules."""
    error = event.step_failure_data.error
    while error is not None and error.cause is not None:
        error = error.cause
    said = one_line(error.message) if error else "it failed"
    name, _, sentence = said.partition(": ")
    is_class = sentence and name.rpartition(".")[2].isidentifier()
    return f"{event.step_key}: {sentence if is_class else said}"[:_REASON_LENGTH]
