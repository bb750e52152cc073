"""On a real, tiny, full disk: a clear refusal, nothing lost of what was there, and work goes on when there is room."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_PROGRAM = """
from dataclasses import replace
from pathlib import Path
import sys, torch
from learner.bench import homestead_chunk
from learner.checkpoint import Manifest, load_newest, save_checkpoint
from learner.limiter import LimiterState
from learner.replay import ReplayConfig, ReplayShard
from learner.segments import SegmentConfig
from learner.weights import WeightStore, flatten
from world.errors import DiskFull
from world.snapshot import WorldId

disk = Path(sys.argv[1])

def refused(work):
    try:
        work()
    except DiskFull as error:
        assert "no space for" in str(error) and str(disk) in str(error), error
        return True
    return False

small, large = {"a": torch.ones(1000)}, {"a": torch.ones(1_000_000)}
store = WeightStore(disk / "weights")
store.publish(flatten(small, epoch=1, version=1))
assert refused(lambda: store.publish(flatten(large, epoch=1, version=2)))
assert store.newest().version == WeightStore(disk / "weights").newest().version == 1

manifest = Manifest(step=1, weights_epoch=1, weights_version=1, limiter=LimiterState(inserts=0, samples=0), replay={},
                    random={}, model_config={}, tokenizer_digest="")
save_checkpoint(disk / "checkpoints", {"model": small}, manifest)
assert refused(lambda: save_checkpoint(disk / "checkpoints", {"model": large}, replace(manifest, step=2)))
assert load_newest(disk / "checkpoints").manifest.step == 1

config = ReplayConfig(budget_bytes=1 << 26, chunk_ticks=8, segments=SegmentConfig(segment_bytes=1 << 16))
shard = ReplayShard(config, disk / "replay")
chunks = [homestead_chunk(WorldId("w"), 8 * n, num_ticks=8, seed=n) for n in range(400)]
held = 0
for chunk in chunks:
    if refused(lambda: shard.insert(chunk)):
        break
    held += 1
assert 10 < held < 400, held
before = shard.stats()
assert before.chunks == held
assert refused(lambda: shard.insert(chunks[held]))
assert (shard.stats().items, shard.stats().disk_bytes) == (before.items, before.disk_bytes)
shard.sample(4, 8)
(disk / "ballast").unlink()
for chunk in chunks[held : held + 5]:
    shard.insert(chunk)
shard.close()
assert ReplayShard(config, disk / "replay").stats().chunks == held + 5
print("held", held)
"""


def test_a_full_disk_is_refused_and_forgotten_when_there_is_room(tmp_path: Path) -> None:
    if not shutil.which("unshare") or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("this system lets nobody mount a disk of their own (unshare -rm)")
    disk = tmp_path / "disk"
    disk.mkdir()
    script = (
        f'mount -t tmpfs -o size=2m tmpfs "{disk}" && head -c 200000 /dev/zero > "{disk}/ballast"'
        f' && exec "{sys.executable}" -c "$PROGRAM" "{disk}"'
    )
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script],
        env={"PROGRAM": _PROGRAM, "PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
