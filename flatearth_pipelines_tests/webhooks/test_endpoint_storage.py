"""What a run reads of endpoints, and what becomes of their breakers: held against a plain reading, one by one."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flatearth_pipelines import tables
from flatearth_pipelines.notifications.mail_payload import SendEmail
from flatearth_pipelines.webhooks import endpoint_storage as storage
from flatearth_pipelines.webhooks.delinquency import OPENS_AFTER, is_delinquent, wait
from flatearth_pipelines.webhooks.endpoint_storage import Endpoint, Result, Verdict
from flatearth_pipelines.webhooks.functions import disable_webhook, enable_webhook
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.factories import MICROSECOND, NOON
from flatearth_pipelines_tests.webhooks import observed
from flatearth_pipelines_tests.webhooks.workspace import Workspace

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
CLOSED = (0, None, 0, None)


@pytest.fixture
def work(connection: sa.Connection) -> Workspace:
    return Workspace(connection)


@pytest.fixture
def hook(connection: sa.Connection, work: Workspace) -> int:
    return work.webhook(connection)


def failures(hook: int, count: int, at: datetime = NOON) -> list[Result]:
    """As many, all of that instant."""
    return count * [Result(hook, ok=False, gone=False, ended_at=at)]


def success(hook: int, at: datetime = NOON) -> Result:
    return Result(hook, ok=True, gone=False, ended_at=at)


def gone(hook: int, at: datetime = NOON) -> Result:
    return Result(hook, ok=False, gone=True, ended_at=at)


def reason(connection: sa.Connection, hook: int) -> str | None:
    """Why it is disabled."""
    row = observed.webhook(connection, hook)
    assert row["active"] == (row["disabled_reason"] is None)
    said: str | None = row["disabled_reason"]
    return said


# Where and how to send


def test_an_endpoint_is_read_with_all_that_is_needed_to_send(connection: sa.Connection, work: Workspace) -> None:
    values = {"name": "Chat", "url": "https://a.example/", "format": "slack", "signature": "ed25519"}
    hook = work.webhook(connection, **values, sealed_secret=b"\x01secret")
    work.webhook(connection)

    assert storage.read_endpoints(connection, {hook, 999_999}) == {
        hook: Endpoint(hook, work.account, "Chat", "https://a.example/", "slack", "ed25519", b"\x01secret", None)
    }


def test_the_previous_secret_is_read_until_its_time_and_then_no_more(
    connection: sa.Connection, work: Workspace
) -> None:
    now = observed.now(connection)
    valid, over = (
        work.webhook(connection, previous_sealed_secret=b"old", previous_secret_until=now + until)
        for until in (MINUTE, timedelta(0))
    )

    endpoints = storage.read_endpoints(connection, [valid, over])

    assert endpoints[valid].previous_sealed_secret == b"old"
    assert endpoints[over].previous_sealed_secret is None


# The breaker


def test_four_failures_in_a_row_leave_it_closed_and_the_fifth_opens_it_for_a_minute(
    connection: sa.Connection, hook: int
) -> None:
    assert storage.judge(connection, failures(hook, 4)) == []
    assert observed.breaker(connection, hook) == (4, NOON, 0, None)

    (verdict,) = storage.judge(connection, failures(hook, 1, NOON + MINUTE))

    assert (verdict.id, verdict.disabled_at, verdict.disabled_reason) == (hook, None, None)
    assert observed.breaker(connection, hook) == (5, NOON, 1, NOON + 2 * MINUTE)


def test_five_failures_at_once_open_it_too(connection: sa.Connection, hook: int) -> None:
    assert len(storage.judge(connection, failures(hook, 5))) == 1
    assert observed.breaker(connection, hook) == (5, NOON, 1, NOON + MINUTE)


def test_each_probe_that_fails_opens_it_for_twice_as_long_and_what_ends_before_does_not(
    connection: sa.Connection, hook: int
) -> None:
    storage.judge(connection, failures(hook, 5))
    until = NOON + MINUTE
    assert storage.judge(connection, failures(hook, 1, until - MICROSECOND)) == []
    assert observed.breaker(connection, hook) == (6, NOON, 1, until)

    for trips, minutes in enumerate((2, 4, 8), start=1):
        assert len(storage.judge(connection, failures(hook, 1, until))) == 1
        assert observed.breaker(connection, hook) == (6 + trips, NOON, trips + 1, until + minutes * MINUTE)
        until += minutes * MINUTE


def test_a_success_forgets_every_failure_and_closes_the_breaker(connection: sa.Connection, hook: int) -> None:
    storage.judge(connection, failures(hook, 5))

    assert storage.judge(connection, [success(hook)]) == []
    assert observed.breaker(connection, hook) == CLOSED
    assert storage.judge(connection, failures(hook, 4)) == []


def test_of_a_batch_only_what_failed_after_the_last_success_counts(connection: sa.Connection, hook: int) -> None:
    storage.judge(connection, failures(hook, 4, NOON - HOUR))
    batch = [*failures(hook, 4), success(hook), *failures(hook, 3), success(hook), *failures(hook, 2, NOON + MINUTE)]

    assert storage.judge(connection, batch) == []
    assert observed.breaker(connection, hook) == (2, NOON + MINUTE, 0, None)


def test_an_open_breaker_that_a_success_closes_opens_anew_for_a_minute_also_within_one_batch(
    connection: sa.Connection, hook: int
) -> None:
    storage.judge(connection, failures(hook, 5))
    storage.judge(connection, failures(hook, 1, NOON + MINUTE))

    assert len(storage.judge(connection, [success(hook), *failures(hook, 5, NOON + 2 * MINUTE)])) == 1
    assert observed.breaker(connection, hook) == (5, NOON + 2 * MINUTE, 1, NOON + 3 * MINUTE)


def test_the_results_of_several_endpoints_are_told_apart(connection: sa.Connection, work: Workspace) -> None:
    bad, good, bystander = (work.webhook(connection) for _ in range(3))
    batch = [each for _ in range(5) for each in (*failures(bad, 1), success(good))]

    assert [verdict.id for verdict in storage.judge(connection, batch)] == [bad]
    assert observed.breaker(connection, good) == observed.breaker(connection, bystander) == CLOSED


def test_nothing_to_judge_changes_nothing(connection: sa.Connection, hook: int) -> None:
    assert storage.judge(connection, []) == []
    assert storage.judge(connection, [success(hook), *failures(999_999, 10)]) == []
    assert observed.breaker(connection, hook) == CLOSED


# Given up


@pytest.mark.parametrize(
    ("count", "later", "given_up"),
    [(10, HOUR + MICROSECOND, True), (10, HOUR, False), (9, HOUR + MICROSECOND, False), (9, 48 * HOUR, False)],
)
def test_ten_failures_and_more_than_an_hour_since_the_first_disable_it_and_nine_or_exactly_an_hour_do_not(
    connection: sa.Connection, hook: int, count: int, later: timedelta, *, given_up: bool
) -> None:
    storage.judge(connection, failures(hook, count - 1))
    (verdict,) = storage.judge(connection, failures(hook, 1, NOON + later))

    said = "10 deliveries in a row have failed" if given_up else None
    assert (reason(connection, hook), verdict.disabled_reason) == (said, said)
    assert (verdict.disabled_at is not None) == given_up


def test_a_success_among_them_starts_the_hour_anew(connection: sa.Connection, hook: int) -> None:
    storage.judge(connection, failures(hook, 9))
    storage.judge(connection, [success(hook, NOON + HOUR), *failures(hook, 10, NOON + 2 * HOUR)])
    assert reason(connection, hook) is None

    storage.judge(connection, failures(hook, 1, NOON + 3 * HOUR))
    assert reason(connection, hook) is None, "exactly an hour since the first after the success"
    storage.judge(connection, failures(hook, 1, NOON + 3 * HOUR + MICROSECOND))
    assert reason(connection, hook) == "12 deliveries in a row have failed"


def test_one_that_is_gone_is_disabled_at_once(connection: sa.Connection, hook: int) -> None:
    (verdict,) = storage.judge(connection, [gone(hook)])

    row = observed.webhook(connection, hook)
    assert (row["active"], row["disabled_reason"]) == (False, "it answered 410 Gone")
    assert row["disabled_at"] <= observed.now(connection)
    assert (verdict.id, verdict.disabled_at) == (hook, row["disabled_at"])


def test_one_that_is_gone_is_disabled_also_when_another_request_of_the_batch_succeeded(
    connection: sa.Connection, work: Workspace
) -> None:
    before, after = work.webhook(connection), work.webhook(connection)

    verdicts = storage.judge(connection, [success(before), gone(before), gone(after), success(after)])

    assert [(verdict.id, verdict.disabled_reason) for verdict in verdicts] == [
        (each, "it answered 410 Gone") for each in (before, after)
    ]


@pytest.mark.parametrize("by_hand", [True, False])
def test_what_is_disabled_already_is_left_alone(connection: sa.Connection, hook: int, *, by_hand: bool) -> None:
    if by_hand:
        disable_webhook(connection, hook, "enough")
    else:
        storage.judge(connection, [gone(hook)])
    before = observed.webhook(connection, hook)

    assert storage.judge(connection, [gone(hook), *failures(hook, 20, NOON + 2 * HOUR), success(hook)]) == []
    assert observed.webhook(connection, hook) == before


def test_one_that_is_enabled_again_starts_from_nothing(connection: sa.Connection, hook: int) -> None:
    storage.judge(connection, failures(hook, 9))
    storage.judge(connection, failures(hook, 1, NOON + 2 * HOUR))
    assert reason(connection, hook) is not None

    assert enable_webhook(connection, hook)

    assert (observed.breaker(connection, hook), reason(connection, hook)) == (CLOSED, None)
    assert storage.judge(connection, failures(hook, 4, NOON + 3 * HOUR)) == []


@dataclass
class Plain:
    """An endpoint as `delinquency` has it, one result after the other; judged at the end of each batch."""

    failures: int = 0
    first: datetime | None = None
    trips: int = 0
    open_until: datetime | None = None
    reason: str | None = None

    def read(self, batch: Sequence[Result]) -> bool:
        """Whether it is worse now."""
        if self.reason is not None or not batch:
            return False
        for each in batch:
            if each.ok:
                self.failures, self.first, self.trips, self.open_until = CLOSED
            else:
                self.failures += 1
                self.first = min(self.first or each.ended_at, each.ended_at)
        at = max(each.ended_at for each in batch)
        opens = self.failures >= OPENS_AFTER and (self.open_until is None or self.open_until <= at)
        if opens:
            self.open_until = at + wait(self.trips)
            self.trips += 1
        if any(each.gone for each in batch):
            self.reason = "it answered 410 Gone"
        elif self.first is not None and is_delinquent(self.failures, at - self.first):
            self.reason = f"{self.failures} deliveries in a row have failed"
        return opens or self.reason is not None


ENDPOINTS = 3
kinds = st.sampled_from(15 * ["failed"] + 2 * ["ok"] + ["gone"])
outcomes = st.tuples(st.integers(0, ENDPOINTS - 1), kinds, st.sampled_from([0, 0, 1, 5, 30, 60]))
batches = st.lists(st.tuples(st.sampled_from([0, 1, 20, 60]), st.lists(outcomes, max_size=12)), max_size=12)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches)
def test_what_is_judged_in_one_statement_is_what_a_plain_reading_says(
    connection: sa.Connection, batches: list[tuple[int, list[tuple[int, str, int]]]]
) -> None:
    with connection.begin_nested() as nothing_stays:
        work = Workspace(connection)
        plain = {work.webhook(connection): Plain() for _ in range(ENDPOINTS)}
        hooks = list(plain)
        at = NOON
        for minutes, drawn in batches:
            at += minutes * MINUTE
            batch = [
                Result(hooks[which], kind == "ok", kind == "gone", at + later * MINUTE) for which, kind, later in drawn
            ]
            worse = {hook: plain[hook].read([each for each in batch if each.webhook_id == hook]) for hook in hooks}

            verdicts = storage.judge(connection, batch)

            assert [(verdict.id, verdict.disabled_reason) for verdict in verdicts] == [
                (hook, plain[hook].reason) for hook in hooks if worse[hook]
            ]
            for hook in hooks:
                held = plain[hook]
                expected = (held.failures, held.first, held.trips, held.open_until)
                assert (observed.breaker(connection, hook), reason(connection, hook)) == (expected, held.reason)
        nothing_stays.rollback()


# Owners are told


def given_up(connection: sa.Connection, *hooks: int) -> list[Verdict]:
    return storage.judge(connection, [gone(hook) for hook in hooks])


def addresses(mails: Iterable[observed.Row]) -> list[str]:
    return [mail["to"] for mail in mails]


def test_of_one_that_is_disabled_every_active_owner_is_told_by_one_mail_and_whoever_is_alerted(
    connection: sa.Connection, hook: int, work: Workspace
) -> None:
    make.user(connection, work.account, "owner", email="second@acme.example")
    make.user(connection, work.account, "owner", email="inactive@acme.example", active=False)
    make.user(connection, work.account, "owner", email=None)
    for role in ("admin", "member", "system"):
        make.user(connection, work.account, role)
    make.user(connection, make.account(connection), "owner")
    first = connection.execute(sa.select(tables.users.c.email).where(tables.users.c.id == work.owner)).scalar_one()

    count = storage.tell_owners(connection, given_up(connection, hook), "ops@flatearth.example")

    mails = observed.mails(connection)
    assert count == 3
    assert addresses(mails) == sorted([first, "second@acme.example", "ops@flatearth.example"])
    for mail in mails:
        assert SendEmail.model_validate(mail).subject == "Webhook disabled: Chat"
        assert f"flatearth webhooks enable {hook}" in mail["text"]
        assert "it answered 410 Gone" in mail["text"]


def test_somebody_who_is_an_owner_and_alerted_gets_one_mail(connection: sa.Connection) -> None:
    account = make.account(connection)
    make.user(connection, account, "owner", email="ada@acme.example")

    verdicts = given_up(connection, make.webhook(connection, account))

    assert storage.tell_owners(connection, verdicts, "ada@acme.example") == 1
    assert addresses(observed.mails(connection)) == ["ada@acme.example"]


def test_without_owners_and_alerts_nobody_is_told(connection: sa.Connection) -> None:
    verdicts = given_up(connection, make.webhook(connection, make.account(connection)))

    assert storage.tell_owners(connection, verdicts, None) == 0
    assert observed.mails(connection) == []


def test_of_one_that_has_only_opened_nobody_is_told(connection: sa.Connection, hook: int) -> None:
    verdicts = storage.judge(connection, failures(hook, 5))

    assert len(verdicts) == 1
    assert storage.tell_owners(connection, verdicts, "ops@flatearth.example") == 0


def test_each_owner_hears_of_their_own_endpoints_only(connection: sa.Connection) -> None:
    accounts = [make.account(connection) for _ in range(2)]
    for number, account in enumerate(accounts):
        make.user(connection, account, "owner", email=f"owner{number}@acme.example")
    hooks = [make.webhook(connection, account, name=f"Of {account}") for account in accounts]

    storage.tell_owners(connection, given_up(connection, *hooks), None)

    mails = observed.mails(connection)
    assert [(mail["to"], mail["subject"]) for mail in mails] == [
        (f"owner{number}@acme.example", f"Webhook disabled: Of {account}") for number, account in enumerate(accounts)
    ]


def test_what_is_disabled_once_more_is_told_once_more(connection: sa.Connection, hook: int) -> None:
    for _ in range(2):
        storage.tell_owners(connection, given_up(connection, hook), None)
        enable_webhook(connection, hook)

    assert len(observed.mails(connection)) == 2


def test_the_mail_and_what_it_tells_of_are_committed_together_or_not_at_all(
    engine: sa.Engine, office: Workspace
) -> None:
    with engine.begin() as connection:
        hook = office.webhook(connection)
    with engine.connect() as connection:
        assert storage.tell_owners(connection, given_up(connection, hook), None) == 1
        connection.rollback()
        assert (observed.mails(connection), reason(connection, hook)) == ([], None)


def test_a_name_that_no_subject_can_hold_and_a_url_with_a_secret_are_told_all_the_same_without_it(
    connection: sa.Connection, work: Workspace
) -> None:
    name = "The\r\nBcc: everybody@acme.example " + 600 * "x"
    hook = work.webhook(connection, name=name, url="https://hooks.acme.example/in?token=s3cret")

    storage.tell_owners(connection, given_up(connection, hook), None)

    (mail,) = observed.mails(connection)
    assert SendEmail.model_validate(mail).subject
    assert "s3cret" not in str(mail)
    assert "https://hooks.acme.example/in" in mail["text"]
