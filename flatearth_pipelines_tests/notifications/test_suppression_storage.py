"""Addresses that take no mail."""

import sqlalchemy as sa

from flatearth_pipelines.notifications import suppression_storage as storage


def test_an_address_is_suppressed_however_it_is_spelt_and_keeps_its_first_reason(connection: sa.Connection) -> None:
    storage.suppress(connection, [("Ada@Acme.example", "550 5.1.1 nobody"), ("ADA@acme.example", "other")], "smtp")
    storage.suppress(connection, [("ada@acme.example", "later")], "smtp")

    rows = connection.execute(sa.text("SELECT address, reason, source FROM flatearth.email_suppressions")).all()
    assert rows == [("ada@acme.example", "550 5.1.1 nobody", "smtp")]
    assert storage.is_suppressed(connection, "aDa@acme.example")
    assert not storage.is_suppressed(connection, "bo@acme.example")
