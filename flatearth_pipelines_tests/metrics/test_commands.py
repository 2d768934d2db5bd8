"""`flatearth metrics`: over real HTTP, and once on standard output."""

import os
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Generator

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from flatearth_pipelines_tests.conftest import ROOT
from flatearth_pipelines_tests.console import Flatearth
from flatearth_pipelines_tests.processes import PROGRAMS, until
from flatearth_pipelines_tests.smtp import free_port


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def serving(database: str, port: int) -> Generator[subprocess.Popen[str]]:  # noqa: ARG001 - it is in the environment
    """The command at work, on that port."""
    process = subprocess.Popen(
        [PROGRAMS / "flatearth", "metrics", "--port", str(port)],
        cwd=ROOT,
        env=dict(os.environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            until(lambda: answers(port))
            yield process
        finally:
            process.kill()


def answers(port: int) -> bool:
    try:
        scrape(port)
    except urllib.error.URLError:
        return False
    return True


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as response:
        text: str = response.read().decode()
        return text


def test_every_request_is_answered_with_what_is_so_then_until_ctrl_c(
    serving: subprocess.Popen[str], database: str, port: int
) -> None:
    assert 'flatearth_queue_jobs{state="waiting"} 0.0\n' in scrape(port)
    with psycopg.connect(database) as connection:
        connection.execute("SELECT flatearth.enqueue_job('check_card_entropy', '{\"card_id\": 1}')")
    assert 'flatearth_queue_jobs{state="waiting"} 1.0\n' in scrape(port)

    serving.send_signal(signal.SIGINT)

    said, errors = serving.communicate(timeout=30)
    assert said == f"Metrics are at http://127.0.0.1:{port}/metrics - Ctrl-C stops it.\n"
    assert (serving.returncode, errors) == (130, "\nInterrupted.\n")


def test_a_database_that_goes_away_is_down_and_up_again_when_it_is_back(
    serving: subprocess.Popen[str], server: str, database: str, port: int
) -> None:
    assert "flatearth_up 1.0\n" in scrape(port)
    dbname = str(conninfo_to_dict(database)["dbname"])
    name = sql.Identifier(dbname)
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(name))
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [dbname])
        try:
            assert "flatearth_up 0.0\n" in scrape(port)
        finally:
            admin.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(name))
    assert "flatearth_up 1.0\n" in scrape(port)

    serving.send_signal(signal.SIGINT)
    assert "Nothing can be read: " in serving.communicate(timeout=30)[1]


def test_it_listens_on_no_other_address(serving: subprocess.Popen[str], port: int) -> None:  # noqa: ARG001
    with socket.create_server(("127.0.0.2", port)):  # would be taken if it listened everywhere
        pass


@pytest.mark.usefixtures("database")
def test_a_port_that_is_taken_is_said_in_one_line(main: Flatearth) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main("metrics", "--port", port) == (
            2,
            "",
            f"Error: Port {port} is not free (Address already in use): choose another with --port\n",
        )


@pytest.mark.usefixtures("database")
def test_once_prints_them_and_ends(main: Flatearth) -> None:
    code, said, errors = main("metrics", "--once")
    assert (code, errors) == (0, "")
    assert "# TYPE flatearth_up gauge\nflatearth_up 1.0\n" in said
