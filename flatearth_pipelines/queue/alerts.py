"""Telling somebody of dead jobs."""

from flatearth_pipelines.queue.storage import Alert


def alert_text(alert: Alert) -> tuple[str, str]:
    """Subject and text of the mail about the dead jobs of a handler."""
    many = f"{alert.jobs:,} jobs" if alert.jobs > 1 else "A job"
    ids = ", ".join(map(str, alert.first_ids)) + (" and more" if alert.jobs > len(alert.first_ids) else "")
    text = f"""\
{many} of the handler {alert.handler} died, the first at {alert.since:%Y-%m-%d %H:%M:%S} UTC, and will not run again
by {"themselves" if alert.jobs > 1 else "itself"}.

Jobs: {ids}
Newest error: {alert.newest_error}

See them:     flatearth jobs list --state failed --handler {alert.handler}
Run one again: flatearth jobs retry {alert.first_ids[0]}

Of this handler there will be no other mail within an hour.
"""
    return f"{many} of {alert.handler} died", text


def summary(alert: Alert) -> str:
    """In one line, for the log."""
    return f"{alert.jobs:,} of {alert.handler} died: {alert.newest_error}"
