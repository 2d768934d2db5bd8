"""Keys and signatures: verified by what receivers use, and as docs/webhooks.md tells them, word for word."""

import base64
import functools
import hashlib
import hmac
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from flatearth_pipelines.errors import WrongUsage
from flatearth_pipelines.webhooks.signing import SCHEMES, Key, Signer, new_key, signer
from flatearth_pipelines_tests.conftest import ROOT

ID = "msg_7"
BODY = '{"type":"card_closed","data":{"title":"é 🦀 \u2028 it\'s 100% \\"done\\""}}'.encode()
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


@functools.cache
def _keys(scheme: str) -> list[Key]:
    """The same for the whole module: to find an RSA key takes long."""
    return [new_key(scheme) for _ in range(3)]


def key(scheme: str, number: int = 0) -> Key:
    return _keys(scheme)[number]


def public(scheme: str) -> str:
    """What a receiver knows of the first key."""
    return key(scheme).public or key(scheme).secret


def now() -> datetime:
    return datetime.fromtimestamp(time.time(), UTC)


def headers(scheme: str, *numbers: int, at: datetime | None = None) -> dict[str, str]:
    """Of a request that is signed by these keys, the current one first."""
    secrets = tuple(key(scheme, number).secret for number in numbers or (0,))
    return signer(scheme, secrets).headers(ID, at or now(), BODY)


# Keys


@pytest.mark.parametrize("scheme", SCHEMES)
def test_keys_are_never_the_same(scheme: str) -> None:
    assert key(scheme, 0).secret != key(scheme, 1).secret


def test_a_shared_secret_has_32_bytes_and_no_public_part() -> None:
    made = new_key("standard")
    assert re.fullmatch(r"whsec_[A-Za-z0-9+/]{43}=", made.secret)
    assert made.public is None


def test_an_ed25519_key_is_its_seed_and_its_public_bytes() -> None:
    made = new_key("ed25519")
    assert re.fullmatch(r"whsk_[A-Za-z0-9+/]{43}=", made.secret)
    seed = base64.b64decode(made.secret.removeprefix("whsk_"))
    known = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    assert len(known) == 32
    assert made.public == f"whpk_{base64.b64encode(known).decode()}"


def test_an_rsa_key_is_pem_of_2048_bits() -> None:
    made = key("rsa-sha256")
    assert made.secret.startswith("-----BEGIN PRIVATE KEY-----\n")
    assert public("rsa-sha256").startswith("-----BEGIN PUBLIC KEY-----\n")
    loaded = load_pem_public_key(public("rsa-sha256").encode())
    assert isinstance(loaded, RSAPublicKey)
    assert (loaded.key_size, loaded.public_numbers().e) == (2_048, 65_537)


@pytest.mark.parametrize("scheme", ["", "hmac", "Standard", "rsa\n"])
def test_another_scheme_is_refused_in_one_line_that_names_those_that_there_are(scheme: str) -> None:
    with pytest.raises(WrongUsage, match=r"^signature is '[^\n]*': it takes standard, ed25519, rsa-sha256$"):
        new_key(scheme)
    with pytest.raises(WrongUsage, match=r"^signature is '[^\n]*': it takes standard, ed25519, rsa-sha256$"):
        Signer(scheme, ["hunter2"])


_STRANGE = ["whsec_hunter2", "whsk_hunter2", "hunter2", "", "whsec_", "whsk_AAAA", f"whsec_{'A' * 40}\nAAA=", "é"]


@pytest.mark.parametrize(
    ("scheme", "other"),
    [(scheme, other) for scheme in SCHEMES for other in (*SCHEMES, *_STRANGE) if other != scheme],
)
def test_a_secret_of_another_scheme_is_refused_without_a_word_of_it(scheme: str, other: str) -> None:
    secret = key(other).secret if other in SCHEMES else other
    with pytest.raises(WrongUsage, match=rf"^A secret is none of {scheme}$") as refused:
        Signer(scheme, [key(scheme).secret, secret])
    assert refused.value.__suppress_context__


@pytest.mark.parametrize(("size", "taken"), [(23, False), (24, True), (64, True), (65, False)])
def test_a_shared_secret_may_have_24_to_64_bytes(size: int, *, taken: bool) -> None:
    secret = "whsec_" + base64.b64encode(bytes(size)).decode()
    if taken:
        assert Webhook(secret).verify("{}", Signer("standard", [secret]).headers(ID, now(), b"{}")) == {}
    else:
        with pytest.raises(WrongUsage):
            Signer("standard", [secret])


def test_a_secret_is_needed() -> None:
    with pytest.raises(WrongUsage, match="no secret"):
        Signer("standard", [])


def test_a_signer_is_loaded_once() -> None:
    secrets = (key("rsa-sha256").secret,)
    assert signer("rsa-sha256", secrets) is signer("rsa-sha256", secrets)


# Headers


@pytest.mark.parametrize(
    ("scheme", "names"),
    [
        ("standard", ["webhook-signature"]),
        ("ed25519", ["webhook-signature"]),
        ("rsa-sha256", ["X-Webhook-Signature", "X-Webhook-Signature-Previous"]),
    ],
)
def test_the_id_and_the_second_stand_beside_the_signatures(scheme: str, names: list[str]) -> None:
    sent = headers(scheme, 0, 1, at=NOON + timedelta(seconds=1))
    assert list(sent) == ["webhook-id", "webhook-timestamp", *names]
    assert (sent["webhook-id"], sent["webhook-timestamp"]) == (ID, str(int(NOON.timestamp()) + 1))
    assert all(value.isascii() and value.isprintable() for value in sent.values())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_with_one_secret_there_is_one_signature(scheme: str) -> None:
    sent = headers(scheme, at=NOON)
    assert len(sent) == 3
    assert " " not in list(sent.values())[2]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_second_begins_at_its_first_microsecond_and_ends_with_its_last_in_whatever_zone(scheme: str) -> None:
    """The library signs whatever zone it is given as if it were UTC."""
    sent = headers(scheme, at=NOON)
    assert headers(scheme, at=NOON + timedelta(microseconds=999_999)) == sent
    assert headers(scheme, at=NOON.astimezone(timezone(timedelta(hours=2)))) == sent
    assert headers(scheme, at=NOON.astimezone(timezone(timedelta(hours=-9, minutes=-30)))) == sent
    assert headers(scheme, at=NOON + timedelta(seconds=1)) != sent
    assert headers(scheme, at=NOON - timedelta(microseconds=1)) != sent


def test_another_language_can_make_the_signature_from_its_description() -> None:
    secret = base64.b64decode(key("standard").secret.removeprefix("whsec_"))
    signed = f"{ID}.{int(NOON.timestamp())}.".encode() + BODY
    expected = base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()
    assert headers("standard", at=NOON)["webhook-signature"] == f"v1,{expected}"


@given(st.text(st.characters(exclude_categories=["Cs"])), st.text("abc_019", min_size=1))
def test_any_text_is_signed_by_both_kinds_of_keys_over_id_timestamp_and_body(text: str, message_id: str) -> None:
    at, body = now(), text.encode()
    secret = key("standard").secret
    Webhook(secret).verify(body, signer("standard", (secret,)).headers(message_id, at, body), json_parse=False)
    sent = signer("ed25519", (key("ed25519").secret,)).headers(message_id, at, body)
    known = Ed25519PublicKey.from_public_bytes(base64.b64decode(public("ed25519").removeprefix("whpk_")))
    signature = base64.b64decode(sent["webhook-signature"].removeprefix("v1a,"))
    known.verify(signature, f"{message_id}.{int(at.timestamp())}.".encode() + body)


# Verified by those who receive them


class Request(NamedTuple):
    headers: dict[str, str]
    body: bytes = BODY


class Verifier(NamedTuple):
    """A program of docs/webhooks.md, and how to run it with a key: which of the requests it takes."""

    scheme: str
    language: str
    taken: Callable[[str, list[Request]], list[bool]]


_PROGRAMS = {
    (scheme, language): code
    for scheme, section in re.findall(
        r"^### ([\w-]+):(.*?)(?=^##)", (ROOT / "docs" / "webhooks.md").read_text(), re.DOTALL | re.MULTILINE
    )
    for language, code in re.findall(r"```(\w+)\n(.*?)```", section, re.DOTALL)
}

_EACH_IN_PYTHON = """
import json, sys
from cryptography.exceptions import InvalidSignature
from standardwebhooks import WebhookVerificationError

def takes(key, headers, body):
    try:
        return verify(key, headers, body.encode()) == json.loads(body)
    except (InvalidSignature, WebhookVerificationError):
        return False

key, requests = json.load(sys.stdin)
print(json.dumps([takes(key, headers, body) for headers, body in requests]))
"""

_EACH_IN_NODE = """
import { readFileSync } from "node:fs";
import { deepStrictEqual } from "node:assert";

function takes(key, headers, body) {
  let message;
  try {
    message = verify(key, headers, Buffer.from(body));
  } catch (error) {
    if (error.name !== "WebhookVerificationError" && error.message !== "not signed, or too old") throw error;
    return false;
  }
  deepStrictEqual(message, JSON.parse(body));
  return true;
}

const [key, requests] = JSON.parse(readFileSync(0));
console.log(JSON.stringify(requests.map(([headers, body]) => takes(key, headers, body))));
"""


@functools.cache
def _missing(*programs: str) -> str:
    """Which of them is not there; with CI=true that is a failure and not a reason to skip."""
    missing = ", ".join(program for program in programs if shutil.which(program) is None)
    assert not (missing and os.environ.get("CI")), f"CI has no {missing}"
    return missing


@pytest.fixture(scope="module")
def node_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where Node finds `standardwebhooks`, and the programs of the documentation."""
    if missing := _missing("node", "npm"):
        pytest.skip(f"there is no {missing}")
    directory = tmp_path_factory.mktemp("node")
    install = ["npm", "install", "--no-audit", "--no-fund", "--silent", "standardwebhooks@1"]
    done = subprocess.run(install, cwd=directory, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode != 0 and not os.environ.get("CI"):
        pytest.skip(f"npm could not install standardwebhooks: {done.stdout}{done.stderr}")
    assert done.returncode == 0, done.stdout + done.stderr
    return directory


@pytest.fixture(params=sorted(_PROGRAMS), ids="-".join)
def verifier(request: pytest.FixtureRequest, tmp_path: Path) -> Verifier:
    """Each program of the documentation, one after the other."""
    scheme, language = request.param
    code = _PROGRAMS[scheme, language]
    if language == "python":
        return Verifier(scheme, language, functools.partial(_python, code, tmp_path))
    if language == "js":
        return Verifier(scheme, language, functools.partial(_node, code, request.getfixturevalue("node_directory")))
    if missing := _missing("sh", "openssl", "base64", "od"):
        pytest.skip(f"there is no {missing}")
    return Verifier(scheme, language, functools.partial(_openssl, code, tmp_path))


def test_the_documentation_has_a_program_for_every_scheme_in_python_node_and_with_openssl() -> None:
    assert sorted(_PROGRAMS) == sorted((scheme, language) for scheme in SCHEMES for language in ("python", "js", "sh"))


def test_a_receiver_takes_what_the_current_key_signed_and_after_a_rotation_what_either_signed(
    verifier: Verifier,
) -> None:
    signed_by = [(0,), (0, 1), (1, 0), (1,), (1, 2)]
    requests = [Request(headers(verifier.scheme, *numbers)) for numbers in signed_by]
    assert verifier.taken(public(verifier.scheme), requests) == [0 in numbers for numbers in signed_by]


def test_a_receiver_refuses_another_body_another_id_and_another_time(verifier: Verifier) -> None:
    sent = headers(verifier.scheme)
    later = str(int(sent["webhook-timestamp"]) + 1)
    requests = [
        Request(sent),
        Request(sent, BODY.replace(b"card_closed", b"card_opened")),
        Request(sent | {"webhook-id": "msg_8"}),
        Request(sent | {"webhook-timestamp": later}),
    ]
    assert verifier.taken(public(verifier.scheme), requests) == [True, False, False, False]


def test_a_receiver_refuses_what_was_signed_more_than_five_minutes_ago(verifier: Verifier) -> None:
    signature_alone = verifier.language == "sh"  # openssl looks at nothing else
    requests = [Request(headers(verifier.scheme, at=now() + timedelta(minutes=late))) for late in (-3, -6, 6)]
    assert verifier.taken(public(verifier.scheme), requests) == [True, signature_alone, signature_alone]


def test_the_library_for_python_skips_signatures_of_another_kind() -> None:
    sent = headers("standard")
    both = sent | {"webhook-signature": f"{headers('ed25519')['webhook-signature']} {sent['webhook-signature']}"}
    webhook = Webhook(key("standard").secret)
    assert webhook.verify(BODY, both) == json.loads(BODY)
    with pytest.raises(WebhookVerificationError):
        webhook.verify(BODY, headers("ed25519"))


def _python(code: str, directory: Path, known: str, requests: list[Request]) -> list[bool]:
    (directory / "verify.py").write_text(code + _EACH_IN_PYTHON)
    return _all_of([sys.executable, "verify.py"], directory, known, requests)


def _node(code: str, directory: Path, known: str, requests: list[Request]) -> list[bool]:
    (directory / "verify.mjs").write_text(code + _EACH_IN_NODE)
    small = [Request({name.lower(): value for name, value in sent.items()}, body) for sent, body in requests]
    return _all_of(["node", "verify.mjs"], directory, known, small)  # names as Node's servers write them


def _all_of(command: list[str], directory: Path, known: str, requests: list[Request]) -> list[bool]:
    asked = json.dumps([known, [[sent, body.decode()] for sent, body in requests]])
    done = subprocess.run(command, cwd=directory, input=asked, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    taken = json.loads(done.stdout)
    assert isinstance(taken, list)
    return taken


def _openssl(code: str, directory: Path, known: str, requests: list[Request]) -> list[bool]:
    return [_openssl_takes(code, directory, known, request) for request in requests]


def _openssl_takes(code: str, directory: Path, known: str, request: Request) -> bool:
    (directory / "body").write_bytes(request.body)
    sent = request.headers
    variables = {
        "ID": sent["webhook-id"],
        "TIMESTAMP": sent["webhook-timestamp"],
        "SIGNATURE": " ".join(value for name, value in sent.items() if "signature" in name.lower()),
        "SECRET": known,
        "PUBLIC_KEY": known,
    }
    done = subprocess.run(
        ["sh", "-c", code],
        cwd=directory,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode in {0, 1}, done.stderr
    return done.returncode == 0
