"""`flatearth jobs`, as its `main` runs it, on a real database."""

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from flatearth_pipelines import cli
from flatearth_pipelines.queue import functions, storage
from flatearth_pipelines.queue.handlers import Context, Handler, NoPayload, Refused, Registry
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.conftest import ROOT
from flatearth_pipelines_tests.console import Flatearth, Ran
from flatearth_pipelines_tests.queue.conftest import (
    REGISTRY,
    UNKNOWN,
    Greeting,
    claim,
    dead_job,
    enqueue,
    finished_job,
    open_lease,
)

AT = "2030-01-02T03:04:05+00:00"


def greet(_context: Context, payload: Greeting) -> None:
    """Refuses to greet nobody."""
    if payload.name == "nobody":
        raise Refused("there is nobody")


def interrupt(_context: Context, _payload: NoPayload) -> None:
    """Presses Ctrl-C and is done."""
    os.kill(os.getpid(), signal.SIGINT)


def terminate(_context: Context, _payload: NoPayload) -> None:
    """As an operating system that shuts down."""
    os.kill(os.getpid(), signal.SIGTERM)


HANDLERS = Registry(
    [
        *(REGISTRY[name] for name in ("noop", "heavy")),
        Handler("greet", Greeting, greet),
        Handler("interrupt", NoPayload, interrupt),
        Handler("terminate", NoPayload, terminate),
    ]
)
KNOWN = "there are greet, heavy, interrupt, noop, terminate"


@pytest.fixture
def flatearth(main: Flatearth, monkeypatch: pytest.MonkeyPatch) -> Flatearth:
    """`flatearth jobs` with these arguments, and the handlers of these tests."""
    monkeypatch.setattr(cli, "HANDLERS", HANDLERS)
    return partial(main, "jobs")


# ----------------------------------------------------------------------------------------------------- enqueue


def test_enqueue_prints_the_id_of_a_job_that_waits_and_is_due(engine: sa.Engine, flatearth: Flatearth) -> None:
    done = flatearth("enqueue", "greet", '{"name": "Ada"}')

    assert (done.exit_code, done.err) == (0, "")
    job = read(engine, int(done.out))
    assert (job["handler"], job["payload"], job["state"]) == ("greet", {"name": "Ada"}, "pending")
    assert job["run_at"] == job["created_at"]


def test_enqueue_with_json_prints_an_object(engine: sa.Engine, flatearth: Flatearth) -> None:
    done = flatearth("enqueue", "noop", "--json").json()

    assert done == {"id": next(iter(states(engine)))}


def test_every_option_of_enqueue_reaches_the_job(engine: sa.Engine, flatearth: Flatearth) -> None:
    with engine.begin() as connection:
        account_id = make.account(connection)

    done = flatearth(
        *("enqueue", "noop", "--at", "2030-01-02T08:34:05+05:30", "--priority", -7, "--key", "k"),
        *("--concurrency-key", "c", "--max-attempts", 25, "--backoff", '{"kind": "list", "seconds": [1, 2.5]}'),
        *("--timeout", "1.5", "--account", account_id),
    )

    job = read(engine, int(done.out))
    assert {name: job[name] for name in ("priority", "job_key", "concurrency_key", "max_attempts", "backoff")} == {
        "priority": -7,
        "job_key": "k",
        "concurrency_key": "c",
        "max_attempts": 25,
        "backoff": {"kind": "list", "seconds": [1, 2.5]},
    }
    assert (job["run_at"], job["timeout_ms"], job["account_id"]) == (datetime.fromisoformat(AT), 1500, account_id)


def test_a_delay_is_in_seconds_or_says_its_unit(engine: sa.Engine, flatearth: Flatearth) -> None:
    waits = {"0": 0, "90": 90, "0.5": 0.5, "30s": 30, "5m": 300, "2h": 7200, "1.5d": 129_600}
    for delay in waits:
        flatearth("enqueue", "noop", "--delay", delay)

    with engine.connect() as connection:
        query = sa.text("SELECT extract(epoch FROM run_at - created_at)::float8 FROM flatearth.jobs ORDER BY id")
        assert list(connection.execute(query).scalars()) == list(waits.values())


def test_an_instant_in_the_past_is_due_at_once(engine: sa.Engine, flatearth: Flatearth) -> None:
    flatearth("enqueue", "noop", "--at", "1999-12-31T23:59:59+00:00")

    with engine.connect() as connection:
        assert storage.is_due(connection) == (True, False)


def test_an_instant_before_the_years_of_python_is_refused_or_harms_no_list_and_no_drain(
    engine: sa.Engine, flatearth: Flatearth
) -> None:
    flatearth("enqueue", "noop", "--at", "0001-01-01T00:00:00+14:00")
    with engine.begin() as connection:
        enqueue(connection)

    assert flatearth("list").exit_code == 0
    assert flatearth("run").exit_code == 0
    assert set(states(engine).values()) == {"succeeded"}


def test_a_key_that_is_taken_keeps_replaces_or_supersedes(engine: sa.Engine, flatearth: Flatearth) -> None:
    def put(name: str, *options: str) -> int:
        return int(flatearth("enqueue", "greet", json.dumps({"name": name}), "--key", "k", *options).out)

    first = put("first")

    assert put("second") == put("third", "--on-conflict", "keep") == first
    assert put("fourth", "--on-conflict", "replace") == first
    assert read(engine, first)["payload"] == {"name": "fourth"}
    last = put("fifth", "--on-conflict", "supersede")
    assert states(engine) == {first: "cancelled", last: "pending"}
    flatearth("cancel", last)
    assert put("sixth", "--window", "60") == last


WRONG = {
    "unknown handler": (1, ("nobody",), f"There is no handler 'nobody': {KNOWN}"),
    "no handler": (2, (), "Name a HANDLER, or a --file of jobs"),
    "payload of the wrong shape": (2, ("greet", '{"nome": "Ada"}'), "The payload of greet is not valid: name: Field"),
    "payload that is no JSON": (2, ("greet", "name=Ada"), "PAYLOAD is not JSON: Expecting value"),
    "payload that is no object": (2, ("noop", "[]"), "PAYLOAD is not a JSON object"),
    "payload with a NaN": (2, ("greet", '{"name": NaN}'), "PAYLOAD is not JSON: there is no NaN"),
    "payload nested deeply": (2, ("noop", "[" * 100_000), "PAYLOAD is nested too deeply"),
    "payload with a NUL": (2, ("greet", '{"name": "\\u0000"}'), "unsupported Unicode escape sequence"),
    "time without zone": (
        2,
        ("noop", "--at", "2030-01-01T00:00:00"),
        "--at '2030-01-01T00:00:00' has no zone: it takes ISO",
    ),
    "no time": (
        2,
        ("noop", "--at", "tomorrow"),
        "--at 'tomorrow' is not a date and time: it takes ISO 8601 with an offset",
    ),
    "time beyond ten years": (2, ("noop", "--at", "9999-12-31T23:59:59-14:00"), "ten years ahead is the most"),
    "delay beyond ten years": (2, ("noop", "--delay", "3655d"), "ten years ahead is the most"),
    "delay beyond all time": (2, ("noop", "--delay", "999999999d"), "--delay is '999999999d': ten years is the most"),
    "delay into the past": (2, ("noop", "--delay", "-5"), "delay is -00:00:05, not a time ahead"),
    "no delay": (2, ("noop", "--delay", "soon"), "--delay is 'soon': it takes seconds, or such as 5m"),
    "time and delay": (2, ("noop", "--at", AT, "--delay", "5"), "a run_at or a delay, not both"),
    "negative attempts": (2, ("noop", "--max-attempts", "-1"), "max_attempts is -1: it takes 1 to 25"),
    "26 attempts": (2, ("noop", "--max-attempts", "26"), "max_attempts is 26: it takes 1 to 25"),
    "time limit of nothing": (2, ("noop", "--timeout", "0"), "timeout is 00:00:00: it takes a millisecond to 24 days"),
    "backoff that is no JSON": (2, ("noop", "--backoff", "fixed"), "--backoff is not JSON"),
    "backoff of no kind": (2, ("noop", "--backoff", '{"kind": "never"}'), "it takes {"),
    "conflict rule of no kind": (2, ("noop", "--key", "k", "--on-conflict", "merge"), "not keep, replace or supersede"),
    "window without key": (2, ("noop", "--window", "60"), "a job_key beside it"),
    "window of nothing": (2, ("noop", "--key", "k", "--window", "0"), "a positive number"),
    "empty key": (2, ("noop", "--key", ""), "take 1 to 500 characters"),
    "unknown account": (1, ("noop", "--account", str(UNKNOWN)), f"there is no account {UNKNOWN}"),
}


def test_what_cannot_be_enqueued_is_one_line_and_nothing_is_written(
    engine: sa.Engine, flatearth: Flatearth, subtests: pytest.Subtests
) -> None:
    for name, (exit_code, arguments, words) in WRONG.items():
        with subtests.test(name):
            assert_one_line(flatearth("enqueue", *arguments), exit_code, words)
            assert states(engine) == {}


def test_beyond_the_limit_of_an_account_enqueueing_fails(engine: sa.Engine, flatearth: Flatearth) -> None:
    with engine.begin() as connection:
        account_id = make.account(connection)

    done = flatearth("limit", "--account", account_id, 0)

    assert done == Ran(0, f"Account {account_id} may enqueue at most 0 jobs a minute.\n", "")
    assert_one_line(
        flatearth("enqueue", "noop", "--account", account_id), 1, f"account {account_id} may enqueue 0 jobs a minute"
    )
    assert flatearth("limit", "--account", account_id, "none").exit_code == 0
    assert flatearth("enqueue", "noop", "--account", account_id).exit_code == 0


# ------------------------------------------------------------------------------------------- enqueue of a file


def test_a_file_of_more_jobs_than_one_call_takes_is_enqueued_in_its_order(
    engine: sa.Engine, flatearth: Flatearth, tmp_path: Path
) -> None:
    file = tmp_path / "jobs.jsonl"
    jobs = [{"handler": "greet", "payload": {"name": str(number)}} for number in range(2_001)]
    file.write_text("\n\n".join(map(json.dumps, jobs)))

    done = flatearth("enqueue", "--file", file)

    assert done == Ran(0, "Enqueued 2,001 jobs.\n", "")
    with engine.connect() as connection:
        query = sa.text("SELECT payload ->> 'name' FROM flatearth.jobs ORDER BY id")
        assert list(connection.execute(query).scalars()) == [str(number) for number in range(2_001)]


def test_standard_input_is_a_file_too_and_json_tells_the_ids(engine: sa.Engine, flatearth: Flatearth) -> None:
    lines = b'{"handler": "noop", "delay": "5 minutes", "priority": 3}\n{"handler": "heavy", "job_key": "k"}\n'

    ids = flatearth("enqueue", "--file", "-", "--json", stdin=lines).json()["ids"]

    first, second = (read(engine, job_id) for job_id in ids)
    assert (first["priority"], first["run_at"] - first["created_at"]) == (3, timedelta(minutes=5))
    assert (second["handler"], second["job_key"]) == ("heavy", "k")


def test_an_empty_file_is_nothing_to_enqueue(
    database: str,  # noqa: ARG001 - in the environment
    flatearth: Flatearth,
) -> None:
    assert flatearth("enqueue", "--file", "-", stdin=b"\n \n") == Ran(0, "Enqueued 0 jobs.\n", "")


def test_a_line_that_is_refused_is_named_and_keeps_all_the_others_out(
    engine: sa.Engine, flatearth: Flatearth, subtests: pytest.Subtests
) -> None:
    good = b'{"handler": "noop"}\n'
    wrong = {
        b"{": (2, "Line 1003 is not JSON: "),
        b"\xff\xfe": (2, "Line 1003 is not JSON: "),
        b"[]": (2, "Line 1003 is not a JSON object"),
        b'{"handler": "nobody"}': (1, f"Line 1003: There is no handler 'nobody': {KNOWN}"),
        b'{"payload": {}}': (2, "Line 1003: A job has no handler"),
        b'{"handler": "greet"}': (2, "Line 1003: The payload of greet is not valid: name: Field required"),
        b'{"handler": "noop", "payload": []}': (2, "Line 1003: The payload of noop is not valid: "),
        b'{"handler": "noop", "max_attempts": 0}': (2, "Line 1003: max_attempts is 0: it takes 1 to 25"),
        b'{"handler": "noop", "priority": 3000000000}': (2, "Line 1003: "),
        b'{"handler": "noop", "run_at": "tomorrowish"}': (2, "Line 1003: "),
        b'{"handler": "noop", "delay": "a while"}': (2, "Line 1003: "),
        b'{"handler": "noop", "colour": "red"}': (2, "Line 1003: a job takes handler, payload, run_at,"),
    }
    for line, (exit_code, words) in wrong.items():
        with subtests.test(line=line):
            before = states(engine)
            ran = flatearth("enqueue", "--file", "-", stdin=good * 1_002 + line + b"\n" + good)
            assert_one_line(ran, exit_code, words)
            assert states(engine) == before


def test_many_large_payloads_are_enqueued_but_not_one_beyond_8_mb(engine: sa.Engine, flatearth: Flatearth) -> None:
    def line(megabytes: int) -> bytes:
        return json.dumps({"handler": "greet", "payload": {"name": "x" * megabytes * 2**20}}).encode() + b"\n"

    assert flatearth("enqueue", "--file", "-", stdin=line(1) * 9).out == "Enqueued 9 jobs.\n"
    assert_one_line(
        flatearth("enqueue", "--file", "-", stdin=line(1) + line(9)), 2, "8 MB is the most that a call takes"
    )
    assert len(states(engine)) == 9


def test_a_file_beside_a_handler_or_its_options_is_wrong_usage(flatearth: Flatearth) -> None:
    refused = flatearth("enqueue", "noop", "--delay", "5", "--file", "-")

    assert_one_line(refused, 2, "With --file the lines say everything: leave out delay, handler")


# --------------------------------------------------------------------------------------------- list, show, stats


@pytest.fixture
def five(engine: sa.Engine) -> dict[str, int]:
    """A job in each state, by its state, the oldest first."""
    with engine.begin() as connection:
        ids = {"failed": dead_job(connection, error="[/red] it broke"), "succeeded": finished_job(connection)}
        ids["cancelled"] = enqueue(connection)
        functions.cancel_job(connection, ids["cancelled"])
        ids["running"] = enqueue(connection, "heavy", own_run=True)
        claim(connection, open_lease(connection), own_run=True)
        ids["pending"] = enqueue(connection, "greet", {"name": "Ada"}, job_key="k1", concurrency_key="k2")
    return ids


def test_list_shows_the_newest_first_in_every_state(five: dict[str, int], flatearth: Flatearth) -> None:
    rows = flatearth("list", "--json").json()

    assert [(row["id"], row["state"]) for row in rows] == [(five[state], state) for state in reversed(five)]
    shown = flatearth("list").out
    assert [line.split()[0] for line in shown.splitlines()[1:]] == [str(job_id) for job_id in reversed(five.values())]
    assert "[/red] it broke" in shown


FILTERS: tuple[tuple[tuple[str, ...], list[str]], ...] = (
    (("--state", "failed"), ["failed"]),
    (("--state", "failed", "--state", "pending"), ["pending", "failed"]),
    (("--handler", "noop"), ["cancelled", "succeeded", "failed"]),
    (("--handler", "noop", "--state", "running"), []),
    (("--handler", "nobody"), []),
    (("--key", "k1"), ["pending"]),
    (("--key", "k2"), ["pending"]),
    (("--limit", "2"), ["pending", "running"]),
    (("--limit", "2", "--offset", "4"), ["failed"]),
    (("--limit", "0"), []),
    (("--since", "2020-01-01T00:00:00+00:00", "--limit", "1"), ["pending"]),
    (("--until", "2020-01-01T00:00:00+00:00"), []),
    (("--handler", b"\xff".decode(errors="surrogateescape")), []),
)


def test_list_takes_filters(five: dict[str, int], flatearth: Flatearth, subtests: pytest.Subtests) -> None:
    for filters, found in FILTERS:
        with subtests.test(filters=filters):
            rows = flatearth("list", *filters, "--json").json()
            assert [row["id"] for row in rows] == [five[state] for state in found]


def test_since_counts_the_instant_itself_and_until_does_not(engine: sa.Engine, flatearth: Flatearth) -> None:
    with engine.begin() as connection:
        job_id = enqueue(connection)
    created = read(engine, job_id)["created_at"].isoformat()

    assert len(flatearth("list", "--since", created, "--json").json()) == 1
    assert flatearth("list", "--until", created, "--json").json() == []


def test_list_says_so_when_there_is_nothing(
    database: str,  # noqa: ARG001 - in the environment
    flatearth: Flatearth,
) -> None:
    assert flatearth("list") == Ran(0, "No jobs.\n", "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--state", "done"), "There is no state 'done': there are pending, running, succeeded, failed, cancelled"),
        (("--since", "2026-11-22"), "--since '2026-11-22' has no zone: it takes ISO 8601 with an offset"),
        (("--until", "now"), "--until 'now' is not a date and time: it takes ISO 8601 with an offset"),
    ],
)
def test_a_filter_that_says_nothing_is_wrong_usage(
    flatearth: Flatearth, arguments: tuple[str, ...], words: str
) -> None:
    assert_one_line(flatearth("list", *arguments), 2, words)


def test_show_tells_all_of_a_job(five: dict[str, int], flatearth: Flatearth) -> None:
    shown = flatearth("show", five["pending"])
    fields = {line.split()[0]: line.split(maxsplit=1)[1].strip() for line in shown.out.splitlines()[1:]}

    assert (fields["id"], fields["state"], fields["payload"]) == (str(five["pending"]), "pending", '{"name": "Ada"}')
    assert "last_error" not in fields
    job = flatearth("show", five["failed"], "--json").json()
    assert (job["state"], job["last_error"], job["attempts"]) == ("failed", "[/red] it broke", 1)


def test_an_unknown_id_is_a_failure_of_one_line(
    database: str,  # noqa: ARG001 - in the environment
    flatearth: Flatearth,
    subtests: pytest.Subtests,
) -> None:
    for command in ("show", "retry", "cancel", "delete"):
        with subtests.test(command=command):
            ran = flatearth(command, UNKNOWN)
            assert (ran.exit_code, ran.out) == (1, "")
            assert ran.err.lower() == f"error: there is no job {UNKNOWN}\n"


@pytest.mark.parametrize("command", ["show", "retry", "cancel", "delete"])
@pytest.mark.parametrize("job_id", ["0", "seven", str(2**63)])
def test_an_id_that_no_job_can_have_is_wrong_usage(flatearth: Flatearth, command: str, job_id: str) -> None:
    ran = flatearth(command, job_id)

    assert ran.exit_code == 2
    assert job_id in ran.err.splitlines()[-1]


def test_stats_count_by_handler_and_state_and_say_how_the_queue_is(five: dict[str, int], flatearth: Flatearth) -> None:
    flatearth("enqueue", "noop", "--at", AT)
    flatearth("pause")
    flatearth("pause", "greet")

    told = flatearth("stats", "--json").json()

    assert {(row["handler"], row["state"]): row["jobs"] for row in told["by_handler"]} == {
        ("greet", "pending"): 1,
        ("heavy", "running"): 1,
        **{("noop", state): 1 for state in ("failed", "succeeded", "cancelled", "pending")},
    }
    assert {name: told["health"][name] for name in ("waiting", "scheduled", "running", "dead")} == dict.fromkeys(
        ("waiting", "scheduled", "running", "dead"), 1
    )
    assert told["paused"] == ["*", "greet"]
    lines = flatearth("stats").out.splitlines()
    assert lines[-2].startswith("1 wait, 1 are for later, 1 run, 1 are dead; ")
    assert lines[-1] == "Paused: the whole queue, greet."
    assert len(five) == 5


# --------------------------------------------------------------------------------------- retry, cancel, delete


def test_failed_and_cancelled_jobs_wait_again(engine: sa.Engine, five: dict[str, int], flatearth: Flatearth) -> None:
    failed, cancelled = five["failed"], five["cancelled"]

    done = flatearth("retry", failed, cancelled, failed)

    assert done == Ran(0, f"Job {failed} waits again.\nJob {cancelled} waits again.\n", "")
    assert (states(engine)[failed], states(engine)[cancelled]) == ("pending", "pending")


def test_a_retry_of_several_reports_each_and_ends_with_1_if_any_was_refused(
    engine: sa.Engine, five: dict[str, int], flatearth: Flatearth
) -> None:
    done = flatearth("retry", five["succeeded"], UNKNOWN, five["failed"])

    assert (done.exit_code, done.out) == (1, f"Job {five['failed']} waits again.\n")
    assert done.err.splitlines() == [
        f"Error: job {five['succeeded']} is succeeded: failed and cancelled jobs can be retried",
        f"Error: there is no job {UNKNOWN}",
    ]
    assert states(engine)[five["failed"]] == "pending"


def test_all_failed_jobs_or_those_of_a_handler_wait_again_and_cancelled_ones_do_not(
    engine: sa.Engine, flatearth: Flatearth
) -> None:
    with engine.begin() as connection:
        ones = [dead_job(connection), dead_job(connection)]
        other = dead_job(connection, "greet", payload={"name": "Ada"})
        cancelled = enqueue(connection)
        functions.cancel_job(connection, cancelled)

    assert flatearth("retry", "--handler", "noop") == Ran(0, "Retried 2 jobs.\n", "")
    assert states(engine) == dict.fromkeys(ones, "pending") | {other: "failed", cancelled: "cancelled"}
    assert flatearth("retry", "--all") == Ran(0, "Retried 1 jobs.\n", "")
    assert flatearth("retry", "--all") == Ran(0, "Nothing to do: there is no such job.\n", "")
    assert states(engine)[cancelled] == "cancelled"


def test_cancel_takes_waiting_jobs_away_and_tells_running_ones_to_stop(
    engine: sa.Engine, five: dict[str, int], flatearth: Flatearth
) -> None:
    done = flatearth("cancel", five["pending"], five["succeeded"], five["running"])

    assert (done.exit_code, done.err) == (1, f"Error: job {five['succeeded']} has ended already\n")
    assert len(done.out.splitlines()) == 2
    assert states(engine)[five["pending"]] == "cancelled"
    with engine.connect() as connection:
        asked = connection.execute(sa.text("SELECT job_id FROM flatearth.job_stop_requests")).scalars()
        assert list(asked) == [five["running"]]


def test_cancel_of_a_handler_takes_its_unfinished_jobs_only(
    engine: sa.Engine, five: dict[str, int], flatearth: Flatearth
) -> None:
    with engine.begin() as connection:
        enqueue(connection, "greet", {"name": "Bob"})
    before = states(engine)

    assert flatearth("cancel", "--handler", "greet") == Ran(0, "Cancelled 2 jobs.\n", "")
    assert flatearth("cancel", "--handler", "greet").out == "Nothing to do: there is no such job.\n"
    changed = {job_id for job_id, state in states(engine).items() if before[job_id] != state}
    assert changed == {five["pending"], five["pending"] + 1}


def test_delete_forgets_jobs_but_not_one_that_runs(
    engine: sa.Engine, five: dict[str, int], flatearth: Flatearth
) -> None:
    done = flatearth("delete", *five.values())

    assert (done.exit_code, len(done.out.splitlines())) == (1, 4)
    assert done.err == f"Error: job {five['running']} is running: cancel it first\n"
    assert states(engine) == {five["running"]: "running"}


def test_a_handler_that_is_not_known_is_a_failure_that_lists_those_that_are(
    database: str,  # noqa: ARG001 - in the environment
    flatearth: Flatearth,
    subtests: pytest.Subtests,
) -> None:
    for command in (("retry", "--handler"), ("cancel", "--handler"), ("pause",), ("resume",)):
        with subtests.test(command=command):
            assert_one_line(flatearth(*command, "nobody"), 1, f"There is no handler 'nobody': {KNOWN}")


def test_jobs_and_pauses_of_a_handler_that_is_gone_can_still_be_dealt_with(
    engine: sa.Engine, flatearth: Flatearth
) -> None:
    with engine.begin() as connection:
        dead_job(connection, "gone")
        functions.pause_jobs(connection, "gone")

    assert flatearth("retry", "--handler", "gone").out == "Retried 1 jobs.\n"
    assert flatearth("cancel", "--handler", "gone").out == "Cancelled 1 jobs.\n"
    assert flatearth("resume", "gone").out == "gone is resumed.\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("retry",),
        ("retry", "1", "--all"),
        ("retry", "--handler", "noop", "--all"),
        ("cancel",),
        ("cancel", "1", "--handler", "noop"),
        ("delete",),
    ],
)
def test_jobs_that_are_named_in_no_way_or_in_two_are_wrong_usage(
    flatearth: Flatearth, arguments: tuple[str, ...]
) -> None:
    assert_one_line(flatearth(*arguments), 2, "Name the jobs")


# ----------------------------------------------------------------------------------- cleanup, pause, resume, limit


def test_cleanup_drops_what_ended_longer_ago_and_a_dry_run_only_says_so(
    engine: sa.Engine, flatearth: Flatearth
) -> None:
    with engine.begin() as connection:
        old, young = finished_job(connection), finished_job(connection)
        dead = dead_job(connection)
        for table, job_id, days in (("finished_jobs", old, 8), ("finished_jobs", young, 6), ("dead_jobs", dead, 8)):
            move = f"UPDATE flatearth.{table} SET finished_at = now() - :days * interval '1 day' WHERE id = :id"
            connection.execute(sa.text(move), {"days": days, "id": job_id})

    dry = flatearth("cleanup", "--dry-run", "--json").json()

    day = (datetime_now(engine) - timedelta(days=8)).date().isoformat()
    assert dry == {"dry_run": True, "jobs": 1, "days": [{"day": day, "history": "finished", "jobs": 1}]}
    assert set(states(engine)) == {old, young, dead}
    assert flatearth("cleanup").out.splitlines()[-1] == "Dropped 1 jobs."
    assert set(states(engine)) == {young, dead}
    assert flatearth("cleanup") == Ran(0, "Nothing to do: none is older.\n", "")
    assert flatearth("cleanup", "--older-than", "5.5", "--failed-older-than", 7, "--json").json()["jobs"] == 2
    assert states(engine) == {}


@pytest.mark.parametrize("option", ["--older-than", "--failed-older-than"])
@pytest.mark.parametrize("days", ["-1", "nan", "inf", "36501", "a week", ""])
def test_an_age_that_is_none_is_wrong_usage(flatearth: Flatearth, option: str, days: str) -> None:
    assert_one_line(flatearth("cleanup", option, days), 2, f"{option} is {days!r}: it takes days, 0 to 36,500")


@pytest.mark.parametrize(("arguments", "name", "stored"), [((), "The whole queue", "*"), (("noop",), "noop", "noop")])
def test_pausing_and_resuming_say_whether_it_changed_anything(
    engine: sa.Engine, flatearth: Flatearth, arguments: tuple[str, ...], name: str, stored: str
) -> None:
    assert flatearth("pause", *arguments) == Ran(0, f"{name} is paused.\n", "")
    assert flatearth("pause", *arguments) == Ran(0, f"Nothing to do: {name} is paused already.\n", "")
    with engine.connect() as connection:
        assert storage.read_pauses(connection) == [stored]
    assert flatearth("resume", *arguments) == Ran(0, f"{name} is resumed.\n", "")
    assert flatearth("resume", *arguments) == Ran(0, f"Nothing to do: {name} is not paused.\n", "")


@pytest.mark.parametrize("most", ["-1", "many", "1.5", "", "9999999999"])
def test_a_limit_that_is_none_is_wrong_usage(flatearth: Flatearth, most: str) -> None:
    assert_one_line(flatearth("limit", "--account", 1, most), 2, f"N is {most!r}: it takes jobs a minute")


def test_a_limit_of_an_account_that_is_not_there_is_a_failure(
    database: str,  # noqa: ARG001 - in the environment
    flatearth: Flatearth,
) -> None:
    assert_one_line(flatearth("limit", "--account", UNKNOWN, 5), 1, f"There is no account {UNKNOWN}")


# --------------------------------------------------------------------------------------------------------- run


def test_run_drains_what_is_due_and_tells_by_handler_and_outcome(engine: sa.Engine, flatearth: Flatearth) -> None:
    with engine.begin() as connection:
        enqueue(connection)
        enqueue(connection)
        enqueue(connection, "greet", {"name": "nobody"})
        enqueue(connection, "heavy", own_run=True)
        enqueue(connection, "heavy", own_run=True)
        later = enqueue(connection, run_at=AT)

    done = flatearth("run", "--json")

    assert (done.exit_code, done.err) == (0, "")
    assert [tuple(row.values()) for row in done.json()] == [
        ("greet", "failed", 1),
        ("heavy", "succeeded", 2),
        ("noop", "succeeded", 2),
    ]
    assert [job_id for job_id, state in states(engine).items() if state == "pending"] == [later]
    assert flatearth("run") == Ran(0, "Nothing to do: no job was due.\n", "")


def test_jobs_run_that_were_enqueued_and_retried_at_the_terminal(engine: sa.Engine, flatearth: Flatearth) -> None:
    job_id = flatearth("enqueue", "greet", '{"name": "nobody"}').out.strip()

    for _ in range(2):
        header, row = flatearth("run").out.splitlines()
        assert (header.split(), row.split()) == (["handler", "outcome", "jobs"], ["greet", "failed", "1"])
        assert "there is nobody" in flatearth("show", job_id).out
        flatearth("retry", job_id)
    assert states(engine) == {int(job_id): "pending"}


@pytest.mark.parametrize("handler", ["interrupt", "terminate"])
def test_an_interrupted_run_lets_running_jobs_end_keeps_the_rest_and_says_so(
    engine: sa.Engine, flatearth: Flatearth, handler: str
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with engine.begin() as connection:
        job_id = enqueue(connection, handler)

    ran = flatearth("run")

    assert ran.exit_code == 130
    assert ran.err.split("\n", 1)[0] == "Stopping: what runs may finish, the rest is handed back."
    assert ran.err.splitlines()[-1] == "Interrupted."
    assert ran.out.splitlines()[1].split() == [handler, "succeeded", "1"]
    assert states(engine) == {job_id: "succeeded"}
    assert signal.getsignal(signal.SIGTERM) == before


# --------------------------------------------------------------------------------------- the database, the process


@pytest.mark.parametrize("command", [("list",), ("retry", "1"), ("run",), ("enqueue", "noop")])
def test_a_database_that_is_not_there_is_a_failure_of_one_line_without_the_password(
    monkeypatch: pytest.MonkeyPatch, flatearth: Flatearth, command: tuple[str, ...]
) -> None:
    monkeypatch.setenv("FLATEARTH_DATABASE_URL", "postgresql://me:s3cret@127.0.0.1:1/none")

    ran = flatearth(*command)

    assert_one_line(ran, 1, "Postgres cannot be reached")
    assert "s3cret" not in ran.err


def test_the_console_script_knows_the_project_s_handlers_and_runs_their_jobs(database: str) -> None:
    def script(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [Path(sys.executable).parent / "flatearth", "jobs", *arguments],
            cwd=ROOT,
            env={**os.environ, "PWD": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )

    enqueued = script("enqueue", "check_card_entropy", '{"card_id": 1}')
    refused = script("enqueue", "nobody")
    drained = script("run", "--json")

    assert (enqueued.returncode, enqueued.stderr) == (0, "")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("Error: There is no handler 'nobody': there are ")
    assert [(row["handler"], row["jobs"]) for row in json.loads(drained.stdout)] == [("check_card_entropy", 1)]
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT id FROM flatearth.jobs").fetchall() == [(int(enqueued.stdout),)]


# ---------------------------------------------------------------------------------------------------- helpers


def assert_one_line(ran: Ran, exit_code: int, words: str) -> None:
    assert (ran.exit_code, ran.out) == (exit_code, "")
    assert words in ran.err
    assert ran.err.startswith("Error: ")
    assert ran.err.count("\n") == 1


def read(engine: sa.Engine, job_id: int) -> dict[str, Any]:
    with engine.connect() as connection:
        return storage.read_job(connection, job_id)


def states(engine: sa.Engine) -> dict[int, str]:
    with engine.connect() as connection:
        return {row.id: row.state for row in connection.execute(sa.text("SELECT id, state FROM flatearth.jobs"))}


def datetime_now(engine: sa.Engine) -> datetime:
    with engine.connect() as connection:
        now: datetime = connection.execute(sa.text("SELECT now()")).scalar_one()
        return now.astimezone(UTC)
