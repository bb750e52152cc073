"""Recorded data as a source of batches: a replay shard that nobody inserts into, and a limiter that never refuses.

Axes: B sequences, C ticks before a sequence, L ticks of a sequence, A agents.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from learner.limiter import Grant
from learner.replay import ReplayShard
from learner.ring import Columns
from world.envs.grounded import NOWHERE, BoolArray

Float64Array = NDArray[np.float64]

_CANDIDATES: Final = 8
"""Sequences that are drawn for each one that is kept."""
_LOOKED_AT: Final = ("events", "actions", "poses")
"""Columns of one tick by which they are chosen: of the rest of those that are not kept nothing is read."""
_APART: Final = np.array([1, 3])
"""Cells to the nearest other agent: up to the first two can reach each other, up to the second they may stand in each
other's way at the next tick, or reach for one thing."""
_AT_ODDS: Final = np.array([0.6, 2.0, 1.0])
"""What acts of agents that are as near as that are to weigh; the nearest have most, one for each two actions."""
_BEFALLEN: Final = 10.0
"""How much rather a sequence is kept that a world event befalls: of few of them something comes."""


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

    Sequences that something befalls, and those of rare acts, are drawn more often. Both are judged by what is given at
    the first tick that is asked about, so that what follows it stays as likely as it is. Where actions themselves are
    asked for, `weights` make up for it.
    """

    def __init__(self, shard: ReplayShard, *, past_ticks: int, num_draws: int) -> None:
        """Go on after this many draws, so that a training that goes on draws what it would have drawn."""
        self._shard, self._past_ticks, self._num_draws = shard, past_ticks, num_draws
        shard.go_on_after(num_draws)

    def draw(self, num_sequences: int, length: int) -> Columns:
        """Return columns (B, C + L, …). Raises `ReplayError` if no chunk is long enough."""
        places = self._shard.places(_CANDIDATES * num_sequences, length)
        now = self._shard.read(places.after(self._past_ticks), 1, _LOOKED_AT)
        random = np.random.default_rng(self._num_draws)
        kept, weights = chosen(befallen(now, 0) * rarity(now, 0), num_sequences, random)
        columns = self._shard.read(places.among(kept), length)
        columns["weights"] = np.broadcast_to(weights[:, None], columns["is_first"].shape)
        if self._past_ticks:
            begins = random.integers(0, self._past_ticks + 1, num_sequences)
            cut = random.random(num_sequences) < 0.5
            columns["is_first"][np.flatnonzero(cut), begins[cut]] = True
        self._num_draws += 1
        return columns


def befallen(columns: Columns, past_ticks: int) -> Float64Array:
    """Return how much rather sequences (B,) are kept for what befalls them after C ticks, of columns (B, C + L, …)."""
    events = columns["events"][:, past_ticks]
    return np.where((events[..., 0].astype(np.int64) > 0).any(axis=1), _BEFALLEN, 1.0)


def rarity(columns: Columns, past_ticks: int) -> Float64Array:
    """Return how rare what agents do is after C ticks of sequences (B,) of columns (B, C + L, …).

    An act is an action, and how far the nearest other agent is then; of two who can reach each other it is what both
    do, which decides together what becomes of them. Of those that are as near, all acts have equal shares. Most of what
    agents do is to walk, alone, and most of what there is to learn comes of the rest.
    """
    actions, poses = columns["actions"][:, past_ticks].astype(np.int64), columns["poses"][:, past_ticks]
    here = poses[..., 0] != NOWHERE
    nearest, distance = _nearest(poses.astype(np.int64), here)
    apart = np.searchsorted(_APART, distance)
    others = np.where(apart == 0, np.take_along_axis(actions, nearest, axis=1), 0)
    acts = np.ravel_multi_index((apart, actions, others), (len(_AT_ODDS), *[int(actions.max()) + 1] * 2))
    counts = np.bincount(acts[here], minlength=int(acts.max()) + 1)
    shares: Float64Array = (here * _AT_ODDS[apart] / np.maximum(counts, 1)[acts]).sum(axis=1)
    # Where everybody has left there is nothing to learn, but a sequence that is never drawn has no weight.
    return np.maximum(shares, 1.0 / actions.size)


def _nearest(poses: NDArray[np.int64], here: BoolArray) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """Return which other agent that has not left is nearest to each (B, A), and how many rows or columns away it is."""
    apart = np.abs(poses[:, :, None] - poses[:, None]).max(axis=-1)
    nobody = ~here[:, None] | np.eye(poses.shape[1], dtype=np.bool_)
    apart = np.where(nobody, _APART[-1] + 1, apart)
    return apart.argmin(axis=-1), apart.min(axis=-1)


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
