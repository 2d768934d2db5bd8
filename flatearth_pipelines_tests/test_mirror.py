"""The tests mirror the package, file for file."""

from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "flatearth_pipelines"

WITHOUT_TESTS = {
    "handlers.py": "a list of what the features define, each tested there",
    "bigints.py": "test_frames.py binds them",
    "driver.py": "one look below SQLAlchemy, seen wherever SQL is spoken",
    "dagster_coordinator.py": "seen in test_processes.py, where Dagster's daemon launches runs",
    "entropy/card.py": "what the handler does: test_handlers.py",
    "entropy/portions.py": "two constants and a pair of numbers",
    "notifications/outcome.py": "what a run counts: test_notifying.py",
    "queue/clerk.py": "of a drain the coroutine that claims and records: test_drain.py",
    "queue/enqueue_command.py": "a command of `flatearth jobs`: test_commands.py types it",
    "queue/job_lines.py": "what people type: test_commands.py tries it as they do",
    "queue/leases.py": "what it says is SQL: test_claims.py, test_races.py and test_drain.py see what comes of it",
    "queue/keeper.py": "what it keeps for a drain: test_drain.py, test_attempts.py and test_crashes.py see it",
    "queue/pace.py": "how much a drain claims, seen in test_drain.py and measured in benchmarks/queue.py",
    "queue/run_command.py": "a command of `flatearth jobs`: test_commands.py runs it",
    "queue/running.py": "one job of the workers: test_attempts.py has a test for all that a handler may do",
    "queue/terminal_context.py": "seen in every command that takes a handler",
    "errors.py": "classes with an exit code each, seen wherever they are raised",
    "warm_worker.py": "test_dagster_launcher.py starts it",
    "workspaces/words.py": "lists of words",
}
"""Modules that decide nothing, with the reason."""

MODULES = sorted(
    str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if path.name not in {"__init__.py", "__main__.py"}
)


@pytest.mark.parametrize("module", [module for module in MODULES if module not in WITHOUT_TESTS])
def test_every_module_has_its_tests_at_the_mirrored_place(module: str) -> None:
    path = Path(module)
    assert (TESTS / path.parent / f"test_{path.name}").is_file()


@pytest.mark.parametrize("module", sorted(WITHOUT_TESTS))
def test_only_modules_that_exist_are_excused(module: str) -> None:
    assert module in MODULES
