"""Going on from a checkpoint: replay and limiter are taken back to its moment."""

import time
from collections.abc import Sequence
from pathlib import Path

from learner.checkpoint import Manifest, has_checkpoint, load_newest
from learner.replay import ReplayConfig
from learner.segments import SegmentLog
from world.errors import ReplayError

_LET_GO_WITHIN_S = 10.0


def newest_manifest(checkpoints: Path) -> Manifest | None:
    """Return the manifest of the newest checkpoint, every byte of it verified; None before the first.

    Raises `CheckpointError` if it is damaged.
    """
    return load_newest(checkpoints).manifest if has_checkpoint(checkpoints) else None


def rewind_replay(manifest: Manifest | None, config: ReplayConfig, directory: Path, shards: Sequence[str]) -> None:
    """Forget what was inserted after the checkpoint: it is of a future that the learner has not lived (sheeprl#273).

    Waits until processes of a killed run have let go of the shards. Raises `ReplayError` where segments no longer
    reach back, or another process goes on holding them.
    """
    for shard in shards:
        log = _opened(config, directory / shard)
        try:
            state = manifest.replay.get(shard) if manifest is not None else None
            if state is not None and state.watermark is not None:
                log.truncate(state.watermark)
        finally:
            log.close()


def _opened(config: ReplayConfig, directory: Path) -> SegmentLog:
    """Open a shard's segments; a process of a killed run may need a moment to let go of them."""
    deadline = time.monotonic() + _LET_GO_WITHIN_S
    while True:
        try:
            return SegmentLog(config.segments, directory)
        except ReplayError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.1)
