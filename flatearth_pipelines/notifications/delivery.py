"""From the bundles that are due to the mails that were sent: claim, decide, send, record, until nothing is due."""

import contextlib
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Connection

from flatearth_pipelines.claimant import claimant
from flatearth_pipelines.mailer import SMTP_SECONDS, Fate
from flatearth_pipelines.message import Message
from flatearth_pipelines.notifications import delivery_storage, suppression_storage
from flatearth_pipelines.notifications.digest import Bundle, reason_for_no_mail
from flatearth_pipelines.notifications.digest_storage import read_bundles
from flatearth_pipelines.notifications.letter import Letterhead, letter, message_id
from flatearth_pipelines.notifications.settlement import Settlement, handed_back, settled, without_mail
from flatearth_pipelines.notifications.transport import Senders, Sent
from flatearth_pipelines.settings import Settings

BATCH_SIZE = 100
"""Bundles in one claim. What stands in their mails is read at once, and up to two claims are at work."""

CONNECTIONS = 4

_LOOK_SECONDS = 0.2
_PATIENCE_SECONDS = 60.0
"""How long a run waits for locks on what it sent."""

_LONGEST_SECONDS = 900.0
"""A run that always finds more leaves the rest to the next one."""


@dataclass(frozen=True)
class Options:
    """How to deliver; every default is the ordinary run."""

    as_of: datetime | None = None
    """What is due, and what links are dated by. None: now, by the database's clock."""
    batch_size: int = BATCH_SIZE
    connections: int = CONNECTIONS
    stay_seconds: float = 0.0
    """How long to wait for more once nothing is due."""
    answer_seconds: float = SMTP_SECONDS
    """How long the server may take for one answer."""


@dataclass
class Report:
    """What a run did, in numbers of bundles."""

    outcomes: Counter[str] = field(default_factory=Counter)
    """`mailed`, the reasons for no mail, `retried`, `undeliverable`, `refused`, `exhausted`, `handed_back`."""
    notifications: int = 0
    """In the mails."""
    claimed: int = 0
    rescued: int = 0
    """Of deliveries that died, or were too slow."""
    put_off: int = 0
    """Not tried, because the server was away; their next attempt is later."""
    lost_to_others: int = 0
    """Somebody else's by the time they were recorded, or gone."""
    outage: str | None = None
    """Why the server could not be reached."""


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
        self._unrecorded: dict[int, Settlement] = {}
        self._settings = settings
        self._head = Letterhead.of(settings)
        self._options = options
        self._progress = progress

    def run(self, ids: Sequence[int] | None = None, *, early: bool = False) -> Report:
        """Deliver everything that is due, or these bundles as far as they are; with `early` those that are not, too."""
        with claimant(self._connection) as claim:
            with self._connection.begin():
                self.report.rescued += delivery_storage.rescue(self._connection, claim)
            senders = Senders(
                self._settings,
                self._letter,
                connections=self._options.connections,
                seconds=self._options.answer_seconds,
            )
            try:
                if ids is None:
                    self._deliver_due(claim, senders)
                else:
                    self._deliver_these(claim, senders, ids, early=early)
            finally:
                senders.close()
                self.report.outage = senders.outage
                with contextlib.suppress(Exception):  # the claim's end frees what could not be recorded
                    self._record(claim, senders, 0)
                    self._hand_back_the_rest(claim)
            self._record_what_was_locked(claim)
        return self.report

    def _deliver_due(self, claim: uuid.UUID, senders: Senders[Bundle]) -> None:
        size = self._options.batch_size
        ends = time.monotonic() + _LONGEST_SECONDS
        stays = time.monotonic() + self._options.stay_seconds
        more = True
        while True:
            ids: list[int] = []
            if senders.outage is None and senders.backlog < size and (more or not senders.backlog):
                ids = self._claim_due(claim) if time.monotonic() < ends else []
                more = len(ids) == size
                self._begin(claim, senders, ids)
            if ids:
                stays = time.monotonic() + self._options.stay_seconds
            if senders.backlog:
                room = more and senders.outage is None and senders.backlog < size
                self._record(claim, senders, 0 if room else _LOOK_SECONDS)
            elif senders.outage is not None:
                self._put_off(senders.outage)
                return
            elif not ids:
                if time.monotonic() >= min(stays, ends):
                    return
                time.sleep(_LOOK_SECONDS)

    def _deliver_these(self, claim: uuid.UUID, senders: Senders[Bundle], ids: Sequence[int], *, early: bool) -> None:
        size = self._options.batch_size
        for at in range(0, len(ids), size):
            with self._connection.begin():
                claimed = delivery_storage.claim_these(self._connection, claim, ids[at : at + size], early=early)
            self._begin(claim, senders, claimed)
            while senders.backlog:
                self._record(claim, senders, _LOOK_SECONDS)

    def _claim_due(self, claim: uuid.UUID) -> list[int]:
        with self._connection.begin():
            return delivery_storage.claim_due(self._connection, claim, self._options.as_of, self._options.batch_size)

    def _begin(self, claim: uuid.UUID, senders: Senders[Bundle], ids: Sequence[int]) -> None:
        """Read what was claimed; record at once what needs no mail, and have the rest sent."""
        if not ids:
            return
        self.report.claimed += len(ids)
        with self._connection.begin():
            bundles = read_bundles(self._connection, ids, claim)
        reasons = {bundle.id: reason_for_no_mail(bundle) for bundle in bundles}
        senders.put(bundle for bundle in bundles if reasons[bundle.id] is None)
        self._settle(claim, [without_mail(bundle_id, reason) for bundle_id, reason in reasons.items() if reason])

    def _record(self, claim: uuid.UUID, senders: Senders[Bundle], seconds: float) -> None:
        """Record what was sent, as soon as anything was; interrupted anywhere, the next time does it."""
        sent = senders.look(seconds)
        nobody = {
            (each.item.email, each.answer.said)
            for each in sent
            if each.item.email and each.answer is not None and each.answer.fate is Fate.NOBODY
        }
        self._settle(claim, [self._settlement(each) for each in sent], nobody)
        senders.forget(sent)

    def _settlement(self, sent: Sent[Bundle]) -> Settlement:
        bundle, answer = sent
        if answer is None:
            return handed_back(bundle.id)
        known = message_id("bundle", bundle.id, self._head.sender)
        return settled(bundle.id, bundle.attempts, answer, known, bundle.total)

    def _settle(
        self, claim: uuid.UUID, settlements: Sequence[Settlement], nobody: set[tuple[str, str]] | None = None
    ) -> None:
        """Record these, and those that were locked when they should have been."""
        self._unrecorded |= {each.bundle_id: each for each in settlements}
        if not self._unrecorded:
            return
        ids = list(self._unrecorded)
        with self._connection.begin():
            done = delivery_storage.settle(
                self._connection, claim, list(self._unrecorded.values()), self._options.as_of
            )
            locked = delivery_storage.still_claimed(self._connection, claim, ids) if len(done) < len(ids) else set()
            if nobody:
                suppression_storage.suppress(self._connection, nobody, "smtp")
        for bundle_id in ids:
            if bundle_id in done:
                end = self._unrecorded[bundle_id]
                self.report.outcomes[_outcome(end)] += 1
                self.report.notifications += end.items or 0
            elif bundle_id not in locked:
                self.report.lost_to_others += 1
        self._unrecorded = {bundle_id: self._unrecorded[bundle_id] for bundle_id in locked}
        self._progress(self.report)

    def _hand_back_the_rest(self, claim: uuid.UUID) -> None:
        """What an interrupt came to between its claim and its mail."""
        with self._connection.begin():
            rest = delivery_storage.hand_back_all_but(self._connection, claim, list(self._unrecorded))
        if rest:
            self.report.outcomes["handed_back"] += rest

    def _record_what_was_locked(self, claim: uuid.UUID) -> None:
        """Wait for those who have these bundles locked, but not for ever: what is not recorded is sent again."""
        ends = time.monotonic() + _PATIENCE_SECONDS
        while self._unrecorded and time.monotonic() < ends:
            time.sleep(_LOOK_SECONDS)
            self._settle(claim, [])
        self.report.lost_to_others += len(self._unrecorded)

    def _put_off(self, outage: str) -> None:
        """The server is away: what else is due would only wait for it."""
        while True:
            with self._connection.begin():
                waiting, failed = delivery_storage.put_off_due(self._connection, outage, self._options.as_of)
            self.report.put_off += waiting
            if failed:
                self.report.outcomes["exhausted"] += failed
            if not waiting + failed:
                return

    def _letter(self, bundle: Bundle) -> Message:
        return letter(bundle, self._head, self._options.as_of)


def rehearse(connection: Connection, options: Options) -> Report:
    """What a run would do if every server took every mail; nothing is written, and nothing sent."""
    report = Report()
    after = None
    while True:
        with connection.begin():
            due = delivery_storage.read_due(connection, options.as_of, after, options.batch_size)
            bundles = read_bundles(connection, [bundle_id for bundle_id, _ in due])
        if not due:
            return report
        after = due[-1]
        for bundle in bundles:
            report.outcomes[reason_for_no_mail(bundle) or "mailed"] += 1
            report.notifications += 0 if reason_for_no_mail(bundle) else bundle.total


def _outcome(settlement: Settlement) -> str:
    if settlement.handed_back:
        return "handed_back"
    return settlement.outcome or "retried"
