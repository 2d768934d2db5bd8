"""The command line, `flatearth`. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""

import contextlib
import os
import shutil
import sys
from collections.abc import Generator
from typing import NoReturn

import click
import psycopg
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy.exc import DBAPIError

from flatearth_pipelines import database, inbox, migrate, schema, server
from flatearth_pipelines.cleanup.commands import cleanup
from flatearth_pipelines.entropy.commands import entropy
from flatearth_pipelines.errors import FlatEarthError
from flatearth_pipelines.handlers import HANDLERS
from flatearth_pipelines.metrics.commands import metrics
from flatearth_pipelines.notifications.commands import bundles, unsubscribe
from flatearth_pipelines.queue.commands import jobs
from flatearth_pipelines.queue.cron_commands import crons
from flatearth_pipelines.reports.commands import reports
from flatearth_pipelines.settings import Settings
from flatearth_pipelines.terminal import print_rows
from flatearth_pipelines.webhooks.commands import webhooks
from flatearth_pipelines.workspaces.commands import demo, import_

as_json_option = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="flatearth-pipelines", prog_name="flatearth")
@click.pass_context
def cli(context: click.Context) -> None:
    """The background half of Flat Earth: jobs over Postgres, run and watched through Dagster.

    Without FLATEARTH_DATABASE_URL every command uses an embedded Postgres, and starts it when needed.
    """
    context.obj = HANDLERS


@cli.command()
@click.option("--port", type=click.IntRange(1, 65535), default=3000, show_default=True, help="Of the UI, on 127.0.0.1.")
def up(port: int) -> None:
    """Run Postgres, the UI and the daemon together until Ctrl-C."""
    server.up(Settings.from_environment(), port)


@cli.command()
def down() -> None:
    """Stop the UI and the daemon of `flatearth up`, and the embedded Postgres."""
    settings = Settings.from_environment()
    if server.stop(settings):
        click.echo("Stopped the UI and the daemon.")
    stopped = database.embedded_server(settings).stop()
    click.echo("Stopped the embedded Postgres." if stopped else "The embedded Postgres was not running.")


@cli.command()
@as_json_option
def status(as_json: bool) -> None:
    """Say what runs, and where; starts nothing."""
    print_rows(server.status(Settings.from_environment()), as_json=as_json)


@cli.command("inbox")
def development_inbox() -> None:
    """Show in the browser the emails of development, until Ctrl-C; `flatearth up` sends them there."""
    click.echo(f"Emails to {inbox.SMTP_URL} are at {inbox.URL} - Ctrl-C stops it, and they are gone.")
    inbox.run()


@cli.group()
def db() -> None:
    """Look after the database and its schema."""


@db.command("migrate")
def db_migrate() -> None:
    """Bring the schema to this code's version."""
    with _session() as connection:
        applied = migrate.migrate(connection)
    click.echo("\n".join(f"Applied {name}" for name in applied) or "Nothing to do: the schema is up to date.")


@db.command("status")
@as_json_option
def db_status(as_json: bool) -> None:
    """List the migrations and which are applied; exit 1 unless all are."""
    with _session() as connection:
        steps = schema.status(connection)
    print_rows([{"migration": step.migration, "state": step.state} for step in steps], as_json=as_json)
    if any(step.state != "applied" for step in steps):
        sys.exit(1)


@db.command("rollback")
@click.option("--count", type=click.IntRange(1), default=1, show_default=True, help="Migrations to take back.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def db_rollback(count: int, yes: bool) -> None:
    """Take back the newest migrations; what their tables hold is lost."""
    if not yes and sys.stdin.isatty():
        click.confirm(f"Take back {count} migration(s), with what their tables hold?", abort=True)
    with _session() as connection:
        taken_back = migrate.roll_back(connection, count)
    click.echo("\n".join(f"Took back {name}" for name in taken_back) or "Nothing to do: nothing is applied.")


@db.command("url")
@click.option("--tcp", is_flag=True, help="Of the embedded server: by 127.0.0.1 and password, not by its socket.")
@click.option("--password", is_flag=True, help="With the password, where FLATEARTH_DATABASE_URL has one.")
def db_url(tcp: bool, password: bool) -> None:
    """Print the database's URL, for psql and for applications."""
    settings = Settings.from_environment()
    conninfo = database.connection_string(settings)
    if tcp and settings.database is None:
        click.echo(database.embedded_server(settings).tcp_url())
    else:
        click.echo(database.url(conninfo, with_password=password))


@db.command("shell", context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def db_shell(arguments: tuple[str, ...]) -> None:
    """Open psql on the database; ARGUMENTS go to psql, after `--`."""
    settings = Settings.from_environment()
    conninfo = database.connection_string(settings)
    program = shutil.which("psql") or str(database.embedded_server(settings).program("psql"))
    parameters = {key: str(value) for key, value in conninfo_to_dict(conninfo).items() if value is not None}
    # The password goes through the environment: an argument could be read by everyone on the machine.
    environment = {**os.environ, "PGPASSWORD": parameters.pop("password", os.environ.get("PGPASSWORD", ""))}
    os.execve(program, ["psql", database.url(conninfo), *arguments], environment)  # noqa: S606


cli.add_command(demo)
cli.add_command(import_)
cli.add_command(entropy)
cli.add_command(jobs)
cli.add_command(crons)
cli.add_command(bundles)
cli.add_command(unsubscribe)
cli.add_command(webhooks)
cli.add_command(cleanup)
cli.add_command(reports)
cli.add_command(metrics)


@contextlib.contextmanager
def _session() -> Generator[psycopg.Connection]:
    connection = database.connect(database.connection_string(Settings.from_environment()), "flatearth db")
    with contextlib.closing(connection):
        yield connection


def main() -> NoReturn:
    """Run the command line; whatever a person has to mend is one line on standard error."""
    try:
        cli.main(standalone_mode=False)
    except click.Abort:
        _fail("Interrupted.", 130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except FlatEarthError as error:
        _fail(f"Error: {error}", error.exit_code)
    except (psycopg.Error, DBAPIError) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        _fail(f"Error: Postgres says: {' '.join(str(cause).split())}", 1)
    sys.exit(0)


def _fail(message: str, exit_code: int) -> NoReturn:
    click.echo(message, err=True)
    sys.exit(exit_code)
