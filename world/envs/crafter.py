"""Crafter (Hafner 2021, arXiv 2109.06780) as a grounded world of one agent, made deterministic.

Its map is shown in cells of 7 pixels, so a token is a place. Needs the extra `crafter`; import lazily.
"""

from functools import cache
from typing import Any

import crafter
import numpy as np
from crafter import constants, engine
from numpy.typing import NDArray

from world.envs.grounded import BY_CHANCE, EnvSpec, Int32Array, Observed, Stepped, ViewLayout
from world.envs.gymnasium import SEED_BOUND
from world.envs.history import RepeatableEnv

ACTIONS: tuple[str, ...] = tuple(constants.actions)
_CELLS, _MAP_ROWS, _TILE_PX = 9, 7, 7
_SHOWN_PX = _CELLS * _TILE_PX
"""The image is 64 pixels wide, of which the last row and column are black."""


class GatheredView(engine.LocalView):  # type: ignore[misc]  # The package has no types.
    """Crafter's own view, to the pixel, with its ground drawn by one gather.

    As shipped it draws cell by cell, which took a quarter of a recorded tick.
    """

    def __call__(self, player: Any, unit: Any) -> Any:
        """Return the image (x, y, 3) around a player, in cells of `unit` pixels."""
        self._unit, self._center = np.array(unit), np.array(player.pos)
        canvas = self._ground(self._looks_of(tuple(self._unit.tolist())))
        for creature in self._world.objects:
            place = creature.pos - self._center + self._offset
            if (place >= 0).all() and (place < self._grid).all():
                engine._draw_alpha(canvas, place * unit, self._textures.get(creature.texture, unit))
        canvas = self._light(canvas, self._world.daylight)
        return self._sleep(canvas) if player.sleeping else canvas

    @cache  # noqa: B019 - one view lives as long as its environment.
    def _looks_of(self, unit: tuple[int, int]) -> NDArray[np.uint8]:
        """Return patches (M + 1, x, y, 3) of all materials by their number, then of what is beyond the map."""
        names = self._world._mat_names
        looks = [self._textures.get(names[number], unit)[..., :3] for number in range(len(names))]
        return np.stack([*looks, np.full((*unit, 3), 127, np.uint8)])

    def _ground(self, looks: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the image of what lies in view."""
        x, y = (self._center[axis] - self._offset[axis] + np.arange(self._grid[axis]) for axis in (0, 1))
        inside = ((x >= 0) & (x < self._area[0]))[:, None] & ((y >= 0) & (y < self._area[1]))
        kinds = self._world._mat_map[np.ix_(x.clip(0, self._area[0] - 1), y.clip(0, self._area[1] - 1))]
        cells = looks[np.where(inside, kinds, len(looks) - 1)]
        ground: NDArray[np.uint8] = cells.transpose(0, 2, 1, 3, 4).reshape(*(self._grid * self._unit), 3)
        return ground


class OrderedCrafter(crafter.Env):  # type: ignore[misc]  # The package has no types.
    """Crafter whose creatures are looked at in the order of their places.

    As shipped it chooses among the members of a set, whose order depends on addresses in memory.
    """

    def __init__(self) -> None:
        super().__init__(seed=0)
        self._local_view: Any = GatheredView(self._world, self._textures, (_CELLS, _MAP_ROWS))

    def begin(self, seed: int) -> Any:
        """Return the first observation of the episode that `seed` determines."""
        self._seed, self._episode = seed, 0
        return self.reset()

    def _balance_chunk(self, chunk: Any, objs: Any) -> None:
        super()._balance_chunk(chunk, sorted(objs, key=lambda creature: tuple(creature.pos.tolist())))


class CrafterGrounded(RepeatableEnv):
    """One player; 9×7 cells of map around it and two rows of inventory.

    The length of an episode is Crafter's own 10,000 ticks. At night the image is noisy and dark; `changes` speak of
    what is on the map, not of the light.
    """

    def __init__(self) -> None:
        super().__init__()
        self._env = OrderedCrafter()
        self.spec = EnvSpec(
            name="crafter",
            agents=("agent_0",),
            num_actions=len(ACTIONS),
            layout=ViewLayout(rows=_CELLS, cols=_CELLS, map_rows=_MAP_ROWS, tile_px=_TILE_PX),
        )
        self._is_over = False
        self._truth: NDArray[np.uint8] = self._env._sem_view()

    @property
    def semantic(self) -> NDArray[np.uint8]:
        """(x, y) what is where: materials by their number from 1, then the kinds of creatures."""
        return self._truth

    @property
    def player(self) -> Any:
        """Crafter's own object: `pos` (x, y), `facing`, `inventory`, `sleeping`, `achievements`."""
        return self._env._player

    @property
    def daylight(self) -> float:
        """1 at noon, near 0 at night."""
        return float(self._env._world.daylight)

    def _begin(self, seed: int) -> Observed:
        image = self._env.begin(seed % SEED_BOUND)
        self._is_over = False
        self._truth = self._env._sem_view()
        return self._perceive(image)

    def _advance(self, actions: Int32Array) -> Stepped:
        assert not self._is_over, "crafter: step after the end of the episode"
        before, look = self.player.pos.copy(), self.player.texture
        image, reward, done, info = self._env.step(int(actions[0]))
        is_dead = info["discount"] == 0.0
        self._is_over = bool(done)
        changes = self._changes(info["semantic"], before, look)
        self._truth = info["semantic"]
        return Stepped(
            observed=self._perceive(image),
            rewards=np.array([reward], np.float32),
            terminated=np.array([is_dead]),
            truncated=np.array([bool(done) and not is_dead]),
            changes=changes,
        )

    def _changes(self, truth: NDArray[np.uint8], before: NDArray[np.int64], look: str) -> Int32Array:
        """Return rows (y, x, cause): the player's are where it was, where it is, and what it faces."""
        here = self.player.pos
        differs = truth != self._truth
        differs[tuple(here)] |= look != self.player.texture
        x, y = np.nonzero(differs)
        places = np.stack([x, y], axis=1)
        own = np.stack([before, here, before + self.player.facing, here + self.player.facing])
        by_player = (places[:, None] == own).all(axis=2).any(axis=1)
        return np.stack([y, x, np.where(by_player, 0, BY_CHANCE)], axis=1).astype(np.int32)

    def _perceive(self, image: NDArray[np.uint8]) -> Observed:
        x, y = self.player.pos
        views = np.ascontiguousarray(image[None, :_SHOWN_PX, :_SHOWN_PX])
        return Observed(views, np.array([[y, x]], np.int32))
