"""The bytes that are sent, stored once for each event and format, and what they are composed of."""

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from flatearth_pipelines.webhooks.payload import Event

_READ = sa.text("""
SELECT p.event_id, p.format, p.body
FROM unnest(:event_ids, :formats) AS asked (event_id, format)
JOIN flatearth.webhook_payloads AS p ON p.event_id = asked.event_id AND p.format = asked.format
""").bindparams(sa.bindparam("event_ids", type_=ARRAY(sa.BigInteger)), sa.bindparam("formats", type_=ARRAY(sa.Text)))

_EVENTS = sa.text("""
SELECT
    e.id, e.action, e.created_at, e.account_id, a.name AS account, e.board_id, b.name AS board, e.creator_id,
    u.name AS creator, k.id AS card_id, k.number AS card_number, k.title AS card_title, c.id AS comment_id,
    c.body AS comment_body, CAST(e.particulars AS text) AS particulars
FROM flatearth.events AS e
JOIN flatearth.accounts AS a ON a.id = e.account_id
JOIN flatearth.boards AS b ON b.id = e.board_id
JOIN flatearth.users AS u ON u.id = e.creator_id
LEFT JOIN flatearth.comments AS c
    ON e.eventable_type = 'comment' AND c.id = e.eventable_id AND c.account_id = e.account_id
LEFT JOIN flatearth.cards AS k
    ON k.id = CASE e.eventable_type WHEN 'card' THEN e.eventable_id ELSE c.card_id END AND k.account_id = e.account_id
WHERE e.id = ANY(:event_ids)
""").bindparams(sa.bindparam("event_ids", type_=ARRAY(sa.BigInteger)))

_WRITE = sa.text("""
INSERT INTO flatearth.webhook_payloads (event_id, format, account_id, body)
SELECT p.event_id, p.format, p.account_id, convert_to(p.body, 'UTF8')
FROM json_to_recordset(CAST(:composed AS json)) AS p (event_id bigint, format text, account_id bigint, body text)
ORDER BY p.event_id, p.format
ON CONFLICT (event_id, format) DO NOTHING
RETURNING event_id, format
""")
# In one order for everybody: two runs that compose the same ones wait for each other, and do not deadlock.

Asked = tuple[int, str]
"""An event's id and a format."""


def read_payloads(
    connection: sa.Connection, asked: Collection[Asked], compose: Callable[[Event, str], bytes]
) -> Mapping[Asked, bytes]:
    """The bytes of these events in these formats, composed and stored where they are not yet.

    What somebody else stores at the same moment counts. An event that is gone, uncomposed, is left out.
    """
    found = _stored(connection, asked)
    missing = sorted(set(asked) - found.keys())
    if not missing:
        return found
    rows = connection.execute(_EVENTS, {"event_ids": [each[0] for each in missing]})
    events = {row.id: Event(*row)._replace(particulars=_read(row.particulars)) for row in rows}
    composed = {each: compose(events[each[0]], each[1]) for each in missing if each[0] in events}
    rows_to_write = [
        {"event_id": event_id, "format": form, "account_id": events[event_id].account_id, "body": body.decode()}
        for (event_id, form), body in composed.items()
    ]
    written = {
        (row.event_id, row.format) for row in connection.execute(_WRITE, {"composed": json.dumps(rows_to_write)})
    }
    lost = composed.keys() - written
    return {**found, **composed, **(_stored(connection, lost) if lost else {})}


def _stored(connection: sa.Connection, asked: Collection[Asked]) -> dict[Asked, bytes]:
    values = {"event_ids": [event_id for event_id, _ in asked], "formats": [format_ for _, format_ in asked]}
    return {(row.event_id, row.format): row.body for row in connection.execute(_READ, values)}


def _read(particulars: str) -> dict[str, Any]:
    """Nothing where Python cannot hold them: an event with a number of 5,000 digits must not stop all others."""
    try:
        read: dict[str, Any] = json.loads(particulars)
    except (ValueError, RecursionError):
        return {}
    return read
