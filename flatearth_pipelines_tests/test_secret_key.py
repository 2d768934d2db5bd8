import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flatearth_pipelines.errors import WrongSetting
from flatearth_pipelines.secret_key import secret_key
from flatearth_pipelines.settings import Settings


def test_the_secret_of_the_environment_is_taken_as_it_is() -> None:
    assert secret_key(Settings.from_environment({"FLATEARTH_SECRET_KEY": " a secret "})) == " a secret "


def test_with_the_embedded_database_a_secret_is_made_once_and_kept_for_its_owner_alone(tmp_path: Path) -> None:
    settings = Settings.from_environment({"FLATEARTH_HOME": str(tmp_path / "new")})

    first, second = secret_key(settings), secret_key(settings)

    kept = tmp_path / "new" / "secret_key"
    assert first == second == kept.read_text().strip()
    assert len(first) == 64
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert [path.name for path in kept.parent.iterdir()] == ["secret_key"]


def test_every_home_has_a_secret_of_its_own(tmp_path: Path) -> None:
    homes = [Settings.from_environment({"FLATEARTH_HOME": str(tmp_path / name)}) for name in ("one", "other")]
    assert len({secret_key(home) for home in homes}) == 2


def test_processes_that_make_it_at_once_have_the_same(tmp_path: Path) -> None:
    settings = Settings.from_environment({"FLATEARTH_HOME": str(tmp_path)})
    with ThreadPoolExecutor(16) as pool:
        keys = set(pool.map(lambda _: secret_key(settings), range(64)))
    assert len(keys) == 1


def test_with_any_other_database_it_has_to_be_set_in_one_line_that_says_how(tmp_path: Path) -> None:
    url = "postgresql://ada:hunter2@h/earth"
    settings = Settings.from_environment({"FLATEARTH_HOME": str(tmp_path), "FLATEARTH_DATABASE_URL": url})

    with pytest.raises(WrongSetting, match=r"^FLATEARTH_SECRET_KEY is not set: [^\n]+openssl[^\n]+$"):
        secret_key(settings)

    assert os.listdir(tmp_path) == []  # noqa: PTH208 - nothing is there at all


def test_a_kept_secret_that_is_empty_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "secret_key").touch()
    with pytest.raises(WrongSetting, match=r"secret_key is empty: [^\n]+$"):
        secret_key(Settings.from_environment({"FLATEARTH_HOME": str(tmp_path)}))


def test_the_secret_stands_in_no_representation_of_the_settings() -> None:
    assert "hunter2" not in repr(Settings.from_environment({"FLATEARTH_SECRET_KEY": "hunter2"}))
