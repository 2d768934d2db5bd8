"""What the morning mail says: one line for each thing that happened on the day before."""

from collections.abc import Mapping
from datetime import date

_LONGEST_NAME = 100

_WORDS = {
    "cards_created": ("card created", "cards created"),
    "cards_closed": ("card closed", "cards closed"),
    "cards_postponed": ("card moved to Not now by hand", "cards moved to Not now by hand"),
    "cards_auto_postponed": (
        "card moved to Not now because it was idle",
        "cards moved to Not now because they were idle",
    ),
    "comments": ("comment", "comments"),
    "active_people": ("person active", "people active"),
    "bundles_mailed": ("email of notifications sent", "emails of notifications sent"),
    "bundles_failed": ("email of notifications not sent", "emails of notifications not sent"),
    "deliveries_completed": ("webhook delivered", "webhooks delivered"),
    "deliveries_errored": ("webhook given up", "webhooks given up"),
}
"""One, and any other number."""


def letter(account: str, day: date, counts: Mapping[str, int], url: str) -> tuple[str, str]:
    """The subject, in one line, and the text; what is nought is left out."""
    name = " ".join(account.split())[:_LONGEST_NAME] or "Your account"
    told = [f"{counts[metric]:,} {words[counts[metric] != 1]}" for metric, words in _WORDS.items() if counts[metric]]
    when = f"{day:%A}, {day.day} {day:%B} {day.year}"
    text = "\n".join(
        [
            f"{name} on {when} (UTC):",
            "",
            *(f"  {line}" for line in told or ["nothing happened"]),
            "",
            url,
            "",
            f"You get this because you own {name}. Whoever wants no email notifications does not get it.",
            "",
        ]
    )
    return f"{name} on {when}", text
