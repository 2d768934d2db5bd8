"""One run in a process of its own: `python -m benchmarks.webhook_child WHAT CONNINFO`.

WHAT is `dispatch` (what is new), `deliver` (what is due), `httpx` (the same, sent by httpx), `send` (the same requests,
read before it begins, signed and sent without Postgres), `bare` (the same requests, signed before it begins, by a plain
loop of aiohttp's with as many at once) or `uvloop` (that loop on uvloop, as ours). Prints `ready` when everything is
imported and read, begins at the first line on its standard input, and prints one JSON object: when it began and ended
by the monotonic clock, when it last recorded that deliveries are completed, and what it did.
"""

import asyncio
import json
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import Any
from unittest.mock import patch

import uvloop
from sqlalchemy import text

from benchmarks.webhook_data import SECRET_KEY
from benchmarks.webhook_rivals import HttpxPosts, bare_loop
from flatearth_pipelines import database
from flatearth_pipelines.settings import Settings
from flatearth_pipelines.webhooks import delivery
from flatearth_pipelines.webhooks.delivery import IN_FLIGHT, SECONDS, Delivery, Options, Report
from flatearth_pipelines.webhooks.dispatching import dispatch_new
from flatearth_pipelines.webhooks.endpoint_storage import Endpoint, read_endpoints
from flatearth_pipelines.webhooks.parcel import message_id
from flatearth_pipelines.webhooks.payload import CONTENT_TYPES, body
from flatearth_pipelines.webhooks.payload_storage import read_payloads
from flatearth_pipelines.webhooks.sealing import unseal
from flatearth_pipelines.webhooks.signing import Signer
from flatearth_pipelines.webhooks.transport import Post, Posts

ALLOWED = "127.0.0.0/8"

_DUE = "SELECT id, webhook_id, event_id FROM flatearth.webhook_deliveries WHERE state = 'pending' ORDER BY event_id, id"

_LOOK_SECONDS = 0.2


@dataclass
class _Run:
    """What a run says of itself, beside what it did."""

    completed: int = 0
    completed_at: float = 0.0
    """When a transaction that completed a delivery last ended."""

    def progress(self, report: Report) -> None:
        if report.completed > self.completed:
            self.completed, self.completed_at = report.completed, time.monotonic()


@dataclass(frozen=True)
class _Request:
    """What there is to be sent."""

    id: int
    endpoint: Endpoint
    body: bytes
    signer: Signer

    def signed(self, at: datetime) -> Post:
        """The request, as `Delivery` makes it."""
        headers = {"Content-Type": CONTENT_TYPES[self.endpoint.format]}
        headers |= self.signer.headers(message_id(self.id), at, self.body)
        return Post(self.endpoint.url, headers, self.body)


def _dispatch(conninfo: str, _settings: Settings, _said: _Run) -> Callable[[], int]:
    def run() -> int:
        with database.connections(conninfo, "flatearth benchmark") as pool, pool.connect() as connection:
            return dispatch_new(connection).by_action.total()

    return run


def _deliver(conninfo: str, settings: Settings, said: _Run) -> Callable[[], int]:
    def run() -> int:
        with database.connections(conninfo, "flatearth benchmark") as pool, pool.connect() as connection:
            return Delivery(connection, settings, Options(), said.progress).run().completed

    return run


def _httpx(conninfo: str, settings: Settings, said: _Run) -> Callable[[], int]:
    def run() -> int:
        with patch.object(delivery, "Posts", HttpxPosts):
            return _deliver(conninfo, settings, said)()

    return run


def _send(conninfo: str, settings: Settings, _said: _Run) -> Callable[[], int]:
    requests = _requests(conninfo, settings)

    def run() -> int:
        posts = Posts[_Request](
            lambda request: request.signed(_now()),
            allowed=settings.webhook_allow_networks,
            clock=_now,
            in_flight=IN_FLIGHT,
            seconds=SECONDS,
            user_agent="FlatEarth-Webhooks/1",
        )
        with posts:
            waiting, done = iter(requests), 0
            while True:
                posts.put(islice(waiting, 2 * IN_FLIGHT - posts.backlog))
                if not posts.backlog:
                    return done
                sent = posts.look(_LOOK_SECONDS)
                done += len(sent)
                posts.forget(sent)

    return run


def _bare(
    on_loop: Callable[[Coroutine[Any, Any, int]], int], conninfo: str, settings: Settings, _said: _Run
) -> Callable[[], int]:
    posts = [request.signed(_now()) for request in _requests(conninfo, settings)]
    return lambda: on_loop(bare_loop(posts, IN_FLIGHT))


def _requests(conninfo: str, settings: Settings) -> Sequence[_Request]:
    with (
        database.connections(conninfo, "flatearth benchmark") as pool,
        pool.connect() as connection,
        connection.begin(),
    ):
        due = connection.execute(text(_DUE)).all()
        endpoints = read_endpoints(connection, {row.webhook_id for row in due})
        asked = {(row.event_id, endpoints[row.webhook_id].format) for row in due}
        bodies = read_payloads(connection, asked, lambda event, form: body(event, form, settings.public_url))
    signers = {
        endpoint.id: Signer(endpoint.signature, [unseal(SECRET_KEY, endpoint.sealed_secret, f"webhook {endpoint.id}")])
        for endpoint in endpoints.values()
    }
    return [
        _Request(
            row.id,
            endpoints[row.webhook_id],
            bodies[row.event_id, endpoints[row.webhook_id].format],
            signers[row.webhook_id],
        )
        for row in due
    ]


def _now() -> datetime:
    return datetime.fromtimestamp(time.time(), UTC)


_WHAT: dict[str, Callable[[str, Settings, _Run], Callable[[], int]]] = {
    "dispatch": _dispatch,
    "deliver": _deliver,
    "httpx": _httpx,
    "send": _send,
    "bare": partial(_bare, asyncio.run),
    "uvloop": partial(_bare, uvloop.run),
}


def main() -> None:
    """Run it, and say how long it took."""
    what, conninfo = sys.argv[1:]
    settings = Settings.from_environment(
        {"FLATEARTH_SECRET_KEY": SECRET_KEY, "FLATEARTH_WEBHOOK_ALLOW_NETWORKS": ALLOWED}
    )
    said = _Run()
    run = _WHAT[what](conninfo, settings, said)
    print("ready", flush=True)
    sys.stdin.readline()
    began = time.monotonic()
    done = run()
    ended = time.monotonic()
    print(json.dumps({"began": began, "ended": ended, "completed_at": said.completed_at, "done": done}))


if __name__ == "__main__":
    main()
