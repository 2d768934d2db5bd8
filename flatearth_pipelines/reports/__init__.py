"""What every day came to, for each account and board.

`metrics.py` is the rule: what is counted and how counts become a day's rows. `storage.py` counts in Postgres and
replaces a day's rows, `reporting.py` strings the two together, `days.py` knows days and when they are over.
`definitions.py` has the jobs and the schedule, `commands.py` what people ask; `handlers.py` mails owners what
`morning.py` writes.
"""
