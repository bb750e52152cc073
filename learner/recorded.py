"""Recorded data as a source of batches: a replay shard that nobody inserts into, and a limiter that never refuses.

Axes: B sequences, C ticks before a sequence, L ticks of a sequence, A agents.
"""

from typing import Final

import numpy as np

from learner.limiter import Grant
from learner.replay import ReplayShard, ShardState
from learner.ring import Columns
from world.envs.grounded import BoolArray

_CANDIDATES: Final = 2
"""Sequences that are drawn for each one that is kept."""
_NEAR: Final = 3
"""Cells between two agents who may stand in each other's way at the next tick, or reach for one thing."""
_EVENTFUL: Final = 3.0
"""How much rather a sequence is kept in which agents are near each other, or a world event befalls them."""


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

    Sequences in which more is at stake are drawn more often. What is at stake is judged by what is given alone, so that
    what follows it stays as likely as it is.
    """

    def __init__(self, shard: ReplayShard, *, past_ticks: int, num_draws: int) -> None:
        """Go on after this many draws, so that a training that goes on draws what it would have drawn."""
        self._shard, self._past_ticks, self._num_draws = shard, past_ticks, num_draws
        shard.restore(ShardState(num_draws, None))

    def draw(self, num_sequences: int, length: int) -> Columns:
        """Return columns (B, C + L, …). Raises `ReplayError` if no chunk is long enough."""
        drawn = self._shard.sample(_CANDIDATES * num_sequences, length).columns
        random = np.random.default_rng(self._num_draws)
        weights = np.where(eventful(drawn, self._past_ticks), _EVENTFUL, 1.0)
        kept = random.choice(len(weights), num_sequences, replace=False, p=weights / weights.sum())
        columns = {name: column[kept] for name, column in drawn.items()}
        if self._past_ticks:
            begins = random.integers(0, self._past_ticks + 1, num_sequences)
            cut = random.random(num_sequences) < 0.5
            columns["is_first"][np.flatnonzero(cut), begins[cut]] = True
        self._num_draws += 1
        return columns


def eventful(columns: Columns, past_ticks: int) -> BoolArray:
    """Return which sequences (B,) of columns (B, C + L, …) have agents near each other, or a world event, in L."""
    poses, events = columns["poses"][:, past_ticks:].astype(np.int64), columns["events"][:, past_ticks:]
    apart = np.abs(poses[:, :, :, None] - poses[:, :, None]).max(axis=-1)
    one, other = np.triu_indices(poses.shape[2], 1)
    near = (apart[:, :, one, other] <= _NEAR).any(axis=(1, 2))
    befallen = (events[..., 0].astype(np.int64) > 0).any(axis=(1, 2))
    found: BoolArray = near | befallen
    return found
