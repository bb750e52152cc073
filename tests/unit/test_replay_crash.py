"""A killed shard loses nothing that `insert` had returned for, and the ratio holds across its death."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cluster.resume import rewind_replay
from learner.bench import homestead_chunk
from learner.checkpoint import Manifest
from learner.limiter import LimiterConfig, LimiterState, RateLimiter
from learner.replay import ReplayConfig, ReplayShard
from learner.segments import SegmentConfig
from world.errors import ReplayError
from world.snapshot import WorldId
from world.trajectory import Chunk

CONFIG = ReplayConfig(
    budget_bytes=1 << 24, chunk_ticks=4, segments=SegmentConfig(segment_bytes=8192, quota_bytes=1 << 24)
)
MOST_CHUNKS = 3000
"""Of one child, however late it is killed: what three of them insert fits the budget, so nothing is evicted."""
ROOT = Path(__file__).parents[2]

_CHILD = """
import os, sys, time
from pathlib import Path
from tests.unit.test_replay_crash import CONFIG, MOST_CHUNKS, small_chunk
from learner.replay import ReplayShard
shard = ReplayShard(CONFIG, Path(sys.argv[1]))
first = int(sys.argv[2])
for number in range(first, first + MOST_CHUNKS):
    shard.insert(small_chunk("w", number))
    os.write(1, b"%d\\n" % (number + 1))
time.sleep(600)
"""


def small_chunk(world: str, number: int) -> Chunk:
    """Return the chunk of ticks 4·number … 4·number + 3."""
    return homestead_chunk(WorldId(world), 4 * number, num_ticks=4, agents=1, side=3)


def _ticks_of(shard: ReplayShard, world: str) -> set[int]:
    found: set[int] = set()
    while len(found) < shard.stats().items:
        drawn = shard.sample(256, 1)
        assert set(drawn.worlds) == {world}
        found |= set(drawn.first_ticks.tolist())
    return found


def test_sigkill_while_inserting_loses_nothing_that_had_returned(tmp_path: Path) -> None:
    acknowledged = 0
    for more in (1, 7, 60):
        child = subprocess.Popen(
            [sys.executable, "-c", _CHILD, str(tmp_path), str(acknowledged)], stdout=subprocess.PIPE, cwd=ROOT
        )
        assert child.stdout is not None
        for _ in range(more):
            acknowledged = int(child.stdout.readline())
        os.kill(child.pid, signal.SIGKILL)
        for line in child.stdout:
            acknowledged = int(line) if line.endswith(b"\n") else acknowledged
        child.wait()
        child.stdout.close()
        shard = ReplayShard(CONFIG, tmp_path)
        held = _ticks_of(shard, "w")
        assert held >= set(range(4 * acknowledged))
        # At most the one insert that was under way when the process died.
        assert len(held) <= 4 * (acknowledged + 1)
        shard.close()


def test_a_restarted_shard_knows_what_was_resent(tmp_path: Path) -> None:
    shard = ReplayShard(CONFIG, tmp_path)
    shard.insert(small_chunk("w", 0))
    shard.close()
    again = ReplayShard(CONFIG, tmp_path)
    assert again.stats().restored == 4
    assert again.insert(small_chunk("w", 0)) == (0, 4, 0, 0)
    again.close()


def test_after_a_rewind_a_shard_holds_nothing_from_after_the_checkpoint(tmp_path: Path) -> None:
    shard = ReplayShard(CONFIG, tmp_path / "replay-0")
    for number in range(20):
        shard.insert(small_chunk("w", number))
    state = shard.state()
    for number in range(20, 40):
        shard.insert(small_chunk("w", number))
    assert _ticks_of(shard, "w") == set(range(160))
    shard.close()
    manifest = Manifest(
        step=1,
        weights_epoch=1,
        weights_version=1,
        limiter=LimiterState(inserts=80, samples=0),
        replay={"replay-0": state},
        random={},
        model_config={},
        tokenizer_digest="",
    )
    rewind_replay(manifest, CONFIG, tmp_path, ["replay-0", "replay-1"])
    again = ReplayShard(CONFIG, tmp_path / "replay-0")
    assert _ticks_of(again, "w") == set(range(80))
    assert again.insert(small_chunk("w", 20)).inserted == 4
    again.close()


def test_a_directory_of_another_environment_is_refused_and_let_go_of(tmp_path: Path) -> None:
    shard = ReplayShard(CONFIG, tmp_path)
    shard.insert(small_chunk("w", 0))
    other = homestead_chunk(WorldId("w"), 4, num_ticks=4, agents=2, side=3)
    with pytest.raises(ReplayError, match="worlds of one run share"):
        shard.insert(other)
    shard.close()
    shorter = ReplayConfig(budget_bytes=1 << 24, chunk_ticks=2)
    for _ in range(2):
        with pytest.raises(ReplayError, match="must have 1 … 2 ticks"):
            ReplayShard(shorter, tmp_path)


def test_the_ratio_stays_within_two_percent_when_a_shard_dies_and_comes_back(tmp_path: Path) -> None:
    config = replace(CONFIG, segments=SegmentConfig(segment_bytes=1 << 18, quota_bytes=1 << 24))
    limiter = RateLimiter(
        LimiterConfig(samples_per_insert=4.0, min_items=64, max_ahead_items=64, max_insert_items=4, max_sample_items=64)
    )
    draw = np.random.default_rng(3)
    shards = [ReplayShard(config, tmp_path / str(n), seed=n) for n in range(2)]
    inserted, sampled, number = 0, 0, [0, 0]
    for step in range(6000):
        which = 1 if 2000 <= step < 2500 else int(draw.integers(2))
        if step == 2500:
            shards[0].close()
            shards[0] = ReplayShard(config, tmp_path / "0")
            # What it was last sent is sent again. It was not lost, so no tokens are asked for it.
            assert shards[0].insert(small_chunk("v0", number[0] - 1)).inserted == 0
        if draw.random() < 0.5 and limiter.request_inserts(4):
            inserted += shards[which].insert(small_chunk(f"v{which}", number[which])).inserted
            number[which] += 1
        elif limiter.request_samples(64):
            if shards[which].can_sample(4):
                sampled += shards[which].sample(16, 4).num_items
            else:
                limiter.return_samples(64)
    assert inserted > 1000
    assert sampled / inserted == pytest.approx(4.0, rel=0.02)
