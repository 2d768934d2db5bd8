"""The standing part of a sample workspace: accounts, their people, boards, columns and tags."""

from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

from flatearth_pipelines.workspaces import words
from flatearth_pipelines.workspaces.draws import Draws
from flatearth_pipelines.workspaces.workspace import ACCESSES, ACCOUNTS, AT, BOARDS, COLUMNS, ENTROPIES, TAGS, USERS

CANCELLED_ACCOUNTS = 0.03
"""Share that has left, within the last sixty days; nothing happened there afterwards."""

OWN_PERIOD_ACCOUNTS = 0.2
OWN_PERIOD_BOARDS = 0.3
PERIODS_DAYS = pl.Series([3, 7, 11, 30, 90, 365])

_WITHOUT_OWNER = (0.0, 0.04)
_WITHOUT_SYSTEM_USER = (0.02, 0.12)
"""Overlapping slices of all accounts: some have neither."""

_RESTRICTED_BOARDS = 0.2
_WATCHERS = 0.15
_INACTIVE_PEOPLE = 0.1

_COMPANY_STEP = 1009
"""A prime: neighbouring accounts get unlike names, and no name comes twice before all have come once."""

_DAY = timedelta(days=1)
_DAY_MS = 86_400_000


@dataclass(frozen=True)
class Organisation:
    """Frames as in `workspace`, and beside them the ranges of ids that cards are drawn from.

    `card_accounts` has a row per account: `cards`, `first_board`, `boards`.
    `card_boards` has a row per board, in the order of their ids: `account_id`, `board_id`, `first_member`, `members`,
    `first_column`, `columns`, `first_tag`, `tags`, and `since` and `until`, between which things happen there.
    """

    accounts: pl.DataFrame
    users: pl.DataFrame
    boards: pl.DataFrame
    entropies: pl.DataFrame
    accesses: pl.DataFrame
    columns: pl.DataFrame
    tags: pl.DataFrame
    card_accounts: pl.DataFrame
    card_boards: pl.DataFrame


def organisation(plan: pl.DataFrame, as_of: datetime, draws: Draws) -> Organisation:
    """One account per row of the plan: `number`, its place among all accounts from 0, and its `cards`."""
    accounts = _accounts(plan, as_of, draws)
    boards = _boards(accounts, draws)
    ranges = ["first_member", "members", "first_column", "columns", "first_tag", "tags"]
    return Organisation(
        accounts=accounts.select(ACCOUNTS.names()),
        users=_users(accounts, draws),
        boards=boards.select(BOARDS.names()),
        entropies=_entropies(accounts, boards, draws),
        accesses=_accesses(boards, draws),
        columns=_columns(boards),
        tags=_tags(accounts, draws),
        card_accounts=accounts.select("cards", "first_board", "boards"),
        card_boards=boards.select("account_id", *ranges, "until", board_id="id", since="created_at"),
    )


def expanded(parents: pl.DataFrame, counts: pl.Series) -> pl.DataFrame:
    """Each parent's row as often as its count says, with an `ordinal` from 0."""
    return parents.with_columns(ordinal=pl.int_ranges(counts)).explode("ordinal", empty_as_null=False)


def ids(rows: int) -> pl.Series:
    """The ids from 1 to the number of rows."""
    return pl.int_range(1, rows + 1, dtype=pl.Int64(), eager=True)


def _first_ids(counts: pl.Series) -> pl.Series:
    """The id of each parent's first child, where children count from 1 in the order of their parents."""
    return counts.cum_sum() - counts + 1


def _accounts(plan: pl.DataFrame, as_of: datetime, draws: Draws) -> pl.DataFrame:
    rows = plan.height
    today = pl.repeat(as_of, rows, dtype=AT, eager=True)
    cancelled = draws.chance(CANCELLED_ACCOUNTS, rows)
    until = draws.instants(today - 60 * _DAY, today).zip_with(cancelled, today)
    founded = draws.instants(until - 2000 * _DAY, until - 300 * _DAY)
    leadership = draws.fractions(rows)
    with_system_user = ~leadership.is_between(*_WITHOUT_SYSTEM_USER, closed="left")
    people = draws.between(4, 20, rows, skew=2)
    users = people + with_system_user.cast(pl.Int64())
    boards = draws.between(5, 15, rows)
    tags = draws.between(5, 15, rows)
    return plan.select(
        "cards",
        id=ids(rows),
        name=_company_names(plan["number"]),
        cancelled_at=until.set(~cancelled, None),
        created_at=founded,
        # People join and tags are made in the first tenth of an account's life, boards come after.
        settled=founded + (until - founded) * 0.1,
        until=until,
        with_owner=~leadership.is_between(*_WITHOUT_OWNER, closed="left"),
        with_system_user=with_system_user,
        people=people,
        users=users,
        first_user=_first_ids(users),
        boards=boards,
        first_board=_first_ids(boards),
        tags=tags,
        first_tag=_first_ids(tags),
    )


def _company_names(number: pl.Series) -> pl.Series:
    seconds = words.COMPANY_SECOND_WORDS.len()
    names = words.COMPANY_FIRST_WORDS.len() * seconds
    pair = number * _COMPANY_STEP % names
    name = words.COMPANY_FIRST_WORDS.gather(pair // seconds) + " " + words.COMPANY_SECOND_WORDS.gather(pair % seconds)
    return name.zip_with(number < names, name + " " + (number // names + 1).cast(pl.String()))


def _users(accounts: pl.DataFrame, draws: Draws) -> pl.DataFrame:
    offsets = draws.between(0, words.FIRST_NAMES.len() - 1, accounts.height)
    users = expanded(accounts.with_columns(offset=offsets), accounts["users"])
    rows = users.height
    # Consecutive first names from an offset: no two people of an account share one.
    firsts = words.FIRST_NAMES.gather((users["offset"] + users["ordinal"]) % words.FIRST_NAMES.len())
    lasts = draws.chosen(words.LAST_NAMES, rows)
    domain = users["name"].str.to_lowercase().str.replace_all(" ", "-") + ".example"
    joined = draws.instants(users["created_at"], users["settled"])
    is_system = pl.col("ordinal") == pl.col("people")
    return users.select(
        id=ids(rows),
        account_id="id",
        name=pl.when(is_system).then(pl.lit("System")).otherwise(firsts + " " + lasts),
        email=pl.when(~is_system).then((firsts + "." + lasts).str.to_lowercase() + "@" + domain),
        role=pl.when(is_system)
        .then(pl.lit("system"))
        .when(pl.col("with_owner") & (pl.col("ordinal") == 0))
        .then(pl.lit("owner"))
        .when((pl.col("ordinal") <= 1) | draws.chance(0.05, rows))
        .then(pl.lit("admin"))
        .otherwise(pl.lit("member")),
        # The founder stays: an account without an active owner is the exception that `with_owner` makes.
        active=is_system | (pl.col("ordinal") == 0) | ~draws.chance(_INACTIVE_PEOPLE, rows),
        verified_at=pl.when(~is_system & draws.chance(0.95, rows)).then(joined),
        time_zone=pl.when(is_system).then(pl.lit("UTC")).otherwise(draws.chosen(words.TIME_ZONES, rows)),
        created_at=joined,
    ).select(USERS.names())


def _boards(accounts: pl.DataFrame, draws: Draws) -> pl.DataFrame:
    offsets = draws.between(0, words.BOARDS.len() - 1, accounts.height)
    boards = expanded(accounts.with_columns(offset=offsets), accounts["boards"])
    rows = boards.height
    restricted = draws.chance(_RESTRICTED_BOARDS, rows)
    members = (boards["people"] // 2).zip_with(restricted, boards["people"])
    first_member = boards["first_user"] + draws.below(boards["people"] - members + 1)
    columns = draws.between(3, words.COLUMNS.len(), rows)
    return boards.select(
        "first_tag",
        "tags",
        "until",
        id=ids(rows),
        account_id="id",
        creator_id=first_member + draws.below(members),
        name=words.BOARDS.gather((boards["offset"] + boards["ordinal"]) % words.BOARDS.len()),
        all_access=~restricted,
        created_at=draws.instants(boards["settled"], boards["until"] - 30 * _DAY, skew=1.5),
        first_member=first_member,
        members=members,
        columns=columns,
        first_column=_first_ids(columns),
    )


def _entropies(accounts: pl.DataFrame, boards: pl.DataFrame, draws: Draws) -> pl.DataFrame:
    of_accounts = accounts.select(account_id="id", container_type=pl.lit("account"), container_id="id").filter(
        draws.chance(OWN_PERIOD_ACCOUNTS, accounts.height)
    )
    of_boards = boards.select("account_id", container_type=pl.lit("board"), container_id="id").filter(
        draws.chance(OWN_PERIOD_BOARDS, boards.height)
    )
    entropies = pl.concat([of_accounts, of_boards])
    return entropies.with_columns(
        id=ids(entropies.height), auto_postpone_period_ms=draws.chosen(PERIODS_DAYS, entropies.height) * _DAY_MS
    ).select(ENTROPIES.names())


def _accesses(boards: pl.DataFrame, draws: Draws) -> pl.DataFrame:
    """The members of restricted boards, and those who watch a board that is open to all."""
    members = expanded(boards, boards["members"])
    members = members.with_columns(watching=draws.chance(_WATCHERS, members.height)).filter(
        ~pl.col("all_access") | pl.col("watching")
    )
    return members.select(
        id=ids(members.height),
        account_id="account_id",
        board_id="id",
        user_id=pl.col("first_member") + pl.col("ordinal"),
        involvement=pl.when("watching").then(pl.lit("watching")).otherwise(pl.lit("access_only")),
    ).select(ACCESSES.names())


def _columns(boards: pl.DataFrame) -> pl.DataFrame:
    columns = expanded(boards.select("id", "account_id"), boards["columns"])
    return columns.select(
        id=ids(columns.height),
        account_id="account_id",
        board_id="id",
        name=words.COLUMNS.gather(columns["ordinal"]),
        position="ordinal",
    ).select(COLUMNS.names())


def _tags(accounts: pl.DataFrame, draws: Draws) -> pl.DataFrame:
    offsets = draws.between(0, words.TAGS.len() - 1, accounts.height)
    tags = expanded(accounts.with_columns(offset=offsets), accounts["tags"])
    return tags.select(
        id=ids(tags.height),
        account_id="id",
        title=words.TAGS.gather((tags["offset"] + tags["ordinal"]) % words.TAGS.len()),
        created_at=draws.instants(tags["created_at"], tags["settled"]),
    ).select(TAGS.names())
