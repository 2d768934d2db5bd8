"""The small JSON results that are kept with their jobs."""

import json
import re
from typing import Any

from flatearth_pipelines.queue.handlers import Result, one_line, storable

_MOST_BYTES = 65_536
_MOST_NESTED = 100

_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def kept_result(result: Result) -> dict[str, Any] | None:
    """The result as jsonb can hold it, or in its place why it is not kept."""
    if result is None:
        return None
    try:
        whole = dict(result)
        text = json.dumps(whole, allow_nan=False, ensure_ascii=False)
    except Exception as error:  # noqa: BLE001 - a handler may return anything, and its work is done
        return {"not_kept": one_line(error)}
    # In the text NUL is an escape of six characters, behind an even number of backslashes.
    if _NUL.search(text) or storable(text) != text:
        return {"not_kept": "it holds a character that Postgres does not store"}
    if (size := len(text.encode())) > _MOST_BYTES:
        return {"not_kept": f"it has {size} bytes, more than {_MOST_BYTES}"}
    if text.count("[") + text.count("{") > _MOST_NESTED and _depth(whole) > _MOST_NESTED:
        return {"not_kept": f"it is nested more than {_MOST_NESTED} levels deep"}
    return whole


def _depth(value: object) -> int:
    """How many levels of lists and objects, at most one more than matters."""
    level, values = 0, [value]
    while values and level <= _MOST_NESTED:
        inner = [each for each in values if isinstance(each, dict | list | tuple)]
        values = [part for each in inner for part in (each.values() if isinstance(each, dict) else each)]
        level += 1 if inner else 0
        if not inner:
            break
    return level
