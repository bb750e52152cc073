"""Data policies of Crafter: a scripted collector that stays alive, explores and comes back, mixed with randomness.

Needs the extra `crafter`; import lazily.
"""

from collections import deque
from collections.abc import Iterator

import numpy as np
from crafter import constants
from numpy.typing import NDArray

from world.envs.crafter import ACTIONS, CrafterGrounded
from world.envs.grounded import EnvSpec, GroundedEnv, Int32Array
from world.errors import EnvironmentUnusable

CRAFTER_POLICIES = ("mixed", "collector")
"""Names of the data policies; `mixed` puts stretches of random actions between."""

Cell = tuple[int, int]

_NUMBERS = {name: number for number, name in enumerate([None, *constants.materials])}
_COW, _ZOMBIE, _SKELETON = (len(_NUMBERS) + offset for offset in (1, 2, 3))
_WALKABLE = [_NUMBERS[name] for name in constants.walkable]
_MOVES: dict[Cell, str] = {(-1, 0): "move_left", (1, 0): "move_right", (0, -1): "move_up", (0, 1): "move_down"}
_SLIP, _RANDOM_STINT, _STINT_CHANCE, _REPEAT = 0.05, (20, 60), 0.004, 0.6
_REPLAN_TICKS = 12
_ERRAND_TICKS = 40
_SAFE_CELLS = 7
"""Nobody lies down with a zombie nearer than this."""
_TOOLS = ("wood_pickaxe", "wood_sword", "stone_pickaxe", "stone_sword", "iron_pickaxe", "iron_sword")


class CrafterPolicy:
    """Collect, craft, drink, eat, sleep, fight what is near, and in between walk somewhere and back."""

    def __init__(self, name: str, spec: EnvSpec, seed: int) -> None:
        if name not in CRAFTER_POLICIES:
            raise EnvironmentUnusable(f"crafter: no policy {name!r}; there are {', '.join(CRAFTER_POLICIES)}")
        self._is_mixed = name == "mixed"
        self._random = np.random.Generator(np.random.Philox(seed % (1 << 64)))
        self._path: list[Cell] = []
        self._goal: tuple[int, ...] = ()
        self._planned_at = -_REPLAN_TICKS
        self._random_until, self._last = 0, 0
        self._errand: Cell | None = None
        self._errand_until = 0

    def act(self, env: GroundedEnv, tick: int) -> Int32Array:
        """Return the action (1,). Raises `EnvironmentUnusable` for an environment of another kind."""
        if not isinstance(env, CrafterGrounded):
            raise EnvironmentUnusable(f"{env.spec.name}: this data policy is for crafter; use 'random'")
        return np.array([self._act(env, tick)], np.int32)

    def _act(self, env: CrafterGrounded, tick: int) -> int:
        if self._is_mixed and tick >= self._random_until and self._random.random() < _STINT_CHANCE:
            self._random_until = tick + int(self._random.integers(*_RANDOM_STINT))
        here = (int(env.player.pos[0]), int(env.player.pos[1]))
        is_safe = not _is_near(env.semantic, here, _NUMBERS["lava"], 1)
        if is_safe and (tick < self._random_until or self._random.random() < _SLIP):
            if self._random.random() >= _REPEAT:
                self._last = int(self._random.integers(len(ACTIONS)))
            return self._last
        return ACTIONS.index(self._wish(env, tick))

    def _wish(self, env: CrafterGrounded, tick: int) -> str:
        player, truth = env.player, env.semantic
        if player.sleeping:
            return "noop"
        held, here = player.inventory, (int(player.pos[0]), int(player.pos[1]))
        for step, move in _MOVES.items():
            if _at(truth, (here[0] + step[0], here[1] + step[1])) in (_ZOMBIE, _SKELETON):
                return "do" if tuple(player.facing) == step else move
        if held["energy"] < 3 and not _is_near(truth, here, _ZOMBIE, _SAFE_CELLS):
            return "sleep"
        needs: tuple[tuple[str, tuple[int, ...]], ...] = (("drink", (_NUMBERS["water"],)), ("food", (_COW,)))
        for need, source in needs:
            if held[need] < 5 and (action := self._toward(env, truth, here, source, tick)):
                return action
        if craft := next(self._crafts(truth, here, held), None):
            return craft
        if held["sapling"] and self._faces(env, truth) == _NUMBERS["grass"]:
            return "place_plant"
        for source in self._materials(truth, held):
            if action := self._toward(env, truth, here, source, tick):
                return action
        return self._errands(truth, here, tick)

    def _crafts(self, truth: NDArray[np.uint8], here: Cell, held: dict[str, int]) -> Iterator[str]:
        """Yield what can be crafted or placed now."""
        around = set(truth[max(here[0] - 1, 0) : here[0] + 2, max(here[1] - 1, 0) : here[1] + 2].ravel().tolist())
        for tool in _TOOLS:
            recipe = constants.make[tool]
            has_parts = all(held[part] >= count for part, count in recipe["uses"].items())
            if not held[tool] and has_parts and all(_NUMBERS[place] in around for place in recipe["nearby"]):
                yield f"make_{tool}"
        for place in ("table", "furnace"):
            has_parts = all(held[part] >= count for part, count in constants.place[place]["uses"].items())
            is_known = _NUMBERS[place] in truth
            if has_parts and not is_known and (place == "table" or _NUMBERS["table"] in around):
                yield f"place_{place}"

    def _materials(self, truth: NDArray[np.uint8], held: dict[str, int]) -> Iterator[tuple[int, ...]]:
        """Yield, most urgent first, what to walk to and take."""
        has_table, has_furnace = _NUMBERS["table"] in truth, _NUMBERS["furnace"] in truth
        wood = 2 if has_table else constants.place["table"]["uses"].get("wood", 1) + 1
        lacking = [tool for tool in _TOOLS if not held[tool]]
        if held["wood"] < wood and lacking:
            yield (_NUMBERS["tree"],)
        if held["wood_pickaxe"]:
            stone = 2 if has_furnace else constants.place["furnace"]["uses"].get("stone", 1) + 1
            if held["stone"] < stone:
                yield (_NUMBERS["stone"],)
            if held["coal"] < 1:
                yield (_NUMBERS["coal"],)
        if held["stone_pickaxe"] and held["iron"] < 1:
            yield (_NUMBERS["iron"],)
        if held["iron_pickaxe"]:
            yield (_NUMBERS["diamond"],)
        if has_table and lacking and held["wood"]:
            yield (_NUMBERS["table"],)

    def _errands(self, truth: NDArray[np.uint8], here: Cell, tick: int) -> str:
        """Walk to a random place nearby, then to another: old places are met again."""
        if self._errand is None or tick >= self._errand_until or not self._path:
            x, y = (int(here[axis] + self._random.integers(-14, 15)) for axis in (0, 1))
            self._errand, self._errand_until = (x, y), tick + _ERRAND_TICKS
            self._goal = ()
            self._path = _path(truth, here, targets=(), goal=(x, y))
        return self._follow(truth, here) or list(_MOVES.values())[int(self._random.integers(4))]

    def _toward(
        self, env: CrafterGrounded, truth: NDArray[np.uint8], here: Cell, targets: tuple[int, ...], tick: int
    ) -> str | None:
        """Return the next action on the way to use one of `targets`; None if none can be reached."""
        if self._faces(env, truth) in targets:
            return "do"
        is_stale = self._goal != targets or tick - self._planned_at >= _REPLAN_TICKS
        if is_stale or not self._path:
            if not is_stale and self._planned_at > tick - 3:
                return None
            self._goal, self._planned_at = targets, tick
            self._path = _path(truth, here, targets=targets, goal=None)
        return self._follow(truth, here)

    def _follow(self, truth: NDArray[np.uint8], here: Cell) -> str | None:
        while self._path and self._path[-1] == here:
            self._path.pop()
        if not self._path:
            return None
        ahead = self._path[-1]
        move = _MOVES.get((ahead[0] - here[0], ahead[1] - here[1]))
        if move is None or (len(self._path) > 1 and _at(truth, ahead) not in _WALKABLE):
            self._path = []
            return None
        return move

    def _faces(self, env: CrafterGrounded, truth: NDArray[np.uint8]) -> int:
        x, y = env.player.pos + env.player.facing
        return _at(truth, (int(x), int(y)))


def _at(truth: NDArray[np.uint8], cell: Cell) -> int:
    """Return what is in a cell; 0 outside the map."""
    if not (0 <= cell[0] < truth.shape[0] and 0 <= cell[1] < truth.shape[1]):
        return 0
    return int(truth[cell])


def _is_near(truth: NDArray[np.uint8], cell: Cell, what: int, reach: int) -> bool:
    """Return whether something is within a square around a cell."""
    around = truth[max(cell[0] - reach, 0) : cell[0] + reach + 1, max(cell[1] - reach, 0) : cell[1] + reach + 1]
    return bool((around == what).any())


def _path(truth: NDArray[np.uint8], start: Cell, *, targets: tuple[int, ...], goal: Cell | None) -> list[Cell]:
    """Return the shortest way, last step first, to any of the targets (or to the goal); empty if there is none."""
    parent: dict[Cell, Cell] = {start: start}
    queue = deque([start])
    while queue:
        cell = queue.popleft()
        for dx, dy in _MOVES:
            near = (cell[0] + dx, cell[1] + dy)
            if near in parent:
                continue
            found = _at(truth, near)
            is_target = found in targets or near == goal
            if not is_target and found not in _WALKABLE:
                continue
            parent[near] = cell
            if is_target:
                path = []
                while near != start:
                    path.append(near)
                    near = parent[near]
                return path
            queue.append(near)
    return []
