from datetime import UTC, datetime, timedelta
from functools import cache

import polars as pl

from flatearth_pipelines.workspaces.draws import Draws
from flatearth_pipelines.workspaces.organisation import organisation
from flatearth_pipelines.workspaces.work import HISTORY_PERIOD, Work, work

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)

SINCE = NOON - HISTORY_PERIOD

CARDS = 20_000


@cache
def worked() -> Work:
    draws = Draws("1")
    return work(organisation(pl.DataFrame({"number": [0, 1], "cards": [CARDS - 1, 1]}), NOON, draws), NOON, draws)


def in_state(*, published: bool, closed: bool, postponed: bool) -> pl.DataFrame:
    return worked().cards.filter(
        (pl.col("status") == "published") == published,
        pl.col("closed_at").is_not_null() == closed,
        pl.col("postponed_at").is_not_null() == postponed,
    )


def test_cards_are_drafted_active_closed_or_postponed_and_nothing_in_between() -> None:
    drafted = in_state(published=False, closed=False, postponed=False)
    active = in_state(published=True, closed=False, postponed=False)
    closed = in_state(published=True, closed=True, postponed=False)
    postponed = in_state(published=True, closed=False, postponed=True)
    assert drafted.height + active.height + closed.height + postponed.height == CARDS
    assert 0.45 < active.height / CARDS < 0.55
    assert min(drafted.height, closed.height, postponed.height) > 0.05 * CARDS


def test_active_cards_are_in_a_column_or_not_and_postponed_and_drafted_ones_never() -> None:
    active = in_state(published=True, closed=False, postponed=False)["column_id"]
    assert 0 < active.null_count() < active.len()
    for published, postponed in [(True, True), (False, False)]:
        assert in_state(published=published, closed=False, postponed=postponed)["column_id"].is_null().all()


def test_a_card_was_closed_or_postponed_by_its_last_activity() -> None:
    for state in ("closed_at", "postponed_at"):
        cards = worked().cards.filter(pl.col(state).is_not_null())
        assert (cards[state] == cards["last_active_at"]).all()


def test_only_cards_touched_within_a_day_spike() -> None:
    spiking = worked().cards.filter(pl.col("activity_spike_at").is_not_null())
    assert spiking.height > 0
    assert (spiking["last_active_at"] > NOON - timedelta(days=1)).all()


def test_numbers_count_from_one_in_each_account_in_the_order_of_creation() -> None:
    cards = worked().cards.sort("account_id", "created_at")
    assert cards["number"].to_list() == [*range(1, CARDS), 1]


def test_titles_read_like_work() -> None:
    assert worked().cards["title"].str.contains(r"^[A-Z][a-z ]+ (the|for|on) ?.*[a-z]$").all()
    assert worked().cards["title"].n_unique() > 2_000


def test_what_happened_since_the_history_began_has_its_event_once() -> None:
    published = worked().cards.filter(pl.col("status") == "published")
    for action, rows, at in [
        ("card_published", published, "created_at"),
        ("card_closed", published, "closed_at"),
        ("card_postponed", published, "postponed_at"),
        ("comment_created", worked().comments, "created_at"),
    ]:
        events = worked().events.filter(action=action).select("eventable_id", "created_at").sort("eventable_id")
        assert events.rows() == rows.filter(pl.col(at) >= SINCE).select("id", at).sort("id").rows()


def test_a_comment_event_is_by_the_author_of_the_comment() -> None:
    events = worked().events.filter(action="comment_created").sort("eventable_id")
    comments = worked().comments.filter(pl.col("created_at") >= SINCE).sort("id")
    assert events["creator_id"].to_list() == comments["creator_id"].to_list()


def test_events_stand_in_the_order_in_which_they_happened() -> None:
    assert worked().events["created_at"].is_sorted()
