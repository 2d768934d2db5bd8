"""The queue handler that postpones one card, at its time instead of at the next full hour."""

from datetime import datetime, timedelta

from pydantic import Field

from flatearth_pipelines import database
from flatearth_pipelines.entropy import storage
from flatearth_pipelines.entropy.staleness import actors, attributed, cutoffs, effective_periods, stale_cards
from flatearth_pipelines.queue.functions import enqueue_job
from flatearth_pipelines.queue.handlers import Context, Guarantee, Handler, Payload, Registry, Result

_LONGEST_WAIT = timedelta(days=366)
"""A card that is due later than that is left to the hourly run."""


class CheckCardEntropy(Payload):
    """Which card."""

    card_id: int = Field(gt=0, lt=2**63)


def check_card_entropy(context: Context, payload: CheckCardEntropy) -> Result:
    """Postpone a card if it is due; if it is not yet, look again when it will be.

    The look at its time is a job of its own, one per card, that replaces an earlier one. A card that is not active, or
    gone, is left alone.
    """
    connection = context.connection
    as_of = database.now(connection)
    card = storage.read_active_card(connection, payload.card_id)
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
        enqueue_job(
            connection,
            Registry([CHECK_CARD_ENTROPY]),
            CHECK_CARD_ENTROPY.name,
            payload.model_dump(),
            run_at=due_at,
            job_key=f"{CHECK_CARD_ENTROPY.name} {payload.card_id}",
            on_conflict="replace",
            account_id=context.account_id,
        )
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


CHECK_CARD_ENTROPY = Handler(
    "check_card_entropy", CheckCardEntropy, check_card_entropy, Guarantee.TRANSACTIONAL, timeout=timedelta(minutes=1)
)
