"""Secrets as they lie in the database."""

import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from flatearth_pipelines.webhooks.sealing import Unreadable, seal, unseal

KEY = "a secret of the tests"
SECRET = "whsec_hunter2"  # noqa: S105 - of the tests

texts = st.text(st.characters(exclude_categories=["Cs"]))


@given(texts, texts, texts)
def test_what_was_sealed_is_read_again_with_the_same_key_for_the_same_row(key: str, secret: str, of: str) -> None:
    assert unseal(key, seal(key, secret, of), of) == secret


def test_two_seals_of_one_secret_have_nothing_in_common_and_do_not_show_it() -> None:
    one, other = seal(KEY, SECRET, "webhook 7"), seal(KEY, SECRET, "webhook 7")
    assert one[1:13] != other[1:13]
    assert one[13:] != other[13:]
    assert b"hunter2" not in one


@pytest.mark.parametrize(
    ("key", "of"), [("another key", "webhook 7"), (KEY, "webhook 8"), (KEY, "webhook 77"), ("", "webhook 7"), (KEY, "")]
)
def test_another_key_and_another_row_cannot_read_it(key: str, of: str) -> None:
    with pytest.raises(Unreadable):
        unseal(key, seal(KEY, SECRET, "webhook 7"), of)


def test_a_single_bit_that_was_changed_anywhere_makes_it_unreadable() -> None:
    sealed = seal(KEY, SECRET, "webhook 7")
    for bit in range(8 * len(sealed)):
        changed = bytearray(sealed)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Unreadable):
            unseal(KEY, bytes(changed), "webhook 7")


@given(st.binary(max_size=100))
def test_bytes_that_nobody_sealed_are_unreadable(sealed: bytes) -> None:
    with pytest.raises(Unreadable):
        unseal(KEY, sealed, "webhook 7")


def test_what_was_cut_is_unreadable_wherever_the_cut_is() -> None:
    sealed = seal(KEY, SECRET, "webhook 7")
    for length in range(len(sealed)):
        with pytest.raises(Unreadable):
            unseal(KEY, sealed[:length], "webhook 7")


def test_the_error_says_in_one_line_whose_secret_it_is_and_what_to_do_and_no_secret() -> None:
    with pytest.raises(
        Unreadable, match=r"^The secret of webhook 7 [^\n]* FLATEARTH_SECRET_KEY[^\n]* rotate[^\n]*$"
    ) as no:
        unseal("another hunter3", seal(KEY, SECRET, "webhook 7"), "webhook 7")
    assert "hunter" not in str(no.value)
    assert no.value.__cause__ is None


def test_another_program_can_read_it_from_its_description() -> None:
    sealed = seal(KEY, SECRET, "webhook 7")
    key = hmac.new(KEY.encode(), b"flatearth.webhooks", hashlib.sha256).digest()
    assert sealed[0] == 1
    assert AESGCM(key).decrypt(sealed[1:13], sealed[13:], b"webhook 7") == SECRET.encode()
