"""Homestead as a PettingZoo `ParallelEnv`, with ways to save, fork and question it."""

import hashlib
from typing import Any, ClassVar

import gymnasium
import numpy as np
from numpy.typing import NDArray
from pettingzoo import ParallelEnv

from world.envs.grounded import Int32Array, Uint8Array
from world.envs.homestead import render
from world.envs.homestead.checks import broken_invariants
from world.envs.homestead.chronicle import Chronicle
from world.envs.homestead.config import HomesteadConfig
from world.envs.homestead.live_map import VIEW
from world.envs.homestead.rules import Simulation
from world.envs.homestead.tiles import NUM_ACTIONS

Infos = dict[str, dict[str, Any]]


class Homestead(ParallelEnv[str, Uint8Array, int]):  # type: ignore[misc]  # The package has no types.
    """A shared map that agents change for good.

    Each agent sees 9×9 cells around itself and, in one strip of cells below, how much it holds of wood, stone,
    fruit and doors, and where it looks. An observation is (70, 63, 3) uint8. An info has `pose` (y, x),
    `visible_cells` (81, 2), `changed` (n, 3) rows (y, x, cause) of the whole map, and `inventory` (4,).
    """

    metadata: ClassVar[dict[str, Any]] = {
        "name": "homestead_v1",
        "render_modes": ["rgb_array"],
        "is_parallelizable": True,
    }

    def __init__(self, config: HomesteadConfig | None = None, *, render_mode: str | None = None) -> None:
        self.config = config or HomesteadConfig()
        self.render_mode = render_mode
        self.possible_agents = [f"agent_{i}" for i in range(self.config.num_agents)]
        self.agents: list[str] = []
        shape = (render.ROWS * render.TILE_PX, VIEW * render.TILE_PX, 3)
        self.observation_spaces = {
            agent: gymnasium.spaces.Box(0, 255, shape, np.uint8) for agent in self.possible_agents
        }
        self.action_spaces = {agent: gymnasium.spaces.Discrete(NUM_ACTIONS) for agent in self.possible_agents}
        self.view_layout, self.solid, self.turn_order = render.layout_of(self.config), True, "rotating"
        self.simulation = Simulation.new(self.config, 0)
        self._seeds = np.random.default_rng()
        self._chronicle = Chronicle()

    def observation_space(self, agent: str) -> gymnasium.Space[Uint8Array]:
        """Return the space of an agent's observations; the same object at every call."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> gymnasium.Space[Any]:
        """Return the space of an agent's actions; the same object at every call."""
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Uint8Array], Infos]:
        """Begin the world that `seed` determines; without a seed, the next of a series that an earlier seed set off."""
        if seed is not None:
            self._seeds = np.random.default_rng(seed)
        self.simulation = Simulation.new(self.config, int(self._seeds.integers(1 << 63)) if seed is None else seed)
        self._chronicle.clear()
        self.agents = self.possible_agents.copy()
        return self._observations(), self._infos()

    def step(
        self, actions: dict[str, int]
    ) -> tuple[dict[str, Uint8Array], dict[str, float], dict[str, bool], dict[str, bool], Infos]:
        """Advance one tick; an agent without an action does nothing."""
        if not self.agents:
            return {}, {}, {}, {}, {}
        rewards = self.simulation.step([int(actions.get(agent, 0)) for agent in self.possible_agents])
        self._chronicle.record(self.simulation.state.tick, self.simulation.changes)
        limit = self.config.max_ticks
        is_over = limit is not None and self.simulation.state.tick >= limit
        result = (
            self._observations(),
            dict(zip(self.possible_agents, rewards, strict=True)),
            dict.fromkeys(self.possible_agents, False),
            dict.fromkeys(self.possible_agents, is_over),
            self._infos(),
        )
        if is_over:
            self.agents = []
        return result

    def render(self) -> NDArray[np.uint8] | None:
        """Return the whole map as an image (7·H, 7·W, 3), if that is the render mode."""
        return render.map_image(self.simulation) if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Nothing is held open."""

    def get_state(self) -> bytes:
        """Return the state as plain bytes, with version and checksum."""
        return self.simulation.to_bytes()

    def set_state(self, blob: bytes) -> None:
        """Return to a state of `get_state`. Raises `EnvironmentUnusable` for bytes that do not fit this world."""
        self.simulation = Simulation.from_bytes(self.config, blob)
        self._chronicle.clear()
        limit = self.config.max_ticks
        is_over = limit is not None and self.simulation.state.tick >= limit
        self.agents = [] if is_over else self.possible_agents.copy()

    def state_hash(self) -> str:
        """Return a digest that is equal exactly where states are equal."""
        return hashlib.blake2b(self.get_state(), digest_size=16).hexdigest()

    def clone(self) -> "Homestead":
        """Return an independent copy that goes on in the same way under the same actions."""
        twin = object.__new__(Homestead)
        twin.__dict__.update(self.__dict__)
        twin.simulation = self.simulation.clone()
        twin.agents = self.agents.copy()
        twin._seeds = np.random.default_rng(self.simulation.state.seed)
        twin._chronicle = self._chronicle.copy()
        return twin

    def render_at(self, y: int, x: int) -> Uint8Array:
        """Return (63, 63, 3) what one would see from a place now. Raises `ValueError` outside the map."""
        return render.view_at(self.simulation, y, x)

    def invariants(self) -> tuple[str, ...]:
        """Return which laws of conservation and placement are broken: none, unless a state was tampered with."""
        return broken_invariants(self.simulation)

    def causes(self, tick: int) -> Int32Array:
        """Return rows (y, x, cause) of all cells that the step to `tick` changed.

        Raises `KeyError` for a tick that is not among the last `CHRONICLE_TICKS` played here.
        """
        return self._chronicle.causes(tick)

    def _observations(self) -> dict[str, Uint8Array]:
        return dict(zip(self.possible_agents, render.views(self.simulation), strict=True))

    def _infos(self) -> Infos:
        state = self.simulation.state
        poses = self.simulation.poses()
        columns = zip(
            self.possible_agents, poses, render.visible_cells(poses), np.array(state.inventory, np.int32), strict=True
        )
        return {
            agent: {
                "pose": (int(pose[0]), int(pose[1])),
                "visible_cells": cells,
                "changed": self.simulation.changes,
                "inventory": held,
            }
            for agent, pose, cells, held in columns
        }
