"""The cast: worlds in truth, and the dreams that follow their actions knowing as much, less, and more.

Axes: B worlds, A agents.
"""

from collections.abc import Sequence

import numpy as np

from world.evaluation.plays.stage import Stage, forget, with_other_chance
from world.live import LiveWorld
from world.tick import Ticked


class Cast:
    """Truths, and all that follow their actions from this moment on."""

    def __init__(self, stage: Stage, truths: Sequence[LiveWorld], *, twins: bool = False) -> None:
        """Fork the dreams; with `twins`, replays of truth with other luck as well, where there can be."""
        self._stage, self.truths = stage, list(truths)
        self.dreams = {
            name: [stage.dream(world, seed=i + 1, name=name) for i, world in enumerate(truths)]
            for name in ("ours", "no_memory")
        }
        for world in self.dreams["no_memory"]:
            forget(world)
        found = [with_other_chance(world) for world in truths] if twins else []
        self.twins = [twin for twin in found if twin is not None]

    def told(self) -> list[LiveWorld] | None:
        """Return dreams of the present truth that know all of it; None where it cannot be asked."""
        told = [self._stage.told_dream(world, seed=i + 1) for i, world in enumerate(self.truths)]
        known = [world for world in told if world is not None]
        return known if len(known) == len(told) else None

    def followers(self, told: list[LiveWorld] | None) -> dict[str, list[LiveWorld]]:
        """Return all that follow truth: "ours", "no_memory", and where there are such, "replay" and "oracle"."""
        followers = self.dreams | {"replay": self.twins} | {"oracle": told or []}
        return {name: worlds for name, worlds in followers.items() if worlds}

    def advance(self, told: list[LiveWorld] | None) -> dict[str, list[Ticked]]:
        """Let truth act, and all others do as it did: "truth", "ours", "no_memory", "replay", "oracle"."""
        ticked = {"truth": self._stage.ticker.tick(self.truths)}
        actions = np.stack([done.effects.actions for done in ticked["truth"]])
        followers = self.followers(told)
        everyone = [world for worlds in followers.values() for world in worlds]
        done = iter(self._stage.ticker.tick(everyone, np.concatenate([actions] * len(followers))))
        ticked |= {name: [next(done) for _ in worlds] for name, worlds in followers.items()}
        for world in self.dreams["no_memory"]:
            forget(world)
        return ticked
