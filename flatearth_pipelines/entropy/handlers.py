"""The queue handler that postpones one card, at its time instead of at the next full hour."""

import threading
from datetime import datetime, timedelta

from pydantic import Field

from flatearth_pipelines.queue.functions import enqueue_job
from flatearth_pipelines.queue.handlers import Context, Guarantee, Handler, Payload, Registry, Result

_IMPORTING = threading.Lock()
"""Of several threads that import a package with circles at once, some may find it half done."""


class CheckCardEntropy(Payload):
    """Which card."""

    card_id: int = Field(gt=0, lt=2**63)


def check_card_entropy(context: Context, payload: CheckCardEntropy) -> Result:
    """Postpone a card if it is due; if it is not yet, look again when it will be.

    The look at its time is a job of its own, one per card, that replaces an earlier one. A card that is not active, or
    gone, is left alone.
    """
    with _IMPORTING:
        from flatearth_pipelines.entropy.card import check_card  # noqa: PLC0415 - a drain starts without Polars: 0.15 s

    def look_again(at: datetime) -> None:
        enqueue_job(
            context.connection,
            Registry([CHECK_CARD_ENTROPY]),
            CHECK_CARD_ENTROPY.name,
            payload.model_dump(),
            run_at=at,
            job_key=f"{CHECK_CARD_ENTROPY.name} {payload.card_id}",
            on_conflict="replace",
            account_id=context.account_id,
        )

    return check_card(context.connection, payload.card_id, look_again)


CHECK_CARD_ENTROPY = Handler(
    "check_card_entropy", CheckCardEntropy, check_card_entropy, Guarantee.TRANSACTIONAL, timeout=timedelta(minutes=1)
)
