"""What was seen, as Prometheus names it."""

from collections.abc import Iterator, Mapping

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from flatearth_pipelines.metrics.storage import Runs, Seen

_PREFIX = "flatearth_"


def families(seen: Seen | None) -> Iterator[Metric]:
    """Every metric; of a database that cannot be reached only `flatearth_up`, which is 0."""
    yield _one("up", "Whether Postgres answers.", float(seen is not None))
    if seen is None:
        return
    queue = dict(seen.queue)
    yield _one("queue_oldest_wait_seconds", "For how long a job has been due.", queue.pop("oldest_wait_seconds") or 0.0)
    yield _one("queue_finished_per_minute", "Jobs, over five minutes.", queue.pop("finished_per_minute"))
    yield _several("queue_jobs", "Jobs of the queue.", "state", queue)
    waiting = {"notifications": seen.events_for_notifications, "webhooks": seen.events_for_webhooks}
    yield _several("events_waiting", "Events that nobody has looked at yet.", "consumer", waiting)
    yield _several("bundles", "Windows of notifications.", "state", seen.bundles)
    deliveries = {state: count for state, count in seen.deliveries.items() if not state.startswith("endpoints_")}
    endpoints = {
        state.removeprefix("endpoints_"): seen.deliveries[state] for state in seen.deliveries.keys() - deliveries
    }
    yield _several("webhook_deliveries", "Deliveries that have not ended.", "state", deliveries)
    yield _several("webhook_endpoints", "Endpoints that are left alone for a while, or for good.", "state", endpoints)
    overdue = {"bundles": seen.bundles_overdue, "webhook_deliveries": seen.deliveries_overdue}
    yield _several("overdue_seconds", "For how long the oldest has been due.", "what", overdue)
    yield _last("run_last_success_timestamp_seconds", "When a run of the job last succeeded.", seen.runs, "succeeded")
    yield _last("run_last_failure_timestamp_seconds", "When a run of the job last failed.", seen.runs, "failed")


def _one(name: str, help_: str, value: float) -> Metric:
    return GaugeMetricFamily(_PREFIX + name, help_, value=value)


def _several(name: str, help_: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(_PREFIX + name, help_, labels=[label])
    for key, value in sorted(values.items()):
        family.add_metric([key], value)
    return family


def _last(name: str, help_: str, runs: list[Runs], which: str) -> Metric:
    at = {each.job: getattr(each, which) for each in runs}
    return _several(name, help_, "job", {job: seconds for job, seconds in at.items() if seconds is not None})
