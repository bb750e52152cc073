"""How long it takes to go to a random tick of a long world, and to fork it there: in the log, and in the archive.

The world is synthetic and of homestead's shape: four agents with 9×9 views who walk on 32×32 cells, about ten cells
that change at a tick, and a recurrent memory that is noise, which no compression shortens.
"""

import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import numpy as np

from world.envs.grounded import ViewLayout
from world.errors import ConfigError
from world.field import MAP, SCREEN, Changes
from world.snapshot import Snapshot, TickEffects, WorldId
from world.store.archive import Archive
from world.store.archiver import Archiver
from world.store.history import History
from world.store.lineage import Lineage, new_world_id
from world.store.records import Ack, Commit, WorldRecord
from world.store.redis_store import RedisWorldStore
from world.store.server import EmbeddedServer

NUM_TICKS: Final = 100_000
KEYFRAME_TICKS: Final = 256
_LAYOUT: Final = ViewLayout(rows=10, cols=9, map_rows=9, tile_px=7)
_SIDE, _AGENTS, _MEMORY, _CHANGES, _TOKENS = 32, 4, 16, 10, 335
_TICKS_PER_COMMIT: Final = 64
_LIMITS_MS: Final = {"hot": 100.0, "cold": 1000.0}


def bench_travel(*, num_ticks: int = NUM_TICKS, visits: int = 200, forks: int = 50) -> dict[str, Any]:
    """Return p50 and p95 in ms of visits and forks at random ticks, hot and cold.

    The value is the p95 of hot visits; what each should stay under is named beside it. Raises `ConfigError` for a
    world that is too short to have a cold part.
    """
    if num_ticks < 10_000:
        raise ConfigError(f"a world of at least 10000 ticks is needed to have an archive, got {num_ticks}")
    with (
        tempfile.TemporaryDirectory(prefix="worlds-bench-") as directory,
        EmbeddedServer(Path(directory) / "redis") as server,
        closing(RedisWorldStore.connect(server.url)) as store,
    ):
        archive = Archive(Path(directory) / "archive")
        history = History(store.history(), archive)
        world = WorldId(f"bench-{secrets.token_hex(6)}")
        built_s, _ = _timed(lambda: _build(store, Archiver(history.kept, archive), world, num_ticks))
        past, random = history.kept.past(world), np.random.default_rng(0)
        reaches = {"hot": (past.record.tick - 4096, past.record.tick), "cold": (1, past.archived_to - 4096)}
        details: dict[str, Any] = {"ticks": num_ticks, "segments": len(past.segments), "built_s": round(built_s, 1)}
        lineage = Lineage(store, history)
        for name, (low, high) in reaches.items():
            ticks = random.integers(low, high + 1, visits).tolist()
            details[f"visit_{name}"] = _told(_visits(history, world, ticks), name)
            details[f"fork_{name}"] = _told(_forks(lineage, world, ticks[:forks]), name)
    headline = details["visit_hot"]
    return {
        "bench": "travel",
        "value": headline["p95_ms"],
        "unit": "ms",
        "baseline": {"name": "limit of a hot visit's p95", "value": _LIMITS_MS["hot"]},
        "ratio": round(headline["p95_ms"] / _LIMITS_MS["hot"], 3),
        "details": details,
    }


def synthetic_effects(snapshot: Snapshot, seed: int) -> Iterator[TickEffects]:
    """Yield ticks without end, advancing the snapshot to each."""
    random = np.random.default_rng(seed)
    cells = snapshot.field
    while True:
        tick, first = snapshot.tick + 1, snapshot.tick == 0
        steps = random.integers(-1, 2, (_AGENTS, 2))
        poses = np.clip(snapshot.poses + steps, 0, _SIDE - 1).astype(np.int32)
        changes = _everything(random) if first else _some(random, poses)
        if first:
            snapshot.episode += 1
        cells.settle(changes, poses, tick)
        snapshot.tick, snapshot.poses = tick, poses
        snapshot.memory = random.standard_normal((_AGENTS, _MEMORY)).astype(np.float16)
        yield TickEffects(
            tick=tick,
            is_first=first,
            poses=poses,
            actions=random.integers(0, 10, _AGENTS).astype(np.int32),
            events=np.zeros((0, 3), np.int32),
            rewards=(random.random(_AGENTS) < 0.02).astype(np.float32),
            terminated=np.zeros(_AGENTS, np.bool_),
            truncated=np.zeros(_AGENTS, np.bool_),
            changes=changes,
            memory=snapshot.memory,
            weights_version=1 + tick // 1000,
            state_digest=snapshot.digest(),
        )


def empty_world() -> Snapshot:
    """Return the synthetic world before its first tick."""
    return Snapshot.empty("dreamed", 1, _LAYOUT, _AGENTS, _MEMORY)


def _everything(random: np.random.Generator) -> Changes:
    """Return changes that set every cell, so that no view meets one that was never set."""
    margin = _LAYOUT.cols // 2
    y, x = np.indices((_SIDE + 2 * margin,) * 2).reshape(2, -1).astype(np.int32) - margin
    own_y, own_x = np.indices((_AGENTS, _LAYOUT.cols)).reshape(2, -1).astype(np.int32)
    layer = np.repeat(np.array([MAP, SCREEN], np.uint8), [len(y), len(own_y)])
    token = random.integers(1, _TOKENS, len(layer)).astype(np.uint16)
    return Changes(layer, np.concatenate([y, own_y]), np.concatenate([x, own_x]), token)


def _some(random: np.random.Generator, poses: "np.typing.NDArray[np.int32]") -> Changes:
    """Return changes of about ten distinct cells in sight."""
    who = random.integers(0, _AGENTS, _CHANGES)
    places = poses[who] + random.integers(-(_LAYOUT.cols // 2), _LAYOUT.cols // 2 + 1, (_CHANGES, 2))
    places = np.unique(places, axis=0).astype(np.int32)
    token = random.integers(1, _TOKENS, len(places)).astype(np.uint16)
    return Changes(np.full(len(places), MAP, np.uint8), places[:, 0].copy(), places[:, 1].copy(), token)


def _build(store: RedisWorldStore, archiver: Archiver, world: WorldId, num_ticks: int) -> None:
    snapshot = empty_world()
    record = WorldRecord(
        world=world,
        name="bench travel",
        kind="dreamed",
        env="none",
        agents=_AGENTS,
        tick=0,
        status="running",
        owner="",
        epoch=0,
        weights_version=0,
        tokenizer="",
    )
    store.create(record, snapshot)
    token = store.acquire(world, owner="bench", nonce=secrets.token_bytes(16))
    living, batch = synthetic_effects(snapshot, seed=1), list[TickEffects]()
    for tick in range(1, num_ticks + 1):
        batch.append(next(living))
        due = tick % KEYFRAME_TICKS == 0
        if due or len(batch) == _TICKS_PER_COMMIT or tick == num_ticks:
            (answer,) = store.commit([Commit(token, tuple(batch), snapshot if due else None)])
            if not isinstance(answer, Ack):
                raise answer
            batch = []
        if tick % 4096 == 0:
            archiver.archive(world)
    archiver.archive(world)
    store.release(token)


def _visits(history: History, world: WorldId, ticks: list[int]) -> list[tuple[float, float]]:
    return [_timed(lambda tick=tick: history.state_at(world, tick)) for tick in ticks]  # type: ignore[misc]


def _forks(lineage: Lineage, world: WorldId, ticks: list[int]) -> list[tuple[float, float]]:
    return [
        _timed(lambda tick=tick: lineage.fork(world, tick, new_world_id(), dream=True))  # type: ignore[misc]
        for tick in ticks
    ]


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    """Return how long some work took, and how much of that this process computed, in seconds."""
    begun, computed = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - begun, time.process_time() - computed


def _told(durations: list[tuple[float, float]], name: str) -> dict[str, float]:
    (p50, own_p50), (p95, own_p95) = np.percentile(durations, (50, 95), axis=0) * 1000
    return {
        "num": len(durations),
        "p50_ms": round(float(p50), 2),
        "p95_ms": round(float(p95), 2),
        "p95_limit_ms": _LIMITS_MS[name],
        "own_cpu_p50_ms": round(float(own_p50), 2),
        "own_cpu_p95_ms": round(float(own_p95), 2),
    }
