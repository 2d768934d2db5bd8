"""Cards that nobody touches move to "Not now".

Each board has a period: its own, else its account's, else thirty days. A card that has been idle for longer is
postponed, with an event that says so. `staleness.py` is the rule, `storage.py` finds the cards and postpones them
batch by batch, `backlog.py` strings the two together, `definitions.py` is the job and its schedule.
"""
