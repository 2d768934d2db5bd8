import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from flatearth_pipelines.cleanup.retention import ORPHANS_KEEP_FOR, RETENTIONS
from flatearth_pipelines.cleanup.targets import counted, parts_of
from flatearth_pipelines.settings import Settings
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.conftest import ROOT
from flatearth_pipelines_tests.factories import DAY, NOON


def of_no_use() -> Settings:
    raise AssertionError


@pytest.mark.parametrize("target", RETENTIONS.keys() - {"files"})
def test_every_target_has_its_rows_and_all_that_goes_with_them_is_kept_as_long(target: str) -> None:
    changed = RETENTIONS[target].changed(keep_for="3 days")
    parts = parts_of(changed, of_no_use)
    assert parts[0].name == target
    assert {part.keep_for for part in parts} == {3 * DAY}


def test_orphaned_objects_are_kept_for_a_day_however_long_files_are(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, database=None, postgres_programs=None, storage_url=f"file:{tmp_path}/objects")
    parts = parts_of(RETENTIONS["files"].changed(keep_for="0 days"), lambda: settings)
    assert {part.name: part.keep_for for part in parts} == {"files": 0 * DAY, "orphaned_objects": ORPHANS_KEEP_FOR}


def test_of_every_target_can_be_counted_what_is_due_without_a_storage(connection: sa.Connection) -> None:
    account = make.account(connection)
    make.tag(connection, account)
    make.session(connection, make.user(connection, account))
    make.audit_log(connection, account)
    make.file(connection, account, "files/a")
    make.delivery(connection, make.webhook(connection, account), created_at=NOON - 8 * DAY)
    for retention in RETENTIONS.values():
        assert counted(retention).count_due(connection, NOON) == 1


def test_the_code_location_leaves_object_storage_to_the_run_that_needs_it() -> None:
    code = "import sys, flatearth_pipelines.definitions; sys.exit('obstore' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
