"""Homestead as a `GroundedEnv`, on the short way: one gather for the views of all agents, no dictionaries."""

import hashlib

import numpy as np

from world.envs.grounded import EnvSpec, Int32Array, Observed, Stepped, Uint8Array
from world.envs.homestead import render
from world.envs.homestead.checks import broken_invariants
from world.envs.homestead.chronicle import Chronicle
from world.envs.homestead.config import HomesteadConfig
from world.envs.homestead.events import EVENTS
from world.envs.homestead.live_map import MARGIN
from world.envs.homestead.rules import Simulation
from world.envs.homestead.tiles import NUM_ACTIONS, VOID_CODE


class HomesteadGrounded:
    """A homestead world with all agents in a fixed order.

    A view is (70, 63, 3): 9×9 cells of map, north up, and a row of status. Views turned with the heading are no
    pieces of a map, so with `orientation="heading"` the layout is a screen without poses.
    """

    def __init__(self, config: HomesteadConfig | None = None, *, name: str | None = None) -> None:
        self.config = config or HomesteadConfig()
        shape = f"{self.config.height}x{self.config.width}x{self.config.num_agents}"
        self._is_map = self.config.orientation == "north"
        self.spec = EnvSpec(
            name=name or f"homestead:{shape}",
            agents=tuple(f"agent_{i}" for i in range(self.config.num_agents)),
            num_actions=NUM_ACTIONS,
            turn_order="rotating",
            solid=True,
            layout=render.layout_of(self.config),
            # Where nobody has a place, no event has one.
            events=EVENTS if self._is_map else (),
        )
        self._announced: list[tuple[int, int, int]] = []
        self.simulation = Simulation.new(self.config, 0)
        self._chronicle = Chronicle()
        self._never = np.zeros(self.config.num_agents, np.bool_)
        self._never.setflags(write=False)

    def reset(self, seed: int) -> Observed:
        """Begin the world that `seed` determines."""
        self.simulation = Simulation.new(self.config, seed)
        self._chronicle.clear()
        self._announced = []
        return self.observe()

    def announce(self, events: Int32Array) -> None:
        """Let events (n, 3), rows of kind, y, x, befall the next step, as `Eventful` says."""
        kinds = events[:, 0]
        if ((kinds < 1) | (kinds > len(self.spec.events))).any():
            raise ValueError(
                f"{self.spec.name}: events of kinds {kinds.tolist()}, expected 1 to {len(self.spec.events)}"
            )
        self._announced = [(kind, y, x) for kind, y, x in events.tolist()]

    def step(self, actions: Int32Array) -> Stepped:
        """Apply the joint action (A,). Raises `ValueError` for an action that does not exist."""
        simulation = self.simulation
        rewards = simulation.step(actions.tolist(), self._announced)
        self._announced = []
        tick = simulation.state.tick
        self._chronicle.record(tick, simulation.changes)
        limit = self.config.max_ticks
        return Stepped(
            observed=self.observe(),
            rewards=np.array(rewards, np.float32),
            terminated=self._never,
            truncated=self._never if limit is None or tick < limit else ~self._never,
            changes=simulation.changes,
        )

    def observe(self) -> Observed:
        """Return what all agents perceive now."""
        poses = self.simulation.poses()
        return Observed(render.views(self.simulation), poses if self._is_map else np.zeros_like(poses))

    def snapshot(self) -> bytes:
        """Return the state as plain bytes, with version and checksum."""
        return self.simulation.to_bytes()

    def restore(self, blob: bytes) -> Observed:
        """Return to a snapshot. Raises `EnvironmentUnusable` for bytes that do not fit this world."""
        self.simulation = Simulation.from_bytes(self.config, blob)
        self._chronicle.clear()
        self._announced = []
        return self.observe()

    def clone(self) -> "HomesteadGrounded":
        """Return an independent copy that goes on in the same way under the same actions."""
        twin = object.__new__(HomesteadGrounded)
        twin.__dict__.update(self.__dict__)
        twin.simulation = self.simulation.clone()
        twin._chronicle = self._chronicle.copy()
        return twin

    def survey(self) -> Uint8Array:
        """Return (n, 7, 7, 3) the distinct patches that can ever be seen in this world, for a codebook.

        The landmarks are those of the present map; everything else is what the rules can bring about.
        """
        return render.patch_table()[render.reachable_codes(self.simulation)]

    def patches_at(self, y: Int32Array, x: Int32Array) -> Uint8Array:
        """Return patches (…, 7, 7, 3) of cells (…) as they are now, whether or not anybody sees them."""
        codes = self.simulation.codes
        row, col = y + MARGIN, x + MARGIN
        inside = (row >= 0) & (row < codes.shape[0]) & (col >= 0) & (col < codes.shape[1])
        shown = codes[row.clip(0, codes.shape[0] - 1), col.clip(0, codes.shape[1] - 1)]
        return render.patch_table()[np.where(inside, shown, VOID_CODE)]

    def state_hash(self) -> str:
        """Return a digest that is equal exactly where states are equal."""
        return hashlib.blake2b(self.snapshot(), digest_size=16).hexdigest()

    def render_at(self, y: int, x: int) -> Uint8Array:
        """Return (63, 63, 3) what one would see from a place now. Raises `ValueError` outside the map."""
        return render.view_at(self.simulation, y, x)

    def render_map(self) -> Uint8Array:
        """Return (7·H, 7·W, 3) the whole map."""
        return render.map_image(self.simulation)

    def invariants(self) -> tuple[str, ...]:
        """Return which laws of conservation and placement are broken: none, unless a state was tampered with."""
        return broken_invariants(self.simulation)

    def causes(self, tick: int) -> Int32Array:
        """Return rows (y, x, cause) of all cells that the step to `tick` changed.

        Raises `KeyError` for a tick that is not among the last `CHRONICLE_TICKS` played here.
        """
        return self._chronicle.causes(tick)
