"""What a run of notify_recipients did, and how much of it in one transaction."""

from dataclasses import dataclass, field

BATCH_SIZE = 5_000
"""Events or texts in one transaction."""


@dataclass
class Outcome:
    """What a run, or one transaction of it, did."""

    events: int = 0
    """Events whose people were told, or that are nobody's news."""
    texts: int = 0
    """Titles and comments that were looked at."""
    mentions: int = 0
    notifications: int = 0
    bundles: int = 0
    """Windows that were opened."""
    held_back: int = 0
    """Events and texts that still wait, because somebody does not let go of the row of a person they are for."""
    by_action: dict[str, int] = field(default_factory=dict)
    """Notifications by what they are about: an action, or `mention`."""

    def add(self, other: "Outcome") -> None:
        """Count what another transaction did."""
        self.events += other.events
        self.texts += other.texts
        self.mentions += other.mentions
        self.notifications += other.notifications
        self.bundles += other.bundles
        self.held_back += other.held_back
        for action, notifications in other.by_action.items():
            self.by_action[action] = self.by_action.get(action, 0) + notifications


@dataclass
class Batch(Outcome):
    """One transaction."""

    last_id: int = 0
    """Of the events or texts that it took."""
