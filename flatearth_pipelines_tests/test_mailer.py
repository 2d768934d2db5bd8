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

from flatearth_pipelines.mailer import Answer, Fate, Line, MailNotSent, fate, send, text_message
from flatearth_pipelines.message import Message, compose
from flatearth_pipelines.settings import Settings

TO = "ada@acme.example"


@dataclass
class Server:
    """What it was sent, and what it answers instead of agreeing."""

    port: int = 0
    refusals: dict[str, str] = field(default_factory=dict)
    """The answer to a command."""
    """`HANG UP` and `SAY NOTHING` are done, not said; the latter until `go_on`."""
    once: set[str] = field(default_factory=set)
    """Steps that are refused once only."""
    extensions: list[str] = field(default_factory=list)
    connections: int = 0
    commands: list[str] = field(default_factory=list)
    mails: list[bytes] = field(default_factory=list)
    go_on: threading.Event = field(default_factory=threading.Event)

    def url(self, login: str = "") -> str:
        return f"smtp://{login}127.0.0.1:{self.port}"


class Conversation(socketserver.StreamRequestHandler):
    """One connection to the server."""

    server_state: ClassVar[Server]
    timeout = 10

    def handle(self) -> None:
        state = self.server_state
        state.connections += 1
        if not self._answer("CONNECT", "220 ready"):
            return
        while line := self.rfile.readline().decode().strip():
            state.commands.append(line)
            command = line.partition(" ")[0].upper()
            agreed = {"AUTH": ["235 in"], "DATA": ["354 go on"], "QUIT": ["221 bye"]}.get(command, ["250 fine"])
            if command == "EHLO":
                agreed = ["250-here", "250-AUTH PLAIN", *(f"250-{name}" for name in state.extensions), "250 8BITMIME"]
            said = self._answer(command, *agreed)
            if said.startswith("354"):
                state.mails.append(b"".join(iter(self.rfile.readline, b".\r\n")))
                said = self._answer("END", "250 taken")
            if not said or command == "QUIT":
                return

    def _answer(self, step: str, *agreed: str) -> str:
        """The first line of what was said; nothing when the connection is over."""
        state = self.server_state
        lines: tuple[str, ...] = (state.refusals[step],) if step in state.refusals else agreed
        if step in state.once:
            state.once.discard(step)
            state.refusals.pop(step)
        if lines[0] == "SAY NOTHING":
            state.go_on.wait(10)
        if lines[0] in {"SAY NOTHING", "HANG UP"}:
            return ""
        self.wfile.write("".join(f"{line}\r\n" for line in lines).encode())
        return lines[0]


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
    content = text_message(settings("file:/nowhere"), TO, "Two jobs died", "See them.").content
    message = parsed(content.replace(b"\r\n", b"\n"))

    assert (message["From"], message["To"]) == ("Flat Earth <notifications@flatearth.local>", TO)
    assert message["Subject"] == "Two jobs died"
    assert message["Date"].datetime.utcoffset() == timedelta(0)
    assert message.get_content() == "See them.\n"


def test_every_message_has_an_id_of_its_own() -> None:
    first, second = (text_message(settings("file:/nowhere"), TO, "Subject", "Text") for _ in range(2))

    assert first.message_id != second.message_id


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
    assert ["MAIL", "FROM:<notifications@flatearth.local>"] in said
    assert ["RCPT", f"TO:<{TO}>"] in said
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


# What a reply means


@pytest.mark.parametrize(
    ("reply", "meaning"),
    [
        ("250 2.0.0 queued", Fate.TAKEN),
        ("299 whatever", Fate.TAKEN),
        ("421 4.3.2 closing", Fate.LATER),
        ("450 4.2.1 busy", Fate.LATER),
        ("499 whatever", Fate.LATER),
        ("354 out of step", Fate.LATER),
        ("550 5.1.1 nobody", Fate.NOBODY),
        ("501 5.1.3 bad syntax", Fate.NOBODY),
        ("552 5.6.0 no", Fate.NOBODY),
        ("555 5.5.4 no", Fate.NOBODY),
        ("550 5.1.10 nobody at all", Fate.REFUSED),
        ("550 5.1.2 no such domain", Fate.REFUSED),
        ("501 5.1.1 crossed", Fate.REFUSED),
        ("550 said 5.1.1 in passing", Fate.REFUSED),
        ("550 nobody", Fate.REFUSED),
        ("500 what", Fate.REFUSED),
        ("599 whatever", Fate.REFUSED),
    ],
)
def test_a_reply_is_taken_later_nobody_there_or_refused(reply: str, meaning: Fate) -> None:
    assert fate(int(reply[:3]), reply) is meaning


@pytest.mark.parametrize("step", ["MAIL", "RCPT", "DATA", "END"])
@pytest.mark.parametrize("reply", ["451 4.3.0 later", "550 5.1.1 nobody", "554 5.7.1 spam"])
def test_after_a_refusal_at_any_step_the_next_message_goes_over_the_same_connection(
    server: Server, step: str, reply: str
) -> None:
    server.refusals[step] = reply
    with Line(settings(server.url())) as line:
        answer = line.send(message())
        server.refusals.clear()
        assert line.send(message()).fate is Fate.TAKEN

    assert answer == Answer(fate(int(reply[:3]), reply), reply)
    assert server.connections == 1


# A connection that is kept


def test_a_line_sends_several_messages_over_one_connection(server: Server) -> None:
    with Line(settings(server.url())) as line:
        assert {line.send(message()).fate for _ in range(3)} == {Fate.TAKEN}

    assert (server.connections, len(arrived(server))) == (1, 3)
    assert server.commands[-1].upper() == "QUIT"


def test_a_new_connection_is_made_after_as_many_messages_as_one_may_carry(server: Server) -> None:
    with Line(settings(server.url()), messages=2) as line:
        for _ in range(5):
            line.send(message())

    assert (server.connections, len(arrived(server))) == (3, 5)


@pytest.mark.parametrize("farewell", ["421 too long idle", None])
def test_a_kept_connection_that_the_server_has_ended_is_made_anew_and_nothing_is_sent_twice(
    server: Server, farewell: str | None
) -> None:
    with Line(settings(server.url())) as line:
        line.send(message())
        server.refusals["MAIL"] = farewell or "HANG UP"
        server.once.add("MAIL")

        assert line.send(message()).fate is Fate.TAKEN

    assert (server.connections, len(arrived(server))) == (2, 2)


def test_a_connection_lost_after_the_message_is_for_later_and_says_that_it_may_have_come_through(
    server: Server,
) -> None:
    server.refusals["END"] = "HANG UP"
    with Line(settings(server.url())) as line:
        answer = line.send(message())

    assert (answer.fate, answer.lost, answer.unreachable) == (Fate.LATER, True, False)
    assert len(server.mails) == 1


@pytest.mark.parametrize("step", ["CONNECT", "EHLO", "MAIL", "END"])
def test_a_server_that_does_not_answer_is_waited_for_no_longer_than_told(server: Server, step: str) -> None:
    server.refusals[step] = "SAY NOTHING"
    with Line(settings(server.url()), seconds=0.2) as line:
        answer = line.send(message())

    assert answer.fate is Fate.LATER
    assert "timed out" in answer.said
    server.go_on.set()


def test_a_server_that_wants_a_login_first_says_nothing_about_the_message(server: Server) -> None:
    server.refusals["MAIL"] = "530 5.7.0 log in first"
    with Line(settings(server.url())) as line:
        assert line.send(message()) == Answer(Fate.LATER, "530 5.7.0 log in first", unreachable=True)


def test_an_outbox_that_cannot_be_written_is_unreachable(tmp_path: Path) -> None:
    (tmp_path / "a file").touch()
    with Line(settings(f"file:{tmp_path / 'a file'}")) as line:
        answer = line.send(message())

    assert (answer.fate, answer.unreachable) == (Fate.LATER, True)


# Several commands in one go


def test_a_server_that_knows_pipelining_gets_a_message_in_one_go(server: Server) -> None:
    server.extensions.append("PIPELINING")
    with Line(settings(server.url())) as line:
        assert line.send(message()).fate is Fate.TAKEN
        assert line.send(message()).fate is Fate.TAKEN

    assert [mail["Subject"] for mail in arrived(server)] == ["Subject"] * 2


@pytest.mark.parametrize("step", ["MAIL", "RCPT", "DATA", "END"])
@pytest.mark.parametrize("goes_on", [True, False])
def test_a_refusal_among_several_replies_is_the_one_that_counts_and_nothing_is_sent(
    server: Server, step: str, *, goes_on: bool
) -> None:
    """Some servers refuse DATA when there is no recipient, others only what comes after it."""
    server.extensions.append("PIPELINING")
    server.refusals[step] = "550 5.1.1 nobody"
    if step in {"MAIL", "RCPT"} and not goes_on:
        server.refusals["DATA"] = "503 5.5.1 no recipient"
    with Line(settings(server.url())) as line:
        answer = line.send(message())
        server.refusals.clear()
        assert line.send(message()).fate is Fate.TAKEN

    assert answer == Answer(Fate.NOBODY, "550 5.1.1 nobody")
    assert server.connections == 1
    assert [mail for mail in server.mails if mail][:-1] == ([] if step != "END" else server.mails[:1])


# An address that is not ASCII


def test_an_address_that_is_not_ascii_needs_a_server_that_takes_it(server: Server) -> None:
    with Line(settings(server.url())) as line:
        refused = line.send(message("pelé@acme.example"))
        assert line.send(message("ada@äcme.example")).fate is Fate.TAKEN
    server.extensions.append("SMTPUTF8")
    with Line(settings(server.url())) as line:
        taken = line.send(message("pelé@acme.example"))

    assert refused == Answer(Fate.REFUSED, "the server takes no address that is not ASCII")
    assert taken.fate is Fate.TAKEN
    assert "RCPT TO:<ada@xn--cme-pla.example>" in server.commands
    assert "RCPT TO:<pelé@acme.example>" in server.commands
    assert [mail["To"] for mail in arrived(server)] == ["ada@xn--cme-pla.example", "pelé@acme.example"]


def message(to: str = TO) -> Message:
    return compose("Flat Earth <notifications@flatearth.local>", to, "Subject", "Text")


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
