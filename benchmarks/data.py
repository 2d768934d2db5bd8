"""The data sets, and what is true of them.

What is expected of a run is worked out by a plain reading of the rule, when a set is made: `DataSet.verify` holds every
run, ours or a rival's, against it.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import psycopg

from benchmarks import generation
from benchmarks.servers import Lab, connected, say
from flatearth_pipelines import migrate, schema

_DUE = """
select
    count(*),
    count(r.actor_id),
    coalesce(sum(hash_record_extended(row(c.id), 0)), 0)::text,
    coalesce(sum(hash_record_extended(row(c.id, c.account_id, c.board_id, r.actor_id), 0))
        filter (where r.actor_id is not null), 0)::text
from flatearth.cards as c
join board_rules as r using (board_id)
where c.status = 'published' and c.closed_at is null and c.postponed_at is null
and %(as_of)s - c.last_active_at > r.period
"""

_DONE = """
select c.postponed, e.recorded, c.hash, e.hash, c.halfway
from (
    select
        count(*) as postponed,
        coalesce(sum(hash_record_extended(row(id), 0)), 0)::text as hash,
        count(*) filter (
            where column_id is not null or activity_spike_at is not null or last_active_at <> postponed_at
        ) as halfway
    from flatearth.cards where postponed_at = %(as_of)s
) as c, (
    select
        count(*) as recorded,
        coalesce(sum(hash_record_extended(row(eventable_id, account_id, board_id, creator_id), 0)), 0)::text as hash
    from flatearth.events
    where created_at = %(as_of)s and action = 'card_auto_postponed' and eventable_type = 'card'
) as e
"""


class WrongResult(Exception):
    """A run did not do what the rule says: its time means nothing."""


@dataclass(frozen=True)
class Facts:
    """What is true of a data set; hashes stand for the ids of the due cards and for the events they get."""

    fingerprint: str
    as_of: str
    due: int
    attributed: int
    cards_hash: str
    events_hash: str


@dataclass(frozen=True)
class DataSet:
    """A built data set: the database to copy, and what a run on a copy must do."""

    name: str
    cards: int
    facts: Facts

    @property
    def as_of(self) -> datetime:
        """The instant to judge by, when the set was made: whatever is touched now is active."""
        return datetime.fromisoformat(self.facts.as_of)

    def verify(self, conninfo: str) -> None:
        """Return if exactly the due cards were postponed there, whole, each with its event.

        Raises:
            WrongResult: with what was expected and what is there.
        """
        with connected(conninfo) as connection:
            done = connection.execute(_DONE, {"as_of": self.as_of}).fetchone()
        expected = (self.facts.due, self.facts.attributed, self.facts.cards_hash, self.facts.events_hash, 0)
        if done != expected:
            raise WrongResult(f"{self.name}: expected {expected} (cards, events, hashes, halfway), found {done}")


@dataclass(frozen=True)
class Plan:
    """A data set to be: its name, its cards, and the share of them that is due."""

    name: str
    cards: int
    due: float

    def built(self, lab: Lab) -> DataSet:
        """The data set; made now unless an earlier run left it."""
        facts = _facts(lab, self)
        if facts is None:
            say(f"{self.name}: making {self.cards:,} cards, {self.due:.2%} of them due")
            facts = _build(lab, self)
            say(f"{self.name}: {facts.due:,} due, {_size(lab, self.name)}")
        return DataSet(self.name, self.cards, facts)


def with_plain_indexes(lab: Lab, original: DataSet) -> DataSet:
    """The same data with a plain index per foreign key, instead of indexes that hold the rows of one state."""
    plan = Plan(f"{original.name}_plain", original.cards, 0)
    facts = _facts(lab, plan)
    if facts != original.facts:
        say(f"{plan.name}: copying {original.name}, with other indexes")
        lab.copy(original.name, plan.name)
        with connected(lab.conninfo(plan.name)) as connection:
            generation.index_plainly(connection)
        _remember(lab, plan.name, original.facts)
    return DataSet(plan.name, original.cards, original.facts)


def _build(lab: Lab, plan: Plan) -> Facts:
    lab.copy("template0", plan.name)
    with connected(lab.conninfo(plan.name)) as connection:
        migrate.migrate(connection)
        connection.execute("create extension pg_prewarm")
        as_of = _now(connection)
        generation.fill(connection, as_of, plan.cards, plan.due)
        due = connection.execute(_DUE, {"as_of": as_of}).fetchone() or ()
    facts = Facts(_fingerprint(plan), as_of.isoformat(), *due)
    _remember(lab, plan.name, facts)
    return facts


def _now(connection: psycopg.Connection) -> datetime:
    now: datetime
    [(now,)] = connection.execute("select now()").fetchall()
    return now


def _facts(lab: Lab, plan: Plan) -> Facts | None:
    """What an earlier run noted about the data set; None if it is not there, unfinished or of another making."""
    note = lab.note_of(plan.name)
    facts = Facts(**json.loads(note)) if note else None
    return facts if facts and facts.fingerprint == _fingerprint(plan) else None


def _remember(lab: Lab, name: str, facts: Facts) -> None:
    lab.remember(name, json.dumps(asdict(facts)))


def _fingerprint(plan: Plan) -> str:
    """Changes with the plan, the migrations and this code, so that `--home` never serves what is out of date."""
    made_by = [Path(__file__), Path(generation.__file__), *sorted(schema.directory().glob("*.sql"))]
    return hashlib.sha256(repr(plan).encode() + b"".join(path.read_bytes() for path in made_by)).hexdigest()


def _size(lab: Lab, name: str) -> str:
    with connected(lab.conninfo("postgres")) as connection:
        row = connection.execute("select pg_size_pretty(pg_database_size(%s))", [name]).fetchone()
    return str(row[0]) if row else "?"
