"""Object storage, a directory or a bucket of S3: the only place that knows obstore.

The credentials of S3 are those of the environment, as AWS's own tools read them: `AWS_ACCESS_KEY_ID`,
`AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, `AWS_REGION`, or what the machine's role gives; `AWS_ENDPOINT_URL` names
another server than Amazon's.
"""

import re
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, S3Store

from flatearth_pipelines.errors import StorageUnavailable

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

_CLIENT: "ClientConfig" = {
    "allow_http": True,  # where AWS_ENDPOINT_URL says so
    "connect_timeout": timedelta(seconds=5),
    "timeout": timedelta(seconds=60),
}

_RETRIES: "RetryConfig" = {
    "max_retries": 3,
    "retry_timeout": timedelta(seconds=20),
    "backoff": {"init_backoff": timedelta(milliseconds=200), "max_backoff": timedelta(seconds=5), "base": 2},
}

_NO_OBJECT = ("Is a directory", "Filenames containing trailing")
"""What a directory says of keys that no object of its can have."""

_PATIENCE_SECONDS = 30
"""For objects that are refused: what they are deleted with holds rows."""

_HALF = 150


class Stored(NamedTuple):
    """An object as a listing tells of it."""

    key: str
    size: int
    """In bytes."""
    modified_at: datetime
    """By the storage's clock."""


class Objects:
    """What is stored under keys such as `files/7f3c/report.pdf`, whose parts are separated by slashes."""

    def __init__(self, url: str) -> None:
        """The storage of `Settings.storage_url`; a directory is created when it is not there.

        Raises:
            StorageUnavailable: the directory cannot be.
        """
        self.url = url
        with self._clear_errors():
            self._store = _store(url)

    def put(self, key: str, content: bytes) -> None:
        """Store the content, in place of what was there."""
        with self._clear_errors():
            obstore.put(self._store, key, content)

    def listed(self, prefix: str, at_once: int) -> Iterator[list[Stored]]:
        """What is stored below `prefix/`, so many at a time, in no particular order."""
        with self._clear_errors():
            for part in obstore.list(self._store, prefix, chunk_size=at_once):
                yield [Stored(meta["path"], meta["size"], meta["last_modified"]) for meta in part]

    def delete(self, keys: Sequence[str]) -> dict[str, str]:
        """Delete what is stored under these keys; those that the storage does not let go of, and why.

        What is not there is deleted already, and so is what no object can be called, such as `../x`.

        Raises:
            StorageUnavailable: the storage does not answer, or takes its time to refuse one object after the other.
                Some of them may be gone all the same.
        """
        try:
            with self._clear_errors():
                obstore.delete(self._store, list(keys))
        except (FileNotFoundError, TypeError, StorageUnavailable):
            return self._delete_one_by_one(keys)
        return {}

    def _delete_one_by_one(self, keys: Sequence[str]) -> dict[str, str]:
        refused: dict[str, str] = {}
        until = time.monotonic() + _PATIENCE_SECONDS
        for key in keys:
            try:
                with self._clear_errors():
                    obstore.delete(self._store, key)
            except (FileNotFoundError, TypeError):
                continue
            except StorageUnavailable as error:
                if any(words in str(error) for words in _NO_OBJECT):
                    continue
                next(self.listed(key.partition("/")[0], 1), None)  # is it the object or the storage?
                if time.monotonic() > until:
                    raise
                refused[key] = str(error)
        return refused

    @contextmanager
    def _clear_errors(self) -> Generator[None]:
        """What obstore raises, in one line; but for a key under which nothing is, or can be."""
        try:
            yield
        except FileNotFoundError as error:
            if "NoSuchBucket" not in str(error):
                raise
            raise StorageUnavailable(self._sentence(error)) from None
        except (BaseError, OSError) as error:
            raise StorageUnavailable(self._sentence(error)) from None

    def _sentence(self, error: Exception) -> str:
        said = str(error)
        answer = re.search(r"<Code>(\w+)</Code>(?:<Message>([^<]*)</Message>)?", said)
        first = " ".join(filter(None, answer.groups())) if answer else said.partition("\n")[0]
        first = re.sub(r"^Generic \w+ error: ", "", first).strip()
        if len(first) > 2 * _HALF:
            first = f"{first[:_HALF]} ... {first[-_HALF:]}"  # what went wrong is at one end or the other
        return f"The storage {self.url} says: {first}"


def _store(url: str) -> LocalStore | S3Store:
    parts = urlsplit(url)
    if parts.scheme == "file":
        return LocalStore(unquote(parts.path), mkdir=True, automatic_cleanup=True)
    prefix = unquote(parts.path).strip("/")
    return S3Store(parts.netloc, prefix=prefix or None, client_options=_CLIENT, retry_config=_RETRIES)
