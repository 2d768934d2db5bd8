"""What was seen, as Prometheus reads it; and what is in docs/monitoring speaks of nothing else."""

import json
import re
from collections.abc import Mapping

import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from flatearth_pipelines.metrics.exposition import families
from flatearth_pipelines.metrics.storage import Runs, Seen
from flatearth_pipelines_tests.conftest import ROOT

SEEN = Seen(
    queue={
        "waiting": 3,
        "scheduled": 2,
        "running": 1,
        "dead": 4,
        "oldest_wait_seconds": 12.5,
        "finished_per_minute": 0.4,
    },
    events_for_notifications=7,
    events_for_webhooks=8,
    bundles={"waiting": 5, "due": 6, "processing": 0},
    bundles_overdue=1.5,
    deliveries={"waiting": 9, "in_progress": 10, "endpoints_open": 11, "endpoints_disabled": 12},
    deliveries_overdue=0.0,
    runs=[Runs("auto_postpone", 1_790_000_000.5, None), Runs("daily_report", None, 1_790_000_001.0)],
)

MONITORING = ROOT / "docs" / "monitoring"
FILES = ("README.md", "alerts.yml", "dashboard.json")


class _Of(Collector):
    def __init__(self, seen: Seen | None) -> None:
        self._seen = seen

    def collect(self) -> list[Metric]:
        return list(families(self._seen))


def exposed(seen: Seen | None) -> Mapping[str, float]:
    """Each sample with its value."""
    registry = CollectorRegistry()
    registry.register(_Of(seen))
    lines = generate_latest(registry).decode().splitlines()
    samples = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in samples}


def test_everything_that_was_seen_has_its_name() -> None:
    assert exposed(SEEN) == {
        "flatearth_up": 1,
        "flatearth_queue_oldest_wait_seconds": 12.5,
        "flatearth_queue_finished_per_minute": 0.4,
        'flatearth_queue_jobs{state="dead"}': 4,
        'flatearth_queue_jobs{state="running"}': 1,
        'flatearth_queue_jobs{state="scheduled"}': 2,
        'flatearth_queue_jobs{state="waiting"}': 3,
        'flatearth_events_waiting{consumer="notifications"}': 7,
        'flatearth_events_waiting{consumer="webhooks"}': 8,
        'flatearth_bundles{state="due"}': 6,
        'flatearth_bundles{state="processing"}': 0,
        'flatearth_bundles{state="waiting"}': 5,
        'flatearth_webhook_deliveries{state="in_progress"}': 10,
        'flatearth_webhook_deliveries{state="waiting"}': 9,
        'flatearth_webhook_endpoints{state="disabled"}': 12,
        'flatearth_webhook_endpoints{state="open"}': 11,
        'flatearth_overdue_seconds{what="bundles"}': 1.5,
        'flatearth_overdue_seconds{what="webhook_deliveries"}': 0,
        'flatearth_run_last_success_timestamp_seconds{job="auto_postpone"}': 1_790_000_000.5,
        'flatearth_run_last_failure_timestamp_seconds{job="daily_report"}': 1_790_000_001,
    }


def test_a_queue_in_which_nothing_waits_has_waited_for_no_time() -> None:
    nothing = SEEN._replace(queue=dict(SEEN.queue) | {"oldest_wait_seconds": None})
    assert exposed(nothing)["flatearth_queue_oldest_wait_seconds"] == 0


def test_of_a_database_that_is_away_there_is_nothing_but_that() -> None:
    assert exposed(None) == {"flatearth_up": 0}


def names(text: str) -> set[str]:
    return set(re.findall(r"flatearth_\w+", text))


def test_the_documentation_lists_what_is_served_and_nothing_else() -> None:
    served = {sample.partition("{")[0] for sample in exposed(SEEN)}
    told = {file: names((MONITORING / file).read_text(encoding="utf-8")) for file in FILES}
    assert told["README.md"] == served
    assert told["dashboard.json"] == served - {"flatearth_up"}
    assert told["alerts.yml"] <= served


def test_every_alert_has_an_expression_and_a_sentence_and_is_named_once() -> None:
    (group,) = yaml.safe_load((MONITORING / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    assert len({rule["alert"] for rule in group["rules"]}) == len(group["rules"])
    for rule in group["rules"]:
        assert names(rule["expr"]), rule["alert"]
        assert rule["annotations"]["summary"]


def test_every_panel_of_the_dashboard_asks_for_something() -> None:
    dashboard = json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8"))
    assert dashboard["uid"] == "flatearth"
    for panel in dashboard["panels"]:
        assert all(names(target["expr"]) for target in panel["targets"]), panel["title"]
