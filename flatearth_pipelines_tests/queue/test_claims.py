"""What a drain says in SQL: the claim, its order and limits, and the three ways in which a job leaves its lease."""

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from flatearth_pipelines.queue.functions import cancel_job, delete_job, pause_jobs, resume_jobs, retry_job
from flatearth_pipelines.queue.storage import read_job
from flatearth_pipelines_tests.factories import DAY, NOON
from flatearth_pipelines_tests.queue.conftest import UNKNOWN, claim, dead_job, enqueue, fail, finish, open_lease

SECOND = timedelta(seconds=1)
PAST = NOON - 3650 * DAY
"""Long due, so that jobs of a test can be put in order without waiting."""

NOW = timedelta(0)

Ending = Callable[[sa.Connection, int, list[int]], int]


def hand_back(connection: sa.Connection, lease_id: int, job_ids: Iterable[int], own_run: bool | None = None) -> int:  # noqa: FBT001
    query = "SELECT flatearth.hand_back_jobs(:lease, CAST(:ids AS bigint[]), CAST(:own_run AS boolean))"
    values = {"lease": lease_id, "ids": list(job_ids), "own_run": own_run}
    done: int = connection.execute(sa.text(query), values).scalar_one()
    return done


def cancel_running(connection: sa.Connection, lease_id: int, job_ids: Iterable[int]) -> int:
    query = "SELECT flatearth.finish_jobs(:lease, CAST(:ids AS bigint[]), NULL, 'cancelled', 'enough')"
    done: int = connection.execute(sa.text(query), {"lease": lease_id, "ids": list(job_ids)}).scalar_one()
    return done


ENDINGS: dict[str, Ending] = {
    "finished": finish,
    "cancelled": cancel_running,
    "dead": fail,
    "to be retried": lambda c, lease, ids: fail(c, lease, ids, retry_in=NOW),
    "lost": lambda c, lease, ids: fail(c, lease, ids, retry_in=NOW, lost=True),
    "handed back": hand_back,
}
HOWEVER_IT_ENDS = pytest.mark.parametrize("end", ENDINGS.values(), ids=ENDINGS)


def claim_after(connection: sa.Connection, lease_id: int, most: int, place: tuple[int, datetime, int]) -> list[int]:
    query = (
        "SELECT id FROM flatearth.claim_jobs(:lease, :most, false, :priority, :run_at, :id)"
        " ORDER BY priority DESC, run_at, id"
    )
    values = dict(zip(("priority", "run_at", "id"), place, strict=True))
    return list(connection.execute(sa.text(query), {"lease": lease_id, "most": most} | values).scalars())


def place_of(connection: sa.Connection, job_id: int) -> tuple[int, datetime, int]:
    job = read_job(connection, job_id)
    return job["priority"], job["run_at"], job_id


def live(connection: sa.Connection, column: str, job_id: int) -> Any:
    query = f"SELECT {column} FROM flatearth.live_jobs WHERE id = :id"
    return connection.execute(sa.text(query), {"id": job_id}).scalar_one()


def parked(connection: sa.Connection, *job_ids: int) -> list[str | None]:
    return [live(connection, "parked", job_id) for job_id in job_ids]


def slots(connection: sa.Connection) -> dict[str, int]:
    """The keys that are taken, and by which job."""
    query = (
        "SELECT concurrency_key, id AS job_id FROM flatearth.live_jobs"
        " WHERE concurrency_key IS NOT NULL AND lease_id IS NOT NULL"
    )
    rows = connection.execute(sa.text(query)).all()
    return {row.concurrency_key: row.job_id for row in rows}


def sweep(connection: sa.Connection) -> None:
    connection.execute(sa.text("SELECT flatearth.sweep_jobs()"))


def change_lease(connection: sa.Connection, lease_id: int, change: str) -> None:
    connection.execute(sa.text(f"UPDATE flatearth.job_leases SET {change} WHERE id = :id"), {"id": lease_id})


def keyed(connection: sa.Connection, seconds: int, key: str = "one at a time", **options: Any) -> int:
    """A job that has been due since that many seconds after `PAST`."""
    return enqueue(connection, concurrency_key=key, run_at=PAST + seconds * SECOND, **options)


# --------------------------------------------------------------------------------------------- order, limit, due


def test_the_highest_priority_comes_first_then_the_longest_due_then_the_lowest_id(
    connection: sa.Connection, lease: int
) -> None:
    late = enqueue(connection, run_at=PAST + SECOND)
    early = enqueue(connection, run_at=PAST)
    as_early = enqueue(connection, run_at=PAST)
    low = enqueue(connection, run_at=PAST - DAY, priority=-1)
    high = enqueue(connection, run_at=PAST + 2 * SECOND, priority=1)
    assert [claim(connection, lease, 1) for _ in range(6)] == [[high], [early], [as_early], [late], [low], []]


def test_a_claim_takes_as_many_as_it_asks_for_across_priorities_and_no_more(
    connection: sa.Connection, lease: int
) -> None:
    ids = [enqueue(connection, priority=-number // 2) for number in range(7)]
    assert claim(connection, lease, 4) == ids[:4]
    assert claim(connection, lease, 4) == ids[4:]


@pytest.mark.parametrize("most", [0, -1])
def test_a_claim_of_none_takes_none(connection: sa.Connection, lease: int, most: int) -> None:
    enqueue(connection)
    assert claim(connection, lease, most) == []


def test_a_job_is_due_at_its_time_and_not_a_second_before(connection: sa.Connection, lease: int) -> None:
    due = enqueue(connection)
    enqueue(connection, delay=60 * SECOND, priority=1)
    assert claim(connection, lease) == [due]


def test_future_jobs_of_every_higher_priority_do_not_hide_what_is_due(connection: sa.Connection, lease: int) -> None:
    for priority in range(1, 30):
        enqueue(connection, delay=DAY, priority=priority)
    due = enqueue(connection)
    assert claim(connection, lease, 1) == [due]


def test_what_a_claim_reads_does_not_grow_with_what_waits_for_later_or_has_ended(engine: sa.Engine) -> None:
    def buffers() -> int:
        lease_id = open_lease(connection)
        enqueue(connection)
        query = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT json) SELECT * FROM flatearth.claim_jobs({lease_id}, 1)"
        plan = connection.execute(sa.text(query)).scalar_one()[0]["Plan"]
        assert plan["Actual Rows"] == 1
        return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])

    with engine.begin() as connection:
        buffers()  # the first claim of a session reads the catalogue too
        few = buffers()
        connection.execute(
            sa.text(
                "INSERT INTO flatearth.live_jobs (handler, run_at, priority)"
                " SELECT 'noop', now() + interval '1 day', 1 FROM generate_series(1, 10000)"
            )
        )
        connection.execute(
            sa.text(
                "INSERT INTO flatearth.finished_jobs (id, run_at, created_at, finished_at, priority, attempts, own_run,"
                " handler, state, origin) SELECT n, now(), now(), now(), 0, 1, false, 'noop', 'succeeded', 'adhoc'"
                " FROM generate_series(1000000, 1010000) AS n"
            )
        )
        many = buffers()
    assert many <= few + 50


# ------------------------------------------------------------------------------------- what a claim does to a job


def test_a_claimed_job_is_running_with_an_attempt_more_and_its_start_now(connection: sa.Connection, lease: int) -> None:
    job_id = enqueue(connection, max_attempts=3)
    assert claim(connection, lease) == [job_id]
    job = read_job(connection, job_id)
    assert (job["state"], job["attempts"]) == ("running", 1)
    assert live(connection, "started_at BETWEEN now() AND clock_timestamp()", job_id)
    assert live(connection, "lease_id", job_id) == lease


def test_a_claimed_job_is_not_claimed_again_by_its_lease_nor_by_another(connection: sa.Connection, lease: int) -> None:
    job_id = enqueue(connection)
    assert claim(connection, lease) == [job_id]
    assert claim(connection, lease) == []
    assert claim(connection, open_lease(connection)) == []


# ------------------------------------------------------------------------------------------------------- leases


@pytest.mark.parametrize("lasts", [NOW, -SECOND])
def test_a_claim_under_a_lease_that_ran_out_is_refused_with_55000_although_nobody_rescued_it(
    connection: sa.Connection, lasts: timedelta
) -> None:
    job_id, lease_id = enqueue(connection), open_lease(connection, lasts)
    with pytest.raises(DBAPIError) as refused, connection.begin_nested():
        claim(connection, lease_id)
    assert getattr(refused.value.orig, "sqlstate", "") == "55000"
    assert str(lease_id) in str(refused.value.orig)
    assert read_job(connection, job_id)["attempts"] == 0


def test_a_claim_under_a_lease_that_is_gone_is_refused_with_55000_even_where_nothing_is_due(
    connection: sa.Connection,
) -> None:
    with pytest.raises(DBAPIError) as refused, connection.begin_nested():
        claim(connection, UNKNOWN)
    assert getattr(refused.value.orig, "sqlstate", "") == "55000"


def test_a_job_is_its_lease_s_until_somebody_has_rescued_it_even_after_the_lease_ran_out(
    connection: sa.Connection, lease: int
) -> None:
    job_id = enqueue(connection)
    claim(connection, lease)
    change_lease(connection, lease, "expires_at = clock_timestamp()")
    assert claim(connection, open_lease(connection)) == []
    assert finish(connection, lease, [job_id]) == 1
    assert read_job(connection, job_id)["state"] == "succeeded"


# ------------------------------------------------------------------------------------- the three ways out of a lease


def test_a_finished_job_keeps_its_result_and_its_lease_has_it_no_more(connection: sa.Connection, lease: int) -> None:
    first, second = enqueue(connection), enqueue(connection)
    claim(connection, lease)
    assert finish(connection, lease, [first, second], {second: {"sent": 3}}) == 2
    jobs = [read_job(connection, job_id) for job_id in (first, second)]
    assert [(job["state"], job["result"], job["attempts"]) for job in jobs] == [
        ("succeeded", None, 1),
        ("succeeded", {"sent": 3}, 1),
    ]
    assert all(job["finished_at"] >= job["started_at"] for job in jobs)


def test_a_cancelled_job_keeps_the_reason(connection: sa.Connection, lease: int) -> None:
    job_id = enqueue(connection)
    claim(connection, lease)
    assert cancel_running(connection, lease, [job_id]) == 1
    job = read_job(connection, job_id)
    assert (job["state"], job["last_error"]) == ("cancelled", "enough")


@pytest.mark.parametrize("wait", [NOW, timedelta(milliseconds=1), DAY])
def test_a_failed_job_waits_that_long_from_now_by_the_database_s_clock(
    connection: sa.Connection, lease: int, wait: timedelta
) -> None:
    job_id = enqueue(connection, run_at=PAST)
    claim(connection, lease)
    before = connection.execute(sa.text("SELECT clock_timestamp()")).scalar_one()
    assert fail(connection, lease, [job_id], "no", wait) == 1
    after = connection.execute(sa.text("SELECT clock_timestamp()")).scalar_one()
    job = read_job(connection, job_id)
    assert before + wait <= job["run_at"] <= after + wait
    assert (job["state"], job["attempts"], job["last_error"], job["started_at"]) == ("pending", 1, "no", None)


def test_a_failed_job_that_waits_for_nothing_is_dead(connection: sa.Connection, lease: int) -> None:
    job_id = enqueue(connection)
    claim(connection, lease)
    assert fail(connection, lease, [job_id], "no") == 1
    job = read_job(connection, job_id)
    assert (job["state"], job["attempts"], job["last_error"]) == ("failed", 1, "no")
    assert claim(connection, lease) == []


def test_jobs_of_one_call_fail_each_in_its_own_way(connection: sa.Connection, lease: int) -> None:
    dead, waiting = enqueue(connection), enqueue(connection)
    claim(connection, lease)
    query = "SELECT flatearth.fail_jobs(:lease, :ids, ARRAY['a', 'b'], CAST(ARRAY[NULL, 60000] AS bigint[]))"
    done = connection.execute(sa.text(query), {"lease": lease, "ids": [dead, waiting]}).scalar_one()
    told = [(job["state"], job["last_error"]) for job in (read_job(connection, dead), read_job(connection, waiting))]
    assert (done, told) == (2, [("failed", "a"), ("pending", "b")])


def test_jobs_that_fail_together_and_wait_equally_long_are_claimed_again_in_the_order_of_their_ids(
    connection: sa.Connection, lease: int
) -> None:
    first, second = enqueue(connection), enqueue(connection)
    claim(connection, lease)
    assert fail(connection, lease, [second, first], retry_in=NOW) == 2
    assert claim(connection, lease, 1) == [first]


def test_a_job_that_is_handed_back_waits_as_if_it_had_not_been_claimed(connection: sa.Connection, lease: int) -> None:
    job_id = enqueue(connection, run_at=PAST, max_attempts=1)
    before = read_job(connection, job_id)
    for _ in range(3):
        assert claim(connection, lease) == [job_id]
        assert hand_back(connection, lease, [job_id]) == 1
        assert read_job(connection, job_id) == before


def test_a_job_that_is_handed_back_for_a_run_of_its_own_is_claimed_by_such_a_run_only(
    connection: sa.Connection, lease: int
) -> None:
    job_id = enqueue(connection)
    claim(connection, lease)
    assert hand_back(connection, lease, [job_id], own_run=True) == 1
    assert claim(connection, lease) == []
    assert claim(connection, lease, own_run=True) == [job_id]


def test_a_job_that_is_handed_back_keeps_the_kind_of_run_that_it_asked_for(
    connection: sa.Connection, lease: int
) -> None:
    job_id = enqueue(connection, own_run=True)
    claim(connection, lease, own_run=True)
    hand_back(connection, lease, [job_id])
    assert claim(connection, lease) == []
    assert claim(connection, lease, own_run=True) == [job_id]


@pytest.mark.parametrize("end", [finish, fail, hand_back, cancel_running])
def test_of_no_jobs_none_leaves_the_lease(connection: sa.Connection, lease: int, end: Ending) -> None:
    enqueue(connection)
    claim(connection, lease)
    assert end(connection, lease, []) == 0


# ------------------------------------------------------------------------------------------------------ fencing


@HOWEVER_IT_ENDS
def test_a_lease_ends_only_jobs_of_its_own_and_is_told_how_many(
    connection: sa.Connection, lease: int, end: Ending
) -> None:
    mine, waiting, ended = enqueue(connection, priority=2), enqueue(connection), dead_job(connection)
    claim(connection, lease, 1)
    another = open_lease(connection)
    theirs = enqueue(connection, priority=1)
    assert claim(connection, another, 1) == [theirs]
    others = [theirs, waiting, ended]
    before = [read_job(connection, job_id) for job_id in others]

    assert end(connection, lease, [mine, *others, UNKNOWN]) == 1

    assert [read_job(connection, job_id) for job_id in others] == before
    assert live(connection, "lease_id", theirs) == another


@HOWEVER_IT_ENDS
def test_who_records_twice_since_the_answer_was_lost_changes_nothing_the_second_time(
    connection: sa.Connection, lease: int, end: Ending
) -> None:
    job_id = enqueue(connection)
    claim(connection, lease)
    assert end(connection, lease, [job_id]) == 1
    before = read_job(connection, job_id)
    assert end(connection, lease, [job_id]) == 0
    assert read_job(connection, job_id) == before


@HOWEVER_IT_ENDS
def test_a_zombie_does_not_free_the_concurrency_key_of_the_job_that_was_taken_from_it(
    connection: sa.Connection, lease: int, end: Ending
) -> None:
    first, second = keyed(connection, 1), keyed(connection, 2)
    assert claim(connection, lease) == [first]
    fail(connection, lease, [first], "The worker was lost", NOW, lost=True)
    connection.execute(sa.text("UPDATE flatearth.live_jobs SET run_at = :at WHERE id = :id"), {"at": PAST, "id": first})
    another = open_lease(connection)
    assert claim(connection, another) == [first]

    assert end(connection, lease, [first]) == 0

    assert slots(connection) == {"one at a time": first}
    assert claim(connection, open_lease(connection)) == []
    finish(connection, another, [first])
    assert claim(connection, another) == [second]


# --------------------------------------------------------------------------------------------- the place of a claim


def test_a_claim_goes_on_where_the_last_one_ended(connection: sa.Connection, lease: int) -> None:
    ids = [enqueue(connection, run_at=PAST + number // 2 * SECOND) for number in range(6)]
    taken = claim(connection, lease, 2)
    assert claim_after(connection, lease, 2, place_of(connection, taken[-1])) == ids[2:4]


def test_between_equal_times_the_id_says_where_the_last_claim_ended(connection: sa.Connection, lease: int) -> None:
    ids = [enqueue(connection, run_at=PAST) for _ in range(4)]
    place = place_of(connection, ids[1])
    assert claim_after(connection, lease, 10, place) == ids[2:]


@pytest.mark.parametrize("priority", [1, -1])
def test_another_priority_is_claimed_from_its_start_wherever_the_last_claim_ended(
    connection: sa.Connection, lease: int, priority: int
) -> None:
    last = enqueue(connection, run_at=PAST + DAY)
    other = enqueue(connection, run_at=PAST, priority=priority)
    assert claim_after(connection, lease, 10, place_of(connection, last)) == [other]


def test_what_became_due_before_the_place_is_found_by_the_next_claim_without_one(
    connection: sa.Connection, lease: int
) -> None:
    last = enqueue(connection, run_at=PAST + DAY)
    claim(connection, lease)
    before = enqueue(connection, run_at=PAST)
    assert claim_after(connection, lease, 10, place_of(connection, last)) == []
    assert claim(connection, lease) == [before]


# ----------------------------------------------------------------------------------------------- concurrency keys


def test_of_a_concurrency_key_one_job_is_claimed_and_the_others_wait_outside_the_index_that_claims_read(
    connection: sa.Connection, lease: int
) -> None:
    first, second, third = (keyed(connection, number) for number in range(3))
    free = enqueue(connection)
    assert claim(connection, lease) == [first, free]
    assert parked(connection, first, second, third) == [None, "key", "key"]
    assert slots(connection) == {"one at a time": first}


def test_distinct_concurrency_keys_and_none_do_not_hold_up_each_other(connection: sa.Connection, lease: int) -> None:
    ids = [keyed(connection, number, f"key {number}") for number in range(3)] + [enqueue(connection)]
    assert claim(connection, lease) == ids


@HOWEVER_IT_ENDS
def test_however_a_job_ends_its_concurrency_key_is_free_for_the_next(
    connection: sa.Connection, lease: int, end: Ending
) -> None:
    first, second = keyed(connection, 1), keyed(connection, 2)
    assert claim(connection, lease) == [first]
    assert end(connection, lease, [first]) == 1
    assert slots(connection) == {}
    (claimed,) = claim(connection, lease)
    assert claimed == (first if end is hand_back else second)


def test_jobs_of_a_concurrency_key_run_in_the_order_of_their_time_whatever_their_priority_and_id(
    connection: sa.Connection, lease: int
) -> None:
    last = keyed(connection, 9, priority=9)
    second = keyed(connection, 2, priority=-5)
    third = keyed(connection, 3)
    first = keyed(connection, 1)
    order = []
    while claimed := claim(connection, lease):
        order += claimed
        finish(connection, lease, claimed)
    assert order == [first, second, third, last]


def test_a_future_job_of_a_concurrency_key_does_not_hold_up_one_that_is_due(
    connection: sa.Connection, lease: int
) -> None:
    enqueue(connection, concurrency_key="k", delay=DAY)
    due = enqueue(connection, concurrency_key="k")
    assert claim(connection, lease) == [due]


def test_a_job_that_waits_for_its_next_attempt_lets_the_others_of_its_concurrency_key_pass(
    connection: sa.Connection, lease: int
) -> None:
    first, second = keyed(connection, 1), keyed(connection, 2)
    claim(connection, lease)
    fail(connection, lease, [first], retry_in=DAY)
    assert claim(connection, lease) == [second]


def test_a_concurrency_key_spans_batches_and_runs_of_their_own(connection: sa.Connection, lease: int) -> None:
    heavy = keyed(connection, 1, own_run=True)
    light = keyed(connection, 2)
    assert claim(connection, lease) == []
    assert claim(connection, lease, own_run=True) == [heavy]
    assert claim(connection, lease) == []
    finish(connection, lease, [heavy])
    assert claim(connection, lease) == [light]


def test_a_claim_finds_what_is_free_behind_many_jobs_of_one_concurrency_key(
    connection: sa.Connection, lease: int
) -> None:
    ids = [keyed(connection, number) for number in range(20)]
    free = enqueue(connection)
    assert claim(connection, lease, 2) == [ids[0], free]


def test_a_job_that_waits_for_the_one_it_replaces_does_not_keep_that_one_from_its_next_attempt(
    connection: sa.Connection, lease: int
) -> None:
    options = {"job_key": "j", "concurrency_key": "k"}
    old = enqueue(connection, **options)
    assert claim(connection, lease) == [old]
    new = enqueue(connection, on_conflict="replace", **options)
    fail(connection, lease, [old], retry_in=NOW)

    sweep(connection)
    assert claim(connection, lease) == [old]
    assert finish(connection, lease, [old]) == 1
    sweep(connection)
    assert claim(connection, lease) == [new]


@pytest.mark.parametrize("gone", [cancel_job, delete_job])
def test_when_the_first_of_a_concurrency_key_goes_the_sweep_wakes_the_next(
    connection: sa.Connection, lease: int, gone: Callable[[sa.Connection, int], object]
) -> None:
    first, second, third = (keyed(connection, number) for number in range(3))
    claim(connection, lease)
    fail(connection, lease, [first], retry_in=DAY)
    assert parked(connection, second, third) == [None, "key"]
    gone(connection, second)
    assert claim(connection, lease) == []
    sweep(connection)
    assert claim(connection, lease) == [third]


# ----------------------------------------------------------------------------------- jobs that have killed a worker


def suspect(connection: sa.Connection, lease_id: int, **options: Any) -> int:
    """A job that has killed a worker and is due again."""
    job_id = enqueue(connection, priority=1_000, **options)
    assert claim(connection, lease_id, 1) == [job_id]
    fail(connection, lease_id, [job_id], "The worker was lost", NOW, lost=True)
    connection.execute(
        sa.text("UPDATE flatearth.live_jobs SET priority = 0, run_at = :at WHERE id = :id"),
        {"at": options.get("run_at", PAST), "id": job_id},
    )
    return job_id


def test_a_job_that_killed_a_worker_comes_alone(connection: sa.Connection, lease: int) -> None:
    first = suspect(connection, lease, run_at=PAST)
    others = [enqueue(connection) for _ in range(2)]
    assert claim(connection, lease) == [first]
    assert claim(connection, lease) == others


def test_what_is_before_a_job_that_killed_a_worker_is_claimed_without_it_and_what_is_behind_not_with_it(
    connection: sa.Connection, lease: int
) -> None:
    middle = suspect(connection, lease, run_at=PAST + SECOND)
    before, behind = enqueue(connection, run_at=PAST), enqueue(connection, run_at=PAST + 2 * SECOND)
    assert [claim(connection, lease) for _ in range(3)] == [[before], [middle], [behind]]


def test_a_job_that_killed_a_worker_does_not_come_with_those_of_a_higher_priority(
    connection: sa.Connection, lease: int
) -> None:
    low = suspect(connection, lease)
    high = enqueue(connection, priority=1)
    lower = enqueue(connection, priority=-1)
    assert [claim(connection, lease) for _ in range(3)] == [[high], [low], [lower]]


def test_two_jobs_that_killed_workers_come_one_after_the_other(connection: sa.Connection, lease: int) -> None:
    ids = [suspect(connection, lease, run_at=PAST + number * SECOND) for number in range(2)]
    assert [claim(connection, lease) for _ in range(3)] == [[ids[0]], [ids[1]], []]


def test_who_comes_alone_leaves_no_concurrency_key_taken_for_the_others(connection: sa.Connection, lease: int) -> None:
    first = suspect(connection, lease, run_at=PAST, concurrency_key="a")
    second = keyed(connection, 1, "b")
    third = keyed(connection, 2, "b")
    assert claim(connection, lease) == [first]
    assert slots(connection) == {"a": first}
    assert claim(connection, lease) == [second]
    finish(connection, lease, [first, second])
    assert claim(connection, lease) == [third]


def test_a_job_that_killed_a_worker_and_was_retried_by_hand_comes_with_the_others(
    connection: sa.Connection, lease: int
) -> None:
    job_id = suspect(connection, lease)
    claim(connection, lease)
    fail(connection, lease, [job_id])
    retry_job(connection, job_id)
    other = enqueue(connection)
    assert claim(connection, lease) == [job_id, other]


# -------------------------------------------------------------------------------------------------------- pauses


def test_jobs_of_a_paused_handler_do_not_take_the_place_of_others_in_a_claim(
    connection: sa.Connection, lease: int
) -> None:
    pause_jobs(connection, "greet")
    paused = [enqueue(connection, "greet") for _ in range(5)]
    free = enqueue(connection)
    assert claim(connection, lease, 1) == [free]
    resume_jobs(connection, "greet")
    assert claim(connection, lease) == paused


def test_a_paused_job_takes_no_concurrency_key(connection: sa.Connection, lease: int) -> None:
    pause_jobs(connection, "greet")
    first = keyed(connection, 1, handler="greet")
    second = keyed(connection, 2)
    assert claim(connection, lease) == []
    assert slots(connection) == {}
    resume_jobs(connection, "greet")
    assert claim(connection, lease) == [first]
    finish(connection, lease, [first])
    assert claim(connection, lease) == [second]


def test_a_paused_queue_gives_nothing_even_to_a_lease_that_is_alive_and_refuses_one_that_is_not(
    connection: sa.Connection, lease: int
) -> None:
    job_id = enqueue(connection)
    pause_jobs(connection)
    assert claim(connection, lease) == []
    change_lease(connection, lease, "expires_at = clock_timestamp()")
    with pytest.raises(DBAPIError, match="has run out"), connection.begin_nested():
        claim(connection, lease)
    assert read_job(connection, job_id)["attempts"] == 0


# ----------------------------------------------------------------------------------- cancelled, and then retried


def test_a_job_that_was_told_to_stop_and_is_then_retried_by_hand_is_not_told_again(
    connection: sa.Connection, lease: int
) -> None:
    job_id = enqueue(connection)
    claim(connection, lease)
    assert cancel_job(connection, job_id)
    assert cancel_running(connection, lease, [job_id]) == 1

    retry_job(connection, job_id)
    sweep(connection)

    assert read_job(connection, job_id)["state"] == "pending"
    assert claim(connection, lease) == [job_id]


def test_a_retried_job_does_not_show_the_progress_of_its_earlier_life(connection: sa.Connection, lease: int) -> None:
    job_id = enqueue(connection)
    claim(connection, lease)
    connection.execute(
        sa.text("INSERT INTO flatearth.job_progress (job_id, percent, line) VALUES (:id, 99, 'nearly')"), {"id": job_id}
    )
    fail(connection, lease, [job_id])
    retry_job(connection, job_id)
    assert read_job(connection, job_id)["progress"] is None


def test_a_job_that_was_told_to_stop_failed_and_was_replaced_before_the_sweep_runs(
    connection: sa.Connection, lease: int
) -> None:
    job_id = enqueue(connection, job_key="k")
    claim(connection, lease)
    assert cancel_job(connection, job_id)
    fail(connection, lease, [job_id], retry_in=NOW)
    assert enqueue(connection, job_key="k", on_conflict="replace") == job_id
    sweep(connection)
    assert claim(connection, lease) == [job_id]
