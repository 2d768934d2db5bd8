"""The figures: what is run on which data set, against what, and what it must come to."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from statistics import median

from benchmarks import rivals
from benchmarks.data import DataSet, Plan, WrongResult, with_plain_indexes
from benchmarks.measure import dagster_job, ours, own_peak_mb, rounds
from benchmarks.report import Gate, Row, compared, measured
from benchmarks.servers import Lab, connected
from benchmarks.writers import CARDS_A_TRANSACTION, WRITERS, among_writers

_BACKLOG = 0.2
_HOURLY = 0.001
"""Shares of the cards that are due."""

_QUICK = 3
"""Times as many rounds for what takes a fraction of a second."""

_LOOP_ACCOUNTS = {"backlog": 60, "hourly": 200}
"""Of 2,000: the sample that the loop is run on."""


@dataclass(frozen=True)
class Bench:
    """Where and how much is measured."""

    lab: Lab
    cards: int
    """Of the ordinary data sets; the large ones have ten times as many."""
    rounds: int

    def backlog(self) -> DataSet:
        """Many cards due at once, as after a holiday or a shorter period."""
        return Plan("b1m", self.cards, _BACKLOG).built(self.lab)

    def hourly(self) -> DataSet:
        """What becomes due within an hour."""
        return Plan("s1m", self.cards, _HOURLY).built(self.lab)

    def large_hourly(self) -> DataSet:
        """As many due as in `hourly`, among ten times the cards."""
        return Plan("k10m", 10 * self.cards, _HOURLY / 10).built(self.lab)

    def large_backlog(self) -> DataSet:
        """One card in twenty due, of ten times the cards."""
        return Plan("b10m", 10 * self.cards, 0.05).built(self.lab)

    def timed(self, data: DataSet, run: Callable[[str, datetime], float]) -> Callable[[], float]:
        """The seconds of a run on a fresh copy, whose result is right."""

        def once() -> float:
            conninfo = self.lab.fresh(data.name)
            seconds = run(conninfo, data.as_of)
            data.verify(conninfo)
            return seconds

        return once


def backlog(bench: Bench) -> list[Row]:
    """A fifth of the cards at once, against one statement on the same indexes and on plain ones."""
    data = bench.backlog()
    plain = with_plain_indexes(bench.lab, data)
    seconds = rounds(
        bench.rounds,
        {
            "one": bench.timed(data, _seconds),
            "statement": bench.timed(data, rivals.single_statement),
            "two": bench.timed(data, _seconds_of_two),
            "plain": bench.timed(plain, rivals.single_statement),
        },
    )
    due = f"{data.facts.due:,} due of {data.cards:,}"
    same, other = "one statement, same indexes", "one statement, an index per foreign key"
    return [
        compared("backlog", f"{due}, one process / {same}", seconds["one"], seconds["statement"], Gate(most=1.15)),
        compared("backlog", f"{due}, two shards / {same}", seconds["two"], seconds["statement"], Gate(most=0.85)),
        compared("backlog", f"{due}, one process / {other}", seconds["one"], seconds["plain"]),
        compared("backlog", f"{due}, two shards / {other}", seconds["two"], seconds["plain"]),
    ]


def hourly(bench: Bench) -> list[Row]:
    """One card in a thousand, against the natural statement and the best SQL."""
    data = bench.hourly()
    seconds = rounds(
        _QUICK * bench.rounds,
        {
            "ours": bench.timed(data, _seconds),
            "statement": bench.timed(data, rivals.single_statement),
            "best": bench.timed(data, rivals.best_statements),
        },
    )
    due = f"{data.facts.due:,} due of {data.cards:,}"
    return [
        compared("hourly", f"{due} / one statement", seconds["ours"], seconds["statement"], Gate(most=0.45)),
        compared("hourly", f"{due} / the best SQL", seconds["ours"], seconds["best"], Gate(most=1.2)),
    ]


def growth(bench: Bench) -> list[Row]:
    """Ten times the cards, with as many due."""
    small, large = bench.hourly(), bench.large_hourly()
    seconds = rounds(
        bench.rounds,
        {
            "small": bench.timed(small, _seconds),
            "large": bench.timed(large, _seconds),
            "small statement": bench.timed(small, rivals.single_statement),
            "large statement": bench.timed(large, rivals.single_statement),
        },
    )
    due = f"{large.facts.due:,} due"
    grown = f"{due}, {large.cards:,} cards / {small.cards:,}"
    statement = compared("growth", f"{grown}: the statement", seconds["large statement"], seconds["small statement"])
    return [
        compared("growth", f"{grown}: ours", seconds["large"], seconds["small"], Gate(most=1.5)),
        statement,
        compared(
            "growth",
            f"{due}, {large.cards:,} cards: the statement takes times ours",
            seconds["large"],
            seconds["large statement"],
            Gate(least=10),
            times_slower=True,
        ),
    ]


def memory(bench: Bench) -> list[Row]:
    """The peak of the whole process, alone and inside Dagster."""
    hour, many = bench.large_hourly(), bench.large_backlog()
    peaks = rounds(
        bench.rounds,
        {
            "hourly": lambda: _peak(bench, hour),
            "backlog": lambda: _peak(bench, many),
            "dagster": lambda: _dagster_peak(bench, hour),
        },
    )
    if own_peak_mb() >= min(peaks["hourly"]):
        raise WrongResult("this process has grown larger than those it measures: run the figure memory alone")
    few, half = (f"{data.facts.due:,} due of {data.cards:,}" for data in (hour, many))
    return [
        measured("memory", f"{few}", median(peaks["hourly"]), gate=Gate(most=110, unit="MB")),
        measured("memory", f"{half}", median(peaks["backlog"]), gate=Gate(most=160, unit="MB")),
        measured("memory", f"{few}: `dagster job execute`", median(peaks["dagster"])),
    ]


def writers(bench: Bench) -> list[Row]:
    """A backlog while people touch the same cards, in no order: the worst of all rounds."""
    data = bench.backlog()
    seen = rounds(
        bench.rounds,
        {
            "ours": lambda: among_writers(bench.lab.fresh(data.name), data, ours),
            "statement": lambda: among_writers(bench.lab.fresh(data.name), data, rivals.single_statement),
        },
    )
    mine, theirs = seen["ours"], seen["statement"]
    what = f"{WRITERS} writers, {CARDS_A_TRANSACTION} cards each time, {data.facts.due:,} due"
    deaths = sum(each.died for each in theirs)
    return [
        measured(
            "writers",
            f"{what}: cards wrongly postponed / the statement's",
            sum(each.wrong for each in mine),
            sum(each.wrong for each in theirs),
            Gate(most=0),
        ),
        measured(
            "writers",
            f"{what}: deadlocks / the statement's, which lost its work in {deaths} of {len(theirs)} runs",
            sum(each.deadlocks for each in mine),
            sum(each.deadlocks for each in theirs),
            Gate(most=0),
        ),
        measured(
            "writers",
            f"{what}: a writer's longest wait / the statement's",
            max(each.longest_wait for each in mine),
            max(each.longest_wait for each in theirs),
            Gate(most=0.3, unit="s"),
        ),
    ]


def loop(bench: Bench) -> list[Row]:
    """The specification's own loop, on a sample of accounts."""
    rows = []
    for name, data, least in [("backlog", bench.backlog(), 17), ("hourly", bench.hourly(), 40)]:
        accounts = _LOOP_ACCOUNTS[name]
        seconds = rounds(
            bench.rounds,
            {"ours": bench.timed(data, _seconds), "loop": bench.timed(data, _looping(data, accounts))},
        )
        what = f"{name}, {data.facts.due:,} due of {data.cards:,}: the specification's loop takes times ours"
        gate = Gate(least=least)
        rows.append(compared("loop", what, seconds["ours"], seconds["loop"], gate, times_slower=True))
    return rows


def job(bench: Bench) -> list[Row]:
    """`dagster job execute` with nothing due, against a job of one empty op: whole processes."""
    data = bench.hourly()
    conninfo = bench.lab.fresh(data.name)
    dagster_job(
        conninfo, "flatearth_pipelines.definitions", "auto_postpone"
    )  # leaves nothing due, and Dagster's tables
    before = _postponed(conninfo)
    seconds = rounds(
        _QUICK * bench.rounds,
        {
            "auto_postpone": lambda: dagster_job(conninfo, "flatearth_pipelines.definitions", "auto_postpone").seconds,
            "empty": lambda: dagster_job(conninfo, "benchmarks.empty_job", "empty").seconds,
        },
    )
    if _postponed(conninfo) != before:
        raise WrongResult("a card became due while auto_postpone was to find none")
    what = f"auto_postpone, nothing due of {data.cards:,} / one empty op, by `dagster job execute`"
    return [compared("job", what, seconds["auto_postpone"], seconds["empty"], Gate(most=1.3))]


FIGURES = {each.__name__: each for each in (backlog, hourly, growth, memory, writers, loop, job)}


def _seconds(conninfo: str, as_of: datetime) -> float:
    return ours(conninfo, as_of).seconds


def _seconds_of_two(conninfo: str, as_of: datetime) -> float:
    return ours(conninfo, as_of, shards=2).seconds


def _peak(bench: Bench, data: DataSet) -> float:
    conninfo = bench.lab.fresh(data.name)
    run = ours(conninfo, data.as_of)
    data.verify(conninfo)
    return run.peak_mb


def _dagster_peak(bench: Bench, data: DataSet) -> float:
    """Of a run that finds Dagster's own tables there."""
    conninfo = bench.lab.fresh(data.name)
    dagster_job(conninfo, "benchmarks.empty_job", "empty")
    config = {"ops": {"postpone_stale_cards": {"config": {"as_of": data.as_of.isoformat()}}}}
    run = dagster_job(conninfo, "flatearth_pipelines.definitions", "auto_postpone", config)
    data.verify(conninfo)
    return run.peak_mb


def _looping(data: DataSet, accounts: int) -> Callable[[str, datetime], float]:
    """The loop for some accounts, extrapolated to all; ours does the rest, so that the whole can be verified."""

    def run(conninfo: str, as_of: datetime) -> float:
        times = rivals.specified_loop(conninfo, as_of, accounts)
        ours(conninfo, as_of)
        return times.extrapolated(data.cards, data.facts.due)

    return run


def _postponed(conninfo: str) -> int:
    with connected(conninfo) as connection:
        row = connection.execute(
            "select count(*) from flatearth.events where action = 'card_auto_postponed'"
        ).fetchone()
    return int(row[0]) if row else 0
