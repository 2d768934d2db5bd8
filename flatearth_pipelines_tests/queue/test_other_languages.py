"""An application that is not in Python enqueues in its own transaction: Node with `pg`, and `psql`."""

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from flatearth_pipelines import database as db
from flatearth_pipelines_tests.conftest import ROOT

_SCRIPT = """
const { Client } = require("pg");
const assert = require("node:assert");

async function count(client, id) {
  const { rows } = await client.query("SELECT count(*)::int AS n FROM flatearth.jobs WHERE id = $1", [id]);
  return rows[0].n;
}

async function main() {
  const config = JSON.parse(process.env.PG_CONFIG);
  const [app, other] = [new Client(config), new Client(config)];
  await Promise.all([app.connect(), other.connect()]);

  const enqueue = async (name) => {
    await app.query("BEGIN");
    await app.query("INSERT INTO flatearth.accounts (name) VALUES ($1)", [name]);
    const { rows } = await app.query(
      "SELECT flatearth.enqueue_job($1, payload => $2, delay => $3, job_key => $4) AS id",
      ["check_card_entropy", { card_id: 7 }, "5 minutes", name],
    );
    return rows[0].id;
  };

  const committed = await enqueue("committed");
  const seen = { before: await count(other, committed), itself: await count(app, committed) };
  await app.query("COMMIT");
  seen.after = await count(other, committed);

  const rolledBack = await enqueue("rolled back");
  await app.query("ROLLBACK");
  seen.rolledBack = await count(other, rolledBack);

  await assert.rejects(
    app.query("SELECT flatearth.enqueue_job('check_card_entropy', max_attempts => -1)"),
    (error) => { seen.refused = [error.code, error.message]; return true; },
  );
  const { rows } = await app.query("SELECT flatearth.cancel_job($1) AS cancelled", [committed]);
  seen.cancelled = rows[0].cancelled;
  await Promise.all([app.end(), other.end()]);
  console.log(JSON.stringify({ id: committed, ...seen }));
}

main().catch((error) => { console.error(error); process.exit(1); });
"""


@functools.cache
def _missing(*programs: str) -> str:
    """Which of them is not there; with CI=true that is a failure and not a reason to skip."""
    missing = ", ".join(program for program in programs if shutil.which(program) is None)
    assert not (missing and os.environ.get("CI")), f"CI has no {missing}"
    return missing


@pytest.fixture(scope="module")
def node_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where Node finds `pg`."""
    if missing := _missing("node", "npm"):
        pytest.skip(f"there is no {missing}")
    directory = tmp_path_factory.mktemp("node")
    install = ["npm", "install", "--no-audit", "--no-fund", "--silent", "pg@8"]
    done = subprocess.run(install, cwd=directory, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode != 0 and not os.environ.get("CI"):
        pytest.skip(f"npm could not install pg: {done.stdout}{done.stderr}")
    assert done.returncode == 0, done.stdout + done.stderr
    (directory / "script.js").write_text(_SCRIPT)
    return directory


def test_node_enqueues_in_its_own_transaction_and_is_told_of_bad_values(node_directory: Path, database: str) -> None:
    done = subprocess.run(
        ["node", "script.js"],
        cwd=node_directory,
        env={**os.environ, "PG_CONFIG": _node_config(database)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    seen = json.loads(done.stdout)
    job_id = int(seen.pop("id"))
    assert seen == {
        "before": 0,
        "itself": 1,
        "after": 1,
        "rolledBack": 0,
        "refused": ["22023", "max_attempts is -1: it takes 1 to 25"],
        "cancelled": True,
    }
    assert _jobs(database) == [(job_id, {"card_id": 7}, "committed", "cancelled")]
    assert _accounts(database) == ["committed"]


@pytest.fixture(params=["psql", "flatearth db shell"])
def shell(request: pytest.FixtureRequest, database: str) -> list[str]:
    """A command that reads SQL from its standard input."""
    if request.param == "psql":
        if missing := _missing("psql"):
            pytest.skip(f"there is no {missing}")
        return ["psql", db.url(database, with_password=True), "-qtAX"]
    return [str(Path(sys.executable).with_name("flatearth")), "db", "shell", "--", "-qtAX"]


_ENQUEUE = """
BEGIN;
INSERT INTO flatearth.accounts (name) VALUES ('{0}');
SELECT flatearth.enqueue_job('check_card_entropy', '{{"card_id": 7}}', job_key => '{0}', run_at => now() + '1 hour');
\\echo enqueued
"""


def test_psql_enqueues_in_its_own_transaction(shell: list[str], database: str) -> None:
    with _shell(shell) as psql:
        assert psql.stdin is not None
        psql.stdin.write(_ENQUEUE.format("committed"))
        psql.stdin.flush()
        job_id = _until_enqueued(psql)
        assert _jobs(database) == []

        psql.stdin.write("COMMIT;" + _ENQUEUE.format("rolled back"))
        psql.stdin.flush()
        assert _until_enqueued(psql) > job_id
        psql.communicate("ROLLBACK;", timeout=20)

    assert _jobs(database) == [(job_id, {"card_id": 7}, "committed", "pending")]
    assert _accounts(database) == ["committed"]


def test_psql_is_told_of_a_bad_value_by_its_sqlstate_and_its_transaction_is_lost(
    shell: list[str], database: str
) -> None:
    sql = _ENQUEUE.format("before") + "SELECT flatearth.enqueue_job(handler => '');\nCOMMIT;\n"
    with _shell([*shell, "-v", "VERBOSITY=verbose"]) as psql:
        _, errors = psql.communicate(sql, timeout=20)

    assert "ERROR:  22023: handler is '', not a name of 1 to 100 characters" in errors
    assert (_jobs(database), _accounts(database)) == ([], [])


def _shell(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PWD": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _until_enqueued(psql: subprocess.Popen[str]) -> int:
    """The id that it printed."""
    assert psql.stdout is not None
    job_id = int(psql.stdout.readline())
    assert psql.stdout.readline() == "enqueued\n"
    return job_id


def _node_config(conninfo: str) -> str:
    names = {"host": "host", "port": "port", "user": "user", "password": "password", "dbname": "database"}
    parameters = conninfo_to_dict(conninfo)
    return json.dumps({names[key]: value for key, value in parameters.items() if key in names})


def _jobs(conninfo: str) -> list[tuple[object, ...]]:
    with psycopg.connect(conninfo) as connection:
        return connection.execute("SELECT id, payload, job_key, state FROM flatearth.jobs").fetchall()


def _accounts(conninfo: str) -> list[str]:
    with psycopg.connect(conninfo) as connection:
        return [name for (name,) in connection.execute("SELECT name FROM flatearth.accounts")]
