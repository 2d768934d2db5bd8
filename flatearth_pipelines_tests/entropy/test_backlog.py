"""A run as a whole: its numbers, its batches, and what it reads at once."""

import psycopg
import pytest
import sqlalchemy as sa

from flatearth_pipelines.entropy import backlog
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.entropy import observed
from flatearth_pipelines_tests.entropy.runs import run
from flatearth_pipelines_tests.factories import DAY, NOON


def test_the_numbers_of_a_run(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        account_id = make.account(connection)
        make.user(connection, account_id, "owner")
        few, many, none = (make.board(connection, account_id) for _ in range(3))
        make.backlog(connection, few, 2)
        make.backlog(connection, many, 5)
        make.backlog(connection, none, 3, idle=DAY)
        make.backlog(connection, make.board(connection, make.account(connection)), 1)

    outcome = run(engine, batch_size=3)

    assert (outcome.boards, outcome.scanned, outcome.due, outcome.postponed) == (4, 8, 8, 8)
    assert (outcome.changed_meanwhile, outcome.unattributed) == (0, 1)
    assert outcome.by_board.rows()[:2] == [(many, 5), (few, 2)]
    assert outcome.by_board.schema == backlog.BY_BOARD


def test_a_dry_run_writes_nothing_and_has_the_same_numbers(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        account_id = make.account(connection)
        make.user(connection, account_id, "system")
        make.backlog(connection, make.board(connection, account_id), 5)
        make.backlog(connection, make.board(connection, make.account(connection)), 2)
    before = observed.everything(engine)

    dry = run(engine, dry_run=True, batch_size=2)

    assert observed.everything(engine) == before
    real = run(engine, batch_size=2)
    assert (dry.boards, dry.scanned, dry.due, dry.postponed, dry.changed_meanwhile, dry.unattributed) == (
        (real.boards, real.scanned, real.due, real.postponed, real.changed_meanwhile, real.unattributed)
    )
    assert dry.by_board.equals(real.by_board)


def test_a_second_run_at_the_same_instant_finds_nothing(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        make.backlog(connection, make.board(connection, make.account(connection)), 5)

    assert run(engine).postponed == 5
    assert run(engine).due == 0


def test_nothing_to_do_has_zeros_and_an_empty_table(engine: sa.Engine) -> None:
    outcome = run(engine)

    assert (outcome.boards, outcome.scanned, outcome.due, outcome.postponed) == (0, 0, 0, 0)
    assert outcome.by_board.rows() == []
    assert outcome.by_board.schema == backlog.BY_BOARD


def test_progress_is_told_after_each_batch(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        make.backlog(connection, make.board(connection, make.account(connection)), 5)
    told: list[tuple[int, int]] = []

    run(engine, batch_size=2, progress=lambda done, due: told.append((done, due)))

    assert told == [(2, 5), (4, 5), (5, 5)]


def test_boards_beyond_the_first_read_are_looked_at_too(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        account_id = make.account(connection)
        boards = connection.execute(
            sa.text(
                "INSERT INTO flatearth.boards (account_id, name)"
                " SELECT :account_id, 'Board ' || n FROM generate_series(1, 5100) AS n RETURNING id"
            ),
            {"account_id": account_id},
        ).scalars()
        (first, *_, last) = sorted(boards)
        card_ids = [make.card(connection, first), make.card(connection, last)]

    assert run(engine).boards == 5_100
    assert observed.postponed(engine) == card_ids


def test_a_backlog_larger_than_what_is_held_at_once_is_worked_off_in_parts(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "_FIRST_BOARDS", 1)
    monkeypatch.setattr(backlog, "_CARDS_A_READ", 2)
    monkeypatch.setattr(backlog, "_HELD_CARDS", 3)
    with engine.begin() as connection:
        account_id = make.account(connection)
        make.user(connection, account_id, "owner")
        counts = [2, 2, 0, 5, 1]
        boards = [make.board(connection, account_id) for _ in counts]
        card_ids = [
            card for board, count in zip(boards, counts, strict=True) for card in make.backlog(connection, board, count)
        ]

    outcome = run(engine, batch_size=2)

    assert (outcome.due, outcome.postponed) == (10, 10)
    assert dict(outcome.by_board.rows()) == {board: count for board, count in zip(boards, counts, strict=True) if count}
    assert observed.postponed(engine) == observed.recorded(engine) == card_ids


def test_a_batch_probes_its_cards_by_id_also_where_nothing_was_ever_analyzed(engine: sa.Engine) -> None:
    """As after a restore. By another plan each batch looks at every card of the board, once per card: half a minute."""
    with engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE flatearth.cards SET (autovacuum_enabled = false)"))
        make.backlog(connection, make.board(connection, make.account(connection)), 20_000)

    with engine.connect() as connection:
        with connection.begin():
            connection.execute(sa.text("SET statement_timeout = '5s'"))
        outcome = backlog.postpone_backlog(connection, NOON)

    assert outcome.postponed == 20_000


def test_a_card_and_its_event_are_one_transaction_and_earlier_batches_stay(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        account_id = make.account(connection)
        make.user(connection, account_id, "owner")
        card_ids = make.backlog(connection, make.board(connection, account_id), 6)
        refuse_event_of(connection, card_ids[3])

    with pytest.raises(psycopg.errors.RaiseException):
        run(engine, batch_size=2)

    assert observed.postponed(engine) == observed.recorded(engine) == card_ids[:2]


def refuse_event_of(connection: sa.Connection, card_id: int) -> None:
    """From now on the database refuses an event of that card."""
    connection.execute(
        sa.text(f"""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE 'not this one'; END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON flatearth.events FOR EACH ROW
            WHEN (new.eventable_id = {card_id}) EXECUTE FUNCTION refuse();
        """)
    )
