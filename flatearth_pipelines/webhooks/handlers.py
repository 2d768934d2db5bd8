"""The queue handler that sends an application's own message to a webhook."""

from typing import Any

from pydantic import Field

from flatearth_pipelines import database
from flatearth_pipelines.errors import NotFound, WrongUsage
from flatearth_pipelines.queue.handlers import Context, Guarantee, Handler, Payload, Refused, Result
from flatearth_pipelines.webhooks import delivery_storage, storage
from flatearth_pipelines.webhooks.payload import direct_body


class SendWebhook(Payload):
    """What to send, and to which webhook."""

    webhook_id: int = Field(gt=0, lt=2**63)
    type: str = Field(pattern=r"^[a-z0-9_.]{1,100}$")
    """What a receiver tells messages apart by, such as `invoice.paid`."""
    data: dict[str, Any]


def send_webhook(context: Context, payload: SendWebhook) -> Result:
    """Send a message to a webhook, whatever actions it wants to hear of, as a delivery with all its attempts.

    The delivery is written exactly once; the job has done its part then, and `deliver_webhooks` sends it. Nothing is
    sent to a webhook that is not there, not of the job's account, or disabled, or whose account is cancelled.
    """
    connection, webhook_id = context.connection, payload.webhook_id
    try:
        target = storage.read_target(connection, webhook_id)
        body = direct_body(payload.type, payload.data, database.now(connection), target.format)
    except (NotFound, WrongUsage) as error:
        raise Refused(str(error)) from None
    if context.account_id not in {None, target.account_id}:
        raise Refused(f"There is no webhook {webhook_id} in account {context.account_id}")
    if not target.active:
        raise Refused(f"Webhook {webhook_id} is disabled")
    if target.cancelled:
        raise Refused(f"The account of webhook {webhook_id} is cancelled")
    return {"delivery_id": delivery_storage.insert_direct(connection, webhook_id, payload.type, body)}


SEND_WEBHOOK = Handler("send_webhook", SendWebhook, send_webhook, Guarantee.TRANSACTIONAL)
