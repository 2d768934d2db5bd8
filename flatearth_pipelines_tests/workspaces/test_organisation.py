from datetime import UTC, datetime
from functools import cache

import polars as pl

from flatearth_pipelines.workspaces.draws import Draws
from flatearth_pipelines.workspaces.organisation import Organisation, expanded, ids, organisation

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)

ACCOUNTS = 2000


@cache
def organised() -> Organisation:
    plan = pl.select(number=pl.int_range(ACCOUNTS), cards=pl.repeat(500, ACCOUNTS, dtype=pl.Int64()))
    return organisation(plan, NOON, Draws("1"))


def share(condition: pl.Series) -> float:
    return float(condition.sum()) / condition.len()


def test_expanding_by_zero_leaves_a_parent_without_children() -> None:
    parents = pl.DataFrame({"id": [1, 2, 3]})
    assert expanded(parents, pl.Series([2, 0, 1])).rows() == [(1, 0), (1, 1), (3, 0)]


def test_ids_count_from_one() -> None:
    assert ids(3).to_list() == [1, 2, 3]


def test_about_three_in_a_hundred_accounts_are_cancelled_within_the_last_sixty_days() -> None:
    cancelled_at = organised().accounts["cancelled_at"]
    assert 0.02 < share(cancelled_at.is_not_null()) < 0.04
    assert cancelled_at.drop_nulls().is_between(pl.lit(NOON).dt.offset_by("-60d"), NOON).all()


def test_no_company_name_comes_twice_also_not_when_the_words_run_out() -> None:
    assert organised().accounts["name"].is_unique().all()


def test_addresses_are_of_domains_that_cannot_exist_and_no_one_shares_theirs() -> None:
    emails = organised().users["email"].drop_nulls()
    assert emails.str.contains(r"^[a-z]+\.[a-z]+@[a-z0-9-]+\.example$").all()
    assert emails.is_unique().all()


def test_some_accounts_lack_an_owner_some_a_system_user_and_a_few_both() -> None:
    roles = (
        organised()
        .users.group_by("account_id")
        .agg(owner=(pl.col("role") == "owner").any(), system=(pl.col("role") == "system").any())
    )
    assert roles.height == ACCOUNTS
    assert 0.02 < share(~roles["owner"]) < 0.06
    assert 0.07 < share(~roles["system"]) < 0.13
    assert 0.01 < share(~roles["owner"] & ~roles["system"]) < 0.03


def test_no_account_has_two_owners_or_two_system_users() -> None:
    single = organised().users.filter(pl.col("role").is_in(["owner", "system"]))
    assert not single.select("account_id", "role").is_duplicated().any()


def test_system_users_have_no_email_and_are_active() -> None:
    system = organised().users.filter(role="system")
    assert system["email"].null_count() == system.height
    assert system["active"].all()


def test_about_three_in_ten_boards_and_two_in_ten_accounts_have_a_period_of_their_own() -> None:
    entropies = organised().entropies
    assert 0.28 < entropies.filter(container_type="board").height / organised().boards.height < 0.32
    assert 0.17 < entropies.filter(container_type="account").height / ACCOUNTS < 0.23
    assert set(entropies["auto_postpone_period_ms"] // 86_400_000) == {3, 7, 11, 30, 90, 365}


def test_a_restricted_board_is_open_to_those_with_an_access_its_creator_among_them() -> None:
    restricted = organised().boards.filter(~pl.col("all_access"))
    creators = restricted.join(
        organised().accesses, left_on=["id", "creator_id"], right_on=["board_id", "user_id"], how="semi"
    )
    assert 0 < restricted.height == creators.height


def test_people_watch_restricted_and_open_boards() -> None:
    watched = organised().accesses.filter(involvement="watching")
    boards = organised().boards.join(watched, left_on="id", right_on="board_id", how="semi")
    assert set(boards["all_access"]) == {True, False}


def test_columns_of_a_board_stand_in_the_places_from_zero() -> None:
    places = organised().columns.group_by("board_id").agg(pl.col("position").sort())
    assert all(list(place) == list(range(len(place))) for place in places["position"])
