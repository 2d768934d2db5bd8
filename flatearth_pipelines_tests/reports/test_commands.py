"""`flatearth reports`, as its `main` runs it, on a real database."""

import csv
import io
import json
import subprocess
import sys
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa

from flatearth_pipelines import tables
from flatearth_pipelines.reports.metrics import METRICS
from flatearth_pipelines.reports.reporting import report_on_each
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.console import Flatearth, Ran
from flatearth_pipelines_tests.factories import DAY
from flatearth_pipelines_tests.reports.office import NOON, TODAY, Office, places, rows

FLATEARTH = Path(sys.executable).with_name("flatearth")

NOUGHT = dict.fromkeys(METRICS, 0)

SPAN = ("--from", "2025-03-29", "--to", "2025-03-31")


@pytest.fixture
def flatearth(main: Flatearth) -> Flatearth:
    """`flatearth reports` with these arguments."""
    return partial(main, "reports")


@pytest.fixture
def office(engine: sa.Engine) -> Office:
    """Where on the day a card was closed, and two comments on the day after."""
    with engine.begin() as connection:
        office = Office(connection, name="Acme")
        office.happened(connection, "card_closed", NOON)
        office.commented(connection, NOON + DAY)
        office.commented(connection, NOON + DAY)
        return office


@pytest.fixture
def counted(engine: sa.Engine, office: Office) -> Office:
    """Whose days are counted."""
    with engine.connect() as connection:
        report_on_each(connection, [TODAY - DAY, TODAY, TODAY + DAY], lambda _: None)
    return office


def assert_one_line(ran: Ran, exit_code: int, words: str) -> None:
    assert (ran.exit_code, ran.out) == (exit_code, "")
    assert words in ran.err
    assert ran.err.startswith("Error: ")
    assert ran.err.count("\n") == 1


def written(engine: sa.Engine, day: date = TODAY) -> int:
    with engine.connect() as connection:
        return len(rows(connection, day))


# Show


def test_show_lists_the_rows_of_a_day_with_names(counted: Office, flatearth: Flatearth) -> None:
    shown = flatearth("show", "2025-03-30", "--json")

    assert (shown.exit_code, shown.err) == (0, "")
    whose = {"day": "2025-03-30", "account_id": counted.account, "account": "Acme"}
    assert shown.json() == [
        NOUGHT | whose | {"board_id": None, "board": None, "active_people": 1},
        NOUGHT | whose | {"board_id": counted.board, "board": "Roadmap", "active_people": 1, "cards_closed": 1},
    ]


def test_show_prints_a_table_for_people(counted: Office, flatearth: Flatearth) -> None:
    header, of_account, of_board = flatearth("show", "2025-03-30").out.splitlines()
    assert header.split()[:4] == ["account", "board", "created", "closed"]
    assert of_account.split() == [str(counted.account), "Acme", *"0000010000"]
    assert of_board.split() == [str(counted.account), "Acme", str(counted.board), "Roadmap", *"0100010000"]


def test_a_day_without_rows_says_why_that_may_be(counted: Office, flatearth: Flatearth) -> None:
    assert counted
    shown = flatearth("show", "2025-03-29")
    assert shown.exit_code == 0
    assert "Nothing happened on 2025-03-29, or it was not counted" in shown.out
    assert flatearth("show", "2025-03-29", "--json").json() == []


def test_without_a_day_it_is_the_day_before_today(engine: sa.Engine, office: Office, flatearth: Flatearth) -> None:
    with engine.begin() as connection:
        today: date = connection.execute(sa.text("SELECT now()::date")).scalar_one()
        for day, comments in ((today, 9), (today - DAY, 7)):
            values = {"day": day, "account_id": office.account, "board_id": office.board, "comments": comments}
            connection.execute(sa.insert(tables.daily_reports).values(values))
    assert [row["comments"] for row in flatearth("show", "--json").json()] in ([7], [9]), "9 just after midnight"


# List


def test_list_has_what_each_day_came_to_and_leaves_out_days_without_rows(counted: Office, flatearth: Flatearth) -> None:
    assert counted
    listed = flatearth("list", *SPAN, "--json")

    assert (listed.exit_code, listed.err) == (0, "")
    assert listed.json() == [
        NOUGHT | {"day": "2025-03-30", "accounts": 1, "boards": 1, "active_people": 1, "cards_closed": 1},
        NOUGHT | {"day": "2025-03-31", "accounts": 1, "boards": 1, "comments": 2},
    ]
    header, *lines = flatearth("list", *SPAN).out.splitlines()
    assert header.startswith("day")
    assert [line.split()[0] for line in lines] == ["2025-03-30", "2025-03-31"]


def test_list_of_one_account_has_that_account_only(engine: sa.Engine, counted: Office, flatearth: Flatearth) -> None:
    with engine.begin() as connection:
        other = make.account(connection)
        connection.execute(sa.insert(tables.daily_reports).values(day=TODAY, account_id=other, bundles_mailed=3))
    assert [row["bundles_mailed"] for row in flatearth("list", *SPAN, "--account", other, "--json").json()] == [3]
    assert flatearth("list", *SPAN, "--account", counted.account, "--json").json()[0]["bundles_mailed"] == 0


@pytest.mark.usefixtures("database")
def test_a_list_without_reports_says_so(flatearth: Flatearth) -> None:
    assert flatearth("list", *SPAN).out == "There are no reports from 2025-03-29 to 2025-03-31.\n"
    assert flatearth("list", "--json").json() == []
    assert "from 2025-03-01 to 2025-03-30" in flatearth("list", "--to", "2025-03-30").out, "thirty days"


# csv


def parsed(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


def test_csv_has_a_header_and_a_line_for_each_row_ended_as_the_rfc_says(counted: Office, flatearth: Flatearth) -> None:
    ran = flatearth("csv", *SPAN)

    assert (ran.exit_code, ran.err) == (0, "")
    lines = ran.out.split("\r\n")
    assert lines[0] == "day,account_id,account,board_id,board," + ",".join(METRICS)
    assert lines[1] == f"2025-03-30,{counted.account},Acme,,,0,0,0,0,0,1,0,0,0,0"
    assert lines[2] == f"2025-03-30,{counted.account},Acme,{counted.board},Roadmap,0,1,0,0,0,1,0,0,0,0"
    assert lines[3] == f"2025-03-31,{counted.account},Acme,{counted.board},Roadmap,0,0,0,0,2,0,0,0,0,0"
    assert lines[4:] == [""]


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("\r=1", "'\r=1"),
        ("\uff1d1", "'\uff1d1"),
        ('a "quoted", name\nof two lines', 'a "quoted", name\nof two lines'),
        (
            "\u8a08\u753b \U0001f680 \u0645\u0631\u062d\u0628\u0627",
            "\u8a08\u753b \U0001f680 \u0645\u0631\u062d\u0628\u0627",
        ),
        ("", ""),
    ],
)
def test_names_are_quoted_and_none_is_a_formula(
    engine: sa.Engine, counted: Office, flatearth: Flatearth, name: str, cell: str
) -> None:
    with engine.begin() as connection:
        connection.execute(sa.update(tables.boards).where(tables.boards.c.id == counted.board).values(name=name))
        connection.execute(sa.update(tables.accounts).where(tables.accounts.c.id == counted.account).values(name=name))

    read = parsed(flatearth("csv", *SPAN).out)

    assert [(row["account"], row["board"]) for row in read] == [(cell, ""), (cell, cell), (cell, cell)]


def test_csv_of_one_account_has_that_account_only(engine: sa.Engine, counted: Office, flatearth: Flatearth) -> None:
    with engine.begin() as connection:
        other = make.account(connection)
        connection.execute(sa.insert(tables.daily_reports).values(day=TODAY, account_id=other, bundles_mailed=3))
    assert counted
    assert [row["account_id"] for row in parsed(flatearth("csv", *SPAN, "--account", other).out)] == [str(other)]


@pytest.mark.usefixtures("database")
def test_csv_of_no_rows_is_a_header(flatearth: Flatearth) -> None:
    assert flatearth("csv", *SPAN).out.count("\r\n") == 1


def test_the_csv_of_a_process_is_utf_8_byte_for_byte(engine: sa.Engine, counted: Office) -> None:
    with engine.begin() as connection:
        connection.execute(
            sa.update(tables.boards).where(tables.boards.c.id == counted.board).values(name="\u8a08\u753b")
        )
    done = subprocess.run([FLATEARTH, "reports", "csv", *SPAN], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b",\xe8\xa8\x88\xe7\x94\xbb,0,1," in done.stdout
    assert done.stdout.count(b"\r\n") == done.stdout.count(b"\n") == 4


# Backfill


def test_a_backfill_counts_every_day_with_both_ends_and_says_what_it_did(
    engine: sa.Engine, office: Office, flatearth: Flatearth
) -> None:
    assert office
    ran = flatearth("backfill", *SPAN)

    assert ran == Ran(0, "Counted 3 days, 2025-03-29 to 2025-03-31: 3 rows; 2 days changed.\n", "")
    assert [written(engine, TODAY + number * DAY) for number in (-1, 0, 1)] == [0, 2, 1]


def test_a_second_backfill_changes_nothing(engine: sa.Engine, counted: Office, flatearth: Flatearth) -> None:
    assert counted
    with engine.connect() as connection:
        before = places(connection)

    assert "0 days changed" in flatearth("backfill", *SPAN).out

    with engine.connect() as connection:
        assert places(connection) == before


def test_a_dry_run_says_the_same_and_writes_nothing(engine: sa.Engine, office: Office, flatearth: Flatearth) -> None:
    assert office
    assert flatearth("backfill", *SPAN, "--dry-run").out.endswith(": 3 rows; 2 days would change.\n")
    assert written(engine) == 0


def test_a_backfill_tells_programs_of_each_day(office: Office, flatearth: Flatearth) -> None:
    assert office
    told = flatearth("backfill", *SPAN, "--json").json()
    assert [(day["day"], day["rows"], day["rows_before"], day["changed"], day["comments"]) for day in told] == [
        ("2025-03-29", 0, 0, False, 0),
        ("2025-03-30", 2, 0, True, 0),
        ("2025-03-31", 1, 0, True, 2),
    ]


def test_a_backfill_without_an_end_goes_to_the_day_before_today(engine: sa.Engine, flatearth: Flatearth) -> None:
    with engine.connect() as connection:
        yesterday: date = connection.execute(sa.text("SELECT now()::date - 1")).scalar_one()
    days = [day["day"] for day in flatearth("backfill", "--from", yesterday - DAY, "--json").json()]
    assert days[:2] == [str(yesterday - DAY), str(yesterday)]


def test_today_is_refused_and_counted_when_that_is_asked_for(
    engine: sa.Engine, office: Office, flatearth: Flatearth
) -> None:
    with engine.begin() as connection:
        now: datetime = connection.execute(sa.text("SELECT now()")).scalar_one()
        office.commented(connection, now)
    today = now.astimezone(UTC).date()
    assert_one_line(flatearth("backfill", "--from", today, "--to", today + DAY), 2, f"{today + DAY} is not over")
    assert written(engine, today) == 0
    assert flatearth("backfill", "--from", today, "--to", today, "--unfinished").exit_code == 0
    assert written(engine, today) == 1
    assert_one_line(flatearth("backfill", "--from", today, "--to", today + 9 * DAY, "--unfinished"), 2, "has not begun")


# What goes wrong


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["show", "yesterday"], "DAY 'yesterday' is not a date: it takes YYYY-MM-DD"),
        (["list", "--from", "x"], "--from 'x' is not a date"),
        (["list", "--to", "2025-02-30"], "--to '2025-02-30' is not a date"),
        (["csv", "--from", "2025-03-02", "--to", "2025-03-01"], "from 2025-03-02 is after to 2025-03-01"),
        (["csv", "--from", "2000-01-01", "--to", "2025-03-01"], "it takes 3,660 at most"),
        (["backfill", "--from", "2025-03-02", "--to", "2025-03-01"], "from 2025-03-02 is after to 2025-03-01"),
        (["backfill", "--from", "2025-03-02", "--to", "9999-12-31"], "9999-12-31 is not over"),
        (["backfill", "--from", "9999-12-31", "--to", "9999-12-31", "--unfinished"], "9999-12-31 has not begun"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_usage_is_one_line_that_says_what_it_takes(
    flatearth: Flatearth, arguments: list[str], words: str
) -> None:
    assert_one_line(flatearth(*arguments), 2, words)


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("command", ["list", "csv"])
def test_the_first_days_that_can_be_named_are_a_range_like_any_other(flatearth: Flatearth, command: str) -> None:
    assert flatearth(command, "--to", "0001-01-05").exit_code == 0


@pytest.mark.usefixtures("database")
def test_an_account_that_no_bigint_can_name_is_wrong_usage(flatearth: Flatearth) -> None:
    assert flatearth("list", "--account", 10**30).exit_code == 2


def test_long_work_is_quiet_in_a_pipe(office: Office) -> None:
    assert office
    command = [str(FLATEARTH), "reports", "backfill", *SPAN, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(json.loads(done.stdout)) == 3
