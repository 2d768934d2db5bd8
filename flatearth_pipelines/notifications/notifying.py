"""From new texts to mentions, from new events to notifications: take, decide and write, in one transaction each."""

import time
from collections.abc import Callable

import polars as pl
from sqlalchemy import Connection

from flatearth_pipelines.notifications import audience_storage, backlog_storage, mentions, recipients, storage
from flatearth_pipelines.notifications.outcome import BATCH_SIZE, Batch, Outcome

_MOST_PEOPLE = 10_000
"""How many people the events of one transaction speak to, but for an event that speaks to more: what bounds its memory,
and how long it holds people's rows."""

_MOST_BYTES = 16_000_000
"""Of texts in memory at once, but for one that is longer."""

_ATTEMPTS = 5
_PAUSE_SECONDS = 0.2


_Work = Callable[[Connection, int, int], Batch | None]


def notify(
    connection: Connection,
    *,
    batch_size: int = BATCH_SIZE,
    stay_seconds: float = 0.0,
    longest_seconds: float = 900.0,
    progress: Callable[[Outcome], None] = lambda _so_far: None,
) -> Outcome:
    """Tell people of everything that is new, and stay so long for more; calls `progress` after each transaction.

    Interrupted at any point it leaves whole transactions: an event is new until one commit has written all of its
    notifications. Events and texts that somebody is in the way of are tried again while it stays.

    Raises:
        Contended: a transaction failed five times for what somebody else did.
    """
    outcome = Outcome()
    deadline = time.monotonic() + longest_seconds
    until = time.monotonic() + stay_seconds
    while True:
        while _pass(connection, batch_size, deadline, outcome, progress):
            until = time.monotonic() + stay_seconds
        anything_new = False
        while not anything_new:
            if time.monotonic() >= min(until, deadline):
                return outcome
            time.sleep(_PAUSE_SECONDS)
            with connection.begin():
                anything_new = backlog_storage.is_anything_new(connection)


def _pass(
    connection: Connection, batch_size: int, deadline: float, outcome: Outcome, progress: Callable[[Outcome], None]
) -> bool:
    """Once through all that is new, by order of id, in turns of texts and events; whether anything could be done.

    What it has gone past is the next pass's: what was committed meanwhile, waited for its text, or was held back.
    """
    passed: dict[_Work, int] = {look_at_texts: 0, tell_of_events: 0}
    before = outcome.events + outcome.texts
    outcome.held_back = 0
    while passed and time.monotonic() < deadline:
        for work in list(passed):
            batch = _attempted(connection, work, batch_size, passed[work])
            if batch is None:
                del passed[work]
                continue
            passed[work] = batch.last_id
            outcome.add(batch)
            progress(outcome)
    return outcome.events + outcome.texts > before


def _attempted(connection: Connection, work: _Work, batch_size: int, after: int) -> Batch | None:
    """One transaction, tried again when somebody else was in its way."""
    for attempt in range(1, _ATTEMPTS):
        try:
            with storage.transaction(connection):
                return work(connection, batch_size, after)
        except storage.Contended:
            time.sleep(0.05 * attempt)
    with storage.transaction(connection):
        return work(connection, batch_size, after)


def look_at_texts(connection: Connection, batch_size: int, after: int) -> Batch | None:
    """Look for mentions in the first texts after this id that changed; None when there are none."""
    taken = storage.take_sources(connection, batch_size, after)
    if taken.is_empty():
        return None
    sources = _collected(mentions.within(taken.lazy(), _MOST_BYTES))
    texts = storage.read_texts(connection, sources)
    named = _readers(connection, _collected(mentions.named(texts.lazy())))
    held = named.filter(pl.col("user_id").is_in(storage.lock_people(connection, named["user_id"]).implode()))
    of_a_source = ["source_type", "source_id"]
    looked_at = sources.join(held, on=of_a_source, how="anti")
    recorded = storage.record_mentions(connection, named.join(held, on=of_a_source, how="anti"))
    written = storage.write_notifications(
        connection,
        recorded.select(
            "user_id",
            "creator_id",
            source_type=pl.lit("mention"),
            source_id="mention_id",
            kind=pl.lit("mention"),
        ),
    )
    storage.delete_sources(connection, looked_at["id"])
    return Batch(
        texts=looked_at.height,
        mentions=recorded.height,
        notifications=written.notifications,
        bundles=written.bundles,
        held_back=sources.height - looked_at.height,
        by_action={"mention": written.notifications} if written.notifications else {},
        last_id=int(sources["id"][-1]),
    )


def tell_of_events(connection: Connection, batch_size: int, after: int) -> Batch | None:
    """Tell the recipients of the first new events after this id; None when there are none."""
    taken = storage.take_events(connection, batch_size, after)
    if taken.is_empty():
        return None
    addresses = _collected(recipients.addresses(taken.lazy()))
    members = audience_storage.read_members(connection, addresses)
    events = _collected(recipients.within(taken.lazy(), addresses.lazy(), members.lazy(), _MOST_PEOPLE))
    mentioned = audience_storage.read_mentioned(connection, events)
    candidates = _readers(
        connection,
        _collected(recipients.candidates(events.lazy(), addresses.lazy(), members.lazy(), mentioned.lazy())),
    )
    mutes = audience_storage.read_mutes(connection, candidates["board_id"], candidates["user_id"])
    told = _collected(recipients.unmuted(candidates.lazy(), mutes.lazy()))
    held = told.filter(pl.col("user_id").is_in(storage.lock_people(connection, told["user_id"]).implode()))
    told = told.join(held, on="event_id", how="anti")
    written = storage.write_notifications(
        connection,
        told.select(
            "user_id",
            "creator_id",
            pl.col("kind").cast(pl.String()),
            source_type=pl.lit("event"),
            source_id="event_id",
        ),
    )
    done = events.join(held, on="event_id", how="anti")
    storage.delete_events(connection, done["event_id"])
    by_action = told.join(done, on="event_id").group_by("action").len()
    return Batch(
        events=done.height,
        notifications=written.notifications,
        bundles=written.bundles,
        held_back=events.height - done.height,
        by_action=dict(by_action.iter_rows()),
        last_id=int(events["event_id"][-1]),
    )


def _readers(connection: Connection, candidates: pl.DataFrame) -> pl.DataFrame:
    """Those of the candidates, for mentions or for events, who are active people with access to the board."""
    user_ids, board_ids = candidates["user_id"], candidates["board_id"]
    people = audience_storage.read_people(connection, user_ids)
    boards = audience_storage.read_boards(connection, board_ids)
    restricted = boards.filter(~pl.col("all_access"))["board_id"]
    accesses = audience_storage.read_accesses(connection, restricted, user_ids)
    return _collected(recipients.readers(candidates.lazy(), people.lazy(), boards.lazy(), accesses.lazy()))


def _collected(frame: pl.LazyFrame) -> pl.DataFrame:
    """The frame, by the engine that starts faster on frames of this size."""
    return frame.collect(engine="in-memory")
