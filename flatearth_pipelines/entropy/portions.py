"""How a run's work is portioned: shards of accounts, batches of cards."""

from typing import NamedTuple

BATCH_SIZE = 2_500
"""Cards in one transaction. People who touch such a card wait for it: some 0.2 s at most where this was measured."""


class Shard(NamedTuple):
    """The accounts whose id leaves `remainder` when divided by `of`."""

    remainder: int
    of: int


EVERY_ACCOUNT = Shard(remainder=0, of=1)
