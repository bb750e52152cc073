"""Data policies of a homestead: what makes lasting changes and meets them again, at all ages.

Random walks hardly ever come back; these do. They act on the world's truth and cost a few microseconds a tick.
"""

from collections.abc import Callable

import numpy as np

from world.envs.grounded import EnvSpec, GroundedEnv, Int32Array
from world.envs.homestead import lives
from world.envs.homestead.body import Body, Life
from world.envs.homestead.draws import Draws
from world.envs.homestead.grounded import HomesteadGrounded
from world.envs.homestead.rules import Simulation
from world.envs.homestead.tiles import NUM_ACTIONS, Action
from world.errors import EnvironmentUnusable

LIVES: dict[str, Callable[[Body], Life]] = {
    "stroller": lives.stroller,
    "explorer": lives.explorer,
    "patrol": lives.patrol,
    "builder": lives.builder,
    "courier": lives.courier,
    "peddler": lives.peddler,
    "follower": lives.follower,
    "forager": lives.forager,
    "gatekeeper": lives.gatekeeper,
    "vault": lives.vault,
    "trader": lives.trader,
    "barterer": lives.barterer,
    "meddler": lives.meddler,
}
_MIXTURES = {
    "mixed": (
        "stroller",
        "explorer",
        "patrol",
        "patrol",
        "patrol",
        "builder",
        "builder",
        "courier",
        "follower",
        "forager",
    ),
    "market": ("trader", "peddler"),
}
"""Ways of life, of which each agent has one, and draws again after a while."""
HOMESTEAD_POLICIES = (*_MIXTURES, *LIVES)
"""Names of the data policies: the mixtures, `mixed` of everything and `market` of what passes from hand to hand, and
each way of life for all."""

_STINT_TICKS = (200, 500)
_PATROL_TICKS = (600, 1500)
_TEAMWORK = ("vault", "trader", "")
"""What all agents of a mixture do together for a while: open the vault, trade, or nothing."""
_TEAM_EVERY, _TEAM_TICKS = 500, 120
_SLIP, _FIDGET = 0.03, 0.08
"""Chances, in a mixture, of a random action and of one that does something to what is ahead, in place of the chosen."""


class HomesteadPolicy:
    """One way of life for all agents, or a mixture that changes.

    Choices depend on the seed and on what happens. Where the world is another than at the last call (after a reset
    or a restore), all lives begin anew.
    """

    def __init__(self, name: str, spec: EnvSpec, seed: int) -> None:
        if name not in HOMESTEAD_POLICIES:
            raise EnvironmentUnusable(f"homestead: no policy {name!r}; there are {', '.join(HOMESTEAD_POLICIES)}")
        self._seed = seed % (1 << 64)
        self._mixture = _MIXTURES.get(name, ())
        # Those of a mixture draw theirs at once.
        self._begins_as = LIVES.get(name, lives.stroller)
        self._num_agents = len(spec.agents)
        self._world: Simulation | None = None

    def act(self, env: GroundedEnv, tick: int) -> Int32Array:
        """Return the joint action (A,). Raises `EnvironmentUnusable` for an environment of another kind."""
        if not isinstance(env, HomesteadGrounded):
            raise EnvironmentUnusable(f"{env.spec.name}: this data policy is for homestead; use 'random'")
        if env.simulation is not self._world:
            self._begin(env.simulation)
        if self._mixture:
            self._redraw()
        return np.array([self._action(agent) for agent in range(self._num_agents)], np.int32)

    def _begin(self, world: Simulation) -> None:
        self._world = world
        tick = world.state.tick
        self._bodies = [
            Body(world, agent, Draws(self._seed ^ world.state.seed, tick << 8 | agent))
            for agent in range(self._num_agents)
        ]
        self._until = [tick] * self._num_agents
        self._next_team = tick + _TEAM_EVERY
        self._lives = [self._begins_as(body) for body in self._bodies]

    def _redraw(self) -> None:
        tick = self._bodies[0].tick
        if tick >= self._next_team:
            self._next_team += _TEAM_EVERY
            if name := self._bodies[0].choose(_TEAMWORK):
                self._lives = [LIVES[name](body) for body in self._bodies]
                self._until = [tick + _TEAM_TICKS] * self._num_agents
        for agent, body in enumerate(self._bodies):
            if tick >= self._until[agent]:
                name = body.choose(self._mixture)
                self._lives[agent] = LIVES[name](body)
                self._until[agent] = tick + body.draws.between(*(_PATROL_TICKS if name == "patrol" else _STINT_TICKS))

    def _action(self, agent: int) -> int:
        action, body = int(next(self._lives[agent])), self._bodies[agent]
        luck = body.draws.unit()
        if luck < _SLIP:
            return body.draws.below(NUM_ACTIONS)
        # A move is put off by a tick; what a life does on purpose is left alone.
        if luck < _SLIP + _FIDGET and self._mixture and Action.NORTH <= action <= Action.WEST:
            return lives.fidget(body)
        return action
