"""Mail into an outbox directory, and to a real SMTP server: a small one, on a port of its own."""

import base64
import email
import email.policy
import socket
import socketserver
import threading
from collections.abc import Generator
from dataclasses import dataclass, field
from datetime import timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import ClassVar

import pytest

from flatearth_pipelines.mailer import MailNotSent, send, text_message
from flatearth_pipelines.settings import Settings

TO = "ada@acme.example"


@dataclass
class Server:
    """What it was sent, and what it answers instead of agreeing."""

    port: int = 0
    refusals: dict[str, str] = field(default_factory=dict)
    """The answer to a command."""
    commands: list[str] = field(default_factory=list)
    mails: list[bytes] = field(default_factory=list)

    def url(self, login: str = "") -> str:
        return f"smtp://{login}127.0.0.1:{self.port}"


class Conversation(socketserver.StreamRequestHandler):
    """One connection to the server."""

    server_state: ClassVar[Server]
    timeout = 10

    def handle(self) -> None:
        state = self.server_state
        self._say(state.refusals.get("CONNECT", "220 ready"))
        while line := self.rfile.readline().decode().strip():
            state.commands.append(line)
            command = line.partition(" ")[0].upper()
            if command in state.refusals:
                self._say(state.refusals[command])
            elif command == "EHLO":
                self._say("250-here", "250-AUTH PLAIN", "250 8BITMIME")
            elif command == "DATA":
                self._say("354 go on")
                state.mails.append(b"".join(iter(self.rfile.readline, b".\r\n")))
                self._say(state.refusals.get("END", "250 taken"))
            elif command == "QUIT":
                self._say("221 bye")
                return
            else:
                self._say("235 in" if command == "AUTH" else "250 fine")

    def _say(self, *lines: str) -> None:
        self.wfile.write("".join(f"{line}\r\n" for line in lines).encode())


@pytest.fixture
def server() -> Generator[Server]:
    state = Server()
    conversation = type("OfThisTest", (Conversation,), {"server_state": state})
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), conversation) as listening:
        state.port = listening.server_address[1]
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        listening.shutdown()
        thread.join()


# The message


def test_a_message_says_from_whom_and_to_whom_it_is_and_when_it_was_written() -> None:
    message = text_message(settings("file:/nowhere"), TO, "Two jobs died", "See them.")

    assert (message["From"], message["To"]) == ("Flat Earth <notifications@flatearth.local>", TO)
    assert message["Subject"] == "Two jobs died"
    assert message["Date"].datetime.utcoffset() == timedelta(0)
    assert message.get_content() == "See them.\n"


def test_every_message_has_an_id_of_its_own() -> None:
    first, second = (text_message(settings("file:/nowhere"), TO, "Subject", "Text") for _ in range(2))

    assert first["Message-ID"] != second["Message-ID"]


@pytest.mark.parametrize(
    "subject",
    ["One\r\nBcc: eve@evil.example", "One\nBcc: eve@evil.example", "One\r\n\r\nBcc: eve@evil.example", "One\x00"],
)
def test_a_line_break_in_the_subject_makes_no_header_and_no_body(tmp_path: Path, subject: str) -> None:
    send(settings(f"file:{tmp_path}"), text_message(settings("file:/nowhere"), TO, subject, "Text"))

    (mail,) = outbox(tmp_path)
    assert mail["Bcc"] is None
    assert mail["Subject"].startswith("One")
    assert mail.get_content() == "Text\n"


def test_words_of_any_language_arrive_as_they_are(tmp_path: Path, server: Server) -> None:
    subject, text = "Žluťoučký kůň 地球 🌍", "Ça va ? 地球\n.\n..\nFrom here\n" + "x" * 2_000
    for url in (f"file:{tmp_path}", server.url()):
        send(settings(url), text_message(settings(url), TO, subject, text))

    for mail in (*outbox(tmp_path), *arrived(server)):
        assert mail["Subject"] == subject
        assert mail.get_content() == f"{text}\n"


# The outbox


def test_the_outbox_is_made_and_gets_a_file_for_each_message(tmp_path: Path) -> None:
    place = tmp_path / "deep" / "out box"
    sender = settings(f"file:{place}")

    send(sender, text_message(sender, TO, "First", "Text"))
    send(sender, text_message(sender, TO, "Second", "Text"))

    assert sorted(mail["Subject"] for mail in outbox(place)) == ["First", "Second"]
    assert {path.suffix for path in place.iterdir()} == {".eml"}


@pytest.mark.parametrize("name", ["home", "a home", "a%20home", "why?", "number #1"])
def test_the_outbox_is_that_of_the_home_when_no_server_is_named(tmp_path: Path, name: str) -> None:
    sender = Settings.from_environment({"FLATEARTH_HOME": str(tmp_path / name)})

    send(sender, text_message(sender, TO, "First", "Text"))

    assert [mail["Subject"] for mail in outbox(tmp_path / name / "outbox")] == ["First"]


def test_an_outbox_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a file").touch()
    sender = settings(f"file:{tmp_path / 'a file' / 'outbox'}")

    line = not_sent(sender)

    assert str(tmp_path / "a file") in line


# SMTP


def test_a_message_reaches_the_server_whole_with_its_envelope(server: Server) -> None:
    sender = settings(server.url())

    send(sender, text_message(sender, TO, "Two jobs died", "See them."))

    (mail,) = arrived(server)
    assert (mail["To"], mail["Subject"], mail.get_content()) == (TO, "Two jobs died", "See them.\n")
    said = [command.split()[:2] for command in server.commands]
    assert ["mail", "FROM:<notifications@flatearth.local>"] in said
    assert ["rcpt", f"TO:<{TO}>"] in said
    assert not any(command.upper().startswith("AUTH") for command in server.commands)


@pytest.mark.parametrize("password", ["s3cret", "p@ss/w:rd %", "pässwort", "密码"])
def test_a_password_is_taken_from_the_url_as_it_was_encoded(server: Server, password: str) -> None:
    encoded = "".join(f"%{byte:02X}" for byte in password.encode())
    sender = settings(server.url(f"ada:{encoded}@"))

    send(sender, text_message(sender, TO, "Subject", "Text"))

    (login,) = (command.split()[2] for command in server.commands if command.startswith("AUTH PLAIN"))
    assert base64.b64decode(login).decode() == f"\0ada\0{password}"
    assert len(arrived(server)) == 1


REFUSALS = {
    "CONNECT": "554 not today",
    "AUTH": "535 5.7.8 wrong",
    "MAIL": "451 4.3.0 try again",
    "RCPT": "550 5.1.1 nobody here",
    "DATA": "552 5.3.4 too much",
    "END": "554 5.6.0 spam",
}


@pytest.mark.parametrize("step", REFUSALS)
def test_a_server_that_refuses_is_one_line_with_its_reason_and_without_the_password(server: Server, step: str) -> None:
    server.refusals[step] = REFUSALS[step]

    line = not_sent(settings(server.url("ada:s3cret@")))

    assert line.startswith(f"127.0.0.1:{server.port} did not take the mail: ")
    assert REFUSALS[step].split()[0] in line
    assert arrived(server) == [] or step == "END"


def test_a_server_that_hangs_up_is_one_line(server: Server) -> None:
    server.refusals["MAIL"] = "421 closing"

    assert "421" in not_sent(settings(server.url()))


def test_a_server_that_is_down_is_one_line_without_the_password() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    line = not_sent(settings(f"smtp://ada:s3cret@127.0.0.1:{port}"))

    assert line.startswith(f"127.0.0.1:{port} did not take the mail: ")


def test_a_server_without_a_port_is_named_by_the_port_that_was_tried() -> None:
    line = not_sent(settings("smtp://ada:s3cret@no-such-host.invalid"))

    assert line.startswith("no-such-host.invalid:25 did not take the mail: ")


def test_a_server_that_does_not_know_how_to_log_in_is_one_line(server: Server) -> None:
    server.refusals["EHLO"] = "250 here"

    assert "AUTH" in not_sent(settings(server.url("ada:s3cret@")))
    assert server.mails == []


def not_sent(sender: Settings) -> str:
    """Why; it is one line, and says no password."""
    with pytest.raises(MailNotSent) as refusal:
        send(sender, text_message(sender, TO, "Subject", "Text"))
    line = str(refusal.value)
    assert "\n" not in line
    assert "s3cret" not in line
    return line


def settings(smtp_url: str) -> Settings:
    return Settings.from_environment({"FLATEARTH_SMTP_URL": smtp_url})


def outbox(directory: Path) -> list[EmailMessage]:
    return [parsed(path.read_bytes()) for path in directory.iterdir()]


def arrived(server: Server) -> list[EmailMessage]:
    return [parsed(mail.replace(b"\r\n..", b"\r\n.").replace(b"\r\n", b"\n")) for mail in server.mails]


def parsed(mail: bytes) -> EmailMessage:
    message = email.message_from_bytes(mail, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    return message
