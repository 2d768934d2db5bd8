"""Several connections at once, to real servers: what is put in comes out, whatever happens to them."""

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from flatearth_pipelines.errors import WrongUsage
from flatearth_pipelines.mailer import Answer, Fate
from flatearth_pipelines.message import Message, compose
from flatearth_pipelines.notifications.transport import KEPT_LINES, Senders, Sent
from flatearth_pipelines.settings import Settings
from flatearth_pipelines_tests.processes import until
from flatearth_pipelines_tests.smtp import Server, free_port


def settings(url: str) -> Settings:
    return Settings.from_environment({"FLATEARTH_SMTP_URL": url})


def numbered(number: int) -> Message:
    return compose("earth@earth.example", f"person{number}@acme.example", "Subject", "Text")


def sent(
    url: str,
    count: int,
    compose: Callable[[int], Message] = numbered,
    *,
    connections: int = 3,
    seconds: float = 20,
    fresh_seconds: float = 60,
) -> dict[int, Answer | None]:
    """What became of as many mails."""
    done: list[Sent[int]] = []
    senders = Senders(settings(url), compose, connections=connections, seconds=seconds, fresh_seconds=fresh_seconds)
    with senders:
        senders.put(range(count))
        while senders.backlog:
            done += (looked := senders.look(0.1))
            senders.forget(looked)
    assert len(done) == count
    return dict(done)


def fates(answers: dict[int, Answer | None]) -> Counter[Fate | None]:
    return Counter(answer and answer.fate for answer in answers.values())


def test_every_mail_is_sent_once_over_as_many_connections_as_told_which_are_kept(post: Server) -> None:
    assert fates(sent(post.url, 60)) == {Fate.TAKEN: 60}
    assert (len(post.mails), set(post.recipients().values())) == (60, {1})
    assert 1 <= post.connections <= 3


def test_over_a_server_that_takes_several_commands_at_once_too(post: Server) -> None:
    post.pipelining = True
    assert fates(sent(post.url, 20)) == {Fate.TAKEN: 20}
    assert set(post.recipients().values()) == {1}


def test_an_outbox_is_written_by_several_at_once(tmp_path: Path) -> None:
    assert fates(sent(f"file:{tmp_path}", 30)) == {Fate.TAKEN: 30}
    assert len(list(tmp_path.glob("*.eml"))) == 30


def test_one_mail_that_cannot_be_written_keeps_no_other_from_being_sent(post: Server) -> None:
    def compose(number: int) -> Message:
        if number == 1:
            raise WrongUsage("no such thing")
        if number == 2:
            raise ZeroDivisionError("division\nby zero")
        return numbered(number)

    answers = sent(post.url, 5, compose)

    assert fates(answers) == {Fate.TAKEN: 3, Fate.REFUSED: 2}
    assert answers[1] == Answer(Fate.REFUSED, "no such thing")
    assert answers[2] == Answer(Fate.REFUSED, "its mail cannot be written: ZeroDivisionError: division by zero")


def test_a_server_that_is_away_answers_for_everything_without_being_asked_for_everything() -> None:
    composed = []

    def compose(number: int) -> Message:
        composed.append(number)
        return numbered(number)

    answers = sent(f"smtp://127.0.0.1:{free_port()}", 500, compose)

    assert fates(answers) == {Fate.LATER: 500}
    assert all(answer is not None and answer.unreachable and "refused" in answer.said for answer in answers.values())
    assert len(composed) < 20


def test_a_line_that_cannot_connect_leaves_its_mail_to_the_others(post: Server) -> None:
    """Some servers take only so many connections from one address."""
    post.most_connections = 1

    assert fates(sent(post.url, 30)) == {Fate.TAKEN: 30}
    assert set(post.recipients().values()) == {1}


def test_a_server_that_takes_mails_and_says_nothing_is_given_up_after_a_few(post: Server) -> None:
    post.silent = True

    answers = sent(post.url, 50, seconds=0.2)

    assert fates(answers) == {Fate.LATER: 50}
    assert 1 <= len(post.mails) <= 6


def test_one_lost_connection_is_no_outage(post: Server) -> None:
    post.hangs_up_once = True

    assert fates(sent(post.url, 20, connections=1)) == {Fate.LATER: 1, Fate.TAKEN: 19}


def test_what_has_waited_for_too_long_is_not_tried(post: Server) -> None:
    assert fates(sent(post.url, 5, fresh_seconds=-1)) == {None: 5}
    assert post.mails == []


def test_once_stopped_nothing_more_is_begun_and_what_was_begun_is_finished(post: Server) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def compose(number: int) -> Message:
        begun.set()
        go_on.wait(60)
        return numbered(number)

    senders = Senders(settings(post.url), compose, connections=1)
    with senders:
        senders.put(range(10))
        begun.wait(60)
        senders.stop()
        go_on.set()

    done = senders.look(0)
    assert fates(dict(done)) == {Fate.TAKEN: 1, None: 9}
    assert senders.backlog == 10
    senders.forget(done)
    assert senders.backlog == 0


def test_a_look_waits_for_the_first_and_for_no_longer_than_told(post: Server) -> None:
    with Senders(settings(post.url), numbered, connections=1) as senders:
        assert senders.look(0) == senders.look(0.05) == []
        senders.put([1])
        (only,) = senders.look(60)
    assert only.item == 1


def test_what_is_done_is_seen_until_it_is_forgotten(post: Server) -> None:
    with Senders(settings(post.url), numbered, connections=1) as senders:
        senders.put([1])
        first = senders.look(60)
        assert senders.look(0) == first
        senders.put([2])
        until(lambda: len(senders.look(0)) == 2)
        senders.forget(first)
        (second,) = senders.look(0)
    assert (second.item, senders.backlog) == (2, 1)


def test_closing_leaves_no_thread(post: Server) -> None:
    sent(post.url, 3)
    until(lambda: not any(thread.name.startswith("mail ") for thread in threading.enumerate()))


# Lines that are kept from job to job


def test_a_line_is_kept_for_the_next_mail_to_the_same_server(post: Server) -> None:
    for number in range(3):
        with KEPT_LINES.line(settings(post.url)) as line:
            assert line.send(numbered(number)).fate is Fate.TAKEN

    assert (post.connections, len(post.mails)) == (1, 3)


def test_two_at_once_have_a_line_each(post: Server) -> None:
    with KEPT_LINES.line(settings(post.url)) as one, KEPT_LINES.line(settings(post.url)) as other:
        assert one is not other


def test_a_line_in_whose_use_something_went_wrong_is_not_kept(post: Server) -> None:
    used = []

    def go_wrong() -> None:
        with KEPT_LINES.line(settings(post.url)) as line:
            used.append(line)
            line.send(numbered(1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        go_wrong()
    with KEPT_LINES.line(settings(post.url)) as other:
        other.send(numbered(2))

    assert used != [other]
    assert post.connections == 2


def test_at_the_end_every_kept_line_says_goodbye(post: Server) -> None:
    with KEPT_LINES.line(settings(post.url)) as line:
        line.send(numbered(1))
    KEPT_LINES.close()
    until(lambda: post.goodbyes == 1)
