"""`flatearth entropy`, as its `main` runs it, on a real database."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import sqlalchemy as sa

from flatearth_pipelines import tables
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.console import Flatearth, Ran
from flatearth_pipelines_tests.entropy import observed
from flatearth_pipelines_tests.entropy.runs import run
from flatearth_pipelines_tests.factories import DAY, NOON

AS_OF = ("--as-of", NOON.isoformat())
UNKNOWN = "999999999"


@pytest.fixture
def flatearth(main: Flatearth) -> Flatearth:
    """`flatearth entropy` with these arguments."""
    return partial(main, "entropy")


class Office(NamedTuple):
    """An account with a board."""

    account: int
    board: int
    owner: int
    member: int


@pytest.fixture
def office(engine: sa.Engine) -> Office:
    with engine.begin() as connection:
        account_id = make.account(connection)
        return Office(
            account=account_id,
            board=make.board(connection, account_id, name="Roadmap"),
            owner=make.user(connection, account_id, "owner"),
            member=make.user(connection, account_id),
        )


# ------------------------------------------------------------------------------------------------------- show


def test_show_tells_the_period_who_chose_it_and_the_board_s_cards(
    engine: sa.Engine, office: Office, flatearth: Flatearth
) -> None:
    with engine.begin() as connection:
        make.period(connection, "account", office.account, 8 * DAY)
        for idle in (1, 7, 9):
            make.card(connection, office.board, idle=idle * DAY)

    shown = flatearth("show", office.board, *AS_OF, "--json")

    assert (shown.exit_code, shown.err) == (0, "")
    assert shown.json() == {
        "board": office.board,
        "name": "Roadmap",
        "days": "8",
        "chosen_by": "account",
        "active": 3,
        "soon": 2,
        "due": 1,
    }


def test_show_prints_a_table_for_people(office: Office, flatearth: Flatearth) -> None:
    shown = flatearth("show", office.board)

    header, row = shown.out.splitlines()
    assert header.split() == ["board", "name", "days", "chosen", "by", "active", "soon", "due"]
    assert row.split() == [str(office.board), "Roadmap", "30", "default", "0", "0", "0"]


@pytest.mark.parametrize("command", ["show", "soon"])
def test_an_unknown_board_is_a_failure_of_one_line(
    database: str,  # noqa: ARG001 - in the environment
    flatearth: Flatearth,
    command: str,
) -> None:
    ran = flatearth(command, UNKNOWN)

    assert_one_line(ran, 1, f"There is no board {UNKNOWN}")


@pytest.mark.parametrize("command", ["show", "soon"])
def test_a_board_that_no_bigint_can_name_is_a_failure_of_one_line(
    database: str,  # noqa: ARG001 - in the environment
    flatearth: Flatearth,
    command: str,
) -> None:
    assert_one_line(flatearth(command, 10**30), 1, "")


def test_a_board_of_a_cancelled_account_is_not_shown(engine: sa.Engine, office: Office, flatearth: Flatearth) -> None:
    with engine.begin() as connection:
        connection.execute(sa.update(tables.accounts).values(cancelled_at=NOON))

    assert_one_line(flatearth("show", office.board), 1, "its account is cancelled")


def test_a_board_that_is_no_number_is_wrong_usage(flatearth: Flatearth) -> None:
    shown = flatearth("show", "roadmap")

    assert shown.exit_code == 2
    assert "'roadmap' is not a valid integer" in shown.err


# ------------------------------------------------------------------------------------------------ set and clear


@pytest.mark.parametrize("container", ["account", "board"])
def test_a_period_is_set_in_days_and_cleared_again(
    engine: sa.Engine, office: Office, flatearth: Flatearth, container: str
) -> None:
    container_id = getattr(office, container)

    done = flatearth("set", f"--{container}", container_id, "0.5")

    assert done == Ran(0, f"Cards of {container} {container_id} go stale after 0.5 days.\n", "")
    assert chosen(engine) == [(container, container_id, 43_200_000)]

    done = flatearth("clear", f"--{container}", container_id)

    assert done == Ran(0, f"{container.capitalize()} {container_id} inherits its period again.\n", "")
    assert chosen(engine) == []


def test_clearing_what_was_never_set_is_done(office: Office, flatearth: Flatearth) -> None:
    assert flatearth("clear", "--board", office.board).exit_code == 0


NO_PERIODS = ("0", "-1", "-0.5", "thirty", "nan", "1e999999", "0.000000001", "1e12", "")


def test_a_period_that_is_not_positive_or_no_number_is_wrong_usage_and_changes_nothing(
    engine: sa.Engine, office: Office, flatearth: Flatearth, subtests: pytest.Subtests
) -> None:
    for days in NO_PERIODS:
        with subtests.test(days=days):
            assert_one_line(flatearth("set", "--board", office.board, days), 2, f"{days!r} is not a period")
            assert chosen(engine) == []


@pytest.mark.parametrize("arguments", [(), ("--account", "1", "--board", "1")])
def test_none_or_two_containers_are_wrong_usage(flatearth: Flatearth, arguments: tuple[str, ...]) -> None:
    assert_one_line(flatearth("set", *arguments, "30"), 2, "Name one container: --account ID or --board ID")
    assert_one_line(flatearth("clear", *arguments), 2, "Name one container: --account ID or --board ID")


@pytest.mark.parametrize("container", ["account", "board"])
def test_a_period_of_what_is_not_there_is_a_failure(
    database: str,  # noqa: ARG001 - in the environment
    flatearth: Flatearth,
    container: str,
) -> None:
    assert_one_line(flatearth("set", f"--{container}", UNKNOWN, "30"), 1, f"There is no {container} {UNKNOWN}")


def test_a_member_who_sets_a_period_is_refused_and_changes_nothing(
    engine: sa.Engine, office: Office, flatearth: Flatearth
) -> None:
    refused = flatearth("set", "--board", office.board, "--actor", office.member, "30")

    assert_one_line(refused, 1, f"user {office.member} is not an owner or admin of account {office.account}")
    assert chosen(engine) == []


@pytest.mark.parametrize("actor", ["0", UNKNOWN])
def test_an_actor_who_is_not_there_is_refused_and_changes_nothing(
    engine: sa.Engine, office: Office, flatearth: Flatearth, actor: str
) -> None:
    refused = flatearth("set", "--board", office.board, "--actor", actor, "30")

    assert_one_line(refused, 1, f"there is no user {actor}")
    assert chosen(engine) == []


# ------------------------------------------------------------------------------------------- soon and preview


def test_soon_lists_overdue_cards_too_longest_idle_first(
    engine: sa.Engine, office: Office, flatearth: Flatearth
) -> None:
    with engine.begin() as connection:
        coming = make.card(connection, office.board, idle=23 * DAY, number=1, title="Coming")
        overdue = make.card(connection, office.board, idle=31 * DAY, number=2, title="Overdue")
        make.card(connection, office.board, idle=22 * DAY)

    listed = flatearth("soon", office.board, *AS_OF, "--json")

    assert listed.json() == [
        {"card_id": overdue, "number": 2, "title": "Overdue", "last_active_at": (NOON - 31 * DAY).isoformat()},
        {"card_id": coming, "number": 1, "title": "Coming", "last_active_at": (NOON - 23 * DAY).isoformat()},
    ]
    assert [line.split()[2] for line in flatearth("soon", office.board, *AS_OF).out.splitlines()[1:]] == [
        "Overdue",
        "Coming",
    ]


def test_soon_says_so_when_there_is_nothing(office: Office, flatearth: Flatearth) -> None:
    assert flatearth("soon", office.board) == Ran(0, "No card will be postponed soon.\n", "")
    assert flatearth("soon", office.board, "--json").json() == []


def test_preview_promises_what_the_next_run_does_and_writes_nothing(
    engine: sa.Engine, office: Office, flatearth: Flatearth
) -> None:
    with engine.begin() as connection:
        other = make.board(connection, office.account, name="Ideas")
        make.period(connection, "board", other, DAY)
        make.card(connection, office.board, idle=23 * DAY)
        make.backlog(connection, office.board, 2)
        make.backlog(connection, other, 3, idle=2 * DAY)
    before = observed.everything(engine)

    promised = flatearth("preview", *AS_OF, "--json").json()

    assert observed.everything(engine) == before
    assert promised["as_of"] == NOON.isoformat()
    assert [(row["board"], row["due"], row["soon"]) for row in promised["boards"]] == [
        (other, 3, 3),
        (office.board, 2, 3),
    ]
    assert promised["cards"] == []
    assert run(engine).by_board.rows() == [(row["board"], row["due"]) for row in promised["boards"]]


def test_preview_of_one_board_names_its_cards(engine: sa.Engine, office: Office, flatearth: Flatearth) -> None:
    with engine.begin() as connection:
        at_its_period = make.card(connection, office.board, idle=30 * DAY, title="Not yet")
        due = make.card(connection, office.board, idle=31 * DAY, title="[/red] due")
        make.card(connection, make.board(connection, office.account))

    promised = flatearth("preview", "--board", office.board, *AS_OF, "--json").json()

    assert [(card["card"], card["title"], card["postponed"]) for card in promised["cards"]] == [
        (due, "[/red] due", "by the next run"),
        (at_its_period, "Not yet", "soon"),
    ]
    assert "[/red] due" in flatearth("preview", "--board", office.board, *AS_OF).out


def test_preview_ends_with_one_sentence_in_utc(engine: sa.Engine, office: Office, flatearth: Flatearth) -> None:
    with engine.begin() as connection:
        make.backlog(connection, office.board, 2)
        make.card(connection, office.board, idle=30 * DAY)

    for as_of in ("2026-11-22T12:00:00+00:00", "2026-11-22T17:30:00+05:30"):
        out = flatearth("preview", "--as-of", as_of).out
        assert out.splitlines()[-1] == "As of 2026-11-22 12:00 UTC 2 cards are due, 1 more will be soon."


def test_preview_of_many_boards_lists_fifty_and_says_how_many_more(
    engine: sa.Engine, office: Office, flatearth: Flatearth
) -> None:
    with engine.begin() as connection:
        for _ in range(51):
            make.board(connection, office.account)

    assert "... and 2 more boards (all of them with --json)" in flatearth("preview").out
    assert len(flatearth("preview", "--json").json()["boards"]) == 52


def test_an_as_of_without_zone_or_that_is_no_date_is_wrong_usage(
    office: Office, flatearth: Flatearth, subtests: pytest.Subtests
) -> None:
    for as_of in ("2026-11-22T12:00:00", "2026-11-22", "tomorrow", ""):
        for command in (("preview",), ("show", office.board), ("soon", office.board)):
            with subtests.test(as_of=as_of, command=command[0]):
                assert_one_line(flatearth(*command, "--as-of", as_of), 2, f"as_of {as_of!r}")


# --------------------------------------------------------------------------------------- the database, the process


def test_a_database_that_is_not_there_is_a_failure_of_one_line_without_the_password(
    monkeypatch: pytest.MonkeyPatch, flatearth: Flatearth
) -> None:
    monkeypatch.setenv("FLATEARTH_DATABASE_URL", "postgresql://me:s3cret@127.0.0.1:1/none")

    ran = flatearth("preview")

    assert_one_line(ran, 1, "Postgres cannot be reached")
    assert "s3cret" not in ran.err


def test_a_database_that_is_not_migrated_is_a_failure_that_names_the_command(
    empty_database: str,  # noqa: ARG001 - in the environment
    flatearth: Flatearth,
) -> None:
    assert_one_line(flatearth("preview"), 1, "run `flatearth db migrate`")


def test_a_database_further_than_the_code_is_a_failure_and_nothing_is_changed(
    engine: sa.Engine, office: Office, flatearth: Flatearth
) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text("INSERT INTO flatearth.migration_checksums VALUES ('9999_future', 'x')"))

    assert_one_line(flatearth("set", "--board", office.board, "7"), 1, "9999_future is unknown to it")
    assert chosen(engine) == []


def test_the_console_script_says_the_same_in_a_process_of_its_own(office: Office) -> None:
    script = Path(sys.executable).parent / "flatearth"

    done = subprocess.run([script, "entropy", "show", str(office.board), "--json"], capture_output=True, check=False)
    refused = subprocess.run([script, "entropy", "show", UNKNOWN], capture_output=True, text=True, check=False)

    assert (done.returncode, json.loads(done.stdout)["board"], done.stderr) == (0, office.board, b"")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == f"Error: There is no board {UNKNOWN}, or its account is cancelled\n"


# ---------------------------------------------------------------------------------------------------- helpers


def assert_one_line(ran: Ran, exit_code: int, words: str) -> None:
    assert (ran.exit_code, ran.out) == (exit_code, "")
    assert words in ran.err
    assert ran.err.startswith("Error: ")
    assert ran.err.count("\n") == 1


def chosen(engine: sa.Engine) -> list[tuple[str, int, int]]:
    rows = observed.rows(engine, tables.entropies)
    return [(row["container_type"], row["container_id"], row["auto_postpone_period_ms"]) for row in rows]
