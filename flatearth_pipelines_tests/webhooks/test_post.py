"""One request, to real servers that are well, broken, slow or malicious: whatever they do is an answer."""

import asyncio
import gzip
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flatearth_pipelines.settings import Network
from flatearth_pipelines.webhooks.outcome import MOST_BYTES, Answer, Code
from flatearth_pipelines.webhooks.post import Client
from flatearth_pipelines_tests.processes import until
from flatearth_pipelines_tests.smtp import free_port
from flatearth_pipelines_tests.webhooks.servers import (
    ALLOWED,
    OK,
    REACHABLE,
    Authority,
    Behaviour,
    Listener,
    Request,
    drips,
    floods,
    hangs,
    http_server,
    listener,
    needs_ipv6,
    resets,
    resolve,
    says,
    says_and_hangs_up,
)

HEADERS = {"Content-Type": "application/json", "webhook-id": "msg_7", "webhook-signature": "v1,c2VjcmV0"}

SECRET = "s3cret"  # noqa: S105 - what must not be told

PATIENT = 60.0
"""Seconds: for what should not time out."""

HASTY = 1.0
"""For what does, once it has begun."""


def now() -> datetime:
    return datetime.fromtimestamp(time.time(), UTC)


def posted(
    url: str,
    body: bytes = b"{}",
    headers: Mapping[str, str] = HEADERS,
    *,
    times: int = 1,
    seconds: float = PATIENT,
    allowed: Sequence[Network] = ALLOWED,
    before_the_next: Callable[[], object] = lambda: None,
) -> list[Answer]:
    """What came of that many requests there by one client; in between, its loop stands still."""

    async def run() -> list[Answer]:
        client = Client(allowed, now, seconds=seconds, user_agent="FlatEarth-Tests/1", most_open=10)
        answers = []
        for number in range(times):
            if number:
                before_the_next()
            answers.append(await client.post(url, headers, body))
        await client.close()
        return answers

    return asyncio.run(run())


def answer(url: str, body: bytes = b"{}", *, seconds: float = PATIENT, allowed: Sequence[Network] = ALLOWED) -> Answer:
    """To one request."""
    (only,) = posted(url, body, seconds=seconds, allowed=allowed)
    return only


def answer_of(server: bytes | Behaviour, *, seconds: float = PATIENT) -> Answer:
    """Of a server that does this."""
    with http_server(server) as running:
        return answer(running.url, seconds=seconds)


@pytest.fixture
def private() -> Iterator[Listener]:
    """Somebody at an address that webhooks may not reach."""
    with listener() as listening:
        yield listening


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """Whom this process trusts."""
    return Authority(tmp_path, monkeypatch)


# What is sent


def test_the_bytes_that_arrive_are_the_body_and_the_headers_are_those_given_and_what_http_needs() -> None:
    body = bytes(range(256)) * 40
    with http_server() as server:
        posted(server.url + "/a%2Fb?q=%C3%A9&r=a+b", body)

    (request,) = server.requests
    assert request.line == "POST /hook/a%2Fb?q=%C3%A9&r=a+b HTTP/1.1"
    assert request.body == body
    assert sorted(request.headers) == sorted(
        {
            **HEADERS,
            "Host": f"{REACHABLE}:{server.port}",
            "User-Agent": "FlatEarth-Tests/1",
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            "Content-Length": "10240",
        }.items()
    )


@pytest.mark.parametrize("length", [0, 1, 1_000_000, 1_000_001, 5_000_000])
def test_a_body_of_any_length_arrives(length: int) -> None:
    body = b"\r\n\x00\xff" * (length // 4) + b"x" * (length % 4)
    with http_server() as server:
        assert answer(server.url, body).code is Code.OK
    assert [request.body for request in server.requests] == [body]


def test_a_cookie_is_not_sent_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name: of an address aiohttp would not keep one anyway."""
    resolve(monkeypatch, {"endpoint.example": lambda: [REACHABLE]})
    with http_server(OK.replace(b"\r\n", b"\r\nSet-Cookie: session=1; Path=/\r\n", 1)) as server:
        posted(f"http://endpoint.example:{server.port}/", times=2)
    assert len(server.requests) == 2
    assert not [name for request in server.requests for name, _ in request.headers if name.lower() == "cookie"]


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy"])
def test_a_proxy_of_the_environment_is_not_used(
    variable: str, private: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, f"http://127.0.0.1:{private.port}")
    with http_server() as server:
        assert answer(server.url).code is Code.OK
    assert (len(server.requests), private.knocks) == (1, 0)


def test_a_password_of_the_environment_is_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine {REACHABLE} login me password {SECRET}\n")
    monkeypatch.setenv("NETRC", str(netrc))
    with http_server() as server:
        posted(server.url)
    assert not [name for name, _ in server.requests[0].headers if name.lower() == "authorization"]


# What comes back


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("200 OK", Code.OK),
        ("202 Accepted", Code.OK),
        ("299 Mine", Code.OK),
        ("300 Multiple Choices", Code.REDIRECT),
        ("400 Bad Request", Code.HTTP_4XX),
        ("404 Not Found", Code.HTTP_4XX),
        ("410 Gone", Code.GONE),
        ("429 Too Many Requests", Code.THROTTLED),
        ("500 Internal Server Error", Code.HTTP_5XX),
        ("599 Whatever", Code.HTTP_5XX),
        ("600 Whatever", Code.HTTP_OTHER),
        ("999 Whatever", Code.HTTP_OTHER),
    ],
)
def test_a_status_has_its_code_and_its_body_is_kept(status: str, code: Code) -> None:
    got = answer_of(f"HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\nhello".encode())
    assert (got.code, got.status, got.response) == (code, int(status[:3]), b"hello")
    assert (got.address, got.retry_after, got.detail) == (REACHABLE, None, None)


def test_an_answer_tells_when_it_was_asked_for_and_how_long_it_took() -> None:
    began = now()
    got = answer_of(OK)
    assert began <= got.started_at <= now()
    assert 0 <= got.duration_ms <= 60_000


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_an_answer_without_a_body_has_an_empty_one(status: str) -> None:
    got = answer_of(f"HTTP/1.1 {status}\r\n\r\n".encode())
    assert (got.status, got.response) == (int(status[:3]), b"")


def test_an_answer_that_ends_with_its_connection_is_whole() -> None:
    got = answer_of(says_and_hangs_up(b"HTTP/1.0 200 OK\r\n\r\nhello"))
    assert (got.code, got.response) == (Code.OK, b"hello")


def test_an_answer_in_chunks_is_put_together() -> None:
    got = answer_of(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n")
    assert (got.code, got.response) == (Code.OK, b"hello")


def test_a_200_with_garbage_is_a_success_and_the_garbage_is_kept_as_it_came() -> None:
    garbage = bytes(range(256)) * 3
    start = b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=nonsense\r\nContent-Length: 768\r\n\r\n"
    got = answer_of(start + garbage)
    assert (got.code, got.status, got.response) == (Code.OK, 200, garbage)


def test_a_client_that_is_told_to_go_on_waits_for_the_answer() -> None:
    assert answer_of(b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + OK).code is Code.OK


def test_a_client_that_is_told_to_speak_otherwise_does_not() -> None:
    got = answer_of(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
    assert (got.code, got.status) == (Code.HTTP_OTHER, 101)


# A body of any size


@pytest.mark.parametrize("length", [MOST_BYTES - 1, MOST_BYTES, MOST_BYTES + 1])
def test_of_a_body_so_many_bytes_are_kept_and_no_more(length: int) -> None:
    body = bytes(number % 251 for number in range(length))
    got = answer_of(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (length, body))
    assert (got.code, got.response) == (Code.OK, body[:20_000])


def test_the_rest_of_a_huge_body_is_not_read_and_its_connection_ends() -> None:
    with http_server(b"HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n" + bytes(50_000_000)) as server:
        both = posted(server.url, times=2)
    assert [(got.code, got.response) for got in both] == [(Code.OK, bytes(MOST_BYTES))] * 2
    assert server.connections == 2


@pytest.mark.parametrize("status", [200, 500])
def test_a_body_without_an_end_is_cut_whatever_the_status(status: int) -> None:
    got = answer_of(floods(b"HTTP/1.1 %d X\r\n\r\n" % status, b"x" * 100_000))
    assert (got.code, got.response) == (Code.OK if status == 200 else Code.HTTP_5XX, b"x" * MOST_BYTES)


def test_a_compressed_bomb_is_kept_as_it_came() -> None:
    bomb = gzip.compress(bytes(10_000_000))
    assert len(bomb) < MOST_BYTES
    got = answer_of(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s" % (len(bomb), bomb))
    assert (got.code, got.response) == (Code.OK, bomb)


# Time


@pytest.mark.parametrize(
    "behaviour",
    [
        pytest.param(hangs, id="hangs"),
        pytest.param(drips(b"HTTP/1.1 200 OK\r\nX-Endless: "), id="drips"),
        pytest.param(floods(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), id="goes on and on"),
    ],
)
def test_a_server_that_gives_no_answer_is_given_up(behaviour: Behaviour) -> None:
    got = answer_of(behaviour, seconds=HASTY)
    assert (got.code, got.status, got.response) == (Code.TIMEOUT, None, None)
    assert (got.address, got.detail) == (REACHABLE, "no answer within 1 s")


@pytest.mark.parametrize("framing", [b"Content-Length: 5000\r\n\r\n", b"\r\n"])
def test_a_slow_drip_is_given_up_though_each_byte_came_in_time(framing: bytes) -> None:
    got = answer_of(drips(b"HTTP/1.1 200 OK\r\n" + framing), seconds=HASTY)
    assert (got.code, got.status, got.detail) == (Code.TIMEOUT, 200, "no end of the answer within 1 s")
    assert set(got.response or b"x") == {ord("x")}


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_server_that_takes_connections_and_nothing_else_is_given_up(scheme: str) -> None:
    with listener(REACHABLE) as listening:
        got = answer(f"{scheme}://{REACHABLE}:{listening.port}/", seconds=HASTY)
    assert (got.code, got.address) == (Code.TIMEOUT, REACHABLE)


def test_a_name_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def hang() -> list[str]:
        over.wait(60)
        return [REACHABLE]

    resolve(monkeypatch, {"hanging.example": hang})
    got = answer("http://hanging.example/", seconds=HASTY)
    over.set()
    assert (got.code, got.address, got.detail) == (Code.TIMEOUT, None, "no address of the name within 1 s")


# Connections that fail


def test_a_port_where_nobody_listens_is_told_with_its_address() -> None:
    got = answer(f"http://{REACHABLE}:{free_port()}/")
    assert (got.code, got.status, got.address, got.detail) == (Code.CONNECT, None, REACHABLE, "Connection refused")


def test_a_name_that_does_not_exist_has_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve(monkeypatch, {})
    got = answer("http://nobody.example/")
    assert (got.code, got.address, got.detail) == (Code.DNS, None, "Name or service not known")


def test_a_reset_is_a_lost_connection() -> None:
    got = answer_of(resets)
    assert (got.code, got.status, got.response, got.address) == (Code.LOST, None, None, REACHABLE)


@pytest.mark.parametrize(
    ("said", "status", "kept"),
    [
        (b"", None, None),
        (b"HTTP/1.1 2", None, None),
        (b"HTTP/1.1 200 OK\r\nContent-Len", None, None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", 200, b""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", 200, b"hello"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", 200, b"hello"),
    ],
)
def test_a_server_that_dies_half_way_has_not_answered(said: bytes, status: int | None, kept: bytes | None) -> None:
    got = answer_of(says_and_hangs_up(said))
    assert (got.code, got.status, got.response) == (Code.LOST, status, kept)


def test_a_failure_on_a_new_connection_is_not_repeated() -> None:
    with http_server(resets) as server:
        assert answer(server.url).code is Code.LOST
    assert (server.connections, len(server.requests)) == (1, 1)


@pytest.mark.parametrize(
    "said",
    [
        b"\x00\xff\x00\xff garbage \r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"hello",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nX-Huge: " + b"x" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 " + b"x" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X-Many: x\r\n" * 1_000 + b"\r\n",
    ],
)
def test_what_is_no_http_or_has_huge_headers_is_a_bad_answer(said: bytes) -> None:
    got = answer_of(says_and_hangs_up(said))
    assert (got.code, got.response, got.address) == (Code.BAD_ANSWER, None, REACHABLE)
    assert got.detail == "what came is no HTTP, or its headers are too large"


def test_headers_without_an_end_are_a_bad_answer_long_before_the_time_is_up() -> None:
    assert answer_of(floods(b"HTTP/1.1 200 OK\r\n", b"X-More: x\r\n" * 500)).code is Code.BAD_ANSWER


# Where it may not go


def test_a_redirect_is_not_followed(private: Listener) -> None:
    for status in (301, 302, 303, 307, 308):
        location = f"http://127.0.0.1:{private.port}/latest/meta-data"
        got = answer_of(f"HTTP/1.1 {status} X\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode())
        assert (got.code, got.status) == (Code.REDIRECT, status)
    assert private.knocks == 0


def test_a_redirect_is_not_followed_to_where_it_might_go_either() -> None:
    with http_server() as other:
        location = f"HTTP/1.1 307 X\r\nLocation: {other.url}\r\nContent-Length: 0\r\n\r\n"
        assert answer_of(location.encode()).code is Code.REDIRECT
    assert other.connections == 0


def test_a_name_of_private_addresses_is_blocked_and_one_of_them_is_told(
    private: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve(monkeypatch, {"private.example": lambda: ["127.0.0.1"]})
    got = answer(f"http://private.example:{private.port}/")
    assert (got.code, got.status, got.address) == (Code.BLOCKED, None, "127.0.0.1")
    assert (got.detail, private.knocks) == ("webhooks may not go to any address of its host", 0)


def test_a_name_with_a_public_address_too_is_not_blocked(private: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is connected to there; nobody listens there, in this case."""
    resolve(monkeypatch, {"mixed.example": lambda: ["127.0.0.1", REACHABLE]})
    got = answer(f"http://mixed.example:{private.port}/")
    assert (got.code, got.address, private.knocks) == (Code.CONNECT, REACHABLE, 0)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.1", "0x7f000001", "2130706433", "017700000001", "[::ffff:127.0.0.1]", "user@127.0.0.2"]
)
def test_a_url_that_would_not_be_saved_is_not_sent_to_either(host: str, private: Listener) -> None:
    got = answer(f"http://{host}:{private.port}/")
    assert (got.code, got.status, got.address, private.knocks) == (Code.BAD_URL, None, None, 0)
    assert (got.detail or "").startswith("the URL may not be sent to: it")


@pytest.mark.parametrize("url", ["", "ftp://127.0.0.2/", "http://", "/hook", "http://127.0.0.2/#x", "http://[", "\x00"])
def test_what_is_no_url_of_the_web_is_not_sent_to(url: str) -> None:
    assert answer(url).code is Code.BAD_URL


@needs_ipv6
def test_ipv6_works() -> None:
    with http_server(OK, "::1") as server:
        got = answer(server.url)
    assert (got.code, got.address) == (Code.OK, "::1")
    assert dict(server.requests[0].headers)["Host"] == f"[::1]:{server.port}"


# TLS


def test_a_certificate_of_somebody_trusted_for_this_name_is_right(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve(monkeypatch, {"endpoint.example": lambda: [REACHABLE]})
    with http_server(tls=authority.issued_to("endpoint.example")) as server:
        url = f"https://endpoint.example:{server.port}/"
        both = posted(url, times=2)
    assert [(got.code, got.address, got.response) for got in both] == [(Code.OK, REACHABLE, b"hello")] * 2
    assert (server.connections, len(server.requests)) == (1, 2)


def test_a_certificate_for_the_address_of_the_url_is_right(authority: Authority) -> None:
    with http_server(tls=authority.issued_to(REACHABLE)) as server:
        assert answer(server.url).code is Code.OK


def test_a_certificate_that_is_wrong_says_in_which_way(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve(monkeypatch, {"endpoint.example": lambda: [REACHABLE]})
    for context, said in [
        (authority.self_signed("endpoint.example"), "self-signed certificate"),
        (
            authority.issued_to("other.example"),
            "Hostname mismatch, certificate is not valid for 'endpoint.example'.",
        ),
        (authority.issued_to("endpoint.example", days=-1), "certificate has expired"),
    ]:
        with http_server(tls=context) as server:
            got = answer(f"https://endpoint.example:{server.port}/?{SECRET}")
        assert (got.code, got.status, got.address, got.detail) == (Code.TLS, None, REACHABLE, said)
        assert server.requests == []


def test_a_certificate_of_somebody_who_is_not_trusted_is_wrong(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with http_server(tls=authority.issued_to(REACHABLE)) as server:
        got = answer(server.url)
    assert (got.code, got.detail) == (Code.TLS, "unable to get local issuer certificate")


@pytest.mark.parametrize("said", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
def test_a_server_that_speaks_no_tls_or_hangs_up_when_it_hears_it_is_a_failure_of_tls(said: bytes) -> None:
    def serve() -> None:
        with listening.accept()[0] as connection:
            connection.recv(10_000)
            connection.sendall(said)

    with socket.create_server((REACHABLE, 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        got = answer(f"https://{REACHABLE}:{listening.getsockname()[1]}/")
        thread.join()
    assert (got.code, got.status, got.address) == (Code.TLS, None, REACHABLE)


# Being asked to wait


def test_a_429_asks_to_be_left_alone_in_seconds() -> None:
    got = answer_of(b"HTTP/1.1 429 X\r\nRetry-After: 17\r\nContent-Length: 0\r\n\r\n")
    assert (got.code, got.retry_after) == (Code.THROTTLED, timedelta(seconds=17))


def test_a_429_asks_to_be_left_alone_until_a_date_by_its_own_clock() -> None:
    got = answer_of(
        b"HTTP/1.1 429 X\r\nDate: Mon, 02 Mar 2026 10:00:00 GMT\r\n"
        b"Retry-After: Mon, 02 Mar 2026 10:01:40 GMT\r\nContent-Length: 0\r\n\r\n"
    )
    assert (got.code, got.retry_after) == (Code.THROTTLED, timedelta(seconds=100))


def test_a_date_of_an_answer_that_does_not_tell_its_time_is_measured_by_our_clock() -> None:
    got = answer_of(b"HTTP/1.1 503 X\r\nRetry-After: Mon, 02 Mar 2020 10:01:40 GMT\r\nContent-Length: 0\r\n\r\n")
    assert (got.code, got.retry_after) == (Code.HTTP_5XX, timedelta())


# Connections that are kept, and closed at the other end


class Closing:
    """A server that answers the first request of a connection, and then closes it as soon as it is told to."""

    def __init__(self) -> None:
        self.close = threading.Event()
        self.closed = threading.Event()

    async def __call__(self, request: Request, writer: asyncio.StreamWriter) -> None:
        await says(OK)(request, writer)
        await asyncio.to_thread(self.close.wait, 60)
        writer.close()
        await writer.wait_closed()
        self.closed.set()

    def wait(self) -> None:
        """Until the connection is closed, before anybody has noticed."""
        self.close.set()
        assert self.closed.wait(60)


def test_a_kept_connection_that_turns_out_to_be_closed_is_repeated_and_delivers_once() -> None:
    closing = Closing()
    with http_server(closing) as server:
        first, second = posted(server.url, times=2, before_the_next=closing.wait)
    assert (first.code, second.code, second.address) == (Code.OK, Code.OK, REACHABLE)
    assert (server.connections, len(server.requests)) == (2, 2)


def test_a_kept_connection_that_turns_out_to_be_closed_does_not_lead_to_a_private_address(
    private: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever closes it may have changed what the name means meanwhile."""
    said = iter([[REACHABLE], ["127.0.0.1"]])
    resolve(monkeypatch, {"changing.example": lambda: next(said)})
    closing = Closing()
    with http_server(closing, port=private.port) as server:
        url = f"http://changing.example:{private.port}/"
        first, second = posted(url, times=2, before_the_next=closing.wait)
    assert (first.code, first.address) == (Code.OK, REACHABLE)
    assert (second.code, second.address) == (Code.BLOCKED, "127.0.0.1")
    assert (server.connections, private.knocks) == (1, 0)


def test_a_connection_that_was_closed_long_ago_is_not_used_at_all() -> None:
    with http_server(says_and_hangs_up(OK)) as server:
        answers = posted(server.url, times=3, before_the_next=lambda: until(lambda: True))
    assert [got.code for got in answers] == [Code.OK] * 3
    assert (server.connections, len(server.requests)) == (3, 3)


def test_of_several_kept_connections_that_fail_only_one_is_tried() -> None:
    served: set[asyncio.StreamWriter] = set()
    both_came = asyncio.Event()

    async def behaviour(request: Request, writer: asyncio.StreamWriter) -> None:
        if writer in served:
            return await resets(request, writer)
        served.add(writer)
        if len(served) == 2:
            both_came.set()
        await both_came.wait()  # otherwise there would be one connection
        return await says(OK)(request, writer)

    async def run() -> list[Answer]:
        client = Client(ALLOWED, now, seconds=PATIENT, user_agent="FlatEarth-Tests/1", most_open=10)
        both = await asyncio.gather(*(asyncio.create_task(client.post(server.url, HEADERS, b"{}")) for _ in range(2)))
        third = await client.post(server.url, HEADERS, b"{}")
        await client.close()
        return [*both, third]

    with http_server(behaviour) as server:
        answers = asyncio.run(run())
    assert [got.code for got in answers] == [Code.OK] * 3
    assert (server.connections, len(server.requests)) == (3, 4)


class Fails:
    """A server that answers the first request, and fails with all others, or with the second only."""

    def __init__(self, failure: Behaviour, *, always: bool = False) -> None:
        self._failure = failure
        self._always = always
        self._requests = 0

    async def __call__(self, request: Request, writer: asyncio.StreamWriter) -> None:
        self._requests += 1
        fails = self._requests > 1 if self._always else self._requests == 2
        await (self._failure if fails else says(OK))(request, writer)


@pytest.mark.parametrize("failure", [resets, says_and_hangs_up(b"")], ids=["reset", "closed"])
def test_a_request_that_a_kept_connection_lost_is_repeated_with_the_same_id(failure: Behaviour) -> None:
    with http_server(Fails(failure)) as server:
        first, second = posted(server.url, times=2)
    assert (first.code, second.code) == (Code.OK, Code.OK)
    assert server.connections == 2
    assert [dict(request.headers)["webhook-id"] for request in server.requests] == ["msg_7"] * 3
    assert len({request.body for request in server.requests}) == 1


def test_it_is_repeated_once() -> None:
    with http_server(Fails(resets, always=True)) as server:
        first, second = posted(server.url, times=2)
    assert (first.code, second.code) == (Code.OK, Code.LOST)
    assert (server.connections, len(server.requests)) == (2, 3)


def test_a_large_body_is_repeated_whole() -> None:
    body = b"0123456789" * 200_000
    with http_server(Fails(resets)) as server:
        assert [got.code for got in posted(server.url, body, times=2)] == [Code.OK, Code.OK]
    assert [request.body == body for request in server.requests] == [True, True, True]


@pytest.mark.parametrize("begun", [b"H", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"])
def test_once_an_answer_has_begun_nothing_is_repeated(begun: bytes) -> None:
    with http_server(Fails(says_and_hangs_up(begun))) as server:
        first, second = posted(server.url, times=2)
    assert (first.code, second.code) == (Code.OK, Code.LOST)
    assert (server.connections, len(server.requests)) == (1, 2)


def test_a_repetition_has_what_is_left_of_the_time() -> None:
    async def slow_failure(request: Request, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.1)
        await (resets if server.connections == 1 else hangs)(request, writer)

    with http_server(Fails(slow_failure, always=True)) as server:
        first, second = posted(server.url, times=2, seconds=HASTY)
    assert (first.code, second.code, server.connections) == (Code.OK, Code.TIMEOUT, 2)


# What a person is told


@pytest.mark.parametrize(
    ("behaviour", "code"),
    [
        (hangs, Code.TIMEOUT),
        (drips(b"HTTP/1.1 200 OK\r\nX-Secret: s3cret\r\nContent-Length: 9000\r\n\r\ns3cret"), Code.TIMEOUT),
        (resets, Code.LOST),
        (says_and_hangs_up(b"HTTP/1.1 200 OK\r\nX-Secret: s3cret\r\nConte"), Code.LOST),
        (says_and_hangs_up(b"HTTP/1.1 200 OK\r\nX-Secret: s3cret\r\nContent-Length: 9\r\n\r\n"), Code.LOST),
        (says_and_hangs_up(b"s3cret"), Code.BAD_ANSWER),
        (says_and_hangs_up(b"HTTP/1.1 200 OK\r\nContent-Length: s3cret\r\n\r\n"), Code.BAD_ANSWER),
        (says_and_hangs_up(b"HTTP/1.1 200 OK\r\nX: " + b"s3cret" * 10_000), Code.BAD_ANSWER),
        (says(b"HTTP/1.1 302 s3cret\r\nLocation: /s3cret\r\nContent-Length: 0\r\n\r\n"), Code.REDIRECT),
    ],
    ids=range(9),
)
def test_no_detail_tells_any_of_the_url_or_of_a_header(behaviour: Behaviour, code: Code) -> None:
    with http_server(behaviour) as server:
        url = f"{server.url}/{SECRET}?token={SECRET}"
        (got,) = posted(url, headers={"X-Secret": SECRET}, seconds=HASTY if code is Code.TIMEOUT else PATIENT)
    assert got.code is code
    _tells_nothing(got)


def test_no_detail_of_a_request_that_was_not_made_tells_any_of_the_url(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve(monkeypatch, {"private.example": lambda: ["127.0.0.1"]})
    with http_server(tls=authority.self_signed(REACHABLE)) as server:
        for start, code in [
            (server.url, Code.TLS),
            (f"http://{REACHABLE}:{free_port()}/", Code.CONNECT),
            ("http://private.example/", Code.BLOCKED),
            ("http://nobody.example/", Code.DNS),
            (f"http://me:{SECRET}@127.0.0.2/", Code.BAD_URL),
            ("http://127.0.0.1/", Code.BAD_URL),
            ("gopher://127.0.0.2/", Code.BAD_URL),
        ]:
            (got,) = posted(f"{start}{SECRET}?token={SECRET}", headers={"X-Secret": SECRET})
            assert got.code is code
            assert got.detail
            _tells_nothing(got)


def test_a_header_that_cannot_be_sent_is_told_by_the_kind_of_error_only() -> None:
    with http_server() as server:
        (got,) = posted(server.url, headers={"X-Secret": f"{SECRET}\r\nHost: evil"})
    assert (got.code, got.detail) == (Code.BAD_ANSWER, "it failed with ValueError")
    assert server.requests == []


def _tells_nothing(got: Answer) -> None:
    detail = got.detail or ""
    assert SECRET not in detail
    assert len(detail.splitlines()) <= 1
    assert len(detail) <= 300
