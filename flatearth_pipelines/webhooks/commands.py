"""`flatearth webhooks`: who is told of what happens; `log_commands` says how that went."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import click

from flatearth_pipelines import database
from flatearth_pipelines.secret_key import secret_key
from flatearth_pipelines.settings import Settings
from flatearth_pipelines.terminal import console, print_json, print_rows
from flatearth_pipelines.webhooks import functions, storage
from flatearth_pipelines.webhooks.log_commands import deliveries, log, recover, redeliver, shown, test
from flatearth_pipelines.webhooks.payload import ACTIONS, FORMATS
from flatearth_pipelines.webhooks.signing import SCHEMES

_APPLICATION = "flatearth webhooks"

_NEWEST_DELIVERIES = 10

_MOST_HOURS = functions.LONGEST_KEPT // timedelta(hours=1)

_ID = click.IntRange(1, 2**63 - 1)
_COUNT = click.IntRange(0, 2**31 - 1)

_json = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
_id = click.argument("webhook_id", metavar="ID", type=_ID)


@click.group()
def webhooks() -> None:
    """Have requests tell other programs of what happens, and see how that goes."""


@webhooks.command()
@click.option("--account", "account_id", type=_ID, required=True, metavar="ID", help="Whose events it is told of.")
@click.option("--board", "board_id", type=_ID, metavar="ID", help="Of this board only; default all of the account's.")
@click.option("--name", required=True, metavar="N", help="What people call it.")
@click.option("--url", required=True, metavar="U", help="Where the requests go: http[s], no private address.")
@click.option("--actions", required=True, metavar="A,B", help=f"What it is told of: any of {', '.join(ACTIONS)}.")
@click.option(
    "--format", "format_", default=FORMATS[0], show_default=True, metavar="F", help=f"One of {', '.join(FORMATS)}."
)
@click.option("--signature", default=SCHEMES[0], show_default=True, metavar="S", help=f"One of {', '.join(SCHEMES)}.")
@_json
def create(*, actions: str, format_: str, as_json: bool, **values: Any) -> None:
    """Create a webhook and print its id and, this once, its secret.

    A receiver verifies the requests of the signature standard with the secret, and those of the others with the public
    key that is printed beside it.
    """
    settings = Settings.from_environment()
    with database.transaction(settings, _APPLICATION) as connection:
        created = functions.create_webhook(
            connection,
            secret_key(settings),
            actions=[action.strip() for action in actions.split(",") if action.strip()],
            format=format_,
            allowed=settings.webhook_allow_networks,
            **values,
        )
    _print_secret({"id": created.id, "secret": created.secret, "public_key": created.public_key}, as_json=as_json)


@webhooks.command("list")
@click.option("--account", "account_id", type=_ID, metavar="ID", help="Of this account.")
@click.option("--limit", type=_COUNT, default=1_000, show_default=True, help="How many, the newest first.")
@click.option("--offset", type=_COUNT, default=0, help="How many of the newest to leave out.")
@_json
def list_(*, account_id: int | None, limit: int, offset: int, as_json: bool) -> None:
    """List webhooks, the newest first, without what their URLs say after a question mark.

    One is active, open (it failed too often: it is only tried now and then) or disabled; failures are those in a row.
    """
    with database.transaction(Settings.from_environment(), _APPLICATION) as connection:
        rows = storage.read_list(connection, account_id=account_id, limit=limit, offset=offset)
    told = [row | {"url": _without_query(row["url"])} for row in rows]
    if not as_json:
        told = [shown({name: value for name, value in row.items() if name != "actions"}) for row in told]
    print_rows(told, as_json=as_json, empty="No webhooks.")


@webhooks.command()
@_id
@_json
def show(*, webhook_id: int, as_json: bool) -> None:
    """Show all of a webhook but its secrets, and its newest deliveries, each with its last attempt."""
    with database.transaction(Settings.from_environment(), _APPLICATION) as connection:
        webhook = storage.read_one(connection, webhook_id)
        newest = storage.read_deliveries(connection, webhook_id, limit=_NEWEST_DELIVERIES)
    if as_json:
        print_json({**webhook, "deliveries": newest})
        return
    fields = {name: value for name, value in shown(webhook).items() if value is not None}
    print_rows([{"field": name, "value": value} for name, value in fields.items()], as_json=False)
    console().print()
    print_rows([shown(row) for row in newest], as_json=False, empty="No deliveries.")


@webhooks.command()
@_id
def enable(*, webhook_id: int) -> None:
    """Send to a webhook again, and forget that it failed.

    What waited goes on; `recover` has what was given up meanwhile sent, too.
    """
    with database.transaction(Settings.from_environment(), _APPLICATION) as connection:
        changed = functions.enable_webhook(connection, webhook_id)
    click.echo(f"Enabled webhook {webhook_id}." if changed else f"Nothing to do: webhook {webhook_id} is enabled.")


@webhooks.command()
@_id
@click.option("--reason", default="by hand", show_default=True, metavar="TEXT", help="What `show` says of it.")
def disable(*, webhook_id: int, reason: str) -> None:
    """Send nothing more to a webhook until it is enabled; what happens meanwhile it is never told."""
    with database.transaction(Settings.from_environment(), _APPLICATION) as connection:
        changed = functions.disable_webhook(connection, webhook_id, reason)
    click.echo(f"Disabled webhook {webhook_id}." if changed else f"Nothing to do: webhook {webhook_id} is disabled.")


@webhooks.command()
@_id
@click.option(
    "--keep-hours",
    type=click.IntRange(0, _MOST_HOURS),
    default=functions.KEPT_FOR // timedelta(hours=1),
    show_default=True,
    metavar="N",
    help="How long requests are signed by the old secret, too.",
)
@_json
def rotate(*, webhook_id: int, keep_hours: int, as_json: bool) -> None:
    """Give a webhook a new secret, and print it this once.

    Requests are signed by both for some time, so that a receiver can change over when it likes.
    """
    settings = Settings.from_environment()
    with database.transaction(settings, _APPLICATION) as connection:
        fresh = functions.rotate_secret(connection, secret_key(settings), webhook_id, timedelta(hours=keep_hours))
        until = storage.read_one(connection, webhook_id)["previous_secret_until"]
    told = {"id": webhook_id, "secret": fresh.secret, "public_key": fresh.public}
    _print_secret(told | ({"previous_secret_until": until} if as_json else {}), as_json=as_json)
    if not as_json:
        click.echo(
            f"The old one is valid until {until:%Y-%m-%d %H:%M:%S} UTC." if until else "The old one is not valid."
        )


for command in (deliveries, log, redeliver, recover, test):
    webhooks.add_command(command)


def _print_secret(told: Mapping[str, object], *, as_json: bool) -> None:
    if as_json:
        print_json(told)
        return
    for name, value in told.items():
        if value is not None:
            click.echo(f"{name.replace('_', ' ')}: {value}")


def _without_query(url: str) -> str:
    """Where a URL has secrets, if it has any."""
    path, mark, _ = url.partition("?")
    return f"{path}{mark}…" if mark else path
