"""Recorded data as a source of batches: a replay shard that nobody inserts into, and a limiter that never refuses.

Axes: B sequences, C ticks before a sequence, L ticks of a sequence.
"""

import numpy as np

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
    """`SequenceSource` over one shard.

    Nobody's weights were there when the worlds were recorded, so their recurrent memory is that of the `past_ticks`
    alone. Half of the sequences begin to remember somewhere among them, as if the episode had begun there: so the
    model meets memories of every length, none included.
    """

    def __init__(self, shard: ReplayShard, *, past_ticks: int, num_draws: int) -> None:
        """Go on after this many draws, so that a training that goes on draws what it would have drawn."""
        self._shard, self._past_ticks, self._num_draws = shard, past_ticks, num_draws
        shard.restore(ShardState(num_draws, None))

    def draw(self, num_sequences: int, length: int) -> Columns:
        """Return columns (B, C + L, …). Raises `ReplayError` if no chunk is long enough."""
        columns = self._shard.sample(num_sequences, length).columns
        if self._past_ticks:
            random = np.random.default_rng(self._num_draws)
            begins = random.integers(0, self._past_ticks + 1, num_sequences)
            cut = random.random(num_sequences) < 0.5
            columns["is_first"][np.flatnonzero(cut), begins[cut]] = True
        self._num_draws += 1
        return columns
