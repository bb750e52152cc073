"""How a batch is shared out among replay shards: by what each holds, and nothing for one that is away."""

import time
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

_AWAY_S: Final = 1.0
"""A shard that did not answer is left out for so long: asked at every draw, one that hangs would hold up all."""


class Shares:
    """What every shard was last heard to hold."""

    def __init__(self, shards: Sequence[str], *, seed: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self._held = dict.fromkeys(shards, 1)
        self._away_until = dict.fromkeys(shards, float("-inf"))
        self._rng, self._clock = np.random.default_rng(seed), clock

    def of(self, num_sequences: int) -> dict[str, int]:
        """Return how many sequences to ask each shard for; nobody is asked for none."""
        here = [name for name in self._held if self._away_until[name] <= self._clock()]
        if not here:
            return {}
        held = np.array([self._held[name] for name in here], np.float64)
        counts = self._rng.multinomial(num_sequences, held / held.sum())
        return {name: int(count) for name, count in zip(here, counts, strict=True) if count}

    def answered(self, shard: str, num_items: int) -> None:
        """Note what a shard can draw from. It is asked again, however little that is."""
        self._held[shard] = max(num_items, 1)

    def lost(self, shard: str) -> None:
        """Note that a shard is away; it comes back with what it held."""
        self._away_until[shard] = self._clock() + _AWAY_S
