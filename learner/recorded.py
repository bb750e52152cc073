"""Recorded data as a source of batches: a replay shard that nobody inserts into, and a limiter that never refuses.

Axes: B sequences, C ticks before a sequence, L ticks of a sequence, A agents.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from learner.limiter import Grant
from learner.replay import ReplayShard, ShardState
from learner.ring import Columns
from world.envs.grounded import NOWHERE

Float64Array = NDArray[np.float64]

_CANDIDATES: Final = 4
"""Sequences that are drawn for each one that is kept."""
_NEAR: Final = 3
"""Cells between two agents who may stand in each other's way at the next tick, or reach for one thing."""
_AT_ODDS: Final = 3.0
"""How much rather a sequence is kept in which agents are near each other."""
_BEFALLEN: Final = 10.0
"""And one that a world event befalls: of few of them something comes."""


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

    Sequences in which more is at stake, and those of rare actions, are drawn more often. Both are judged by what is
    given at the first tick that is asked about, so that what follows it stays as likely as it is. Where actions
    themselves are asked for, `weights` make up for it.
    """

    def __init__(self, shard: ReplayShard, *, past_ticks: int, num_draws: int) -> None:
        """Go on after this many draws, so that a training that goes on draws what it would have drawn."""
        self._shard, self._past_ticks, self._num_draws = shard, past_ticks, num_draws
        shard.restore(ShardState(num_draws, None))

    def draw(self, num_sequences: int, length: int) -> Columns:
        """Return columns (B, C + L, …). Raises `ReplayError` if no chunk is long enough."""
        drawn = self._shard.sample(_CANDIDATES * num_sequences, length).columns
        random = np.random.default_rng(self._num_draws)
        stakes = at_stake(drawn, self._past_ticks) * rarity(drawn, self._past_ticks)
        kept, weights = chosen(stakes, num_sequences, random)
        columns = {name: column[kept] for name, column in drawn.items()}
        columns["weights"] = np.broadcast_to(weights[:, None], columns["is_first"].shape)
        if self._past_ticks:
            begins = random.integers(0, self._past_ticks + 1, num_sequences)
            cut = random.random(num_sequences) < 0.5
            columns["is_first"][np.flatnonzero(cut), begins[cut]] = True
        self._num_draws += 1
        return columns


def at_stake(columns: Columns, past_ticks: int) -> Float64Array:
    """Return what is at stake (B,) after C ticks of sequences, of columns (B, C + L, …): 1 where agents are apart."""
    poses, events = columns["poses"][:, past_ticks].astype(np.int64), columns["events"][:, past_ticks]
    apart = np.abs(poses[:, :, None] - poses[:, None]).max(axis=-1)
    one, other = np.triu_indices(poses.shape[1], 1)
    near = (apart[:, one, other] <= _NEAR).any(axis=1)
    befallen = (events[..., 0].astype(np.int64) > 0).any(axis=1)
    return np.where(befallen, _BEFALLEN, np.where(near, _AT_ODDS, 1.0))


def rarity(columns: Columns, past_ticks: int) -> Float64Array:
    """Return how rare actions are after C ticks of sequences (B,) of columns (B, C + L, …): kinds have equal shares.

    Most of what agents do is to walk, and most of what there is to learn comes of the rest.
    """
    actions, here = columns["actions"][:, past_ticks].astype(np.int64), columns["poses"][:, past_ticks, :, 0] != NOWHERE
    counts = np.bincount(actions[here], minlength=int(actions.max()) + 1)
    shares: Float64Array = (here / np.maximum(counts, 1)[actions]).sum(axis=1)
    # Where everybody has left there is nothing to learn, but a sequence that is never drawn has no weight.
    return np.maximum(shares, 1.0 / actions.size)


def chosen(stakes: Float64Array, count: int, random: np.random.Generator) -> tuple[NDArray[np.intp], Float64Array]:
    """Choose `count` of rows (n,) by their stakes, without repeats; return them, and what each is to weigh (count,).

    Each row waits for an exponential time at the rate of its stakes, and the first are taken. Given when the next would
    have come, a row was taken with chance 1 − exp(−stakes · time): one over that makes weighted means those of all rows
    (Cohen and Kaplan 2007, "Summarizing data using bottom-k sketches", section 5). Weights have a mean of 1.
    """
    arrivals = random.exponential(1.0 / stakes)
    order = np.argsort(arrivals)
    kept = order[:count]
    if count == len(stakes):
        return kept, np.ones(count)
    weights = 1.0 / -np.expm1(-stakes[kept] * arrivals[order[count]])
    return kept, weights / weights.mean()
