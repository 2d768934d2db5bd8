"""Secrets as they lie in the database: whoever reads a row, a dump or a backup cannot sign.

AES-256-GCM under HMAC-SHA256(FLATEARTH_SECRET_KEY, "flatearth.webhooks"): a byte for the version, 1; a nonce of 12
bytes; the text encrypted, with its tag of 16 bytes. What it is the secret of is authenticated beside it, so that a
secret that was copied to another row cannot be read there.
"""

import hashlib
import hmac
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from flatearth_pipelines.errors import FlatEarthError

_VERSION = b"\x01"
_NONCE_BYTES = 12
_PURPOSE = b"flatearth.webhooks"


class Unreadable(FlatEarthError):
    """What is sealed was sealed with another FLATEARTH_SECRET_KEY, for another row, or was changed."""


def seal(key: str, secret: str, of: str) -> bytes:
    """The secret of `of`, such as "webhook 7", encrypted; each time other bytes. `key` is FLATEARTH_SECRET_KEY."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return _VERSION + nonce + _cipher(key).encrypt(nonce, secret.encode(), of.encode())


def unseal(key: str, sealed: bytes, of: str) -> str:
    """What was sealed with this key for this `of`.

    Raises:
        Unreadable: it was not, or not by this version.
    """
    version, nonce, encrypted = sealed[:1], sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
    if version == _VERSION and len(nonce) == _NONCE_BYTES:
        try:
            return _cipher(key).decrypt(nonce, encrypted, of.encode()).decode()
        except InvalidTag:
            pass
    raise Unreadable(
        f"The secret of {of} cannot be read with this FLATEARTH_SECRET_KEY: set the one of before, or rotate the secret"
    )


def _cipher(key: str) -> AESGCM:
    return AESGCM(hmac.digest(key.encode(), _PURPOSE, hashlib.sha256))
