"""`flatearth metrics`: for Prometheus, over HTTP on this machine, or once on standard output."""

import signal
from collections.abc import Iterator

import click
from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from flatearth_pipelines import database
from flatearth_pipelines.errors import FlatEarthError, WrongUsage
from flatearth_pipelines.message import one_line
from flatearth_pipelines.metrics.exposition import families
from flatearth_pipelines.metrics.storage import Seen, read
from flatearth_pipelines.settings import Settings

_ADDRESS = "127.0.0.1"


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), default=9464, show_default=True, help="On 127.0.0.1.")
@click.option("--once", is_flag=True, help="Print them, and end: for node_exporter's textfile collector.")
def metrics(*, port: int, once: bool) -> None:
    """Serve Prometheus metrics, read from Postgres whenever they are asked for, until Ctrl-C."""
    conninfo = database.prepare(Settings.from_environment())
    with database.connections(conninfo, "flatearth metrics") as pool:
        registry = CollectorRegistry()
        registry.register(_Everything(pool))
        if once:
            click.echo(generate_latest(registry), nl=False)
            return
        try:
            server, thread = start_http_server(port, _ADDRESS, registry)
        except OSError as error:
            raise WrongUsage(f"Port {port} is not free ({error.strerror}): choose another with --port") from None
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has its background processes ignore it
        click.echo(f"Metrics are at http://{_ADDRESS}:{port}/metrics - Ctrl-C stops it.")
        try:
            thread.join()
        finally:
            server.shutdown()


class _Everything(Collector):
    """Reads anew for every request; two at once take two connections, others wait."""

    def __init__(self, pool: Engine) -> None:
        self._pool = pool

    def describe(self) -> Iterator[Metric]:
        """Nothing that would be read when it is registered."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Every metric at this moment."""
        return families(self._seen())

    def _seen(self) -> Seen | None:
        try:
            with self._pool.begin() as connection:
                return read(connection)
        except (DBAPIError, FlatEarthError) as error:
            click.echo(f"Nothing can be read: {one_line(str(getattr(error, 'orig', error)))}", err=True)
            return None
