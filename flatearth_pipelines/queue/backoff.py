"""How long a failed job waits before its next attempt."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

FEWEST_ATTEMPTS, MOST_ATTEMPTS = 1, 25


@dataclass(frozen=True)
class Exponential:
    """Twice as long each time, up to `most`, and up to half of that less by chance, so that failures spread out."""

    first: timedelta = timedelta(seconds=10)
    most: timedelta = timedelta(hours=1)


@dataclass(frozen=True)
class Fixed:
    """The same time always."""

    wait: timedelta


@dataclass(frozen=True)
class Listed:
    """These times in turn; the last one again and again."""

    waits: tuple[timedelta, ...]


Backoff = Exponential | Fixed | Listed

DEFAULT = Exponential()


def waiting_time(backoff: Backoff, failures: int, draw: float) -> timedelta:
    """How long to wait after that many failures, 1 or more; `draw` is a random number in [0, 1)."""
    match backoff:
        case Exponential(first, most):
            whole = min(first.total_seconds() * 2.0 ** (failures - 1), most.total_seconds())
            return timedelta(seconds=whole * (1 - draw / 2))
        case Fixed(wait):
            return wait
        case Listed(waits):
            return waits[min(failures, len(waits)) - 1]


def backoff_from_json(value: dict[str, Any]) -> Backoff:
    """What `flatearth.is_backoff` lets into the column."""
    kind: Literal["exponential", "fixed", "list"] = value["kind"]
    match kind:
        case "exponential":
            return Exponential(_span(value["seconds"]), _span(value.get("most", DEFAULT.most.total_seconds())))
        case "fixed":
            return Fixed(_span(value["seconds"]))
        case "list":
            return Listed(tuple(map(_span, value["seconds"])))


def backoff_to_json(backoff: Backoff) -> dict[str, Any]:
    """The inverse of `backoff_from_json`."""
    match backoff:
        case Exponential(first, most):
            return {"kind": "exponential", "seconds": first.total_seconds(), "most": most.total_seconds()}
        case Fixed(wait):
            return {"kind": "fixed", "seconds": wait.total_seconds()}
        case Listed(waits):
            return {"kind": "list", "seconds": [wait.total_seconds() for wait in waits]}


def _span(seconds: float) -> timedelta:
    return timedelta(seconds=seconds)
