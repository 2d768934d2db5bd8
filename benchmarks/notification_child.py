"""One run in a process of its own: `python -m benchmarks.notification_child WHAT CONNINFO [PORT]`.

WHAT is `tell` (of what is new), `deliver` (what is due), `bare` (the same mails, ready before it begins, by a plain
loop of smtplib's with as many connections) or `write` (the same mails, and sends none). Prints `ready` when everything
is imported, begins at the first line on its standard input, and prints one JSON object: when it began and ended by the
monotonic clock, what it did, and the most memory it took.
"""

import json
import smtplib
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from queue import Empty, SimpleQueue

from sqlalchemy import text

from benchmarks.measure import own_peak_mb
from flatearth_pipelines import database
from flatearth_pipelines.message import Message
from flatearth_pipelines.notifications.delivery import CONNECTIONS, Delivery, Options
from flatearth_pipelines.notifications.digest import Bundle
from flatearth_pipelines.notifications.digest_storage import read_bundles
from flatearth_pipelines.notifications.letter import Letterhead, letter
from flatearth_pipelines.notifications.notifying import notify
from flatearth_pipelines.settings import Settings

_IDS = "SELECT id FROM flatearth.notification_bundles WHERE status = 'pending' ORDER BY due_at, id"

HOST = "127.0.0.1"


def _tell(conninfo: str, _settings: Settings) -> Callable[[], int]:
    def run() -> int:
        with database.connections(conninfo, "flatearth benchmark") as pool, pool.connect() as connection:
            return notify(connection).notifications

    return run


def _deliver(conninfo: str, settings: Settings) -> Callable[[], int]:
    def run() -> int:
        with database.connections(conninfo, "flatearth benchmark") as pool, pool.connect() as connection:
            return Delivery(connection, settings, Options()).run().outcomes["mailed"]

    return run


def _bare(conninfo: str, settings: Settings) -> Callable[[], int]:
    head = Letterhead.of(settings)
    port = int(settings.smtp_url.rpartition(":")[2])
    mails = [letter(bundle, head) for bundle in _bundles(conninfo)]
    return lambda: _sent(port, mails)


def _write(conninfo: str, settings: Settings) -> Callable[[], int]:
    head, bundles = Letterhead.of(settings), _bundles(conninfo)
    return lambda: len([letter(bundle, head) for bundle in bundles])


def _bundles(conninfo: str) -> Sequence[Bundle]:
    with database.connections(conninfo, "flatearth benchmark") as pool, pool.connect() as connection:
        return read_bundles(connection, list(connection.execute(text(_IDS)).scalars()))


def _sent(port: int, mails: Sequence[Message]) -> int:
    waiting: SimpleQueue[Message] = SimpleQueue()
    for mail in mails:
        waiting.put(mail)
    sent = [0] * CONNECTIONS

    def send(number: int) -> None:
        with closing(smtplib.SMTP(HOST, port)) as server:
            while True:
                try:
                    mail = waiting.get_nowait()
                except Empty:
                    return
                server.sendmail(mail.sender, [mail.recipient], mail.content)
                sent[number] += 1

    threads = [threading.Thread(target=send, args=(number,)) for number in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(sent)


_WHAT = {"tell": _tell, "deliver": _deliver, "bare": _bare, "write": _write}


def main() -> None:
    """Run it, and say how long it took."""
    what, conninfo, *port = sys.argv[1:]
    smtp = {"FLATEARTH_SMTP_URL": f"smtp://{HOST}:{port[0]}"} if port else {}
    settings = Settings.from_environment({"FLATEARTH_SECRET_KEY": "benchmark", **smtp})
    run = _WHAT[what](conninfo, settings)
    print("ready", flush=True)
    sys.stdin.readline()
    began = time.monotonic()
    done = run()
    ended = time.monotonic()
    print(json.dumps({"began": began, "ended": ended, "done": done, "peak_mb": own_peak_mb()}))


if __name__ == "__main__":
    main()
