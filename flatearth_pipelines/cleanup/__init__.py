"""What is over goes: rows and objects by their age, and a person's data on a board that they may not see any more.

`retention.py` says how long what is kept; `targets.py` what that means in tables and in object storage; `sweeping.py`
deletes it, batch by batch, within a time budget.
"""
