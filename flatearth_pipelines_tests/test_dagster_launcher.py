"""The worker in reserve: what it executes, and what becomes of it when it is cancelled, killed or not needed."""

import os
import shutil
import signal
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.errors import DagsterInvariantViolationError
from dagster._core.launcher import LaunchRunContext
from dagster._core.launcher.base import WorkerStatus

from flatearth_pipelines.dagster_coordinator import AT_ONCE
from flatearth_pipelines.dagster_launcher import RunLauncher
from flatearth_pipelines_tests.conftest import ROOT
from flatearth_pipelines_tests.processes import until
from flatearth_pipelines_tests.queue.workers import add, scalar, states

OF_A_SENSOR = {**AT_ONCE, "dagster/sensor_name": "run_due_jobs_when_due"}


@pytest.fixture
def home(tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch) -> Generator[dg.DagsterInstance]:
    """Dagster as the project configures it, on the test's own database."""
    assert database
    shutil.copy(ROOT / "dagster.yaml", tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.chdir(ROOT)
    with dg.DagsterInstance.get() as instance:
        yield instance


@pytest.fixture
def launcher(home: dg.DagsterInstance) -> RunLauncher:
    assert isinstance(home.run_launcher, RunLauncher)
    return home.run_launcher


def test_the_worker_in_reserve_executes_the_run(
    engine: sa.Engine, home: dg.DagsterInstance, launcher: RunLauncher
) -> None:
    job_id = add(engine, "check_card_entropy", {"card_id": 1})
    launcher.keep_one()

    run = launch(home)

    until(lambda: status(home, run) == "SUCCESS" and has_ended(worker(home, run)))
    assert states(engine) == {job_id: "succeeded"}


def test_without_one_the_run_is_left_to_dagster(home: dg.DagsterInstance) -> None:
    with pytest.raises(DagsterInvariantViolationError, match="DefaultRunLauncher requires a workspace"):
        launch(home)


@pytest.mark.parametrize("tags", [{}, AT_ONCE, {"dagster/sensor_name": "another"}], ids=["none", "a person", "another"])
def test_a_run_that_no_sensor_asks_for_at_once_is_left_to_dagster(
    home: dg.DagsterInstance, launcher: RunLauncher, tags: dict[str, str]
) -> None:
    launcher.keep_one()

    with pytest.raises(DagsterInvariantViolationError, match="DefaultRunLauncher requires a workspace"):
        launch(home, tags)


def test_a_run_in_it_is_cancelled_as_any_other(
    engine: sa.Engine, home: dg.DagsterInstance, launcher: RunLauncher
) -> None:
    launcher.keep_one()
    run = launch(home, stay_seconds=60)
    until(lambda: bool(scalar(engine, "SELECT count(*) FROM flatearth.job_leases WHERE waiting")))

    assert launcher.terminate(run.run_id)

    until(lambda: status(home, run) == "CANCELED" and has_ended(worker(home, run)))
    assert scalar(engine, "SELECT count(*) FROM flatearth.job_leases") == 0
    assert not launcher.terminate(run.run_id)


def test_a_run_whose_process_is_killed_is_seen_to_be_gone(
    engine: sa.Engine, home: dg.DagsterInstance, launcher: RunLauncher
) -> None:
    launcher.keep_one()
    run = launch(home, stay_seconds=60)
    until(lambda: bool(scalar(engine, "SELECT count(*) FROM flatearth.job_leases WHERE waiting")))
    assert health(home, run) is WorkerStatus.RUNNING

    os.kill(worker(home, run), signal.SIGKILL)

    until(lambda: health(home, run) is WorkerStatus.FAILED)
    assert not launcher.terminate(run.run_id)


def test_one_that_is_not_needed_ends_with_its_launcher(
    home: dg.DagsterInstance, launcher: RunLauncher, capfd: pytest.CaptureFixture[str]
) -> None:
    launcher.keep_one()
    pid = launcher.in_reserve
    assert pid is not None

    launcher.dispose()

    assert has_ended(pid)
    assert "Traceback" not in capfd.readouterr().err
    assert home.get_runs_count() == 0


def test_a_file_of_the_code_that_changed_sends_it_away(
    home: dg.DagsterInstance, launcher: RunLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher.keep_one()
    monkeypatch.setattr("flatearth_pipelines.dagster_launcher._version", lambda: 1)

    with pytest.raises(DagsterInvariantViolationError, match="DefaultRunLauncher requires a workspace"):
        launch(home)

    assert launcher.in_reserve is None


def launch(instance: dg.DagsterInstance, tags: dict[str, str] | None = None, **config: Any) -> dg.DagsterRun:
    """A run of `run_due_jobs` as the sensor's daemon launches it, but for the workspace that Dagster's way needs."""
    code = ReconstructableRepository.for_module("flatearth_pipelines.definitions", "defs", str(ROOT))
    job = code.get_reconstructable_job("run_due_jobs")
    run = instance.create_run_for_job(
        job_def=job.get_definition(),
        tags=OF_A_SENSOR if tags is None else tags,
        run_config={"ops": {"drain_due_jobs": {"config": config}}},
        job_code_origin=job.get_python_origin(),
    )
    instance.run_launcher.launch_run(LaunchRunContext(run, workspace=None))
    return run


def status(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    found = instance.get_run_by_id(run.run_id)
    assert found is not None
    return found.status.value


def health(instance: dg.DagsterInstance, run: dg.DagsterRun) -> WorkerStatus:
    found = instance.get_run_by_id(run.run_id)
    assert found is not None
    return instance.run_launcher.check_run_worker_health(found).status


def worker(instance: dg.DagsterInstance, run: dg.DagsterRun) -> int:
    found = instance.get_run_by_id(run.run_id)
    assert found is not None
    return int(found.tags["flatearth/worker_pid"])


def has_ended(pid: int) -> bool:
    listed = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return listed.stdout.strip() in {"", "Z", "Zs", "Z+"}
