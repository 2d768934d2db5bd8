"""The development inbox. It is installed by `make inbox` alone: without it, these tests of a real one are skipped."""

import imaplib
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Generator
from pathlib import Path

import pytest

from flatearth_pipelines import inbox
from flatearth_pipelines.errors import FlatEarthError
from flatearth_pipelines.mailer import send, text_message
from flatearth_pipelines.settings import Settings
from flatearth_pipelines_tests.processes import until
from flatearth_pipelines_tests.smtp import free_port


@pytest.fixture
def not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A program of that name, on ports of the test's own."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    (tmp_path / inbox.PROGRAM).touch()
    monkeypatch.setattr(inbox, "SMTP_PORT", free_port())


@pytest.mark.usefixtures("not_installed")
def test_without_it_emails_go_to_the_outbox_and_one_line_says_how_to_install_it() -> None:
    assert inbox.command() is None
    assert not inbox.is_wanted({})
    with pytest.raises(FlatEarthError, match=r"^The development inbox is not installed: `make inbox` installs it$"):
        inbox.run()


@pytest.mark.usefixtures("installed")
def test_it_is_wanted_when_no_mail_server_is_named_and_listens_on_this_machine_alone() -> None:
    assert inbox.is_wanted({})
    assert inbox.is_wanted({"FLATEARTH_SMTP_URL": ""})
    assert not inbox.is_wanted({"FLATEARTH_SMTP_URL": "smtp://mail.example"})
    words = inbox.command() or []
    assert words[words.index("--host") + 1] == "127.0.0.1"


@pytest.mark.usefixtures("installed")
def test_a_port_that_is_taken_is_one_line() -> None:
    assert not inbox.is_running()
    with socket.create_server(("127.0.0.1", inbox.SMTP_PORT)):
        assert inbox.is_running()
        with pytest.raises(FlatEarthError, match="runs already"):
            inbox.run()


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> Generator[str]:
    """A real one, on ports of its own: the base of its pages."""
    ports = {name: free_port() for name in ("SMTP_PORT", "HTTP_PORT", "IMAP_PORT")}
    for name, port in ports.items():
        monkeypatch.setattr(inbox, name, port)
    command = inbox.command()
    if command is None:
        assert not os.environ.get("CI"), "CI has no mail-devel"
        pytest.skip("mail-devel is not installed: `make inbox` does that")
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ) as process:
        until(inbox.is_running)
        yield f"http://127.0.0.1:{ports['HTTP_PORT']}"
        process.terminate()


def test_what_is_sent_to_it_is_shown_by_it(running: str) -> None:
    settings = Settings.from_environment({"FLATEARTH_SMTP_URL": f"smtp://127.0.0.1:{inbox.SMTP_PORT}"})
    send(settings, text_message(settings, "ada@acme.example", "Look at me", "Here I am."))

    with urllib.request.urlopen(running, timeout=10) as page:  # noqa: S310 - on this machine
        assert b"<html" in page.read().lower()
    with imaplib.IMAP4("127.0.0.1", inbox.IMAP_PORT, timeout=10) as mailbox:
        mailbox.login(inbox.USER, inbox.PASSWORD)
        mailbox.select("INBOX")
        _, found = mailbox.fetch("1", "(BODY[HEADER.FIELDS (SUBJECT)])")
    assert "Look at me" in str(found)
