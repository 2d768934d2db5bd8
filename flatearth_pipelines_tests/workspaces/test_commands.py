import json
import re
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result
from psycopg import sql

from flatearth_pipelines.cli import cli
from flatearth_pipelines.errors import WrongUsage

BOARD = {
    "name": "Home",
    "lists": [{"id": "doing", "name": "Doing"}],
    "cards": [{"id": "a", "name": "Paint", "idList": "doing", "dateLastActivity": "2022-02-04T14:51:12.990Z"}],
}


def run(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(cli, arguments, input=stdin)


def answer(*arguments: str, stdin: str | None = None) -> dict[str, Any]:
    result = run(*arguments, "--json", stdin=stdin)
    assert (result.exit_code, result.stderr) == (0, "")
    parsed: dict[str, Any] = json.loads(result.stdout)
    return parsed


def count(database: str, name: str) -> int:
    with psycopg.connect(database) as connection:
        row = connection.execute(
            sql.SQL("select count(*) from {}").format(sql.Identifier("flatearth", name))
        ).fetchone()
    assert row is not None
    return int(row[0])


def test_demo_loads_as_many_cards_as_it_is_told_and_says_how_many_rows_that_are(database: str) -> None:
    said = answer("demo", "--cards", "321", "--seed", "7")
    assert said["seed"] == 7
    assert said["counts"]["cards"] == 321
    assert said["counts"] == {name: count(database, name) for name in said["counts"]}


def test_demo_prints_a_table_and_no_progress_into_a_pipe(database: str) -> None:
    result = run("demo", "--cards", "1234")
    assert result.exit_code == 0
    assert re.search(r"^cards +1,234$", result.stdout, re.MULTILINE)
    assert result.stderr == ""
    assert count(database, "cards") == 1234


def test_demo_of_the_same_seed_and_instant_holds_the_same_rows(database: str) -> None:
    said = [answer("demo", "--cards", "50", "--as-of", "2026-11-22T12:00:00+01:00") for _ in range(2)]
    assert said[0] == said[1]
    assert said[0]["as_of"] == "2026-11-22T11:00:00+00:00"
    with psycopg.connect(database) as connection:
        twice = connection.execute(
            "select count(*) from flatearth.cards group by number, title, created_at, last_active_at"
        ).fetchall()
    assert set(twice) == {(2,)}


@pytest.mark.parametrize("cards", ["0", "-1", "many", "1.5"])
def test_demo_takes_one_card_or_more(cards: str) -> None:
    result = run("demo", "--cards", cards)
    assert result.exit_code == 2
    assert "--cards" in result.stderr


@pytest.mark.parametrize(
    "as_of", ["now", "2026-11-22", "2026-11-22T12:00:00", "1969-12-31T23:59:59Z", "3000-01-01T00:00Z"]
)
def test_demo_takes_an_instant_with_its_offset_from_1970_on_and_before_3000(as_of: str) -> None:
    result = run("demo", "--as-of", as_of)
    assert isinstance(result.exception, WrongUsage)
    assert as_of in str(result.exception)


def test_import_trello_prints_the_new_ids_and_the_next_command(database: str, tmp_path: Path) -> None:
    path = tmp_path / "board.json"
    path.write_text(json.dumps(BOARD))
    result = run("import", "trello", str(path))
    assert result.exit_code == 0
    with psycopg.connect(database) as connection:
        row = connection.execute("select account_id, id from flatearth.boards where name = 'Home'").fetchone()
    assert row is not None
    assert f"Account {row[0]}, board {row[1]}." in result.stdout
    assert f"flatearth entropy preview --board {row[1]}\n" in result.stdout


def test_import_trello_reads_standard_input(database: str) -> None:
    said = answer("import", "trello", "-", stdin=json.dumps(BOARD))
    with psycopg.connect(database) as connection:
        rows = connection.execute("select account_id, board_id, title from flatearth.cards").fetchall()
    assert rows == [(said["account_id"], said["board_id"], "Paint")]
    assert said["counts"]["cards"] == 1


def test_a_board_imported_twice_is_two_accounts(database: str) -> None:
    one, other = (answer("import", "trello", "-", stdin=json.dumps(BOARD)) for _ in range(2))
    assert one["account_id"] != other["account_id"]
    assert count(database, "accounts") == 2


@pytest.mark.parametrize("text", ["", "no json", "{}", json.dumps(BOARD | {"lists": []})])
def test_what_is_no_board_is_refused_and_nothing_is_imported(database: str, text: str) -> None:
    result = run("import", "trello", "-", stdin=text)
    assert isinstance(result.exception, WrongUsage)
    assert count(database, "accounts") == 0


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    result = run("import", "trello", str(tmp_path / "missing.json"))
    assert result.exit_code == 2
    assert "missing.json" in result.stderr
