"""A delivery from end to end: what is due is mailed over real SMTP, once, and what became of it is recorded."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import pytest
import sqlalchemy as sa

from flatearth_pipelines import tables
from flatearth_pipelines.claimant import claimant
from flatearth_pipelines.notifications import delivery_storage
from flatearth_pipelines.notifications.delivery import Delivery, Options, Report, rehearse
from flatearth_pipelines.notifications.functions import create_notification
from flatearth_pipelines.notifications.settlement import WAITS, Settlement
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.notifications import observed
from flatearth_pipelines_tests.notifications.mails import (
    change,
    deliver,
    due_bundle,
    due_bundles,
    ends,
    notification,
    notify,
    now,
    row,
    settings,
)
from flatearth_pipelines_tests.notifications.workspace import Workspace, bundle
from flatearth_pipelines_tests.processes import until
from flatearth_pipelines_tests.smtp import Server, free_port, part, smtp_server

MICROSECOND = timedelta(microseconds=1)
SECOND = timedelta(seconds=1)


# What is due


def test_a_bundle_whose_window_is_over_is_mailed_once_and_that_is_recorded(
    engine: sa.Engine, post: Server, office: Workspace
) -> None:
    with engine.begin() as connection:
        bundle_id = due_bundle(connection, office)

    first, second = deliver(engine, post.url), deliver(engine, post.url)

    mail = post.mail()
    assert mail["Subject"] == "1 new notification"
    assert "Fix the bug" in part(mail, "plain")
    assert "Fix the bug" in part(mail, "html")
    assert (first.claimed, first.notifications, dict(first.outcomes)) == (1, 1, {"mailed": 1})
    assert (second.claimed, dict(second.outcomes)) == (0, {})
    recorded = row(engine, bundle_id)
    end = recorded["status"], recorded["outcome"], recorded["items"], recorded["attempts"]
    assert end == ("delivered", "mailed", 1, 1)
    assert recorded["message_id"] == mail["Message-ID"]
    assert recorded["delivered_at"] <= now(engine)
    assert (recorded["claim"], recorded["claimed_until"], recorded["last_error"]) == (None, None, None)


def test_a_window_that_ends_exactly_then_is_due_and_one_that_ends_a_microsecond_later_is_not(
    engine: sa.Engine, post: Server, office: Workspace
) -> None:
    with engine.begin() as connection:
        exactly, later = due_bundle(connection, office), due_bundle(connection, office)
        _, as_of = row_window(connection, exactly)
        set_end = sa.text("UPDATE flatearth.notification_bundles SET ends_at = :at WHERE id = :id")
        connection.execute(set_end, {"at": as_of + MICROSECOND, "id": later})

    deliver(engine, post.url, as_of=as_of)
    assert ends(engine) == {exactly: ("delivered", "mailed"), later: ("pending", None)}
    deliver(engine, post.url, as_of=as_of + MICROSECOND)

    assert ends(engine) == {exactly: ("delivered", "mailed"), later: ("delivered", "mailed")}
    assert len(post.mails) == 2


def test_a_window_that_is_delivered_as_of_a_later_instant_is_over_then_so_that_nothing_more_falls_into_it(
    engine: sa.Engine, post: Server, office: Workspace
) -> None:
    with engine.begin() as connection:
        person = office.person(connection)
        office.notification(connection, person)

    deliver(engine, post.url, as_of=now(engine) + make.DAY)
    with engine.begin() as connection:
        office.notification(connection, person)
    deliver(engine, post.url, as_of=now(engine) + make.DAY)

    assert [mail["Subject"] for mail in post.mails] == ["1 new notification"] * 2
    with engine.connect() as connection:
        (_, first_end), (second_start, _) = observed.windows(connection, person)
    assert first_end <= second_start


def test_several_deliveries_at_once_mail_each_bundle_once(engine: sa.Engine, post: Server, office: Workspace) -> None:
    with engine.begin() as connection:
        due_bundles(connection, office, 120)

    at_once(4, lambda: deliver(engine, post.url, batch_size=7))

    assert set(ends(engine).values()) == {("delivered", "mailed")}
    assert (len(post.mails), set(post.recipients().values())) == (120, {1})


def test_everything_that_is_due_is_delivered_however_small_the_batches(
    engine: sa.Engine, post: Server, office: Workspace
) -> None:
    with engine.begin() as connection:
        due_bundles(connection, office, 10)

    report = deliver(engine, post.url, batch_size=3, connections=2)

    assert (report.claimed, dict(report.outcomes)) == (10, {"mailed": 10})
    assert post.connections == 2


def test_one_that_stays_delivers_what_becomes_due_meanwhile(engine: sa.Engine, post: Server, office: Workspace) -> None:
    with engine.begin() as connection:
        person = office.person(connection)
        notify(connection, office, person)
        bundle(connection, person, "-1 hour", "1 second")

    assert dict(deliver(engine, post.url, stay_seconds=3).outcomes) == {"mailed": 1}


# What stands in the mail


def test_what_is_in_the_window_and_unread_is_mailed_from_its_start_to_before_its_end(
    engine: sa.Engine, post: Server, office: Workspace
) -> None:
    with engine.begin() as connection:
        person = office.person(connection)
        window = bundle(connection, person, "-1 hour", "-1 minute")
        starts, end = row_window(connection, window)
        instants = {"first": starts, "last": end - MICROSECOND, "before": starts - MICROSECOND, "after": end}
        for name, instant in instants.items():
            card = make.card(connection, office.board, title=f"<{name}>")
            notify(connection, office, person, about=card, created_at=instant)
        read = make.card(connection, office.board, title="<read>")
        notify(connection, office, person, about=read, read_at=starts)

    deliver(engine, post.url)

    text = part(post.mail(), "plain")
    shown = {name for name in (*instants, "read") if f"<{name}>" in text}
    assert shown == {"first", "last"}
    assert row(engine, window)["items"] == 2


def test_what_was_read_between_the_window_and_the_delivery_is_not_mailed(
    engine: sa.Engine, post: Server, office: Workspace
) -> None:
    with engine.begin() as connection:
        person = office.person(connection)
        due_bundle(connection, office, person)
        notify(connection, office, person)
        first = connection.execute(sa.text("SELECT min(id) FROM flatearth.notifications")).scalar_one()
    change(engine, "UPDATE flatearth.notifications SET read_at = now() WHERE id = :first", first=first)

    deliver(engine, post.url)

    assert post.mail()["Subject"] == "1 new notification"


@pytest.mark.parametrize(
    "gone",
    [
        "DELETE FROM flatearth.events",
        "DELETE FROM flatearth.comments",
        "DELETE FROM flatearth.cards",
        "UPDATE flatearth.boards SET all_access = false",
        "UPDATE flatearth.notifications SET read_at = now()",
    ],
)
def test_of_what_is_gone_or_out_of_reach_or_read_nothing_is_mailed(
    engine: sa.Engine, post: Server, office: Workspace, gone: str
) -> None:
    with engine.begin() as connection:
        person = office.person(connection)
        comment = make.comment(connection, office.card, creator_id=office.actor)
        notify(connection, office, person, "comment_created", about=comment)
        bundle_id = bundle(connection, person, "-1 hour", "-1 minute")
    change(engine, gone)

    deliver(engine, post.url)

    assert ends(engine) == {bundle_id: ("delivered", "nothing_unread")}
    assert post.mails == []


def test_of_a_mention_that_is_gone_nothing_is_mailed(engine: sa.Engine, post: Server, office: Workspace) -> None:
    with engine.begin() as connection:
        person = office.person(connection)
        notification(connection, person, "mention", 999_999)
        bundle_id = bundle(connection, person, "-1 hour", "-1 minute")

    deliver(engine, post.url)

    assert ends(engine) == {bundle_id: ("delivered", "nothing_unread")}


def test_a_card_of_another_account_is_never_mailed(engine: sa.Engine, post: Server, office: Workspace) -> None:
    with engine.begin() as connection:
        person = office.person(connection)
        theirs = Workspace(connection)
        notify(connection, office, person, about=theirs.card)
        bundle_id = bundle(connection, person, "-1 hour", "-1 minute")

    deliver(engine, post.url)

    assert ends(engine) == {bundle_id: ("delivered", "nothing_unread")}


# Nobody to send it to


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("UPDATE flatearth.accounts SET cancelled_at = now()", "account_cancelled"),
        ("UPDATE flatearth.users SET active = false", "user_inactive"),
        ("UPDATE flatearth.users SET role = 'system' WHERE id = :person", "user_inactive"),
        ("UPDATE flatearth.users SET email = NULL", "no_address"),
        ("UPDATE flatearth.users SET email = ''", "no_address"),
        (
            "INSERT INTO flatearth.email_suppressions (address, reason) VALUES ('ada@acme.example', 'bounced')",
            "suppressed",
        ),
    ],
)
def test_without_somebody_to_send_it_to_a_bundle_is_delivered_without_mail_and_the_reason_recorded(
    engine: sa.Engine, post: Server, office: Workspace, statement: str, reason: str
) -> None:
    with engine.begin() as connection:
        person = make.user(connection, office.account, email="ADA@Acme.example")
        bundle_id = due_bundle(connection, office, person)
    change(engine, statement.replace(":person", str(person)))

    report = deliver(engine, post.url)

    assert ends(engine) == {bundle_id: ("delivered", reason)}
    assert dict(report.outcomes) == {reason: 1}
    assert post.mails == []


def test_somebody_who_wants_no_mail_by_now_gets_none(engine: sa.Engine, post: Server, office: Workspace) -> None:
    """A pending bundle goes with that choice; this one was being delivered at that moment."""
    with engine.begin() as connection:
        bundle_id = due_bundle(connection, office, office.person(connection, "never"))

    deliver(engine, post.url)

    assert ends(engine) == {bundle_id: ("delivered", "never")}
    assert post.mails == []


# What the server says


def test_what_the_server_takes_later_waits_longer_each_time_and_is_given_up_after_the_eighth_attempt(
    engine: sa.Engine, post: Server, office: Workspace
) -> None:
    post.answers["RCPT"] = "451 4.7.1 come back later"
    with engine.begin() as connection:
        bundle_id = due_bundle(connection, office)
    waits = []
    for attempt in range(1, 9):
        before = now(engine)
        deliver(engine, post.url)
        recorded = row(engine, bundle_id)
        assert recorded["attempts"] == attempt
        assert recorded["last_error"] == "451 4.7.1 come back later"
        if recorded["status"] == "pending":
            waits.append(recorded["next_attempt_at"] - before)
            assert dict(deliver(engine, post.url).outcomes) == {}, "not before its time"
            change(engine, "UPDATE flatearth.notification_bundles SET next_attempt_at = now()")

    assert all(planned <= wait < planned + 60 * SECOND for planned, wait in zip(WAITS, waits, strict=True))
    assert ends(engine) == {bundle_id: ("failed", "exhausted")}
    assert deliver(engine, post.url).claimed == 0


def test_what_waits_for_its_next_attempt_is_mailed_by_it(engine: sa.Engine, post: Server, office: Workspace) -> None:
    post.answers["DATA"] = "451 4.3.0 not now"
    with engine.begin() as connection:
        bundle_id = due_bundle(connection, office)
    deliver(engine, post.url)
    post.answers.clear()

    deliver(engine, post.url, as_of=row(engine, bundle_id)["next_attempt_at"] - MICROSECOND)
    assert ends(engine) == {bundle_id: ("pending", None)}
    deliver(engine, post.url, as_of=row(engine, bundle_id)["next_attempt_at"])

    assert ends(engine) == {bundle_id: ("delivered", "mailed")}
    assert len(post.mails) == 1


@pytest.mark.parametrize(
    "answer", ["550 5.1.1 nobody", "501 5.1.3 no such syntax", "552 5.6.0 no", "555 5.5.4 unsupported"]
)
def test_an_address_that_does_not_exist_gets_nothing_any_more(
    engine: sa.Engine, post: Server, office: Workspace, answer: str
) -> None:
    with engine.begin() as connection:
        person = make.user(connection, office.account, email="Ada@Acme.example")
        first = due_bundle(connection, office, person)
        other = due_bundle(connection, office)
    post.answers["Ada@acme.example"] = answer

    report = deliver(engine, post.url)
    post.answers.clear()
    with engine.begin() as connection:
        notify(connection, office, person, ago="1 second")
        second = bundle(connection, person, "-10 seconds", "-1 microsecond")
    deliver(engine, post.url)

    assert ends(engine) == {
        first: ("failed", "undeliverable"),
        other: ("delivered", "mailed"),
        second: ("delivered", "suppressed"),
    }
    assert dict(report.outcomes) == {"undeliverable": 1, "mailed": 1}
    assert row(engine, first)["last_error"] == answer
    with engine.connect() as connection:
        suppressed = connection.execute(sa.text("SELECT address, reason FROM flatearth.email_suppressions")).all()
    assert suppressed == [("ada@acme.example", answer)]


@pytest.mark.parametrize("answer", ["550 5.7.1 spam", "550 nobody", "554 5.6.0 no", "552 5.2.2 full", "503 bad"])
@pytest.mark.parametrize("step", ["RCPT", "DATA"])
def test_any_other_refusal_fails_that_bundle_and_nothing_else(
    engine: sa.Engine, post: Server, office: Workspace, step: str, answer: str
) -> None:
    with engine.begin() as connection:
        bad, good = due_bundle(connection, office), due_bundle(connection, office)
    post.answers[step] = answer
    deliver(engine, post.url, [bad])
    post.answers.clear()

    report = deliver(engine, post.url)

    assert ends(engine) == {bad: ("failed", "refused"), good: ("delivered", "mailed")}
    assert row(engine, bad)["last_error"] == answer
    assert dict(report.outcomes) == {"mailed": 1}
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM flatearth.email_suppressions")).scalar_one() == 0


def test_what_cannot_be_an_address_fails_that_bundle_and_nothing_else(
    engine: sa.Engine, post: Server, office: Workspace
) -> None:
    with engine.begin() as connection:
        evil = make.user(connection, office.account, email="ada@acme.example\r\nBcc: eve@evil.example")
        bad, good = due_bundle(connection, office, evil), due_bundle(connection, office)

    deliver(engine, post.url)

    assert ends(engine) == {bad: ("failed", "refused"), good: ("delivered", "mailed")}
    assert "is no address" in row(engine, bad)["last_error"]
    assert len(post.mails) == 1


def test_a_server_that_says_nothing_keeps_a_run_for_no_longer_than_an_answer_may_take(
    engine: sa.Engine, post: Server, office: Workspace
) -> None:
    post.silent = True
    with engine.begin() as connection:
        bundle_id = due_bundle(connection, office)

    report = deliver(engine, post.url, answer_seconds=0.2)

    assert dict(report.outcomes) == {"retried": 1}
    assert "timed out" in row(engine, bundle_id)["last_error"]


def test_a_connection_lost_after_the_mail_was_taken_sends_it_again_under_the_same_message_id(
    engine: sa.Engine, post: Server, office: Workspace
) -> None:
    post.hangs_up = True
    with engine.begin() as connection:
        bundle_id = due_bundle(connection, office)
    assert dict(deliver(engine, post.url).outcomes) == {"retried": 1}
    post.hangs_up = False

    deliver(engine, post.url, as_of=row(engine, bundle_id)["next_attempt_at"])

    first, second = post.mails
    assert first["Message-ID"] == second["Message-ID"] == row(engine, bundle_id)["message_id"]
    assert ends(engine) == {bundle_id: ("delivered", "mailed")}


def test_a_server_that_is_away_for_three_runs_and_comes_back_loses_nothing_and_gets_nothing_twice(
    engine: sa.Engine, office: Workspace
) -> None:
    port = free_port()
    with engine.begin() as connection:
        due_bundles(connection, office, 50)
    as_of = now(engine)
    for run in range(3):
        report = deliver(engine, f"smtp://127.0.0.1:{port}", as_of=as_of, batch_size=10)
        assert report.outage is not None
        assert report.claimed == 10
        assert (report.outcomes["retried"], report.put_off) == (10, 40)
        with engine.connect() as connection:
            rows = connection.execute(
                sa.text("SELECT attempts, status, last_error, next_attempt_at FROM flatearth.notification_bundles")
            ).all()
        assert {(attempts, status) for attempts, status, _, _ in rows} == {(run + 1, "pending")}
        assert all("refused" in error for _, _, error, _ in rows)
        as_of = max(at for _, _, _, at in rows)

    with smtp_server(port) as post:
        report = deliver(engine, post.url, as_of=as_of)

    assert dict(report.outcomes) == {"mailed": 50}
    assert (len(post.mails), set(post.recipients().values())) == (50, {1})


def test_a_server_that_is_away_for_eight_attempts_fails_what_was_due_with_the_reason(
    engine: sa.Engine, office: Workspace
) -> None:
    with engine.begin() as connection:
        due_bundles(connection, office, 3)
    change(engine, "UPDATE flatearth.notification_bundles SET attempts = 7")

    report = deliver(engine, f"smtp://127.0.0.1:{free_port()}", batch_size=1)

    assert dict(report.outcomes) == {"exhausted": 3}
    assert set(ends(engine).values()) == {("failed", "exhausted")}
    assert all("refused" in row(engine, bundle_id)["last_error"] for bundle_id in ends(engine))


def test_a_login_that_is_refused_fails_no_bundle(engine: sa.Engine, post: Server, office: Workspace) -> None:
    with engine.begin() as connection:
        bundle_id = due_bundle(connection, office)

    report = deliver(engine, post.url.replace("//", "//ada:s3cret@"))

    assert dict(report.outcomes) == {"retried": 1}
    assert ends(engine) == {bundle_id: ("pending", None)}
    assert "s3cret" not in row(engine, bundle_id)["last_error"]


# Somebody else at work


def test_what_a_delivery_held_that_is_gone_is_delivered_at_once_and_what_one_holds_that_lives_is_not(
    engine: sa.Engine, other_engine: sa.Engine, post: Server, office: Workspace
) -> None:
    with engine.begin() as connection:
        bundle_id = due_bundle(connection, office)
    with other_engine.connect() as connection, claimant(connection) as claim:
        with connection.begin():
            assert delivery_storage.claim_due(connection, claim, None, 10) == [bundle_id]
        assert deliver(engine, post.url).claimed == 0
        connection.invalidate()

    report = deliver(engine, post.url)

    assert (report.rescued, dict(report.outcomes)) == (1, {"mailed": 1})
    assert row(engine, bundle_id)["attempts"] == 2


def test_one_that_is_too_slow_loses_its_bundles_when_its_lease_is_over_and_changes_nothing_any_more(
    engine: sa.Engine, other_engine: sa.Engine, post: Server, office: Workspace
) -> None:
    with engine.begin() as connection:
        bundle_id = due_bundle(connection, office)
    with other_engine.connect() as connection, claimant(connection) as claim:
        with connection.begin():
            delivery_storage.claim_due(connection, claim, None, 10)
        change(engine, "UPDATE flatearth.notification_bundles SET claimed_until = clock_timestamp()")

        assert deliver(engine, post.url).rescued == 1

        with connection.begin():
            late = [Settlement(bundle_id, "failed", "refused", "too late")]
            assert delivery_storage.settle(connection, claim, late) == set()
    assert ends(engine) == {bundle_id: ("delivered", "mailed")}


def test_one_that_ends_every_delivery_is_given_up_after_the_eighth(
    engine: sa.Engine, post: Server, office: Workspace
) -> None:
    with engine.begin() as connection:
        bundle_id = due_bundle(connection, office)
    change(
        engine,
        "UPDATE flatearth.notification_bundles SET status = 'processing', attempts = 8, claim = gen_random_uuid(),"
        " claimed_until = clock_timestamp()",
    )

    deliver(engine, post.url)

    assert ends(engine) == {bundle_id: ("failed", "exhausted")}
    assert "without a word" in row(engine, bundle_id)["last_error"]


def test_an_interrupted_delivery_records_what_was_sent_and_hands_back_the_rest(
    engine: sa.Engine, post: Server, office: Workspace
) -> None:
    with engine.begin() as connection:
        due_bundles(connection, office, 100)

    def interrupt(_report: Report) -> None:
        raise KeyboardInterrupt

    with engine.connect() as connection:
        delivery = Delivery(connection, settings(post.url), Options(connections=1), interrupt)
        with pytest.raises(KeyboardInterrupt):
            delivery.run()

    sent = len(post.mails)
    assert sent < 100
    assert dict(delivery.report.outcomes) == {"mailed": sent, "handed_back": 100 - sent}
    with engine.connect() as connection:
        query = "SELECT status, attempts, count(*) FROM flatearth.notification_bundles GROUP BY 1, 2 ORDER BY 1"
        assert connection.execute(sa.text(query)).all() == [("delivered", 1, sent), ("pending", 0, 100 - sent)]
    deliver(engine, post.url)
    assert (len(post.mails), set(post.recipients().values())) == (100, {1})


def test_a_bundle_that_goes_with_its_person_while_it_is_sent_is_nobodys(
    engine: sa.Engine, post: Server, office: Workspace
) -> None:
    post.silent = True
    with engine.begin() as connection:
        person = office.person(connection)
        due_bundle(connection, office, person)
    reports: list[Report] = []
    thread = threading.Thread(target=lambda: reports.append(deliver(engine, post.url, answer_seconds=2)))
    thread.start()
    until(lambda: len(post.mails) == 1)

    change(engine, "DELETE FROM flatearth.users WHERE id = :id", id=person)
    thread.join()

    assert (reports[0].lost_to_others, dict(reports[0].outcomes)) == (1, {})
    assert ends(engine) == {}


def test_a_delivery_never_waits_for_somebody_who_has_its_bundles_locked_while_others_can_be_recorded(
    engine: sa.Engine, other_engine: sa.Engine, post: Server, office: Workspace
) -> None:
    """Who creates notifications for several people has the windows of all of them locked, in any order."""
    lock = sa.text("SELECT FROM flatearth.notification_bundles WHERE id = :id FOR UPDATE")
    post.slow = True
    with engine.begin() as connection:
        ids = due_bundles(connection, office, 10)
    with ThreadPoolExecutor(1) as pool, other_engine.connect() as somebody:
        run = pool.submit(deliver, engine, post.url, connections=1)
        until(lambda: len(post.mails) == 1)
        with somebody.begin():
            somebody.execute(lock, {"id": ids[-1]})
            until(lambda: [status for status, _ in ends(engine).values()].count("delivered") == 9)
            until(lambda: len(post.mails) == 10)
            assert ends(engine)[ids[-1]] == ("processing", None)
        report = run.result(60)

    assert dict(report.outcomes) == {"mailed": 10}
    assert set(ends(engine).values()) == {("delivered", "mailed")}


# A rehearsal


def test_a_rehearsal_reports_what_would_happen_and_changes_nothing(engine: sa.Engine, office: Workspace) -> None:
    with engine.begin() as connection:
        due_bundles(connection, office, 7)
        gone = office.person(connection)
        due_bundle(connection, office, gone)
        connection.execute(sa.text("UPDATE flatearth.users SET active = false WHERE id = :id"), {"id": gone})
        office.notification(connection, office.person(connection))
    before = ends(engine)

    with engine.connect() as connection:
        report = rehearse(connection, Options(batch_size=3))

    assert dict(report.outcomes) == {"mailed": 7, "user_inactive": 1}
    assert report.notifications == 7
    assert ends(engine) == before


# Beside those who write notifications


def test_somebody_who_is_being_told_something_is_left_to_the_next_delivery(
    engine: sa.Engine, other_engine: sa.Engine, post: Server, office: Workspace
) -> None:
    with engine.begin() as connection:
        person = office.person(connection)
        event = office.event(connection)
        window = bundle(connection, person, "-1 hour", "1 hour")
    later = now(engine) + make.DAY
    with other_engine.begin() as connection:
        create_notification(connection, office.account, person, "event", event)
        assert deliver(engine, post.url, as_of=later).claimed == 0

    deliver(engine, post.url, as_of=later)

    assert ends(engine) == {window: ("delivered", "mailed")}


def row_window(connection: sa.Connection, bundle_id: int) -> tuple[datetime, datetime]:
    """Where the window begins and ends."""
    bundles = tables.notification_bundles.c
    starts, end = connection.execute(sa.select(bundles.starts_at, bundles.ends_at).where(bundles.id == bundle_id)).one()
    return starts, end


def at_once(count: int, call: Callable[[], object]) -> None:
    """Call it in so many threads, and wait for all of them."""
    with ThreadPoolExecutor(count) as pool:
        for future in [pool.submit(call) for _ in range(count)]:
            future.result(60)
