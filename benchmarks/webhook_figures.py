"""The figures of webhooks: what is run on which data set, against what, and what it must come to."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

from benchmarks import queue_daemon
from benchmarks import webhook_rivals as rivals
from benchmarks.children import Child, started
from benchmarks.data import WrongResult
from benchmarks.measure import rounds
from benchmarks.report import Gate, Row, Spread, compared
from benchmarks.servers import Lab, say
from benchmarks.webhook_child import ALLOWED
from benchmarks.webhook_data import Subscribed, happened, lead_to
from benchmarks.webhook_sink import ANSWER_SECONDS
from flatearth_pipelines.webhooks.delivery import IN_FLIGHT, SECONDS

_ENDPOINTS = 100
"""Accounts whose events are dispatched."""

_DELIVERING = 400
"""Endpoints that are delivered to."""

_OF_AN_ACCOUNT = 10
"""Endpoints, where there are several."""

_QUICK = 3
"""Times as many rounds for what takes a few seconds."""

_HTTPX_PART = 10
"""httpx sends one delivery of so many."""

_APART_SECONDS = (0.73, 1.18, 1.61)
"""Between events that find runs staying, which look for them five times a second."""

_CHILD = (sys.executable, "-m", "benchmarks.webhook_child")
_SINK = (sys.executable, "-m", "benchmarks.webhook_sink")


@dataclass(frozen=True)
class Bench:
    """Where and how much is measured."""

    lab: Lab
    home: Path
    events: int
    """New ones, to ten endpoints each. A fifth as many deliveries are sent to a fast server, a tenth to a slow one."""
    rounds: int

    @property
    def news(self) -> Subscribed:
        """Events that were not dispatched."""
        return Subscribed(_ENDPOINTS, _OF_AN_ACCOUNT, self.events // _ENDPOINTS, dispatched=False).built(self.lab)

    def pending(self, part: int = 1) -> Subscribed:
        """A fifth as many deliveries as there are events, to four hundred endpoints; one of so many of them."""
        accounts = _DELIVERING // _OF_AN_ACCOUNT
        return Subscribed(accounts, _OF_AN_ACCOUNT, max(self.events // 5 // _DELIVERING // part, 1)).built(self.lab)

    @property
    def scattered(self) -> Subscribed:
        """Ten deliveries to each of many endpoints."""
        endpoints = max(self.events // 100, 100)
        return Subscribed(endpoints // _OF_AN_ACCOUNT, _OF_AN_ACCOUNT, 10).built(self.lab)


@dataclass(frozen=True)
class _Run:
    seconds: float
    healthy: float
    """Seconds until the last delivery that was completed."""

    def __str__(self) -> str:
        return f"{self.seconds:.3f} s, completed after {self.healthy:.3f} s"


def delivering(bench: Bench) -> list[Row]:
    """Due deliveries claimed, composed, signed, sent and recorded, against ready bytes by a bare loop, and by httpx."""
    pending, few = bench.pending(), bench.pending(_HTTPX_PART)
    times = pending.deliveries / few.deliveries
    ours_too = {"ours": lambda: _delivered(bench, pending).seconds}
    seconds = rounds(
        _QUICK * bench.rounds,
        ours_too
        | {
            "loop": lambda: _sent(bench, pending, "bare"),
            "uvloop": lambda: _sent(bench, pending, "uvloop"),
            "sending": lambda: _sent(bench, pending, "send"),
        },
    )
    beside = rounds(bench.rounds, ours_too | {"httpx": lambda: _delivered(bench, few, what="httpx").seconds * times})
    events = pending.accounts * pending.events
    what = f"{pending.deliveries:,} deliveries of {events:,} events to {_DELIVERING} endpoints, {IN_FLIGHT} at once"
    ours, loop, on_uvloop = (
        f"{pending.deliveries / median(seconds[name]):,.0f}/s" for name in ("ours", "loop", "uvloop")
    )
    share, gate = Spread.of_ratios(seconds["loop"], seconds["ours"]), Gate(least=0.6)
    of_uvloop = Spread.of_ratios(seconds["uvloop"], seconds["ours"])
    told = f"{what}: the rate, as a share of a bare aiohttp loop's with ready bytes"
    return [
        Row("delivering", told, ours, loop, str(share), str(gate), gate.holds(share.middle)),
        Row("delivering", f"{what}: the same loop on uvloop, as ours is", ours, on_uvloop, str(of_uvloop)),
        compared(
            "delivering",
            f"{what}: with httpx in place of the transport it takes times ours (by {few.deliveries:,})",
            beside["ours"],
            beside["httpx"],
            times_slower=True,
        ),
        compared("delivering", f"{what}: signing and sending alone, of the whole", seconds["sending"], seconds["ours"]),
    ]


def dispatching(bench: Bench) -> list[Row]:
    """New events to the deliveries of ten endpoints each, against one statement in one transaction."""
    news = bench.news

    def timed(run: Callable[[str], float]) -> float:
        conninfo = bench.lab.fresh(news.name)
        seconds = run(conninfo)
        news.verify_dispatched(conninfo)
        return seconds

    seconds = rounds(
        bench.rounds,
        {
            "ours": lambda: timed(lambda conninfo: _child("dispatch", conninfo, news.deliveries).seconds),
            "statement": lambda: timed(rivals.single_statement),
        },
    )
    what = f"{news.accounts * news.events:,} events to {news.deliveries:,} deliveries / one statement"
    return [compared("dispatching", what, seconds["ours"], seconds["statement"], Gate(most=1.5))]


def hanging(bench: Bench) -> list[Row]:
    """Deliveries to many endpoints, of which one in a hundred never answers, against the same when all do."""
    scattered = bench.scattered
    runs = rounds(
        bench.rounds,
        {
            "all answer": lambda: _delivered(bench, scattered, sink="slow"),
            "some hang": lambda: _delivered(bench, scattered, sink="hanging"),
        },
    )
    hang, answer = runs["some hang"], runs["all answer"]
    what = (
        f"{scattered.deliveries:,} deliveries to {scattered.accounts * scattered.endpoints:,} endpoints that answer"
        f" after {ANSWER_SECONDS * 1_000:.0f} ms, of which 1 % hang / none"
    )
    return [
        compared(
            "hanging",
            f"{what}: until the last one is completed that can be",
            [run.healthy for run in hang],
            [run.healthy for run in answer],
            Gate(most=1.5),
        ),
        compared(
            "hanging",
            f"{what}: the whole run, whose last requests end after {SECONDS:g} s by rule",
            [run.seconds for run in hang],
            [run.seconds for run in answer],
        ),
    ]


def daemon(bench: Bench) -> list[Row]:
    """From an event's commit to its request, through Dagster's daemon: with nothing at work, and while runs stay."""
    conninfo = bench.lab.fresh(Subscribed(1, 1, 0).built(bench.lab).name)
    idle, staying = [], []
    with (
        _sink("telling") as (sink, served),
        patch.dict(os.environ, {"FLATEARTH_WEBHOOK_ALLOW_NETWORKS": ALLOWED}),
        queue_daemon.running(bench.home, conninfo),
    ):
        lead_to(conninfo, sink.port)

        def seconds() -> float:
            committed = happened(conninfo)
            took = (sink.child.next_number() - committed) / 1e9
            say(f"  from an event's commit to its request: {took:.3f} s")
            return took

        say("  the first, while the daemon starts")
        seconds()
        for _ in range(2 * bench.rounds):
            queue_daemon.wait_until_idle(conninfo)
            time.sleep(_APART_SECONDS[0])
            idle.append(seconds())
            for apart in _APART_SECONDS:
                time.sleep(apart)
                staying.append(seconds())
    if served["answered"] != 1 + len(idle) + len(staying):
        raise WrongResult(f"the server was sent {served['answered']} requests, not {1 + len(idle) + len(staying)}")
    return [_prompt("with nothing at work", idle), _prompt("while runs stay", staying)]


FIGURES = {each.__name__: each for each in (delivering, dispatching, hanging, daemon)}


def _prompt(when: str, found: Sequence[float]) -> Row:
    what = f"{len(found)} events {when}, from their commit to their request: median; the longest {max(found):.2f} s"
    return Row("daemon", what, f"{median(found):.2f} s", "")


def _delivered(bench: Bench, subscribed: Subscribed, *, what: str = "deliver", sink: str = "fast") -> _Run:
    conninfo = bench.lab.fresh(subscribed.name)
    completed = subscribed.deliveries - (subscribed.of_hanging if sink == "hanging" else 0)
    with _sink(sink) as (server, served):
        lead_to(conninfo, server.port)
        run = _child(what, conninfo, completed)
    subscribed.verify_sent(conninfo, served, hanging=sink == "hanging")
    return run


def _sent(bench: Bench, subscribed: Subscribed, what: str) -> float:
    """Seconds of the same requests without Postgres."""
    conninfo = bench.lab.fresh(subscribed.name)
    with _sink("fast") as (server, served):
        lead_to(conninfo, server.port)
        run = _child(what, conninfo, subscribed.deliveries)
    if served["answered"] != subscribed.deliveries:
        raise WrongResult(f"the server was sent {served['answered']:,} requests, not {subscribed.deliveries:,}")
    return run.seconds


def _child(what: str, conninfo: str, expected: int) -> _Run:
    """One run in a process of its own.

    Raises:
        WrongResult: it says of itself to have done more or less than expected.
    """
    with started([(*_CHILD, what, conninfo)]) as (child,):
        child.begin()
        said = child.said()
    if said["done"] != expected:
        raise WrongResult(f"{what} did {said['done']:,}, not {expected:,}")
    return _Run(said["ended"] - said["began"], said["completed_at"] - said["began"])


@dataclass(frozen=True)
class _Server:
    child: Child
    port: int


@contextlib.contextmanager
def _sink(kind: str) -> Generator[tuple[_Server, dict[str, Any]]]:
    """A server, and what it says of itself: there once it has ended, with the block."""
    served: dict[str, Any] = {}
    with started([(*_SINK, kind)]) as (child,):
        yield _Server(child, child.next_number()), served
        child.begin()
        served |= child.said()
