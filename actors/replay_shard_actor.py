"""A replay shard's process."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from actors.ports import Drawn, Inserted, ShardReport
from actors.settings import from_text
from learner.replay import ReplayConfig, ReplayShard, ShardState
from world.trajectory import Chunk


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardSettings:
    """What a shard is built from."""

    directory: str
    seed: int
    replay: ReplayConfig


class ReplayShardActor:
    """Takes plain values only, so Ray can rebuild it; its chunks are in its directory."""

    def __init__(self, settings: str) -> None:
        self._settings = settings

    def insert(self, chunk: Chunk) -> Inserted:
        """Hold a chunk; once this returns, the death of this process does not lose it."""
        report = self._shard.insert(chunk)
        return Inserted(report.inserted, report.duplicates)

    def draw(self, num_sequences: int, length: int) -> Drawn:
        """Return sequences, or none where no chunk is long enough."""
        can = self._shard.can_sample(length)
        columns = self._shard.sample(num_sequences, length).columns if can else {}
        return Drawn(columns, self._shard.stats().items)

    def state(self) -> ShardState:
        """Make all that was inserted durable and name this moment."""
        return self._shard.state()

    def report(self) -> ShardReport:
        """Return counts, for whoever watches."""
        return ShardReport(os.getpid(), self._shard.stats())

    def close(self) -> None:
        """Seal the segments and let go of the directory."""
        self._shard.close()

    @cached_property
    def _shard(self) -> ReplayShard:
        read = from_text(self._settings, ShardSettings)
        return ReplayShard(read.replay, Path(read.directory), seed=read.seed)
