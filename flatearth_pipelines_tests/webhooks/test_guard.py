"""Connections to where webhooks may go, and none to where they may not: a listener would see them."""

import asyncio
import gc
import socket
import ssl
from collections.abc import Iterator, Sequence
from ipaddress import ip_network
from typing import NamedTuple

import aiohttp
import pytest

from flatearth_pipelines.settings import Network
from flatearth_pipelines.webhooks.guard import WAY, Blocked, Guard, Way
from flatearth_pipelines.webhooks.names import Names
from flatearth_pipelines_tests.webhooks.servers import (
    ALLOWED,
    OK,
    REACHABLE,
    Listener,
    http_server,
    listener,
    needs_ipv6,
    resolve,
    says_and_hangs_up,
)

PRIVATE = "127.0.0.1"

LAST = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Went(NamedTuple):
    """What became of one request."""

    way: Way
    error: aiohttp.ClientError | None

    @property
    def is_blocked(self) -> bool:
        return isinstance(self.error, aiohttp.ClientConnectorError) and isinstance(self.error.os_error, Blocked)


def went(
    *urls: str, allowed: Sequence[Network] = ALLOWED, most_open: int | None = 10, at_once: bool = False
) -> list[Went]:
    """Requests there, one after the other or all at once."""

    async def go(session: aiohttp.ClientSession, url: str) -> Went:
        way = Way()
        WAY.set(way)
        try:
            async with asyncio.timeout(60), session.post(url, data=b"") as response:
                await response.read()
        except aiohttp.ClientError as error:
            return Went(way, error)
        return Went(way, None)

    async def run() -> list[Went]:
        names = Names()
        guard = Guard(allowed, names, ssl.create_default_context(), most_open=most_open)
        async with aiohttp.ClientSession(connector=guard) as session:
            if at_once:
                done = await asyncio.gather(*(asyncio.create_task(go(session, url)) for url in urls))
            else:
                done = [await go(session, url) for url in urls]
        await names.close()
        return done

    return asyncio.run(run())


@pytest.fixture
def private() -> Iterator[Listener]:
    """Somebody at a private address."""
    with listener(PRIVATE) as listening:
        yield listening


# Nothing private is ever connected to


def test_the_listener_sees_whoever_knocks_however_shortly(private: Listener) -> None:
    for _ in range(2):
        socket.create_connection((PRIVATE, private.port)).close()
    assert private.knocks == 2


def test_a_private_address_is_connected_to_where_its_network_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What all tests below would see, were it not for the guard."""
    resolve(monkeypatch, {"private.example": lambda: [PRIVATE]})
    with http_server(OK, PRIVATE) as server:
        (one,) = went(f"http://private.example:{server.port}/", allowed=[ip_network("127.0.0.0/8")])
    assert (one.error, one.way.address, server.connections) == (None, PRIVATE, 1)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_name_that_means_a_private_address_is_not_connected_to(
    scheme: str, private: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve(monkeypatch, {"private.example": lambda: [PRIVATE]})

    (one,) = went(f"{scheme}://private.example:{private.port}/")

    assert one.is_blocked
    assert (one.way.address, one.way.tried, private.knocks) == (PRIVATE, None, 0)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1.",
        "2130706433",
        "2130706433.",
        "0x7f000001",
        "0x7f.1",
        "0x7f.0.0.0x1",
        "017700000001",
        "0177.0.0.1",
        "0177.0.0.01.",
        "127.1",
        "127.0.1",
        "0",
        "0.0.0.0",  # noqa: S104 - nobody binds it
        "localhost",
        "localhost.",
        "LOCALHOST",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[0:0:0:0:0:ffff:127.0.0.1]",
        "[::127.0.0.1]",
        "[64:ff9b::127.0.0.1]",
        "[2002:7f00:1::]",
        "[::]",
        "\uff11\uff12\uff17.0.0.1",
        "127\u30020.0.1",
        "\u2460\u2461\u2466.0.0.1",
    ],
)
def test_no_spelling_of_a_private_address_leads_there(host: str, private: Listener) -> None:
    """Decimal, octal, hexadecimal, short, full width or inside IPv6, as the machine's own resolver understands it."""
    (one,) = went(f"http://{host}:{private.port}/", allowed=[ip_network(f"{REACHABLE}/32")])

    assert one.error is not None
    assert (one.way.tried, private.knocks) == (None, 0)


def test_a_name_that_changes_between_two_requests_is_judged_anew(
    private: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = iter([[REACHABLE], [PRIVATE], [REACHABLE]])
    resolve(monkeypatch, {"changing.example": lambda: next(said)})
    with http_server(says_and_hangs_up(LAST)) as server:
        (reached,) = went(f"http://changing.example:{server.port}/")
        (blocked,) = went(f"http://changing.example:{private.port}/")
        (again,) = went(f"http://changing.example:{server.port}/")

    assert (reached.error, blocked.is_blocked, again.error) == (None, True, None)
    assert (server.connections, private.knocks) == (2, 0)


def test_a_name_is_looked_up_once_for_a_connection_so_that_it_cannot_change_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Were it looked up again for the connection, this would be an error: there is no third answer."""
    said = iter([[REACHABLE], [REACHABLE]])
    resolve(monkeypatch, {"changing.example": lambda: next(said)})
    with http_server(says_and_hangs_up(LAST)) as server:
        both = went(*[f"http://changing.example:{server.port}/"] * 2)

    assert [one.error for one in both] == [None, None]
    assert (server.connections, list(said)) == (2, [])


@pytest.mark.parametrize("addresses", [[PRIVATE, REACHABLE], [REACHABLE, PRIVATE], ["::ffff:127.0.0.1", REACHABLE]])
def test_of_a_names_addresses_only_those_are_tried_that_are_permitted(
    addresses: list[str], private: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve(monkeypatch, {"mixed.example": lambda: addresses})
    with http_server(OK) as server:
        (one,) = went(f"http://mixed.example:{server.port}/")
        (other,) = went(f"http://mixed.example:{private.port}/")

    assert (one.error, one.way.address) == (None, REACHABLE)
    assert isinstance(other.error, aiohttp.ClientConnectorError)  # nobody is there
    assert (other.way.address, private.knocks) == (REACHABLE, 0)


def test_an_address_on_the_way_that_is_not_in_use_is_followed_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve(monkeypatch, {"several.example": lambda: ["::1", REACHABLE]})
    with http_server(OK) as server:
        (one,) = went(f"http://several.example:{server.port}/")
    assert (one.error, one.way.address) == (None, REACHABLE)


@pytest.mark.parametrize("port", [25, 79, 81, 442, 444, 8080])
def test_a_public_address_is_connected_to_at_the_ports_of_the_web_only(port: int) -> None:
    (one,) = went(f"http://8.8.8.8:{port}/")
    assert one.is_blocked


@needs_ipv6
def test_an_address_of_ipv6_is_connected_to_as_such() -> None:
    with http_server(OK, "::1") as server:
        (one,) = went(server.url)
        (blocked,) = went(server.url, allowed=[ip_network(f"{REACHABLE}/32")])
    assert (one.error, one.way.address) == (None, "::1")
    assert (blocked.is_blocked, blocked.way.address, server.connections) == (True, "::1", 1)


# Connections that are kept


def test_a_connection_is_kept_for_the_next_request_which_knows_that_and_where_it_leads() -> None:
    with http_server(OK) as server:
        ways = [one.way for one in went(*[server.url] * 3)]
    assert [(way.reused, way.address) for way in ways] == [(False, REACHABLE), (True, REACHABLE), (True, REACHABLE)]
    assert (server.connections, len(server.requests)) == (1, 3)


def test_without_a_number_none_is_kept() -> None:
    with http_server(OK) as server:
        ways = [one.way for one in went(*[server.url] * 3, most_open=None)]
    assert [way.reused for way in ways] == [False, False, False]
    assert server.connections == 3


def test_no_more_are_kept_than_told() -> None:
    """Files are few: with a thousand endpoints, a thousand idle connections would use them up."""
    with http_server(OK) as one, http_server(OK) as other, http_server(OK) as third:
        urls = [one.url, other.url, third.url]
        ways = [each.way for each in went(*urls, *urls, most_open=2)]
    assert [way.reused for way in ways] == [False, False, False, True, True, False]
    assert [server.connections for server in (one, other, third)] == [1, 1, 2]


def test_connections_that_are_closed_take_no_place_of_those_that_are_kept() -> None:
    gc.disable()  # what is left of them may lie around for a while
    try:
        with http_server(says_and_hangs_up(LAST)) as closing, http_server(OK) as server:
            ways = [each.way for each in went(*[closing.url] * 20, *[server.url] * 2, most_open=2)]
    finally:
        gc.enable()
    assert [way.reused for way in ways] == [False] * 21 + [True]


def test_what_is_not_kept_is_as_many_at_once_as_asked_for() -> None:
    with http_server(OK) as server:
        done = went(*[server.url] * 50, most_open=2, at_once=True)
    assert [one.error for one in done] == [None] * 50
