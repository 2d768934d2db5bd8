"""What the morning mail says, without anything around it."""

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flatearth_pipelines.reports.metrics import METRICS
from flatearth_pipelines.reports.morning import letter

SUNDAY = date(2026, 11, 22)
NOUGHT = dict.fromkeys(METRICS, 0)
URL = "https://earth.example"


def test_the_mail_names_the_account_the_day_and_all_that_happened_in_one_and_in_many() -> None:
    counts = NOUGHT | {"cards_created": 1, "comments": 1_200, "active_people": 2, "bundles_failed": 1}

    subject, text = letter("Acme", SUNDAY, counts, URL)

    assert subject == "Acme on Sunday, 22 November 2026"
    assert text.splitlines()[:7] == [
        "Acme on Sunday, 22 November 2026 (UTC):",
        "",
        "  1 card created",
        "  1,200 comments",
        "  2 people active",
        "  1 email of notifications not sent",
        "",
    ]
    assert URL in text.splitlines()


@pytest.mark.parametrize("metric", METRICS)
def test_whatever_is_counted_can_be_told(metric: str) -> None:
    one = letter("Acme", SUNDAY, NOUGHT | {metric: 1}, URL)[1]
    many = letter("Acme", SUNDAY, NOUGHT | {metric: 2}, URL)[1]
    assert one.splitlines()[2].startswith("  1 ")
    assert many.splitlines()[2].startswith("  2 ")


@given(st.text())
def test_the_subject_is_one_short_line_whatever_an_account_is_called(name: str) -> None:
    subject, _ = letter(name, SUNDAY, NOUGHT, URL)
    assert len(subject.splitlines()) == 1
    assert len(subject) <= 150


def test_an_account_without_a_name_is_yours() -> None:
    assert letter(" \r\n", SUNDAY, NOUGHT, URL)[0].startswith("Your account on")
