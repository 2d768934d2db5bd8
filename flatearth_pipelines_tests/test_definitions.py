"""The whole code location, as users load and run it."""

import re
import shutil
import socket
import subprocess
import sys
import warnings
from collections.abc import Generator
from pathlib import Path

import dagster as dg
import psycopg
import pytest

from flatearth_pipelines.definitions import defs
from flatearth_pipelines.embedded import EmbeddedServer

ROOT = Path(__file__).parents[1]

CADENCES = {
    "auto_postpone_hourly": ("auto_postpone", "0 * * * *"),
    "deliver_bundles_every_30_minutes": ("deliver_bundles", "*/30 * * * *"),
    "run_due_jobs_every_5_minutes": ("run_due_jobs", "*/5 * * * *"),
    "delete_finished_jobs_daily": ("delete_finished_jobs", "40 3 * * *"),
    "cleanup_webhook_deliveries_daily": ("cleanup_webhook_deliveries", "0 3 * * *"),
    "delete_expired_sessions_daily": ("delete_expired_sessions", "10 3 * * *"),
    "delete_old_audit_logs_daily": ("delete_old_audit_logs", "20 3 * * *"),
    "delete_old_files_daily": ("delete_old_files", "30 3 * * *"),
    "delete_unused_tags_daily": ("delete_unused_tags", "2 4 * * *"),
    "daily_report_daily": ("daily_report", "10 0 * * *"),
}
"""The contract's schedules: the job of each, and when."""

SENSORS = {
    "deliver_bundles_when_due": {"deliver_bundles"},
    "deliver_webhooks_when_due": {"deliver_webhooks"},
    "dispatch_webhooks_on_new_events": {"dispatch_webhooks"},
    "notify_recipients_on_new_events": {"notify_recipients"},
    "run_due_jobs_when_due": {"run_due_jobs", "run_heavy_job"},
    "tell_of_failed_runs": set(),
}
"""The contract's sensors: the jobs that each starts."""

RUNS_BY_ITSELF = {name for name, _ in CADENCES.values()}.union(*SENSORS.values())

LAUNCHED_ONLY = {
    "auto_postpone_by_shard",
    "daily_report_range",
    "revoke_board_access",
    "retry_jobs",
    "cancel_jobs",
    "pause_jobs",
    "resume_jobs",
}
"""Jobs that a person or a backfill launches."""


def _jobs() -> dict[str, dg.JobDefinition]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        jobs = defs.get_repository_def().get_all_jobs()
    return {job.name: job for job in jobs if not job.name.startswith("__")}


def _schedules() -> dict[str, dg.ScheduleDefinition]:
    return {schedule.name: schedule for schedule in defs.get_repository_def().schedule_defs}


# What there is


def test_the_jobs_are_those_of_the_contract_and_no_others() -> None:
    assert _jobs().keys() == RUNS_BY_ITSELF | LAUNCHED_ONLY


def test_the_schedules_are_those_of_the_contract_with_their_jobs_and_cadences() -> None:
    there = {name: (schedule.job_name, schedule.cron_schedule) for name, schedule in _schedules().items()}
    assert there == CADENCES


def test_the_sensors_are_those_of_the_contract_with_their_jobs() -> None:
    sensors = defs.get_repository_def().sensor_defs
    assert {sensor.name: {target.job_name for target in sensor.targets} for sensor in sensors} == SENSORS
    for sensor in sensors:
        assert sensor.default_status == dg.DefaultSensorStatus.RUNNING
        assert re.fullmatch(r"[A-Z][^\n]+\.", sensor.description or "")


@pytest.mark.parametrize("name", _schedules())
def test_every_schedule_is_in_utc_runs_by_default_and_says_what_it_does(name: str) -> None:
    schedule = _schedules()[name]
    assert schedule.execution_timezone == "UTC"
    assert schedule.default_status == dg.DefaultScheduleStatus.RUNNING
    assert re.fullmatch(r"[A-Z][^\n]+\.", schedule.description or "")


@pytest.mark.parametrize("name", _jobs())
def test_every_job_has_a_description_of_one_sentence_and_its_tags(name: str) -> None:
    job = _jobs()[name]
    assert re.fullmatch(r"[A-Z][^\n]+\.", job.description or "")
    assert job.tags["feature"] in {path.parent.name for path in (ROOT / "flatearth_pipelines").glob("*/__init__.py")}
    assert job.tags[".dagster/repository"] == "__repository__@flatearth", "so that CLI runs are seen on its page"


@pytest.mark.parametrize("name", _jobs())
def test_every_job_runs_without_config_and_in_one_process(name: str) -> None:
    job = _jobs()[name]
    assert job.executor_def.name == "in_process"
    assert dg.validate_run_config(job) is not None


def test_the_name_in_the_tags_is_the_one_of_the_location() -> None:
    assert "location_name: flatearth\n" in (ROOT / "workspace.yaml").read_text()


@pytest.mark.parametrize("name", _jobs())
def test_every_job_and_its_cadence_stands_in_the_readmes_table(name: str) -> None:
    rows = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in (ROOT / "README.md").read_text().splitlines()
        if line.startswith("|")
    ]
    (row,) = [row for row in rows if row[0] == f"`{name}`"]
    for schedule, (job, cron) in CADENCES.items():
        if job == name:
            assert f"`{cron}`" in row[1]
            assert f"`{schedule}`" in row[2]
    for sensor, jobs in SENSORS.items():
        if name in jobs:
            assert f"`{sensor}`" in row[2]


def test_the_readmes_table_has_no_job_that_does_not_exist() -> None:
    table = (ROOT / "README.md").read_text().partition("| job |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == _jobs().keys()


# Importing it


def test_importing_it_opens_no_connection_and_starts_nothing(tmp_path: Path) -> None:
    code = "import flatearth_pipelines.definitions"
    with socket.socket() as postgres:
        postgres.bind(("127.0.0.1", 0))
        postgres.listen()
        postgres.setblocking(False)
        url = f"postgresql://ada@127.0.0.1:{postgres.getsockname()[1]}/earth"
        environment = {"FLATEARTH_DATABASE_URL": url, "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, timeout=60)
        with pytest.raises(BlockingIOError):
            postgres.accept()
    home = tmp_path / "home"
    environment = {"FLATEARTH_HOME": str(home), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, timeout=60)
    assert not home.exists()


def test_importing_it_leaves_polars_to_the_runs_that_need_it() -> None:
    code = "import sys, flatearth_pipelines.definitions; sys.exit('polars' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


# As users run it


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Generator[Path]:
    """A checkout after set-up, in a path with a space: a `.venv` of its own in which the copy is installed."""
    clone = tmp_path_factory.mktemp("flat earth")
    for name in ("flatearth_pipelines", "sql"):
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dagster.yaml", "workspace.yaml", ".env", "pyproject.toml"):
        shutil.copy(ROOT / name, clone)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", clone / ".venv"], check=True)
    (packages,) = (clone / ".venv").glob("lib/python*/site-packages")
    # The packages themselves are those of this interpreter: in a .pth file they do not bring their own .pth files.
    installed = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "checkout.pth").write_text("\n".join([str(clone), *installed]) + "\n")
    for program in ("dagster", "flatearth"):
        script = clone / ".venv" / "bin" / program
        original = Path(sys.executable).with_name(program).read_text()
        # A shebang takes no space: pip writes the same two lines there.
        script.write_text(f"#!/bin/sh\n'''exec' \"{clone}/.venv/bin/python\" \"$0\" \"$@\"\n' '''\n" + original)
        script.chmod(0o755)
    yield clone
    EmbeddedServer(clone / ".flatearth").stop()


def test_definitions_validate_passes_in_a_new_shell(clone: Path) -> None:
    done = _in_a_new_shell(clone, ".venv/bin/dagster definitions validate")
    assert done.returncode == 0, done.stderr
    assert "All code locations passed validation" in done.stdout + done.stderr


def test_a_job_runs_in_a_new_shell_with_nothing_exported_and_is_found_on_its_page(clone: Path) -> None:
    done = _in_a_new_shell(clone, ".venv/bin/dagster job execute -m flatearth_pipelines.definitions -j auto_postpone")
    assert done.returncode == 0, done.stderr[-2000:]
    home = clone / ".flatearth"
    with psycopg.connect(EmbeddedServer(home).connection_string()) as connection:
        runs = connection.execute("select run_id, pipeline_name, status from dagster.runs").fetchall()
        assert [run[1:] for run in runs] == [("auto_postpone", "SUCCESS")]
        tags = connection.execute("select key, value from dagster.run_tags where run_id = %s", [runs[0][0]]).fetchall()
    assert {("feature", "entropy"), (".dagster/repository", "__repository__@flatearth")} <= set(tags)
    there = {path.name for path in clone.iterdir()}
    assert there - {path.name for path in ROOT.iterdir()} <= {".flatearth", ".dagster"}, "nothing is strewn about"


def _in_a_new_shell(clone: Path, command: str) -> subprocess.CompletedProcess[str]:
    """As after logging in: nothing exported, the shell itself sets PWD."""
    nothing = ["env", "-i", "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", f"HOME={clone}"]
    return subprocess.run(
        [*nothing, "bash", "-c", f'cd "$0" && {command}', clone],
        capture_output=True,
        text=True,
        cwd="/",
        check=False,
        timeout=120,
    )
