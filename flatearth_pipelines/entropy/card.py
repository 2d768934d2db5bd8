"""One card, looked at by itself: at its time, instead of at the next full hour."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from flatearth_pipelines import database
from flatearth_pipelines.entropy import storage
from flatearth_pipelines.entropy.staleness import actors, attributed, cutoffs, effective_periods, stale_cards

_LONGEST_WAIT = timedelta(days=366)
"""A card that is due later than that is left to the hourly run."""


def check_card(connection: sa.Connection, card_id: int, look_again: Callable[[datetime], None]) -> dict[str, Any]:
    """Postpone the card if it is due, in this transaction; if it is not yet, `look_again` at the instant when it is.

    What became of it. A card that is not active, or gone, is left alone.
    """
    as_of = database.now(connection)
    card = storage.read_active_card(connection, card_id)
    if card.is_empty():
        return {"postponed": False, "reason": "it is not active"}
    boards = storage.read_boards(connection, board_id=card["board_id"].item())
    chosen = storage.read_periods(connection, account_id=card["account_id"].item())
    periods = effective_periods(boards.lazy(), chosen.lazy()).collect()
    stale = stale_cards(card.lazy(), cutoffs(periods.lazy(), as_of)).collect()
    if stale.is_empty():
        due_at = _due_at(card["last_active_at"].item(), periods["period_ms"].item())
        if due_at is None or due_at - as_of > _LONGEST_WAIT:
            return {"postponed": False, "reason": "it is not due for a long time"}
        look_again(due_at)
        return {"postponed": False, "reason": "it is not due", "due_at": due_at.isoformat()}
    people = storage.read_people(connection, stale["account_id"])
    decided = attributed(stale.lazy(), actors(people.lazy())).collect()
    done = storage.postpone_within(connection, decided, as_of)
    if done.card_ids.is_empty():
        return {"postponed": False, "reason": "somebody is changing it"}
    return {"postponed": True, "event": bool(done.events)}


def _due_at(last_active_at: datetime, period_ms: int) -> datetime | None:
    """The first instant at which the card is stale: strictly after its period. None when no calendar reaches it."""
    try:
        return last_active_at + timedelta(milliseconds=period_ms) + timedelta(microseconds=1)
    except OverflowError:
        return None
