"""What a queue handler is, what it is given, and how it says that something went wrong.

    @dataclass(frozen=True)
    Handler("check_card_entropy", CheckCardEntropy, check_card_entropy, Guarantee.TRANSACTIONAL)

A plain function runs in a thread of its own, an `async` one on the drain's event loop. Both take a `Context` and the
validated payload, and return a small JSON object to keep, or None.
"""

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from functools import cached_property
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from sqlalchemy import Connection

from flatearth_pipelines.errors import NotFound, WrongUsage
from flatearth_pipelines.queue.backoff import DEFAULT, FEWEST_ATTEMPTS, MOST_ATTEMPTS, Backoff, Listed

Result = Mapping[str, Any] | None

_ERROR_LENGTH = 1_000
_MOST_FIELDS = 10


class Payload(BaseModel):
    """The base of every payload: unknown fields are refused, a value is what it says it is."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NoPayload(Payload):
    """Of a handler that needs to be told nothing."""


class Guarantee(Enum):
    """What a handler can rely on when a worker dies."""

    TRANSACTIONAL = "transactional"
    """What it writes through `Context.connection` and the job's completion commit together: exactly once."""
    AT_LEAST_ONCE = "at least once"
    """It is retried."""
    AT_MOST_ONCE = "at most once"
    """It is failed rather than run again."""


class Retry(Exception):
    """Raised by a handler: run me again, at that instant or after that time; it counts as a failed attempt."""

    def __init__(self, reason: str, *, at: datetime | None = None, after: timedelta | None = None) -> None:
        super().__init__(reason)
        if at is not None and at.tzinfo is None:
            raise ValueError("a retry's instant has no zone")
        self.at = at
        self.after = after


class Refused(Exception):
    """Raised by a handler: this can never succeed, do not run me again."""


class Stopped(Exception):
    """Raised by `Context.check`: the job was cancelled or superseded."""


class Context:
    """What a handler knows of its job, and what it can say while it runs. Its methods may be called in any thread."""

    def __init__(
        self, job_id: int, attempt: int, account_id: int | None, report: Callable[[int, float, str], None]
    ) -> None:
        self.job_id = job_id
        self.attempt = attempt
        """1 for the first."""
        self.account_id = account_id
        self._report = report
        self._connection: Connection | None = None
        self._stop_reason: str | None = None

    @property
    def connection(self) -> Connection:
        """The open transaction of a transactional handler, which commits with the job."""
        if self._connection is None:
            raise RuntimeError("only a transactional handler has a connection")
        return self._connection

    @property
    def stop_requested(self) -> bool:
        """Whether the job was cancelled or superseded, ran out of time, or its worker is stopping."""
        return self._stop_reason is not None

    def check(self) -> None:
        """Raise `Stopped` when `stop_requested`."""
        if self._stop_reason is not None:
            raise Stopped(self._stop_reason)

    def progress(self, percent: float, line: str = "") -> None:
        """Say how far the job is: 0 to 100, and one line of text."""
        if not 0 <= percent <= 100:  # noqa: PLR2004
            raise ValueError(f"progress is {percent}, not 0 to 100")
        self._report(self.job_id, percent, line)

    def request_stop(self, reason: str) -> None:
        """For the drain."""
        self._stop_reason = self._stop_reason or reason

    def lend(self, connection: Connection) -> None:
        """For the drain."""
        self._connection = connection


@dataclass(frozen=True)
class Handler:
    """One kind of job. Its docstring is that of its function."""

    name: str
    payload: type[BaseModel]
    run: Callable[[Context, Any], Result | Awaitable[Result]]
    guarantee: Guarantee = Guarantee.AT_LEAST_ONCE
    max_attempts: int = 5
    backoff: Backoff = DEFAULT
    timeout: timedelta = timedelta(minutes=5)
    own_run: bool = False
    """Heavy: it gets a Dagster run of its own instead of a place in a batch."""

    def __post_init__(self) -> None:
        if not FEWEST_ATTEMPTS <= self.max_attempts <= MOST_ATTEMPTS:
            raise WrongUsage(f"{self.name}: max_attempts is {self.max_attempts}, not 1 to 25")
        if self.backoff == Listed(()):
            raise WrongUsage(f"{self.name}: its backoff lists no time")
        if self.guarantee is Guarantee.TRANSACTIONAL and self.is_async:
            raise WrongUsage(f"{self.name}: a transactional handler is a plain function")

    @cached_property
    def is_async(self) -> bool:
        """Whether it runs on the event loop."""
        return inspect.iscoroutinefunction(self.run)

    @property
    def description(self) -> str:
        """The first line of its function's docstring."""
        return (inspect.getdoc(self.run) or "").partition("\n")[0]


class Registry:
    """The handlers that this code knows, by name."""

    def __init__(self, handlers: Iterable[Handler]) -> None:
        self.handlers: dict[str, Handler] = {}
        for handler in handlers:
            if handler.name in self.handlers:
                raise WrongUsage(f"There are two handlers {handler.name}")
            self.handlers[handler.name] = handler

    def __getitem__(self, name: str) -> Handler:
        if name not in self.handlers:
            known = ", ".join(sorted(self.handlers))
            raise NotFound(f"There is no handler {name!r}: there are {known}")
        return self.handlers[name]

    def get(self, name: str) -> Handler | None:
        """The handler of that name, or None."""
        return self.handlers.get(name)

    def validated(self, name: str, payload: Mapping[str, Any]) -> dict[str, Any]:
        """The payload as JSON, checked by the handler's model.

        Raises:
            NotFound: there is no such handler.
            WrongUsage: the payload is not what it takes.
        """
        handler = self[name]
        try:
            return handler.payload.model_validate(payload).model_dump(mode="json")
        except ValidationError as error:
            raise WrongUsage(f"The payload of {name} is not valid: {invalidity(error)}") from None


def invalidity(error: ValidationError) -> str:
    """In one line what is wrong with which field, without the values, which may be secrets."""
    said = "; ".join(
        f"{'.'.join(map(str, each['loc'])) or 'payload'}: {each['msg']}"
        for each in error.errors(include_url=False, include_input=False, include_context=False)[:_MOST_FIELDS]
    )
    return storable(" ".join(said.split()))[:_ERROR_LENGTH]


def one_line(error: BaseException) -> str:
    """The error as the column `last_error` keeps it: one line of text that Postgres can store."""
    try:
        said = " ".join(str(error).split())
    except Exception:  # noqa: BLE001 - even that may fail
        said = ""
    text = f"{type(error).__name__}: {said}" if said else type(error).__name__
    return storable(text)[:_ERROR_LENGTH]


def storable(text: str) -> str:
    """The text without what Postgres's `text` refuses: NUL and lone surrogates."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode("utf-8")
