"""Sites in a homestead: where something can be changed, where to leave to, where to come from.

Cells are numbered in reading order, as in `world.envs.homestead`.
"""

from collections import deque
from collections.abc import Iterable

from world.envs.homestead.live_map import VIEW
from world.envs.homestead.rules import Simulation
from world.envs.homestead.tiles import Terrain, Thing

SIGHT = VIEW // 2
"""Cells, in either direction, that an agent sees."""


def apart(simulation: Simulation, cell: int, other: int) -> int:
    """Return how far two cells are in rows or in columns, whichever is more: what decides who sees what."""
    (y, x), (v, u) = simulation.place_of(cell), simulation.place_of(other)
    return max(abs(y - v), abs(x - u))


def walks(simulation: Simulation, start: int, *, avoid: Iterable[int] = (), most: int = 64) -> dict[int, int]:
    """Return the steps to every cell that can be walked to from `start`, which may itself be anything."""
    steps, closed = {start: 0}, set(avoid)
    queue = deque([start])
    while queue:
        cell = queue.popleft()
        if steps[cell] == most:
            continue
        for step in simulation.steps:
            near = cell + step
            if near not in steps and near not in closed and simulation.walkable(near):
                steps[near] = steps[cell] + 1
                queue.append(near)
    return steps


def beside(simulation: Simulation, cell: int) -> list[int]:
    """Return the walkable cells from which one can look at a cell, step by step round it."""
    return [cell + step for step in simulation.steps if simulation.walkable(cell + step)]


def cells_of(simulation: Simulation, thing: int) -> list[int]:
    """Return the cells that hold a thing."""
    return [cell for cell, held in enumerate(simulation.state.thing.tolist()) if held == thing]


def open_cells(simulation: Simulation, *, grass: bool = False) -> list[int]:
    """Return bare cells on which things can be put; with `grass`, those on which a sapling can grow."""
    width, height = simulation.config.width, simulation.config.height
    found = []
    for cell in range(width, width * (height - 1)):
        ground = simulation.ground_at[cell]
        if simulation.thing_at[cell] != Thing.NONE or ground > Terrain.FLOOR or not 0 < cell % width < width - 1:
            continue
        around = [cell + dy * width + dx for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]
        clear = not any(simulation.thing_at[c] or simulation.ground_at[c] & 15 == Terrain.WALL for c in around)
        if not grass or (ground == Terrain.GRASS and clear):
            found.append(cell)
    return found
