"""What replay sustains: agent-ticks inserted and sampled each second, at the shapes of the homestead world."""

import tempfile
import time
from pathlib import Path

import numpy as np

from learner.replay import ReplayConfig, ReplayShard
from world.event import MAX_EVENTS
from world.snapshot import WorldId
from world.trajectory import Chunk, Transitions


def homestead_chunk(
    world: WorldId,
    first_tick: int,
    *,
    epoch: int = 1,
    num_ticks: int = 32,
    agents: int = 4,
    side: int = 11,
    seed: int = 0,
) -> Chunk:
    """Return a chunk with windows of `side` × `side`, K = 4, S = 9, D = 32, in which one cell in a hundred changes."""
    draw = np.random.default_rng([seed, first_tick])
    depth, status, memory = 4, 9, 32
    still = draw.integers(1, 200, (1, agents, side, side, depth), np.uint16)
    changed = draw.random((num_ticks, agents, side, side, depth)) < 0.01
    tokens = np.where(changed, draw.integers(1, 200, changed.shape, np.uint16), still)
    return Chunk(
        world=world,
        epoch=epoch,
        first_tick=first_tick,
        transitions=Transitions(
            tokens=tokens,
            ages=np.broadcast_to(
                draw.integers(0, 40, (1, agents, side, side, depth + 1), np.uint8),
                (num_ticks, agents, side, side, depth + 1),
            ),
            status=draw.integers(0, 200, (num_ticks, agents, status), np.uint16),
            poses=draw.integers(0, 64, (num_ticks, agents, 2), np.int32),
            turns=np.broadcast_to(np.arange(agents, dtype=np.uint8), (num_ticks, agents)),
            memory=draw.standard_normal((num_ticks, agents, memory)).astype(np.float16),
            events=np.zeros((num_ticks, MAX_EVENTS, 3), np.int32),
            actions=draw.integers(0, 12, (num_ticks, agents), np.int32),
            rewards=draw.standard_normal((num_ticks, agents)).astype(np.float32),
            terminated=np.zeros((num_ticks, agents), np.bool_),
            truncated=np.zeros((num_ticks, agents), np.bool_),
            displacement=draw.integers(0, 9, (num_ticks, agents), np.uint8),
            next_tokens=tokens[..., 0],
            next_status=draw.integers(0, 200, (num_ticks, agents, status), np.uint16),
            by_chance=np.zeros((num_ticks, agents, side, side), np.bool_),
            is_first=np.arange(first_tick, first_tick + num_ticks) == 0,
            weights_version=np.ones(num_ticks, np.int32),
        ),
    )


def bench_replay(*, num_chunks: int = 400, num_batches: int = 100, num_sequences: int = 16) -> dict[str, float]:
    """Return agent-ticks/s inserted (in memory, and with segments) and sampled (sequences of 16 ticks), and bytes."""
    chunks = [homestead_chunk(WorldId(f"w{n % 16}"), 32 * (n // 16), seed=n % 16) for n in range(num_chunks)]
    items = sum(chunk.num_items for chunk in chunks)
    config = ReplayConfig(budget_bytes=128 << 20, chunk_ticks=32)
    measured: dict[str, float] = {"bytes_per_item": sum(c.transitions.nbytes for c in chunks) / items}
    with tempfile.TemporaryDirectory() as directory:
        for name, place in (("memory", None), ("segments", Path(directory))):
            shard = ReplayShard(config, place)
            started = time.perf_counter()
            for chunk in chunks:
                shard.insert(chunk)
            measured[f"insert_{name}_items_per_s"] = items / (time.perf_counter() - started)
            measured[f"disk_bytes_per_item_{name}"] = shard.stats().disk_bytes / items
            shard.close()
        started = time.perf_counter()
        shard = ReplayShard(config, Path(directory))
        measured["restore_items_per_s"] = shard.stats().restored / (time.perf_counter() - started)
        shard.close()
    started = time.perf_counter()
    for _ in range(num_batches):
        shard.sample(num_sequences, 16)
    measured["sample_items_per_s"] = shard.stats().samples / (time.perf_counter() - started)
    return measured


if __name__ == "__main__":
    for name, value in bench_replay().items():
        print(f"{name:32}{value:16,.1f}")
