"""The one interface of memory: what is written at a place and a tick is retrieved by place, within a budget of bits.

Whatever implements it reaches the model as slots alone. A memory holds no clock and no identity of its world: the
world keeps those, and tells the tick by `update`.

Axes: k retrieved.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from world.errors import CorruptRecord

Item = NDArray[Any]
"""What is remembered, as each memory says: a token, a vector of evidence, a record of small numbers."""


class Spot(NamedTuple):
    """Where something belongs: a cell (y, x) of a layer of the field. `SCREEN` cell (a, 0) is agent a's own."""

    layer: int
    y: int
    x: int


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """What is retrieved."""

    item: Item
    place: Spot
    tick: int
    """At which it was written; where a memory blends what was written, the present one."""


class Memory(Protocol):
    """One world's memory."""

    def write(self, item: Item, place: Spot, tick: int) -> None:
        """Remember an item."""

    def retrieve(self, query: Spot, k: int) -> list[Trace]:
        """Return at most k traces that bear on a place, the most fitting first; none where nothing is known."""

    def update(self, tick: int) -> None:
        """Tell that it is this tick now: ages are counted from it."""

    def forget(self, budget: int) -> None:
        """Give up what is worth least until `bits()` is at most `budget`, or nothing is left."""

    def state(self) -> bytes:
        """Return all that is kept, in canonical form: equal memories have equal bytes."""

    def load(self, state: bytes) -> None:
        """Become what was saved, byte for byte. Raises `CorruptRecord`, and changes nothing, if it does not fit."""

    def bits(self) -> int:
        """Return the size of `state()`: indices and ages are counted."""


def packed(arrays: dict[str, NDArray[Any]]) -> bytes:
    """Return arrays by name as bytes; to be read by `unpacked`."""
    return msgspec.msgpack.encode(
        [
            [name, array.dtype.str, list(array.shape), np.ascontiguousarray(array).tobytes()]
            for name, array in arrays.items()
        ]
    )


def unpacked(state: bytes) -> dict[str, NDArray[Any]]:
    """Return the arrays of `packed`. Raises `CorruptRecord` for other bytes."""
    try:
        rows = msgspec.msgpack.decode(state, type=list[tuple[str, str, tuple[int, ...], bytes]])
        return {name: np.frombuffer(content, _dtype(kind)).reshape(shape).copy() for name, kind, shape, content in rows}
    except (msgspec.DecodeError, ValueError) as error:
        raise CorruptRecord(f"memory: the state cannot be read ({error})") from error


def _dtype(name: str) -> np.dtype[Any]:
    if name not in ("|u1", "<u2", "<i4", "<f2"):
        raise ValueError(f"an array of type {name!r}")
    return np.dtype(name)
