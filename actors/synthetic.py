"""A world host without a model: what its ticks would cost the store and the host, and nothing else.

Run as a program by `worlds bench fleet`: python -m actors.synthetic SETTINGS, one line of JSON. It says when it has
adopted its worlds, is told when to begin, and answers with its report: a line each.
"""

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import msgspec
import numpy as np
from torch import Tensor

from actors.collection import freeze_imports
from actors.host_config import WorldHostConfig
from actors.ports import Call, HostReport, Inserted
from actors.settings import from_text
from actors.world_host import WorldHost
from learner.limiter import Grant
from learner.weights import WeightSet
from world.envs.grounded import Int32Array, ViewLayout
from world.errors import StoreError
from world.field import Changes
from world.live import LiveWorld
from world.snapshot import Snapshot, TickEffects, WorldId
from world.store.codec import encode_effects
from world.store.records import Ack, Commit, WorldRecord
from world.store.redis_store import RedisWorldStore
from world.tick import Ticked
from world.trajectory import Chunk

LAYOUT: Final = ViewLayout(rows=9, cols=9, map_rows=7, tile_px=8)
MEMORY_SIZE: Final = 16
_NUM_CHANGES: Final = 8
"""Cells that a tick of four agents changes, as in homestead."""
_KEYFRAME_BYTES: Final = 4096
"""Of incompressible content, about what a homestead world of a few hundred ticks takes."""
_POOL: Final = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class FleetHostSettings:
    """What one host of the measurement does."""

    name: str
    redis_url: str
    worlds: tuple[str, ...]
    ticks_per_s: float
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class FleetHostReport:
    """What came of it."""

    due: int
    """Ticks whose deadline lay in the measured time."""
    missed: int
    """Of these, not acknowledged when the next tick was due."""
    lateness_s: tuple[float, ...]
    """p50, p99 and the largest, of acknowledgements after the moment that a tick was due."""
    commits: int
    group_commit_s: tuple[float, ...]
    """p50, p99 and the largest of one group commit, packing included."""
    frame_bytes: float
    """Of a tick's effects as the log has them, on average."""
    cpu_s: float


def synthetic_snapshot(seed: int, num_agents: int) -> Snapshot:
    """Return a dreamed world with an empty field, and bytes in the place of what a real keyframe holds."""
    snapshot = Snapshot.empty("dreamed", seed, LAYOUT, num_agents, MEMORY_SIZE)
    snapshot.env = np.random.default_rng(seed).bytes(_KEYFRAME_BYTES)
    return snapshot


class SyntheticTicker:
    """Makes effects as large as real ones, from a pool, without a field to apply them to. Cannot be replayed."""

    num_actions: int = 12
    num_events: int = 0

    def __init__(self, num_agents: int) -> None:
        self.weights_version = 1
        drawn = np.random.default_rng(0)
        self.pool = [_drawn_effects(drawn, num_agents) for _ in range(_POOL)]

    def load_weights(self, weights: Mapping[str, Tensor], version: int) -> None:
        """There are none."""
        raise AssertionError("a synthetic host has no weights")

    def tick(
        self, worlds: Sequence[LiveWorld], actions: Int32Array | None = None, events: Int32Array | None = None
    ) -> list[Ticked]:
        """Advance each world's tick, poses and memory; the digest is that of the snapshot, whose field is empty."""
        return [self._tick(world.snapshot) for world in worlds]

    def _tick(self, snapshot: Snapshot) -> Ticked:
        drawn = self.pool[(snapshot.tick + snapshot.seed) % _POOL]
        snapshot.tick += 1
        snapshot.poses, snapshot.memory = drawn.poses, drawn.memory
        return Ticked(replace(drawn, tick=snapshot.tick, state_digest=snapshot.digest()), None)


def synthetic_host(
    name: str, store: RedisWorldStore, config: WorldHostConfig, ticker: SyntheticTicker | None = None
) -> WorldHost:
    """Return a host of synthetic worlds of four agents, without replay, limiter or weights."""
    return WorldHost(
        name,
        config=config,
        store=store,
        sink=_NoReplay(),
        limiter=_NoLimiter(),
        weights=_NoWeights(),
        ticker=ticker or SyntheticTicker(4),
        inbox=store.inbox(),
        revive=_revive,
    )


class _TimedStore(RedisWorldStore):
    """Notes for each acknowledged tick whether the next one was due already."""

    def measure(self, ticks_per_s: float) -> None:
        """Judge what is acknowledged from now on.

        A tick is due a period after the one before was; where that came too late, a period after it was made, as hosts
        do. What was left out meanwhile is counted at the end, as ticks that never came.
        """
        self._period = 1 / ticks_per_s
        self._due: dict[WorldId, float] = {}
        self.lateness: list[float] = []
        self.num_missed = self.num_commits = 0
        self.group_s: list[float] = []

    def commit(self, commits: Sequence[Commit]) -> list[Ack | Exception]:
        began = time.monotonic()
        answers = super().commit(commits)
        now = time.monotonic()
        self.group_s.append(now - began)
        for commit, answer in zip(commits, answers, strict=True):
            if isinstance(answer, Exception):
                raise answer
            self.num_commits += 1
            for _ in commit.effects:
                # It cannot have been made before it was due.
                due = min(self._due.get(commit.token.world, began), began)
                self.lateness.append(now - due)
                self.num_missed += now > due + self._period
                self._due[commit.token.world] = due + self._period if began < due + self._period else began
        return answers


class _NoReplay:
    """Dreams send nothing to replay."""

    def insert(self, chunk: Chunk) -> Call[Inserted]:
        raise AssertionError("a dream was sent to replay")


class _NoLimiter:
    """Dreams need no credit."""

    def request_inserts(self, num_items: int) -> Grant:
        raise AssertionError("a dream asked for credit")

    def return_inserts(self, num_items: int) -> None:
        raise AssertionError("a dream gave credit back")

    def settle_inserts(self, num_items: int) -> None:
        raise AssertionError("a dream settled credit")


class _NoWeights:
    """Nothing is learned."""

    def poll(self, newer_than: tuple[int, int]) -> WeightSet | None:
        return None


def run_host(settings: FleetHostSettings, begin_together: Callable[[], None]) -> FleetHostReport:
    """Adopt the worlds, wait for the others, tick at their pace for the time, and report. Raises `StoreError`."""
    plain = RedisWorldStore.connect(settings.redis_url)
    store = _TimedStore(plain._link, durability="disk", lease_s=10.0, hot_log_ticks=10**9)
    worlds = [WorldId(world) for world in settings.worlds]
    ticker = SyntheticTicker(store.record(worlds[0]).agents)
    config = WorldHostConfig(dream_ticks_per_s=settings.ticks_per_s, inbox_every_s=0.25)
    host = synthetic_host(settings.name, store, config, ticker)
    report = host.adopt(worlds)
    if report.lost:
        raise StoreError(f"world {report.lost[0].world!r} could not be adopted: {report.lost[0].message}")
    freeze_imports()
    begin_together()
    begin = time.monotonic()
    store.measure(settings.ticks_per_s)
    cpu = time.process_time()
    deadline, last = begin + settings.seconds, report
    while (left := deadline - time.monotonic()) > 0:
        last = host.run_until(dict.fromkeys(worlds, 10**9), min(left, 1.0))
    cpu = time.process_time() - cpu
    return _report(store, ticker, last, settings, cpu)


def _report(
    store: _TimedStore,
    ticker: SyntheticTicker,
    last: HostReport,
    settings: FleetHostSettings,
    cpu_s: float,
) -> FleetHostReport:
    made = sum(last.ticks.values())
    expected = int(len(last.ticks) * settings.seconds * settings.ticks_per_s)
    never = max(0, expected - made)
    p50, p99 = np.percentile(store.lateness, (50, 99))
    return FleetHostReport(
        due=len(store.lateness) + never,
        missed=store.num_missed + never,
        lateness_s=(float(p50), float(p99), max(store.lateness)),
        commits=store.num_commits,
        group_commit_s=tuple(map(float, (*np.percentile(store.group_s, (50, 99)), max(store.group_s)))),
        frame_bytes=float(np.mean([len(encode_effects(drawn)) for drawn in ticker.pool])),
        cpu_s=cpu_s,
    )


def _revive(record: WorldRecord, snapshot: Snapshot, effects: tuple[TickEffects, ...]) -> LiveWorld:
    # There is no field to apply effects to; the rest of the state is that of the last tick.
    if effects:
        snapshot.tick, snapshot.poses, snapshot.memory = effects[-1].tick, effects[-1].poses, effects[-1].memory
    return LiveWorld(record.world, record.env, snapshot, None, None)


def _begin_together() -> None:
    print("adopted", flush=True)
    begin_at = float(sys.stdin.readline())
    time.sleep(max(0.0, begin_at - time.time()))


def _drawn_effects(drawn: np.random.Generator, num_agents: int) -> TickEffects:
    return TickEffects(
        tick=0,
        is_first=False,
        poses=drawn.integers(-60, 60, (num_agents, 2)).astype(np.int32),
        actions=drawn.integers(0, 12, num_agents).astype(np.int32),
        events=np.zeros((0, 3), np.int32),
        rewards=np.where(drawn.random(num_agents) < 0.05, 1.0, 0.0).astype(np.float32),
        terminated=np.zeros(num_agents, np.bool_),
        truncated=np.zeros(num_agents, np.bool_),
        changes=Changes(
            np.zeros(_NUM_CHANGES, np.uint8),
            drawn.integers(-60, 60, _NUM_CHANGES).astype(np.int32),
            drawn.integers(-60, 60, _NUM_CHANGES).astype(np.int32),
            drawn.integers(1, 500, _NUM_CHANGES).astype(np.uint16),
        ),
        memory=drawn.standard_normal((num_agents, MEMORY_SIZE)).astype(np.float16),
        weights_version=1,
        state_digest=bytes(16),
    )


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    report = run_host(from_text(sys.argv[1], FleetHostSettings), _begin_together)
    print(msgspec.json.encode(report).decode(), flush=True)
