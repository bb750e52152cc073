"""Frontiers: agents set out from the beginning of a world, and dreams of it follow under the same actions.

Axes: E worlds, A agents, V tokens, n cells.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from world.envs.catalog import make_policy
from world.envs.homestead.grounded import HomesteadGrounded
from world.errors import EnvironmentUnusable
from world.evaluation.frontier import Finds
from world.evaluation.metrics import Counts
from world.evaluation.plays.cast import Cast
from world.evaluation.plays.stage import Progress, Stage
from world.field import MAP, numbered
from world.live import LiveWorld


def play_frontiers(
    stage: Stage, finds: Finds, *, seeds: Sequence[int], horizons: Sequence[int], progress: Progress
) -> None:
    """Play worlds of these seeds to the last horizon, beside as many others in truth.

    Raises `EnvironmentUnusable` where agents have no poses: there, nothing is ever left to be found.
    """
    if not stage.tokenizer.layout.map_rows:
        raise EnvironmentUnusable(f"{stage.env_name}: agents without poses find no land")
    truths = [_setting_out(stage, seed) for seed in seeds]
    elsewhere = [_setting_out(stage, seed + max(seeds) + 1) for seed in seeds]
    cast = Cast(stage, truths)
    parties = {"truth": truths, "elsewhere": elsewhere} | cast.dreams
    known = {name: [_Known(world, stage.tokenizer.num_tokens) for world in worlds] for name, worlds in parties.items()}
    going = np.ones(len(truths), np.bool_)
    for tick in range(1, max(horizons) + 1):
        # Whoever begins anew finds land of another world.
        going &= ~np.array([world.ended or other.ended for world, other in zip(truths, elsewhere, strict=True)])
        cast.advance(None)
        stage.ticker.tick(elsewhere)
        for name, worlds in parties.items():
            for index in np.flatnonzero(going):
                known[name][index].look(worlds[index])
        if tick in horizons:
            finds.found[tick] = {name: np.stack([of.counts for of in found]) for name, found in known.items()}
        progress("setting out", tick / max(horizons))


class _Known:
    """What has been seen of one world."""

    def __init__(self, world: LiveWorld, num_tokens: int) -> None:
        self.counts: Counts = np.zeros(num_tokens, np.int64)
        """(V,) cells that were first seen since the beginning, by what they showed."""
        self._seen, _ = _in_view(world)

    def look(self, world: LiveWorld) -> None:
        """Note what comes into view for the first time."""
        places, tokens = _in_view(world)
        new = ~np.isin(places, self._seen)
        self.counts = self.counts + np.bincount(tokens[new], minlength=len(self.counts))
        self._seen = np.concatenate([self._seen, places[new]])


def _setting_out(stage: Stage, seed: int) -> LiveWorld:
    """Return a held-out world in truth after its first tick, whose agents explore."""
    world = stage.begun(seed)
    stage.ticker.tick([world])
    if isinstance(world.env, HomesteadGrounded):
        world.policy = make_policy("explorer", world.env.spec, world.snapshot.seed)
    return world


def _in_view(world: LiveWorld) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the places (n,) that somebody sees, each once, as numbers, and what they show."""
    field = world.snapshot.field
    _, y, x = field.window_cells(world.snapshot.poses, 0)
    places, first = np.unique(numbered(y, x), return_index=True)
    return places, field.layers[MAP].current(y, x).ravel()[first].astype(np.int64)
