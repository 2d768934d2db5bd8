"""What can go wrong and is a person's to mend.

    FlatEarthError            one line that says what is wrong and what to do
    ├── WrongUsage            the caller gave a value that cannot be used
    │   └── WrongSetting      the value stands in an environment variable
    ├── NotFound              no such account, board or card
    ├── NotPermitted          the actor may not do this
    ├── LimitReached          the account has used up what it may in this minute
    ├── LeaseLost             a drain was too slow to keep its jobs: they belong to somebody else
    ├── StorageUnavailable    object storage is not there, or refuses
    └── DatabaseUnavailable   Postgres is not there, refuses, or broke off
        └── WrongSchema       Postgres is there, but not at the version of this code

Outcomes that are expected (a card changed meanwhile, a second run) are values, not errors. No message holds a password.
"""


class FlatEarthError(Exception):
    """What happened, in one line for a person."""

    exit_code = 1


class WrongUsage(FlatEarthError):
    """A value that cannot be used: names it and says what it takes."""

    exit_code = 2


class WrongSetting(WrongUsage):
    """An environment variable with a value that cannot be used."""


class NotFound(FlatEarthError):
    """Nothing stands under that id."""


class NotPermitted(FlatEarthError):
    """The actor is inactive, of another account, or lacks the role."""


class LimitReached(FlatEarthError):
    """Beyond what an account may do in a minute; nothing was written."""


class LeaseLost(FlatEarthError):
    """The lease of a drain ran out, or was taken away: nothing that it does counts any more."""


class StorageUnavailable(FlatEarthError):
    """Object storage cannot be reached, or refuses."""


class DatabaseUnavailable(FlatEarthError):
    """Postgres cannot be reached, or stopped answering."""


class WrongSchema(DatabaseUnavailable):
    """The database is not migrated, or further than this code."""
