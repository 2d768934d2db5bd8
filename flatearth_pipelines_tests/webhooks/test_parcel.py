"""What is sent of a delivery. That a receiver can verify it: test_signing.py and test_delivery.py."""

from flatearth_pipelines.webhooks.claim_storage import Claimed
from flatearth_pipelines.webhooks.endpoint_storage import Endpoint
from flatearth_pipelines.webhooks.outcome import Answer, Code
from flatearth_pipelines.webhooks.parcel import Parcel, message_id, secrets_of
from flatearth_pipelines.webhooks.sealing import seal
from flatearth_pipelines.webhooks.signing import new_key, signer
from flatearth_pipelines.webhooks.transport import Post
from flatearth_pipelines_tests.factories import NOON

KEY, OTHER = "of this installation", "of another one"
CURRENT, PREVIOUS = new_key("standard").secret, new_key("standard").secret


def endpoint(sealed_secret: bytes, previous_sealed_secret: bytes | None = None) -> Endpoint:
    return Endpoint(
        5, 1, "Chat", "https://hooks.acme.example", "json", "standard", sealed_secret, previous_sealed_secret
    )


def sealed(secret: str, key: str = KEY) -> bytes:
    return seal(key, secret, "webhook 5")


def parcel(body: bytes | None, *secrets: str) -> Parcel:
    return Parcel(Claimed(7, 5, 9, None, 1, None), endpoint(b""), body, secrets)


def test_a_request_has_the_bytes_the_kind_of_content_and_the_signatures_of_that_moment() -> None:
    headers = signer("standard", (CURRENT, PREVIOUS)).headers("msg_7", NOON, b"{}")
    request = parcel(b"{}", CURRENT, PREVIOUS).signed(NOON)
    expected = {"Content-Type": "application/json"} | headers
    assert request == Post("https://hooks.acme.example", expected, b"{}")


def test_without_bytes_or_a_secret_there_is_an_answer_instead_and_first_of_the_event_that_is_gone() -> None:
    for nothing, code in ((parcel(None), Code.EVENT_GONE), (parcel(b"{}"), Code.NO_SECRET)):
        answer = nothing.signed(NOON)
        assert isinstance(answer, Answer)
        assert (answer.code, answer.started_at, answer.duration_ms) == (code, NOON, 0)


def test_both_secrets_are_read_the_current_one_first() -> None:
    assert secrets_of(endpoint(sealed(CURRENT), sealed(PREVIOUS)), KEY) == (CURRENT, PREVIOUS)
    assert secrets_of(endpoint(sealed(CURRENT)), KEY) == (CURRENT,)


def test_a_previous_secret_that_cannot_be_read_is_left_out_and_a_current_one_leaves_none() -> None:
    assert secrets_of(endpoint(sealed(CURRENT), sealed(PREVIOUS, OTHER)), KEY) == (CURRENT,)
    assert secrets_of(endpoint(sealed(CURRENT, OTHER), sealed(PREVIOUS)), KEY) == ()


def test_the_id_of_a_message_is_its_deliverys() -> None:
    assert message_id(7) == "msg_7"
