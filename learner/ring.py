"""Columnar storage of a replay shard: every column one preallocated array of slots, one chunk to a slot.

Axes: N slots, T ticks of a slot, B sequences, L ticks of a sequence, … a column's own axes (`world.trajectory`).
"""

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from world.errors import ConfigError, ReplayError
from world.event import MAX_EVENTS
from world.field import IntpArray
from world.trajectory import Transitions

Columns = dict[str, NDArray[np.generic]]
Layout = dict[str, tuple[tuple[int, ...], np.dtype[np.generic]]]

INDEX_BYTES = 64
"""Accounted for each slot beside its columns: what `ChunkIndex` keeps of it."""


def row_layout(transitions: Transitions) -> Layout:
    """Return the shape and type of one row of every column, checked against each other and the contract.

    Raises `ReplayError` naming the column.
    """
    if transitions.tokens.ndim != 5 or transitions.status.ndim != 3 or transitions.memory.ndim != 3:
        raise ReplayError("chunk: tokens must be (T, A, H, W, K), status (T, A, S), memory (T, A, D)")
    num_ticks, agents, height, width, depth = transitions.tokens.shape
    status, memory = transitions.status.shape[2], transitions.memory.shape[2]
    wanted: dict[str, tuple[tuple[int, ...], type[np.generic]]] = {
        "tokens": ((agents, height, width, depth), np.uint16),
        "ages": ((agents, height, width, depth + 1), np.uint8),
        "status": ((agents, status), np.uint16),
        "poses": ((agents, 2), np.int32),
        "turns": ((agents,), np.uint8),
        "memory": ((agents, memory), np.float16),
        "events": ((MAX_EVENTS, 3), np.int32),
        "actions": ((agents,), np.int32),
        "rewards": ((agents,), np.float32),
        "terminated": ((agents,), np.bool_),
        "truncated": ((agents,), np.bool_),
        "displacement": ((agents,), np.uint8),
        "next_tokens": ((agents, height, width), np.uint16),
        "next_status": ((agents, status), np.uint16),
        "by_chance": ((agents, height, width), np.bool_),
        "is_first": ((), np.bool_),
        "weights_version": ((), np.int32),
    }
    for name, column in transitions.columns().items():
        shape, dtype = wanted[name]
        if column.shape != (num_ticks, *shape) or column.dtype != dtype:
            raise ReplayError(
                f"chunk: {name} should be {np.dtype(dtype)} {(num_ticks, *shape)}, got {column.dtype} {column.shape}"
            )
    return {name: (shape, np.dtype(dtype)) for name, (shape, dtype) in wanted.items()}


class ColumnRing:
    """Slots of `chunk_ticks` rows; as many as the budget holds. The kernel gives the memory as slots are written."""

    def __init__(self, budget_bytes: int, chunk_ticks: int, layout: Layout) -> None:
        """Raises `ConfigError` if the budget does not hold two slots."""
        row_bytes = sum(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize for shape, dtype in layout.values())
        self.layout, self.chunk_ticks = layout, chunk_ticks
        self.slot_bytes = row_bytes * chunk_ticks + INDEX_BYTES
        self.num_slots = budget_bytes // self.slot_bytes
        if self.num_slots < 2:
            raise ConfigError(
                f"replay.budget_bytes must hold two chunks of {self.slot_bytes:,} bytes, got {budget_bytes:,}"
            )
        self._rows: Columns = {
            name: np.zeros((self.num_slots * chunk_ticks, *shape), dtype) for name, (shape, dtype) in layout.items()
        }

    def mark_first(self, slot: int, is_first: bool) -> None:
        """Set `is_first` of a slot's first row."""
        self._rows["is_first"][slot * self.chunk_ticks] = is_first

    def write(self, slot: int, transitions: Transitions) -> None:
        """Copy at most T rows into a slot."""
        first = slot * self.chunk_ticks
        for name, column in transitions.columns().items():
            self._rows[name][first : first + len(column)] = column

    def gather(self, slots: IntpArray, starts: IntpArray, length: int, names: Collection[str] | None = None) -> Columns:
        """Return copies (B, L, …), of all columns or some, of `length` rows of slots (B,) from row `starts` (B,) on."""
        first = slots * self.chunk_ticks + starts
        rows = (first[:, None] + np.arange(length)).ravel()
        return {
            name: column.take(rows, axis=0).reshape(len(slots), length, *column.shape[1:])
            for name, column in self._rows.items()
            if names is None or name in names
        }
