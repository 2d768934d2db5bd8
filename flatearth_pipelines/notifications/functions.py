"""The SQL functions of notifications from Python: what an application does, in its own transaction."""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from flatearth_pipelines.contract import call, contract_errors


def create_notification(
    connection: sa.Connection,
    account_id: int,
    user_id: int,
    source_type: str,
    source_id: int,
    *,
    creator_id: int | None = None,
) -> int:
    """The SQL function of that name: the id of the person's notification of this `event` or `mention`.

    It is created, in the window that is open for the person or in a new one, unless it is there. Nobody else can give
    this person a notification until the transaction ends: commit soon, and for several people use
    `create_notifications`, which cannot deadlock with another.

    Raises:
        NotPermitted: the user or the creator is inactive, or of another account.
        NotFound: there is no such account, user, or event or mention in that account.
        WrongUsage: an argument is null, or the source neither an event nor a mention.
    """
    ids = [sa.cast(value, sa.BigInteger) for value in (account_id, user_id, source_id, creator_id)]
    function = sa.func.flatearth.create_notification(ids[0], ids[1], source_type, ids[2], ids[3])
    return int(call(connection, function))


def create_notifications(connection: sa.Connection, notifications: Sequence[Mapping[str, Any]]) -> list[int]:
    """The SQL function of that name: the ids of up to 10,000 notifications, in the same order, of all or of none.

    Each has the arguments of `create_notification` and, if wanted, a `kind`: `mention`, `assignment` or `other`, by
    default what its source is. Raises what `create_notification` raises.
    """
    with contract_errors():
        query = sa.select(sa.func.flatearth.create_notifications(sa.cast(list(notifications), JSONB)))
        return list(connection.execute(query).scalars())


def set_notification_settings(connection: sa.Connection, actor_id: int, choices: Mapping[str, Any]) -> None:
    """The SQL function of that name: set what a person chose; what is not among the choices stays as it is.

    They are `email_frequency` (`never`, `every_30_minutes`, `every_few_hours`, `daily`, `weekly`), `time_zone`,
    `quiet_from` and `quiet_until` (`"22:00"`), `quiet_days` (1 is Monday), `instant_mentions` and
    `instant_assignments`; None is the default.

    Raises:
        NotPermitted: the actor is inactive.
        NotFound: there is no such actor.
        WrongUsage: a value cannot be used, or there is no choice of that name.
    """
    call(connection, sa.func.flatearth.set_notification_settings(actor_id, sa.cast(dict(choices), JSONB)))


def mute_board(connection: sa.Connection, actor_id: int, board_id: int, *, muted: bool = True) -> bool:
    """The SQL function of that name: whether that changed anything. A muted board tells of mentions and assignments.

    Raises:
        NotPermitted: the actor is inactive, of another account, or has no access to the board.
        NotFound: there is no such actor or board.
    """
    return bool(call(connection, sa.func.flatearth.mute_board(actor_id, board_id, muted)))
