"""Somebody is told when a run fails: `FLATEARTH_ALERT_EMAIL`, at most once an hour for each job.

Dead jobs of the queue and disabled webhooks are told of by those features themselves.
"""
