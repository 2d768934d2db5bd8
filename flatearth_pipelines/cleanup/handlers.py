"""The queue handler that deletes what a person keeps of a board they have lost access to.

What an application expects: it takes the access away and enqueues this in the same transaction, from any language, and
whoever clicked does not wait for it. A SQL function would delete in the application's own transaction, and hold what
may be thousands of rows until that commits.
"""

from datetime import timedelta

from pydantic import Field

from flatearth_pipelines.cleanup import access_storage
from flatearth_pipelines.errors import NotFound, WrongUsage
from flatearth_pipelines.queue.handlers import Context, Guarantee, Handler, Payload, Refused, Result


class RevokeBoardAccess(Payload):
    """Whose, and where."""

    board_id: int = Field(gt=0, lt=2**63)
    user_id: int = Field(gt=0, lt=2**63)


def revoke_board_access(context: Context, payload: RevokeBoardAccess) -> Result:
    """Delete a person's mentions, notifications, watches and pins on a board that they may not see any more.

    Whoever was given access again before the job ran keeps everything.
    """
    try:
        return {"revoked": True, **access_storage.revoke(context.connection, payload.board_id, payload.user_id)}
    except access_storage.HasAccess as error:
        return {"revoked": False, "reason": str(error)}
    except (NotFound, WrongUsage) as error:
        raise Refused(str(error)) from None


REVOKE_BOARD_ACCESS = Handler(
    "revoke_board_access",
    RevokeBoardAccess,
    revoke_board_access,
    Guarantee.TRANSACTIONAL,
    timeout=timedelta(minutes=5),
)
