"""The code location `flatearth`: the features' jobs, schedules and sensors, and the resources that they ask for."""

import dagster as dg

from flatearth_pipelines.entropy import definitions as entropy
from flatearth_pipelines.resources import Clock, Postgres

defs = dg.Definitions.merge(
    dg.Definitions(
        resources={"clock": Clock(), "postgres": Postgres()},
        # One process a run: a process per op, Dagster's default, costs two seconds each.
        executor=dg.in_process_executor,
    ),
    entropy.defs,
)
