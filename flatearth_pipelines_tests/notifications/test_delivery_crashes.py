"""A delivery in a process of its own, killed while it sends a thousand mails: nothing is lost, and what came through
twice is the same mail."""

import signal
from pathlib import Path

import pytest
import sqlalchemy as sa

from flatearth_pipelines_tests.notifications.mails import due_bundles, ends
from flatearth_pipelines_tests.notifications.workspace import Workspace
from flatearth_pipelines_tests.processes import ended, job_execute, until
from flatearth_pipelines_tests.smtp import Server

BUNDLES = 1_000


@pytest.fixture
def backlog(engine: sa.Engine, office: Workspace, post: Server, secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many bundles that are due, and the environment that mails them to `post`."""
    assert secret
    monkeypatch.setenv("FLATEARTH_SMTP_URL", post.url)
    with engine.begin() as connection:
        due_bundles(connection, office, BUNDLES)


@pytest.mark.usefixtures("backlog")
def test_of_a_delivery_that_is_killed_the_next_run_sends_the_rest_and_little_twice_with_the_same_message_id(
    engine: sa.Engine, post: Server, tmp_path: Path
) -> None:
    with job_execute(tmp_path, "deliver_bundles", "mail_due_bundles", {}) as process:
        until(lambda: len(post.mails) >= 150)
        process.kill()
        exit_code, _ = ended(process)
    assert exit_code == -signal.SIGKILL
    sent = len(post.mails)
    assert sent < BUNDLES

    with job_execute(tmp_path, "deliver_bundles", "mail_due_bundles", {}) as process:
        exit_code, output = ended(process)

    assert exit_code == 0, output
    assert set(ends(engine).values()) == {("delivered", "mailed")}
    arrived = post.recipients()
    assert len(arrived) == BUNDLES
    twice = {address for address, count in arrived.items() if count > 1}
    assert len(post.mails) - BUNDLES == len(twice) < 200, "no more than what two claims hold"
    for address in twice:
        first, second = (mail for mail in post.mails if mail["To"] == address)
        assert first["Message-ID"] == second["Message-ID"]
    assert len({mail["Message-ID"] for mail in post.mails}) == BUNDLES


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.usefixtures("backlog")
def test_a_delivery_that_is_cancelled_hands_back_the_rest_and_nothing_is_sent_twice(
    engine: sa.Engine, post: Server, tmp_path: Path, sign: signal.Signals
) -> None:
    with job_execute(tmp_path, "deliver_bundles", "mail_due_bundles", {}) as process:
        until(lambda: len(post.mails) >= 150)
        process.send_signal(sign)
        exit_code, output = ended(process)
    assert exit_code != 0, output
    assert {status for status, _ in ends(engine).values()} == {"delivered", "pending"}

    with job_execute(tmp_path, "deliver_bundles", "mail_due_bundles", {}) as process:
        exit_code, output = ended(process)

    assert exit_code == 0, output
    assert set(ends(engine).values()) == {("delivered", "mailed")}
    assert (len(post.mails), set(post.recipients().values())) == (BUNDLES, {1})


@pytest.mark.usefixtures("backlog")
def test_two_runs_at_once_are_harmless(engine: sa.Engine, post: Server, tmp_path: Path) -> None:
    """The second one says who is at work, or finds nothing more to do."""
    with (
        job_execute(tmp_path, "deliver_bundles", "mail_due_bundles", {}) as one,
        job_execute(tmp_path, "deliver_bundles", "mail_due_bundles", {}) as other,
    ):
        both = [ended(one), ended(other)]

    assert [exit_code for exit_code, _ in both] == [0, 0]
    assert set(ends(engine).values()) == {("delivered", "mailed")}
    assert (len(post.mails), set(post.recipients().values())) == (BUNDLES, {1})
