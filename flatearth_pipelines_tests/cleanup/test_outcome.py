from flatearth_pipelines.cleanup.outcome import Batch, Swept


def test_batches_add_up_by_what_they_deleted_and_the_first_is_the_target() -> None:
    swept = Swept()
    for what, batch in (
        ("files", Batch(3, 2, None, ("locked",))),
        ("files", Batch(0, 0, None)),
        ("orphaned_objects", Batch(5, 1, None, ("locked too",))),
    ):
        swept.add(what, batch)

    assert swept.summary() == {
        "deleted": 2,
        "orphaned_objects_deleted": 1,
        "remaining": 0,
        "refused": 2,
        "oldest_left": None,
        "budget_hit": False,
        "batches": 2,
    }
    assert swept.told() == "2 files, 1 orphaned objects"
    assert list(swept.warnings("files", 60)) == ["2 objects stay, and the next run tries again. locked"]


def test_what_deleted_nothing_has_nothing_to_tell_and_nothing_to_warn_of() -> None:
    swept = Swept()
    swept.add("tags", Batch(0, 0, None))
    assert swept.told() == ""
    assert list(swept.warnings("tags", 60)) == []


def test_a_time_that_was_over_is_warned_of_and_not_what_remains_because_of_it() -> None:
    swept = Swept(deleted={"tags": 5_000}, budget_hit=True, remaining=70_000)
    (warning,) = swept.warnings("tags", 60)
    assert warning == "The time of 60 s was over before all was deleted: the next run goes on"


def test_what_remains_although_there_was_time_is_warned_of_as_held() -> None:
    swept = Swept(deleted={"tags": 5_000}, remaining=1)
    (warning,) = swept.warnings("tags", 60)
    assert warning == "1 due tags remain: somebody holds them, and the next run looks again"


def test_files_that_remain_because_their_objects_were_refused_are_warned_of_once() -> None:
    swept = Swept(deleted={"files": 0}, remaining=2, refused=2, reason="The storage says: locked")
    assert list(swept.warnings("files", 60)) == [
        "2 objects stay, and the next run tries again. The storage says: locked"
    ]
