"""The token field, seen as a memory: what a cell was, and since when.

Axes: K tokens a cell remembers, k retrieved.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from world.errors import CorruptRecord
from world.field import SCREEN, UNSEEN, Field, Layer, Place
from world.model.memory.interface import Item, Spot, Trace, packed, unpacked


class FieldMemory:
    """Writes and reads the field that it is given; it keeps nothing beside it. Items are tokens, arrays of shape ()."""

    def __init__(self, field: Field) -> None:
        self.field = field

    def write(self, item: Item, place: Spot, tick: int) -> None:
        """Note that somebody saw this token in this cell; one that was there already stays as old as it is."""
        layer, cell = self.field.layers[place.layer], _cell(place)
        if layer.current(*cell)[0] != item:
            layer.push(cell, np.array([item], np.uint16), tick)
        layer.mark_seen(*cell, tick)

    def retrieve(self, query: Spot, k: int) -> list[Trace]:
        """Return the last tokens of a cell, newest first, of which it remembers K."""
        tokens, set_at, _ = self.field.layers[query.layer].read(*_cell(query))
        known = [(token, int(at)) for token, at in zip(tokens[0], set_at[0], strict=True) if token != UNSEEN]
        return [Trace(np.array(token, np.uint16), query, at) for token, at in known[:k]]

    def update(self, tick: int) -> None:
        """Nothing: cells keep the ticks at which they were set and seen."""

    def forget(self, budget: int) -> None:
        """Give up chunks of 16×16 cells, those first that nobody has looked at for longest."""
        while self.bits() > budget:
            last_seen = [
                (int(seen.max()), index, chunk)
                for index, layer in enumerate(self.field.layers)
                for chunk, seen in enumerate(layer.arrays()["seen_at"])
            ]
            if not last_seen:
                return
            _, index, chunk = min(last_seen)
            kept = {name: np.delete(array, chunk, axis=0) for name, array in self.field.layers[index].arrays().items()}
            self._replace(index, Layer.from_arrays(kept))

    def state(self) -> bytes:
        """Return the chunks of both layers in canonical order."""
        return packed(
            {
                f"{index}.{name}": _little(array)
                for index, layer in enumerate(self.field.layers)
                for name, array in layer.arrays().items()
            }
        )

    def load(self, state: bytes) -> None:
        """Become what was saved. Raises `CorruptRecord`."""
        arrays = unpacked(state)
        names = ("coordinates", "tokens", "set_at", "seen_at")
        if set(arrays) != {f"{index}.{name}" for index in range(len(self.field.layers)) for name in names}:
            raise CorruptRecord(f"memory: expected the arrays of a field, got {sorted(arrays)}")
        layers = [
            Layer.from_arrays({name: arrays[f"{index}.{name}"] for name in names})
            for index in range(len(self.field.layers))
        ]
        for index, layer in enumerate(layers):
            self._replace(index, layer)

    def bits(self) -> int:
        """Return the size of `state()`."""
        return 8 * len(self.state())

    def _replace(self, index: int, layer: Layer) -> None:
        layers = list(self.field.layers)
        layers[index] = layer
        self.field.layers = (layers[0], layers[SCREEN])


def _cell(place: Spot) -> Place:
    return Place(np.array([place.y], np.int32), np.array([place.x], np.int32))


def _little(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(array.dtype.newbyteorder("<"))
