"""How a world begins: rooms, corridors and open ground, all from one seed.

Nothing that is scattered touches anything else, corner to corner included, so no place is ever cut off by it.
"""

from collections.abc import Callable, Iterable

import numpy as np

from world.envs.homestead.config import HomesteadConfig
from world.envs.homestead.draws import Draws
from world.envs.homestead.state import HomesteadState, Ledger
from world.envs.homestead.tiles import LANDMARK, NUM_ITEMS, NUM_LANDMARKS, Terrain, Thing

_STREAM = 1
_PATCH = (5, 7)
"""Rows and columns of a commons."""


def generate(config: HomesteadConfig, seed: int) -> HomesteadState:
    """Return the world that `seed` determines, at tick 0."""
    plan = _Plan(config, seed)
    area = config.height * config.width
    plan.vault()
    plan.room(gated=True)
    for _ in range(max(area // 1024, 1)):
        plan.corridor()
        plan.room(gated=False)
        plan.room(gated=False)
        plan.commons()
    plan.scatter(Thing.BENCH, max(area // 1024, 1))
    plan.landmarks()
    plan.scatter(Thing.BUSH_RIPE, area // 80)
    plan.scatter(Thing.TREE, area // 50)
    plan.scatter(Thing.STONE, area // 50)
    return plan.finish()


class _Plan:
    """A map in the making."""

    def __init__(self, config: HomesteadConfig, seed: int) -> None:
        self.config, self.seed = config, seed
        self.height, self.width = config.height, config.width
        self.draws = Draws(seed, _STREAM)
        self.ground = bytearray(self.height * self.width)
        self.thing = [int(Thing.NONE)] * (self.height * self.width)
        self.reserved: set[int] = set()
        self.rooms: list[tuple[int, int, int, int]] = []
        for x in range(self.width):
            self.ground[x] = self.ground[-1 - x] = Terrain.WALL
        for y in range(self.height):
            self.ground[y * self.width] = self.ground[(y + 1) * self.width - 1] = Terrain.WALL

    def at(self, y: int, x: int) -> int:
        return y * self.width + x

    def vault(self) -> None:
        """A room with fruit that opens while two plates before it are held, or the one within."""
        spot = self._spot(5, 5)
        if spot is None:
            return
        y, x = spot
        self._walls(y, x, 5, 5)
        south = bool(self.draws.below(2))
        door_y, out, inside = (y + 4, y + 5, y + 3) if south else (y, y - 1, y + 1)
        far = y + 1 if south else y + 3
        side = 2 if self.draws.below(2) else -2
        self.ground[self.at(door_y, x + 2)] = Terrain.FLOOR
        self.thing[self.at(door_y, x + 2)] = Thing.PRESSURE_CLOSED
        self.ground[self.at(inside, x + 2)] = Terrain.INNER_PLATE
        for plate in (self.at(out, x + 2), self.at(out, x + 2 + side)):
            self.ground[plate] = Terrain.PLATE
        self.reserved.update(self.at(out, x + 2 + dx) for dx in range(-3, 4))
        for corner in (self.at(far, x + 1), self.at(far, x + 3)):
            self.thing[corner] = Thing.BUSH_RIPE

    def room(self, *, gated: bool) -> None:
        """A room with two doors, or with a gate that a switch beside it moves."""
        height, width = (6, 6) if gated else (self.draws.between(6, 8), self.draws.between(6, 8))
        spot = self._spot(height, width)
        if spot is None:
            return
        y, x = spot
        self._walls(y, x, height, width)
        south = bool(self.draws.below(2))
        wall_y = y + height - 1 if south else y
        first = self.at(wall_y, x + self.draws.between(1, width - 3))
        if gated:
            self._opening(first, Thing.GATE_CLOSED, vertical=True)
            self.ground[first + 1], self.thing[first + 1] = Terrain.FLOOR, Thing.SWITCH_OFF
            return
        self._opening(first, Thing.DOOR_CLOSED, vertical=True)
        wall_x = x + width - 1 if self.draws.below(2) else x
        second = self.at(y + self.draws.between(2, height - 3), wall_x)
        self._opening(second, Thing.DOOR_OPEN if self.draws.below(2) else Thing.NONE, vertical=False)

    def corridor(self) -> None:
        """A walled way, one cell wide, with a door at one end."""
        length = self.draws.between(7, min(11, self.width - 5, self.height - 5))
        upright = bool(self.draws.below(2))
        height, width = (length, 3) if upright else (3, length)
        spot = self._spot(height, width)
        if spot is None:
            return
        y, x = spot
        self._walls(y, x, height, width)
        ends = [self.at(y, x + 1), self.at(y + length - 1, x + 1)] if upright else [
            self.at(y + 1, x), self.at(y + 1, x + length - 1)
        ]  # fmt: skip
        self.draws.shuffle(ends)
        self._opening(ends[0], Thing.DOOR_CLOSED, vertical=upright)
        self._opening(ends[1], Thing.NONE, vertical=upright)

    def commons(self) -> None:
        """A patch of plants, each reachable from all sides, that live off each other."""
        rows, cols = _PATCH
        for _ in range(60):
            y = self.draws.between(2, self.height - rows - 2)
            x = self.draws.between(2, self.width - cols - 2)
            area = [self.at(v, u) for v in range(y - 1, y + rows + 1) for u in range(x - 1, x + cols + 1)]
            if all(self._free(cell) for cell in area):
                for dy in range(0, rows, 2):
                    for dx in range(0, cols, 2):
                        self.thing[self.at(y + dy, x + dx)] = Thing.COMMONS_RIPE
                self.reserved.update(area)
                return

    def landmarks(self) -> None:
        """As many as were drawn, each with its own texture: half in walls of rooms, half on open ground."""
        wanted = self.draws.between(self.config.min_landmarks, self.config.max_landmarks)
        textures = list(range(NUM_LANDMARKS))
        self.draws.shuffle(textures)
        in_walls = self._wall_cells()
        self.draws.shuffle(in_walls)
        chosen: list[int] = []
        for cell in in_walls:
            if len(chosen) == wanted // 2:
                break
            if not any(abs(cell - other) in (1, self.width) for other in chosen):
                chosen.append(cell)
        for cell in chosen:
            self.ground[cell], self.thing[cell] = Terrain.FLOOR, LANDMARK + textures.pop()
        for _ in range(wanted - len(chosen)):
            self.scatter(LANDMARK + textures.pop(), 1)

    def scatter(self, thing: int, count: int) -> None:
        """Put `count` things where nothing is near; fewer where there is no room."""
        around = self._around
        for _ in range(count):
            for _ in range(60):
                cell = self.at(self.draws.between(1, self.height - 2), self.draws.between(1, self.width - 2))
                if self._free(cell) and all(self._clear(cell + offset) for offset in around):
                    self.thing[cell] = thing
                    break

    def finish(self) -> HomesteadState:
        """Return the state with agents and animals on free ground."""
        free = [cell for cell in range(len(self.thing)) if self._free(cell)]
        self.draws.shuffle(free)
        agents, animals = self.config.num_agents, self.config.num_animals
        if len(free) < agents + animals:
            raise AssertionError(f"homestead {self.height}x{self.width}: no ground left for {agents} agents")
        things = np.array(self.thing, np.uint16)
        ledger = Ledger(
            stones=int((things == Thing.STONE).sum()),
            first_doors=int(((things == Thing.DOOR_CLOSED) | (things == Thing.DOOR_OPEN)).sum()),
        )
        return HomesteadState(
            seed=self.seed,
            tick=0,
            ground=np.frombuffer(bytes(self.ground), np.uint8).copy(),
            thing=things,
            due={},
            cells=free[:agents],
            facing=[2] * agents,
            inventory=[[0] * NUM_ITEMS for _ in range(agents)],
            animals=free[agents : agents + animals],
            ledger=ledger,
        )

    @property
    def _around(self) -> tuple[int, ...]:
        w = self.width
        return (-w - 1, -w, -w + 1, -1, 1, w - 1, w, w + 1)

    def _clear(self, cell: int) -> bool:
        return self.ground[cell] != Terrain.WALL and self.thing[cell] == Thing.NONE

    def _free(self, cell: int) -> bool:
        return self.ground[cell] <= Terrain.FLOOR and self.thing[cell] == Thing.NONE and cell not in self.reserved

    def _spot(self, height: int, width: int) -> tuple[int, int] | None:
        """Return a corner for a building of this size, two cells away from any other and from the border."""
        if self.height < height + 6 or self.width < width + 6:
            return None
        for _ in range(60):
            y = self.draws.between(3, self.height - height - 3)
            x = self.draws.between(3, self.width - width - 3)
            if all(
                y + height + 2 <= v or v + h + 2 <= y or x + width + 2 <= u or u + w + 2 <= x
                for v, u, h, w in self.rooms
            ) and self._unreserved(y - 1, x - 1, height + 2, width + 2):
                self.rooms.append((y, x, height, width))
                return y, x
        return None

    def _unreserved(self, y: int, x: int, height: int, width: int) -> bool:
        return not any(
            self.at(v, u) in self.reserved for v in range(y, y + height) for u in range(x, x + width)
        )  # fmt: skip

    def _walls(self, y: int, x: int, height: int, width: int) -> None:
        for v in range(y, y + height):
            for u in range(x, x + width):
                edge = v in (y, y + height - 1) or u in (x, x + width - 1)
                self.ground[self.at(v, u)] = Terrain.WALL if edge else Terrain.FLOOR

    def _opening(self, cell: int, thing: Thing, *, vertical: bool) -> None:
        """Open a wall and keep both sides of the opening free."""
        step = self.width if vertical else 1
        self.ground[cell], self.thing[cell] = Terrain.FLOOR, thing
        self.reserved.update((cell, cell - step, cell + step))

    def _wall_cells(self) -> list[int]:
        """Return cells in the walls of rooms that face the room and no opening."""
        cells: list[int] = []
        wall: Callable[[int], bool] = lambda cell: self.ground[cell] == Terrain.WALL  # noqa: E731
        for y, x, height, width in self.rooms:
            rows: Iterable[tuple[int, int]] = [
                (y + v, x + u)
                for v in range(height)
                for u in range(width)
                if (v in (0, height - 1)) != (u in (0, width - 1))
            ]
            for v, u in rows:
                cell = self.at(v, u)
                along = 1 if v in (y, y + height - 1) else self.width
                if wall(cell) and wall(cell - along) and wall(cell + along):
                    cells.append(cell)
        return cells
