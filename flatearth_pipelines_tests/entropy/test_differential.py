"""The job against a reading of the rule card by card, on workspaces that hypothesis draws."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flatearth_pipelines import tables
from flatearth_pipelines.entropy.portions import Shard
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.entropy import observed
from flatearth_pipelines_tests.entropy.runs import run
from flatearth_pipelines_tests.factories import DAY, MICROSECOND, NOON

LONGEST_MS = 2**63 - 1


@dataclass(frozen=True)
class Workspace:
    """One account, drawn."""

    cancelled: bool
    period_ms: int | None
    people: list[tuple[str, bool]]
    boards: list[tuple[int | None, list[dict[str, Any]]]]


PERIODS_MS = st.none() | st.sampled_from([1, 1_500, 86_400_000, 5 * 86_400_000, 40 * 86_400_000, LONGEST_MS])

# Around every boundary there is: the periods above and the thirty days.
IDLES = st.builds(
    lambda boundary_ms, past_us: timedelta(milliseconds=boundary_ms) + past_us * MICROSECOND,
    st.sampled_from([0, 1, 1_500, 86_400_000, 5 * 86_400_000, 30 * 86_400_000, 40 * 86_400_000]),
    st.sampled_from([-1, 0, 1, 10_000_000]),
)

MAYBE_AN_INSTANT = st.sampled_from([None, None, None, NOON - 3 * DAY])

CARDS = st.fixed_dictionaries(
    {
        "idle": IDLES,
        "status": st.sampled_from(["published", "published", "published", "drafted"]),
        "closed_at": MAYBE_AN_INSTANT,
        "postponed_at": MAYBE_AN_INSTANT,
        "activity_spike_at": MAYBE_AN_INSTANT,
        "in_a_column": st.booleans(),
    }
)

WORKSPACES = st.builds(
    Workspace,
    cancelled=st.sampled_from([False, False, False, True]),
    period_ms=PERIODS_MS,
    people=st.builds(
        lambda systems, others, first: systems + others if first else others + systems,
        st.sampled_from([[], [("system", True)], [("system", False)]]),
        st.lists(st.tuples(st.sampled_from(["owner", "owner", "admin", "member"]), st.booleans()), max_size=3),
        st.booleans(),
    ),
    boards=st.lists(st.tuples(PERIODS_MS, st.lists(CARDS, max_size=6)), max_size=3),
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=st.lists(WORKSPACES, min_size=1, max_size=3), batch_size=st.integers(1, 5), shards=st.integers(1, 3))
def test_the_job_equals_a_row_by_row_reading_of_the_rule(
    engine: sa.Engine, drawn: list[Workspace], batch_size: int, shards: int
) -> None:
    with engine.begin() as connection:
        for table in (tables.events, tables.accounts):  # and, by cascade, all that belongs to an account
            connection.execute(sa.delete(table))
        for workspace in drawn:
            load(connection, workspace)
    before = observed.cards(engine)
    expected_cards, expected_events = row_by_row(engine, NOON)

    outcomes = [run(engine, shard=Shard(remainder, shards), batch_size=batch_size) for remainder in range(shards)]

    assert observed.cards(engine) == expected_cards
    assert observed.events(engine) == expected_events
    changed = sum(expected_cards[card_id] != card for card_id, card in before.items())
    assert sum(outcome.due for outcome in outcomes) == sum(outcome.postponed for outcome in outcomes) == changed
    assert sum(outcome.unattributed for outcome in outcomes) == changed - len(expected_events)


def row_by_row(engine: sa.Engine, as_of: datetime) -> tuple[dict[int, observed.Row], list[observed.Row]]:
    """The cards and the events afterwards."""
    cancelled = {row["id"] for row in observed.rows(engine, tables.accounts) if row["cancelled_at"]}
    chosen = {(row["container_type"], row["container_id"]): row for row in observed.rows(engine, tables.entropies)}
    cards, events = observed.cards(engine), []
    for card in observed.rows(engine, tables.cards):
        choice = chosen.get(("board", card["board_id"])) or chosen.get(("account", card["account_id"]))
        period_ms = choice["auto_postpone_period_ms"] if choice else 30 * 24 * 60 * 60 * 1000
        idle_us = (as_of - card["last_active_at"]) // MICROSECOND
        active = card["status"] == "published" and not card["closed_at"] and not card["postponed_at"]
        if active and card["account_id"] not in cancelled and idle_us > 1000 * period_ms:
            cards[card["id"]] = card | {"postponed_at": as_of, "last_active_at": as_of} | dict.fromkeys(CLEARED)
            events += [event_of(card, actor, as_of) for actor in actors(engine, card["account_id"])[:1]]
    return cards, events


CLEARED = ("column_id", "activity_spike_at")


def actors(engine: sa.Engine, account_id: int) -> list[int]:
    people = [user for user in observed.rows(engine, tables.users) if user["account_id"] == account_id]
    systems = [user["id"] for user in people if user["role"] == "system"]
    return systems + sorted(user["id"] for user in people if user["role"] == "owner" and user["active"])


def event_of(card: observed.Row, actor: int, as_of: datetime) -> observed.Row:
    where = {"account_id": card["account_id"], "board_id": card["board_id"]}
    what = {"action": "card_auto_postponed", "eventable_type": "card", "eventable_id": card["id"], "particulars": {}}
    return where | what | {"creator_id": actor, "created_at": as_of}


def load(connection: sa.Connection, workspace: Workspace) -> None:
    account_id = make.account(connection, cancelled_at=NOON if workspace.cancelled else None)
    if workspace.period_ms is not None:
        make.period_ms(connection, "account", account_id, workspace.period_ms)
    for role, active in workspace.people:
        make.user(connection, account_id, role, active=active)
    for period_ms, cards in workspace.boards:
        board_id = make.board(connection, account_id)
        if period_ms is not None:
            make.period_ms(connection, "board", board_id, period_ms)
        column_id = make.column(connection, board_id)
        for card in cards:
            values = {name: value for name, value in card.items() if name != "in_a_column"}
            make.card(connection, board_id, column_id=column_id if card["in_a_column"] else None, **values)
