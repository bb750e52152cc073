"""Recurrent memory, seen through the one interface: a register for each agent, and the world's as their mean.

Axes: A agents, D components of a register, E width of the evidence.
"""

import numpy as np
import torch

from world.errors import CorruptRecord
from world.field import MAP, SCREEN, IntpArray
from world.model.memory.interface import Item, Spot, Trace, packed, unpacked
from world.model.memory.recurrent import RecurrentMemory
from world.snapshot import Float16Array

WORLD = Spot(MAP, 0, 0)
"""Whose register is the mean of all agents': it is read, never written, and nothing of it is kept."""


class RegisterMemory:
    """Blends evidence (E,) into an agent's register by the learned recurrence; `rows` (A, D) is what a world commits.

    An agent that nothing was written of has an empty register, all zero, which takes no room in `state()`.
    """

    def __init__(self, recurrence: RecurrentMemory, rows: Float16Array) -> None:
        self._recurrence, self.rows, self._tick = recurrence, rows, 0

    def write(self, item: Item, place: Spot, tick: int) -> None:
        """Blend evidence (E,) into the register of agent a, at `SCREEN` (a, 0)."""
        assert place.layer == SCREEN and place.x == 0, f"the registers are the agents': got {place}"
        with torch.inference_mode():
            before = torch.from_numpy(self.rows[place.y].astype(np.float32))
            after = self._recurrence(before, torch.from_numpy(item.astype(np.float32)))
        self.rows[place.y] = after.numpy().astype(np.float16)
        self.update(tick)

    def retrieve(self, query: Spot, k: int) -> list[Trace]:
        """Return the register (D,) of an agent, or of the `WORLD`."""
        written = self._written()
        whose = written if query == WORLD else written[written == query.y]
        if not len(whose) or k < 1:
            return []
        return [Trace(self.rows[whose].astype(np.float32).mean(axis=0), query, self._tick)]

    def update(self, tick: int) -> None:
        """Tell that it is this tick now, to which all registers have come."""
        self._tick = tick

    def forget(self, budget: int) -> None:
        """Empty registers, those first that say least: a component near zero is what the model starts from."""
        while self.bits() > budget and self.rows.any():
            weight = np.abs(self.rows.astype(np.float32)).sum(axis=1)
            self.rows[np.where(weight > 0, weight, np.inf).argmin()] = 0

    def state(self) -> bytes:
        """Return the registers that are not empty, and whose they are."""
        written = self._written()
        return packed({"agents": written.astype("<u2"), "rows": self.rows[written].astype("<f2")})

    def load(self, state: bytes) -> None:
        """Become what was saved. Raises `CorruptRecord`."""
        arrays = unpacked(state)
        if set(arrays) != {"agents", "rows"}:
            raise CorruptRecord(f"memory: expected registers, got {sorted(arrays)}")
        agents, rows = arrays["agents"], arrays["rows"]
        fits = rows.shape == (len(agents), self.rows.shape[1]) and (agents < len(self.rows)).all()
        if not fits or agents.dtype != np.uint16 or rows.dtype != np.float16:
            raise CorruptRecord(
                f"memory: registers {rows.shape} of agents {agents.tolist()} are not of {self.rows.shape}"
            )
        self.rows[:] = 0
        self.rows[agents] = rows

    def bits(self) -> int:
        """Return the size of `state()`."""
        return 8 * len(self.state())

    def _written(self) -> IntpArray:
        return np.flatnonzero(self.rows.any(axis=1))
