"""What is sent of a delivery, and where: read before its turn comes, and signed when it does."""

from datetime import datetime
from typing import NamedTuple

from flatearth_pipelines.webhooks.claim_storage import Claimed
from flatearth_pipelines.webhooks.endpoint_storage import Endpoint
from flatearth_pipelines.webhooks.outcome import Answer, Code
from flatearth_pipelines.webhooks.payload import CONTENT_TYPES
from flatearth_pipelines.webhooks.sealing import Unreadable, unseal
from flatearth_pipelines.webhooks.signing import signer
from flatearth_pipelines.webhooks.transport import Post


class Parcel(NamedTuple):
    """What is to be sent, and where."""

    delivery: Claimed
    endpoint: Endpoint
    body: bytes | None
    """None: the event is gone."""
    secrets: tuple[str, ...]
    """The current one, and the one before while it is valid. None at all: they cannot be read."""

    def signed(self, at: datetime) -> Post | Answer:
        """The request, signed at this moment; or why there can be none."""
        if self.body is None:
            return Answer(Code.EVENT_GONE, at, 0, detail="the event was deleted before anything was sent of it")
        if not self.secrets:
            said = "its secret was sealed with another FLATEARTH_SECRET_KEY: rotate it"
            return Answer(Code.NO_SECRET, at, 0, detail=said)
        sign = signer(self.endpoint.signature, self.secrets)
        headers = {"Content-Type": CONTENT_TYPES[self.endpoint.format]}
        headers |= sign.headers(message_id(self.delivery.id), at, self.body)
        return Post(self.endpoint.url, headers, self.body)


def secrets_of(endpoint: Endpoint, key: str) -> tuple[str, ...]:
    """The current one first; the one before is left out when it cannot be read. None when the current cannot."""
    readable = []
    for sealed in (endpoint.sealed_secret, endpoint.previous_sealed_secret):
        try:
            readable += [] if sealed is None else [unseal(key, sealed, f"webhook {endpoint.id}")]
        except Unreadable:
            return tuple(readable)
    return tuple(readable)


def message_id(delivery_id: int) -> str:
    """What stays the same over all attempts, so that a receiver knows what it has seen."""
    return f"msg_{delivery_id}"
