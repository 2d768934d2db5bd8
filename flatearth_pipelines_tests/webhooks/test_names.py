"""Look-ups in threads, of names that the machine's resolver knows, does not know, or never says anything about."""

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine, Generator
from queue import SimpleQueue
from typing import Any, TypeVar

import pytest

from flatearth_pipelines.webhooks.names import MOST_ADDRESSES, THREADS, Names
from flatearth_pipelines_tests.processes import until
from flatearth_pipelines_tests.webhooks.servers import resolve

T = TypeVar("T")


def with_names(ask: Callable[[Names], Coroutine[Any, Any, T]]) -> T:
    async def run() -> T:
        names = Names()
        try:
            return await ask(names)
        finally:
            await names.close()

    return asyncio.run(run())


def looked_up(host: str) -> list[str]:
    async def ask(names: Names) -> list[str]:
        return [found["host"] for found in await names.resolve(host, 443)]

    return with_names(ask)


def at_work() -> int:
    return sum(thread.name == "webhook names" for thread in threading.enumerate())


@pytest.fixture
def hanging() -> Generator[threading.Event]:
    """Names that wait for it hang until the test is over."""
    over = threading.Event()
    yield over
    over.set()
    until(lambda: not at_work())


def test_a_name_has_the_addresses_that_the_machine_says_in_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve(monkeypatch, {"endpoint.example": lambda: ["192.0.2.1", "2001:db8::1", "192.0.2.1"]})
    assert looked_up("endpoint.example") == ["192.0.2.1", "2001:db8::1"]


def test_each_address_comes_with_the_port_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve(monkeypatch, {"endpoint.example": lambda: ["192.0.2.1"]})

    async def ask(names: Names) -> list[int]:
        asked = await asyncio.gather(*(names.resolve("endpoint.example", port) for port in (80, 443)))
        return [found["port"] for (found,) in asked]

    assert with_names(ask) == [80, 443]


def test_of_a_hundred_addresses_only_the_first_ones_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve(monkeypatch, {"endpoint.example": lambda: [f"192.0.2.{last}" for last in range(100)]})
    assert looked_up("endpoint.example") == [f"192.0.2.{last}" for last in range(MOST_ADDRESSES)]


def test_the_machines_own_resolver_is_asked() -> None:
    assert set(looked_up("localhost")) <= {"127.0.0.1", "::1"}


@pytest.mark.parametrize("host", ["nobody.example", "a" * 64 + ".example", "a\0b.example", "none.example"])
def test_a_name_without_an_address_is_an_error_of_look_ups(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not host.startswith("a"):  # what Python itself says of the others
        resolve(monkeypatch, {"none.example": list})
    with pytest.raises(socket.gaierror):
        looked_up(host)


def test_nothing_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    said = iter([["192.0.2.1"], ["192.0.2.2"]])
    resolve(monkeypatch, {"endpoint.example": lambda: next(said)})

    async def ask(names: Names) -> list[str]:
        return [(await names.resolve("endpoint.example"))[0]["host"] for _ in range(2)]

    assert with_names(ask) == ["192.0.2.1", "192.0.2.2"]


def test_who_asks_while_a_name_is_looked_up_gets_the_same_answer(
    monkeypatch: pytest.MonkeyPatch, hanging: threading.Event
) -> None:
    asked: SimpleQueue[str] = SimpleQueue()

    def slow() -> list[str]:
        asked.put("slow.example")
        hanging.wait(60)
        return ["192.0.2.1"]

    resolve(monkeypatch, {"slow.example": slow})

    async def ask(names: Names) -> list[str]:
        waiting = [asyncio.create_task(names.resolve("slow.example")) for _ in range(300)]
        await asyncio.sleep(0)  # all of them ask
        hanging.set()
        return [found[0]["host"] for found in await asyncio.gather(*waiting)]

    assert (with_names(ask), asked.qsize()) == (["192.0.2.1"] * 300, 1)


def test_who_asks_while_a_name_without_an_address_is_looked_up_gets_an_error_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolve(monkeypatch, {})

    async def ask(names: Names) -> list[object]:
        return await asyncio.gather(*(names.resolve("nobody.example") for _ in range(3)), return_exceptions=True)

    assert [type(each) for each in with_names(ask)] == [socket.gaierror] * 3


def test_names_that_hang_hold_up_no_other_until_all_threads_but_one_hang(
    monkeypatch: pytest.MonkeyPatch, hanging: threading.Event
) -> None:
    """Three requests go to each of them, which takes no more threads than one."""

    def hang() -> list[str]:
        hanging.wait(60)
        return []

    stuck = [f"{number}.hanging.example" for number in range(THREADS - 1)]
    resolve(monkeypatch, {"endpoint.example": lambda: ["192.0.2.1"]} | dict.fromkeys(stuck, hang))

    async def ask(names: Names) -> list[str]:
        waiting = [asyncio.create_task(names.resolve(host)) for host in stuck for _ in range(3)]
        await asyncio.sleep(0)
        found = [(await names.resolve("endpoint.example"))[0]["host"] for _ in range(10)]
        assert not any(task.done() for task in waiting)
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        return found

    assert with_names(ask) == ["192.0.2.1"] * 10
    assert at_work() >= THREADS - 1  # they did hang


def test_who_stops_waiting_for_a_free_thread_takes_none_away(
    monkeypatch: pytest.MonkeyPatch, hanging: threading.Event
) -> None:
    def hang() -> list[str]:
        hanging.wait(60)
        return ["192.0.2.2"]

    stuck = [f"{number}.hanging.example" for number in range(THREADS)]
    resolve(monkeypatch, {"endpoint.example": lambda: ["192.0.2.1"]} | dict.fromkeys(stuck, hang))

    async def ask(names: Names) -> list[str]:
        waiting = [asyncio.create_task(names.resolve(host)) for host in stuck]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(names.resolve("endpoint.example"), 0.05)
        hanging.set()
        await asyncio.gather(*waiting)
        return [(await names.resolve("endpoint.example"))[0]["host"] for _ in range(2 * THREADS)]

    assert with_names(ask) == ["192.0.2.1"] * (2 * THREADS)


def test_threads_are_used_again_and_end_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve(monkeypatch, {"endpoint.example": lambda: ["192.0.2.1"]})

    async def ask(names: Names) -> int:
        for _ in range(20):
            await names.resolve("endpoint.example")
        return at_work()

    assert with_names(ask) == 1
    until(lambda: not at_work())


def test_a_look_up_that_outlives_its_loop_ends_quietly(
    monkeypatch: pytest.MonkeyPatch, hanging: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    def hang() -> list[str]:
        hanging.wait(60)
        return ["192.0.2.1"]

    resolve(monkeypatch, {"hanging.example": hang})

    async def ask(names: Names) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(names.resolve("hanging.example"), 0.05)

    with_names(ask)
    hanging.set()
    until(lambda: not at_work())
    assert caplog.records == []
