"""The small JSON results that are kept with their jobs."""

import json
from typing import Any

from flatearth_pipelines.queue.handlers import Result, one_line, storable

_MOST_BYTES = 65_536


def kept_result(result: Result) -> dict[str, Any] | None:
    """The result as jsonb can hold it, or in its place why it is not kept."""
    if result is None:
        return None
    try:
        text = json.dumps(dict(result), allow_nan=False)
    except (TypeError, ValueError) as error:
        return {"not_kept": one_line(error)}
    if "\\u0000" in text or storable(kept := json.dumps(dict(result), ensure_ascii=False)) != kept:
        return {"not_kept": "it holds a character that Postgres does not store"}
    if len(text) > _MOST_BYTES:
        return {"not_kept": f"it has {len(text)} bytes, more than {_MOST_BYTES}"}
    return dict(result)
