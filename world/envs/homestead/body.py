"""What a scripted agent can do: look for things, walk to them, act. Skills are generators of actions.

A skill yields one action a tick and returns whether it came to its end.
"""

from collections.abc import Generator, Iterable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from world.envs.homestead.draws import Draws
from world.envs.homestead.live_map import MARGIN
from world.envs.homestead.paths import find_path
from world.envs.homestead.rules import Simulation
from world.envs.homestead.tiles import NUM_THINGS, Action, Item, Terrain, Thing

T = TypeVar("T")
Skill = Generator[int, None, bool]
Life = Generator[int, None, None]

_MOVES = (Action.NORTH, Action.EAST, Action.SOUTH, Action.WEST)
_PATIENCE = 3
"""Ticks to wait for somebody who stands in the way before looking for another way."""
_UNREACHABLE_TICKS = 60
"""Ticks for which a place that could not be reached is not tried again."""


class Body:
    """One agent, the world it is in, and the randomness of its choices."""

    def __init__(self, world: Simulation, agent: int, draws: Draws) -> None:
        self.world, self.agent, self.draws = world, agent, draws
        self.seen: NDArray[np.int32] = np.full((world.config.height, world.config.width), -1, np.int32)
        self._unreachable: dict[int, int] = {}

    @property
    def here(self) -> int:
        """The cell the agent stands in."""
        return self.world.state.cells[self.agent]

    @property
    def tick(self) -> int:
        """The world's tick."""
        return self.world.state.tick

    def holds(self, item: Item) -> int:
        """Return how many of an item the agent holds."""
        return self.world.state.inventory[self.agent][item]

    def chance(self, probability: float) -> bool:
        """Return True with this probability."""
        return self.draws.unit() < probability

    def choose(self, options: Sequence[T]) -> T:
        """Return one of these, each as likely."""
        return options[self.draws.below(len(options))]

    def distance(self, cell: int, other: int) -> int:
        """Return the Manhattan distance of two cells."""
        (y, x), (v, u) = self.world.place_of(cell), self.world.place_of(other)
        return abs(y - v) + abs(x - u)

    def look(self) -> None:
        """Remember which cells are in view now."""
        y, x = self.world.place_of(self.here)
        self.seen[max(y - MARGIN, 0) : y + MARGIN + 1, max(x - MARGIN, 0) : x + MARGIN + 1] = self.tick

    def find(self, things: Iterable[int]) -> int | None:
        """Return one of the three nearest cells that hold one of these things."""
        wanted = np.zeros(NUM_THINGS, np.bool_)
        wanted[list(things)] = True
        cells = np.flatnonzero(wanted[self.world.state.thing])
        if self._unreachable:
            reachable = [cell for cell in cells.tolist() if self._unreachable.get(cell, 0) <= self.tick]
            cells = np.array(reachable, np.intp)
        if not len(cells):
            return None
        y, x = np.divmod(cells, self.world.config.width)
        own_y, own_x = self.world.place_of(self.here)
        distance = abs(y - own_y) + abs(x - own_x)
        nearest: list[int] = cells[np.argsort(distance, kind="stable")[:3]].tolist()
        return self.choose(nearest)

    def beside(self, cell: int, things: Iterable[int]) -> int | None:
        """Return a cell next to `cell` that holds one of these things; None if there is none."""
        wanted = frozenset(things)
        return next((cell + step for step in self.world.steps if self.world.thing_at[cell + step] in wanted), None)

    def somewhere(self, *, around: int | None = None, radius: int = 1024) -> int:
        """Return a random walkable cell, within `radius` of `around` if given."""
        height, width = self.world.config.height, self.world.config.width
        y, x = self.world.place_of(self.here if around is None else around)
        low_y, high_y = max(y - radius, 1), min(y + radius, height - 2)
        low_x, high_x = max(x - radius, 1), min(x + radius, width - 2)
        for _ in range(30):
            cell = self.draws.between(low_y, high_y) * width + self.draws.between(low_x, high_x)
            if self.world.walkable(cell):
                return cell
        return self.here

    def unseen(self) -> int:
        """Return, of some random walkable cells, the one that was out of view for longest."""
        cells = [self.somewhere() for _ in range(16)]
        return min(cells, key=lambda cell: int(self.seen[self.world.place_of(cell)]))

    def ahead_is_bare(self) -> bool:
        """Return whether the agent looks at free ground on which things can be put."""
        cell = self.world.ahead(self.agent)
        ground, thing = self.world.ground_at[cell] & 15, self.world.thing_at[cell]
        return ground <= Terrain.FLOOR and thing == Thing.NONE and not self.world.occupant[cell]

    def faces(self, cell: int) -> bool:
        """Return whether the agent stands before a cell and looks at it."""
        return self.world.ahead(self.agent) == cell

    def go(
        self, goal: int, *, beside: bool = False, until: int | None = None, avoid: frozenset[int] = frozenset()
    ) -> Skill:
        """Walk to a cell, or, for a thing that blocks, until one looks at it; give up at tick `until`."""
        path = self._way(goal, avoid)
        waited, replanned = 0, 0
        while path is not None and replanned < 5 and (until is None or self.tick < until):
            if path and path[-1] == self.here:
                path.pop()
            if not path or (beside and self.faces(goal)):
                return True
            target = path[-1]
            if target - self.here not in self.world.steps:
                path, replanned = self._way(goal, avoid), replanned + 1
                continue
            move = _MOVES[self.world.steps.index(target - self.here)]
            thing = self.world.thing_at[target]
            if thing == Thing.DOOR_CLOSED and self.faces(target):
                yield Action.USE
            elif thing == Thing.GATE_CLOSED and goal != target:
                replanned += 1
                yield from self._throw_switch(target)
                path = self._way(goal, avoid)
            elif self.world.occupant[target] or not (self.world.walkable(target) or thing == Thing.DOOR_CLOSED):
                if target == goal:
                    if self.faces(goal):
                        return beside
                    yield move
                    continue
                waited += 1
                if waited % _PATIENCE == 0:
                    path = find_path(self.world, self.here, goal, avoid | {target})
                    replanned += 1
                yield self.stray() if self.chance(0.5) else Action.NOOP
            else:
                yield move
        return False

    def _way(self, goal: int, avoid: frozenset[int]) -> list[int] | None:
        """Return a path, remembering for a while which places have none: a search that fails is the dear one."""
        if self._unreachable.get(goal, 0) > self.tick:
            return None
        path = find_path(self.world, self.here, goal, avoid)
        if path is None and not avoid:
            self._unreachable[goal] = self.tick + _UNREACHABLE_TICKS
        return path

    def _throw_switch(self, gate: int) -> Skill:
        """Use the switch beside a gate."""
        for cell in (gate + step for step in self.world.steps):
            is_switch = self.world.thing_at[cell] in (Thing.SWITCH_OFF, Thing.SWITCH_ON)
            if is_switch and (yield from self.go(cell, beside=True, avoid=frozenset({gate}))):
                yield Action.USE
                return True
        yield self.stray()
        return False

    def stray(self) -> int:
        """Return a random move."""
        return self.choose(_MOVES)

    def wait(self, ticks: int) -> Skill:
        """Do nothing for a while."""
        for _ in range(ticks):
            yield Action.NOOP
        return True

    def use(self, things: Iterable[int]) -> Skill:
        """Walk to one of these things and use it."""
        target = self.find(things)
        if target is None or not (yield from self.go(target, beside=True)):
            yield self.stray()
            return False
        yield Action.USE
        return True

    def on_bare_ground(self, action: int) -> Skill:
        """Take a few steps until there is free ground ahead, then do this to it."""
        for _ in range(8):
            if self.ahead_is_bare():
                yield action
                return True
            yield self.stray()
        return False

    def meet(self, other: int, *, until: int) -> Skill:
        """Walk until one looks at another agent, who may be walking too."""
        while self.tick < until:
            target = self.world.state.cells[other]
            if self.faces(target):
                return True
            steps = self.go(target, beside=True, until=min(until, self.tick + 6))
            moved = False
            for action in steps:
                moved = True
                yield action
            if not moved:
                yield self.stray()
        return False
