"""Writes the golden files of the present schema. They are never written again: run it once for a new schema.

python -m tests.golden.make
"""

import json
from pathlib import Path

from tests.store_cases import LivingField
from world.store.codec import effects_payload, encode_effects, encode_snapshot, snapshot_payload
from world.store.segment import Segment, encode_segment, logged
from world.store.upgrade import SCHEMA_VERSION

HERE = Path(__file__).parent
SEED, NUM_TICKS = 20, 42
BASE = bytes(range(16))


def contents() -> dict[str, bytes]:
    """Return what this program writes: a tick, an empty and a grown snapshot, a segment, and what they hold."""
    life = LivingField(SEED)
    beginning, empty = snapshot_payload(life.snapshot, chain=BASE), encode_snapshot(life.snapshot, chain=BASE)
    begun = life.snapshot.digest()
    ticks = life.steps(NUM_TICKS)
    life.snapshot.env = b"environment"
    payloads = [effects_payload(tick) for tick in ticks]
    segment = Segment(base=BASE, keyframe=beginning, ticks=tuple(logged(1, BASE, payloads)))
    last = ticks[-1]
    held = {
        "begun": begun.hex(),
        "state": life.snapshot.digest().hex(),
        "chain": segment.end.hex(),
        "ticks": NUM_TICKS,
        "poses": last.poses.tolist(),
        "actions": last.actions.tolist(),
        "events": [tick.events.tolist() for tick in ticks],
        "rewards": last.rewards.tolist(),
        "memory": last.memory.tobytes().hex(),
        "tokens": last.changes.token.tolist(),
        "rows": last.changes.y.tolist(),
    }
    return {
        "effects.bin": encode_effects(last),
        "snapshot_empty.bin": empty,
        "snapshot.bin": encode_snapshot(life.snapshot, chain=segment.end),
        "segment.bin": encode_segment(segment),
        "holds.json": json.dumps(held, indent=1).encode(),
    }


if __name__ == "__main__":
    folder = HERE / f"schema_{SCHEMA_VERSION}"
    folder.mkdir()
    for name, data in contents().items():
        (folder / name).write_bytes(data)
