"""The secret that signs what this installation hands out, such as the links in emails."""

import contextlib
import os
import secrets
from pathlib import Path

from flatearth_pipelines.errors import WrongSetting
from flatearth_pipelines.settings import Settings

_BYTES = 32


def secret_key(settings: Settings) -> str:
    """`FLATEARTH_SECRET_KEY`; with the embedded database one that is made once and kept in `FLATEARTH_HOME/secret_key`.

    Raises:
        WrongSetting: it is unset, and the database is somebody's own: several machines may use that, with one secret.
    """
    if settings.secret_key is not None:
        return settings.secret_key
    if settings.database is not None:
        raise WrongSetting(
            "FLATEARTH_SECRET_KEY is not set: with a database of your own it takes a long random text, the same on"
            " every machine, as `openssl rand -hex 32` prints"
        )
    kept = settings.home / "secret_key"
    with contextlib.suppress(FileNotFoundError):
        return _read(kept)
    _make(kept)
    return _read(kept)


def _read(kept: Path) -> str:
    key = kept.read_text(encoding="ascii", errors="replace").strip()
    if not key:
        raise WrongSetting(f"{kept} is empty: delete it to have a new secret, with which old links are not valid")
    return key


def _make(kept: Path) -> None:
    """Whole or not at all, and only once however many do it: who comes second keeps the first one's."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    partial = kept.with_name(f"secret_key.{secrets.token_hex(8)}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(_BYTES) + "\n")
        with contextlib.suppress(FileExistsError):
            os.link(partial, kept)
    finally:
        partial.unlink()
