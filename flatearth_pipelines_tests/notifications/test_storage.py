"""What is taken to be told of, and what is written."""

import polars as pl
import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from flatearth_pipelines import tables
from flatearth_pipelines.notifications import storage
from flatearth_pipelines.notifications.mentions import NAMED, TEXTS
from flatearth_pipelines.notifications.recipients import EVENTS
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.notifications import observed
from flatearth_pipelines_tests.notifications.workspace import Workspace

NOBODY = 2**62


@pytest.fixture
def work(connection: sa.Connection) -> Workspace:
    return Workspace(connection)


def ids(*values: int) -> pl.Series:
    return pl.Series(values, dtype=pl.Int64())


# Events


def test_an_event_is_read_with_its_card_and_whether_its_actor_is_a_system_user(
    connection: sa.Connection, work: Workspace
) -> None:
    system = make.user(connection, work.account, "system")
    comment, said = work.comment(connection)
    closed = make.event(connection, work.board, system, "card_closed", work.card)
    gone = make.event(connection, work.board, work.actor, "comment_created", NOBODY)

    events = storage.take_events(connection, 10)

    of_the_account = (work.account, work.board)
    assert events.schema == EVENTS
    assert events.sort("event_id").rows() == [
        (said, *of_the_account, work.card, work.actor, False, "comment_created", "comment", comment),
        (closed, *of_the_account, work.card, system, True, "card_closed", "card", work.card),
        (gone, *of_the_account, 0, work.actor, False, "comment_created", "comment", NOBODY),
    ]


def test_the_oldest_events_are_taken_first_or_those_after_an_id(connection: sa.Connection, work: Workspace) -> None:
    events = make.events(connection, work.board, work.actor, 5)
    assert sorted(storage.take_events(connection, 2)["event_id"]) == events[:2]
    assert sorted(storage.take_events(connection, 2, after=events[1])["event_id"]) == events[2:4]
    assert storage.take_events(connection, 2, after=events[4]).is_empty()


def test_no_event_is_a_frame_without_rows(connection: sa.Connection) -> None:
    events = storage.take_events(connection, 10)
    assert (events.height, events.schema) == (0, EVENTS)


def test_an_event_waits_until_its_text_was_looked_at(connection: sa.Connection, work: Workspace) -> None:
    _, said = work.comment(connection, "@[Ada](user:1)")
    closed = work.event(connection)
    assert storage.take_events(connection, 10)["event_id"].to_list() == [closed]
    storage.delete_sources(connection, storage.take_sources(connection, 10)["id"])
    assert sorted(storage.take_events(connection, 10)["event_id"]) == [said, closed]


def test_what_somebody_else_has_taken_is_skipped(engine: sa.Engine, other_engine: sa.Engine) -> None:
    with engine.begin() as connection:
        work = Workspace(connection)
        events = make.events(connection, work.board, work.actor, 4)
        for _ in range(4):
            work.comment(connection, "@[Ada](user:1)")
    with engine.connect() as one, other_engine.connect() as other:
        taken = [storage.take_events(one, 2)["event_id"], storage.take_events(other, 10)["event_id"]]
        assert [sorted(part) for part in taken] == [events[:2], events[2:]]
        texts = [storage.take_sources(one, 1)["id"], storage.take_sources(other, 10)["id"]]
        assert [part.len() for part in texts] == [1, 3]


def test_deleted_events_are_new_no_more_and_the_others_are(connection: sa.Connection, work: Workspace) -> None:
    first, second, third = make.events(connection, work.board, work.actor, 3)
    storage.delete_events(connection, ids(first, third))
    assert storage.take_events(connection, 10)["event_id"].to_list() == [second]


# Texts


def test_texts_are_taken_in_the_order_of_their_changes_with_their_size_in_bytes(
    connection: sa.Connection, work: Workspace
) -> None:
    comment, _ = work.comment(connection, "@[é](user:1)")
    card = make.card(connection, work.board, title="@[Ada](user:1)")
    gone, _ = work.comment(connection, "@[Ada](user:1)")
    connection.execute(sa.delete(tables.comments).where(tables.comments.c.id == gone))

    sources = storage.take_sources(connection, 10)

    assert sources.schema == storage.SOURCES
    assert sources.drop("id").rows() == [("comment", comment, 13), ("card", card, 14), ("comment", gone, 0)]
    assert sources["id"].is_sorted()
    assert storage.take_sources(connection, 10, after=sources["id"][0])["id"].to_list() == sources["id"].to_list()[1:]
    assert storage.take_sources(connection, 1).height == 1


def test_a_text_is_read_as_it_is_now_with_its_author_and_whether_it_is_silent(
    connection: sa.Connection, work: Workspace
) -> None:
    system = make.user(connection, work.account, "system")
    draft = make.card(connection, work.board, title="A draft", status="drafted", creator_id=work.actor)
    on_draft = make.comment(connection, draft, "of a draft", work.actor)
    by_system = make.comment(connection, work.card, "by the system", system)
    by_nobody = make.comment(connection, work.card, "by nobody")
    sources = pl.DataFrame(
        [
            (number, kind, source, 1)
            for number, (kind, source) in enumerate(
                [("card", draft), ("card", work.card), ("card", NOBODY)]
                + [("comment", comment) for comment in (on_draft, by_system, by_nobody, by_nobody, NOBODY)]
            )
        ],
        schema=storage.SOURCES,
        orient="row",
    )

    texts = storage.read_texts(connection, sources)

    of_the_account = (work.account, work.board)
    assert texts.schema == TEXTS
    assert sorted(texts.rows(), key=lambda row: row[:2]) == [
        ("card", work.card, *of_the_account, None, False, "Fix the bug"),
        ("card", draft, *of_the_account, work.actor, True, "A draft"),
        ("comment", on_draft, *of_the_account, work.actor, True, "of a draft"),
        ("comment", by_system, *of_the_account, system, True, "by the system"),
        ("comment", by_nobody, *of_the_account, None, False, "by nobody"),
    ]


def test_a_mention_is_recorded_once_and_only_the_new_ones_are_returned(
    connection: sa.Connection, work: Workspace
) -> None:
    ada, bob = work.person(connection), work.person(connection)
    named = pl.DataFrame(
        [
            ("card", work.card, work.account, work.board, creator, user)
            for creator, user in [(work.actor, bob), (None, ada)]
        ],
        schema=NAMED,
        orient="row",
    )
    first = storage.record_mentions(connection, named.head(1))
    assert first.schema == storage.NEW_MENTIONS
    assert first.drop("mention_id").rows() == [(bob, work.actor)]
    both = storage.record_mentions(connection, named)
    assert both.drop("mention_id").rows() == [(ada, None)]
    assert observed.mentions(connection) == {("card", work.card, ada), ("card", work.card, bob)}
    assert storage.record_mentions(connection, named.clear()).is_empty()


# People


def test_people_who_are_free_are_locked_and_those_whom_somebody_holds_are_returned(
    engine: sa.Engine, other_engine: sa.Engine
) -> None:
    with engine.begin() as connection:
        work = Workspace(connection)
        free, held = work.person(connection), work.person(connection)
    with engine.connect() as one, other_engine.connect() as other:
        assert storage.lock_people(one, ids(held)).to_list() == []
        assert storage.lock_people(other, ids(free, held, free)).to_list() == [held]
        assert storage.lock_people(one, ids(free)).to_list() == [free]
        one.rollback()
        assert storage.lock_people(other, ids(held, NOBODY)).to_list() == []


def test_a_transaction_goes_on_after_it_has_waited_in_vain(engine: sa.Engine, other_engine: sa.Engine) -> None:
    with engine.begin() as connection:
        work = Workspace(connection)
    with engine.connect() as one, other_engine.begin() as other:
        storage.lock_people(one, ids(work.actor))
        assert storage.lock_people(other, ids(work.actor)).to_list() == [work.actor]
        make.card(other, work.board)
    with engine.connect() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(tables.cards)).scalar_one() == 2


def test_nobody_is_locked_without_a_word(connection: sa.Connection) -> None:
    assert storage.lock_people(connection, ids()).to_list() == []


@pytest.mark.parametrize("sqlstate", ["40001", "40P01", "23503", "55P03"])
def test_a_transaction_that_somebody_was_in_the_way_of_is_contended_and_nothing_of_it_stays(
    engine: sa.Engine, sqlstate: str
) -> None:
    with pytest.raises(storage.Contended) as contended:
        make_an_account_and_fail(engine, sqlstate)
    assert str(contended.value) == "Somebody else was in the way, the next run goes on: in the way"
    with engine.connect() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(tables.accounts)).scalar_one() == 0


def test_any_other_error_is_left_as_it_is(engine: sa.Engine) -> None:
    with pytest.raises(DBAPIError) as raised:
        make_an_account_and_fail(engine, "23505")
    assert isinstance(raised.value.orig, psycopg.errors.UniqueViolation)


def make_an_account_and_fail(engine: sa.Engine, sqlstate: str) -> None:
    with engine.connect() as connection, storage.transaction(connection):
        make.account(connection)
        connection.execute(sa.text(f"DO $$ BEGIN RAISE 'in the way' USING errcode = '{sqlstate}'; END $$"))


# Notifications


def test_how_many_notifications_are_new_and_how_many_windows_they_open_is_returned(
    connection: sa.Connection, work: Workspace
) -> None:
    ada, bob = work.person(connection), work.person(connection, "never")
    events = make.events(connection, work.board, work.actor, 3)
    notifications = pl.DataFrame(
        [(person, "event", event, work.actor, "other") for person in (ada, bob) for event in events],
        schema=storage.NOTIFICATIONS,
        orient="row",
    )
    assert storage.write_notifications(connection, notifications.head(2)) == (2, 1)
    assert storage.write_notifications(connection, notifications) == (4, 0)
    assert storage.write_notifications(connection, notifications.clear()) == (0, 0)
    assert observed.told(connection) == {(event, person) for person in (ada, bob) for event in events}
