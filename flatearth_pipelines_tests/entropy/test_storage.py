"""What is read to decide, and the write that re-checks the decision."""

from typing import Any

import polars as pl
import pytest
import sqlalchemy as sa

from flatearth_pipelines.entropy import storage
from flatearth_pipelines.entropy.forecast import ACTIVE
from flatearth_pipelines.entropy.portions import Shard
from flatearth_pipelines.entropy.staleness import BOARDS, CARDS, CUTOFFS, PEOPLE, PERIODS
from flatearth_pipelines.errors import NotFound
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.entropy import observed
from flatearth_pipelines_tests.factories import DAY, MICROSECOND, NOON

DAY_MS = 86_400_000
UNKNOWN = 999_999_999
LONGEST_MS = 2**63 - 1


def test_the_boards_of_cancelled_accounts_are_not_read(connection: sa.Connection) -> None:
    board_id = make.board(connection, make.account(connection))
    cancelled = make.board(connection, make.account(connection, cancelled_at=NOON))

    read = storage.read_boards(connection)

    assert board_id in read["board_id"]
    assert cancelled not in read["board_id"]
    assert read.schema == BOARDS


def test_every_board_is_in_exactly_one_shard(connection: sa.Connection) -> None:
    for _ in range(6):
        make.board(connection, make.account(connection))

    shards = [storage.read_boards(connection, Shard(remainder, 4)) for remainder in range(4)]

    together = pl.concat(shards).sort("board_id")
    assert together.equals(storage.read_boards(connection).sort("board_id"))
    assert together["board_id"].is_unique().all()


def test_one_board_can_be_read_alone_and_an_unknown_one_gives_no_rows(connection: sa.Connection) -> None:
    account_id = make.account(connection)
    board_id = make.board(connection, account_id)
    make.board(connection, account_id)

    assert storage.read_boards(connection, board_id=board_id).rows() == [(board_id, account_id)]
    assert storage.read_boards(connection, board_id=UNKNOWN).rows() == []


def test_the_period_of_an_account_is_read_with_a_null_board(connection: sa.Connection) -> None:
    account_id = make.account(connection)
    board_id = make.board(connection, account_id)
    make.period(connection, "account", account_id, 7 * DAY)
    make.period_ms(connection, "board", board_id, LONGEST_MS)

    read = storage.read_periods(connection)

    of_the_account = read.filter(account_id=account_id).sort("board_id", nulls_last=True)
    assert of_the_account.rows() == [(account_id, board_id, LONGEST_MS), (account_id, None, 7 * DAY_MS)]
    assert read.schema == PERIODS


def test_only_active_cards_strictly_before_the_cut_off_are_read(connection: sa.Connection) -> None:
    account_id = make.account(connection)
    board_id = make.board(connection, account_id)
    make.card(connection, board_id, idle=7 * DAY)
    before = make.card(connection, board_id, idle=7 * DAY + MICROSECOND)
    make.card(connection, board_id, status="drafted")
    make.card(connection, board_id, closed_at=NOON)
    make.card(connection, board_id, postponed_at=NOON)
    make.card(connection, make.board(connection, account_id))

    read = storage.read_stale_cards(connection, cutoff(board_id))

    assert read.rows() == [(before, account_id, board_id, NOON - 7 * DAY - MICROSECOND)]
    assert read.schema == CARDS


def test_without_boards_no_cards_are_read(connection: sa.Connection) -> None:
    assert storage.read_stale_cards(connection, pl.DataFrame(schema=CUTOFFS)).schema == CARDS


def test_only_system_users_and_active_owners_are_read(connection: sa.Connection) -> None:
    account_id, other_account_id = make.account(connection), make.account(connection)
    owner, system = make.user(connection, account_id, "owner"), make.user(connection, account_id, "system")
    make.user(connection, account_id, "owner", active=False)
    make.user(connection, account_id, "admin")
    make.user(connection, account_id)
    make.user(connection, other_account_id, "owner")

    read = storage.read_people(connection, ids(account_id))

    assert sorted(read.rows()) == [(owner, account_id, False, True), (system, account_id, True, False)]
    assert read.schema == PEOPLE


def test_active_cards_are_counted_per_board_that_has_any(connection: sa.Connection) -> None:
    account_id = make.account(connection)
    board_id, empty = make.board(connection, account_id), make.board(connection, account_id)
    make.backlog(connection, board_id, 3)
    make.card(connection, board_id, status="drafted")
    make.card(connection, empty, closed_at=NOON)

    counts = storage.read_active_counts(connection)

    assert counts.filter(pl.col("board_id").is_in([board_id, empty])).rows() == [(board_id, 3)]
    assert counts.schema == ACTIVE
    assert storage.read_active_counts(connection, board_id).rows() == [(board_id, 3)]


def test_names_and_titles_are_those_of_the_ids_asked_for(connection: sa.Connection) -> None:
    account_id = make.account(connection)
    board_id = make.board(connection, account_id, name='Ideas, "quoted" {1}')
    make.board(connection, account_id)
    card_id = make.card(connection, board_id, number=7, title="")

    assert storage.read_board_names(connection, ids(board_id)).rows() == [(board_id, 'Ideas, "quoted" {1}')]
    assert storage.read_titles(connection, ids(card_id)).rows() == [(card_id, 7, "")]


def test_nothing_asked_for_gives_no_rows_of_the_stated_schema(connection: sa.Connection) -> None:
    make.card(connection, make.board(connection, make.account(connection)))

    assert storage.read_board_names(connection, ids()).equals(pl.DataFrame(schema=storage.BOARD_NAMES))
    assert storage.read_titles(connection, ids()).equals(pl.DataFrame(schema=storage.TITLES))


def test_an_operator_acts_for_the_active_owner_or_admin_with_the_lowest_id(connection: sa.Connection) -> None:
    account_id = make.account(connection)
    make.user(connection, account_id)
    make.user(connection, account_id, "owner", active=False)
    admin = make.user(connection, account_id, "admin")
    make.user(connection, account_id, "owner")

    assert storage.read_default_actor(connection, "account", account_id) == admin
    assert storage.read_default_actor(connection, "board", make.board(connection, account_id)) == admin


@pytest.mark.parametrize("container_type", ["account", "board"])
def test_nobody_acts_for_what_is_not_there(connection: sa.Connection, container_type: str) -> None:
    with pytest.raises(NotFound, match=f"There is no {container_type} {UNKNOWN}"):
        storage.read_default_actor(connection, container_type, UNKNOWN)


def test_nobody_acts_in_an_account_without_an_active_owner_or_admin(connection: sa.Connection) -> None:
    account_id = make.account(connection)
    make.user(connection, account_id)
    make.user(connection, account_id, "owner", active=False)

    with pytest.raises(NotFound, match="no active owner or admin"):
        storage.read_default_actor(connection, "account", account_id)


def test_postpone_changes_exactly_the_cards_of_the_batch_and_says_so(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        account_id = make.account(connection)
        owner = make.user(connection, account_id, "owner")
        board_id = make.board(connection, account_id)
        first, second, _left_out = make.backlog(connection, board_id, 3)
    seen = NOON - 31 * DAY
    batch = decided([(first, account_id, board_id, seen, owner), (second, account_id, board_id, seen, None)])

    with engine.connect() as connection:
        done = storage.postpone(connection, batch, NOON)

    assert sorted(done.card_ids) == [first, second]
    assert done.events == 1
    assert observed.postponed(engine) == [first, second]
    assert observed.recorded(engine) == [first]


@pytest.mark.parametrize(
    "differing", [{"board_id": UNKNOWN}, {"last_active_at": NOON - 31 * DAY - MICROSECOND}, {"card_id": UNKNOWN}]
)
def test_postpone_leaves_alone_what_is_not_as_it_was_read(engine: sa.Engine, differing: dict[str, Any]) -> None:
    with engine.begin() as connection:
        account_id = make.account(connection)
        board_id = make.board(connection, account_id)
        card_id = make.card(connection, board_id)
    read = {"card_id": card_id, "account_id": account_id, "board_id": board_id, "last_active_at": NOON - 31 * DAY}
    batch = decided([(*(read | differing).values(), None)])

    with engine.connect() as connection:
        done = storage.postpone(connection, batch, NOON)

    assert (done.card_ids.len(), done.events) == (0, 0)
    assert observed.postponed(engine) == []


def test_an_empty_batch_changes_nothing(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        done = storage.postpone(connection, decided([]), NOON)

    assert (done.card_ids.to_list(), done.events) == ([], 0)


def cutoff(board_id: int) -> pl.DataFrame:
    """Seven days before `NOON`."""
    before = pl.Series([NOON - 7 * DAY], dtype=pl.Datetime("us", "UTC")).dt.epoch("us")
    return pl.DataFrame({"board_id": ids(board_id), "cutoff_us": before}, schema=CUTOFFS)


def ids(*values: int) -> pl.Series:
    return pl.Series(values, dtype=pl.Int64())


def decided(rows: list[tuple[Any, ...]]) -> pl.DataFrame:
    """A batch as `postpone` takes it."""
    return pl.DataFrame(rows, schema=pl.Schema({**CARDS, "actor_id": pl.Int64()}), orient="row")
