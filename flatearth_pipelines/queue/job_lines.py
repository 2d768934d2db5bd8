"""Jobs as people write them: in options, and in files with one JSON object a line."""

import json
import math
import re
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any

from flatearth_pipelines.errors import WrongUsage
from flatearth_pipelines.instants import instant
from flatearth_pipelines.queue.functions import MOST_JOBS_A_CALL

_CALL_BYTES = 1_000_000
"""Of JSON in one call: as `jsonb` it is at most six times as large, and 8 MB is the limit."""

_SPAN = re.compile(r"(-?\d{1,9}(?:\.\d{1,6})?)([smhd]?)")

_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}

_MOST_SECONDS = 3_660 * 86_400
"""Ten years, as far as it matters to what Postgres can count: `enqueue_job` knows it exactly."""

_MOST_DAYS = 36_500


def job_of_options(values: dict[str, Any]) -> dict[str, Any]:
    """The job of these options, as `flatearth.enqueue_jobs` takes it."""
    job = {name: value for name, value in values.items() if value is not None}
    for name, option in (("payload", "PAYLOAD"), ("backoff", "--backoff")):
        if name in job:
            job[name] = json_object(option, job[name])
    for name in job.keys() & {"delay", "timeout"}:
        job[name] = span(f"--{name}", job[name])
    if "run_at" in job:
        job["run_at"] = instant(job["run_at"], "--at")
    return {name: value.isoformat() if name == "run_at" else value for name, value in job.items()}


def calls(file: Iterable[bytes]) -> Iterator[dict[int, dict[str, Any]]]:
    """The jobs by line number, as many at a time as one call takes."""
    lines: dict[int, dict[str, Any]] = {}
    size = 0
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        if len(lines) == MOST_JOBS_A_CALL or (lines and size + len(line) > _CALL_BYTES):
            yield lines
            lines, size = {}, 0
        lines[number] = json_object(f"Line {number}", line)
        size += len(line)
    if lines:
        yield lines


def json_object(name: str, text: str | bytes) -> dict[str, Any]:
    """What the text says, called `name` in errors."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise WrongUsage(f"{name} is nested too deeply") from None
    except ValueError as error:
        raise WrongUsage(f"{name} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise WrongUsage(f"{name} is not a JSON object, such as {{}}")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"there is no {name}")


def span(option: str, text: str) -> str:
    """The span of time as an interval of Postgres, which refuses a negative one."""
    match = _SPAN.fullmatch(text)
    if match is None:
        raise WrongUsage(f"{option} is {text!r}: it takes seconds, or such as 5m, 2h or 1d")
    seconds = float(match[1]) * _SECONDS[match[2]]
    if seconds > _MOST_SECONDS:
        raise WrongUsage(f"{option} is {text!r}: ten years is the most")
    return f"{seconds:f} seconds"


def days(option: str, text: str) -> timedelta:
    """An age in days, 0 to a hundred years."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number <= _MOST_DAYS:
        raise WrongUsage(f"{option} is {text!r}: it takes days, 0 to {_MOST_DAYS:,}")
    return timedelta(days=number)
