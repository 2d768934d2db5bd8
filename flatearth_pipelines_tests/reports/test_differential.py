"""Days as they are counted against a reading of the rule row by row, on workspaces that hypothesis draws."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flatearth_pipelines import tables
from flatearth_pipelines.reports.metrics import METRICS
from flatearth_pipelines.reports.reporting import report_within
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.factories import DAY, MICROSECOND
from flatearth_pipelines_tests.reports.office import END, NOON, START, TODAY, Office, Row, row, rows

INSTANTS = st.sampled_from(
    [
        START - DAY - MICROSECOND,
        START - DAY,
        START - MICROSECOND,
        START,
        START + MICROSECOND,
        NOON,
        END - MICROSECOND,
        END,
        END + DAY - MICROSECOND,
        END + DAY,
    ]
)
"""Around both ends of three days."""

ACTIONS = st.sampled_from(
    ["card_closed", "card_postponed", "card_auto_postponed", "card_moved", "comment_created", "card_reopened"]
)

OUTCOMES = st.sampled_from(["mailed", "mailed", "nothing_unread", "never"])


@dataclass(frozen=True)
class Drawn:
    """What happens in one account with two boards; a number says which board, person or webhook it is about."""

    cards: list[tuple[int, datetime]]
    comments: list[tuple[int, datetime]]
    events: list[tuple[int, int, str, datetime]]
    mails: list[tuple[str, datetime]]
    failed_mails: list[datetime]
    completed: list[tuple[int, datetime]]
    errored: list[tuple[int, list[datetime], datetime]]


def some(of: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(of, max_size=5)


WORKSPACES = st.builds(
    Drawn,
    cards=some(st.tuples(st.integers(0, 1), INSTANTS)),
    comments=some(st.tuples(st.integers(0, 1), INSTANTS)),
    events=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 2), ACTIONS, INSTANTS), max_size=12),
    mails=some(st.tuples(OUTCOMES, INSTANTS)),
    failed_mails=some(INSTANTS),
    completed=some(st.tuples(st.integers(0, 2), INSTANTS)),
    errored=some(st.tuples(st.integers(0, 2), st.lists(INSTANTS, max_size=2), INSTANTS)),
)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=st.lists(WORKSPACES, min_size=1, max_size=2), deleted=st.integers(0, 3), kept=st.integers(0, 3))
def test_three_days_equal_a_row_by_row_reading_of_the_rule_also_when_they_are_counted_again(
    connection: sa.Connection, drawn: list[Drawn], deleted: int, kept: int
) -> None:
    with connection.begin_nested() as nothing_stays:
        for workspace in drawn:
            load(connection, workspace)
        days = [TODAY - DAY, TODAY, TODAY + DAY]
        expected = {day: row_by_row(connection, START + (day - TODAY)) for day in days}

        assert {day: counted(connection, day) for day in days} == expected
        assert {day: counted(connection, day) for day in days} == expected, "again"

        delete_some(connection, tables.comments, deleted)
        delete_some(connection, tables.webhook_deliveries, kept)
        for day in days:
            left = row_by_row(connection, START + (day - TODAY), expected[day])
            assert counted(connection, day) == left, "what was deleted meanwhile, but for the deliveries"
        nothing_stays.rollback()


def counted(connection: sa.Connection, day: Any) -> list[Row]:
    report_within(connection, day)
    return rows(connection, day)


Counts = Counter[tuple[int, int | None, str]]
"""By account, board and metric."""


def row_by_row(connection: sa.Connection, start: datetime, before: list[Row] | None = None) -> list[Row]:
    """The rows of the day that begins then, which had those rows before."""
    counts = of_cards(connection, start) + of_events(connection, start) + of_mails_and_deliveries(connection, start)
    for former in before or []:
        for metric in ("deliveries_completed", "deliveries_errored"):
            key = (former["account_id"], former["board_id"], metric)
            counts[key] = max(counts[key], former[metric])
    reports = {key[:2]: row(*key[:2]) for key, times in counts.items() if times}
    for (account, board, metric), times in counts.items():
        if times:
            reports[account, board][metric] = times
    return [reports[key] for key in sorted(reports, key=lambda key: (key[0], key[1] or 0))]


def is_of_the_day(start: datetime, at: datetime | None) -> bool:
    return at is not None and start <= at < start + timedelta(hours=24)


def of_cards(connection: sa.Connection, start: datetime) -> Counts:
    cards = {each["id"]: each for each in read(connection, tables.cards)}
    counts: Counts = Counter()
    for card in cards.values():
        counts[card["account_id"], card["board_id"], "cards_created"] += is_of_the_day(start, card["created_at"])
    for comment in read(connection, tables.comments):
        card = cards[comment["card_id"]]
        counts[card["account_id"], card["board_id"], "comments"] += is_of_the_day(start, comment["created_at"])
    return counts


def of_events(connection: sa.Connection, start: datetime) -> Counts:
    system = {each["id"] for each in read(connection, tables.users) if each["role"] == "system"}
    counts: Counts = Counter()
    people: set[tuple[int, int | None, int]] = set()
    for event in read(connection, tables.events):
        if not is_of_the_day(start, event["created_at"]):
            continue
        account, board, action = event["account_id"], event["board_id"], event["action"]
        if action in {"card_closed", "card_postponed", "card_auto_postponed"}:
            counts[account, board, action.replace("card_", "cards_")] += 1
        if action != "card_auto_postponed" and event["creator_id"] not in system:
            people |= {(account, board, event["creator_id"]), (account, None, event["creator_id"])}
    counts.update((account, board, "active_people") for account, board, _ in people)
    return counts


def of_mails_and_deliveries(connection: sa.Connection, start: datetime) -> Counts:
    webhooks = {each["id"]: (each["account_id"], each["board_id"]) for each in read(connection, tables.webhooks)}
    attempts = {each["delivery_id"]: each["started_at"] for each in read(connection, tables.webhook_attempts)}
    counts: Counts = Counter()
    for bundle in read(connection, tables.notification_bundles):
        mailed = bundle["outcome"] == "mailed" and is_of_the_day(start, bundle["delivered_at"])
        counts[bundle["account_id"], None, "bundles_mailed"] += mailed
        counts[bundle["account_id"], None, "bundles_failed"] += is_of_the_day(start, bundle["failed_at"])
    for delivery in read(connection, tables.webhook_deliveries):
        account, board = webhooks[delivery["webhook_id"]]
        counts[account, board, "deliveries_completed"] += is_of_the_day(start, delivery["completed_at"])
        last = attempts.get(delivery["id"], delivery["next_attempt_at"])
        gave_up = delivery["state"] == "errored" and is_of_the_day(start, last)
        counts[account, board, "deliveries_errored"] += gave_up
    return counts


def read(connection: sa.Connection, table: sa.Table) -> list[Row]:
    """In order of id."""
    return [dict(each) for each in connection.execute(sa.select(table).order_by(table.c.id)).mappings()]


def delete_some(connection: sa.Connection, table: sa.Table, count: int) -> None:
    first = sa.select(table.c.id).order_by(table.c.id).limit(count)
    connection.execute(sa.delete(table).where(table.c.id.in_(first)))


def load(connection: sa.Connection, drawn: Drawn) -> None:
    office = Office(connection)
    boards = [office.board, make.board(connection, office.account)]
    cards = [office.card, make.card(connection, boards[1], created_at=START - 365 * DAY)]
    people = [office.owner, office.member, office.system]
    webhooks = [
        office.webhook,
        make.webhook(connection, office.account, board_id=boards[1]),
        make.webhook(connection, office.account),
    ]
    for place, at in drawn.cards:
        office.created(connection, at, boards[place])
    for place, at in drawn.comments:
        office.commented(connection, at, cards[place])
    for place, who, action, at in drawn.events:
        office.happened(connection, action, at, people[who], boards[place])
    for outcome, at in drawn.mails:
        office.mailed(connection, at, outcome)
    for at in drawn.failed_mails:
        office.mail_failed(connection, at)
    for place, at in drawn.completed:
        office.delivered(connection, at, webhooks[place])
    for place, tried, due in drawn.errored:
        delivery = office.gave_up(connection, *tried, webhook=webhooks[place])
        deliveries = tables.webhook_deliveries
        connection.execute(sa.update(deliveries).where(deliveries.c.id == delivery).values(next_attempt_at=due))


def test_the_row_by_row_reading_knows_every_metric(connection: sa.Connection) -> None:
    """What the property rests on: a metric that it left out would be compared with nothing."""
    office = Office(connection)
    office.created(connection, NOON)
    office.commented(connection, NOON)
    for action in ("card_closed", "card_postponed", "card_auto_postponed"):
        office.happened(connection, action, NOON)
    office.mailed(connection, NOON)
    office.mail_failed(connection, NOON)
    office.delivered(connection, NOON)
    office.gave_up(connection, NOON)
    mails = {"bundles_mailed": 1, "bundles_failed": 1}
    on_the_board = dict.fromkeys(METRICS, 1) | dict.fromkeys(mails, 0)
    assert row_by_row(connection, START) == [
        row(office.account, None, active_people=1, **mails),
        row(office.account, office.board, **on_the_board),
    ]
