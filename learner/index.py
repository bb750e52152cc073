"""What is known of the chunks in a shard's slots: whose they are, in which order, and which rows still count.

Axes: N slots. Ticks are half-open ranges [first, end).
"""

import math
from bisect import bisect_left
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from world.envs.grounded import BoolArray
from world.field import IntpArray
from world.snapshot import WorldId
from world.trajectory import Chunk

Float64Array = NDArray[np.float64]
Int64Array = NDArray[np.int64]
Ticks = tuple[int, int]


class Fresh(NamedTuple):
    """Which of a chunk's ticks are not held yet, and why the others are not wanted."""

    ranges: list[Ticks]
    num_duplicates: int
    num_superseded: int


class Placed(NamedTuple):
    """Where a chunk went, and how many ticks that cost."""

    slot: int
    num_superseded: int
    num_evicted: int


class _World:
    """The chunks of one world that are held, and where each of its owners began."""

    __slots__ = ("slots", "starts")

    def __init__(self) -> None:
        self.slots: list[int] = []
        """In order of ticks."""
        self.starts: dict[int, int] = {}
        """Epoch → its first tick. One that began at or after a newer one's is left out: it decides nothing."""

    def end_of(self, epoch: int) -> float:
        """Return the tick from which on newer epochs have the word."""
        return min((start for other, start in self.starts.items() if other > epoch), default=math.inf)

    def begin(self, epoch: int, first: int) -> None:
        """Note that an epoch has rows from this tick on."""
        self.starts[epoch] = min(first, self.starts.get(epoch, first))
        self.starts = {other: start for other, start in self.starts.items() if start < self.end_of(other)}


class ChunkIndex:
    """Slots in a ring, oldest overwritten first. A slot of length 0 holds nothing."""

    def __init__(self, num_slots: int) -> None:
        self.lengths, self.first_ticks, self.epochs, self.generations = np.zeros((4, num_slots), np.int64)
        self.inserted_at, self.weights = np.zeros((2, num_slots), np.float64)
        """`weights`: priorities to the power of their exponent."""
        self.worlds: list[WorldId] = [WorldId("")] * num_slots
        self._truly_first = np.zeros(num_slots, np.bool_)
        self._by_world: dict[WorldId, _World] = {}
        self._head, self._next_generation, self._greatest_weight = 0, 1, 1.0

    @property
    def num_worlds(self) -> int:
        """Distinct worlds held."""
        return len(self._by_world)

    def fresh(self, chunk: Chunk) -> Fresh:
        """Say which ticks of a chunk to take: not those its epoch has here, nor those a newer epoch has the word on."""
        world = self._by_world.get(chunk.world) or _World()
        first, end = chunk.first_tick, chunk.first_tick + len(chunk.transitions)
        last = int(min(end, max(world.end_of(chunk.epoch), first)))
        near = world.slots[max(self._position(world, first) - 1, 0) : self._position(world, end)]
        held = [self.span(slot) for slot in near if self.epochs[slot] == chunk.epoch]
        ranges = _subtract((first, last), held)
        num_fresh = sum(range_end - range_first for range_first, range_end in ranges)
        return Fresh(ranges, last - first - num_fresh, end - last)

    def put(self, chunk: Chunk, weight: float | None, inserted_at: float) -> Placed:
        """Give a chunk of fresh ticks the oldest slot, and cut what older epochs hold from its first tick on."""
        slot = self._head
        self._head = (slot + 1) % len(self.lengths)
        num_evicted = self._evict(slot)
        world = self._by_world.setdefault(chunk.world, _World())
        world.begin(chunk.epoch, chunk.first_tick)
        num_superseded = self._cut(world, chunk)
        self.lengths[slot], self.first_ticks[slot] = len(chunk.transitions), chunk.first_tick
        self.epochs[slot], self.generations[slot] = chunk.epoch, self._next_generation
        self.inserted_at[slot], self.worlds[slot] = inserted_at, chunk.world
        # A chunk nobody has learned from yet goes before all others (Schaul et al. 2016, algorithm 1).
        self.weights[slot] = weight or self._greatest_weight
        self._greatest_weight = max(self._greatest_weight, float(self.weights[slot]))
        self._truly_first[slot] = chunk.transitions.is_first[0]
        self._next_generation += 1
        world.slots.insert(self._position(world, chunk.first_tick), slot)
        return Placed(slot, num_superseded, num_evicted)

    def reweigh(self, slots: IntpArray, generations: Int64Array, weights: Float64Array) -> int:
        """Set weights (B,) of slots that still are of these generations; return how many those are."""
        known = (slots >= 0) & (slots < len(self.lengths))
        same = np.zeros(len(slots), np.bool_)
        same[known] = self.generations[slots[known]] == generations[known]
        self.weights[slots[same]] = weights[same]
        self._greatest_weight = max(self._greatest_weight, float(weights[same].max(initial=0.0)))
        return int(same.sum())

    def is_first(self, slot: int) -> bool:
        """Whether a slot's first row begins an episode, or comes after a gap behind the world's chunk before it."""
        world = self._by_world[self.worlds[slot]]
        slots, position = world.slots, self._position(world, int(self.first_ticks[slot]))
        gap = position > 0 and self.span(slots[position - 1])[1] != self.first_ticks[slot]
        return gap or bool(self._truly_first[slot])

    def slot_after(self, slot: int) -> int | None:
        """Return the slot of the world's next chunk in order of ticks."""
        world = self._by_world[self.worlds[slot]]
        position = self._position(world, int(self.first_ticks[slot])) + 1
        return world.slots[position] if position < len(world.slots) else None

    def span(self, slot: int) -> Ticks:
        """Return the ticks that a slot holds."""
        first = int(self.first_ticks[slot])
        return first, first + int(self.lengths[slot])

    def num_starts(self, length: int) -> Int64Array:
        """Return (N,) how many sequences of `length` ticks each slot holds."""
        starts: Int64Array = np.maximum(self.lengths - (length - 1), 0)
        return starts

    def newest(self, num_ticks: int) -> BoolArray:
        """Return (N,) whether a slot is among the newest that hold `num_ticks` together."""
        newest_first = (self._head - 1 - np.arange(len(self.lengths))) % len(self.lengths)
        lengths = self.lengths[newest_first]
        among = np.zeros(len(lengths), np.bool_)
        among[newest_first] = np.cumsum(lengths) - lengths < num_ticks
        return among

    def _position(self, world: _World, tick: int) -> int:
        """Return where among a world's slots the first stands that begins at or after a tick; spans never overlap."""
        return bisect_left(world.slots, tick, key=lambda slot: int(self.first_ticks[slot]))

    def _evict(self, slot: int) -> int:
        length = int(self.lengths[slot])
        if length:
            world = self._by_world[self.worlds[slot]]
            del world.slots[self._position(world, int(self.first_ticks[slot]))]
            self.lengths[slot] = 0
            if not world.slots:
                del self._by_world[self.worlds[slot]]
        return length

    def _cut(self, world: _World, chunk: Chunk) -> int:
        num_cut, reached = 0, max(self._position(world, chunk.first_tick) - 1, 0)
        for slot in [slot for slot in world.slots[reached:] if self.epochs[slot] < chunk.epoch]:
            first, end = self.span(slot)
            kept = min(max(chunk.first_tick - first, 0), end - first)
            num_cut += end - first - kept
            self.lengths[slot] = kept
            if not kept:
                world.slots.remove(slot)
        return num_cut


def _subtract(ticks: Ticks, taken: list[Ticks]) -> list[Ticks]:
    """Return what is left of a range without those of `taken`, in order."""
    first, end = ticks
    left = []
    for taken_first, taken_end in sorted(taken):
        if first < min(taken_first, end):
            left.append((first, min(taken_first, end)))
        first = max(first, taken_end)
    if first < end:
        left.append((first, end))
    return left
