"""Trajectories: consecutive ticks of one world as contiguous columns of tokens, the unit that replay stores.

Axes: T ticks, A agents, H × W cells of a window, K tokens a cell remembers, S status cells, D memory,
E event slots.
"""

from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray

from world.envs.grounded import BoolArray, Float32Array, Int32Array, TurnOrder, Uint8Array
from world.errors import ReplayError
from world.field import Uint16Array
from world.snapshot import Float16Array, WorldId

STAY = 4
"""Displacement class of an agent that did not move."""
ELSEWHERE = 9
"""Displacement class of an agent that moved farther than one cell, or left."""
NUM_DISPLACEMENTS = 10


@dataclass(frozen=True, slots=True)
class Transitions:
    """Columns over ticks. Row t holds what was known before a joint action, the action, and what it led to."""

    tokens: Uint16Array
    """(T, A, H, W, K)"""
    ages: Uint8Array
    """(T, A, H, W, K + 1)"""
    status: Uint16Array
    """(T, A, S)"""
    poses: Int32Array
    """(T, A, 2)"""
    turns: Uint8Array
    """(T, A) each agent's place in the order in which actions that conflict are resolved."""
    memory: Float16Array
    """(T, A, D) before the tick."""
    events: Int32Array
    """(T, E, 3) world events that befell the tick: kind, y, x; kind 0 is an empty slot."""
    actions: Int32Array
    """(T, A)"""
    rewards: Float32Array
    """(T, A) that followed the action."""
    terminated: BoolArray
    """(T, A)"""
    truncated: BoolArray
    """(T, A)"""
    displacement: Uint8Array
    """(T, A) class: 3·(dy + 1) + dx + 1, or ELSEWHERE."""
    next_tokens: Uint16Array
    """(T, A, H, W) tokens seen after the tick in the same cells; UNSEEN where nobody looked."""
    next_status: Uint16Array
    """(T, A, S)"""
    by_chance: BoolArray
    """(T, A, H, W) cells whose change nobody can predict; left out of scores, not of training."""
    is_first: BoolArray
    """(T,) no row of the same episode precedes this one."""
    weights_version: Int32Array
    """(T,)"""

    def __len__(self) -> int:
        return len(self.is_first)

    @property
    def num_agents(self) -> int:
        """A."""
        return int(self.actions.shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes of all columns."""
        return sum(column.nbytes for column in self.columns().values())

    def columns(self) -> dict[str, NDArray[np.generic]]:
        """Return the columns by name, in declared order."""
        return {column.name: getattr(self, column.name) for column in fields(self)}

    @classmethod
    def from_columns(cls, columns: dict[str, NDArray[np.generic]]) -> Self:
        """Rebuild from `columns()`. Raises `ReplayError` for a missing or unknown column, or unequal lengths."""
        names = {column.name for column in fields(cls)}
        if set(columns) != names:
            raise ReplayError(f"transitions: columns {sorted(set(columns) ^ names)} are missing or unknown")
        if len({len(column) for column in columns.values()}) > 1:
            raise ReplayError("transitions: columns are of unequal length")
        return cls(**columns)  # type: ignore[arg-type]

    @classmethod
    def stack(cls, rows: "list[Transitions]") -> Self:
        """Concatenate along ticks."""
        return cls(*(np.concatenate(column) for column in zip(*(r.columns().values() for r in rows), strict=True)))

    def __getitem__(self, ticks: slice) -> "Transitions":
        return Transitions(*(column[ticks] for column in self.columns().values()))  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """Consecutive transitions of one world under one owner. Duplicates are known by (world, epoch, first_tick)."""

    world: WorldId
    epoch: int
    first_tick: int
    """World tick before the first row."""
    transitions: Transitions

    @property
    def num_items(self) -> int:
        """Agent-ticks: what the limiter counts."""
        return len(self.transitions) * self.transitions.num_agents


class ChunkBuilder:
    """Collects single rows of one world into chunks of `length` ticks."""

    def __init__(self, world: WorldId, epoch: int, length: int) -> None:
        self._world, self._epoch, self._length = world, epoch, length
        self._first_tick = 0
        self._rows: list[Transitions] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, tick: int, row: Transitions) -> Chunk | None:
        """Add the row that leads from `tick`; return a chunk when full, or when a tick was skipped."""
        done = None
        if self._rows and tick != self._first_tick + len(self._rows):
            done = self.flush()
        if not self._rows:
            self._first_tick = tick
        self._rows.append(row)
        return done or (self.flush() if len(self._rows) == self._length else None)

    def flush(self) -> Chunk | None:
        """Return what was collected so far, or None."""
        if not self._rows:
            return None
        chunk = Chunk(
            world=self._world,
            epoch=self._epoch,
            first_tick=self._first_tick,
            transitions=Transitions.stack(self._rows),
        )
        self._rows = []
        return chunk


def turns_at(tick: int, num_agents: int, order: TurnOrder) -> Uint8Array:
    """Return each agent's place (A,) in the order of acting in the tick that follows world tick `tick`.

    World tick 1 is a reset, so the first action, with agent 0 first, follows it; the last of one tick is first in the
    next.
    """
    shift = tick - 1 if order == "rotating" else 0
    return ((np.arange(num_agents) + shift) % num_agents).astype(np.uint8)


def displacement_class(before: Int32Array, after: Int32Array) -> Uint8Array:
    """Return the displacement classes (…,) of poses (…, 2)."""
    moved = after - before
    near = (np.abs(moved) <= 1).all(axis=-1)
    classes: Uint8Array = np.where(near, 3 * (moved[..., 0] + 1) + moved[..., 1] + 1, ELSEWHERE).astype(np.uint8)
    return classes


def displacement_of(classes: Uint8Array) -> Int32Array:
    """Return the displacement (…, 2) of classes (…,); ELSEWHERE does not move."""
    known = np.where(classes == ELSEWHERE, 4, classes).astype(np.int32)
    return np.stack([known // 3 - 1, known % 3 - 1], axis=-1).astype(np.int32)
