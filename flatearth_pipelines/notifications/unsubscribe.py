"""The one-click link of every digest (RFC 8058): made for a person, verified without a database.

A token is `base64url(json).base64url(signature)`, with the JSON `{"user":7,"until":1800000000}` (seconds since 1970)
and the signature HMAC-SHA256(HMAC-SHA256(secret, "flatearth.unsubscribe"), base64url(json)), so that an application in
any language can verify it. It then calls `flatearth.set_notification_settings` for that person.
"""

import functools
import hashlib
import json
from datetime import datetime, timedelta
from enum import Enum
from typing import NamedTuple

from itsdangerous import BadData, Signer
from itsdangerous.encoding import base64_decode, base64_encode

VALID_FOR = timedelta(days=30)

_LONGEST = 500
"""Characters of a token that are looked at; ours have about 90."""


class Step(Enum):
    """What the application's endpoint does about a request; the values are for its log."""

    UNSUBSCRIBE = "unsubscribe"
    ASK = "ask"
    """Show a page with a button that posts to the same address: what scans mails follows links."""
    EXPIRED = "expired"
    INVALID = "invalid"
    WRONG_METHOD = "wrong method"

    @property
    def status(self) -> int:
        """The HTTP status to answer with."""
        return {"unsubscribe": 200, "ask": 200, "expired": 410, "invalid": 404, "wrong method": 405}[self.value]


class Verdict(NamedTuple):
    """The step, and the person to unsubscribe or to ask."""

    step: Step
    user_id: int | None = None


def unsubscribe_url(public_url: str, key: str, user_id: int, made_at: datetime) -> str:
    """The link that unsubscribes the person, for 30 days."""
    return f"{public_url}/unsubscribe/{token(key, user_id, made_at)}"


def token(key: str, user_id: int, made_at: datetime) -> str:
    """What the link ends in: letters, digits, `-`, `_` and a dot."""
    until = int((made_at + VALID_FOR).timestamp())
    said = json.dumps({"user": user_id, "until": until}, separators=(",", ":"))
    return _signer(key).sign(base64_encode(said)).decode()


def verdict(method: str, token: str, key: str, at: datetime) -> Verdict:
    """What an endpoint that was asked with this HTTP method does. Only POST unsubscribes; the body need not be read.

    `key` is FLATEARTH_SECRET_KEY. A token is valid up to its last second, and not in the next one.
    """
    if method.upper() not in {"POST", "GET", "HEAD"}:
        return Verdict(Step.WRONG_METHOD)
    try:
        said = json.loads(base64_decode(_signer(key).unsign(token))) if len(token) <= _LONGEST else {}
        user_id, until = int(said["user"]), int(said["until"])
    except (BadData, KeyError, TypeError, ValueError):
        return Verdict(Step.INVALID)
    if at.timestamp() >= until + 1:
        return Verdict(Step.EXPIRED)
    return Verdict(Step.UNSUBSCRIBE if method.upper() == "POST" else Step.ASK, user_id)


@functools.lru_cache(maxsize=4)
def _signer(key: str) -> Signer:
    return Signer(key, salt="flatearth.unsubscribe", key_derivation="hmac", digest_method=hashlib.sha256)
