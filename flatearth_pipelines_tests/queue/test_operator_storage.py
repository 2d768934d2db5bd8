"""What only `flatearth jobs` asks of Postgres."""

from collections.abc import Callable
from datetime import date, timedelta

import pytest
import sqlalchemy as sa

from flatearth_pipelines.errors import NotFound, WrongUsage
from flatearth_pipelines.queue import operator_storage, storage
from flatearth_pipelines_tests.factories import DAY, MICROSECOND
from flatearth_pipelines_tests.queue.conftest import REGISTRY, dead_job, enqueue, finished_job

_DAY = (
    "CREATE TABLE flatearth.finished_jobs_20200102 PARTITION OF flatearth.finished_jobs"
    " FOR VALUES FROM ('2020-01-02 00:00+00') TO ('2020-01-03 00:00+00')"
)

_MOVE = "UPDATE flatearth.{} SET finished_at = {} WHERE id = :id"


def test_lines_are_enqueued_in_their_order(connection: sa.Connection) -> None:
    lines = {2: {"handler": "greet", "payload": {"name": "A"}}, 5: {"handler": "greet", "payload": {"name": "B"}}}

    ids = operator_storage.enqueue_lines(connection, REGISTRY, lines)

    assert [storage.read_job(connection, job_id)["payload"] for job_id in ids] == [{"name": "A"}, {"name": "B"}]


@pytest.mark.parametrize(
    ("bad", "error", "words"),
    [
        ({"handler": "nobody"}, NotFound, r"^Line 7: There is no handler 'nobody': there are greet, heavy, noop$"),
        ({"handler": "greet", "payload": {}}, WrongUsage, r"^Line 7: The payload of greet is not valid: name: "),
        ({"handler": "noop", "max_attempts": -1}, WrongUsage, r"^Line 7: max_attempts is -1: it takes 1 to 25$"),
        ({"handler": "noop", "colour": "red"}, WrongUsage, r"^Line 7: a job takes handler, payload, .*colour"),
    ],
)
def test_a_line_that_is_refused_is_named(
    connection: sa.Connection, bad: dict[str, object], error: type[Exception], words: str
) -> None:
    lines: dict[int, dict[str, object]] = {6: {"handler": "noop", "job_key": "k"}, 7: bad, 8: {"handler": "noop"}}

    with pytest.raises(error, match=words):
        operator_storage.enqueue_lines(connection, REGISTRY, lines)


def test_ids_are_those_of_the_states_and_the_handler_the_oldest_first(connection: sa.Connection) -> None:
    waiting, other = enqueue(connection), enqueue(connection, "greet", {"name": "A"})
    dead, finished = dead_job(connection), finished_job(connection)

    def read(states: tuple[str, ...], handler: str | None = None) -> list[int]:
        return operator_storage.read_job_ids(connection, states, handler)

    assert read(("pending", "running")) == [waiting, other]
    assert read(("pending", "failed"), "noop") == [waiting, dead]
    assert read(("succeeded",)) == [finished]


@pytest.mark.parametrize(("table", "new_job"), [("finished_jobs", finished_job), ("dead_jobs", dead_job)])
@pytest.mark.parametrize(
    ("ended", "kept"),
    [
        ("date_trunc('day', now(), 'UTC') - interval '10 days'", False),
        ("now() - interval '10 days'", False),
        ("now() - interval '10 days' + interval '1 second'", True),
        ("clock_timestamp()", True),
    ],
)
def test_old_days_are_what_dropping_the_history_drops(
    connection: sa.Connection, table: str, new_job: Callable[[sa.Connection], int], ended: str, *, kept: bool
) -> None:
    job_id = new_job(connection)
    connection.execute(sa.text(_MOVE.format(table, ended)), {"id": job_id})

    days = operator_storage.read_old_days(connection, 10 * DAY, 10 * DAY)
    storage.drop_history(connection, 10 * DAY, 10 * DAY)

    assert sum(day["jobs"] for day in days) == (0 if kept else 1)
    assert [day["history"] for day in days] == ([] if kept else ["failed" if table == "dead_jobs" else "finished"])
    assert operator_storage.read_job_ids(connection, ("succeeded", "failed")) == ([job_id] if kept else [])


@pytest.mark.parametrize(
    ("longer", "gone"), [(timedelta(0), True), (timedelta(minutes=1), False), (-timedelta(minutes=1), True)]
)
def test_a_day_is_dropped_once_its_end_is_old_enough_and_its_jobs_are_gone_before(
    connection: sa.Connection, longer: timedelta, *, gone: bool
) -> None:
    connection.execute(sa.text(_DAY))
    job_id = finished_job(connection)
    first_instant = "timestamptz '2020-01-02 00:00+00'"
    connection.execute(sa.text(_MOVE.format("finished_jobs", first_instant)), {"id": job_id})
    since_its_end = connection.execute(sa.text("SELECT now() - timestamptz '2020-01-03 00:00+00'")).scalar_one()

    days = operator_storage.read_old_days(connection, since_its_end + longer, DAY)
    dropped = storage.drop_history(connection, since_its_end + longer, DAY)

    assert days == [{"day": date(2020, 1, 2), "history": "finished", "jobs": 1}]
    assert operator_storage.read_job_ids(connection, ("succeeded",)) == []
    assert dropped == (["finished_jobs_20200102"] if gone else [])


def test_a_job_stays_until_the_microsecond_at_which_its_end_is_old_enough(connection: sa.Connection) -> None:
    connection.execute(sa.text(_DAY))
    job_id = finished_job(connection)
    connection.execute(sa.text(_MOVE.format("finished_jobs", "timestamptz '2020-01-02 12:00+00'")), {"id": job_id})
    since_its_end = connection.execute(sa.text("SELECT now() - timestamptz '2020-01-02 12:00+00'")).scalar_one()

    assert operator_storage.read_old_days(connection, since_its_end + MICROSECOND, DAY) == []
    assert len(operator_storage.read_old_days(connection, since_its_end, DAY)) == 1


def test_today_stays_however_short_history_is_kept(connection: sa.Connection) -> None:
    finished_job(connection)

    assert operator_storage.read_old_days(connection, timedelta(0), timedelta(0)) == []
    assert storage.drop_history(connection, timedelta(0), timedelta(0)) == []
