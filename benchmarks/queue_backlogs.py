"""The databases that the drains start from: a queue of ours or of a peer, with its backlog and its history."""

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import children, queue_peers
from benchmarks.data import WrongResult
from benchmarks.queue_peers.peers import Peer
from benchmarks.servers import Lab, connected, say
from flatearth_pipelines import database, migrate, schema

_A_CALL = 1_000

_COPY = "clone"
"""The name of `Lab.fresh`'s, which goes at the end."""

_ENQUEUE = """
select count(*) from flatearth.enqueue_jobs((
    select jsonb_agg(jsonb_strip_nulls(jsonb_build_object(
        'handler', %(handler)s::text, 'payload', jsonb_strip_nulls(jsonb_build_object('data', %(data)s::text)),
        'timeout', '1 minute', 'concurrency_key', case when %(keyed)s then 'key ' || i end
    )))
    from generate_series(%(first)s::bigint, %(last)s::bigint) as i
))
"""

_FUTURE = """
insert into flatearth.live_jobs (handler, run_at, priority, timeout_ms)
select 'noop', now() + interval '1 day' + i * interval '1 millisecond', 10, 60000 from generate_series(1, %s) as i
"""

_A_DAY = """
do $$
declare
    day date;
begin
    for i in 1..7 loop
        day := (clock_timestamp() at time zone 'UTC')::date - i;
        execute format(
            'create table if not exists flatearth.%I partition of flatearth.finished_jobs for values from (%L) to (%L)',
            'finished_jobs_' || to_char(day, 'YYYYMMDD'), day || ' 00:00+00', day + 1 || ' 00:00+00'
        );
    end loop;
end
$$
"""

_HISTORY = """
insert into flatearth.finished_jobs (
    id, run_at, created_at, started_at, finished_at, priority, timeout_ms, attempts, own_run, handler, state, origin,
    payload
)
select -i, at, at, at, at, 0, 60000, 1, false, 'history', 'succeeded', 'adhoc', '{}'
from generate_series(1, %(jobs)s::bigint) as i
cross join lateral (
    select case
        when i %% 8 = 0 then now()
        else date_trunc('day', now(), 'UTC') - i * (7 * interval '1 day' / %(jobs)s)
    end as at
) as t
"""

_WARM = """
select pg_prewarm(c.oid)
from pg_class as c
where c.relnamespace::regnamespace::text !~ '^pg_|^information_schema$' and c.relkind in ('r', 'i')
order by c.relkind desc, pg_relation_size(c.oid) desc
"""


@dataclass(frozen=True)
class Backlog:
    """Jobs that are due, of a peer or of ours, and what stands beside them."""

    name: str
    jobs: int
    peer: Peer | None = None
    keyed: bool = False
    """Each has a concurrency key of its own."""
    payload_bytes: int = 0
    finished: int = 0
    """So many others ended, today and in the seven days before, as many on each."""
    future: int = 0
    """So many others have a higher priority, but wait until tomorrow."""

    def fresh(self, lab: Lab) -> str:
        """The connection string of a new copy: in memory, right after a checkpoint. The one before is gone."""
        self.build(lab)
        lab.copy(self.name, _COPY)
        with connected(lab.conninfo(_COPY)) as connection:
            connection.execute(_WARM)
            connection.execute("checkpoint")
        return lab.conninfo(_COPY)

    def verify(self, conninfo: str) -> None:
        """Return if every job was done, once.

        Raises:
            WrongResult: with what remains, or what is there.
        """
        with connected(conninfo) as connection:
            if self.peer is not None:
                [(remaining,)] = connection.execute(self.peer.remaining.encode()).fetchall()
                if remaining:
                    raise WrongResult(f"{self.name}: {remaining:,} of {self.jobs:,} jobs are not done")
                return
            [done] = connection.execute(
                "select count(*), count(distinct id), (select count(*) from flatearth.live_jobs)"
                " from flatearth.finished_jobs where handler <> 'history' and state = 'succeeded'"
            ).fetchall()
        expected = (self.jobs, self.jobs, self.future)
        if done != expected:
            raise WrongResult(f"{self.name}: expected {expected} (succeeded, distinct, unfinished), found {done}")

    def build(self, lab: Lab) -> None:
        """Make the template, unless it is there."""
        note = hashlib.sha256(repr(self).encode() + _sources()).hexdigest()
        if lab.note_of(self.name) == note:
            return
        say(f"{self.name}: making {self.jobs:,} jobs of {self.peer.name if self.peer else 'ours'}")
        lab.copy("template0", self.name)
        conninfo = lab.conninfo(self.name)
        with connected(conninfo) as connection:
            connection.execute("create extension pg_prewarm")
        fill: Callable[[str], None] = self._fill if self.peer is None else self._fill_peer
        fill(conninfo)
        with connected(conninfo) as connection:
            connection.execute("vacuum (analyze)")
        lab.remember(self.name, note)

    def _fill(self, conninfo: str) -> None:
        source = random.Random(1)  # noqa: S311 - bytes that do not compress
        with connected(conninfo) as connection:
            migrate.migrate(connection)
            if self.finished:
                connection.execute(_A_DAY)
                connection.execute(_HISTORY, {"jobs": self.finished})
            connection.execute(_FUTURE, [self.future])
            for first in range(1, self.jobs + 1, _A_CALL):
                last = min(first + _A_CALL - 1, self.jobs)
                data = source.randbytes(self.payload_bytes // 2).hex() if self.payload_bytes else None
                handler = "blob" if data else "noop"
                values = {"handler": handler, "data": data, "keyed": self.keyed, "first": first, "last": last}
                connection.execute(_ENQUEUE, values)

    def _fill_peer(self, conninfo: str) -> None:
        if self.peer is not None:
            url = database.url(conninfo)
            children.run([*self.peer.command, "install", url])
            children.run([*self.peer.command, "fill", url, str(self.jobs), str(self.payload_bytes)])


def _sources() -> bytes:
    """What makes a template: the migrations and this code."""
    made_by = [Path(__file__), *Path(queue_peers.__path__[0]).glob("*"), *schema.directory().glob("*.sql")]
    return b"".join(path.read_bytes() for path in sorted(made_by) if path.is_file())
