"""The figures of notifications and their emails: what is run on which data set, against what, what it must come to."""

import contextlib
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks import notification_rivals as rivals
from benchmarks import queue_daemon
from benchmarks.children import started
from benchmarks.data import WrongResult
from benchmarks.measure import rounds
from benchmarks.notification_data import News, Windows, promptness
from benchmarks.report import Gate, Row, compared, measured
from benchmarks.servers import Lab, connected, say

_SAMPLE = 100
"""The loop is run on one event of so many."""

_BETWEEN_SECONDS = 15.0
_ENDS_IN_SECONDS = 20.0
"""So that the run before has ended, which stays for ten seconds."""

_CHILD = (sys.executable, "-m", "benchmarks.notification_child")
_SINK = (sys.executable, "-m", "benchmarks.mail_sink")


@dataclass(frozen=True)
class Bench:
    """Where and how much is measured."""

    lab: Lab
    home: Path
    events: int
    """New ones; and the bundles of the larger delivery, whose tenth is the ordinary one."""
    rounds: int

    @property
    def few(self) -> Windows:
        """The ordinary delivery."""
        return Windows(self.events // 10).built(self.lab)

    @property
    def many(self) -> Windows:
        """Ten times as many."""
        return Windows(self.events).built(self.lab)


@dataclass(frozen=True)
class _Run:
    seconds: float
    peak_mb: float

    def __str__(self) -> str:
        return f"{self.seconds:.3f} s, {self.peak_mb:.0f} MB"


def telling(bench: Bench) -> list[Row]:
    """New events and texts to mentions, notifications and windows, against one statement and against a loop."""
    news = News(bench.events).built(bench.lab)
    conninfo = bench.lab.fresh(news.name)
    expected = news.expected(conninfo)
    mentions, notifications, _ = expected

    def timed(run: Callable[[str], float], rest: Callable[[str], object] = lambda _conninfo: None) -> float:
        conninfo = bench.lab.fresh(news.name)
        seconds = run(conninfo)
        rest(conninfo)
        news.verify(conninfo, expected)
        return seconds

    sample = max(bench.events // _SAMPLE, 1)
    seconds = rounds(
        bench.rounds,
        {
            "ours": lambda: timed(lambda conninfo: _child("tell", conninfo).seconds),
            "statement": lambda: timed(rivals.single_statement),
            "loop": lambda: timed(
                lambda conninfo: rivals.row_by_row(conninfo, sample) * bench.events / sample,
                lambda conninfo: _child("tell", conninfo),
            ),
        },
    )
    what = f"{bench.events:,} events to {notifications + mentions:,} notifications"
    return [
        compared("telling", f"{what} / one statement", seconds["ours"], seconds["statement"], Gate(most=1.5)),
        compared(
            "telling",
            f"{what}: a row-by-row loop takes times ours",
            seconds["ours"],
            seconds["loop"],
            times_slower=True,
        ),
    ]


def mailing(bench: Bench) -> list[Row]:
    """Due bundles claimed, decided, written, sent and recorded, against ready-made bytes by a loop of smtplib's."""
    windows = bench.few
    seconds = rounds(
        bench.rounds,
        {
            "ours": lambda: _delivered(bench, windows, "aiosmtpd").seconds,
            "loop": lambda: _mailed(bench, windows, "bare", "aiosmtpd").seconds,
            "ours, bare sink": lambda: _delivered(bench, windows, "bare").seconds,
            "loop, bare sink": lambda: _mailed(bench, windows, "bare", "bare").seconds,
            "writing": lambda: _child("write", bench.lab.fresh(windows.name)).seconds,
        },
    )
    share = f"{windows.bundles:,} bundles: the rate, as a share of a smtplib loop's with as many connections"

    def row(sink: str, ours: str, loop: str, gate: Gate | None = None) -> Row:
        return compared("mailing", f"{share}, to {sink}", seconds[ours], seconds[loop], gate, times_slower=True)

    return [
        row("aiosmtpd", "ours", "loop", Gate(least=0.7)),
        row("a sink that looks at nothing", "ours, bare sink", "loop, bare sink"),
        compared(
            "mailing",
            f"{windows.bundles:,} bundles: writing the mails, of the whole",
            seconds["writing"],
            seconds["ours"],
        ),
    ]


def memory(bench: Bench) -> list[Row]:
    """The peak of the whole process, with ten times the bundles."""
    few, many = bench.few, bench.many
    peaks = rounds(
        bench.rounds,
        {
            "few": lambda: _delivered(bench, few, "bare").peak_mb,
            "many": lambda: _delivered(bench, many, "bare").peak_mb,
        },
    )
    ratio = median(large / small for small, large in zip(peaks["few"], peaks["many"], strict=True))
    return [
        measured("memory", f"{few.bundles:,} bundles", median(peaks["few"])),
        measured("memory", f"{many.bundles:,} bundles", median(peaks["many"])),
        measured("memory", f"{many.bundles:,} bundles / {few.bundles:,}", ratio, gate=Gate(most=1.1, unit="times")),
    ]


def daemon(bench: Bench) -> list[Row]:
    """From a window's end to its mail, through Dagster's daemon, into a directory: when nothing else is at work."""
    conninfo = bench.lab.fresh(bench.few.name)
    with connected(conninfo) as connection:
        connection.execute("delete from flatearth.notification_bundles")
    with queue_daemon.running(bench.home, conninfo):
        say("  the first, while the daemon starts")
        promptness(conninfo, 1)
        found = []
        for _ in range(2 * bench.rounds):
            time.sleep(_BETWEEN_SECONDS)
            found.append(promptness(conninfo, _ENDS_IN_SECONDS))
    what = f"{len(found)} windows, from their end to their mail: median; the longest {max(found):.2f} s"
    return [measured("daemon", what, median(found), gate=Gate(most=1.5, unit="s"))]


FIGURES = {each.__name__: each for each in (telling, mailing, memory, daemon)}


def _delivered(bench: Bench, windows: Windows, sink: str) -> _Run:
    run = _mailed(bench, windows, "deliver", sink)
    windows.verify(bench.lab.conninfo("clone"))
    return run


def _mailed(bench: Bench, windows: Windows, what: str, sink: str) -> _Run:
    conninfo = bench.lab.fresh(windows.name)
    with _sink(sink, windows.bundles) as port:
        return _child(what, conninfo, str(port))


def _child(what: str, *arguments: str) -> _Run:
    with started([(*_CHILD, what, *arguments)]) as (child,):
        child.begin()
        said = child.said()
    return _Run(said["ended"] - said["began"], said["peak_mb"])


@contextlib.contextmanager
def _sink(kind: str, mails: int) -> Generator[int]:
    """The port of a sink that is sent so many mails.

    Raises:
        WrongResult: it was sent more or fewer.
    """
    with started([(*_SINK, kind)]) as (sink,):
        yield sink.next_number()
        sink.begin()
        taken = sink.said()["taken"]
    if taken != mails:
        raise WrongResult(f"the sink was sent {taken:,} mails, not {mails:,}")
