"""What the mail about a failed run says."""

from collections.abc import Sequence
from typing import NamedTuple


class Failed(NamedTuple):
    """A run that failed."""

    job: str
    run_id: str
    reasons: Sequence[str]
    """One line for each op that failed, or for the run where none did."""


def subject_and_text(failed: Failed, untold: int) -> tuple[str, str]:
    """Of the mail; `untold` runs of the job have failed since the last one."""
    reasons = "\n".join(f"    {reason}" for reason in failed.reasons)
    before = f"{untold:,} other{'' if untold == 1 else 's'} of this job failed since the last mail.\n" if untold else ""
    text = f"""\
A run of {failed.job} has failed:

{reasons}

In the UI: /runs/{failed.run_id}
{before}Of this job there will be no other mail within an hour.
"""
    return f"A run of {failed.job} has failed", text


def summary(failed: Failed) -> str:
    """In one line, for the log."""
    return f"A run of {failed.job} has failed: {'; '.join(failed.reasons)}"
