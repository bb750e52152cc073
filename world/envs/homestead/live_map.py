"""A homestead map in motion: its state, and what is derived from it for speed.

Whatever changes a cell goes through here, so that codes, growth and the list of changes stay true.

Axes: N cells, A agents, n changes.
"""

import heapq
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from world.envs.grounded import Int32Array
from world.envs.homestead.config import MAX_AGENTS, HomesteadConfig
from world.envs.homestead.draws import Draws
from world.envs.homestead.generation import generate
from world.envs.homestead.state import HomesteadState, decode, encode
from world.envs.homestead.tiles import (
    AGENT_CODE,
    ANIMAL_CODE,
    GROUND_CODES,
    NUM_THINGS,
    THING_CODE,
    VOID_CODE,
    WALKABLE,
    Terrain,
    Thing,
)

_Value = TypeVar("_Value", np.int32, np.float32)

VIEW = 9
"""Cells on a side of what an agent sees."""
MARGIN = VIEW // 2
ANIMAL = 255
"""Stands for any animal among the occupants of cells; agents are numbered from 1."""
RIPENS = {Thing.STUMP: Thing.TREE, Thing.BUSH_BARE: Thing.BUSH_RIPE, Thing.SAPLING: Thing.YOUNG_TREE}
"""What a thing that grows becomes."""
_LOOKS_STREAM = 2
_PLATE_REACH = 2
_COMMONS_REACH = 2
_SHOWN = tuple(range(NUM_THINGS))
"""What each thing is drawn as."""
_SHOWN_HIDING = tuple(Thing.SWITCH_OFF if thing == Thing.SWITCH_ON else thing for thing in _SHOWN)
_WALKABLE = tuple(thing in WALKABLE for thing in range(NUM_THINGS))


def looks_of(seed: int) -> tuple[int, ...]:
    """Return which colour each agent has in the world of a seed: all that there are, in an order of its own.

    So whoever learned from worlds of few agents has met all of them.
    """
    looks = list(range(MAX_AGENTS))
    Draws(seed, _LOOKS_STREAM).shuffle(looks)
    return tuple(looks)


class LiveMap:
    """State, codes of what is shown, who stands where, and what waits to grow."""

    def __init__(self, config: HomesteadConfig, state: HomesteadState) -> None:
        self.config = config
        self.state = state
        self._derive()

    @classmethod
    def new(cls, config: HomesteadConfig, seed: int) -> Self:
        """Return the world that `seed` determines. A negative or huge seed is taken modulo 2**64."""
        return cls(config, generate(config, seed % (1 << 64)))

    @classmethod
    def from_bytes(cls, config: HomesteadConfig, blob: bytes) -> Self:
        """Return the world of `to_bytes`. Raises `EnvironmentUnusable`."""
        return cls(config, decode(blob, config))

    def to_bytes(self) -> bytes:
        """Return the whole state."""
        return encode(self.state, self.config)

    def clone(self) -> Self:
        """Return an independent copy that goes on in the same way."""
        twin = object.__new__(type(self))
        twin.config, twin.state = self.config, self.state.copy()
        twin.codes, twin.occupant, twin._heap = self.codes.copy(), self.occupant.copy(), self._heap.copy()
        twin.changes = self.changes
        twin._commons, twin._near, twin.pressure = self._commons, self._near, self.pressure
        twin._pad, twin.steps, twin._around = self._pad, self.steps, self._around
        twin._shown_at, twin.looks = self._shown_at, self.looks
        twin._attach()
        twin._begin_tick()
        return twin

    def place_of(self, cell: int) -> tuple[int, int]:
        """Return (y, x) of a cell."""
        return divmod(cell, self.config.width)

    def ahead(self, agent: int) -> int:
        """Return the cell in front of an agent."""
        return self.state.cells[agent] + self.steps[self.state.facing[agent]]

    def walkable(self, cell: int) -> bool:
        """Return whether ground and thing let one in; somebody may stand there."""
        return _WALKABLE[self.thing_at[cell]] and self.ground_at[cell] & 15 != Terrain.WALL

    def read(self, values: NDArray[_Value], y: Int32Array, x: Int32Array, *, outside: float) -> NDArray[_Value]:
        """Return values (cells,) of the cells y, x (…), and `outside` beyond the map."""
        height, width = self.config.height, self.config.width
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        found = values[y.clip(0, height - 1) * width + x.clip(0, width - 1)]
        read: NDArray[_Value] = np.where(inside, found, values.dtype.type(outside))
        return read

    def lying(self) -> Int32Array:
        """Return the codes (cells,) of what lies in each cell, whoever stands there."""
        shown = np.array(self._shown_at, np.int32)[self.state.thing]
        codes: Int32Array = np.where(shown, THING_CODE + shown, GROUND_CODES[self.state.ground])
        return codes

    def poses(self) -> Int32Array:
        """Return (A, 2) places y, x."""
        cells = np.array(self.state.cells, np.int32)
        return np.stack(np.divmod(cells, np.int32(self.config.width)), axis=1)

    def _begin_tick(self) -> None:
        """Forget what the tick before touched."""
        self._before: dict[int, int] = {}
        self._cause: dict[int, int] = {}

    def _settle(self) -> None:
        """Bring the codes of all touched cells up to date and list those that look different now."""
        rows: list[tuple[int, int, int]] = []
        width = self.config.width
        for cell, before in self._before.items():
            code = self._code(cell)
            if code != before:
                self._code_at[self._pad[cell]] = code
                rows.append((*divmod(cell, width), self._cause[cell]))
        self.changes: Int32Array = np.array(rows, np.int32).reshape(-1, 3)

    def _touch(self, cell: int, cause: int) -> None:
        if cell not in self._before:
            self._before[cell] = self._code_at[self._pad[cell]]
        self._cause[cell] = cause

    def _put(self, cell: int, thing: int, cause: int) -> None:
        self._touch(cell, cause)
        self.thing_at[cell] = thing
        if thing not in RIPENS:
            self.state.due.pop(cell, None)

    def _cover(self, cell: int, thing: int, cause: int) -> None:
        self._put(cell, thing, cause)
        self.ground_at[cell] &= 15

    def _wait(self, cell: int, at: int) -> None:
        self.state.due[cell] = at
        heapq.heappush(self._heap, (at, cell))

    def _is_bare(self, cell: int) -> bool:
        return self.thing_at[cell] == Thing.NONE and self.ground_at[cell] & 15 <= Terrain.FLOOR

    def _is_framed(self, cell: int) -> bool:
        north, east, south, west = (self._is_post(cell + step) for step in self.steps)
        return (north and south) or (east and west)

    def _is_post(self, cell: int) -> bool:
        return self.ground_at[cell] & 15 == Terrain.WALL or self.thing_at[cell] == Thing.STONE

    def _code(self, cell: int) -> int:
        who = self.occupant[cell]
        if who == ANIMAL:
            return ANIMAL_CODE
        if who:
            return AGENT_CODE + 4 * self.looks[who - 1] + self.state.facing[who - 1]
        thing = self._shown_at[self.thing_at[cell]]
        return THING_CODE + thing if thing else int(GROUND_CODES[self.ground_at[cell]])

    def _attach(self) -> None:
        """Give scalar access to the arrays: a memoryview reads a cell several times faster than numpy."""
        self.ground_at, self.thing_at = self.state.ground.data, self.state.thing.data
        self._code_at = self.codes.reshape(-1).data

    def _derive(self) -> None:
        config, state = self.config, self.state
        height, width = config.height, config.width
        self.steps = (-width, 1, width, -1)
        self._around = (-width - 1, -width, -width + 1, -1, 1, width - 1, width, width + 1)
        self._shown_at = _SHOWN_HIDING if config.hidden_switches else _SHOWN
        padded = width + 2 * MARGIN
        self._pad = [(y + MARGIN) * padded + x + MARGIN for y in range(height) for x in range(width)]
        self.codes: Int32Array = np.full((height + 2 * MARGIN, padded), VOID_CODE, np.int32)
        self.looks = looks_of(state.seed)
        self.occupant = bytearray(height * width)
        for cell in state.animals:
            self.occupant[cell] = ANIMAL
        for agent, cell in enumerate(state.cells):
            self.occupant[cell] = agent + 1
        self._attach()
        self.codes[MARGIN:-MARGIN, MARGIN:-MARGIN] = self.lying().reshape(height, width)
        for cell in (*state.animals, *state.cells):
            self._code_at[self._pad[cell]] = self._code(cell)
        self._heap = [(at, cell) for cell, at in state.due.items()]
        heapq.heapify(self._heap)
        self.changes = np.zeros((0, 3), np.int32)
        ripe_or_bare = (state.thing == Thing.COMMONS_RIPE) | (state.thing == Thing.COMMONS_BARE)
        self._commons = [int(cell) for cell in np.flatnonzero(ripe_or_bare)]
        self._near = [
            [other for other in self._commons if other != cell and self._within(cell, other, _COMMONS_REACH)]
            for cell in self._commons
        ]
        doors = np.flatnonzero((state.thing == Thing.PRESSURE_CLOSED) | (state.thing == Thing.PRESSURE_OPEN))
        plates = [(int(cell), 1) for cell in np.flatnonzero(state.ground & 15 == Terrain.PLATE)]
        plates += [(int(cell), 2) for cell in np.flatnonzero(state.ground & 15 == Terrain.INNER_PLATE)]
        # Each pressure door with the plates that move it, by cell and weight; it opens at weight 2.
        self.pressure = [
            (int(door), [(cell, weight) for cell, weight in plates if self._within(int(door), cell, _PLATE_REACH)])
            for door in doors
        ]

    def _within(self, cell: int, other: int, reach: int) -> bool:
        (y, x), (v, u) = self.place_of(cell), self.place_of(other)
        return abs(y - v) <= reach and abs(x - u) <= reach
