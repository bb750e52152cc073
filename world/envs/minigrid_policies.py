"""Data policies of MiniGrid's memory tasks: look at the cue, walk down the hallway, choose.

Needs the extra `minigrid`; import lazily. Of these environments it reads the truth, which agents are not shown.
"""

import numpy as np

from world.envs.grounded import EnvSpec, GroundedEnv, Int32Array
from world.envs.gymnasium import GymnasiumGrounded
from world.errors import EnvironmentUnusable

MEMORY_TASKS = "MiniGrid-Memory"
"""How the names of these environments begin."""
MEMORY_POLICIES = ("chooser",)
_LEFT, _RIGHT, _FORWARD = range(3)
_EAST, _SOUTH, _WEST, _NORTH = range(4)
_CUE_X = 3
"""The column from which somebody who looks west has the cue before him."""
_HALLWAY_X = 5
"""The first column of the hallway: from there nobody sees the cue but who looks west."""
_FEWEST_GLANCES, _MOST_GLANCES = 3, 5
"""So often an agent looks aside in the hallway: what was seen slips out of what is kept of a screen, which is the last
few things that each of its cells has shown. Nearer to the cue, a cell would show it that no glance changes."""


class ChooserPolicy:
    """Look at the cue, glance aside a few times on the way, look back from there, then go to a side.

    Which side, and all else that is drawn, has nothing to do with the cue.
    """

    def __init__(self, name: str, spec: EnvSpec, seed: int) -> None:
        if name not in MEMORY_POLICIES:
            raise EnvironmentUnusable(f"{spec.name}: no policy {name!r}; there are {', '.join(MEMORY_POLICIES)}")
        self._random = np.random.Generator(np.random.Philox(seed % (1 << 64)))
        self._has_looked, self._looks_back, self._side = False, False, _NORTH
        self._glancing_at, self._turns_left = 0, 0

    def act(self, env: GroundedEnv, tick: int) -> Int32Array:
        """Return the action (1,). Raises `EnvironmentUnusable` for an environment of another kind."""
        if not isinstance(env, GymnasiumGrounded) or not env.spec.name.startswith(MEMORY_TASKS):
            raise EnvironmentUnusable(f"{env.spec.name}: this data policy is for {MEMORY_TASKS}…; use 'random'")
        truth = env.truth
        if truth.step_count == 0:
            self._plan(truth.width)
        x, y, heading = int(truth.agent_pos[0]), int(truth.agent_pos[1]), int(truth.agent_dir)
        if not self._has_looked:
            self._has_looked = x == _CUE_X and heading == _WEST
        if not self._has_looked:
            return _toward(_EAST if x < _CUE_X else _WEST, heading)
        if x == self._glancing_at and self._turns_left and heading != _WEST:
            self._turns_left -= 1
            return _toward(_NORTH if heading == _EAST else _EAST, heading)
        if x == self._glancing_at and self._looks_back:
            if heading != _WEST:
                return _toward(_WEST, heading)
            self._looks_back = False
        in_hallway = y == truth.height // 2 and x < int(truth.success_pos[0])
        return _toward(_EAST if in_hallway else self._side, heading)

    def _plan(self, width: int) -> None:
        """Draw where to glance aside and look back, how often, and which side to choose."""
        self._has_looked = False
        self._glancing_at = int(self._random.integers(_HALLWAY_X, max(width - 3, _HALLWAY_X + 1)))
        self._turns_left = 2 * int(self._random.integers(_FEWEST_GLANCES, _MOST_GLANCES + 1))
        self._looks_back = True
        self._side = (_NORTH, _SOUTH)[int(self._random.integers(2))]


def _toward(wanted: int, heading: int) -> Int32Array:
    if heading == wanted:
        return np.array([_FORWARD], np.int32)
    return np.array([_RIGHT if (wanted - heading) % 4 in (1, 2) else _LEFT], np.int32)
