"""Object storage: a directory, and a bucket on a real S3 server; the same verbs for both."""

import os
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import pytest

from flatearth_pipelines.errors import StorageUnavailable
from flatearth_pipelines.objects import Objects
from flatearth_pipelines_tests.s3 import SECRET, Server, environment, free_port, s3_server


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def bucket(s3: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a prefix of the test's own."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://acme/{tmp_path.name}/flat"


@pytest.fixture(params=["directory", "bucket"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    """An empty storage."""
    if request.param == "bucket":
        return Objects(request.getfixturevalue("bucket"))
    return Objects(f"file:{quote(str(tmp_path / 'objects of #1'))}")


def keys(objects: Objects, prefix: str = "files") -> list[str]:
    return sorted(stored.key for part in objects.listed(prefix, 1_000) for stored in part)


def test_what_is_put_is_listed_with_its_size_and_its_time_and_gone_when_it_is_deleted(objects: Objects) -> None:
    began = datetime.now(UTC)  # noqa: TID251 - the storage's clock, which is this machine's
    objects.put("files/a", b"12345")
    objects.put("files/b", b"")
    ((first, second),) = [sorted(part) for part in objects.listed("files", 10)]

    assert [(first.key, first.size), (second.key, second.size)] == [("files/a", 5), ("files/b", 0)]
    assert abs(first.modified_at - began) < timedelta(minutes=1)
    assert objects.delete(["files/a"]) == {}
    assert keys(objects) == ["files/b"]
    assert objects.delete(["files/b"]) == {}
    assert keys(objects) == []


def test_what_is_put_again_takes_the_place_of_what_was_there(objects: Objects) -> None:
    objects.put("files/a", b"1")
    objects.put("files/a", b"123")
    ((only,),) = objects.listed("files", 10)
    assert only.size == 3


def test_only_what_is_below_the_prefix_is_listed(objects: Objects) -> None:
    for key in ("files/a", "files/b/c/d", "files2/a", "exports/files/a", "file"):
        objects.put(key, b"")
    assert keys(objects) == ["files/a", "files/b/c/d"]
    assert keys(objects, "nothing") == []


def test_a_listing_comes_in_parts_of_the_size_that_is_asked_for(objects: Objects) -> None:
    for number in range(7):
        objects.put(f"files/{number}", b"")
    assert [len(part) for part in objects.listed("files", 3)] == [3, 3, 1]
    assert [len(part) for part in objects.listed("files", 7)] == [7]


KEYS = ["files/a b", "files/ü/😀.txt", "files/100%.txt", "files/%41", "files/a?b", "files/a+b&c", "files/#", "files/*"]


@pytest.mark.parametrize("key", KEYS)
def test_a_key_is_listed_as_it_was_put_and_nothing_but_it_is_deleted(objects: Objects, key: str) -> None:
    objects.put(key, b"")
    objects.put("files/A", b"")
    assert keys(objects) == sorted([key, "files/A"])
    assert objects.delete([key]) == {}
    assert keys(objects) == ["files/A"]


def test_a_slash_at_either_end_of_a_key_is_dropped(objects: Objects) -> None:
    objects.put("/files/a/", b"")
    assert keys(objects) == ["files/a"]
    assert objects.delete(["/files/a"]) == {}
    assert keys(objects) == []


def test_what_is_not_there_is_deleted_already_and_the_rest_goes_all_the_same(objects: Objects) -> None:
    for key in ("files/a", "files/b"):
        objects.put(key, b"")
    assert objects.delete(["files/a", "files/nothing", "files/a", "files/b"]) == {}
    assert keys(objects) == []
    assert objects.delete([]) == {}


@pytest.mark.parametrize("key", ["../a", "files/../../a", "files//a", "files/./a", "files/\n"])
def test_what_no_object_can_be_called_is_deleted_already_and_the_rest_goes_all_the_same(
    objects: Objects, key: str
) -> None:
    objects.put("files/b", b"")
    assert objects.delete([key, "files/b"]) == {}
    assert keys(objects) == []


def test_more_than_a_thousand_are_deleted_at_once(objects: Objects) -> None:
    for number in range(1_001):
        objects.put(f"files/{number}", b"")
    assert objects.delete([f"files/{number}" for number in range(1_001)]) == {}
    assert keys(objects) == []


# A directory


def test_a_directory_is_made_when_it_is_not_there_and_left_without_empty_ones(tmp_path: Path) -> None:
    objects = Objects(f"file:{tmp_path}/a/b")
    objects.put("files/c/d", b"x")
    assert (tmp_path / "a" / "b" / "files" / "c" / "d").read_bytes() == b"x"
    objects.delete(["files/c/d"])
    assert not (tmp_path / "a" / "b" / "files" / "c").exists()


def test_nothing_outside_of_the_directory_is_reached(tmp_path: Path) -> None:
    (tmp_path / "secret").touch()
    objects = Objects(f"file:{tmp_path}/objects")
    assert objects.delete(["../secret", "files/../../secret", "/../secret", str(tmp_path / "secret")]) == {}
    assert (tmp_path / "secret").exists()


def test_a_key_that_is_a_directory_is_no_object(tmp_path: Path) -> None:
    objects = Objects(f"file:{tmp_path}")
    objects.put("files/a/b", b"")
    assert objects.delete(["files/a", "files/x#1", ""]) == {}
    assert keys(objects) == ["files/a/b"]


def test_an_object_that_the_storage_does_not_let_go_of_is_named_with_the_reason_and_the_others_go(
    tmp_path: Path,
) -> None:
    objects = Objects(f"file:{tmp_path}")
    for key in ("files/a", "files/b"):
        objects.put(key, b"")
    long = "files/" + 300 * "x"

    refused = objects.delete([long, "files/a", "files/nothing"])

    assert refused.keys() == {long}
    assert "File name too long" in refused[long]
    assert "\n" not in refused[long]
    assert keys(objects) == ["files/b"]


@pytest.mark.parametrize("path", ["a file", "a file/below"])
def test_a_directory_that_cannot_be_is_one_line(tmp_path: Path, path: str) -> None:
    (tmp_path / "a file").touch()
    with pytest.raises(StorageUnavailable, match=r"^The storage file:[^\n]+ says: [^\n]+$"):
        Objects(f"file:{quote(str(tmp_path / path))}")


# A bucket


def test_two_prefixes_of_a_bucket_do_not_see_each_other(bucket: str) -> None:
    ours, theirs = Objects(f"{bucket}/ours"), Objects(f"{bucket}/theirs")
    ours.put("files/a", b"")
    theirs.put("files/b", b"")
    assert (keys(ours), keys(theirs)) == (["files/a"], ["files/b"])
    assert keys(Objects(bucket), "ours/files") == ["ours/files/a"]
    ours.delete(["files/b"])
    assert keys(theirs) == ["files/b"]


def test_a_bucket_that_is_not_there_is_one_line_and_not_an_object_that_is_gone_already(bucket: str) -> None:
    del bucket
    objects = Objects("s3://none-of-ours")
    for verb in (lambda: objects.delete(["files/a"]), lambda: keys(objects)):
        with pytest.raises(StorageUnavailable, match=r"^The storage s3://none-of-ours says: NoSuchBucket [^\n]+$"):
            verb()


def test_a_wrong_secret_is_one_line_without_it(s3: Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Objects(bucket).put("files/a", b"")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", environment(s3.port, "hunter3")["AWS_SECRET_ACCESS_KEY"])
    objects = Objects(bucket)
    for verb in (lambda: objects.put("files/b", b""), lambda: objects.delete(["files/a"]), lambda: keys(objects)):
        with pytest.raises(StorageUnavailable, match=r"^[^\n]+SignatureDoesNotMatch[^\n]+$") as refused:
            verb()
        assert "hunter3" not in str(refused.value)
        assert SECRET not in str(refused.value)


def test_a_server_that_is_away_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(free_port()).items():
        monkeypatch.setenv(name, value)
    objects = Objects("s3://acme")
    for verb in (lambda: objects.delete(["files/a"]), lambda: keys(objects)):
        with pytest.raises(StorageUnavailable, match=r"^The storage s3://acme says: [^\n]+error sending request$"):
            verb()


def test_without_credentials_it_is_one_line(s3: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.environment["AWS_ENDPOINT_URL"])
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    objects = Objects("s3://acme")
    with pytest.raises(StorageUnavailable, match=r"^The storage s3://acme says: [^\n]+$"):
        keys(objects)
