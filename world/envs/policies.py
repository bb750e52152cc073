"""Data policies for any environment."""

import numpy as np

from world.envs.grounded import EnvSpec, GroundedEnv, Int32Array

_REPEAT = 0.7


class RandomPolicy:
    """Random actions, each of which goes on for a while: a walk that gets somewhere.

    What is drawn at a tick depends on (seed, tick) alone; what is repeated is the joint action before it.
    """

    def __init__(self, spec: EnvSpec, seed: int) -> None:
        self._shape, self._num_actions, self._seed = len(spec.agents), spec.num_actions, seed
        self._last: Int32Array | None = None

    def act(self, env: GroundedEnv, tick: int) -> Int32Array:
        """Return the joint action (A,)."""
        random = np.random.Generator(np.random.Philox(key=np.array([self._seed % (1 << 64), tick], np.uint64)))
        drawn = random.integers(self._num_actions, size=self._shape, dtype=np.int32)
        if self._last is not None:
            drawn = np.where(random.random(self._shape) < _REPEAT, self._last, drawn)
        self._last = drawn
        return drawn
