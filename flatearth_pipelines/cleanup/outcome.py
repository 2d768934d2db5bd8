"""What a batch and a whole clean-up leave behind."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Batch(NamedTuple):
    """What one transaction did."""

    found: int
    """Rows, or objects, that were looked at. Fewer than were asked for: there are no more."""
    deleted: int
    last: Any
    """Where the next batch goes on, which only the rows themselves understand; None is the beginning."""
    refused: tuple[str, ...] = ()
    """Why some are kept: the storage does not let go of their object."""


@dataclass
class Swept:
    """What a clean-up did so far, and at its end what it left."""

    deleted: dict[str, int] = field(default_factory=dict)
    """By what was deleted, such as `webhook_deliveries` and, with them, `webhook_payloads`; the target first."""
    batches: int = 0
    refused: int = 0
    """Files and objects that stay because the storage does not let go of them."""
    reason: str | None = None
    """Why, of the first of them."""
    budget_hit: bool = False
    """Whether the time was over before nothing was left."""
    remaining: int = 0
    """Due rows that are still there: the budget was hit, or somebody holds them."""
    oldest_left: str | None = None
    """The age column of the oldest row that stays, in ISO 8601; None when there is none."""

    def told(self) -> str:
        """What was deleted, for a sentence; empty when nothing was."""
        return ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in self.deleted.items() if count)

    def counts(self) -> dict[str, int]:
        """What deserves a plot; what is deleted beside the target has its name."""
        first, *others = self.deleted.items()
        return {
            "deleted": first[1],
            **{f"{name}_deleted": count for name, count in others},
            "remaining": self.remaining,
            "refused": self.refused,
        }

    def summary(self) -> dict[str, int | str | bool | None]:
        """All that a run says of itself."""
        return {
            **self.counts(),
            "oldest_left": self.oldest_left,
            "budget_hit": self.budget_hit,
            "batches": self.batches,
        }

    def warnings(self, what: str, max_seconds: float) -> Iterator[str]:
        """What somebody should know of who sees to it that `what` is deleted."""
        if self.refused:
            yield f"{self.refused:,} objects stay, and the next run tries again. {self.reason}"
        if self.budget_hit:
            yield f"The time of {max_seconds:g} s was over before all was deleted: the next run goes on"
        elif self.remaining > self.refused:
            yield f"{self.remaining:,} due {what} remain: somebody holds them, and the next run looks again"

    def add(self, what: str, batch: Batch) -> None:
        """Count the batch in."""
        self.deleted[what] = self.deleted.get(what, 0) + batch.deleted
        self.refused += len(batch.refused)
        self.reason = self.reason or next(iter(batch.refused), None)
        self.batches += batch.found > 0
