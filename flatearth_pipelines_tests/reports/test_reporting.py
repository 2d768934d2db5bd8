"""Days on a real database, in transactions of their own: counted again, two at once, cut short."""

import contextlib
import subprocess
import sys
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from flatearth_pipelines import tables
from flatearth_pipelines.reports import storage
from flatearth_pipelines.reports.reporting import Reported, report_on, report_on_each
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.factories import DAY
from flatearth_pipelines_tests.processes import until
from flatearth_pipelines_tests.reports.office import NOON, TODAY, Office, places, row, rows


@pytest.fixture
def office(engine: sa.Engine) -> Office:
    """Where on the day somebody closed a card, wrote two comments and got a mail."""
    with engine.begin() as connection:
        office = Office(connection)
        office.happened(connection, "card_closed", NOON)
        for _ in range(2):
            office.commented(connection, NOON)
        office.mailed(connection, NOON)
        return office


def report(engine: sa.Engine, day: date = TODAY, *, dry_run: bool = False) -> Reported:
    with engine.connect() as connection:
        return report_on(connection, day, dry_run=dry_run)


def written(engine: sa.Engine, day: date = TODAY) -> list[dict[str, object]]:
    with engine.connect() as connection:
        return rows(connection, day)


def expected(office: Office) -> list[dict[str, object]]:
    return [
        row(office.account, None, active_people=1, bundles_mailed=1),
        row(office.account, office.board, cards_closed=1, comments=2, active_people=1),
    ]


# Once and again


def test_a_day_that_is_counted_says_what_it_came_to(engine: sa.Engine, office: Office) -> None:
    reported = report(engine)

    assert written(engine) == expected(office)
    assert (reported.day, reported.rows, reported.rows_before, reported.changed) == (TODAY, 2, 0, True)
    assert (reported.totals.comments, reported.totals.active_people, reported.totals.boards) == (2, 1, 1)
    assert reported.busiest["board_id"].to_list() == [office.board]


def test_a_day_that_is_counted_again_has_the_same_rows_and_nothing_is_written(
    engine: sa.Engine, office: Office
) -> None:
    report(engine)
    with engine.connect() as connection:
        before = places(connection)

    reported = report(engine)

    assert (reported.rows, reported.rows_before, reported.changed) == (2, 2, False)
    assert written(engine) == expected(office)
    with engine.connect() as connection:
        assert places(connection) == before


def test_what_happened_to_the_day_meanwhile_is_in_it_when_it_is_counted_again(
    engine: sa.Engine, office: Office
) -> None:
    report(engine)
    with engine.begin() as connection:
        office.commented(connection, NOON)

    assert report(engine).changed
    assert written(engine)[1]["comments"] == 3


def test_rows_that_somebody_wrote_by_hand_are_replaced(engine: sa.Engine, office: Office) -> None:
    with engine.begin() as connection:
        other = make.board(connection, office.account)
        wrong = [{"board_id": office.board, "comments": 99}, {"board_id": other, "comments": 1}]
        for values in wrong:
            by_hand = sa.insert(tables.daily_reports).values(day=TODAY, account_id=office.account, **values)
            connection.execute(by_hand)

    assert report(engine).rows_before == 2
    assert written(engine) == expected(office)


def test_a_dry_run_says_the_same_and_writes_nothing(engine: sa.Engine, office: Office) -> None:
    dry = report(engine, dry_run=True)

    assert written(engine) == []
    wet = report(engine)
    assert (dry.rows, dry.totals, dry.changed) == (wet.rows, wet.totals, wet.changed)
    assert written(engine) == expected(office)


def test_a_dry_run_waits_for_nobody(engine: sa.Engine, other_engine: sa.Engine, office: Office) -> None:
    assert office
    with other_engine.begin() as somebody:
        storage.lock_day(somebody, TODAY)
        assert report(engine, dry_run=True).rows == 2


def test_deliveries_are_counted_although_they_were_cleaned_up_since(engine: sa.Engine, office: Office) -> None:
    with engine.begin() as connection:
        office.delivered(connection, NOON)
        office.gave_up(connection, NOON)
    report(engine)
    with engine.begin() as connection:
        connection.execute(sa.delete(tables.webhook_deliveries))

    assert not report(engine).changed
    assert written(engine)[1] == row(
        office.account,
        office.board,
        cards_closed=1,
        comments=2,
        active_people=1,
        deliveries_completed=1,
        deliveries_errored=1,
    )


def test_a_delivery_that_is_sent_again_another_day_was_completed_on_both(engine: sa.Engine, office: Office) -> None:
    with engine.begin() as connection:
        delivery = office.delivered(connection, NOON)
    report(engine)
    with engine.begin() as connection:
        again = sa.update(tables.webhook_deliveries).where(tables.webhook_deliveries.c.id == delivery)
        connection.execute(again.values(completed_at=NOON + DAY))

    for day in (TODAY, TODAY + DAY):
        report(engine, day)
        assert written(engine, day)[-1]["deliveries_completed"] == 1


# With others


def test_two_runs_of_one_day_at_once_wait_for_each_other_and_have_the_same_rows(
    engine: sa.Engine, other_engine: sa.Engine, office: Office
) -> None:
    with ThreadPoolExecutor() as pool:
        reported = list(pool.map(report, [engine, other_engine] * 5))

    assert written(engine) == expected(office)
    assert sorted(each.changed for each in reported) == [False] * 9 + [True]
    assert {(each.rows, each.totals) for each in reported} == {(2, reported[0].totals)}


def test_a_run_waits_for_the_one_that_counts_the_same_day_and_sees_what_happened_meanwhile(
    engine: sa.Engine, other_engine: sa.Engine, office: Office
) -> None:
    with ThreadPoolExecutor() as pool:
        with other_engine.begin() as somebody:
            storage.lock_day(somebody, TODAY)
            waiting = pool.submit(report, engine)
            until(lambda: waits(other_engine))
            office.commented(somebody, NOON)
        assert waiting.result(60).totals.comments == 3


def test_a_run_of_another_day_does_not_wait(engine: sa.Engine, other_engine: sa.Engine, office: Office) -> None:
    assert office
    with other_engine.begin() as somebody:
        storage.lock_day(somebody, TODAY + DAY)
        assert report(engine).rows == 2


def test_people_read_the_old_rows_until_the_new_ones_are_there(
    engine: sa.Engine, other_engine: sa.Engine, office: Office
) -> None:
    report(engine)
    with engine.begin() as connection:
        office.commented(connection, NOON)
    with engine.begin() as connection:
        storage.replace(connection, TODAY, storage.read_reports(connection, TODAY).clear())
        assert written(other_engine) == expected(office)
    assert written(other_engine) == []


def test_an_account_that_goes_while_its_day_is_counted_fails_nobody(
    engine: sa.Engine, other_engine: sa.Engine, office: Office
) -> None:
    with engine.begin() as connection:
        other = Office(connection)
        other.commented(connection, NOON)
    with ThreadPoolExecutor() as pool:
        with other_engine.begin() as somebody:
            somebody.execute(sa.delete(tables.accounts).where(tables.accounts.c.id == other.account))
            waiting = pool.submit(report, engine)
            until(lambda: waits(other_engine))
        assert waiting.result(60).rows == 2
    assert written(engine) == expected(office)


def waits(engine: sa.Engine) -> bool:
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with engine.connect() as connection:
        return bool(connection.execute(sa.text(query)).scalar_one())


# Ranges


def test_each_day_of_a_range_is_told_of_when_it_is_committed(
    engine: sa.Engine, other_engine: sa.Engine, office: Office
) -> None:
    assert office
    seen = []

    def told(reported: Reported) -> None:
        seen.append((reported.day, reported.rows, len(written(other_engine, reported.day))))

    with engine.connect() as connection:
        report_on_each(connection, [TODAY - DAY, TODAY, TODAY + DAY], told)

    assert seen == [(TODAY - DAY, 0, 0), (TODAY, 2, 2), (TODAY + DAY, 0, 0)]


@contextlib.contextmanager
def backfill(first: date, last: date) -> Generator[subprocess.Popen[bytes]]:
    """`flatearth reports backfill` in a process of its own; killed at the end if it still runs."""
    program = Path(sys.executable).with_name("flatearth")
    command = [str(program), "reports", "backfill", "--from", first.isoformat(), "--to", last.isoformat()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_backfill_that_is_killed_leaves_whole_days_and_no_lock_and_the_next_one_does_the_rest(
    engine: sa.Engine, database: str, office: Office
) -> None:
    days = [TODAY + timedelta(days=number) for number in range(6)]
    with engine.begin() as connection:
        for day in days[1:]:
            office.commented(connection, NOON + (day - TODAY))
    with psycopg.connect(database) as somebody:
        key = f"flatearth.daily_report {days[3]}"
        somebody.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [key])
        with backfill(days[0], days[-1]) as process:
            until(lambda: waits(engine) or process.poll() is not None)
            assert process.poll() is None
            process.kill()
            process.wait(60)
    until(lambda: not sessions(engine))

    assert [len(written(engine, day)) for day in days] == [2, 1, 1, 0, 0, 0]

    with backfill(days[0], days[-1]) as process:
        output, _ = process.communicate(timeout=60)

    assert process.returncode == 0, output
    assert [len(written(engine, day)) for day in days] == [2, 1, 1, 1, 1, 1]


def sessions(engine: sa.Engine) -> int:
    query = """
        SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'flatearth reports'
    """
    with engine.connect() as connection:
        return int(connection.execute(sa.text(query)).scalar_one())
