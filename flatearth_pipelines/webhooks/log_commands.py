"""Of `flatearth webhooks` what says how deliveries went, and has them sent again."""

import base64
import codecs
import re
import sys
from collections.abc import Mapping
from typing import Any

import click

from flatearth_pipelines import database
from flatearth_pipelines.errors import FlatEarthError, WrongUsage
from flatearth_pipelines.instants import instant
from flatearth_pipelines.settings import Settings
from flatearth_pipelines.terminal import console, print_json, print_rows
from flatearth_pipelines.webhooks import delivery_storage, storage
from flatearth_pipelines.webhooks.outcome import MOST_BYTES, Code
from flatearth_pipelines.webhooks.payload import direct_body

_APPLICATION = "flatearth webhooks"

_PING = "ping"

_STEERING = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u202a-\\u202e\\u2066-\\u2069]")
"""Of an answer what would move a terminal's cursor, or worse: anybody may have written it."""

_ID = click.IntRange(1, 2**63 - 1)
_COUNT = click.IntRange(0, 2**31 - 1)

_json = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
_id = click.argument("webhook_id", metavar="ID", type=_ID)


@click.command()
@_id
@click.option("--state", "states", multiple=True, metavar="S", help=f"Any of {', '.join(storage.STATES)}.")
@click.option("--limit", type=_COUNT, default=50, show_default=True, help="How many, the newest first.")
@click.option("--offset", type=_COUNT, default=0, help="How many of the newest to leave out.")
@_json
def deliveries(*, webhook_id: int, states: tuple[str, ...], limit: int, offset: int, as_json: bool) -> None:
    """List the deliveries of a webhook, the newest first, each with its last attempt; instants in UTC."""
    for state in states:
        if state not in storage.STATES:
            raise WrongUsage(f"There is no state {state!r}: there are {', '.join(storage.STATES)}")
    with database.transaction(Settings.from_environment(), _APPLICATION) as connection:
        storage.read_one(connection, webhook_id)
        rows = storage.read_deliveries(connection, webhook_id, states=states, limit=limit, offset=offset)
    print_rows(rows if as_json else [shown(row) for row in rows], as_json=as_json, empty="No deliveries.")


@click.command()
@click.argument("delivery_id", metavar="DELIVERY", type=_ID)
@_json
def log(*, delivery_id: int, as_json: bool) -> None:
    """Show every attempt of a delivery, with the beginning of what the endpoint answered.

    An answer that is no UTF-8 is shown in base64.
    """
    with database.transaction(Settings.from_environment(), _APPLICATION) as connection:
        rows = storage.read_attempts(connection, delivery_id)
    attempts = [row | _readable(row["response"]) for row in rows]
    if as_json:
        print_json(attempts)
        return
    answers = {"response", "response_encoding"}
    table = [{name: value for name, value in row.items() if name not in answers} for row in attempts]
    print_rows(table, as_json=False, empty="No attempts.")
    for row in attempts:
        if row["response"]:
            console().print(f"\nAnswer to attempt {row['attempt']}, {row['response_encoding']}:")
            click.echo(_STEERING.sub("\N{REPLACEMENT CHARACTER}", row["response"].replace("\r\n", "\n")))


@click.command()
@_id
@_json
def test(*, webhook_id: int, as_json: bool) -> None:
    """Send a webhook a ping now, in this process, and say what came of it; exit 1 unless it was taken.

    The ping is tried once. Like everything that is sent it counts for the webhook's failures.
    """
    # It and its aiohttp cost every other command 0.2 s.
    from flatearth_pipelines.webhooks.delivery import Delivery, Options  # noqa: PLC0415

    settings = Settings.from_environment()
    pool = database.engine(database.prepare(settings), _APPLICATION)
    try:
        with pool.connect() as connection:
            delivery = Delivery(connection, settings, Options())
            with connection.begin():
                delivery_id = _put_ping(connection, webhook_id)
            try:
                delivery.run([delivery_id])
            finally:
                with connection.begin():
                    storage.give_up(connection, delivery_id)
            with connection.begin():
                attempts = storage.read_attempts(connection, delivery_id)
    finally:
        pool.dispose()
    if not attempts:
        raise FlatEarthError(f"The ping, delivery {delivery_id}, was not tried: is webhook {webhook_id} still enabled?")
    attempt = attempts[-1]
    names = ("code", "status", "duration_ms", "address", "detail")
    told = {"delivery_id": delivery_id, **{name: attempt[name] for name in names}, **_readable(attempt["response"])}
    if as_json:
        print_json(told)
    else:
        fields = {name: value for name, value in told.items() if name in {"delivery_id", *names} and value is not None}
        print_rows([{"field": name, "value": value} for name, value in shown(fields).items()], as_json=False)
    if attempt["code"] != Code.OK:
        sys.exit(1)


@click.command()
@click.argument("ids", metavar="DELIVERY...", nargs=-1, type=_ID)
def redeliver(*, ids: tuple[int, ...]) -> None:
    """Have deliveries that have ended sent again, well or not: due now, with as many attempts as at first."""
    if not ids:
        raise WrongUsage("Name the deliveries by their ids")
    meant = list(dict.fromkeys(ids))
    with database.transaction(Settings.from_environment(), _APPLICATION) as connection:
        states = storage.read_delivery_states(connection, meant)
        again = set(delivery_storage.redeliver(connection, meant))
    for delivery_id in meant:
        if delivery_id in again:
            click.echo(f"Delivery {delivery_id} waits again.")
        elif delivery_id in states:
            click.echo(f"Error: Delivery {delivery_id} has not ended: it is {states[delivery_id]}", err=True)
        else:
            click.echo(f"Error: There is no delivery {delivery_id}", err=True)
    if again != set(meant):
        sys.exit(1)


@click.command()
@_id
@click.option("--since", required=True, metavar="ISO8601", help="Created at this instant or later.")
def recover(*, webhook_id: int, since: str) -> None:
    """Have all that never reached a webhook since an instant sent again, such as after its endpoint was repaired.

    That is what was given up, and what was tried and waits for its next attempt: all of it is due now.
    """
    at = instant(since, "--since")
    count = 0
    with (
        database.connections(database.prepare(Settings.from_environment()), _APPLICATION) as pool,
        pool.connect() as connection,
    ):
        with connection.begin():
            storage.read_one(connection, webhook_id)
        while True:
            with connection.begin():
                more = delivery_storage.recover(connection, webhook_id, at)
            if not more:
                break
            count += more
    many = "1 delivery waits" if count == 1 else f"{count:,} deliveries wait"
    click.echo(f"{many} again." if count else "Nothing to do: all that was tried since then has arrived.")


def shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row for a table: ids and numbers as the commands take them, lists in a line."""
    texts = {name: str(value) for name, value in row.items() if name.endswith("id") and value is not None}
    return {**row, **texts, **{name: ", ".join(value) for name, value in row.items() if isinstance(value, list)}}


def _put_ping(connection: Any, webhook_id: int) -> int:
    """The id of a delivery that nobody but this process begins."""
    target = storage.read_target(connection, webhook_id)
    if not target.active:
        raise FlatEarthError(f"Webhook {webhook_id} is disabled: enable it to test it")
    data = {"webhook": {"id": webhook_id}, "text": "This is a test of a webhook."}
    body = direct_body(_PING, data, database.now(connection), target.format)
    delivery_id = delivery_storage.insert_direct(connection, webhook_id, _PING, body)
    storage.hold(connection, delivery_id)
    return delivery_id


def _readable(response: bytes | None) -> dict[str, str | None]:
    """The answer as text, and how it was read; half a character at the end of one that was cut is left out."""
    if response is None:
        return {"response": None, "response_encoding": None}
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(response, final=len(response) < MOST_BYTES)
    except UnicodeDecodeError:
        return {"response": base64.b64encode(response).decode("ascii"), "response_encoding": "base64"}
    return {"response": text, "response_encoding": "utf-8"}
