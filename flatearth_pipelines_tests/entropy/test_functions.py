"""The SQL functions that an application calls, and their Python twins in `storage`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from flatearth_pipelines import tables
from flatearth_pipelines.entropy import functions
from flatearth_pipelines.errors import FlatEarthError, NotFound, NotPermitted, WrongUsage
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.factories import DAY, MICROSECOND, NOON

DAY_MS = 86_400_000
UNKNOWN = 999_999_999
LONGEST_MS = 2**63 - 1


class Office(NamedTuple):
    """An account with everybody who may or may not act on its board."""

    account: int
    board: int
    owner: int
    admin: int
    member: int
    system: int
    inactive_owner: int
    stranger: int
    """An active owner of another account."""


@pytest.fixture
def office(connection: sa.Connection) -> Office:
    account_id = make.account(connection)
    return Office(
        account=account_id,
        board=make.board(connection, account_id),
        owner=make.user(connection, account_id, "owner"),
        admin=make.user(connection, account_id, "admin"),
        member=make.user(connection, account_id),
        system=make.user(connection, account_id, "system"),
        inactive_owner=make.user(connection, account_id, "owner", active=False),
        stranger=make.user(connection, make.account(connection), "owner"),
    )


PERIOD = "SELECT flatearth.auto_postpone_period_ms(:actor_id, :board_id)"


def test_the_effective_period_is_the_board_s_then_the_account_s_then_thirty_days(
    connection: sa.Connection, office: Office
) -> None:
    def effective() -> int:
        of_the_twin = functions.auto_postpone_period_ms(connection, office.member, office.board)
        named = {"actor_id": office.member, "board_id": office.board}
        assert of_the_twin == connection.execute(sa.text(PERIOD), named).scalar_one()
        return of_the_twin

    assert effective() == 30 * DAY_MS
    make.period(connection, "account", office.account, 7 * DAY)
    assert effective() == 7 * DAY_MS
    make.period_ms(connection, "board", office.board, LONGEST_MS)
    assert effective() == LONGEST_MS


def test_a_member_reads_the_period_of_a_private_board_only_with_access(
    connection: sa.Connection, office: Office
) -> None:
    board_id = make.board(connection, office.account, all_access=False)
    with pytest.raises(NotPermitted), connection.begin_nested():
        functions.auto_postpone_period_ms(connection, office.member, board_id)

    connection.execute(
        sa.insert(tables.accesses).values(
            account_id=office.account, board_id=board_id, user_id=office.member, involvement="access_only"
        )
    )

    assert functions.auto_postpone_period_ms(connection, office.member, board_id) == 30 * DAY_MS
    for actor_id in (office.owner, office.admin, office.system):
        assert functions.auto_postpone_period_ms(connection, actor_id, board_id) == 30 * DAY_MS


class Reading(NamedTuple):
    """A call on behalf of somebody who may not, or about what is not there."""

    why: str
    sqlstate: str
    error: type[FlatEarthError]
    arguments: Callable[[Office], tuple[Any, Any]]
    """The actor and the board."""


READINGS = [
    Reading("an inactive actor", "42501", NotPermitted, lambda office: (office.inactive_owner, office.board)),
    Reading("an actor of another account", "42501", NotPermitted, lambda office: (office.stranger, office.board)),
    Reading("an unknown actor", "P0002", NotFound, lambda office: (UNKNOWN, office.board)),
    Reading("an unknown board", "P0002", NotFound, lambda office: (office.owner, UNKNOWN)),
    Reading("no actor", "22023", WrongUsage, lambda office: (None, office.board)),
    Reading("no board", "22023", WrongUsage, lambda office: (office.owner, None)),
]


@pytest.mark.parametrize("function", ["auto_postpone_period_ms", "postponing_soon"])
@pytest.mark.parametrize("reading", READINGS, ids=[reading.why for reading in READINGS])
def test_a_reading_that_is_refused_has_its_sqlstate_and_error(
    connection: sa.Connection, office: Office, reading: Reading, function: str
) -> None:
    actor_id, board_id = reading.arguments(office)

    call = f"SELECT flatearth.{function}(:actor_id, :board_id)"
    assert refused(connection, call, actor_id=actor_id, board_id=board_id) == reading.sqlstate
    with pytest.raises(reading.error) as refusal:
        getattr(functions, function)(connection, actor_id, board_id)
    assert "\n" not in str(refusal.value)


SET = "SELECT flatearth.set_auto_postpone_period(:actor_id, :container_type, :container_id, :period_ms)"


@pytest.mark.parametrize("container_type", ["account", "board"])
@pytest.mark.parametrize("role", ["owner", "admin"])
def test_an_owner_or_admin_sets_changes_and_clears_a_period(
    connection: sa.Connection, office: Office, role: str, container_type: str
) -> None:
    actor_id, container_id = getattr(office, role), getattr(office, container_type)
    container = {"actor_id": actor_id, "container_type": container_type, "container_id": container_id}

    for period_ms in (7 * DAY_MS, 1, LONGEST_MS):
        connection.execute(sa.text(SET), container | {"period_ms": period_ms})
        assert functions.auto_postpone_period_ms(connection, actor_id, office.board) == period_ms
        functions.set_auto_postpone_period(connection, actor_id, container_type, container_id, period_ms - 1 or 2)
        assert functions.auto_postpone_period_ms(connection, actor_id, office.board) == (period_ms - 1 or 2)

    functions.set_auto_postpone_period(connection, actor_id, container_type, container_id, None)
    assert chosen(connection, office.account) == []
    connection.execute(sa.text(SET), container | {"period_ms": None})
    assert functions.auto_postpone_period_ms(connection, actor_id, office.board) == 30 * DAY_MS


def test_a_container_has_one_row_however_often_its_period_is_set(connection: sa.Connection, office: Office) -> None:
    for period_ms in (1, 2, 3):
        functions.set_auto_postpone_period(connection, office.owner, "board", office.board, period_ms)

    assert chosen(connection, office.account) == [("board", office.board, 3)]


def test_clearing_the_board_s_period_keeps_the_account_s(connection: sa.Connection, office: Office) -> None:
    functions.set_auto_postpone_period(connection, office.owner, "account", office.account, 1)
    functions.set_auto_postpone_period(connection, office.owner, "board", office.board, 2)

    functions.set_auto_postpone_period(connection, office.owner, "board", office.board, None)

    assert chosen(connection, office.account) == [("account", office.account, 1)]


class Setting(NamedTuple):
    """A call that must change nothing."""

    why: str
    sqlstate: str
    error: type[FlatEarthError]
    changed: Callable[[Office], dict[str, Any]]


SETTINGS = [
    Setting("an inactive owner", "42501", NotPermitted, lambda office: {"actor_id": office.inactive_owner}),
    Setting("an owner of another account", "42501", NotPermitted, lambda office: {"actor_id": office.stranger}),
    Setting("a member", "42501", NotPermitted, lambda office: {"actor_id": office.member}),
    Setting("the system user", "42501", NotPermitted, lambda office: {"actor_id": office.system}),
    Setting(
        "a member who clears", "42501", NotPermitted, lambda office: {"actor_id": office.member, "period_ms": None}
    ),
    Setting("an unknown actor", "P0002", NotFound, lambda _: {"actor_id": UNKNOWN}),
    Setting("an unknown board", "P0002", NotFound, lambda _: {"container_id": UNKNOWN}),
    Setting("an unknown account", "P0002", NotFound, lambda _: {"container_type": "account", "container_id": UNKNOWN}),
    Setting("an unknown kind of container", "22023", WrongUsage, lambda _: {"container_type": "card"}),
    Setting("a kind in capitals", "22023", WrongUsage, lambda _: {"container_type": "Board"}),
    Setting("no kind", "22023", WrongUsage, lambda _: {"container_type": None}),
    Setting("no container", "22023", WrongUsage, lambda _: {"container_id": None}),
    Setting("no actor", "22023", WrongUsage, lambda _: {"actor_id": None}),
    Setting("zero", "22023", WrongUsage, lambda _: {"period_ms": 0}),
    Setting("a negative period", "22023", WrongUsage, lambda _: {"period_ms": -1}),
    Setting("the most negative period", "22023", WrongUsage, lambda _: {"period_ms": -(2**63)}),
]


@pytest.mark.parametrize("setting", SETTINGS, ids=[setting.why for setting in SETTINGS])
def test_a_setting_that_is_refused_has_its_sqlstate_and_error_and_changes_nothing(
    connection: sa.Connection, office: Office, setting: Setting
) -> None:
    make.period(connection, "board", office.board, 9 * DAY)
    good = {"actor_id": office.owner, "container_type": "board", "container_id": office.board, "period_ms": DAY_MS}
    arguments: dict[str, Any] = good | setting.changed(office)

    assert refused(connection, SET, **arguments) == setting.sqlstate
    with pytest.raises(setting.error) as refusal, connection.begin_nested():
        functions.set_auto_postpone_period(connection, *arguments.values())

    assert "\n" not in str(refusal.value)
    assert chosen(connection, office.account) == [("board", office.board, 9 * DAY_MS)]


@pytest.mark.parametrize("period_ms", ["'thirty'", "'1.5'", "9223372036854775808"])
def test_what_is_no_bigint_is_refused_before_the_function_sees_it(
    connection: sa.Connection, office: Office, period_ms: str
) -> None:
    call = f"SELECT flatearth.set_auto_postpone_period({office.owner}, 'board', {office.board}, {period_ms})"

    assert refused(connection, call) in {"22P02", "42883"}  # invalid text representation, no such function
    assert chosen(connection, office.account) == []


@pytest.mark.parametrize("period_ms", [0, -1])
def test_the_table_itself_refuses_a_period_that_is_not_positive(
    connection: sa.Connection, office: Office, period_ms: int
) -> None:
    insert = (
        "INSERT INTO flatearth.entropies (account_id, container_type, container_id, auto_postpone_period_ms)"
        " VALUES (:account, 'account', :account, :period_ms)"
    )

    assert refused(connection, insert, account=office.account, period_ms=period_ms) == "23514"


def soon_ids(connection: sa.Connection, office: Office) -> list[int]:
    """By the function and by its twin, which agree."""
    of_the_twin = functions.postponing_soon(connection, office.member, office.board, NOON)
    call = sa.text("SELECT id FROM flatearth.postponing_soon(:actor_id, :board_id, :as_of)")
    named = {"actor_id": office.member, "board_id": office.board, "as_of": NOON}
    assert list(connection.execute(call, named).scalars()) == of_the_twin["card_id"].to_list()
    return of_the_twin["card_id"].to_list()


def test_a_card_exactly_at_three_quarters_of_its_period_is_not_soon(connection: sa.Connection, office: Office) -> None:
    make.period(connection, "board", office.board, 8 * DAY)
    make.card(connection, office.board, idle=6 * DAY)
    past = make.card(connection, office.board, idle=6 * DAY + MICROSECOND)

    assert soon_ids(connection, office) == [past]


def test_three_quarters_of_one_millisecond_are_exact_to_the_microsecond(
    connection: sa.Connection, office: Office
) -> None:
    make.period_ms(connection, "board", office.board, 1)
    make.card(connection, office.board, idle=750 * MICROSECOND)
    past = make.card(connection, office.board, idle=751 * MICROSECOND)

    assert soon_ids(connection, office) == [past]


def test_overdue_cards_are_soon_too_and_the_longest_idle_come_first(connection: sa.Connection, office: Office) -> None:
    soon = make.card(connection, office.board, idle=23 * DAY)
    ancient = make.card(connection, office.board, idle=900 * DAY)
    overdue = make.card(connection, office.board, idle=31 * DAY)

    assert soon_ids(connection, office) == [ancient, overdue, soon]


def test_only_eligible_cards_of_that_board_are_soon(connection: sa.Connection, office: Office) -> None:
    make.card(connection, office.board, status="drafted")
    make.card(connection, office.board, closed_at=NOON)
    make.card(connection, office.board, postponed_at=NOON)
    make.card(connection, office.board, idle=-DAY)
    make.card(connection, make.board(connection, office.account))

    assert soon_ids(connection, office) == []


def test_nothing_of_a_cancelled_account_is_soon(connection: sa.Connection, office: Office) -> None:
    make.card(connection, office.board)
    cancelled = sa.update(tables.accounts).where(tables.accounts.c.id == office.account).values(cancelled_at=NOON)
    connection.execute(cancelled)

    assert soon_ids(connection, office) == []


@pytest.mark.parametrize("period_ms", [LONGEST_MS, LONGEST_MS // 750 + 1])
def test_a_period_as_long_as_a_bigint_overflows_nowhere(
    connection: sa.Connection, office: Office, period_ms: int
) -> None:
    make.period_ms(connection, "account", office.account, period_ms)
    make.card(connection, office.board, idle=700_000 * DAY)

    assert soon_ids(connection, office) == []


def test_soon_is_judged_by_the_database_s_now_unless_told_otherwise(connection: sa.Connection, office: Office) -> None:
    now = sa.text("UPDATE flatearth.cards SET last_active_at = now() - :idle WHERE id = :id")
    recent, old = make.card(connection, office.board), make.card(connection, office.board)
    connection.execute(now, {"id": recent, "idle": 22.5 * DAY})
    connection.execute(now, {"id": old, "idle": 22.5 * DAY + MICROSECOND})

    assert functions.postponing_soon(connection, office.member, office.board)["card_id"].to_list() == [old]


def test_the_function_returns_whole_cards_and_the_twin_its_schema(connection: sa.Connection, office: Office) -> None:
    card_id = make.card(connection, office.board, number=7, title="Old")
    call = sa.text("SELECT * FROM flatearth.postponing_soon(:actor_id, :board_id, :as_of)")

    (row,) = connection.execute(call, {"actor_id": office.member, "board_id": office.board, "as_of": NOON}).mappings()
    twin = functions.postponing_soon(connection, office.member, office.board, NOON)

    assert set(row) == set(tables.cards.c.keys())
    assert twin.rows() == [(card_id, 7, "Old", NOON - 31 * DAY)]
    assert twin.schema == functions.SOON_CARDS


def chosen(connection: sa.Connection, account_id: int) -> list[tuple[str, int, int]]:
    """The periods that stand in the table for this account: kind, container, milliseconds."""
    entropies = tables.entropies.c
    query = sa.select(entropies.container_type, entropies.container_id, entropies.auto_postpone_period_ms)
    return [tuple(row) for row in connection.execute(query.where(entropies.account_id == account_id))]


def refused(connection: sa.Connection, statement: str, **values: Any) -> str:
    """The SQLSTATE with which Postgres refuses the statement; the transaction goes on."""
    with pytest.raises(DBAPIError) as refusal, connection.begin_nested():
        connection.execute(sa.text(statement), values)
    return str(getattr(refusal.value.orig, "sqlstate", None))
