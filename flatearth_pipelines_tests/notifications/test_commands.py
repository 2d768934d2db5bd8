"""`flatearth bundles` and `flatearth unsubscribe`, as people type them."""

from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from flatearth_pipelines_tests.console import Flatearth
from flatearth_pipelines_tests.notifications import observed
from flatearth_pipelines_tests.notifications.mails import change, deliver, due_bundle, due_bundles, ends, now, row
from flatearth_pipelines_tests.notifications.test_unsubscribe import signed
from flatearth_pipelines_tests.notifications.workspace import Workspace, bundle
from flatearth_pipelines_tests.smtp import Server, free_port, part

DAY = timedelta(days=1)


@pytest.fixture(autouse=True)
def environment(post: Server, secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert secret
    monkeypatch.setenv("FLATEARTH_SMTP_URL", post.url)


# list and show


def test_list_shows_the_newest_first_of_the_states_the_person_and_the_account_that_are_asked_for(
    engine: sa.Engine, main: Flatearth, office: Workspace
) -> None:
    with engine.begin() as connection:
        ada, bo = office.person(connection), office.person(connection)
        first = bundle(connection, ada, "-3 hours", "-2 hours", status="failed", last_error="554 no")
        second = bundle(connection, bo, "-1 hour", "1 hour")
        theirs = Workspace(connection)
        third = bundle(connection, theirs.person(connection), "-1 hour", "1 hour")

    def listed(*options: object) -> list[int]:
        return [row["id"] for row in main("bundles", "list", "--json", *options).json()]

    assert listed() == [third, second, first]
    assert listed("--state", "failed") == [first]
    assert listed("--state", "failed", "--state", "pending", "--account", office.account) == [second, first]
    assert listed("--user", ada) == [first]
    assert listed("--limit", 1, "--offset", 1) == [second]
    ran = main("bundles", "list")
    assert "554 no" in ran.out
    assert ran.exit_code == 0


@pytest.mark.usefixtures("database")
def test_an_empty_list_says_so_and_an_unknown_state_is_wrong_usage(main: Flatearth) -> None:
    assert main("bundles", "list").out == "No bundles.\n"
    assert main("bundles", "list", "--json").json() == []
    ran = main("bundles", "list", "--state", "lost")
    assert (ran.exit_code, ran.out) == (2, "")
    assert "There is no state 'lost': there are pending, processing, delivered, failed" in ran.err


def test_show_has_every_column_and_what_the_mail_would_hold_now(
    engine: sa.Engine, main: Flatearth, office: Workspace
) -> None:
    with engine.begin() as connection:
        bundle_id = due_bundle(connection, office)

    shown = main("bundles", "show", bundle_id, "--json").json()

    assert (shown["id"], shown["status"], shown["attempts"]) == (bundle_id, "pending", 0)
    assert (shown["now"]["unread"], shown["now"]["reason_for_no_mail"]) == (1, None)
    assert f"{bundle_id}" in main("bundles", "show", bundle_id).out
    assert ends(engine) == {bundle_id: ("pending", None)}


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("command", ["show", "preview", "deliver"])
def test_a_bundle_that_is_not_there_is_one_line_and_exit_code_one(main: Flatearth, command: str) -> None:
    ran = main("bundles", command, 999_999)
    assert (ran.exit_code, ran.err) == (1, "Error: There is no bundle 999999\n")


# preview


def test_preview_writes_the_very_html_and_text_of_the_mail_and_sends_nothing(
    engine: sa.Engine, main: Flatearth, office: Workspace, post: Server, tmp_path: Path
) -> None:
    with engine.begin() as connection:
        bundle_id = due_bundle(connection, office)
    at = now(engine)

    ran = main("bundles", "preview", bundle_id, "--to", tmp_path / "new", "--as-of", at.isoformat())

    assert (ran.exit_code, post.mails) == (0, [])
    assert ends(engine) == {bundle_id: ("pending", None)}
    deliver(engine, post.url, as_of=at)
    html, text = ((tmp_path / "new" / f"bundle-{bundle_id}.{kind}").read_text() for kind in ("html", "txt"))
    mail = post.mail()
    assert (part(mail, "html"), part(mail, "plain")) == (html, text)
    assert ran.out.splitlines()[0] == f"To {mail['To']}: {mail['Subject']}"


def test_preview_of_what_would_not_be_sent_says_why(
    engine: sa.Engine, main: Flatearth, office: Workspace, tmp_path: Path
) -> None:
    with engine.begin() as connection:
        empty = bundle(connection, office.person(connection), "-1 hour", "-1 minute")
        person = office.person(connection)
        inactive = due_bundle(connection, office, person)
    change(engine, "UPDATE flatearth.users SET active = false WHERE id = :id", id=person)

    assert main("bundles", "preview", empty, "--to", tmp_path).out == "Nothing would be sent: nothing unread.\n"
    assert list(tmp_path.iterdir()) == []
    told = main("bundles", "preview", inactive, "--to", tmp_path).out
    assert told.startswith("Nothing would be sent: user inactive.\n")
    said = main("bundles", "preview", inactive, "--to", tmp_path, "--json").json()
    assert (said["would_be_sent"], said["reason"], len(said["files"])) == (False, "user_inactive", 2)


def test_preview_writes_into_the_current_directory(
    engine: sa.Engine, main: Flatearth, office: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine.begin() as connection:
        bundle_id = due_bundle(connection, office)
    monkeypatch.chdir(tmp_path)

    main("bundles", "preview", bundle_id)

    assert {path.name for path in tmp_path.iterdir()} == {f"bundle-{bundle_id}.html", f"bundle-{bundle_id}.txt"}


# deliver


def test_deliver_sends_what_is_due_and_says_how_it_went(
    engine: sa.Engine, main: Flatearth, office: Workspace, post: Server
) -> None:
    with engine.begin() as connection:
        due_bundles(connection, office, 3)
        office.notification(connection, office.person(connection))

    assert main("bundles", "deliver", "--json").json() == [{"outcome": "mailed", "bundles": 3}]
    assert len(post.mails) == 3
    assert main("bundles", "deliver").out == "Nothing to do: no bundle is due.\n"


def test_deliver_with_an_id_sends_that_one_now_and_nothing_more_falls_into_its_window(
    engine: sa.Engine, main: Flatearth, office: Workspace, post: Server
) -> None:
    with engine.begin() as connection:
        person = office.person(connection)
        office.notification(connection, person)
        (only,) = observed.bundles(connection, person)
        due_bundles(connection, office, 1)

    assert main("bundles", "deliver", only["id"]).exit_code == 0

    assert len(post.mails) == 1
    with engine.begin() as connection:
        office.notification(connection, person)
        (_, first_end), (second_start, _) = observed.windows(connection, person)
    assert first_end <= second_start


def test_deliver_with_the_id_of_one_that_failed_or_with_failed_tries_again(
    engine: sa.Engine, main: Flatearth, office: Workspace
) -> None:
    with engine.begin() as connection:
        first, second, _ = due_bundles(connection, office, 3)
    change(
        engine,
        "UPDATE flatearth.notification_bundles SET status = 'failed', outcome = 'exhausted', last_error = 'x',"
        f" attempts = 8 WHERE id IN ({first}, {second})",
    )

    assert main("bundles", "deliver", first).exit_code == 0
    assert ends(engine)[second] == ("failed", "exhausted")
    assert main("bundles", "deliver", "--failed", "--json").json() == [{"outcome": "mailed", "bundles": 1}]

    assert set(ends(engine).values()) == {("delivered", "mailed"), ("pending", None)}
    assert row(engine, first)["attempts"] == 1
    assert main("bundles", "deliver", first, "--failed").exit_code == 2


def test_deliver_of_what_the_server_refuses_ends_with_one_and_the_reason(
    engine: sa.Engine, main: Flatearth, office: Workspace, post: Server
) -> None:
    post.answers["RCPT"] = "554 5.7.1 no"
    with engine.begin() as connection:
        bundle_id = due_bundle(connection, office)

    ran = main("bundles", "deliver", bundle_id)

    assert ran.exit_code == 1
    assert f"Error: bundle {bundle_id} is failed: 554 5.7.1 no\n" in ran.err


def test_deliver_to_a_server_that_is_away_ends_with_one_and_says_so(
    engine: sa.Engine, main: Flatearth, office: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLATEARTH_SMTP_URL", f"smtp://ada:s3cret@127.0.0.1:{free_port()}")
    with engine.begin() as connection:
        due_bundle(connection, office)

    ran = main("bundles", "deliver")

    assert ran.exit_code == 1
    assert "Error: The mail server is away: " in ran.err
    assert "s3cret" not in ran.err


# unsubscribe


def test_unsubscribe_with_the_token_of_a_mail_ends_all_that_waits_and_may_be_said_twice(
    engine: sa.Engine, main: Flatearth, office: Workspace, post: Server
) -> None:
    with engine.begin() as connection:
        person = office.person(connection)
        due_bundle(connection, office, person)
    deliver(engine, post.url)
    with engine.begin() as connection:
        office.notification(connection, person)
    token = post.mail()["List-Unsubscribe"].strip("<>").rpartition("/")[2]

    first, second = main("unsubscribe", token), main("unsubscribe", token, "--json")

    assert first.exit_code == 0
    assert first.out.endswith(f"(user {person}) gets no email notifications any more.\n")
    assert second.json() == {"user_id": person, "email_frequency": "never"}
    with engine.begin() as connection:
        assert [bundle["status"] for bundle in observed.bundles(connection, person)] == ["delivered"]
        office.notification(connection, person)
        assert len(observed.bundles(connection, person)) == 1


def test_who_is_inactive_can_still_unsubscribe(engine: sa.Engine, main: Flatearth, office: Workspace) -> None:
    with engine.begin() as connection:
        person = office.person(connection, "daily")
    change(engine, "UPDATE flatearth.users SET active = false")
    token = signed({"user": person, "until": int((now(engine) + DAY).timestamp())})

    assert main("unsubscribe", token).exit_code == 0
    with engine.connect() as connection:
        frequency = connection.execute(sa.text("SELECT email_frequency FROM flatearth.notification_settings"))
        assert frequency.scalar_one() == "never"


def test_a_token_that_is_not_valid_is_one_line(engine: sa.Engine, main: Flatearth) -> None:
    expired = signed({"user": 1, "until": int((now(engine) - DAY).timestamp())})
    unknown = signed({"user": 999_999, "until": int((now(engine) + DAY).timestamp())})

    assert main("unsubscribe", "nonsense") == (
        1,
        "",
        "Error: The token is none of ours: it takes the last part of a link to unsubscribe\n",
    )
    assert main("unsubscribe", expired) == (2, "", "Error: The token has expired: they are valid for 30 days\n")
    assert main("unsubscribe", unknown) == (1, "", "Error: There is no user 999999\n")


@pytest.mark.usefixtures("database")
def test_without_a_secret_no_token_can_be_verified(main: Flatearth, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLATEARTH_SECRET_KEY")
    ran = main("unsubscribe", "x")
    assert ran.exit_code == 2
    assert ran.err.startswith("Error: FLATEARTH_SECRET_KEY is not set")
