"""From the deliveries that are due to requests with an answer: claim, compose, send, record, until nothing is due."""

import contextlib
import random
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import Connection

from flatearth_pipelines import database
from flatearth_pipelines.claimant import claimant
from flatearth_pipelines.errors import WrongUsage
from flatearth_pipelines.secret_key import secret_key
from flatearth_pipelines.settings import Settings
from flatearth_pipelines.webhooks import claim_storage, delivery_storage, endpoint_storage, payload_storage
from flatearth_pipelines.webhooks.claim_storage import Claimed
from flatearth_pipelines.webhooks.endpoint_storage import Endpoint, Result, Verdict
from flatearth_pipelines.webhooks.outcome import Answer, Code
from flatearth_pipelines.webhooks.parcel import Parcel, secrets_of
from flatearth_pipelines.webhooks.payload import Event, body
from flatearth_pipelines.webhooks.payload_storage import Asked
from flatearth_pipelines.webhooks.settlement import Settlement, handed_back, settled
from flatearth_pipelines.webhooks.transaction_storage import attempted
from flatearth_pipelines.webhooks.transport import Posts, Sent, rarely_collected

IN_FLIGHT = 200
"""Requests at once."""

PER_ENDPOINT = 5
"""Of one endpoint at work at once: as many failures as open its breaker, so that one that hangs costs no more."""

_AHEAD = 8
"""Times as many are claimed: enough to go on with while Postgres is told of others."""

SECONDS = 5.0
"""For a request in all. Source: the product's specification."""

_LOOK_SECONDS = 0.2
_LONGEST_SECONDS = 900.0
"""A run that always finds more leaves the rest to the next one."""


@dataclass(frozen=True)
class Options:
    """How to deliver; every default is the ordinary run."""

    as_of: datetime | None = None
    """What is due, and which breaker's wait is over. None: now, by the database's clock."""
    in_flight: int = IN_FLIGHT
    per_endpoint: int = PER_ENDPOINT
    stay_seconds: float = 0.0
    """How long to wait for more once nothing is due."""


@dataclass
class Report:
    """What a run did."""

    outcomes: Counter[str] = field(default_factory=Counter)
    """Attempts by their code."""
    completed: int = 0
    retried: int = 0
    """That wait for their next attempt."""
    errored: int = 0
    """That will not be tried again by themselves."""
    handed_back: int = 0
    """Claimed and not tried."""
    rescued: int = 0
    """Of runs that died, or were too slow."""
    lost_to_others: int = 0
    """Somebody else's by the time they were recorded, or gone."""
    opened: int = 0  # endpoints
    disabled: int = 0


class Delivery:
    """One run. `report` is right at any moment, also after an interrupt, which hands back what was not begun."""

    def __init__(
        self,
        connection: Connection,
        settings: Settings,
        options: Options,
        progress: Callable[[Report], None] = lambda _report: None,
    ) -> None:
        self.report = Report()
        self._connection = connection
        self._settings = settings
        self._key = secret_key(settings)
        self._options = options
        self._progress = progress
        self._after = 0
        with connection.begin():
            self._began_at = database.now(connection) - timedelta(seconds=time.monotonic())

    def run(self, ids: Sequence[int] | None = None) -> Report:
        """Deliver everything that is due, or these deliveries now, as far as they wait."""
        with rarely_collected(), claimant(self._connection) as claim:
            with self._connection.begin():
                self.report.rescued += claim_storage.rescue(self._connection, claim)
            posts = Posts[Parcel](
                lambda parcel: parcel.signed(self._clock()),
                allowed=self._settings.webhook_allow_networks,
                clock=self._clock,
                in_flight=self._options.in_flight,
                seconds=SECONDS,
                user_agent=f"FlatEarth-Webhooks/1 (+{self._settings.public_url})",
            )
            try:
                if ids is None:
                    self._deliver_due(claim, posts)
                else:
                    self._deliver_these(claim, posts, ids)
            finally:
                posts.close()
                with contextlib.suppress(Exception):  # the claim's end frees what could not be recorded
                    self._record(claim, posts, 0)
                    with self._connection.begin():
                        self.report.handed_back += claim_storage.hand_back(self._connection, claim)
        return self.report

    def _deliver_due(self, claim: uuid.UUID, posts: Posts[Parcel]) -> None:
        size = _AHEAD * self._options.in_flight
        ends = time.monotonic() + _LONGEST_SECONDS
        stays = time.monotonic() + self._options.stay_seconds
        while True:
            room = size - posts.backlog if time.monotonic() < ends else 0
            claimed = self._claim_due(claim, room) if 2 * room >= size else []
            self._begin(posts, claimed)
            if posts.backlog:
                stays = time.monotonic() + self._options.stay_seconds
                self._record(claim, posts, _LOOK_SECONDS)
            elif not claimed:
                if time.monotonic() >= min(stays, ends):
                    return
                time.sleep(_LOOK_SECONDS)

    def _deliver_these(self, claim: uuid.UUID, posts: Posts[Parcel], ids: Sequence[int]) -> None:
        size = 2 * self._options.in_flight
        for at in range(0, len(ids), size):
            with self._connection.begin():
                claimed = claim_storage.claim_these(self._connection, claim, ids[at : at + size])
            self._begin(posts, claimed)
            while posts.backlog:
                self._record(claim, posts, _LOOK_SECONDS)

    def _claim_due(self, claim: uuid.UUID, most: int) -> list[Claimed]:
        """What is due, endpoint by endpoint: each claim goes on where the last one ended, and then from the start."""
        claimed: list[Claimed] = []
        while True:
            began, wanted = self._after, most - len(claimed)
            with self._connection.begin():
                more = claim_storage.claim_due(
                    self._connection,
                    claim,
                    self._options.as_of,
                    after=began,
                    most=wanted,
                    per_endpoint=self._options.per_endpoint,
                )
            claimed += more
            self._after = max(each.webhook_id for each in more) if len(more) == wanted else 0
            if self._after or not began:
                return claimed

    def _begin(self, posts: Posts[Parcel], claimed: Sequence[Claimed]) -> None:
        """Read what is sent and where, and have it sent."""
        if not claimed:
            return
        endpoints, bodies = attempted(self._connection, lambda: self._read(claimed))
        secrets = {endpoint.id: secrets_of(endpoint, self._key) for endpoint in endpoints.values()}
        posts.put(
            Parcel(
                each,
                endpoints[each.webhook_id],
                each.body or bodies.get((each.event_id or 0, endpoints[each.webhook_id].format)),
                secrets[each.webhook_id],
            )
            for each in claimed
            if each.webhook_id in endpoints  # else it was deleted, and its deliveries with it
        )

    def _read(self, claimed: Sequence[Claimed]) -> tuple[Mapping[int, Endpoint], Mapping[Asked, bytes]]:
        """Where these go, and what is sent of their events."""
        endpoints = endpoint_storage.read_endpoints(self._connection, {each.webhook_id for each in claimed})
        asked = {
            (each.event_id, endpoints[each.webhook_id].format)
            for each in claimed
            if each.event_id is not None and each.body is None and each.webhook_id in endpoints
        }
        return endpoints, payload_storage.read_payloads(self._connection, asked, self._composed)

    def _record(self, claim: uuid.UUID, posts: Posts[Parcel], seconds: float) -> None:
        """Record what was answered, as soon as anything was; interrupted anywhere, the next time does it."""
        sent = posts.look(seconds)
        if not sent:
            return
        ends = [(self._settlement(each), each.answer) for each in sent]
        done, verdicts = attempted(self._connection, lambda: self._settle(claim, sent, ends))
        posts.forget(sent)
        for end, answer in ends:
            if end.delivery_id in done:
                self._count(end, answer)
            else:
                self.report.lost_to_others += 1
        self.report.disabled += sum(each.disabled_at is not None for each in verdicts)
        self.report.opened += sum(each.disabled_at is None for each in verdicts)
        self._progress(self.report)

    def _settle(
        self,
        claim: uuid.UUID,
        sent: Sequence[Sent[Parcel]],
        ends: Sequence[tuple[Settlement, Answer | None]],
    ) -> tuple[set[int], list[Verdict]]:
        """Of one transaction: the deliveries, their log, what the breaker makes of it, and the mails about that."""
        done = delivery_storage.settle(self._connection, claim, ends, self._options.as_of)
        verdicts = endpoint_storage.judge(
            self._connection,
            [
                self._result(each.item, each.answer)
                for each in sent
                if each.answer is not None
                and each.item.delivery.id in done
                and each.answer.code not in {Code.EVENT_GONE, Code.NO_SECRET}  # nobody asked the endpoint
            ],
        )
        endpoint_storage.tell_owners(self._connection, verdicts, self._settings.alert_email)
        return done, verdicts

    def _settlement(self, sent: Sent[Parcel]) -> Settlement:
        delivery = sent.item.delivery
        if sent.answer is None:
            return handed_back(delivery.id)
        return settled(delivery.id, delivery.attempts, sent.answer, random.uniform(-1, 1))  # noqa: S311 - no secret

    def _result(self, parcel: Parcel, answer: Answer) -> Result:
        ended_at = answer.started_at + timedelta(milliseconds=answer.duration_ms)
        at = max(ended_at, self._options.as_of) if self._options.as_of else ended_at
        return Result(parcel.endpoint.id, answer.code is Code.OK, answer.code is Code.GONE, at)

    def _count(self, end: Settlement, answer: Answer | None) -> None:
        if answer is None:
            self.report.handed_back += 1
            return
        self.report.outcomes[answer.code.value] += 1
        self.report.completed += end.state == "completed"
        self.report.retried += end.state == "pending"
        self.report.errored += end.state == "errored"

    def _composed(self, event: Event, format_: str) -> bytes:
        try:
            return body(event, format_, self._settings.public_url)
        except (WrongUsage, ValueError, RecursionError):  # of particulars that Python does not write as JSON
            return body(event._replace(particulars={}), format_, self._settings.public_url)

    def _clock(self) -> datetime:
        """The database's time, read once and counted on."""
        return self._began_at + timedelta(seconds=time.monotonic())
