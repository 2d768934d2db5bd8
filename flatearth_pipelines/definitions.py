"""The code location `flatearth`: the features' jobs, schedules and sensors, and the resources that they ask for."""

import warnings

import dagster as dg

from flatearth_pipelines.alerts import definitions as alerts
from flatearth_pipelines.cleanup import access_definitions
from flatearth_pipelines.cleanup import definitions as cleanup
from flatearth_pipelines.entropy import definitions as entropy
from flatearth_pipelines.handlers import HANDLERS
from flatearth_pipelines.notifications import definitions as notifications
from flatearth_pipelines.notifications import delivery_definitions as delivery
from flatearth_pipelines.queue import definitions as queue
from flatearth_pipelines.queue import operator_definitions
from flatearth_pipelines.reports import definitions as reports
from flatearth_pipelines.resources import Clock, Postgres
from flatearth_pipelines.webhooks import definitions as webhooks
from flatearth_pipelines.webhooks import delivery_definitions as webhook_delivery

# dagster 1.13.27 warns of its own default when definitions with a sensor are merged.
warnings.filterwarnings("ignore", message="Parameter `owners` of initializer `SensorDefinition")

defs = dg.Definitions.merge(
    dg.Definitions(
        resources={
            "clock": Clock(),
            "job_handlers": dg.ResourceDefinition.hardcoded_resource(HANDLERS, "What the queue can run."),
            "postgres": Postgres(),
        },
        # One process a run: a process per op, Dagster's default, costs two seconds each.
        executor=dg.in_process_executor,
    ),
    access_definitions.defs,
    alerts.defs,
    cleanup.defs,
    entropy.defs,
    notifications.defs,
    delivery.defs,
    queue.defs,
    operator_definitions.defs,
    reports.defs,
    webhooks.defs,
    webhook_delivery.defs,
)
