"""What ours is measured against: the statements that a person would write, and the loop of the specification."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import LiteralString

import psycopg
from psycopg.rows import dict_row

from flatearth_pipelines import database

_RULES = """
WITH actors AS (
    SELECT DISTINCT ON (account_id) account_id, id AS actor_id
    FROM flatearth.users
    WHERE role = 'system' OR (role = 'owner' AND active)
    ORDER BY account_id, role = 'system' DESC, id
),
rules AS (
    SELECT
        b.id AS board_id,
        actors.actor_id,
        %(as_of)s - interval '1 millisecond'
        * coalesce(of_board.auto_postpone_period_ms, of_account.auto_postpone_period_ms, 2592000000) AS cutoff
    FROM flatearth.boards AS b
    JOIN flatearth.accounts AS a ON a.id = b.account_id AND a.cancelled_at IS NULL
    LEFT JOIN flatearth.entropies AS of_board
        ON of_board.container_type = 'board' AND of_board.container_id = b.id
    LEFT JOIN flatearth.entropies AS of_account
        ON of_account.container_type = 'account' AND of_account.container_id = b.account_id
    LEFT JOIN actors ON actors.account_id = b.account_id
)
"""

_RECORDED = """
recorded AS (
    INSERT INTO flatearth.events (account_id, board_id, creator_id, action, eventable_type, eventable_id, created_at)
    SELECT account_id, board_id, actor_id, 'card_auto_postponed', 'card', id, %(as_of)s
    FROM postponed
    WHERE actor_id IS NOT NULL
    RETURNING 1
)
SELECT (SELECT count(*) FROM postponed), (SELECT count(*) FROM recorded)
"""

_SINGLE_STATEMENT = f"""
{_RULES},
postponed AS (
    UPDATE flatearth.cards AS c
    SET postponed_at = %(as_of)s, column_id = NULL, activity_spike_at = NULL, last_active_at = %(as_of)s
    FROM rules
    WHERE c.board_id = rules.board_id
    AND c.status = 'published' AND c.closed_at IS NULL AND c.postponed_at IS NULL
    AND c.last_active_at < rules.cutoff
    RETURNING c.id, c.account_id, c.board_id, rules.actor_id
),
{_RECORDED}
"""

_FIND_DUE = f"""
CREATE TEMPORARY TABLE due ON COMMIT DROP AS
{_RULES}
SELECT c.id, c.last_active_at, rules.board_id, rules.actor_id
FROM rules
CROSS JOIN LATERAL (
    SELECT cards.id, cards.last_active_at
    FROM flatearth.cards
    WHERE cards.board_id = rules.board_id
    AND cards.status = 'published' AND cards.closed_at IS NULL AND cards.postponed_at IS NULL
    AND cards.last_active_at < rules.cutoff
    OFFSET 0
) AS c
"""

_POSTPONE_FOUND = f"""
WITH postponed AS (
    UPDATE flatearth.cards AS c
    SET postponed_at = %(as_of)s, column_id = NULL, activity_spike_at = NULL, last_active_at = %(as_of)s
    FROM due
    WHERE c.id = due.id AND c.board_id = due.board_id AND c.last_active_at = due.last_active_at
    AND c.status = 'published' AND c.closed_at IS NULL AND c.postponed_at IS NULL
    RETURNING c.id, c.account_id, c.board_id, due.actor_id
),
{_RECORDED}
"""

_DEFAULT_PERIOD_MS = 30 * 86_400_000

_PERIODS = """
SELECT b.id, coalesce(of_board.auto_postpone_period_ms, of_account.auto_postpone_period_ms)
FROM flatearth.boards AS b
LEFT JOIN flatearth.entropies AS of_board ON of_board.container_type = 'board' AND of_board.container_id = b.id
LEFT JOIN flatearth.entropies AS of_account
    ON of_account.container_type = 'account' AND of_account.container_id = b.account_id
WHERE b.account_id = %s
"""

_POSTPONE_ONE = """
UPDATE flatearth.cards
SET postponed_at = %(as_of)s, column_id = NULL, activity_spike_at = NULL, last_active_at = %(as_of)s
WHERE id = %(id)s
"""

_ACTOR = """
SELECT id FROM flatearth.users
WHERE account_id = %(account_id)s AND (role = 'system' OR (role = 'owner' AND active))
ORDER BY role = 'system' DESC, id LIMIT 1
"""

_RECORD_ONE = """
INSERT INTO flatearth.events (account_id, board_id, creator_id, action, eventable_type, eventable_id, created_at)
VALUES (%(account_id)s, %(board_id)s, %(actor_id)s, 'card_auto_postponed', 'card', %(id)s, %(as_of)s)
"""


@dataclass(frozen=True)
class LoopTimes:
    """What the loop took for some accounts, apart by what each part grows with."""

    scanning: float
    cards: int
    writing: float
    due: int

    def extrapolated(self, cards: int, due: int) -> float:
        """Seconds for a workspace of so many cards, of which so many are due."""
        return self.scanning * cards / self.cards + self.writing * due / max(self.due, 1)


def single_statement(conninfo: str, as_of: datetime) -> float:
    """Seconds for one statement that finds, postpones and records."""
    return _seconds(conninfo, lambda connection: _run(connection, as_of, _SINGLE_STATEMENT))


def best_statements(conninfo: str, as_of: datetime) -> float:
    """Seconds for one transaction that probes into a temporary table first, so that the planner knows how few."""
    return _seconds(conninfo, lambda connection: _run(connection, as_of, _FIND_DUE, "ANALYZE due", _POSTPONE_FOUND))


def specified_loop(conninfo: str, as_of: datetime, accounts: int) -> LoopTimes:
    """The specification's own words for the accounts up to that id: load every card, postpone and record one by one."""
    scanning = writing = 0.0
    cards = due = 0
    connection = database.connect(conninfo, "flatearth benchmark")
    with connection:
        connection.autocommit = True
        for account_id in range(1, accounts + 1):
            began = time.monotonic()
            loaded, stale = _scan(connection, as_of, account_id)
            scanned = time.monotonic()
            for card in stale:
                _postpone_one(connection, as_of, card)
            writing += time.monotonic() - scanned
            scanning += scanned - began
            cards += loaded
            due += len(stale)
    return LoopTimes(scanning, cards, writing, due)


def _seconds(conninfo: str, work: Callable[[psycopg.Connection], None]) -> float:
    """From before the connection to after the commit."""
    began = time.monotonic()
    with database.connect(conninfo, "flatearth benchmark") as connection:
        work(connection)
    return time.monotonic() - began


def _run(connection: psycopg.Connection, as_of: datetime, *statements: LiteralString) -> None:
    for statement in statements:
        connection.execute(statement, {"as_of": as_of})


def _scan(connection: psycopg.Connection, as_of: datetime, account_id: int) -> tuple[int, list[dict[str, object]]]:
    """How many cards the account has, and those that are stale."""
    periods: dict[int, int | None] = dict(connection.execute(_PERIODS, [account_id]).fetchall())
    with connection.cursor(row_factory=dict_row) as cursor:
        cards = cursor.execute("SELECT * FROM flatearth.cards WHERE account_id = %s", [account_id]).fetchall()
    return len(cards), [
        card
        for card in cards
        if card["status"] == "published"
        and card["closed_at"] is None
        and card["postponed_at"] is None
        and as_of - card["last_active_at"] > timedelta(milliseconds=periods[card["board_id"]] or _DEFAULT_PERIOD_MS)
    ]


def _postpone_one(connection: psycopg.Connection, as_of: datetime, card: dict[str, object]) -> None:
    """Three statements, each its own transaction."""
    connection.execute(_POSTPONE_ONE, {**card, "as_of": as_of})
    actor = connection.execute(_ACTOR, card).fetchone()
    if actor:
        connection.execute(_RECORD_ONE, {**card, "actor_id": actor[0], "as_of": as_of})
