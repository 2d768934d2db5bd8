"""The job that deletes what a person keeps of a board that they may not see any more: for people who live in the UI."""

import dagster as dg
from pydantic import Field

from flatearth_pipelines.cleanup import access_storage
from flatearth_pipelines.errors import WrongUsage
from flatearth_pipelines.resources import Postgres, clear_failure


class RevokeConfig(dg.Config):
    """Whose, and where."""

    board_id: int | None = Field(default=None, description="The board that the person has lost access to.")
    user_id: int | None = Field(default=None, description="The person.")
    dry_run: bool = Field(default=False, description="Report the same numbers and delete nothing.")


@dg.op
def forget_person_on_board(context: dg.OpExecutionContext, config: RevokeConfig, postgres: Postgres) -> None:
    """Delete a person's mentions, notifications, watches and pins on a board, unless they have access to it."""
    with clear_failure(), postgres.connection(context) as connection, connection.begin() as transaction:
        if config.board_id is None or config.user_id is None:
            raise WrongUsage("Name the board and the person: board_id and user_id")
        counts = access_storage.revoke(connection, config.board_id, config.user_id)
        if config.dry_run:
            transaction.rollback()
    told = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
    done = "would be deleted" if config.dry_run else "deleted"
    context.log.info(f"{told} {done}" if told else "Nothing to do: the person keeps nothing on that board")
    context.add_output_metadata({**counts, "deleted": sum(counts.values()), "dry_run": config.dry_run})


@dg.job(tags={"feature": "cleanup", ".dagster/repository": "__repository__@flatearth"})
def revoke_board_access() -> None:
    """Delete what a person keeps of a board they may not see any more: in the launchpad, name both."""
    forget_person_on_board()


defs = dg.Definitions(jobs=[revoke_board_access])
