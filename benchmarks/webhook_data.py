"""Accounts that subscribe to what happens in them, with events or deliveries that wait; and what must come of them."""

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psycopg import sql
from sqlalchemy import Connection

from benchmarks.data import WrongResult
from benchmarks.servers import Lab, connected, say
from benchmarks.webhook_sink import HANGING_ONE_IN
from flatearth_pipelines import database, migrate, schema
from flatearth_pipelines.webhooks.dispatching import dispatch_new
from flatearth_pipelines.webhooks.functions import create_webhook, disable_webhook
from flatearth_pipelines.webhooks.payload import ACTIONS

SECRET_KEY = "of the benchmark, which keeps no secrets"  # noqa: S105 - that of queue_daemon
HOST = "127.0.0.1"

_WORKSPACES = """
insert into flatearth.accounts (id, name) select id, 'Account ' || id from generate_series(1, {accounts}) as id;

insert into flatearth.users (id, account_id, name, email, role)
select id, id, 'Person ' || id, 'person' || id || '@bench.example', 'owner' from generate_series(1, {accounts}) as id;

insert into flatearth.boards (id, account_id, name)
select id, 1 + (id - 1) % {accounts}, 'Board ' || id from generate_series(1, 2 * {accounts}) as id;

set flatearth.silent = on;

insert into flatearth.cards (id, account_id, board_id, creator_id, number, title, status)
select id, a, a, a, id, 'Card ' || md5(id::text), 'published'
from generate_series(1, 10 * {accounts}) as id
cross join lateral (select 1 + (id - 1) % {accounts}) as account (a);

insert into flatearth.comments (id, account_id, card_id, creator_id, body)
select id, account_id, id, creator_id, repeat(md5(id::text) || ' ', 6) from flatearth.cards;

set flatearth.silent = off
"""
# Of an account's two boards the first has cards, each with a comment, and something happens there.

_EVENTS = """
insert into flatearth.events (account_id, board_id, creator_id, action, eventable_type, eventable_id, particulars)
select
    a, a, a,
    case
        when n % 5 < 2 then 'comment_created'
        else (array['card_published', 'card_closed', 'card_triaged', 'card_tagged'])[1 + n % 4]
    end,
    case when n % 5 < 2 then 'comment' else 'card' end,
    n % 10 * {accounts} + a,
    case when n % 5 >= 2 and n % 4 = 3 then '{{"tag": "urgent"}}' else '{{}}' end::jsonb
from generate_series(0, {accounts} * {events} - 1) as i
cross join lateral (select 1 + i % {accounts}, i / {accounts}) as place (a, n);

truncate flatearth.unnotified_events, flatearth.unscanned_sources
"""
# Two of five are comments. Nobody is told of them but the endpoints.

_EXPECTED = """
select count(*), coalesce(sum(hash_record_extended(row(w.id, e.id, e.action), 0)), 0)::text
from flatearth.events as e join flatearth.webhooks as w using (account_id)
where w.name like 'Listening %'
"""

_WRITTEN = """
select
    count(*),
    coalesce(sum(hash_record_extended(row(d.webhook_id, d.event_id, d.type), 0)), 0)::text,
    count(*) filter (where (d.state, d.attempts, d.account_id) <> ('pending', 0, w.account_id)),
    (select count(*) from flatearth.undispatched_events)
from flatearth.webhook_deliveries as d join flatearth.webhooks as w on w.id = d.webhook_id
"""

_SENT = """
select
    count(*) filter (where d.state = 'completed' and d.attempts = 1 and d.last_code = 'ok' and l.ok = 1 and l.rows = 1),
    count(*) filter (where d.state = 'pending' and d.attempts = coalesce(l.rows, 0)),
    coalesce(sum(l.timeouts), 0)::bigint,
    coalesce(sum(l.rows), 0)::bigint,
    (select count(*) from flatearth.webhook_payloads)
from flatearth.webhook_deliveries as d
left join (
    select
        delivery_id, count(*) as rows, count(*) filter (where code = 'ok' and status = 204) as ok,
        count(*) filter (where code = 'timeout' and status is null) as timeouts
    from flatearth.webhook_attempts group by delivery_id
) as l on l.delivery_id = d.id
"""

_LED_THERE = "update flatearth.webhooks set url = format('http://%%s:%%s/%%s', %s::text, %s::int, id)"

_HAPPENS = """
insert into flatearth.events (account_id, board_id, creator_id, action, eventable_type, eventable_id)
values (1, 1, 1, 'card_published', 'card', 1)
returning id
"""

_COMPLETED = "select count(*) from flatearth.webhook_deliveries where event_id = %s and state = 'completed'"

_LOOK_SECONDS = 0.1


def lead_to(conninfo: str, port: int) -> None:
    """Have every endpoint be at that port, with its number as the path."""
    with connected(conninfo) as connection:
        connection.execute(_LED_THERE, [HOST, port])


def happened(conninfo: str, patience: float = 180) -> int:
    """Have something happen in the first account, and return when that was told: when it was committed, in nanoseconds.

    By the monotonic clock, which all processes of a machine share.

    Raises:
        WrongResult: the daemon told nobody.
    """
    with connected(conninfo) as connection:
        [(event_id,)] = connection.execute(_HAPPENS).fetchall()
        committed = time.monotonic_ns()
        until = time.monotonic() + patience
        while time.monotonic() < until:
            if connection.execute(_COMPLETED, [event_id]).fetchone() == (1,):
                return committed
            time.sleep(_LOOK_SECONDS)
    raise WrongResult(f"the daemon delivered no webhook within {patience:.0f} s")


@dataclass(frozen=True)
class Subscribed:
    """Accounts whose endpoints want to hear of everything, and as many events of each; beside others that do not."""

    accounts: int
    endpoints: int
    """Of each account, every other of one board. Their numbers are the first ones; another three hear of nothing."""
    events: int
    """Of each account."""
    dispatched: bool = True
    """Whether the deliveries are written."""

    @property
    def name(self) -> str:
        """Of its database."""
        state = "pending" if self.dispatched else "undispatched"
        return f"webhooks_{self.accounts}_{self.endpoints}_{self.events}_{state}"

    @property
    def deliveries(self) -> int:
        """Of all accounts: one for each event and endpoint."""
        return self.accounts * self.endpoints * self.events

    @property
    def of_hanging(self) -> int:
        """So many of the deliveries are for endpoints that hang, where one of a hundred does."""
        return self.accounts * self.endpoints // HANGING_ONE_IN * self.events

    def built(self, lab: Lab) -> "Subscribed":
        """The same, once it is there."""
        migrations = b"".join(path.read_bytes() for path in sorted(schema.directory().glob("*.sql")))
        note = hashlib.sha256(repr(self).encode() + Path(__file__).read_bytes() + migrations).hexdigest()
        if lab.note_of(self.name) == note:
            return self
        say(f"{self.name}: making it")
        lab.copy("template0", self.name)
        conninfo = lab.conninfo(self.name)
        with connected(conninfo) as connection, database.connections(conninfo, "flatearth benchmark") as pool:
            migrate.migrate(connection)
            connection.execute("create extension pg_prewarm")
            connection.execute(sql.SQL(_WORKSPACES).format(accounts=self.accounts))
            with pool.begin() as transaction:
                self._subscribe(transaction)
            connection.execute(sql.SQL(_EVENTS).format(accounts=self.accounts, events=self.events))
            if self.dispatched:
                with pool.connect() as other:
                    dispatch_new(other)
            connection.execute("vacuum (analyze)")
        if self.dispatched:
            self.verify_dispatched(conninfo)
        lab.remember(self.name, note)
        return self

    def verify_dispatched(self, conninfo: str) -> None:
        """Return if exactly one delivery is there for each event and endpoint that wants it, and nothing is new.

        Raises:
            WrongResult: with what was expected and what is there.
        """
        with connected(conninfo) as connection:
            [expected] = connection.execute(_EXPECTED).fetchall()
            [(deliveries, told, wrong, left)] = connection.execute(_WRITTEN).fetchall()
        if expected != (deliveries, told) or deliveries != self.deliveries or wrong or left:
            raise WrongResult(
                f"{self.name}: expected {expected} (deliveries, hash) and none wrong or left, found"
                f" {(deliveries, told)}, {wrong} wrong and {left} left"
            )

    def verify_sent(self, conninfo: str, served: dict[str, Any], *, hanging: bool = False) -> None:
        """Return if each was sent, answered and logged once, and those for endpoints that hang wait with a timeout.

        Raises:
            WrongResult: with what was expected and what is there.
        """
        waiting = self.of_hanging if hanging else 0
        completed, hung = self.deliveries - waiting, served["hung"]
        expected = (completed, waiting, hung, completed + hung)
        with connected(conninfo) as connection:
            [(*found, payloads)] = connection.execute(_SENT).fetchall()
        # An event that only endpoints that hang wait for may not have been composed yet.
        missing = self.accounts * self.events - payloads
        if (
            tuple(found) != expected
            or missing < 0
            or missing > waiting
            or served["answered"] != completed
            or bool(hung) != bool(waiting)
        ):
            raise WrongResult(
                f"{self.name}: expected {expected} (completed, waiting, timeouts, attempts), found {found};"
                f" {missing} events have no bytes; the server was sent {served}"
            )

    def _subscribe(self, connection: Connection) -> None:
        for number in range(self.accounts * self.endpoints):
            account = 1 + number % self.accounts
            board = account if number // self.accounts % 2 else None
            _subscribe(connection, account, "Listening", board_id=board)
        for account in range(1, self.accounts + 1):
            _subscribe(connection, account, "To another board", board_id=account + self.accounts)
            _subscribe(connection, account, "To something else", actions=("card_deleted",))
            disable_webhook(connection, _subscribe(connection, account, "Disabled"), "nobody listens")


def _subscribe(
    connection: Connection,
    account_id: int,
    name: str,
    *,
    board_id: int | None = None,
    actions: tuple[str, ...] = ACTIONS,
) -> int:
    return create_webhook(
        connection,
        SECRET_KEY,
        account_id=account_id,
        board_id=board_id,
        name=f"{name} {account_id}",
        url="https://bench.example/",
        actions=actions,
    ).id
