"""Addresses that take no mail, as their servers said."""

from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

_SUPPRESS = sa.text("""
INSERT INTO flatearth.email_suppressions (address, reason, source)
SELECT DISTINCT ON (lower(s.address)) lower(s.address), s.reason, :source
FROM unnest(:addresses, :reasons) AS s (address, reason)
ORDER BY lower(s.address), s.reason
ON CONFLICT (address) DO NOTHING
""").bindparams(
    sa.bindparam("addresses", type_=ARRAY(sa.Text)),
    sa.bindparam("reasons", type_=ARRAY(sa.Text)),
)


def suppress(connection: sa.Connection, refusals: Iterable[tuple[str, str]], source: str) -> None:
    """Have no mail sent to these addresses any more: each with what its server said."""
    pairs = sorted(refusals)
    values = {"addresses": [address for address, _ in pairs], "reasons": [said for _, said in pairs]}
    connection.execute(_SUPPRESS, {"source": source, **values})


def is_suppressed(connection: sa.Connection, address: str) -> bool:
    """Whether no mail goes to the address, however it is spelt."""
    query = sa.text("SELECT EXISTS (SELECT FROM flatearth.email_suppressions WHERE address = lower(:address))")
    return bool(connection.execute(query, {"address": address}).scalar_one())
