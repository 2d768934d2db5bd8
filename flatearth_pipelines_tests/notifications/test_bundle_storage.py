"""What `flatearth bundles` reads; the commands themselves are in test_commands.py."""

import pytest
import sqlalchemy as sa

from flatearth_pipelines.errors import NotFound
from flatearth_pipelines.notifications import bundle_storage as storage
from flatearth_pipelines_tests.notifications import observed
from flatearth_pipelines_tests.notifications.workspace import Workspace, bundle


@pytest.fixture
def work(connection: sa.Connection) -> Workspace:
    return Workspace(connection)


def test_one_bundle_is_read_with_every_column(connection: sa.Connection, work: Workspace) -> None:
    bundle_id = bundle(connection, work.person(connection), "-1 hour", "1 hour")
    assert storage.read_one(connection, bundle_id) == observed.bundles(connection)[0]
    with pytest.raises(NotFound, match="There is no bundle 999999"):
        storage.read_one(connection, 999_999)


def test_what_failed_and_what_is_not_delivered_can_be_told_apart(connection: sa.Connection, work: Workspace) -> None:
    failed, pending, delivered = (
        bundle(connection, work.person(connection), "-1 hour", "-1 minute", status=status, last_error="why")
        for status in ("failed", "pending", "delivered")
    )

    assert storage.read_failed_ids(connection, 10) == [failed]
    assert storage.read_failed_ids(connection, 0) == []
    unsettled = storage.read_unsettled(connection, [failed, pending, delivered])
    assert sorted(unsettled) == sorted([(failed, "failed", "why"), (pending, "pending", "why")])


def test_who_unsubscribes_has_nothing_waiting_and_keeps_the_rest_of_their_choices(
    connection: sa.Connection, work: Workspace
) -> None:
    person = work.person(connection, "daily", quiet_days=[6, 7])
    bundle(connection, person, "-1 hour", "1 hour")

    name = storage.unsubscribe(connection, person)

    assert name == connection.execute(sa.text(f"SELECT name FROM flatearth.users WHERE id = {person}")).scalar_one()
    assert observed.bundles(connection, person) == []
    query = sa.text("SELECT email_frequency, quiet_days FROM flatearth.notification_settings")
    chosen = connection.execute(query).one()
    assert chosen == ("never", [6, 7])


def test_who_never_chose_anything_can_unsubscribe_too(connection: sa.Connection, work: Workspace) -> None:
    person = work.person(connection)
    bundle(connection, person, "-1 hour", "1 hour")

    storage.unsubscribe(connection, person)

    assert observed.bundles(connection, person) == []
    with pytest.raises(NotFound, match="There is no user 999999"):
        storage.unsubscribe(connection, 999_999)
