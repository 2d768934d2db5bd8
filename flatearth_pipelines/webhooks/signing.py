"""Keys, and the headers by which a receiver knows that a request is ours: docs/webhooks.md says how to verify them.

What is signed is `id.timestamp.body` (Standard Webhooks 1.0.0), so that neither an old request nor its body alone can
be sent once more by somebody else.
"""

import base64
import binascii
import functools
import hmac
import secrets as randomness
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NamedTuple

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from flatearth_pipelines.errors import WrongUsage

SCHEMES = ("standard", "ed25519", "rsa-sha256")
"""Shared secret with HMAC-SHA256, and two with a public key."""

_SECRET, _PRIVATE, _PUBLIC = "whsec_", "whsk_", "whpk_"

_KEY_BYTES = 32
_SECRET_BYTES = range(24, 65)
"""What Standard Webhooks takes; ours have 32."""

_RSA_BITS = 2_048

_KEPT = 4_096
"""Signers that are kept loaded: to read an RSA key takes 26 ms, to sign with it 0.2 ms."""

_Sign = Callable[[bytes], str]
"""The signature of `id.timestamp.body`."""


class Key(NamedTuple):
    """A new key, as text."""

    secret: str
    """standard: `whsec_` and base64 of 32 bytes. ed25519: `whsk_` and base64 of a seed of 32 bytes. rsa-sha256: PEM."""
    public: str | None
    """standard: none. ed25519: `whpk_` and base64 of 32 bytes. rsa-sha256: PEM."""


def new_key(scheme: str) -> Key:
    """A key of one of the `SCHEMES`, by chance.

    Raises:
        WrongUsage: there is no such scheme.
    """
    _check(scheme)
    if scheme == "standard":
        return Key(_SECRET + _base64(randomness.token_bytes(_KEY_BYTES)), None)
    if scheme == "ed25519":
        pair = Ed25519PrivateKey.generate()
        return Key(
            _PRIVATE + _base64(pair.private_bytes_raw()), _PUBLIC + _base64(pair.public_key().public_bytes_raw())
        )
    rsa = generate_private_key(public_exponent=65_537, key_size=_RSA_BITS)
    secret = rsa.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = rsa.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return Key(secret.decode(), public.decode())


@functools.lru_cache(maxsize=_KEPT)
def signer(scheme: str, secrets: tuple[str, ...]) -> "Signer":
    """The `Signer`, loaded once."""
    return Signer(scheme, secrets)


class Signer:
    """Signs with the current secret, the first one, and with those that are still valid beside it."""

    def __init__(self, scheme: str, secrets: Sequence[str]) -> None:
        """Read the secrets.

        Raises:
            WrongUsage: there is no such scheme, no secret, or one that is none of the scheme. It is not repeated.
        """
        _check(scheme)
        if not secrets:
            raise WrongUsage("There is no secret to sign with")
        self._scheme = scheme
        self._signs = [_read(scheme, secret) for secret in secrets]

    def headers(self, message_id: str, at: datetime, body: bytes) -> dict[str, str]:
        """The headers of a request that is sent at that time, which has a zone; the body is UTF-8.

        The timestamp is the second in which `at` lies. standard and ed25519 put all signatures into one header,
        rsa-sha256 each into its own, so that a receiver need not take it apart; there only the first two secrets sign.
        """
        timestamp = str(int(at.timestamp()))
        headers = {"webhook-id": message_id, "webhook-timestamp": timestamp}
        content = f"{message_id}.{timestamp}.".encode() + body
        signatures = [sign(content) for sign in self._signs]
        if self._scheme == "rsa-sha256":
            names = ("X-Webhook-Signature", "X-Webhook-Signature-Previous")
            return headers | dict(zip(names, signatures, strict=False))
        return headers | {"webhook-signature": " ".join(signatures)}


def _check(scheme: str) -> None:
    if scheme not in SCHEMES:
        raise WrongUsage(f"signature is {scheme[:100]!a}: it takes {', '.join(SCHEMES)}")


def _read(scheme: str, secret: str) -> _Sign:
    try:
        if scheme == "standard":
            return _standard(secret)
        return _ed25519(secret) if scheme == "ed25519" else _rsa(secret)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise WrongUsage(f"A secret is none of {scheme}") from None


def _standard(secret: str) -> _Sign:
    key = _bytes_of(secret, _SECRET, _SECRET_BYTES)
    keyed = hmac.new(key, digestmod="sha256")

    def sign(content: bytes) -> str:
        copy = keyed.copy()  # a quarter faster than to read the key again
        copy.update(content)
        return f"v1,{_base64(copy.digest())}"

    return sign


def _ed25519(secret: str) -> _Sign:
    key = Ed25519PrivateKey.from_private_bytes(_bytes_of(secret, _PRIVATE, range(_KEY_BYTES, _KEY_BYTES + 1)))
    return lambda content: f"v1a,{_base64(key.sign(content))}"


def _rsa(secret: str) -> _Sign:
    key = load_pem_private_key(secret.encode(), password=None)
    if not isinstance(key, RSAPrivateKey):
        raise TypeError
    return lambda content: _base64(key.sign(content, PKCS1v15(), SHA256()))


def _bytes_of(text: str, prefix: str, sizes: range) -> bytes:
    content = base64.b64decode(text.removeprefix(prefix), validate=True)
    if not text.startswith(prefix) or len(content) not in sizes:
        raise ValueError
    return content


def _base64(content: bytes) -> str:
    return binascii.b2a_base64(content, newline=False).decode()
