"""The background half of Flat Earth: Dagster jobs over Postgres.

Features, each a folder of its own:

* `entropy`: cards nobody touches move to "Not now".
* `workspaces`: a realistic sample workspace, and boards exported from Trello.

Inside a feature only `storage.py` speaks SQL and only `definitions.py` speaks Dagster; every other file is pure
and named after the idea it decides.
"""
