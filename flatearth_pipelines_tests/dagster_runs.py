"""What a Dagster run in this process left behind."""

from typing import Any

import dagster as dg


def metadata_of(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    """Of a run that must have succeeded: of its only op, in plain values."""
    assert result.success
    (event,) = (event for event in result.all_events if event.is_successful_output)
    plain: dict[str, Any] = {}
    for name, value in event.step_output_data.metadata.items():
        if isinstance(value, dg.TableMetadataValue):
            plain[name] = [dict(record.data) for record in value.records]
        else:
            plain[name] = value.value
    return plain


def failure_of(result: dg.ExecuteInProcessResult) -> str:
    """Of a run that must have failed at its only step, for good: the reason, in one line."""
    assert not result.success
    (event,) = (event for event in result.all_events if event.is_step_failure)
    failure = event.step_failure_data.user_failure_data
    assert failure is not None, event.step_failure_data.error
    assert failure.description is not None
    assert "\n" not in failure.description
    return failure.description
