"""Workspaces with news that nobody was told of, and with windows whose mail is due; and what must come of them."""

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import LiteralString

from psycopg import sql

from benchmarks.data import WrongResult
from benchmarks.servers import Lab, connected, say
from flatearth_pipelines import migrate, schema

PEOPLE_OF_AN_ACCOUNT = 10

_PEOPLE = """
select setseed(0.42);

insert into flatearth.accounts (id, name) select id, 'Account ' || id from generate_series(1, {accounts}) as id;

insert into flatearth.users (id, account_id, name, email, role)
select
    10 * (account - 1) + place, account, 'Person ' || place, 'person' || 10 * (account - 1) + place || '@bench.example',
    case when place = 10 then 'system' else 'member' end
from generate_series(1, {accounts}) as account, generate_series(1, 10) as place;

insert into flatearth.notification_settings (user_id, account_id, email_frequency)
select id, account_id, (array['daily', 'every_few_hours', 'never'])[1 + id % 3]
from flatearth.users where id % 10 = 3;

insert into flatearth.boards (id, account_id, name, all_access)
select id, 1 + (id - 1) % {accounts}, 'Board ' || id, id <= {accounts} from generate_series(1, 2 * {accounts}) as id;

insert into flatearth.accesses (account_id, board_id, user_id, involvement)
select
    b.account_id, b.id, 10 * (b.account_id - 1) + place,
    case when (b.id + place) % 4 = 0 then 'watching' else 'access_only' end
from flatearth.boards as b, generate_series(1, 8) as place;

set flatearth.silent = on;

insert into flatearth.cards (id, account_id, board_id, creator_id, number, title, status)
select i, b.account_id, b.id, 10 * (b.account_id - 1) + 1 + i % 8, i, 'Card ' || md5(i::text), 'published'
from generate_series(1, 10 * {accounts}) as i
join flatearth.boards as b on b.id = 1 + (i - 1) % (2 * {accounts});

insert into flatearth.watches (account_id, card_id, user_id, watching)
select account_id, id, 10 * (account_id - 1) + 1 + (id / 7 + place) % 8, place < 3
from flatearth.cards, generate_series(1, 3) as place;

insert into flatearth.assignments (account_id, card_id, user_id)
select account_id, id, 10 * (account_id - 1) + 1 + (id / 3) % 8 from flatearth.cards
"""
# One person in ten is the account's system user, one in ten wants mails at other times or none, and one has no access
# to the account's second board, nor is anywhere a watcher.

_NEWS = """
set flatearth.silent = off;

insert into flatearth.comments (id, account_id, card_id, creator_id, body)
select
    i, c.account_id, c.id, 10 * (c.account_id - 1) + 1 + (i / 5) % 9,
    repeat(md5(i::text) || ' ', 6)
    || case when i % 20 = 0 then '@[Person](user:' || 10 * (c.account_id - 1) + 1 + (i / 20) % 9 || ')' else '' end
from generate_series(1, {events} * 4 / 10) as i
join flatearth.cards as c on c.id = 1 + (i * 7) % (10 * {accounts});

insert into flatearth.events (account_id, board_id, creator_id, action, eventable_type, eventable_id)
select c.account_id, k.board_id, c.creator_id, 'comment_created', 'comment', c.id
from flatearth.comments as c
join flatearth.cards as k on k.id = c.card_id;

insert into flatearth.events (account_id, board_id, creator_id, action, eventable_type, eventable_id, particulars)
select
    c.account_id, c.board_id, 10 * (c.account_id - 1) + 1 + (i / 11) % 10,
    (array['card_published', 'card_published', 'card_assigned', 'card_closed', 'card_triaged', 'card_reopened'])[
        1 + i % 6
    ],
    'card', c.id,
    case
        when i % 6 = 2
            then jsonb_build_object('assignee_ids', jsonb_build_array(10 * (c.account_id - 1) + 1 + (i / 13) % 9))
        else '{{}}'
    end
from generate_series(1, {events} - {events} * 4 / 10) as i
join flatearth.cards as c on c.id = 1 + (i * 3) % (10 * {accounts})
"""
# Forty events of a hundred are comments, of which one in twenty mentions somebody; of those by a system user nobody
# hears.

TOLD = """
named as materialized (
    select distinct c.account_id, k.board_id, c.id as source_id, c.creator_id, m.id[1]::bigint as user_id
    from flatearth.unscanned_sources as s
    join flatearth.comments as c on c.id = s.source_id
    join flatearth.cards as k on k.id = c.card_id
    cross join lateral regexp_matches(c.body, '@\\[[^\\]]*\\]\\(user:(\\d+)\\)', 'g') as m (id)
),
mentioned as materialized (
    select n.* from named as n
    join flatearth.users as u on u.id = n.user_id and u.account_id = n.account_id and u.active and u.role <> 'system'
    join flatearth.boards as b on b.id = n.board_id
    where n.user_id <> n.creator_id
    and (b.all_access or exists (
        select from flatearth.accesses as x where x.board_id = n.board_id and x.user_id = n.user_id
    ))
),
news as materialized (
    select e.* from flatearth.unnotified_events as n
    join flatearth.events as e on e.id = n.event_id
    join flatearth.users as a on a.id = e.creator_id and a.role <> 'system'
),
meant as (
    select e.id, x.user_id from news as e
    join flatearth.accesses as x on x.board_id = e.board_id and x.involvement = 'watching'
    where e.eventable_type = 'card' and e.action <> 'card_assigned'
    union
    select e.id, s.user_id from news as e
    join flatearth.assignments as s on s.card_id = e.eventable_id
    where e.action = 'card_published'
    union
    select e.id, w.user_id from news as e
    join flatearth.comments as c on c.id = e.eventable_id
    join flatearth.watches as w on w.card_id = c.card_id and w.watching
    where e.action = 'comment_created'
    union
    select e.id, (jsonb_array_elements_text(e.particulars -> 'assignee_ids'))::bigint from news as e
    where e.action = 'card_assigned'
),
told as materialized (
    select e.account_id, m.user_id, e.creator_id, e.id as source_id
    from meant as m
    join news as e on e.id = m.id
    join flatearth.users as u on u.id = m.user_id and u.account_id = e.account_id and u.active and u.role <> 'system'
    join flatearth.boards as b on b.id = e.board_id
    where m.user_id <> e.creator_id
    and (b.all_access or exists (
        select from flatearth.accesses as x where x.board_id = e.board_id and x.user_id = m.user_id
    ))
    and not exists (
        select from flatearth.board_mutes as q
        where q.board_id = e.board_id and q.user_id = m.user_id and e.action <> 'card_assigned'
    )
    and not exists (
        select from mentioned as n
        where e.eventable_type = 'comment' and n.source_id = e.eventable_id and n.user_id = m.user_id
    )
)
"""
"""A plain reading of the rule, in sets: whom texts mention, and who is told of events."""

_EXPECTED = f"""
with {TOLD}
select
    (select count(*) from mentioned),
    count(*),
    coalesce(sum(hash_record_extended(row(user_id, creator_id, source_id), 0)), 0)::text
from told
"""

_TOLD = """
select
    (select count(*) from flatearth.mentions as m join flatearth.notifications as n
        on n.source_type = 'mention' and n.source_id = m.id and n.user_id = m.mentionee_id),
    count(*),
    coalesce(sum(hash_record_extended(row(user_id, creator_id, source_id), 0)), 0)::text
from flatearth.notifications where source_type = 'event'
"""

_LEFT_OR_OUTSIDE = """
select
    (select count(*) from flatearth.unnotified_events),
    (select count(*) from flatearth.unscanned_sources),
    (
        select count(*) from flatearth.notifications as n
        left join flatearth.notification_settings as s using (user_id)
        where s.email_frequency is distinct from 'never'
        and 1 <> (
            select count(*) from flatearth.notification_bundles as b
            where b.user_id = n.user_id and n.created_at >= b.starts_at and n.created_at < b.ends_at
        )
    )
"""

_WINDOWS = """
insert into flatearth.comments (id, account_id, card_id, creator_id, body)
select id, account_id, id, 10 * (account_id - 1) + 1, repeat(md5(id::text) || ' ', 6) from flatearth.cards;

insert into flatearth.events (account_id, board_id, creator_id, action, eventable_type, eventable_id)
select c.account_id, c.board_id, 10 * (c.account_id - 1) + 1, a.action, a.type, c.id
from flatearth.cards as c,
(values ('card_published', 'card'), ('comment_created', 'comment'), ('card_closed', 'card')) as a (action, type)
where c.board_id <= {accounts};

delete from flatearth.notification_settings;

update flatearth.users set role = 'member' where role = 'system';

insert into flatearth.notifications (account_id, user_id, creator_id, source_type, source_id, created_at)
select u.account_id, u.id, e.creator_id, 'event', e.id, now() - interval '1 hour'
from flatearth.users as u
cross join lateral (
    select e.id, e.creator_id from flatearth.events as e
    where e.account_id = u.account_id
    order by (e.id + u.id) % 5, e.id
    limit 4
) as e;

insert into flatearth.notification_bundles (account_id, user_id, starts_at, ends_at)
select account_id, id, now() - interval '61 minutes', now() - interval '31 minutes' from flatearth.users
"""
# Everybody has four unread notifications, of two cards or more, and a window that is over.


_ONE_WINDOW = """
with person as (
    select n.user_id, n.account_id from flatearth.notifications as n
    join flatearth.users as u on u.id = n.user_id and u.role <> 'system'
    where not exists (select from flatearth.notification_bundles as b where b.user_id = n.user_id)
    limit 1
),
told as (
    update flatearth.notifications as n set created_at = now(), read_at = null from person as p
    where n.user_id = p.user_id
)
insert into flatearth.notification_bundles (account_id, user_id, starts_at, ends_at)
select account_id, user_id, now(), now() + %s * interval '1 second' from person
returning id
"""

_PROMPTNESS = """
select extract(epoch from delivered_at - ends_at)::float8 from flatearth.notification_bundles
where id = %s and outcome = 'mailed'
"""


def promptness(conninfo: str, ends_in: float, patience: float = 180) -> float:
    """Seconds from the end of a window, which is so many seconds away, to when its mail was taken; by a daemon.

    Raises:
        WrongResult: it was not.
    """
    with connected(conninfo) as connection:
        [(bundle_id,)] = connection.execute(_ONE_WINDOW, [ends_in]).fetchall()
        until = time.monotonic() + patience
        while time.monotonic() < until:
            row = connection.execute(_PROMPTNESS, [bundle_id]).fetchone()
            if row:
                say(f"  from a window's end to its mail: {row[0]:.3f} s")
                return float(row[0])
            time.sleep(0.1)
    raise WrongResult(f"the daemon delivered no bundle within {patience:.0f} s")


@dataclass(frozen=True)
class News:
    """New events and texts."""

    events: int

    @property
    def name(self) -> str:
        """Of its database."""
        return f"news_{self.events}"

    def built(self, lab: Lab) -> "News":
        """The same, once it is there."""
        _build(lab, self.name, _PEOPLE + ";" + _NEWS, accounts=max(self.events // 100, 10), events=self.events)
        return self

    def expected(self, conninfo: str) -> tuple[int, int, str]:
        """Of a fresh copy: mentions, notifications of events, and their hash."""
        with connected(conninfo) as connection:
            [(mentions, notifications, told)] = connection.execute(_EXPECTED.encode()).fetchall()
        return int(mentions), int(notifications), str(told)

    def verify(self, conninfo: str, expected: tuple[int, int, str]) -> None:
        """Return if exactly those were told, of everything, each in one window.

        Raises:
            WrongResult: with what was expected and what is there.
        """
        with connected(conninfo) as connection:
            [done] = connection.execute(_TOLD.encode()).fetchall()
            [wrong] = connection.execute(_LEFT_OR_OUTSIDE.encode()).fetchall()
        if done != expected or wrong != (0, 0, 0):
            raise WrongResult(
                f"{self.name}: expected {expected} (mentions, notifications, hash) and nothing left or outside of one"
                f" window, found {done} and {wrong}"
            )


@dataclass(frozen=True)
class Windows:
    """Bundles that are due, with four unread notifications each."""

    bundles: int

    @property
    def name(self) -> str:
        """Of its database."""
        return f"windows_{self.bundles}"

    def built(self, lab: Lab) -> "Windows":
        """The same, once it is there."""
        _build(lab, self.name, _PEOPLE + ";" + _WINDOWS, accounts=self.bundles // PEOPLE_OF_AN_ACCOUNT, events=0)
        return self

    def verify(self, conninfo: str) -> None:
        """Return if each of them was mailed.

        Raises:
            WrongResult: with what became of them.
        """
        with connected(conninfo) as connection:
            became = connection.execute(
                "select outcome, items, count(*) from flatearth.notification_bundles group by 1, 2"
            ).fetchall()
        if became != [("mailed", 4, self.bundles)]:
            raise WrongResult(f"{self.name}: expected all to be mailed with 4 items, found {became}")


def _build(lab: Lab, name: str, script: LiteralString, **sizes: int) -> None:
    migrations = b"".join(path.read_bytes() for path in sorted(schema.directory().glob("*.sql")))
    note = hashlib.sha256(f"{script}{sizes}".encode() + Path(__file__).read_bytes() + migrations).hexdigest()
    if lab.note_of(name) == note:
        return
    say(f"{name}: making it")
    lab.copy("template0", name)
    with connected(lab.conninfo(name)) as connection:
        migrate.migrate(connection)
        connection.execute("create extension pg_prewarm")
        connection.execute(sql.SQL(script).format(**{key: sql.Literal(value) for key, value in sizes.items()}))
        connection.execute("vacuum (analyze)")
    lab.remember(name, note)
