"""`flatearth jobs enqueue`: one job, or a file of them."""

from typing import Any, BinaryIO

import click

from flatearth_pipelines import database
from flatearth_pipelines.errors import WrongUsage
from flatearth_pipelines.queue import functions, operator_storage
from flatearth_pipelines.queue.job_lines import calls, job_of_options
from flatearth_pipelines.queue.terminal_context import handlers
from flatearth_pipelines.settings import Settings
from flatearth_pipelines.terminal import print_json, progress

_APPLICATION = "flatearth jobs"

_INTEGER = click.IntRange(-(2**31), 2**31 - 1)
_ID = click.IntRange(1, 2**63 - 1)


@click.command()
@click.argument("handler", required=False)
@click.argument("payload", metavar="[PAYLOAD-JSON]", required=False)
@click.option("--at", "run_at", metavar="ISO8601", help="When it is due, with its offset; default now.")
@click.option("--delay", metavar="SPAN", help="Or how long from now: seconds, or such as 5m, 2h, 1d.")
@click.option("--priority", type=_INTEGER, metavar="N", help="The highest runs first; default 0.")
@click.option("--key", "job_key", metavar="K", help="At most one unfinished job has it.")
@click.option("--on-conflict", metavar="keep|replace|supersede", help="When one has the key already; default keep.")
@click.option("--window", "window_seconds", type=_INTEGER, metavar="SECONDS", help="Refuse the key for so long after.")
@click.option("--concurrency-key", metavar="K", help="At most one job with it runs at a time.")
@click.option("--max-attempts", type=_INTEGER, metavar="N", help="1 to 25; default the handler's.")
@click.option("--backoff", metavar="JSON", help='Such as {"kind": "fixed", "seconds": 30}; default the handler\'s.')
@click.option("--timeout", metavar="SPAN", help="Of each attempt; default the handler's.")
@click.option("--account", "account_id", type=_ID, metavar="ID", help="The account that it belongs to.")
@click.option("--file", type=click.File("rb"), help="One job per line, as JSON; - reads the standard input.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
def enqueue(*, file: BinaryIO | None, as_json: bool, **values: Any) -> None:
    """Enqueue one job of HANDLER and print its id, or all jobs of a file or none.

    A line of a file is an object with the arguments of the SQL function flatearth.enqueue_job, such as
    {"handler": "check_card_entropy", "payload": {"card_id": 1}, "delay": "5 minutes"}.
    """
    job = job_of_options(values)
    if file is not None:
        _enqueue_file(file, job, as_json=as_json)
        return
    if "handler" not in job:
        raise WrongUsage("Name a HANDLER, or a --file of jobs")
    with database.transaction(Settings.from_environment(), _APPLICATION) as connection:
        (job_id,) = functions.enqueue_jobs(connection, handlers(), [job])
    print_json({"id": job_id}) if as_json else click.echo(job_id)


def _enqueue_file(file: BinaryIO, beside: dict[str, Any], *, as_json: bool) -> None:
    """All of the file or nothing, in as many calls as it needs."""
    if beside:
        raise WrongUsage(f"With --file the lines say everything: leave out {', '.join(sorted(beside))}")
    ids: list[int] = []
    with (
        database.transaction(Settings.from_environment(), _APPLICATION) as connection,
        progress("Enqueueing", None) as advance,
    ):
        for lines in calls(file):
            ids += operator_storage.enqueue_lines(connection, handlers(), lines)
            advance(len(lines))
    print_json({"ids": ids}) if as_json else click.echo(f"Enqueued {len(ids):,} jobs.")
