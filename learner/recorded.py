"""Recorded data as a source of batches: a replay shard that nobody inserts into, and a limiter that never refuses."""

from learner.limiter import Grant
from learner.replay import ReplayShard, ShardState
from learner.ring import Columns


class Unlimited:
    """`SampleLimiter` of data that are all there already."""

    def request_samples(self, num_items: int) -> Grant:
        """Grant all."""
        return Grant(num_items, 0.0)

    def return_samples(self, num_items: int) -> None:
        """Nothing is counted."""


class RecordedSource:
    """`SequenceSource` over one shard."""

    def __init__(self, shard: ReplayShard, *, num_draws: int) -> None:
        """Go on after this many draws, so that a training that goes on draws what it would have drawn."""
        self._shard = shard
        shard.restore(ShardState(num_draws, None))

    def draw(self, num_sequences: int, length: int) -> Columns:
        """Return columns (B, L, …). Raises `ReplayError` if no chunk is long enough."""
        return self._shard.sample(num_sequences, length).columns
