"""Many requests at once, to real servers: what is put in comes out, whatever happens to it."""

import asyncio
import gc
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import pytest

from flatearth_pipelines.webhooks.outcome import Answer, Code
from flatearth_pipelines.webhooks.transport import Post, Posts, Sent, rarely_collected
from flatearth_pipelines_tests.processes import until
from flatearth_pipelines_tests.smtp import free_port
from flatearth_pipelines_tests.webhooks.servers import (
    ALLOWED,
    OK,
    REACHABLE,
    Authority,
    Request,
    hangs,
    http_server,
    listener,
    resolve,
    says,
)

HEADERS = {"Content-Type": "application/json"}


def now() -> datetime:
    return datetime.fromtimestamp(time.time(), UTC)


def posts(
    compose: Callable[[int], Post | Answer], *, in_flight: int = 200, seconds: float = 60, fresh_seconds: float = 60
) -> Posts[int]:
    return Posts(
        compose,
        allowed=ALLOWED,
        clock=now,
        in_flight=in_flight,
        seconds=seconds,
        fresh_seconds=fresh_seconds,
        user_agent="FlatEarth-Tests/1",
    )


def to(url: str) -> Callable[[int], Post]:
    """A request there about each number."""
    return lambda number: Post(url, HEADERS, b"%d" % number)


def all_of(sending: Posts[int]) -> dict[int, Answer | None]:
    """What became of everything that was put, which is forgotten."""
    done: list[Sent[int]] = []
    deadline = time.monotonic() + 120
    while sending.backlog:
        assert time.monotonic() < deadline
        done += (looked := sending.look(0.1))
        sending.forget(looked)
    assert len(done) == len(dict(done))
    return dict(done)


def sent(
    compose: Callable[[int], Post | Answer],
    count: int,
    *,
    in_flight: int = 200,
    seconds: float = 60,
    fresh_seconds: float = 60,
) -> dict[int, Answer | None]:
    """What became of as many requests."""
    with posts(compose, in_flight=in_flight, seconds=seconds, fresh_seconds=fresh_seconds) as sending:
        sending.put(range(count))
        answers = all_of(sending)
    assert answers.keys() == set(range(count))
    return answers


def codes(answers: dict[int, Answer | None]) -> Counter[Code | None]:
    return Counter(answer and answer.code for answer in answers.values())


def open_files() -> int:
    """Of this process."""
    return len(list(Path("/dev/fd").iterdir()))


def at_work() -> list[str]:
    """Threads that send."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("webhook")]


class Crowd:
    """A server that counts how many requests it has at once."""

    def __init__(self) -> None:
        self.most = 0
        self._now = 0

    async def __call__(self, request: Request, writer: asyncio.StreamWriter) -> None:
        self._now += 1
        self.most = max(self.most, self._now)
        await asyncio.sleep(0.005)
        self._now -= 1
        await says(OK)(request, writer)


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """Whom this process trusts."""
    return Authority(tmp_path, monkeypatch)


# All of them


def test_every_request_is_sent_once_over_connections_that_are_kept() -> None:
    with http_server() as server:
        assert codes(sent(to(server.url), 500, in_flight=20)) == {Code.OK: 500}
    assert Counter(request.body for request in server.requests) == Counter(b"%d" % number for number in range(500))
    assert 1 <= server.connections <= 20


def test_over_tls_too(authority: Authority) -> None:
    with http_server(tls=authority.issued_to(REACHABLE)) as server:
        assert codes(sent(to(server.url), 60, in_flight=5)) == {Code.OK: 60}
    assert 1 <= server.connections <= 5


@pytest.mark.parametrize("in_flight", [1, 7, 40])
def test_so_many_are_on_their_way_at_once_and_no_more(in_flight: int) -> None:
    crowd = Crowd()
    with http_server(crowd) as server:
        assert codes(sent(to(server.url), 200, in_flight=in_flight)) == {Code.OK: 200}
    assert crowd.most == in_flight


def test_they_are_begun_in_the_order_in_which_they_were_put() -> None:
    composed: list[int] = []

    def compose(number: int) -> Post:
        composed.append(number)
        return Post(server.url, HEADERS, b"%d" % number)

    with http_server() as server, posts(compose, in_flight=8) as sending:
        for start in range(0, 300, 100):
            sending.put(range(start, start + 100))
        assert codes(all_of(sending)) == {Code.OK: 300}
    assert composed == list(range(300))


def test_one_at_a_time_they_arrive_in_order() -> None:
    with http_server() as server:
        sent(to(server.url), 100, in_flight=1)
    assert [int(request.body) for request in server.requests] == list(range(100))


def test_what_is_put_while_others_are_on_their_way_is_sent_too() -> None:
    with http_server() as server, posts(to(server.url), in_flight=1) as sending:
        for number in range(200):
            sending.put([number])
        assert codes(all_of(sending)) == {Code.OK: 200}


def test_what_is_put_once_all_others_are_done_is_sent_too() -> None:
    with http_server() as server, posts(to(server.url), in_flight=2) as sending:
        for start in range(0, 50, 5):
            sending.put(range(start, start + 5))
            assert codes(all_of(sending)) == {Code.OK: 5}


# Those that are slow or fail, and the others


def test_two_hundred_that_hang_do_not_hold_up_those_beside_them() -> None:
    with http_server(hangs) as hanging, http_server() as fast:

        def compose(number: int) -> Post:
            return Post(hanging.url if number < 200 else fast.url, HEADERS, b"%d" % number)

        with posts(compose, in_flight=204, seconds=3) as sending:
            sending.put(range(1_000))
            until(lambda: len(sending.look(0.1)) >= 800)
            first = dict(sending.look(0)[:800])
            answers = all_of(sending)

    assert set(first) == set(range(200, 1_000))  # before any of the others had timed out
    assert codes(answers) == {Code.OK: 800, Code.TIMEOUT: 200}
    assert len(hanging.requests) == 200


def test_names_that_hang_do_not_hold_up_others(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def hang() -> list[str]:
        over.wait(60)
        return [REACHABLE]

    names = {f"{number}.hanging.example": hang for number in range(20)}
    resolve(monkeypatch, names | {"fast.example": lambda: [REACHABLE]})
    with http_server() as server:

        def compose(number: int) -> Post:
            host = f"{number % 20}.hanging.example" if number < 100 else "fast.example"
            return Post(f"http://{host}:{server.port}/", HEADERS, b"%d" % number)

        answers = sent(compose, 300, in_flight=110, seconds=3)
    over.set()

    assert {number for number, answer in answers.items() if answer and answer.code is Code.OK} == set(range(100, 300))
    assert codes(answers) == {Code.OK: 200, Code.TIMEOUT: 100}
    until(lambda: not at_work())


def test_one_that_cannot_be_composed_keeps_no_other_from_being_sent() -> None:
    said = Answer(Code.NO_SECRET, datetime(2026, 3, 2, 10, tzinfo=UTC), 0, detail="no secret")

    def compose(number: int) -> Post | Answer:
        if number == 1:
            return said
        if number == 2:
            raise ZeroDivisionError("s3cret")
        if number == 3:
            return Post(server.url, {"X": "one\r\nline"}, b"")
        if number == 4:
            return Post(server.url, HEADERS, cast("bytes", None))
        return Post(server.url, HEADERS, b"")

    with http_server() as server:
        answers = sent(compose, 10, in_flight=2)

    assert codes(answers) == {Code.OK: 6, Code.NO_SECRET: 1, Code.BAD_ANSWER: 3}
    assert answers[1] is said
    assert {answer.detail for answer in answers.values() if answer and answer.code is Code.BAD_ANSWER} == {
        "it failed with ZeroDivisionError",
        "it failed with ValueError",
        "it failed with TypeError",
    }
    assert len(server.requests) == 6


def test_a_request_is_composed_right_before_it_is_sent() -> None:
    """Its signature tells the time."""
    composed: list[int] = []

    def compose(number: int) -> Post:
        composed.append(len(server.requests))
        return Post(server.url, HEADERS, b"%d" % number)

    with http_server() as server:
        sent(compose, 20, in_flight=1)
    assert composed == list(range(20))


# Waiting, stopping, closing


def test_what_has_waited_for_too_long_is_not_tried() -> None:
    with http_server() as server:
        assert codes(sent(to(server.url), 5, fresh_seconds=-1)) == {None: 5}
    assert server.connections == 0


def test_once_stopped_what_was_not_begun_comes_out_at_once_and_what_was_is_finished() -> None:
    go_on = threading.Event()

    async def behaviour(request: Request, writer: asyncio.StreamWriter) -> None:
        await asyncio.to_thread(go_on.wait, 60)
        await says(OK)(request, writer)

    with http_server(behaviour) as server, posts(to(server.url), in_flight=2) as sending:
        sending.put(range(10))
        until(lambda: len(server.requests) == 2)
        sending.stop()
        until(lambda: len(sending.look(0.1)) == 8)
        untried = dict(sending.look(0))
        go_on.set()
        sending.close()
        done = sending.look(0)

    assert untried == dict.fromkeys(range(2, 10))
    assert codes(dict(done)) == {Code.OK: 2, None: 8}
    assert sending.backlog == 10
    sending.forget(done)
    assert (sending.backlog, len(server.requests)) == (0, 2)


def test_closing_waits_for_what_is_on_its_way_as_long_as_a_request_may_take() -> None:
    with http_server(hangs) as server, posts(to(server.url), in_flight=1, seconds=1) as sending:
        sending.put(range(3))
        until(lambda: len(server.requests) == 1)
        sending.close()
        assert codes(dict(sending.look(0))) == {Code.TIMEOUT: 1, None: 2}


@pytest.mark.parametrize("end", [Posts.stop, Posts.close])
def test_what_is_put_after_the_end_comes_out_untried(end: Callable[[Posts[int]], None]) -> None:
    with listener() as private, posts(to(f"http://{REACHABLE}:{private.port}/")) as sending:
        end(sending)
        sending.put(range(3))
        assert codes(all_of(sending)) == {None: 3}


def test_it_can_be_closed_twice_and_stopped_afterwards() -> None:
    with posts(to("http://127.0.0.2/")) as sending:
        sending.close()
        sending.close()
        sending.stop()
    assert sending.look(0) == []


def test_a_look_waits_for_the_first_and_for_no_longer_than_told() -> None:
    with http_server() as server, posts(to(server.url)) as sending:
        assert sending.look(0) == sending.look(0.05) == []
        sending.put([1])
        (only,) = sending.look(60)
    assert only.item == 1


def test_what_is_done_is_seen_until_it_is_forgotten() -> None:
    with http_server() as server, posts(to(server.url)) as sending:
        sending.put([1])
        first = sending.look(60)
        assert sending.look(0) == first
        sending.put([2])
        until(lambda: len(sending.look(0)) == 2)
        sending.forget(first)
        (second,) = sending.look(0)
    assert (second.item, sending.backlog) == (2, 1)


def test_closing_leaves_no_thread_and_no_socket(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve(monkeypatch, {"private.example": lambda: ["127.0.0.1"]})
    before = open_files()
    with http_server() as server, http_server(tls=authority.issued_to(REACHABLE)) as secure:
        for url, code in [
            (server.url, Code.OK),
            (secure.url, Code.OK),
            (f"http://{REACHABLE}:{free_port()}/", Code.CONNECT),
            ("http://private.example/", Code.BLOCKED),
            ("http://nobody.example/", Code.DNS),
        ]:
            assert codes(sent(to(url), 30)) == {code: 30}
    until(lambda: not at_work())
    until(lambda: open_files() <= before)


def test_giving_up_leaves_no_thread_and_no_socket_either(authority: Authority) -> None:
    before = open_files()
    with (
        http_server(hangs) as server,
        http_server(hangs, tls=authority.issued_to(REACHABLE)) as secure,
        listener(REACHABLE) as silent,
    ):
        for url in (server.url, secure.url, f"https://{REACHABLE}:{silent.port}/"):
            assert codes(sent(to(url), 30, seconds=1)) == {Code.TIMEOUT: 30}
    until(lambda: not at_work())
    until(lambda: open_files() <= before)


def test_garbage_is_collected_as_before_once_it_is_over_whatever_ended_it() -> None:
    before = gc.get_threshold()

    def interrupted() -> None:
        with rarely_collected():
            assert gc.get_threshold() > before
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()

    assert gc.get_threshold() == before
