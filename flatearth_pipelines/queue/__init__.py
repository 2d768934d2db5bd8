"""One-off and recurring jobs: rows that an application enqueues by SQL, drained in batches inside Dagster runs."""
