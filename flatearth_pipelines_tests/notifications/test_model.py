"""Notifications, deliveries, reads, choices and time, in any order: each notification in one window, mailed once."""

import uuid
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from flatearth_pipelines import tables
from flatearth_pipelines.notifications.delivery_storage import claim_due, settle
from flatearth_pipelines.notifications.digest import reason_for_no_mail
from flatearth_pipelines.notifications.digest_storage import read_bundles
from flatearth_pipelines.notifications.functions import create_notification
from flatearth_pipelines.notifications.settlement import Settlement
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.notifications import observed
from flatearth_pipelines_tests.notifications.workspace import Workspace

MINUTE = timedelta(minutes=1)

PEOPLE = 2
FREQUENCIES = ["never", "every_30_minutes", "every_few_hours", "daily", "weekly"]
SPANS = [timedelta(0), timedelta(microseconds=1), 10 * MINUTE, 30 * MINUTE, 240 * MINUTE, make.DAY, 7 * make.DAY]

person = st.integers(0, PEOPLE - 1)
span = st.sampled_from(SPANS)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("notify"), person, st.sampled_from(["card_closed", "card_closed", "card_assigned"])),
        st.tuples(st.just("choose"), person, st.sampled_from(FREQUENCIES), st.booleans()),
        st.tuples(st.just("read"), st.integers(0, 99)),
        st.tuples(st.just("wait"), span),
        st.tuples(st.just("claim"), span),
        st.tuples(st.just("send"), st.integers(0, 9)),
        st.tuples(st.just("fail"), st.integers(0, 9), span),
    ),
    max_size=30,
)


@dataclass
class Known:
    """What the model knows of a notification."""

    person: int
    in_no_window: bool
    """Its person never wants mail, or did not at some time while it waited."""
    read: bool = False


@dataclass
class Model:
    """One session that is an application, the people and a delivery in turn; nothing of it is committed."""

    connection: sa.Connection
    work: Workspace
    people: list[int]
    frequency: dict[int, str] = field(default_factory=dict)
    known: dict[int, Known] = field(default_factory=dict)
    """By the card that the notification is about: each has its own."""
    at_work: list[tuple[uuid.UUID, int]] = field(default_factory=list)
    """Bundles that are claimed, with their claim."""
    mailed: Counter[int] = field(default_factory=Counter)
    """How often, by card."""

    def notify(self, person: int, action: str) -> None:
        card = make.card(self.connection, self.work.board)
        event = make.event(self.connection, self.work.board, self.work.actor, action, card)
        create_notification(self.connection, self.work.account, self.people[person], "event", event)
        self.known[card] = Known(person, in_no_window=self.frequency.get(person) == "never")

    def choose(self, person: int, frequency: str, at_once: bool) -> None:  # noqa: FBT001 - drawn
        self.connection.execute(
            sa.text("SELECT flatearth.set_notification_settings(:person, CAST(:choices AS jsonb))"),
            {
                "person": self.people[person],
                "choices": f'{{"email_frequency": "{frequency}", "instant_assignments": {str(at_once).lower()}}}',
            },
        )
        if frequency == "never":
            in_a_window = self.cards_in_windows(person)
            for card, known in self.known.items():
                known.in_no_window |= known.person == person and card not in in_a_window
        self.frequency[person] = frequency

    def read(self, which: int) -> None:
        if self.known:
            card = sorted(self.known)[which % len(self.known)]
            self.known[card].read = True
            query = """
                UPDATE flatearth.notifications AS n SET read_at = clock_timestamp() FROM flatearth.events AS e
                WHERE n.source_id = e.id AND e.eventable_id = :card AND n.read_at IS NULL
            """
            self.connection.execute(sa.text(query), {"card": card})

    def wait(self, so_long: timedelta) -> None:
        """Everything moves into the past."""
        query = """
            DO $$
            DECLARE b record; so_long interval := current_setting('tests.so_long')::interval;
            BEGIN
                FOR b IN SELECT id FROM flatearth.notification_bundles ORDER BY starts_at LOOP
                    UPDATE flatearth.notification_bundles
                    SET starts_at = starts_at - so_long, ends_at = ends_at - so_long,
                        next_attempt_at = next_attempt_at - so_long
                    WHERE id = b.id;
                END LOOP;
                UPDATE flatearth.notifications SET created_at = created_at - so_long;
            END
            $$
        """
        self.connection.execute(
            sa.text("SELECT set_config('tests.so_long', :so_long, true)"), {"so_long": str(so_long)}
        )
        self.connection.execute(sa.text(query))

    def claim(self, ahead: timedelta) -> None:
        claim = uuid.uuid4()
        as_of = observed.now(self.connection) + ahead
        self.at_work += [(claim, bundle) for bundle in claim_due(self.connection, claim, as_of, 100)]

    def send(self, which: int) -> None:
        if self.at_work:
            claim, bundle_id = self.at_work.pop(which % len(self.at_work))
            (bundle,) = read_bundles(self.connection, [bundle_id], claim)
            reason = reason_for_no_mail(bundle)
            if reason is None:
                self.mailed.update(item.card_id for item in bundle.items)
            elif reason != "nothing_unread":
                for item in bundle.items:
                    self.known[item.card_id].in_no_window = True
            done = Settlement(bundle_id, "delivered", outcome=reason or "mailed")
            assert settle(self.connection, claim, [done]) == {bundle_id}

    def fail(self, which: int, wait: timedelta) -> None:
        if self.at_work:
            claim, bundle_id = self.at_work.pop(which % len(self.at_work))
            later = Settlement(bundle_id, "pending", error="451 later", wait=wait)
            assert settle(self.connection, claim, [later]) == {bundle_id}

    def cards_in_windows(self, person: int) -> set[int]:
        """Of the notifications of the person that lie in some window."""
        query = """
            SELECT e.eventable_id FROM flatearth.notifications AS n
            JOIN flatearth.events AS e ON e.id = n.source_id
            JOIN flatearth.notification_bundles AS b
                ON b.user_id = n.user_id AND b.starts_at <= n.created_at AND n.created_at < b.ends_at
            WHERE n.user_id = :person
        """
        cards = self.connection.execute(sa.text(query), {"person": self.people[person]}).scalars().all()
        assert len(cards) == len(set(cards)), "no notification lies in two windows"
        return set(cards)

    def holds(self) -> None:
        """What is true at any moment."""
        for number, person in enumerate(self.people):
            expected = {card for card, known in self.known.items() if known.person == number and not known.in_no_window}
            assert self.cards_in_windows(number) >= expected, "every notification lies in a window"
            windows = observed.windows(self.connection, person)
            for (_, ends_at), (starts_at, _) in pairwise(windows):
                assert ends_at <= starts_at, "no two windows overlap"
        assert all(times == 1 for times in self.mailed.values()), "nothing is mailed twice"


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps)
def test_every_notification_is_in_one_window_and_every_unread_one_is_mailed_once(
    connection: sa.Connection, steps: list[tuple[Any, ...]]
) -> None:
    with connection.begin_nested() as nothing_stays:
        work = Workspace(connection)
        model = Model(connection, work, [work.person(connection) for _ in range(PEOPLE)])
        for name, *arguments in steps:
            note(f"{name} {arguments}")
            getattr(model, name)(*arguments)
            model.holds()

        while model.at_work:
            model.send(0)
        model.wait(30 * make.DAY)
        model.claim(timedelta(0))
        while model.at_work:
            model.send(0)
        model.holds()

        for card, known in model.known.items():
            if not known.in_no_window and not known.read:
                assert model.mailed[card] == 1
        left = sa.select(sa.func.count()).where(tables.notification_bundles.c.status != "delivered")
        assert connection.execute(left).scalar_one() == 0
        nothing_stays.rollback()


def test_the_model_would_notice_a_window_over_another(connection: sa.Connection) -> None:
    """What the property rests on: the same look at a database without the constraint."""
    work = Workspace(connection)
    model = Model(connection, work, [work.person(connection)])
    model.notify(0, "card_closed")
    connection.execute(
        sa.text(
            "ALTER TABLE flatearth.notification_bundles DROP CONSTRAINT windows_of_one_person_never_overlap;"
            "INSERT INTO flatearth.notification_bundles (account_id, user_id, starts_at, ends_at)"
            " SELECT account_id, user_id, starts_at, ends_at FROM flatearth.notification_bundles"
        )
    )
    with pytest.raises(AssertionError, match="two windows"):
        model.holds()
