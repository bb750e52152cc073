"""Finding a way across a homestead map."""

import heapq

from world.envs.homestead.rules import Simulation
from world.envs.homestead.tiles import WALKABLE, Terrain, Thing

_PASSABLE = frozenset({*WALKABLE, Thing.DOOR_CLOSED, Thing.GATE_CLOSED})
_MAX_EXPANDED = 4000


def find_path(world: Simulation, start: int, goal: int, avoid: frozenset[int] = frozenset()) -> list[int] | None:
    """Return the cells from `start` (left out) to `goal`, last step first; None if there is no way.

    Closed doors and gates are on the way, since they can be opened, as is the pressure door for whoever comes off
    the inner plate; the goal itself need not be walkable. A* with the Manhattan distance (Hart, Nilsson, Raphael
    1968); gives up after a few thousand cells.
    """
    width = world.config.width
    ground, thing = world.ground_at, world.thing_at
    goal_y, goal_x = divmod(goal, width)
    parent = {start: start}
    queue = [(0, 0, start)]
    steps = (-width, 1, width, -1)
    while queue and len(parent) < _MAX_EXPANDED:
        _, walked, cell = heapq.heappop(queue)
        if cell == goal:
            return _trace(parent, start, goal)
        walked -= 1
        for step in steps:
            near = cell + step
            if near in parent or near in avoid:
                continue
            blocked = thing[near] not in _PASSABLE or ground[near] & 15 == Terrain.WALL
            lets_out = thing[near] == Thing.PRESSURE_CLOSED and ground[cell] & 15 == Terrain.INNER_PLATE
            if near != goal and blocked and not lets_out:
                continue
            parent[near] = cell
            y, x = divmod(near, width)
            heapq.heappush(queue, (abs(y - goal_y) + abs(x - goal_x) - walked, walked, near))
    return None


def _trace(parent: dict[int, int], start: int, goal: int) -> list[int]:
    path = []
    while goal != start:
        path.append(goal)
        goal = parent[goal]
    return path
