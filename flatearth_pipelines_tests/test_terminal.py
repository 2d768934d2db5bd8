import json
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from flatearth_pipelines.terminal import print_json, print_rows

NINE = datetime(2026, 11, 22, 9, 0, 1, tzinfo=UTC)


def test_a_table_is_headed_by_the_keys_with_spaces(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows([{"last_active_at": NINE, "title": "Fix"}], as_json=False)
    heading, row = capsys.readouterr().out.splitlines()
    assert heading.split() == ["last", "active", "at", "title"]
    assert row.split() == ["2026-11-22", "09:00:01", "Fix"]


def test_numbers_stand_to_the_right_with_thousands_apart(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows([{"cards": 7}, {"cards": 1_234_567}], as_json=False)
    assert capsys.readouterr().out.splitlines() == ["    cards", "        7", "1,234,567"]


def test_nothing_known_is_an_empty_cell(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows([{"number": None, "title": "Fix"}], as_json=False)
    assert "None" not in capsys.readouterr().out


def test_no_rows_are_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows([], as_json=False, empty="There are no boards.")
    assert capsys.readouterr().out == "There are no boards.\n"


def test_no_rows_are_an_empty_array_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows([], as_json=True, empty="There are no boards.")
    assert json.loads(capsys.readouterr().out) == []


def test_json_has_instants_in_iso_8601_and_numbers_as_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows([{"at": NINE, "cards": 1_234, "name": "Straße 🌍", "none": None, "yes": True}], as_json=True)
    printed = capsys.readouterr().out
    assert json.loads(printed) == [
        {"at": "2026-11-22T09:00:01+00:00", "cards": 1234, "name": "Straße 🌍", "none": None, "yes": True}
    ]
    assert "Straße 🌍" in printed, "people read it too"
    assert printed.count("\n") == 1


def test_json_takes_what_json_does_not_know_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"days": Decimal("0.5")})
    assert json.loads(capsys.readouterr().out) == {"days": "0.5"}


@pytest.mark.parametrize(
    "title",
    [
        "[bold]not bold[/bold]",
        "[/]",
        "[link=https://example.com]x",
        r"\[bold]x",
        "back\\",
        r"C:\[dir]",
        ":warning: on fire",
        "a, b; 'c' \"d\"",
        "🌍 地球",
    ],
)
def test_a_title_is_printed_as_it_is_and_never_as_markup(capsys: pytest.CaptureFixture[str], title: str) -> None:
    print_rows([{"title": title, "end": "|"}], as_json=False)
    assert capsys.readouterr().out.splitlines()[1].partition("|")[0].rstrip() == title


def test_a_pipe_gets_long_values_uncut_and_without_colours(capsys: pytest.CaptureFixture[str]) -> None:
    name = "x" * 150
    print_rows([{"name": name, "cards": 1}], as_json=False, title="Boards")
    printed = capsys.readouterr().out
    assert name in printed
    assert "\x1b" not in printed
