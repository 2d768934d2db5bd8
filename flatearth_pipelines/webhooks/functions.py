"""What an application and an operator say of webhooks, in their own transaction."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import sqlalchemy as sa

from flatearth_pipelines.errors import WrongUsage
from flatearth_pipelines.message import one_line
from flatearth_pipelines.settings import Network
from flatearth_pipelines.webhooks import addresses, storage
from flatearth_pipelines.webhooks.payload import ACTIONS, FORMATS
from flatearth_pipelines.webhooks.sealing import Unreadable, seal, unseal
from flatearth_pipelines.webhooks.signing import SCHEMES, Key, new_key

LONGEST_NAME = 200
"""Characters."""

KEPT_FOR = timedelta(hours=24)
LONGEST_KEPT = timedelta(days=30)
"""How long a secret is valid after its rotation, and at most: long enough for whoever verifies to be told."""

_LONGEST_REASON = 300

_CONTROLS = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\u202a-\\u202e\\u2066-\\u2069\\ud800-\\udfff]")
"""What ends a line, steers a terminal or turns the text around it, and half a character."""


@dataclass(frozen=True)
class Created:
    """A new webhook. Nobody is told its secret again."""

    id: int
    secret: str = field(repr=False)
    """What its requests are signed by: of the scheme `standard` what the receiver verifies with, too."""
    public_key: str | None
    """What the receiver verifies with, of the other schemes."""


def create_webhook(
    connection: sa.Connection,
    key: str,
    *,
    account_id: int,
    board_id: int | None = None,
    name: str,
    url: str,
    actions: Sequence[str],
    format: str = "json",  # noqa: A002 - the column's name
    signature: str = "standard",
    allowed: Sequence[Network] = (),
) -> Created:
    """Have requests tell the URL of these actions on the board, or on every board of the account, from now on.

    `key` is `secret_key(settings)`, and seals the secret; `allowed` is `settings.webhook_allow_networks`.

    Raises:
        NotFound: there is no such account, or no such board in it.
        WrongUsage: the name is blank, too long or no line of text; the URL is one that nothing is sent to; there is no
            action, or an unknown one; the format or the signature is unknown.
    """
    values = {
        "account_id": account_id,
        "board_id": board_id,
        "name": _name(name),
        "url": _url(url, allowed),
        "actions": _actions(actions),
        "format": _one_of(FORMATS, "format", format),
        "signature": _one_of(SCHEMES, "signature", signature),
    }
    storage.check_place(connection, account_id, board_id)
    webhook_id = storage.next_id(connection)
    fresh = new_key(signature)
    sealed = seal(key, fresh.secret, _of(webhook_id))
    storage.add(connection, {"id": webhook_id, **values, "sealed_secret": sealed, "public_key": fresh.public})
    return Created(webhook_id, fresh.secret, fresh.public)


def rotate_secret(connection: sa.Connection, key: str, webhook_id: int, keep_for: timedelta = KEPT_FOR) -> Key:
    """A new secret, by which requests are signed from now on; for `keep_for` by the one before it too.

    The one before that is not valid any more. With a `keep_for` of nothing only the new one is, and so it is when the
    one before cannot be read with this key, as after a change of `FLATEARTH_SECRET_KEY`.

    Raises:
        NotFound: there is no such webhook.
        WrongUsage: `keep_for` is negative, or longer than 30 days.
    """
    if not timedelta(0) <= keep_for <= LONGEST_KEPT:
        raise WrongUsage(f"A secret is kept for {keep_for}: it takes up to {LONGEST_KEPT.days} days")
    fresh = new_key(storage.read_one(connection, webhook_id)["signature"])
    old = storage.lock_secret(connection, webhook_id)
    kept = keep_for if keep_for and _is_readable(key, old, webhook_id) else None
    storage.replace_secret(
        connection, webhook_id, seal(key, fresh.secret, _of(webhook_id)), fresh.public, keep_for=kept
    )
    return fresh


def enable_webhook(connection: sa.Connection, webhook_id: int) -> bool:
    """Whether there was anything to do: it was disabled, its breaker open, or it had failed. All that is forgotten.

    Raises:
        NotFound: there is no such webhook.
    """
    return storage.enable(connection, webhook_id)


def disable_webhook(connection: sa.Connection, webhook_id: int, reason: str) -> bool:
    """Whether it was active. Nothing new is written for it, and what waits goes on when it is enabled.

    Raises:
        NotFound: there is no such webhook.
        WrongUsage: the reason is blank.
    """
    line = one_line(reason)[:_LONGEST_REASON]
    if not line:
        raise WrongUsage("A webhook is disabled for a reason, and this one is blank")
    return storage.disable(connection, webhook_id, line)


def _name(name: str) -> str:
    text = name.strip()
    if not text or len(text) > LONGEST_NAME:
        told = "is blank" if not text else f"has {len(text):,} characters"
        raise WrongUsage(f"The name {told}: it takes 1 to {LONGEST_NAME} characters")
    if _CONTROLS.search(text):
        raise WrongUsage(f"The name {text!a} has a line break or a control character: it takes one line of text")
    return text


def _url(url: str, allowed: Sequence[Network]) -> str:
    """The URL; an error does not repeat it, since it may hold a password."""
    refusal = addresses.refusal(url, allowed)
    if refusal is not None:
        raise WrongUsage(f"The URL cannot be used: {refusal}")
    return url


def _actions(actions: Sequence[str]) -> list[str]:
    """Each once."""
    known = ", ".join(ACTIONS)
    if not actions:
        raise WrongUsage(f"There is no action to be told of: it takes any of {known}")
    for action in actions:
        if action not in ACTIONS:
            raise WrongUsage(f"There is no action {action[:100]!a}: there are {known}")
    return list(dict.fromkeys(actions))


def _one_of(known: Sequence[str], what: str, value: str) -> str:
    if value not in known:
        raise WrongUsage(f"There is no {what} {value[:100]!a}: there are {', '.join(known)}")
    return value


def _is_readable(key: str, sealed: bytes, webhook_id: int) -> bool:
    try:
        unseal(key, sealed, _of(webhook_id))
    except Unreadable:
        return False
    return True


def _of(webhook_id: int) -> str:
    """What a sealed secret is bound to: moved to another row it cannot be read."""
    return f"webhook {webhook_id}"
