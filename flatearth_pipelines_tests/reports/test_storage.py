"""What Postgres counts, boundary by boundary, and the rows that say so."""

import threading
from collections.abc import Callable
from datetime import date, datetime
from typing import Any

import polars as pl
import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from flatearth_pipelines import migrate, schema, tables
from flatearth_pipelines.reports import storage
from flatearth_pipelines.reports.metrics import METRICS, REPORTS
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.factories import DAY, MICROSECOND
from flatearth_pipelines_tests.processes import until
from flatearth_pipelines_tests.reports.office import END, NOON, START, TODAY, Office, Row, row, rows

Counts = dict[tuple[int | None, str], int]


def counted(connection: sa.Connection, start: datetime = START, end: datetime = END) -> Counts:
    """How often, by board and metric."""
    frame = storage.read_counted(connection, start, end)
    keys = [(board, METRICS[metric]) for board, metric in frame.select("board_id", "metric").iter_rows()]
    assert len(keys) == len(set(keys))
    return {key: times for key, times in zip(keys, frame["times"], strict=True) if times}


# What is of the day

HAPPENS: dict[str, Callable[[sa.Connection, Office, datetime], object]] = {
    "cards_created": lambda connection, office, at: office.created(connection, at),
    "cards_closed": lambda connection, office, at: office.happened(connection, "card_closed", at),
    "cards_postponed": lambda connection, office, at: office.happened(connection, "card_postponed", at),
    "cards_auto_postponed": lambda connection, office, at: office.happened(connection, "card_auto_postponed", at),
    "comments": lambda connection, office, at: office.commented(connection, at),
    "active_people": lambda connection, office, at: office.happened(connection, "card_moved", at),
    "bundles_mailed": lambda connection, office, at: office.mailed(connection, at),
    "bundles_failed": lambda connection, office, at: office.mail_failed(connection, at),
    "deliveries_completed": lambda connection, office, at: office.delivered(connection, at),
    "deliveries_errored": lambda connection, office, at: office.gave_up(connection, at),
}


def test_there_is_something_that_happens_for_every_metric() -> None:
    assert tuple(HAPPENS) == METRICS


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("at", [START, END - MICROSECOND], ids=["at its start", "in its last microsecond"])
def test_a_day_has_what_happened(connection: sa.Connection, metric: str, at: datetime) -> None:
    office = Office(connection)
    HAPPENS[metric](connection, office, at)
    board = None if metric.startswith("bundles") else office.board
    assert counted(connection)[board, metric] == 1


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("at", [START - MICROSECOND, END], ids=["a microsecond before it", "at its end"])
def test_a_day_has_not_what_happened(connection: sa.Connection, metric: str, at: datetime) -> None:
    HAPPENS[metric](connection, Office(connection), at)
    assert counted(connection) == {}


def test_an_empty_day_has_no_counts(connection: sa.Connection) -> None:
    Office(connection)
    frame = storage.read_counted(connection, START, END)
    assert frame.is_empty()


# Whose and what


def test_each_account_and_board_has_its_own_counts(connection: sa.Connection) -> None:
    ours, theirs = Office(connection), Office(connection)
    other = make.board(connection, ours.account)
    for board, times in ((ours.board, 1), (other, 2)):
        for _ in range(times):
            ours.created(connection, NOON, board)
            ours.happened(connection, "card_closed", NOON, board=board)
    theirs.commented(connection, NOON)
    assert counted(connection) == {
        (ours.board, "cards_created"): 1,
        (ours.board, "cards_closed"): 1,
        (ours.board, "active_people"): 1,
        (other, "cards_created"): 2,
        (other, "cards_closed"): 2,
        (other, "active_people"): 1,
        (None, "active_people"): 1,
        (theirs.board, "comments"): 1,
    }
    frame = storage.read_counted(connection, START, END)
    of_account = {row["board_id"]: row["account_id"] for row in frame.iter_rows(named=True)}
    assert of_account == {
        ours.board: ours.account,
        other: ours.account,
        None: ours.account,
        theirs.board: theirs.account,
    }


def test_a_person_on_two_boards_is_active_on_both_and_once_in_the_account(connection: sa.Connection) -> None:
    office = Office(connection)
    other = make.board(connection, office.account)
    for board in (office.board, office.board, other):
        office.happened(connection, "card_moved", NOON, board=board)
    office.happened(connection, "card_moved", NOON, office.member)
    assert counted(connection) == {
        (office.board, "active_people"): 2,
        (other, "active_people"): 1,
        (None, "active_people"): 2,
    }


def test_the_system_user_is_never_active(connection: sa.Connection) -> None:
    office = Office(connection)
    office.happened(connection, "card_closed", NOON, office.system)
    assert counted(connection) == {(office.board, "cards_closed"): 1}


def test_nobody_is_active_by_what_was_postponed_in_their_name(connection: sa.Connection) -> None:
    office = Office(connection)
    office.happened(connection, "card_auto_postponed", NOON, office.owner)
    assert counted(connection) == {(office.board, "cards_auto_postponed"): 1}


def test_somebody_who_is_not_active_any_more_was_active_then(connection: sa.Connection) -> None:
    office = Office(connection)
    office.happened(connection, "card_moved", NOON, office.member)
    connection.execute(sa.update(tables.users).where(tables.users.c.id == office.member).values(active=False))
    assert counted(connection) == {(office.board, "active_people"): 1, (None, "active_people"): 1}


def test_a_cancelled_account_is_counted(connection: sa.Connection) -> None:
    office = Office(connection, cancelled_at=START)
    office.commented(connection, NOON)
    assert counted(connection) == {(office.board, "comments"): 1}


def test_drafts_are_created_too(connection: sa.Connection) -> None:
    office = Office(connection)
    make.card(connection, office.board, status="drafted", created_at=NOON)
    assert counted(connection) == {(office.board, "cards_created"): 1}


def test_cards_and_comments_count_on_the_board_where_they_are_and_events_where_they_happened(
    connection: sa.Connection,
) -> None:
    office = Office(connection)
    card = office.created(connection, NOON)
    office.commented(connection, NOON, card)
    office.happened(connection, "card_closed", NOON, office.system)
    other = make.board(connection, office.account)
    connection.execute(sa.update(tables.cards).where(tables.cards.c.id == card).values(board_id=other))
    assert counted(connection) == {
        (other, "cards_created"): 1,
        (other, "comments"): 1,
        (office.board, "cards_closed"): 1,
    }


@pytest.mark.parametrize("outcome", ["nothing_unread", "user_inactive", "never", "suppressed", "no_address"])
def test_a_window_that_ended_without_a_mail_is_none(connection: sa.Connection, outcome: str) -> None:
    Office(connection).mailed(connection, NOON, outcome)
    assert counted(connection) == {}


def test_deliveries_count_on_the_board_of_their_webhook_not_on_that_of_their_event(connection: sa.Connection) -> None:
    office = Office(connection)
    other = make.board(connection, office.account)
    office.delivered(connection, NOON, make.webhook(connection, office.account, board_id=other))
    office.gave_up(connection, NOON, webhook=make.webhook(connection, office.account, board_id=other))
    assert counted(connection) == {(other, "deliveries_completed"): 1, (other, "deliveries_errored"): 1}


def test_deliveries_of_a_webhook_of_all_boards_are_of_no_board(connection: sa.Connection) -> None:
    office = Office(connection)
    webhook = make.webhook(connection, office.account)
    office.delivered(connection, NOON, webhook)
    office.gave_up(connection, NOON, webhook=webhook)
    assert counted(connection) == {(None, "deliveries_completed"): 1, (None, "deliveries_errored"): 1}


@pytest.mark.parametrize(("last", "times"), [(END - MICROSECOND, 1), (END, 0)])
def test_a_delivery_was_given_up_with_its_last_attempt(connection: sa.Connection, last: datetime, times: int) -> None:
    office = Office(connection)
    office.gave_up(connection, NOON, last)
    assert counted(connection).get((office.board, "deliveries_errored"), 0) == times


@pytest.mark.parametrize(("due", "times"), [(START - MICROSECOND, 0), (START, 1), (END - MICROSECOND, 1), (END, 0)])
def test_a_delivery_that_was_given_up_without_an_attempt_counts_when_that_was_due(
    connection: sa.Connection, due: datetime, times: int
) -> None:
    office = Office(connection)
    make.delivery(connection, office.webhook, state="errored", next_attempt_at=due)
    assert counted(connection).get((office.board, "deliveries_errored"), 0) == times


@pytest.mark.parametrize("state", ["pending", "in_progress"])
def test_a_delivery_that_is_still_to_be_tried_again_is_none(connection: sa.Connection, state: str) -> None:
    office = Office(connection)
    claim: dict[str, Any] = {}
    if state == "in_progress":
        claim = {"claim": sa.func.gen_random_uuid(), "claimed_until": END}
    delivery = make.delivery(connection, office.webhook, state=state, **claim)
    make.attempt(connection, delivery, "timeout", started_at=NOON)
    assert counted(connection) == {}


# When a mail was given up


def failed_at(connection: sa.Connection, bundle: int) -> datetime | None:
    bundles = tables.notification_bundles.c
    at: datetime | None = connection.execute(sa.select(bundles.failed_at).where(bundles.id == bundle)).scalar_one()
    return at


def change(connection: sa.Connection, bundle: int, **values: object) -> None:
    bundles = tables.notification_bundles
    connection.execute(sa.update(bundles).where(bundles.c.id == bundle).values(values))


GIVEN_UP = {"status": "failed", "outcome": "exhausted", "last_error": "451 later"}


def test_a_bundle_that_is_given_up_says_when_whoever_gives_it_up(connection: sa.Connection) -> None:
    bundle = Office(connection).mailed(connection, NOON)
    change(connection, bundle, status="pending", outcome=None, delivered_at=None)
    assert failed_at(connection, bundle) is None
    (before,) = connection.execute(sa.select(sa.func.clock_timestamp())).one()

    change(connection, bundle, **GIVEN_UP)

    (after,) = connection.execute(sa.select(sa.func.clock_timestamp())).one()
    at = failed_at(connection, bundle)
    assert at is not None
    assert before <= at <= after


def test_a_bundle_that_is_tried_again_has_not_failed_any_more_and_may_fail_anew(connection: sa.Connection) -> None:
    bundle = Office(connection).mail_failed(connection, NOON)
    assert failed_at(connection, bundle) == NOON

    change(connection, bundle, status="pending", outcome=None)
    assert failed_at(connection, bundle) is None

    change(connection, bundle, **GIVEN_UP)
    assert (failed_at(connection, bundle) or NOON) > NOON


def test_a_bundle_that_stays_failed_keeps_its_time(connection: sa.Connection) -> None:
    bundle = Office(connection).mail_failed(connection, NOON)
    change(connection, bundle, status="failed", last_error="another reason")
    assert failed_at(connection, bundle) == NOON


def test_a_bundle_that_was_given_up_before_that_was_recorded_failed_when_its_last_attempt_was_due(
    engine: sa.Engine, database: str
) -> None:
    names = [path.stem for path in sorted(schema.directory().glob("*.sql")) if not path.stem.endswith(".rollback")]
    with engine.begin() as connection:
        bundle = Office(connection).mail_failed(connection, NOON)
        change(connection, bundle, next_attempt_at=START)
    engine.dispose()
    with psycopg.connect(database) as session:
        migrate.roll_back(session, len(names) - names.index("0007_reports"))
        migrate.migrate(session)
    with engine.connect() as connection:
        assert failed_at(connection, bundle) == START


# The rows


def frame_of(*reports: Row) -> pl.DataFrame:
    return pl.DataFrame(reports, schema=REPORTS)


def test_a_day_has_the_rows_it_was_given_and_no_others_and_the_days_around_it_keep_theirs(
    connection: sa.Connection,
) -> None:
    office = Office(connection)
    first = [row(office.account, None, bundles_mailed=1), row(office.account, office.board, comments=2)]
    for day in (TODAY - DAY, TODAY, TODAY + DAY):
        storage.replace(connection, day, frame_of(*first))
    second = [row(office.account, office.board, **{name: place for place, name in enumerate(METRICS[:6], 7)})]

    storage.replace(connection, TODAY, frame_of(*second))

    assert rows(connection) == second
    assert rows(connection, TODAY - DAY) == rows(connection, TODAY + DAY) == first
    assert storage.read_reports(connection, TODAY).equals(frame_of(*second))
    assert storage.read_reports(connection, TODAY + DAY).equals(frame_of(*first))


def test_a_day_may_lose_all_its_rows(connection: sa.Connection) -> None:
    office = Office(connection)
    storage.replace(connection, TODAY, frame_of(row(office.account, office.board, comments=1)))
    storage.replace(connection, TODAY, frame_of())
    assert rows(connection) == []


# A row that cannot be written


def test_a_board_that_is_deleted_meanwhile_is_counted_no_more_and_fails_nobody(
    engine: sa.Engine, other_engine: sa.Engine
) -> None:
    with engine.begin() as connection:
        office = Office(connection)
        doomed = make.board(connection, office.account)
    attempts: list[list[int]] = []

    def work() -> None:
        boards = list(connection.execute(sa.select(tables.boards.c.id).order_by(tables.boards.c.id)).scalars())
        attempts.append(boards)
        reports = [row(office.account, board, comments=1) for board in boards]
        waiting.set()
        storage.replace(connection, TODAY, frame_of(*reports))

    waiting = threading.Event()
    with other_engine.connect() as somebody, engine.connect() as connection:
        somebody.execute(sa.delete(tables.boards).where(tables.boards.c.id == doomed))
        thread = threading.Thread(target=storage.in_one_transaction, args=(connection, work))
        thread.start()
        waiting.wait(60)
        until(lambda: waits_for_a_lock(other_engine))
        somebody.commit()
        thread.join(60)

        assert attempts == [[office.board, doomed], [office.board]]
        assert rows(connection) == [row(office.account, office.board, comments=1)]


def waits_for_a_lock(engine: sa.Engine) -> bool:
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with engine.connect() as connection:
        return bool(connection.execute(sa.text(query)).scalar_one())


def test_what_is_refused_again_and_again_is_a_failure(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        attempts = []

        def work() -> None:
            attempts.append(1)
            storage.replace(connection, TODAY, frame_of(row(4711, None, comments=1)))

        with pytest.raises((DBAPIError, psycopg.errors.ForeignKeyViolation)):
            storage.in_one_transaction(connection, work)
    assert len(attempts) == 3


def test_anything_else_that_is_refused_is_not_tried_again(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        attempts = []

        def work() -> None:
            attempts.append(1)
            connection.execute(sa.text("SELECT 1 / 0"))

        with pytest.raises(DBAPIError, match="division by zero"):
            storage.in_one_transaction(connection, work)
    assert len(attempts) == 1


# What people ask


@pytest.fixture
def written(connection: sa.Connection) -> tuple[Office, Office]:
    """Two accounts with rows on three days, of which the second day has none."""
    ours, theirs = Office(connection, name="Ours"), Office(connection, name="Theirs")
    first = [
        row(ours.account, None, active_people=1, bundles_mailed=3),
        row(ours.account, ours.board, active_people=1, comments=2),
        row(theirs.account, None, active_people=2),
        row(theirs.account, theirs.board, active_people=2, comments=5),
    ]
    storage.replace(connection, TODAY, frame_of(*first))
    storage.replace(connection, TODAY + 2 * DAY, frame_of(row(theirs.account, None, deliveries_errored=4)))
    return ours, theirs


def test_rows_are_read_with_names_day_by_day_the_account_s_own_first(
    connection: sa.Connection, written: tuple[Office, Office]
) -> None:
    ours, theirs = written

    read = list(storage.read_rows(connection, TODAY, TODAY + 2 * DAY))

    assert [(each["day"], each["account"], each["board"], each["board_id"], each["comments"]) for each in read] == [
        (TODAY, "Ours", None, None, 0),
        (TODAY, "Ours", "Roadmap", ours.board, 2),
        (TODAY, "Theirs", None, None, 0),
        (TODAY, "Theirs", "Roadmap", theirs.board, 5),
        (TODAY + 2 * DAY, "Theirs", None, None, 0),
    ]
    assert list(read[0]) == ["day", "account_id", "account", "board_id", "board", *METRICS]


@pytest.mark.parametrize(
    ("first", "last", "count"),
    [
        (TODAY, TODAY, 4),
        (TODAY + DAY, TODAY + DAY, 0),
        (TODAY + DAY, TODAY + 2 * DAY, 1),
        (TODAY - DAY, TODAY - DAY, 0),
        (date.min, date.max, 5),
    ],
)
@pytest.mark.usefixtures("written")
def test_a_range_of_rows_has_both_its_ends(connection: sa.Connection, first: date, last: date, count: int) -> None:
    assert len(list(storage.read_rows(connection, first, last))) == count


def test_rows_and_days_of_one_account_are_its_own(connection: sa.Connection, written: tuple[Office, Office]) -> None:
    ours, _ = written
    span = (TODAY, TODAY + 2 * DAY)
    assert {each["account"] for each in storage.read_rows(connection, *span, account_id=ours.account)} == {"Ours"}
    (day,) = storage.read_days(connection, *span, account_id=ours.account)
    assert (day["accounts"], day["comments"], day["active_people"]) == (1, 2, 1)


@pytest.mark.usefixtures("written")
def test_a_day_is_the_sum_over_its_rows_with_every_person_once(connection: sa.Connection) -> None:
    nought = dict.fromkeys(METRICS, 0)
    assert storage.read_days(connection, TODAY, TODAY + 2 * DAY) == [
        nought | {"day": TODAY, "accounts": 2, "boards": 2, "comments": 7, "active_people": 3, "bundles_mailed": 3},
        nought | {"day": TODAY + 2 * DAY, "accounts": 1, "boards": 0, "deliveries_errored": 4},
    ]


def test_names_are_read_of_these_boards_only(connection: sa.Connection) -> None:
    ours, theirs = Office(connection, name="Ours"), Office(connection)
    named = storage.read_names(connection, pl.Series([ours.board], dtype=pl.Int64()))
    assert named.rows() == [(ours.board, "Roadmap", "Ours")]
    assert theirs.board not in named["board_id"]
