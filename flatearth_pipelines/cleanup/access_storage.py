"""What a person keeps of a board that they may not see any more."""

import sqlalchemy as sa

from flatearth_pipelines.errors import NotFound, WrongUsage

_REVOKE = sa.text("""
WITH board AS MATERIALIZED (
    SELECT b.id, b.account_id, u.id AS user_id
    FROM flatearth.boards AS b
    JOIN flatearth.users AS u ON u.id = :user_id AND u.account_id = b.account_id
    WHERE b.id = :board_id AND NOT b.all_access
    AND NOT EXISTS (SELECT FROM flatearth.accesses AS a WHERE a.board_id = b.id AND a.user_id = u.id)
),
mentions_there AS MATERIALIZED (
    SELECT m.id
    FROM board
    JOIN flatearth.mentions AS m ON m.account_id = board.account_id AND m.mentionee_id = board.user_id
    LEFT JOIN flatearth.comments AS k ON m.source_type = 'comment' AND k.id = m.source_id
    JOIN flatearth.cards AS c ON c.id = CASE m.source_type WHEN 'card' THEN m.source_id ELSE k.card_id END
    WHERE c.board_id = board.id
),
events_there AS MATERIALIZED (
    SELECT n.id
    FROM board
    JOIN flatearth.notifications AS n ON n.user_id = board.user_id AND n.source_type = 'event'
    JOIN flatearth.events AS e ON e.id = n.source_id
    LEFT JOIN flatearth.comments AS k ON e.eventable_type = 'comment' AND k.id = e.eventable_id
    LEFT JOIN flatearth.cards AS c ON c.id = CASE e.eventable_type WHEN 'card' THEN e.eventable_id ELSE k.card_id END
    WHERE coalesce(c.board_id, e.board_id) = board.id
),
notifications AS (
    DELETE FROM flatearth.notifications
    WHERE id IN (
        SELECT id FROM events_there
        UNION ALL
        SELECT n.id
        FROM mentions_there AS m
        JOIN board ON true
        JOIN flatearth.notifications AS n
            ON n.user_id = board.user_id AND n.source_type = 'mention' AND n.source_id = m.id
    )
    RETURNING 1
),
mentions AS (
    DELETE FROM flatearth.mentions WHERE id IN (SELECT id FROM mentions_there) RETURNING 1
),
watches AS (
    DELETE FROM flatearth.watches AS w
    USING board, flatearth.cards AS c
    WHERE w.account_id = board.account_id AND w.user_id = board.user_id AND c.id = w.card_id AND c.board_id = board.id
    RETURNING 1
),
pins AS (
    DELETE FROM flatearth.pins AS p
    USING board, flatearth.cards AS c
    WHERE p.account_id = board.account_id AND p.user_id = board.user_id AND c.id = p.card_id AND c.board_id = board.id
    RETURNING 1
)
SELECT
    (SELECT count(*) FROM mentions) AS mentions,
    (SELECT count(*) FROM notifications) AS notifications,
    (SELECT count(*) FROM watches) AS watches,
    (SELECT count(*) FROM pins) AS pins
FROM board
""")
# One statement is one snapshot: whoever is given access again meanwhile, and watches a card, keeps that. A card that
# moved is of the board where it is now, as in the digest; an event without its card is of the board where it happened.

_WHY_NOT = sa.text("""
SELECT b.id AS board_id, u.id AS user_id, b.account_id = u.account_id AS together, b.all_access
FROM (SELECT) AS one
LEFT JOIN flatearth.boards AS b ON b.id = :board_id
LEFT JOIN flatearth.users AS u ON u.id = :user_id
""")


class HasAccess(WrongUsage):
    """The person may see the board."""


def revoke(connection: sa.Connection, board_id: int, user_id: int) -> dict[str, int]:
    """Delete that person's mentions, notifications, watches and pins on the board: how many of each.

    Raises:
        HasAccess: the board is open to all, or they have an access of their own; nothing is deleted.
        NotFound: there is no such board or person.
        WrongUsage: they are of different accounts.
    """
    values = {"board_id": board_id, "user_id": user_id}
    counts = connection.execute(_REVOKE, values).mappings().one_or_none()
    if counts is not None:
        return dict(counts)
    seen = connection.execute(_WHY_NOT, values).one()
    if seen.board_id is None:
        raise NotFound(f"There is no board {board_id}")
    if seen.user_id is None:
        raise NotFound(f"There is no user {user_id}")
    if not seen.together:
        raise WrongUsage(f"User {user_id} is of another account than board {board_id}")
    why = "it is open to all" if seen.all_access else "take that away first"
    raise HasAccess(f"User {user_id} has access to board {board_id}: {why}")
