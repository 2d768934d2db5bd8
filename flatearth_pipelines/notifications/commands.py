"""`flatearth bundles`: what waits to be mailed and what became of it; and `flatearth unsubscribe`."""

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from flatearth_pipelines import database
from flatearth_pipelines.errors import NotFound, WrongUsage
from flatearth_pipelines.instants import instant
from flatearth_pipelines.notifications import bundle_storage, delivery_storage
from flatearth_pipelines.notifications.delivery import Delivery, Options
from flatearth_pipelines.notifications.digest import reason_for_no_mail
from flatearth_pipelines.notifications.digest_storage import read_bundles
from flatearth_pipelines.notifications.letter import Letterhead, contents
from flatearth_pipelines.notifications.unsubscribe import Step, verdict
from flatearth_pipelines.secret_key import secret_key
from flatearth_pipelines.settings import Settings
from flatearth_pipelines.terminal import print_json, print_rows

_APPLICATION = "flatearth bundles"
_MOST_AGAIN = 10_000

_ID = click.IntRange(1, 2**63 - 1)
_COUNT = click.IntRange(0, 2**31 - 1)

_json = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")


@click.group()
def bundles() -> None:
    """See what waits to be mailed, what became of it, and send it now."""


@bundles.command("list")
@click.option("--state", "states", multiple=True, metavar="S", help=f"Any of {', '.join(bundle_storage.STATES)}.")
@click.option("--user", "user_id", type=_ID, metavar="ID", help="Of this person.")
@click.option("--account", "account_id", type=_ID, metavar="ID", help="Of this account.")
@click.option("--limit", type=_COUNT, default=50, show_default=True, help="How many, the newest first.")
@click.option("--offset", type=_COUNT, default=0, help="How many of the newest to leave out.")
@_json
def list_(
    *,
    states: tuple[str, ...],
    user_id: int | None,
    account_id: int | None,
    limit: int,
    offset: int,
    as_json: bool,
) -> None:
    """List bundles, the newest first; instants in UTC."""
    for state in states:
        if state not in bundle_storage.STATES:
            raise WrongUsage(f"There is no state {state!r}: there are {', '.join(bundle_storage.STATES)}")
    with database.transaction(Settings.from_environment(), _APPLICATION) as connection:
        rows = bundle_storage.read_list(
            connection, states=states, user_id=user_id, account_id=account_id, limit=limit, offset=offset
        )
    ids = ("id", "user_id")
    shown = rows if as_json else [row | {name: str(row[name]) for name in ids} for row in rows]
    print_rows(shown, as_json=as_json, empty="No bundles.")


@bundles.command()
@click.argument("bundle_id", metavar="ID", type=_ID)
@_json
def show(*, bundle_id: int, as_json: bool) -> None:
    """Show all of one bundle, and what its mail would hold at this moment."""
    with database.transaction(Settings.from_environment(), _APPLICATION) as connection:
        row = bundle_storage.read_one(connection, bundle_id)
        (bundle,) = read_bundles(connection, [bundle_id])
    now = {
        "email": bundle.email,
        "time_zone": bundle.time_zone,
        "unread": bundle.total,
        "reason_for_no_mail": reason_for_no_mail(bundle),
    }
    if as_json:
        print_json({**row, "now": now})
        return
    fields = {name: value for name, value in {**row, **now}.items() if value is not None}
    fields |= {name: str(fields[name]) for name in ("id", "account_id", "user_id")}
    print_rows([{"field": name, "value": value} for name, value in fields.items()], as_json=False)


@bundles.command()
@click.argument("bundle_id", metavar="ID", type=_ID)
@click.option("--to", "directory", type=click.Path(file_okay=False, path_type=Path), default=".", help="Default: here.")
@click.option("--as-of", metavar="ISO8601", help="The instant that its link is dated by; default now.")
@_json
def preview(*, bundle_id: int, directory: Path, as_of: str | None, as_json: bool) -> None:
    """Write what the mail would be at this moment, to the last byte: bundle-ID.html and bundle-ID.txt."""
    at = None if as_of is None else instant(as_of, "--as-of")
    settings = Settings.from_environment()
    with database.transaction(settings, _APPLICATION) as connection:
        bundle_storage.read_one(connection, bundle_id)
        (bundle,) = read_bundles(connection, [bundle_id])
    reason = reason_for_no_mail(bundle)
    said: dict[str, object] = {"would_be_sent": reason is None, "reason": reason, "to": bundle.email, "files": []}
    if bundle.items:
        shown, page = contents(bundle, Letterhead.of(settings), at)
        directory.mkdir(parents=True, exist_ok=True)
        files = {directory / f"bundle-{bundle_id}.html": page.html, directory / f"bundle-{bundle_id}.txt": page.text}
        for path, content in files.items():
            path.write_bytes(content.encode("utf-8", "replace"))
        said |= {"subject": shown.subject, "files": [str(path) for path in files]}
    if as_json:
        print_json(said)
        return
    if reason is not None:
        click.echo(f"Nothing would be sent: {reason.replace('_', ' ')}.")
    if bundle.items:
        click.echo(f"To {bundle.email or 'nobody'}: {said['subject']}")
        click.echo("\n".join(map(str, files)))


@bundles.command()
@click.argument("ids", metavar="[ID]...", nargs=-1, type=_ID)
@click.option("--failed", is_flag=True, help="All that failed, again.")
@_json
def deliver(*, ids: tuple[int, ...], failed: bool, as_json: bool) -> None:
    """Deliver what is due, in this process, without Dagster.

    With ids just these, now: one whose window is not over yet gets it ended, one that failed another eight attempts.
    """
    if ids and failed:
        raise WrongUsage("Name the bundles in one way: ids or --failed")
    settings = Settings.from_environment()
    pool = database.engine(database.prepare(settings), _APPLICATION)
    try:
        with pool.connect() as connection:
            delivery = Delivery(connection, settings, Options())
            with connection.begin():
                meant = bundle_storage.read_failed_ids(connection, _MOST_AGAIN) if failed else list(ids)
                for bundle_id in ids:
                    bundle_storage.read_one(connection, bundle_id)
                delivery_storage.reopen(connection, meant)
            report = delivery.run(meant if ids or failed else None, early=True)
            with connection.begin():
                left = _not_delivered(bundle_storage.read_unsettled(connection, meant))
    finally:
        pool.dispose()
    rows = [{"outcome": name, "bundles": count} for name, count in sorted(report.outcomes.items()) if count]
    print_rows(rows, as_json=as_json, empty="Nothing to do: no bundle is due.")
    for line in left:
        click.echo(f"Error: {line}", err=True)
    if report.outage is not None:
        click.echo(f"Error: The mail server is away: {report.outage}", err=True)
    if left or report.outage is not None:
        sys.exit(1)


def _not_delivered(rows: Sequence[tuple[int, str, str | None]]) -> list[str]:
    return [f"bundle {number} is {state}: {error or 'somebody is delivering it'}" for number, state, error in rows]


@click.command()
@click.argument("token")
@_json
def unsubscribe(*, token: str, as_json: bool) -> None:
    """Have the person of TOKEN, the end of a link to unsubscribe, get no email notifications any more."""
    settings = Settings.from_environment()
    with database.transaction(settings, "flatearth unsubscribe") as connection:
        said = verdict("POST", token, secret_key(settings), database.now(connection))
        if said.step is Step.EXPIRED:
            raise WrongUsage("The token has expired: they are valid for 30 days")
        if said.user_id is None:
            raise NotFound("The token is none of ours: it takes the last part of a link to unsubscribe")
        name = bundle_storage.unsubscribe(connection, said.user_id)
    if as_json:
        print_json({"user_id": said.user_id, "email_frequency": "never"})
    else:
        click.echo(f"{name} (user {said.user_id}) gets no email notifications any more.")
