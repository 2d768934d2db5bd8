"""How a data set is made: 2,000 accounts, 20,000 boards and any number of cards, inside Postgres, from a fixed seed."""

import contextlib
from collections.abc import Generator
from datetime import datetime

import psycopg

MOST_EVENTS = 2_000_000
"""Events that are there already: one per card, up to this many."""

_PEOPLE_AND_BOARDS = """
select setseed(0.42);

insert into flatearth.accounts (id, name) select id, 'Account ' || id from generate_series(1, 2000) as id;

insert into flatearth.users (id, account_id, name, role)
select
    5 * (account - 1) + place,
    account,
    'Person ' || place,
    case
        when account % 20 = 0 then 'member'
        when place = 1 then 'owner'
        when place = 2 and account % 2 = 1 then 'system'
        else 'member'
    end
from generate_series(1, 2000) as account, generate_series(1, 5) as place;

insert into flatearth.boards (id, account_id, creator_id, name)
select id, 1 + (id - 1) % 2000, 5 * ((id - 1) % 2000) + 1, 'Board ' || id from generate_series(1, 20000) as id;

insert into flatearth.columns (id, account_id, board_id, name, position)
select 3 * (id - 1) + place, account_id, id, 'Column ' || place, place
from flatearth.boards, generate_series(1, 3) as place;

insert into flatearth.entropies (account_id, container_type, container_id, auto_postpone_period_ms)
select
    account_id, container_type, container_id,
    86400000::bigint * (array[3, 7, 11, 30, 90, 365])[1 + floor(6 * random())::int]
from (
    select id as account_id, 'account' as container_type, id as container_id
    from flatearth.accounts where random() < 0.2
    union all
    select account_id, 'board', id from flatearth.boards where random() < 0.3
) as chosen;

create table board_rules as
select
    b.id as board_id,
    b.account_id,
    coalesce(of_board.auto_postpone_period_ms, of_account.auto_postpone_period_ms, 2592000000)
    * interval '1 millisecond' as period,
    (
        select u.id from flatearth.users as u
        where u.account_id = b.account_id and (u.role = 'system' or (u.role = 'owner' and u.active))
        order by u.role = 'system' desc, u.id limit 1
    ) as actor_id
from flatearth.boards as b
left join flatearth.entropies as of_board
    on of_board.container_type = 'board' and of_board.container_id = b.id
left join flatearth.entropies as of_account
    on of_account.container_type = 'account' and of_account.container_id = b.account_id;

analyze
"""
# One account in twenty has neither a system user nor an owner.

_CARDS = """
insert into flatearth.cards (
    id, account_id, board_id, column_id, creator_id, number, title, status,
    closed_at, postponed_at, activity_spike_at, last_active_at, created_at
)
select
    id,
    account_id,
    board_id,
    case when (fate < 0.7 or fate >= 0.9) and place < 7 then 3 * (board_id - 1) + 1 + place %% 3 end,
    case when place > 0 then 5 * (account_id - 1) + 1 + place %% 5 end,
    id,
    md5(id::text),
    case when fate >= 0.7 and fate < 0.8 then 'drafted' else 'published' end,
    case when fate >= 0.9 then last_active_at end,
    case when fate >= 0.8 and fate < 0.9 then last_active_at end,
    case when fate < 0.7 and place = 5 then last_active_at end,
    last_active_at,
    last_active_at - interval '10 days'
from (
    select
        draws.*,
        board_rules.account_id,
        %(as_of)s - period * case when fate < %(due)s then 1.01 + 2 * age else 0.95 * age end as last_active_at
    from (
        select
            id,
            1 + floor(20000 * power(random(), 1.3))::bigint as board_id,
            random() as fate,
            random() as age,
            floor(10 * random())::int as place
        from generate_series(1, %(cards)s) as id
        offset 0
    ) as draws
    join board_rules using (board_id)
) as drawn
"""
# Of the cards 70 % are active, and 10 % each drafted, postponed and closed. A card that is not due will not be for
# the next hours either.

_EVENTS = """
insert into flatearth.events (account_id, board_id, creator_id, action, eventable_type, eventable_id, created_at)
select account_id, board_id, coalesce(creator_id, 5 * (account_id - 1) + 1), 'card_published', 'card', id, created_at
from flatearth.cards where id <= %s
"""

_PLAIN_INDEXES = """
drop index
    flatearth.active_cards_of_a_board, flatearth.postponed_cards_of_a_board,
    flatearth.closed_cards_of_a_board, flatearth.cards_of_a_column, flatearth.events_of_a_board;
create index on flatearth.cards (account_id);
create index on flatearth.cards (board_id);
create index on flatearth.cards (column_id);
create index on flatearth.cards (creator_id);
create index on flatearth.events (account_id, created_at);
create index on flatearth.events (board_id, created_at);
create index on flatearth.events (creator_id)
"""

_CONSTRAINTS = """
select conrelid::regclass::text, conname, pg_get_constraintdef(oid)
from pg_constraint
where (conrelid = any(%(tables)s::regclass[]) or confrelid = any(%(tables)s::regclass[])) and contype in ('p', 'u', 'f')
order by contype = 'f', oid
"""

_INDEXES = """
select indexrelid::regclass::text, pg_get_indexdef(indexrelid)
from pg_index
where indrelid = any(%(tables)s::regclass[])
and not exists (select from pg_constraint where conindid = indexrelid and contype in ('p', 'u'))
order by indexrelid
"""


def fill(connection: psycopg.Connection, as_of: datetime, cards: int, due: float) -> None:
    """Fill a migrated, empty database with so many cards, of which that share is due as of `as_of`.

    The table `board_rules`, the period and the actor of every board by a plain reading of the rule, stays there.
    """
    connection.execute(_PEOPLE_AND_BOARDS)
    with _unindexed(connection, "flatearth.cards", "flatearth.events"):
        connection.execute("select setseed(0.43)")
        connection.execute(_CARDS, {"as_of": as_of, "due": due, "cards": cards})
        connection.execute(_EVENTS, [MOST_EVENTS])
    connection.execute("vacuum (analyze)")


def index_plainly(connection: psycopg.Connection) -> None:
    """Put a plain index per foreign key in place of the indexes that hold the rows of one state."""
    connection.execute(_PLAIN_INDEXES)
    connection.execute("vacuum (analyze)")


@contextlib.contextmanager
def _unindexed(connection: psycopg.Connection, *tables: str) -> Generator[None]:
    """The tables without their keys and indexes, which are made again, as they were, at the end of the block."""
    constraints = connection.execute(_CONSTRAINTS, {"tables": list(tables)}).fetchall()
    indexes = connection.execute(_INDEXES, {"tables": list(tables)}).fetchall()
    for table, name, _ in reversed(constraints):
        connection.execute(f"alter table {table} drop constraint {name}".encode())
    for name, _ in indexes:
        connection.execute(f"drop index {name}".encode())
    yield
    keys = [row for row in constraints if not row[2].startswith("FOREIGN KEY")]
    for table, name, definition in keys:
        connection.execute(f"alter table {table} add constraint {name} {definition}".encode())
    for _, definition in indexes:
        connection.execute(definition.encode())
    for table, name, definition in constraints[len(keys) :]:
        connection.execute(f"alter table {table} add constraint {name} {definition}".encode())
