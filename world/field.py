"""The token field: a world's latent state as sparse layers of cells that remember their last few tokens.

Axes: A agents, H × W cells of a window, R × C cells of a view, K tokens a cell remembers, n cells.

Two layers: `map` is shared by all agents and addressed in world coordinates; `screen` holds, in bands of rows
one below the other, what belongs to one agent alone (its status, or all it sees where there are no poses).
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from world.envs.grounded import BoolArray, Int32Array, Uint8Array, ViewLayout, gone
from world.errors import CorruptRecord

Uint16Array = NDArray[np.uint16]
IntpArray = NDArray[np.intp]

UNSEEN = 0
"""The token of a cell that nobody has looked at."""
DEPTH = 4
"""K: how many tokens a cell remembers."""
NEVER = -1
"""The tick at which an unseen cell was seen."""

_CHUNK = 16
_CHUNK_CELLS = _CHUNK * _CHUNK


class Place(NamedTuple):
    """A set of cells of one layer: rows and columns (n,)."""

    y: Int32Array
    x: Int32Array


def numbered(y: Int32Array, x: Int32Array) -> NDArray[np.int64]:
    """Return a number for each place (…), equal for equal ones, by which places are told apart."""
    numbers: NDArray[np.int64] = (y.astype(np.int64) << 32) + x
    return numbers


class Layer:
    """A sparse grid of cells in chunks of 16×16, allocated as they are first set.

    Chunk 0 of every pool stands for all that is unallocated, so reads need no branch; it is never written.
    """

    def __init__(self) -> None:
        self._tokens = np.zeros((1, _CHUNK_CELLS, DEPTH), np.uint16)
        self._set_at = np.full((1, _CHUNK_CELLS, DEPTH), NEVER, np.int32)
        self._seen_at = np.full((1, _CHUNK_CELLS), NEVER, np.int32)
        self._coordinates: list[tuple[int, int]] = [(0, 0)]
        self._origin = np.zeros(2, np.int64)
        self._directory = np.zeros((1, 1), np.int32)

    @property
    def num_chunks(self) -> int:
        """Chunks allocated."""
        return len(self._coordinates) - 1

    def read(self, y: Int32Array, x: Int32Array) -> tuple[Uint16Array, Int32Array, Int32Array]:
        """Return tokens (…, K), the ticks they were set at (…, K) and the tick last seen (…) of cells (…)."""
        flat = self._locate(y, x)
        return (
            self._tokens.reshape(-1, DEPTH)[flat],
            self._set_at.reshape(-1, DEPTH)[flat],
            self._seen_at.reshape(-1)[flat],
        )

    def current(self, y: Int32Array, x: Int32Array) -> Uint16Array:
        """Return the newest token of cells (…)."""
        newest: Uint16Array = self._tokens.reshape(-1, DEPTH)[self._locate(y, x), 0]
        return newest

    def push(self, place: Place, tokens: Uint16Array, tick: int) -> None:
        """Set new tokens (n,) at distinct cells, each pushing the older ones down."""
        if not len(place.y):
            return
        self._allocate(place)
        flat = self._locate(*place)
        cells, ticks = self._tokens.reshape(-1, DEPTH), self._set_at.reshape(-1, DEPTH)
        cells[flat, 1:], ticks[flat, 1:] = cells[flat, :-1], ticks[flat, :-1]
        cells[flat, 0], ticks[flat, 0] = tokens, tick

    def mark_seen(self, y: Int32Array, x: Int32Array, tick: int) -> None:
        """Note that somebody looked at these cells; ones that were never set stay unseen."""
        flat = self._locate(y, x)
        self._seen_at.reshape(-1)[flat[flat >= _CHUNK_CELLS]] = tick

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return the content in canonical order: coordinates (N, 2), tokens, set_at (N, 256, K), seen_at (N, 256)."""
        order = sorted(range(1, len(self._coordinates)), key=self._coordinates.__getitem__)
        coordinates = np.array([self._coordinates[i] for i in order], np.int32).reshape(-1, 2)
        return {
            "coordinates": coordinates,
            "tokens": self._tokens[order],
            "set_at": self._set_at[order],
            "seen_at": self._seen_at[order],
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> "Layer":
        """Rebuild a layer from `arrays()`. Raises `CorruptRecord` where shapes or dtypes do not fit."""
        try:
            coordinates, tokens = arrays["coordinates"], arrays["tokens"]
            set_at, seen_at = arrays["set_at"], arrays["seen_at"]
        except KeyError as missing:
            raise CorruptRecord(f"field layer: array {missing} is missing") from None
        num = len(coordinates)
        wanted = {
            "coordinates": (coordinates, (num, 2), np.int32),
            "tokens": (tokens, (num, _CHUNK_CELLS, DEPTH), np.uint16),
            "set_at": (set_at, (num, _CHUNK_CELLS, DEPTH), np.int32),
            "seen_at": (seen_at, (num, _CHUNK_CELLS), np.int32),
        }
        for name, (array, shape, dtype) in wanted.items():
            if array.shape != shape or array.dtype != dtype:
                raise CorruptRecord(
                    f"field layer: {name} should be {np.dtype(dtype)} {shape}, got {array.dtype} {array.shape}"
                )
        layer = cls()
        layer._tokens = np.concatenate([layer._tokens, tokens.astype(np.uint16)])
        layer._set_at = np.concatenate([layer._set_at, set_at.astype(np.int32)])
        layer._seen_at = np.concatenate([layer._seen_at, seen_at.astype(np.int32)])
        layer._coordinates += [(int(cy), int(cx)) for cy, cx in coordinates.astype(np.int64)]
        if num:
            layer._rebuild_directory()
        return layer

    def _locate(self, y: Int32Array, x: Int32Array) -> IntpArray:
        """Return flat indices into the pools; cells without a chunk fall into chunk 0."""
        cy, cx = (y >> 4) - self._origin[0], (x >> 4) - self._origin[1]
        rows, cols = self._directory.shape
        inside = (cy >= 0) & (cy < rows) & (cx >= 0) & (cx < cols)
        slot = np.where(inside, self._directory[cy.clip(0, rows - 1), cx.clip(0, cols - 1)], 0)
        flat: IntpArray = (slot.astype(np.intp) << 8) + ((y & 15) << 4) + (x & 15)
        return flat

    def _allocate(self, place: Place) -> None:
        lacking = self._locate(*place) < _CHUNK_CELLS
        if not lacking.any():
            return
        new = sorted(set(zip((place.y[lacking] >> 4).tolist(), (place.x[lacking] >> 4).tolist(), strict=True)))
        self._tokens = np.concatenate([self._tokens, np.repeat(self._tokens[:1], len(new), axis=0)])
        self._set_at = np.concatenate([self._set_at, np.repeat(self._set_at[:1], len(new), axis=0)])
        self._seen_at = np.concatenate([self._seen_at, np.repeat(self._seen_at[:1], len(new), axis=0)])
        self._coordinates += new
        self._rebuild_directory()

    def _rebuild_directory(self) -> None:
        coordinates = np.array(self._coordinates[1:], np.int64)
        self._origin = coordinates.min(axis=0)
        rows, cols = coordinates.max(axis=0) - self._origin + 1
        self._directory = np.zeros((int(rows), int(cols)), np.int32)
        relative = coordinates - self._origin
        self._directory[relative[:, 0], relative[:, 1]] = np.arange(1, len(self._coordinates))


MAP, SCREEN = 0, 1
"""Indices of the layers, as they are logged."""


@dataclass(frozen=True, slots=True)
class Changes:
    """Cells whose token changed at one tick: layer (n,) uint8, y, x (n,) int32, token (n,) uint16."""

    layer: Uint8Array
    y: Int32Array
    x: Int32Array
    token: Uint16Array


@dataclass(frozen=True, slots=True)
class Windows:
    """What the model is told of the cells around each agent."""

    tokens: Uint16Array
    """(A, H, W, K) newest first."""
    ages: Uint8Array
    """(A, H, W, K + 1) buckets: since each token was set, and since the cell was last seen."""
    status: Uint16Array
    """(A, S) the agent's own status cells."""


class Field:
    """The cells of one world, and where agents look."""

    def __init__(self, layout: ViewLayout, num_agents: int) -> None:
        self.layout = layout
        self.num_agents = num_agents
        self.layers = (Layer(), Layer())

    def observe(self, poses: Int32Array, views: Uint16Array, tick: int) -> Changes:
        """Write what agents at `poses` (A, 2) see, views (A, R, C), and return what differed from before.

        Agents that have left see nothing.
        """
        layout, here = self.layout, ~gone(poses)
        parts: list[tuple[int, Place, Uint16Array]] = []
        if layout.map_rows:
            y, x = self._view_cells(poses[here])
            parts.append((MAP, Place(y.ravel(), x.ravel()), views[here, : layout.map_rows].ravel()))
        if layout.rows > layout.map_rows:
            y, x = self._screen_cells()
            parts.append((SCREEN, Place(y[here].ravel(), x[here].ravel()), views[here, layout.map_rows :].ravel()))
        found = [self._differing(layer, place, tokens) for layer, place, tokens in parts]
        changes = Changes(*(np.concatenate(columns) for columns in zip(*found, strict=True)))
        self.settle(changes, poses, tick)
        return changes

    def settle(self, changes: Changes, poses: Int32Array, tick: int) -> None:
        """Apply logged changes and mark as seen what agents at `poses` look at. Exact: `observe` ends here too."""
        for index, layer in enumerate(self.layers):
            of_layer = changes.layer == index
            layer.push(Place(changes.y[of_layer], changes.x[of_layer]), changes.token[of_layer], tick)
        here = ~gone(poses)
        if self.layout.map_rows:
            self.layers[MAP].mark_seen(*self._view_cells(poses[here]), tick)
        y, x = self._screen_cells()
        self.layers[SCREEN].mark_seen(y[here], x[here], tick)

    def windows(self, poses: Int32Array, tick: int, margin: int) -> Windows:
        """Return what is known at `tick` of the cells around agents at `poses` (A, 2)."""
        layer, y, x = self.window_cells(poses, margin)
        tokens, set_at, seen_at = self.layers[layer].read(y, x)
        ages = age_buckets(np.concatenate([set_at, seen_at[..., None]], axis=-1), tick)
        return Windows(tokens, ages, self.status())

    def window_cells(self, poses: Int32Array, margin: int) -> tuple[int, Int32Array, Int32Array]:
        """Return the layer and the cells y, x (A, H, W) of the agents' windows."""
        if not self.layout.map_rows:
            return SCREEN, *self._screen_cells()
        return MAP, *self._view_cells(poses, margin)

    def observed_at(self, tick: int, poses: Int32Array, margin: int) -> Uint16Array:
        """Return the tokens (A, H, W) of the windows around `poses` that were seen at `tick`, others UNSEEN."""
        layer, y, x = self.window_cells(poses, margin)
        tokens, _, seen_at = self.layers[layer].read(y, x)
        return np.where(seen_at == tick, tokens[..., 0], np.uint16(UNSEEN))

    def views(self, poses: Int32Array) -> Uint16Array:
        """Return what agents at `poses` (A, 2) have before them as the field remembers it: tokens (A, R, C)."""
        parts = []
        if self.layout.map_rows:
            parts.append(self.layers[MAP].current(*self._view_cells(poses)))
        if self.layout.rows > self.layout.map_rows:
            parts.append(self.layers[SCREEN].current(*self._screen_cells()))
        return np.concatenate(parts, axis=1)

    def extent(self) -> tuple[int, Int32Array, Int32Array]:
        """Return the layer that shows this world best, and the cells y, x (rows, cols) of all its chunks."""
        if not self.layout.map_rows:
            y, x = self._screen_cells()
            return SCREEN, y.reshape(-1, self.layout.cols), x.reshape(-1, self.layout.cols)
        coordinates = self.layers[MAP].arrays()["coordinates"].astype(np.int32)
        if not len(coordinates):
            coordinates = np.zeros((1, 2), np.int32)
        (top, left), (bottom, right) = coordinates.min(axis=0) * _CHUNK, (coordinates.max(axis=0) + 1) * _CHUNK
        y, x = np.meshgrid(np.arange(top, bottom), np.arange(left, right), indexing="ij")
        return MAP, y.astype(np.int32), x.astype(np.int32)

    def status(self) -> Uint16Array:
        """Return the newest tokens (A, S) of the agents' status cells."""
        if not self.layout.status_cells:
            return np.zeros((self.num_agents, 0), np.uint16)
        return self.layers[SCREEN].current(*self._screen_cells()).reshape(self.num_agents, -1)

    def copy(self) -> "Field":
        """Return an equal field that shares nothing with this one."""
        twin = Field(self.layout, self.num_agents)
        twin.layers = (Layer.from_arrays(self.layers[MAP].arrays()), Layer.from_arrays(self.layers[SCREEN].arrays()))
        return twin

    def digest(self) -> bytes:
        """Return a 16-byte digest of every cell, equal exactly where fields are equal."""
        hasher = hashlib.blake2b(digest_size=16)
        for layer in self.layers:
            for array in layer.arrays().values():
                hasher.update(np.ascontiguousarray(array).data)
        return hasher.digest()

    def _differing(
        self, layer: int, place: Place, tokens: Uint16Array
    ) -> tuple[Uint8Array, Int32Array, Int32Array, Uint16Array]:
        differs = np.flatnonzero(self.layers[layer].current(*place) != tokens)
        y, x = place.y[differs], place.x[differs]
        # Overlapping views name a cell several times; it changes once.
        _, first = np.unique(numbered(y, x), return_index=True)
        return np.full(len(first), layer, np.uint8), y[first], x[first], tokens[differs][first]

    def _view_cells(self, poses: Int32Array, margin: int = 0) -> tuple[Int32Array, Int32Array]:
        rows, cols = self.layout.map_rows, self.layout.cols
        dy = np.arange(-(rows // 2) - margin, rows - rows // 2 + margin, dtype=np.int32)
        dx = np.arange(-(cols // 2) - margin, cols - cols // 2 + margin, dtype=np.int32)
        y, x = np.broadcast_arrays(poses[:, 0, None, None] + dy[:, None], poses[:, 1, None, None] + dx)
        return y, x

    def _screen_cells(self) -> tuple[Int32Array, Int32Array]:
        rows, cols = self.layout.rows - self.layout.map_rows, self.layout.cols
        y, x = np.indices((self.num_agents * rows, cols), dtype=np.int32)
        return y.reshape(self.num_agents, rows, cols), x.reshape(self.num_agents, rows, cols)


def _first_ages(*, exact: int, in_a_doubling: int) -> IntpArray:
    """Return the first age of each bucket: all up to `exact`, then so many for each doubling, up to 4,096."""
    ages = list(range(exact + 1))
    while ages[-1] < 4096:
        octave = 1 << (ages[-1].bit_length() - 1)
        ages.append(ages[-1] + max(octave // in_a_doubling, 1))
    return np.array(ages, np.intp)


_FIRST_AGES = _first_ages(exact=208, in_a_doubling=8)
_BUCKETS = np.searchsorted(_FIRST_AGES, np.arange(_FIRST_AGES[-1] + 1), side="right").astype(np.uint8)
NUM_AGE_BUCKETS = len(_FIRST_AGES) + 1
"""Bucket 0 is "never"; then one for each of 0 … 208 ticks, then eight for each doubling up to 4,096: as many as a byte
tells apart. What ripens so many ticks after it was picked ripens at one age."""

_BROAD_AGES = _first_ages(exact=7, in_a_doubling=4)
BROAD_BUCKETS = np.concatenate([[0], np.searchsorted(_BROAD_AGES, _FIRST_AGES, side="right")])
"""(NUM_AGE_BUCKETS,) the one of few buckets, four for each doubling, in which each lies."""
NUM_BROAD_BUCKETS = len(_BROAD_AGES) + 1


NOW = int(_BUCKETS[0])
"""The bucket of what is seen, or set, at this very tick."""


def age_buckets(set_at: Int32Array, tick: int) -> Uint8Array:
    """Return log-bucketed ages of ticks `set_at` (…) at `tick`; 0 where it was never set."""
    ages: BoolArray = set_at >= 0
    buckets: Uint8Array = np.where(ages, _BUCKETS[(tick - set_at).clip(0, len(_BUCKETS) - 1)], np.uint8(0))
    return buckets
