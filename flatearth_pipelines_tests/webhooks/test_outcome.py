"""The codes of a request."""

import re

import pytest

from flatearth_pipelines.webhooks.outcome import MOST_BYTES, Code, code_of
from flatearth_pipelines_tests.conftest import ROOT

MIGRATION = (ROOT / "sql" / "migrations" / "0005_webhooks.sql").read_text()


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        ((200, 201, 204, 299), Code.OK),
        ((300, 301, 302, 304, 308, 399), Code.REDIRECT),
        ((400, 401, 404, 409, 411, 428, 430, 499), Code.HTTP_4XX),
        ((410,), Code.GONE),
        ((429,), Code.THROTTLED),
        ((500, 502, 503, 504, 599), Code.HTTP_5XX),
        ((0, 99, 100, 103, 199, 600, 999), Code.HTTP_OTHER),
    ],
)
def test_a_status_has_the_code_of_its_hundred_but_for_410_and_429(statuses: tuple[int, ...], code: Code) -> None:
    assert [code_of(status) for status in statuses] == [code] * len(statuses)


def test_the_database_knows_the_same_codes() -> None:
    (known,) = re.findall(r"constraint attempt_code_is_known check \(\s*code in \(([^)]*)\)", MIGRATION)
    assert sorted(re.findall(r"'(\w+)'", known)) == sorted(Code)


def test_the_database_takes_as_many_bytes_of_an_answer_as_are_kept() -> None:
    assert f"octet_length(response) <= {MOST_BYTES})" in MIGRATION
