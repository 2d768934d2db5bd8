"""What telling people of news is measured against: one statement for everything, and a row-by-row loop."""

import re
import time
from datetime import datetime, timedelta
from typing import NamedTuple

import psycopg

from benchmarks.notification_data import TOLD
from benchmarks.servers import connected

_STATEMENT = f"""
with {TOLD},
recorded as (
    insert into flatearth.mentions (account_id, source_type, source_id, mentioner_id, mentionee_id)
    select account_id, 'comment', source_id, creator_id, user_id from mentioned
    on conflict on constraint one_mention_per_source_and_person do nothing
    returning id, account_id, mentioner_id, mentionee_id
),
written as (
    insert into flatearth.notifications (account_id, user_id, creator_id, source_type, source_id)
    select account_id, user_id, creator_id, 'event', source_id from told
    union all
    select account_id, mentionee_id, mentioner_id, 'mention', id from recorded
    on conflict on constraint one_notification_per_person_and_source do nothing
    returning account_id, user_id, created_at
),
opened as (
    insert into flatearth.notification_bundles (account_id, user_id, starts_at, ends_at)
    select w.account_id, w.user_id, now(), flatearth.bundle_end(
        now(), coalesce(s.email_frequency, 'every_30_minutes'), u.time_zone, s.quiet_from, s.quiet_until,
        coalesce(s.quiet_days, '{{}}')
    )
    from (select distinct account_id, user_id from written) as w
    join flatearth.users as u on u.id = w.user_id
    left join flatearth.notification_settings as s on s.user_id = w.user_id
    where s.email_frequency is distinct from 'never'
    and not exists (
        select from flatearth.notification_bundles as b
        where b.user_id = w.user_id and b.status = 'pending' and b.ends_at > now()
    )
),
told_events as (delete from flatearth.unnotified_events),
seen_texts as (delete from flatearth.unscanned_sources)
select count(*) from written
"""

_EVENTS = """
select n.event_id, e.account_id, e.board_id, e.creator_id, e.action, e.eventable_id, a.role
from flatearth.unnotified_events as n
join flatearth.events as e on e.id = n.event_id
join flatearth.users as a on a.id = e.creator_id
order by n.event_id
limit %s
"""

_RECIPIENTS = {
    "board": "select user_id from flatearth.accesses where board_id = %(board)s and involvement = 'watching'",
    "published": """
        select user_id from flatearth.accesses where board_id = %(board)s and involvement = 'watching'
        union select user_id from flatearth.assignments where card_id = %(eventable)s
    """,
    "comment": """
        select w.user_id from flatearth.watches as w
        where w.watching and w.card_id = (select card_id from flatearth.comments where id = %(eventable)s)
        and not exists (
            select from flatearth.mentions as m
            where m.source_type = 'comment' and m.source_id = %(eventable)s and m.mentionee_id = w.user_id
        )
    """,
    "assigned": """
        select jsonb_array_elements_text(particulars -> 'assignee_ids')::bigint
        from flatearth.events where id = %(event)s
    """,
}

_MAY_READ = """
select from flatearth.users as u
where u.id = %(user)s and u.account_id = %(account)s and u.active and u.role <> 'system'
and (
    (select all_access from flatearth.boards where id = %(board)s)
    or exists (select from flatearth.accesses as x where x.board_id = %(board)s and x.user_id = u.id)
)
and not exists (select from flatearth.board_mutes as q where q.board_id = %(board)s and q.user_id = u.id)
for no key update
"""

_NOTIFY = """
insert into flatearth.notifications (account_id, user_id, creator_id, source_type, source_id)
values (%(account)s, %(user)s, %(actor)s, 'event', %(event)s)
on conflict on constraint one_notification_per_person_and_source do nothing
"""

_TEXT = """
delete from flatearth.unscanned_sources as s using flatearth.comments as c
where s.source_type = 'comment' and s.source_id = %(eventable)s and c.id = s.source_id
returning c.body
"""

_MENTION = """
with recorded as (
    insert into flatearth.mentions (account_id, source_type, source_id, mentioner_id, mentionee_id)
    values (%(account)s, 'comment', %(eventable)s, %(actor)s, %(user)s)
    returning id
)
insert into flatearth.notifications (account_id, user_id, creator_id, source_type, source_id)
select %(account)s, %(user)s, %(actor)s, 'mention', id from recorded
"""

_NAME = re.compile(r"@\[[^\]]*\]\(user:(\d+)\)")

_HAS_WINDOW = """
select from flatearth.notification_bundles where user_id = %s and status = 'pending' and ends_at > clock_timestamp()
"""

_FREQUENCY = "select email_frequency from flatearth.notification_settings where user_id = %s"

_OPEN = "insert into flatearth.notification_bundles (account_id, user_id, starts_at, ends_at) values (%s, %s, %s, %s)"

_WINDOW = {
    "every_30_minutes": timedelta(minutes=30),
    "every_few_hours": timedelta(hours=4),
    "daily": timedelta(days=1),
    "weekly": timedelta(days=7),
}


class _News(NamedTuple):
    event: int
    account: int
    board: int
    actor: int
    action: str
    eventable: int
    role: str


def single_statement(conninfo: str) -> float:
    """Seconds of one statement that looks at every new text and event, and writes all that comes of them.

    It locks nobody, so that it may only run alone: two windows of one person would end it, and its work would be lost.
    """
    with connected(conninfo) as connection:
        connection.execute("set jit = off")
        began = time.monotonic()
        connection.execute(_STATEMENT.encode())
        return time.monotonic() - began


def row_by_row(conninfo: str, events: int) -> float:
    """Seconds of a loop over the first events: one transaction for each, one statement for each question."""
    with connected(conninfo) as connection:
        rows = connection.execute(_EVENTS, [events]).fetchall()
        began = time.monotonic()
        for row in rows:
            with connection.transaction():
                _tell(connection, _News(*row))
        return time.monotonic() - began


def _tell(connection: psycopg.Connection, news: _News) -> None:
    facts = news._asdict()
    for (body,) in connection.execute(_TEXT, facts).fetchall():
        for user in set(map(int, _NAME.findall(body))) - {news.actor}:
            if connection.execute(_MAY_READ, {**facts, "user": user}).rowcount:
                connection.execute(_MENTION, {**facts, "user": user})
                _into_window(connection, news.account, user)
    if news.role != "system":
        audience = {"comment_created": "comment", "card_published": "published", "card_assigned": "assigned"}
        query = _RECIPIENTS[audience.get(news.action, "board")]
        for (user,) in connection.execute(query.encode(), facts).fetchall():
            if user != news.actor and connection.execute(_MAY_READ, {**facts, "user": user}).rowcount:
                connection.execute(_NOTIFY, {**facts, "user": user})
                _into_window(connection, news.account, user)
    connection.execute("delete from flatearth.unnotified_events where event_id = %s", [news.event])


def _into_window(connection: psycopg.Connection, account: int, user: int) -> None:
    if connection.execute(_HAS_WINDOW, [user]).rowcount:
        return
    chosen = connection.execute(_FREQUENCY, [user]).fetchone()
    frequency = chosen[0] if chosen else "every_30_minutes"
    if frequency != "never":
        now: datetime
        [(now,)] = connection.execute("select now()").fetchall()
        connection.execute(_OPEN, [account, user, now, now + _WINDOW[frequency]])
