"""The email about a bundle, whole: what stands in it, its headers, its link to unsubscribe."""

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from flatearth_pipelines.message import Message, compose, domain
from flatearth_pipelines.notifications.digest import Bundle, Digest, digest
from flatearth_pipelines.notifications.render import Rendered, rendered
from flatearth_pipelines.notifications.unsubscribe import unsubscribe_url
from flatearth_pipelines.secret_key import secret_key
from flatearth_pipelines.settings import Settings

_NAMESPACE = uuid.UUID("5f0c2f0e-6f6c-5f2b-9d7e-3a7b8e1c4d10")
"""Ours, and for ever: message ids are derived from it."""


@dataclass(frozen=True)
class Letterhead:
    """What all mails of an installation have in common."""

    sender: str
    public_url: str
    key: str

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """As the environment says.

        Raises:
            WrongSetting: there is no secret to sign links with.
        """
        return cls(settings.mail_from, settings.public_url, secret_key(settings))


def letter(bundle: Bundle, head: Letterhead, as_of: datetime | None = None) -> Message:
    """The email about the bundle, which has items, as of when it was read unless told otherwise.

    Raises:
        WrongMessage: the person's address is none.
    """
    shown, page = contents(bundle, head, as_of)
    address = bundle.email or ""
    headers = {
        "List-Id": f"<account-{bundle.account_id}.notifications.{domain(head.sender)}>",
        **unsubscribe_headers(shown.unsubscribe_url),
        **AUTOMATIC,
        "X-FlatEarth-Reason": ", ".join(shown.reasons),
    }
    return compose(
        head.sender,
        address,
        shown.subject,
        page.text,
        html=page.html,
        message_id=message_id("bundle", bundle.id, head.sender),
        headers=headers,
    )


def contents(bundle: Bundle, head: Letterhead, as_of: datetime | None = None) -> tuple[Digest, Rendered]:
    """What the email says, and its HTML and text to the last byte."""
    url = unsubscribe_url(head.public_url, head.key, bundle.user_id, as_of or bundle.read_at)
    shown = digest(bundle, head.public_url, url)
    return shown, rendered("digest", vars(shown))


AUTOMATIC = {"Auto-Submitted": "auto-generated", "X-Auto-Response-Suppress": "All"}
"""Headers that keep holiday answers away (RFC 3834)."""


def unsubscribe_headers(url: str) -> dict[str, str]:
    """The headers of one click (RFC 8058). What signs the mail has to cover them: the mail server's business."""
    return {"List-Unsubscribe": f"<{url}>", "List-Unsubscribe-Post": "List-Unsubscribe=One-Click"}


def message_id(kind: str, number: int, sender: str) -> str:
    """The same for every attempt, so that what is sent twice can be recognised: `<bundle.UUID@domain>`."""
    return f"<{kind}.{uuid.uuid5(_NAMESPACE, f'{kind} {number}')}@{domain(sender)}>"
