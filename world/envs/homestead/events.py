"""World events: what befalls a homestead from outside, within two cells of a place, and what can grow there.

What a cell becomes follows from that cell alone. An event changes none in which somebody stands, and nothing at all
where its place is not on the map.
"""

from world.envs.grounded import BY_CHANCE, BY_EVENT, EVENT_REACH
from world.envs.homestead.draws import draw, geometric, unit
from world.envs.homestead.live_map import RIPENS, LiveMap
from world.envs.homestead.tiles import Terrain, Thing

EVENTS = ("rain of saplings", "a wall rises", "everything ripens", "a clearing opens")
"""Phrases of the events, by kind from 1."""
RAIN, WALL, RIPENING, CLEARING = range(1, len(EVENTS) + 1)
RAIN_CHANCE = 0.5
"""Of a sapling in each cell that rain may fall on."""
CLEARED = frozenset({Thing.STONE, Thing.SAPLING, Thing.YOUNG_TREE})
"""What a clearing takes away."""

_OFFSETS = range(-EVENT_REACH, EVENT_REACH + 1)
_EVERYWHERE = tuple((dy, dx) for dy in _OFFSETS for dx in _OFFSETS)
# Rain falls on every second cell, so that one can still pass between what grows of it.
_EVERY_SECOND = tuple((dy, dx) for dy, dx in _EVERYWHERE if dy % 2 == 0 and dx % 2 == 0)
WHERE = (_EVERY_SECOND, tuple((0, dx) for dx in _OFFSETS), _EVERYWHERE, _EVERYWHERE)
"""Cells that an event may change, about its place, by kind from 1."""
_RIPENED = {**RIPENS, Thing.COMMONS_BARE: Thing.COMMONS_RIPE}
_SAPLING_KEY, _RAIN_KEY = 3 << 20, 4 << 20


class EventfulMap(LiveMap):
    """A map that can be befallen."""

    def _befall(self, kind: int, y: int, x: int) -> None:
        """Execute one event. Raises `ValueError` for a kind that there is none of."""
        if not 1 <= kind <= len(EVENTS):
            raise ValueError(f"homestead: there is no event of kind {kind}, expected 1 to {len(EVENTS)}")
        height, width = self.config.height, self.config.width
        if not (0 <= y < height and 0 <= x < width):
            return
        fall = (self._rain, self._raise_stone, self._ripen, self._clear)[kind - 1]
        for dy, dx in WHERE[kind - 1]:
            row, col = y + dy, x + dx
            if 0 <= row < height and 0 <= col < width and not self.occupant[row * width + col]:
                fall(row * width + col)

    def _rain(self, cell: int) -> None:
        state = self.state
        if self._is_bare_grass(cell) and unit(draw(state.seed, state.tick, _RAIN_KEY + cell)) < RAIN_CHANCE:
            self._sow(cell, BY_CHANCE)

    def _raise_stone(self, cell: int) -> None:
        if self._is_bare(cell):
            self.state.ledger.stones += 1
            self._cover(cell, Thing.STONE, BY_EVENT)

    def _ripen(self, cell: int) -> None:
        thing = self.thing_at[cell]
        if thing in _RIPENED:
            self._put(cell, _RIPENED[Thing(thing)], BY_EVENT)

    def _clear(self, cell: int) -> None:
        thing = self.thing_at[cell]
        if thing in CLEARED:
            self.state.ledger.stones -= thing == Thing.STONE
            self._put(cell, Thing.NONE, BY_EVENT)

    def _is_bare_grass(self, cell: int) -> bool:
        return self._is_bare(cell) and self.ground_at[cell] & 15 == Terrain.GRASS

    def _sow(self, cell: int, cause: int) -> None:
        self._cover(cell, Thing.SAPLING, cause)
        bits = draw(self.state.seed, self.state.tick, _SAPLING_KEY + cell)
        self._wait(cell, self.state.tick + 1 + geometric(bits, self.config.sapling_rate))
