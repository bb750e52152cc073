"""Replay shard: a ring of chunks of tokens within a budget of bytes, and its segments on disk.

Knows nothing of Ray. Axes: B sequences, L ticks of a sequence, N slots.
"""

import math
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xxhash

from learner.index import ChunkIndex, Float64Array, Int64Array
from learner.ring import ColumnRing, Columns, row_layout
from learner.segments import ScanReport, SegmentConfig, SegmentLog, Watermark
from world.errors import ConfigError, ReplayError
from world.field import IntpArray
from world.snapshot import WorldId
from world.trajectory import Chunk


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayConfig:
    """What a shard holds, and how sequences are drawn from it."""

    budget_bytes: int = 1 << 30
    """Memory of the ring, allocated as it fills."""
    chunk_ticks: int = 64
    """Longest chunk. Shorter ones take as much room."""
    recent: float = 0.25
    """Share of sequences drawn from the newest `recent_items`."""
    prioritised: float = 0.0
    """Share of sequences drawn by the priorities that whoever inserts or learns gives them; the learners here give
    none, and by equal ones all are drawn alike. The remaining share is drawn uniformly."""
    recent_items: int = 65536
    """Agent-ticks that count as recent."""
    priority_exponent: float = 0.6
    """0 is uniform, 1 proportional (Schaul et al. 2016, eq. 1)."""
    segments: SegmentConfig = field(default_factory=SegmentConfig)
    """Used where the shard has a directory."""

    def __post_init__(self) -> None:
        for name in ("budget_bytes", "chunk_ticks", "recent_items"):
            if getattr(self, name) < 1:
                raise ConfigError(f"replay.{name} must be >= 1, got {getattr(self, name)}")
        for name in ("recent", "prioritised", "priority_exponent"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"replay.{name} must be 0 … 1, got {getattr(self, name)}")
        if self.recent + self.prioritised > 1:
            raise ConfigError(f"replay.recent + replay.prioritised must be <= 1, got {self.recent + self.prioritised}")


class InsertReport(NamedTuple):
    """What became of a chunk, in agent-ticks."""

    inserted: int
    duplicates: int
    """Held already."""
    superseded: int
    """Not taken, or held and given up: a newer owner of the world began before them."""
    evicted: int
    """Overwritten to make room."""


class ShardState(NamedTuple):
    """What a checkpoint keeps of a shard: plain numbers."""

    num_draws: int
    """Calls of `sample` so far, for people alone: a shard that is made anew begins its draws anew. Nobody could promise
    the same ones, for what it holds at each of them depends on who is faster."""
    watermark: Watermark | None
    """The moment of its segments; None in memory only."""


class Places(NamedTuple):
    """Where sequences lie that were drawn, until whoever inserts overwrites them."""

    slots: IntpArray
    """(B,)"""
    rows: IntpArray
    """(B,) in its slot, with which each begins."""
    probabilities: Float64Array
    """(B,) with which the mixture draws each."""

    def after(self, num_ticks: int) -> "Places":
        """Return where they are so many ticks later."""
        return self._replace(rows=self.rows + num_ticks)

    def among(self, kept: IntpArray) -> "Places":
        """Return those of some sequences (b,)."""
        return Places(self.slots[kept], self.rows[kept], self.probabilities[kept])


@dataclass(frozen=True, slots=True)
class SampledSequences:
    """Sequences drawn within chunks. A row with `is_first` may stand inside: nothing flows into it from before."""

    columns: Columns
    """`Transitions` columns, copied: (B, L, …)."""
    worlds: tuple[WorldId, ...]
    first_ticks: Int64Array
    """(B,) world tick before the first row."""
    probabilities: Float64Array
    """(B,) with which the mixture draws this sequence: 1 / (p · number of sequences) weighs it as uniform would."""
    slots: IntpArray
    """(B,) for `update_priorities`."""
    generations: Int64Array
    """(B,) for `update_priorities`: a slot that was overwritten has another."""

    @property
    def num_items(self) -> int:
        """Agent-ticks: what the limiter counts."""
        return int(self.columns["actions"].size)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayStats:
    """Counts since this process began, in agent-ticks unless named otherwise."""

    budget_bytes: int
    num_bytes: int
    """Memory of the slots in use."""
    disk_bytes: int
    items: int
    chunks: int
    worlds: int
    inserts: int
    samples: int
    evictions: int
    duplicates: int
    dropped: int
    """Superseded by a newer owner of their world."""
    restored: int
    """Read back from segments."""
    oldest_age_s: float
    scanned: ScanReport
    """What the segments held, and what of them was lost."""


@dataclass(slots=True)
class _Counts:
    inserts: int = 0
    samples: int = 0
    evictions: int = 0
    duplicates: int = 0
    dropped: int = 0
    restored: int = 0

    def add(self, report: InsertReport) -> None:
        self.inserts += report.inserted
        self.duplicates += report.duplicates
        self.dropped += report.superseded
        self.evictions += report.evicted


class ReplayShard:
    """Chunks of the worlds that hash to this shard. Safe to call from several threads."""

    def __init__(
        self,
        config: ReplayConfig,
        directory: Path | None = None,
        *,
        seed: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Open the shard; with a directory, chunks in its segments are put back, oldest first, up to the budget.

        Raises `ReplayError` if the directory is held by another process, or holds chunks of another environment.
        """
        self._config, self._seed, self._clock = config, seed, clock
        self._mutex = threading.Lock()
        self._num_draws = 0
        self._ring: ColumnRing | None = None
        self._index = ChunkIndex(0)
        self._counts = _Counts()
        self._log: SegmentLog | None = None
        if directory:
            self._log = self._opened(directory)

    def insert(self, chunk: Chunk, priority: float | None = None) -> InsertReport:
        """Hold a chunk; once this returns, the death of this process does not lose it (with a directory).

        Rows of the same epoch that are held already are dropped. Rows of an older epoch at or beyond the first tick
        of a newer one are given up, whenever they come: the store has acknowledged none of them.

        Raises `ReplayError` for a malformed chunk, and `DiskFull`; what is held is then what it was.
        """
        if priority is not None and not (math.isfinite(priority) and priority > 0):
            raise ReplayError(f"world {chunk.world!r}: priority must be finite and > 0, got {priority}")
        with self._mutex:
            report = self._hold(chunk, priority, None)
            self._counts.add(report)
            return report

    def can_sample(self, length: int) -> bool:
        """Whether any chunk holds `length` ticks."""
        with self._mutex:
            return bool((self._index.lengths >= length).any())

    def sample(self, num_sequences: int, length: int) -> SampledSequences:
        """Draw sequences from the mixture, each within one chunk. Raises `ReplayError` if none is long enough."""
        with self._mutex:
            index, places = self._index, self._places(num_sequences, length)
            sampled = SampledSequences(
                columns=self._read(places, length),
                worlds=tuple(index.worlds[slot] for slot in places.slots),
                first_ticks=index.first_ticks[places.slots] + places.rows,
                probabilities=places.probabilities,
                slots=places.slots,
                generations=index.generations[places.slots],
            )
            self._counts.samples += sampled.num_items
            return sampled

    def places(self, num_sequences: int, length: int) -> Places:
        """Draw as `sample` does, and read nothing yet. Raises as it does."""
        with self._mutex:
            return self._places(num_sequences, length)

    def read(self, places: Places, length: int, names: Collection[str] | None = None) -> Columns:
        """Return copies of columns (B, L, …), of all or some, from places on: of a shard that nobody inserts into."""
        with self._mutex:
            return self._read(places, length, names)

    def update_priorities(self, slots: IntpArray, generations: Int64Array, priorities: Float64Array) -> int:
        """Set priorities (B,) of chunks that are still the ones that were sampled; return how many those are.

        Raises `ReplayError` for priorities that are not finite and > 0.
        """
        if not (np.isfinite(priorities) & (priorities > 0)).all():
            raise ReplayError("replay: priorities must be finite and > 0")
        with self._mutex:
            return self._index.reweigh(slots, generations, priorities**self._config.priority_exponent)

    def state(self) -> ShardState:
        """Make all that was inserted durable and name this moment. Raises `DiskFull`."""
        with self._mutex:
            return ShardState(self._num_draws, self._log.watermark() if self._log else None)

    def go_on_after(self, num_draws: int) -> None:
        """Draw as after so many calls of `sample`: the same as then, where nobody inserts."""
        with self._mutex:
            self._num_draws = num_draws

    def close(self) -> None:
        """Seal the segments and let go of the directory; what is in memory stays."""
        with self._mutex:
            log, self._log = self._log, None
            if log:
                log.close()

    def stats(self) -> ReplayStats:
        """Return what is held and what was counted."""
        with self._mutex:
            held = self._index.lengths > 0
            ages = self._clock() - self._index.inserted_at[held] if held.any() else np.zeros(1)
            return ReplayStats(
                budget_bytes=self._config.budget_bytes,
                num_bytes=int(held.sum()) * self._ring.slot_bytes if self._ring else 0,
                disk_bytes=self._log.num_bytes if self._log else 0,
                items=int(self._index.lengths.sum()) * self._num_agents,
                chunks=int(held.sum()),
                worlds=self._index.num_worlds,
                oldest_age_s=float(ages.max()),
                scanned=replace(self._log.scanned) if self._log else ScanReport(),
                **asdict(self._counts),
            )

    @property
    def _num_agents(self) -> int:
        return int(self._ring.layout["actions"][0][0]) if self._ring else 0

    def _opened(self, directory: Path) -> SegmentLog:
        log = SegmentLog(self._config.segments, directory, clock=self._clock)
        try:
            self._put_back(log)
        except BaseException:
            log.close()
            raise
        return log

    def _put_back(self, log: SegmentLog) -> None:
        for frame in log.scan(self._config.budget_bytes):
            self._counts.restored += self._hold(frame.chunk, 1.0, frame.inserted_at).inserted

    def _hold(self, chunk: Chunk, priority: float | None, stored_at: float | None) -> InsertReport:
        """Hold a new chunk, or one that was stored already."""
        ring = self._accept(chunk)
        weight = None if priority is None else priority**self._config.priority_exponent
        fresh = self._index.fresh(chunk)
        pieces = [_piece(chunk, *ticks) for ticks in fresh.ranges]
        inserted_at = self._clock() if stored_at is None else stored_at
        if self._log and stored_at is None:
            for piece in pieces:
                inserted_at = self._log.append(piece)
        num_superseded, num_evicted = fresh.num_superseded, 0
        for piece in pieces:
            placed = self._index.put(piece, weight, inserted_at)
            ring.write(placed.slot, piece.transitions)
            for slot in (placed.slot, self._index.slot_after(placed.slot)):
                if slot is not None:
                    ring.mark_first(slot, self._index.is_first(slot))
            num_superseded += placed.num_superseded
            num_evicted += placed.num_evicted
        agents, num_fresh = self._num_agents, sum(len(piece.transitions) for piece in pieces)
        return InsertReport(
            inserted=agents * num_fresh,
            duplicates=agents * fresh.num_duplicates,
            superseded=agents * num_superseded,
            evicted=agents * num_evicted,
        )

    def _accept(self, chunk: Chunk) -> ColumnRing:
        """Return the ring that can hold this chunk; the first chunk decides on its layout."""
        layout, most = row_layout(chunk.transitions), self._config.chunk_ticks
        if not 1 <= len(chunk.transitions) <= most:
            raise ReplayError(
                f"world {chunk.world!r}: a chunk must have 1 … {most} ticks, got {len(chunk.transitions)}"
            )
        if chunk.first_tick < 0 or chunk.epoch < 0:
            raise ReplayError(f"world {chunk.world!r}: epoch {chunk.epoch}, tick {chunk.first_tick} must be >= 0")
        if self._ring is None:
            self._ring = ColumnRing(self._config.budget_bytes, most, layout)
            self._index = ChunkIndex(self._ring.num_slots)
        if self._ring.layout != layout:
            name = next(name for name in layout if layout[name] != self._ring.layout[name])
            raise ReplayError(
                f"world {chunk.world!r}: rows of {name} are {layout[name][0]}, this shard holds"
                f" {self._ring.layout[name][0]}; worlds of one run share agents, window and memory"
            )
        return self._ring

    def _places(self, num_sequences: int, length: int) -> Places:
        if num_sequences < 1 or length < 1:
            raise ReplayError(f"replay: cannot sample {num_sequences} sequences of {length} ticks")
        starts = self._index.num_starts(length)
        if not starts.any():
            raise ReplayError(f"replay: no chunk has {length} ticks; insert more, or ask for shorter sequences")
        chances = self._chances(starts)
        draw = np.random.default_rng([self._seed, self._num_draws])
        self._num_draws += 1
        slots = np.searchsorted(np.cumsum(chances), draw.random(num_sequences), side="right")
        # The sum of all chances may fall short of 1 by rounding.
        slots = np.minimum(slots, np.flatnonzero(chances)[-1])
        return Places(slots, draw.integers(starts[slots]), chances[slots] / starts[slots])

    def _read(self, places: Places, length: int, names: Collection[str] | None = None) -> Columns:
        assert self._ring is not None
        return self._ring.gather(places.slots, places.rows, length, names)

    def _chances(self, starts: Int64Array) -> Float64Array:
        """Return (N,) with which chance the mixture draws from each slot, given its number of starts (N,)."""
        config, uniform = self._config, starts / starts.sum()
        recent = starts * self._index.newest(-(-config.recent_items // self._num_agents))
        # Where no recent chunk is long enough, all are as good.
        recent = recent / recent.sum() if recent.any() else uniform
        prioritised = starts * self._index.weights
        share = 1 - config.recent - config.prioritised
        chances: Float64Array = (
            share * uniform + config.recent * recent + config.prioritised * prioritised / prioritised.sum()
        )
        return chances


def _piece(chunk: Chunk, first: int, end: int) -> Chunk:
    rows = chunk.transitions[first - chunk.first_tick : end - chunk.first_tick]
    return replace(chunk, first_tick=first, transitions=rows)


def shard_of(world: WorldId, shards: Sequence[str]) -> str:
    """Return the shard of a world by rendezvous hash: when one goes, only its worlds move (Thaler, Ravishankar).

    Raises `ConfigError` if there is none.
    """
    if not shards:
        raise ConfigError("replay: a world needs at least one shard")
    return max(shards, key=lambda shard: (xxhash.xxh3_64_intdigest(f"{shard}\0{world}".encode()), shard))
