"""The console script `flatearth`, as its `main` runs it, without a process of its own."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple


class Ran(NamedTuple):
    """What a command left behind."""

    exit_code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


Flatearth = Callable[..., Ran]
