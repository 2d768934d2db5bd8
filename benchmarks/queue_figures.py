"""The figures of the queue: what is drained or enqueued, against what, and what it must come to."""

import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import timedelta
from statistics import median

import sqlalchemy as sa

from benchmarks import queue_daemon, queue_limit
from benchmarks.children import seconds_of, started
from benchmarks.data import WrongResult
from benchmarks.measure import rounds
from benchmarks.queue_backlogs import Backlog
from benchmarks.queue_bench import Bench, faster
from benchmarks.queue_drain import HANDLERS
from benchmarks.report import Gate, Row, measured
from benchmarks.servers import connected, say
from flatearth_pipelines import database
from flatearth_pipelines.queue import functions, storage

_A_CALL = 1_000

_QUICK = 3
"""Times as many rounds for what takes about a second."""

_OLDEST_DAY = """
select clock_timestamp() - (min(to_date(right(c.relname, 8), 'YYYYMMDD')) + 1)::timestamp at time zone 'UTC'
from pg_inherits as i
join pg_class as c on c.oid = i.inhrelid
where i.inhparent = 'flatearth.finished_jobs'::regclass and c.relname ~ '_\\d{8}$'
"""

_ENQUEUE_JOBS = "select flatearth.enqueue_jobs(%s::jsonb)"
_AT_ONCE = "select flatearth.enqueue_job('tell', '{}')"
_LATER = "select flatearth.enqueue_job('tell', '{}', delay => (1 + %s * 0.07) * interval '1 second')"


def drain(bench: Bench) -> list[Row]:
    """Jobs that do nothing, each with a time limit, against the statements alone and against the peers."""
    rows = _drain(bench, bench.short, with_slow=True)
    return rows + _drain(bench, bench.long, with_slow=False)


def _drain(bench: Bench, backlog: Backlog, *, with_slow: bool) -> list[Row]:
    variants = {"one": bench.drained(backlog), "two": bench.drained(backlog, processes=2)}
    variants["limit"] = bench.limit(backlog)
    peers = {"pgqueuer": backlog.jobs, "graphile-worker": backlog.jobs}
    if with_slow:
        peers["procrastinate"] = backlog.jobs // 5
    for name, jobs in peers.items():
        theirs = bench.of_peer(name, jobs)
        if theirs is not None:
            variants[name] = bench.drained_by_peer(theirs)
    rates = rounds(bench.rounds, variants)
    what = f"{backlog.jobs:,} jobs"
    limit = f"{queue_limit.name()}, one connection"
    few = f"procrastinate, {backlog.jobs // 5:,} jobs"
    rows = [
        faster("drain", f"{what}, one process / {limit}", rates, ("one", "limit"), 0.65),
        faster("drain", f"{what}, two processes / {limit}", rates, ("two", "limit")),
        faster("drain", f"{what}, one process / pgqueuer", rates, ("one", "pgqueuer"), 2.5),
        faster("drain", f"{what}, two processes / pgqueuer, one process", rates, ("two", "pgqueuer"), 3.5),
        faster("drain", f"{what}, one process / graphile-worker", rates, ("one", "graphile-worker"), 1.5),
    ]
    return [*rows, faster("drain", f"{what}, one process / {few}", rates, ("one", "procrastinate"), 40)][
        : 5 + with_slow
    ]


def growth(bench: Bench) -> list[Row]:
    """The short backlog among ended and future jobs, and with keys, against itself alone."""
    short = bench.short
    future = Backlog("future", short.jobs, future=2 * bench.jobs)
    keyed = Backlog("keyed", short.jobs, keyed=True)
    rates = rounds(
        _QUICK * bench.rounds,
        {
            "alone": bench.drained(short),
            "history": bench.drained(bench.history),
            "future": bench.drained(future),
            "keyed": bench.drained(keyed),
        },
    )
    what = f"{short.jobs:,} jobs"
    ended = f"{what} and {bench.history.finished:,} that have ended / {what} alone"
    later = f"{what} and {future.future:,} future ones of higher priority / {what} alone"
    keys = f"{what}, each with a concurrency key / without"
    return [
        faster("growth", ended, rates, ("history", "alone"), 0.9),
        faster("growth", later, rates, ("future", "alone"), 0.9),
        faster("growth", keys, rates, ("keyed", "alone"), 0.7),
    ]


def held(bench: Bench) -> list[Row]:
    """Beside a transaction that is open all the time, so that nothing that ended can be cleaned away."""
    backlog = Backlog("held", bench.jobs * 2 // 5)
    rates = rounds(bench.rounds, {"free": bench.drained(backlog), "held": bench.drained_while_held(backlog)})
    what = f"{backlog.jobs:,} jobs, beside an open transaction / without one"
    return [faster("held", what, rates, ("held", "free"), 0.6)]


def payload(bench: Bench) -> list[Row]:
    """Payloads of 8 kB that do not compress."""
    backlog = Backlog("payload", bench.jobs // 25, payload_bytes=8_000)
    variants = {"ours": bench.drained(backlog)}
    theirs = bench.of_peer("pgqueuer", backlog.jobs, backlog.payload_bytes)
    if theirs is not None:
        variants["pgqueuer"] = bench.drained_by_peer(theirs)
    rates = rounds(_QUICK * bench.rounds, variants)
    what = f"{backlog.jobs:,} jobs with 8 kB each / pgqueuer"
    return [faster("payload", what, rates, ("ours", "pgqueuer"), 1.2)]


def enqueue(bench: Bench) -> list[Row]:
    """One job a transaction against a plain INSERT, and a thousand a call against a peer, on one connection."""
    empty = Backlog("empty", 0)
    single, many = bench.jobs // 50, bench.jobs // 5

    def statements(insert: bool) -> Callable[[], float]:  # noqa: FBT001
        def once() -> float:
            conninfo = empty.fresh(bench.lab)
            queue_limit.make_comparable(conninfo)
            statement = queue_limit.INSERT if insert else queue_limit.ENQUEUE
            return single / queue_limit.statements(conninfo, statement, single)

        return once

    variants = {
        "enqueue_job": statements(insert=False),
        "insert": statements(insert=True),
        "sql": lambda: many / _enqueue_by_sql(empty.fresh(bench.lab), many),
        "python": lambda: many / _enqueue_by_python(empty.fresh(bench.lab), many),
    }
    theirs = bench.of_peer("pgqueuer", 0)
    if theirs is not None and theirs.peer is not None:
        command = (*theirs.peer.command, "enqueue")
        variants["pgqueuer"] = lambda: many / seconds_of((*command, database.url(theirs.fresh(bench.lab)), str(many)))
    empty.build(bench.lab)
    rates = rounds(bench.rounds, variants)
    one = f"one a transaction / INSERT by {queue_limit.name()}, same columns and indexes"
    bulk = f"{_A_CALL:,} a call / pgqueuer, which checks no payload"
    return [
        faster("enqueue", one, rates, ("enqueue_job", "insert"), 0.7),
        faster("enqueue", f"{bulk}: by SQL", rates, ("sql", "pgqueuer"), 2),
        faster("enqueue", f"{bulk}: by Python, which checks each", rates, ("python", "pgqueuer")),
    ]


def _enqueue_by_sql(conninfo: str, jobs: int) -> float:
    """Seconds, from connecting to the last commit, for an application that calls the SQL function from Python."""
    some = [{"handler": "noop", "timeout": "1 minute"}] * _A_CALL
    began = time.monotonic()
    with connected(conninfo) as connection:
        for start in range(0, jobs, _A_CALL):
            connection.execute(_ENQUEUE_JOBS, [json.dumps(some[: jobs - start])]).fetchall()
    return time.monotonic() - began


def _enqueue_by_python(conninfo: str, jobs: int) -> float:
    """The same with the Python function, which checks each payload by its handler's model."""
    some = [{"handler": "noop", "timeout": "1 minute"}] * _A_CALL
    began = time.monotonic()
    engine = database.engine(conninfo, "flatearth benchmark")
    for start in range(0, jobs, _A_CALL):
        with engine.begin() as connection:
            functions.enqueue_jobs(connection, HANDLERS, some[: jobs - start])
    taken = time.monotonic() - began
    engine.dispose()
    return taken


def cleanup(bench: Bench) -> list[Row]:
    """Dropping the oldest day of the history, and then the rest."""
    bench.history.build(bench.lab)
    seconds = rounds(bench.rounds, {"both": lambda: _dropped(bench.history.fresh(bench.lab))})["both"]
    day = f"one day of {bench.history.finished:,} ended jobs dropped"
    return [
        measured("cleanup", day, median(one for one, _ in seconds), gate=Gate(most=1, unit="s")),
        measured(
            "cleanup", "the six days after it dropped", median(rest for _, rest in seconds), gate=Gate(most=1, unit="s")
        ),
    ]


def _dropped(conninfo: str) -> tuple[float, float]:
    """Seconds for the oldest day, and for all that are over."""
    taken = []
    engine = database.engine(conninfo, "flatearth benchmark")
    for days in (1, 6):
        with engine.begin() as connection:
            oldest: timedelta = connection.execute(sa.text(_OLDEST_DAY)).scalar_one()
        began = time.monotonic()
        with engine.begin() as connection:
            names = storage.drop_history(connection, oldest - timedelta(days=days - 1), timedelta(days=30))
        taken.append(time.monotonic() - began)
        if len(names) != days:
            raise WrongResult(f"{days} days were to be dropped, and {names} were")
    engine.dispose()
    return taken[0], taken[1]


def latency(bench: Bench) -> list[Row]:
    """From due to the first line of the handler, in a drain that waits for work."""
    empty = Backlog("empty", 0)
    number = max(20, bench.jobs // 5_000)
    seen = []
    for index in range(bench.rounds):
        seen.append(_latencies(empty.fresh(bench.lab), number))
        say(
            f"  round {index + 1} of {bench.rounds}, medians: {', '.join(f'{median(each):.4f} s' for each in seen[-1])}"
        )
    rows = []
    for index, what in enumerate(("enqueued now", "enqueued ahead, due at its instant")):
        all_of_them = sorted(1000 * each for latencies in seen for each in latencies[index])
        late = all_of_them[int(len(all_of_them) * 0.95)]
        what = f"{len(all_of_them)} jobs, {what}: median; 95th percentile {late:.1f} ms"  # noqa: PLW2901
        rows.append(measured("latency", what, median(all_of_them), gate=Gate(most=10, unit="ms")))
    return rows


def _latencies(conninfo: str, number: int) -> tuple[list[float], list[float]]:
    """Of jobs that are enqueued one by one at random moments, and of jobs that wait for theirs."""
    with ExitStack() as stack:
        [child] = stack.enter_context(started([(sys.executable, "-m", "benchmarks.queue_drain", conninfo, "60")]))
        connection = stack.enter_context(connected(conninfo))
        child.begin()
        time.sleep(1)
        now = [_enqueued_soon(lambda: connection.execute(_AT_ONCE).fetchall()) for _ in range(number)]
        later = [connection.execute(_LATER, [each]).fetchall()[0][0] for each in range(number)]
        time.sleep(1 + 0.07 * number + 0.5)
        child.ask_to_end()
        starts: dict[str, float] = child.said()["starts"]
        due: dict[int, float] = dict(
            connection.execute("select id, extract(epoch from run_at)::float8 from flatearth.jobs").fetchall()
        )
    return [starts[str(id_)] - due[id_] for id_ in now], [starts[str(id_)] - due[id_] for id_ in later]


def _enqueued_soon(enqueue_one: Callable[[], Sequence[tuple[int]]]) -> int:
    """After a random moment, so that no rhythm of the drain's is met."""
    time.sleep(random.uniform(0.02, 0.08))  # noqa: S311
    return enqueue_one()[0][0]


def daemon(bench: Bench) -> list[Row]:
    """From due to claimed, through Dagster's daemon: of a job that finds no drain at work, and of those after it."""
    Backlog("empty", 0).build(bench.lab)
    cold: list[float] = []
    warm: list[float] = []
    conninfo = Backlog("empty", 0).fresh(bench.lab)
    with queue_daemon.running(bench.home, conninfo):
        say("  the first, while the daemon starts")
        queue_daemon.latency(conninfo)
        for _ in range(2 * bench.rounds):
            queue_daemon.wait_until_idle(conninfo)
            time.sleep(random.uniform(1, 5))  # noqa: S311
            cold.append(queue_daemon.latency(conninfo))
            warm += [queue_daemon.latency(conninfo) for _ in range(5)]
    most = f"{len(cold)} jobs when no drain is at work: median; the longest {max(cold):.2f} s"
    after = f"{len(warm)} jobs right after them: median; the longest {max(warm):.2f} s"
    return [
        measured("daemon", most, median(cold), gate=Gate(most=2, unit="s")),
        measured("daemon", after, median(warm), gate=Gate(most=2, unit="s")),
    ]


FIGURES = {each.__name__: each for each in (drain, growth, held, payload, enqueue, cleanup, latency, daemon)}
