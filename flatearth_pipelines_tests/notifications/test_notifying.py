"""From what an application writes to who is told: every sentence on a real database."""

from collections.abc import Callable

import pytest
import sqlalchemy as sa

from flatearth_pipelines import tables
from flatearth_pipelines.notifications import notifying
from flatearth_pipelines.notifications.notifying import notify
from flatearth_pipelines.notifications.outcome import Outcome
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.notifications import observed
from flatearth_pipelines_tests.notifications.notified import run
from flatearth_pipelines_tests.notifications.workspace import Workspace


@pytest.fixture
def work(engine: sa.Engine) -> Workspace:
    with engine.begin() as connection:
        return Workspace(connection)


def told(engine: sa.Engine, source_type: str = "event") -> set[tuple[int, int]]:
    with engine.connect() as connection:
        return observed.told(connection, source_type)


# Who


def test_of_an_assignment_those_hear_whom_it_names(engine: sa.Engine, work: Workspace) -> None:
    with engine.begin() as connection:
        ada, bob, _watcher = work.person(connection), work.person(connection), work.watcher(connection)
        event = work.event(connection, "card_assigned", assignee_ids=[ada, bob, work.actor])
    run(engine)
    assert told(engine) == {(event, ada), (event, bob)}


@pytest.mark.parametrize(
    "named",
    [
        lambda ada: [str(ada), ada],
        lambda ada: [ada, None, "nobody", -1, 1.5, True, {}, [ada], 2**70, ""],
        lambda ada: ada,
    ],
    ids=["as text, and twice", "among nonsense", "without a list"],
)
def test_whatever_stands_among_the_assigned_those_hear_who_are_somebody(
    engine: sa.Engine, work: Workspace, named: Callable[[int], object]
) -> None:
    with engine.begin() as connection:
        ada = work.person(connection)
        event = work.event(connection, "card_assigned", assignee_ids=named(ada))
        work.event(connection, "card_assigned")
        work.event(connection, "card_assigned", assignee_ids=None)
    run(engine)
    assert told(engine) == {(event, ada)}


def test_of_a_published_card_the_boards_watchers_and_its_assignees_hear(engine: sa.Engine, work: Workspace) -> None:
    with engine.begin() as connection:
        watcher, assignee, reader = (work.watcher(connection), work.person(connection), work.person(connection))
        make.access(connection, work.board, reader, "access_only")
        make.access(connection, work.board, work.actor, "watching")
        make.assign(connection, work.card, assignee)
        event = work.event(connection, "card_published")
    run(engine)
    assert told(engine) == {(event, watcher), (event, assignee)}


def test_of_a_comment_the_cards_watchers_hear(engine: sa.Engine, work: Workspace) -> None:
    with engine.begin() as connection:
        watcher, not_any_more, _of_the_board = (
            work.person(connection),
            work.person(connection),
            work.watcher(connection),
        )
        make.watch(connection, work.card, watcher)
        make.watch(connection, work.card, not_any_more, watching=False)
        make.watch(connection, work.card, work.actor)
        _, event = work.comment(connection)
    run(engine)
    assert told(engine) == {(event, watcher)}


def test_of_any_other_event_of_a_card_the_boards_watchers_hear_also_when_the_card_is_gone(
    engine: sa.Engine, work: Workspace
) -> None:
    with engine.begin() as connection:
        watcher = work.watcher(connection)
        events = [work.event(connection, action) for action in ("card_closed", "card_moved", "card_deleted")]
        connection.execute(sa.delete(tables.cards).where(tables.cards.c.id == work.card))
    run(engine)
    assert told(engine) == {(event, watcher) for event in events}


def test_what_a_system_user_does_and_cards_that_are_postponed_automatically_are_nobodys_news(
    engine: sa.Engine, work: Workspace
) -> None:
    with engine.begin() as connection:
        work.watcher(connection)
        system = make.user(connection, work.account, "system")
        make.event(connection, work.board, system, "card_closed", work.card)
        work.event(connection, "card_auto_postponed")
        assert observed.waiting(connection) == (1, 0), "of what is never told, no row is written"
    assert run(engine).events == 1
    assert told(engine) == set()


def test_only_active_people_of_the_account_with_access_to_the_board_hear(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        work, other = Workspace(connection, all_access=False), Workspace(connection)
        ada, without_access = work.watcher(connection), work.person(connection)
        inactive = make.user(connection, work.account, active=False)
        make.access(connection, work.board, inactive, "watching")
        system = make.user(connection, work.account, "system")
        people = [ada, without_access, inactive, system, other.actor, 2**60]
        event = work.event(connection, "card_assigned", assignee_ids=people)
        closed = work.event(connection)
    run(engine)
    assert told(engine) == {(event, ada), (closed, ada)}


def test_of_a_muted_board_its_muter_hears_assignments_and_mentions_only(engine: sa.Engine, work: Workspace) -> None:
    with engine.begin() as connection:
        ada, bob = work.watcher(connection), work.watcher(connection)
        make.mute(connection, work.board, ada)
        make.watch(connection, work.card, ada)
        work.comment(connection)
        closed, assigned = work.event(connection), work.event(connection, "card_assigned", assignee_ids=[ada])
        work.comment(connection, f"@[Ada](user:{ada})")
    run(engine)
    assert told(engine) == {(closed, bob), (assigned, ada)}
    assert [user for _, user in told(engine, "mention")] == [ada]


# Mentions


def test_a_mention_in_a_comment_is_recorded_and_its_person_hears_of_it_instead_of_the_comment(
    engine: sa.Engine, work: Workspace
) -> None:
    with engine.begin() as connection:
        ada, bob = work.person(connection), work.person(connection)
        for person in (ada, bob):
            make.watch(connection, work.card, person)
        comment, event = work.comment(connection, f"Look, @[Ada](user:{ada}) and @[me](user:{work.actor})")
    outcome = run(engine)
    with engine.connect() as connection:
        assert observed.mentions(connection) == {("comment", comment, ada)}
        (notification,) = observed.notifications(connection, ada)
        mention = connection.execute(sa.select(tables.mentions)).mappings().one()
    assert (notification["source_type"], notification["source_id"]) == ("mention", mention["id"])
    assert notification["creator_id"] == mention["mentioner_id"] == work.actor
    assert told(engine) == {(event, bob)}
    assert (outcome.texts, outcome.mentions, outcome.events, outcome.notifications) == (1, 1, 1, 2)


def test_a_mention_in_a_title_is_recorded_and_its_person_hears_of_it_instead_of_the_card(
    engine: sa.Engine, work: Workspace
) -> None:
    with engine.begin() as connection:
        ada, bob = work.watcher(connection), work.watcher(connection)
        card = make.card(connection, work.board, title=f"Ask @[Ada](user:{ada})", creator_id=work.actor)
        event = make.event(connection, work.board, work.actor, "card_published", card)
    run(engine)
    with engine.connect() as connection:
        assert observed.mentions(connection) == {("card", card, ada)}
    assert told(engine) == {(event, bob)}


def test_who_is_mentioned_but_may_not_see_the_board_hears_nothing_and_nothing_is_recorded(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        work, other = Workspace(connection, all_access=False), Workspace(connection)
        people = [
            work.person(connection),
            make.user(connection, work.account, active=False),
            make.user(connection, work.account, "system"),
            other.actor,
            2**60,
        ]
        ada = work.person(connection)
        make.access(connection, work.board, ada)
        comment, _ = work.comment(connection, " ".join(f"@[Somebody](user:{person})" for person in [*people, ada]))
    run(engine)
    with engine.connect() as connection:
        assert observed.mentions(connection) == {("comment", comment, ada)}
        assert [row["user_id"] for row in observed.notifications(connection)] == [ada]


def test_editing_in_a_new_name_tells_only_the_new_one(engine: sa.Engine, work: Workspace) -> None:
    with engine.begin() as connection:
        ada, bob = work.person(connection), work.person(connection)
        comment, _ = work.comment(connection, f"@[Ada](user:{ada})")
    run(engine)
    before = told(engine, "mention")
    with engine.begin() as connection:
        _edit(connection, comment, f"@[Ada](user:{ada}), @[Bob](user:{bob})")
    run(engine)
    assert {user for _, user in told(engine, "mention") - before} == {bob}
    assert len(told(engine, "mention")) == 2


def test_a_name_that_is_edited_out_and_in_again_is_told_once(engine: sa.Engine, work: Workspace) -> None:
    with engine.begin() as connection:
        ada = work.person(connection)
        comment, _ = work.comment(connection, f"@[Ada](user:{ada})")
    for body in ("nobody", f"@[Ada](user:{ada})"):
        run(engine)
        with engine.begin() as connection:
            _edit(connection, comment, body)
    run(engine)
    assert len(told(engine, "mention")) == 1


def test_an_edit_of_anything_else_is_not_looked_at(engine: sa.Engine, work: Workspace) -> None:
    with engine.begin() as connection:
        ada = work.person(connection)
        work.comment(connection, f"@[Ada](user:{ada})")
        make.card(connection, work.board, title=f"@[Ada](user:{ada})")
    run(engine)
    with engine.begin() as connection:
        connection.execute(sa.update(tables.comments).values(created_at=make.NOON))
        connection.execute(sa.update(tables.cards).values(last_active_at=make.NOON))
        assert observed.waiting(connection) == (0, 0)


def test_a_comment_that_is_gone_mentions_nobody_any_more(engine: sa.Engine, work: Workspace) -> None:
    with engine.begin() as connection:
        ada = work.person(connection)
        comment, _ = work.comment(connection, f"@[Ada](user:{ada})")
        connection.execute(sa.delete(tables.comments).where(tables.comments.c.id == comment))
    outcome = run(engine)
    with engine.connect() as connection:
        assert observed.waiting(connection) == (0, 0)
        assert observed.notifications(connection) == []
    assert (outcome.texts, outcome.mentions, outcome.events) == (1, 0, 1)


def test_a_mention_by_somebody_who_is_gone_has_no_creator(engine: sa.Engine, work: Workspace) -> None:
    with engine.begin() as connection:
        ada = work.person(connection)
        make.comment(connection, work.card, f"@[Ada](user:{ada})")
    run(engine)
    with engine.connect() as connection:
        assert [row["creator_id"] for row in observed.notifications(connection, ada)] == [None]


def test_a_draft_stays_silent_until_it_is_published_and_then_so_do_its_comments(
    engine: sa.Engine, work: Workspace
) -> None:
    with engine.begin() as connection:
        ada, bob = work.person(connection), work.person(connection)
        draft = make.card(connection, work.board, status="drafted", title="A plan", creator_id=work.actor)
        connection.execute(
            sa.update(tables.cards).where(tables.cards.c.id == draft).values(title=f"@[Ada](user:{ada})")
        )
        comment = make.comment(connection, draft, f"@[Bob](user:{bob})", work.actor)
    run(engine)
    assert told(engine, "mention") == set()
    with engine.begin() as connection:
        connection.execute(sa.update(tables.cards).where(tables.cards.c.id == draft).values(status="published"))
    run(engine)
    with engine.connect() as connection:
        assert observed.mentions(connection) == {("card", draft, ada), ("comment", comment, bob)}
        assert len(observed.notifications(connection)) == 2


def test_a_comment_of_ten_megabytes_is_looked_at(engine: sa.Engine, work: Workspace) -> None:
    with engine.begin() as connection:
        ada = work.person(connection)
        work.comment(connection, "🦀 @[ \n" * 1_400_000 + f"@[Ada](user:{ada})")
    assert run(engine).mentions == 1


def test_texts_are_looked_at_a_few_at_a_time_when_they_are_long(
    engine: sa.Engine, work: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifying, "_MOST_BYTES", 100)
    with engine.begin() as connection:
        people = [work.person(connection) for _ in range(5)]
        for person in people:
            work.comment(connection, 60 * "x" + f"@[Ada](user:{person})")
    progress = list[int]()
    with engine.connect() as connection:
        outcome = notify(connection, progress=lambda so_far: progress.append(so_far.texts))
    assert {user for _, user in told(engine, "mention")} == set(people)
    assert outcome.texts == 5
    assert set(progress) >= {1, 2, 3, 4, 5}


# Exactly once


def test_everything_is_told_once_however_often_the_job_runs(engine: sa.Engine, work: Workspace) -> None:
    with engine.begin() as connection:
        ada = work.watcher(connection)
        event = work.event(connection)
        work.comment(connection, f"@[Ada](user:{ada})")
    outcomes = [run(engine) for _ in range(3)]
    assert told(engine) == {(event, ada)}
    assert [outcome.notifications for outcome in outcomes] == [2, 0, 0]
    assert [outcome.events for outcome in outcomes] == [2, 0, 0]


def test_what_an_application_created_itself_is_not_created_again(engine: sa.Engine, work: Workspace) -> None:
    with engine.begin() as connection:
        ada = work.watcher(connection)
        event = work.event(connection)
        row = {"account_id": work.account, "user_id": ada, "source_type": "event", "source_id": event}
        connection.execute(sa.insert(tables.notifications).values(**row))
    assert run(engine).notifications == 0
    assert told(engine) == {(event, ada)}


def test_an_event_that_is_gone_is_nobodys_news(engine: sa.Engine, work: Workspace) -> None:
    with engine.begin() as connection:
        work.watcher(connection)
        event = work.event(connection)
        connection.execute(sa.delete(tables.events).where(tables.events.c.id == event))
        assert observed.waiting(connection) == (0, 0)
    assert run(engine).events == 0


def test_history_that_is_loaded_silently_is_nobodys_news(engine: sa.Engine, work: Workspace) -> None:
    with engine.begin() as connection:
        ada = work.watcher(connection)
        connection.execute(sa.text("SET LOCAL flatearth.silent = 'on'"))
        work.event(connection)
        work.comment(connection, f"@[Ada](user:{ada})")
        draft = make.card(connection, work.board, status="drafted", title=f"@[Ada](user:{ada})")
        make.comment(connection, draft, f"@[Ada](user:{ada})", work.actor)
        connection.execute(sa.update(tables.cards).where(tables.cards.c.id == draft).values(status="published"))
        assert observed.waiting(connection) == (0, 0)
    with engine.begin() as connection:
        event = work.event(connection)
    run(engine)
    assert told(engine) == {(event, ada)}


# How much at once


@pytest.mark.parametrize("batch_size", [1, 2, 7, 1_000])
def test_the_size_of_a_batch_changes_nothing_but_the_number_of_transactions(
    engine: sa.Engine, work: Workspace, batch_size: int
) -> None:
    with engine.begin() as connection:
        people = [work.watcher(connection) for _ in range(3)]
        events = make.events(connection, work.board, work.actor, 20)
        for person in people:
            work.comment(connection, f"@[Ada](user:{person})")
    outcome = run(engine, batch_size=batch_size)
    assert told(engine) == {(event, person) for event in events for person in people}
    assert (outcome.events, outcome.texts, outcome.mentions) == (23, 3, 3)
    assert (outcome.notifications, outcome.bundles) == (63, 3)
    assert outcome.by_action == {"card_closed": 60, "mention": 3}


def test_an_event_for_more_people_than_a_transaction_holds_has_one_of_its_own(
    engine: sa.Engine, work: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifying, "_MOST_PEOPLE", 2)
    with engine.begin() as connection:
        people = [work.watcher(connection) for _ in range(3)]
        events = make.events(connection, work.board, work.actor, 3)
    transactions = list[int]()
    with engine.connect() as connection:
        notify(connection, progress=lambda so_far: transactions.append(so_far.events))
    assert told(engine) == {(event, person) for event in events for person in people}
    assert transactions == [1, 2, 3]


def test_whoever_stays_tells_what_comes_meanwhile(engine: sa.Engine, other_engine: sa.Engine, work: Workspace) -> None:
    with engine.begin() as connection:
        ada = work.watcher(connection)
        first = work.event(connection)
    later = list[int]()

    def write_another(_: Outcome) -> None:
        if not later:
            with other_engine.begin() as somebody:
                later.append(work.event(somebody))

    with engine.connect() as connection:
        outcome = notify(connection, stay_seconds=1, progress=write_another)
    assert outcome.events == 2
    assert told(engine) == {(first, ada), (later[0], ada)}


def test_after_the_longest_time_nothing_is_begun(engine: sa.Engine, work: Workspace) -> None:
    with engine.begin() as connection:
        work.event(connection)
    with engine.connect() as connection:
        assert notify(connection, stay_seconds=60, longest_seconds=0).events == 0


def _edit(connection: sa.Connection, comment: int, body: str) -> None:
    connection.execute(sa.update(tables.comments).where(tables.comments.c.id == comment).values(body=body))
