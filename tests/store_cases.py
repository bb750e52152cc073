"""Worlds for store tests: a field that changes at random, exactly repeatable from its seed."""

import numpy as np

from world.envs.grounded import Int32Array, ViewLayout
from world.snapshot import Snapshot, TickEffects, WorldId
from world.store.records import WorldRecord

LAYOUT = ViewLayout(rows=9, cols=9, map_rows=7, tile_px=8)
NUM_AGENTS = 4
MEMORY_SIZE = 16


class LivingField:
    """A world without a model: agents wander, what they see changes here and there, nothing is ever random twice."""

    def __init__(self, seed: int, *, num_agents: int = NUM_AGENTS, memory_size: int = MEMORY_SIZE) -> None:
        self.snapshot = Snapshot.empty("dreamed", seed, LAYOUT, num_agents, memory_size)

    @classmethod
    def resume(cls, snapshot: Snapshot, effects: tuple[TickEffects, ...] = ()) -> "LivingField":
        """Return the world of a loaded snapshot, advanced by its logged effects, every digest checked."""
        resumed = cls.__new__(cls)
        resumed.snapshot = snapshot
        for logged in effects:
            resumed.snapshot.apply(logged)
        return resumed

    @property
    def tick(self) -> int:
        """Ticks lived."""
        return self.snapshot.tick

    def step(self, *, change_rate: float = 0.02, salt: int = 0, asked: Int32Array | None = None) -> TickEffects:
        """Live one tick and return its effects; `salt` makes another life out of the same seed.

        `asked` (A,) are actions that are taken instead of random ones, where they are not negative.
        """
        snapshot = self.snapshot
        tick = snapshot.tick + 1
        random = np.random.default_rng([snapshot.seed, tick, salt])
        num_agents, memory_size = snapshot.memory.shape
        moves = random.integers(-1, 2, (num_agents, 2)).astype(np.int32)
        poses = snapshot.poses + moves
        layout = snapshot.field.layout
        y, x = (
            poses[:, axis, None, None] + np.arange(-(size // 2), size - size // 2, dtype=np.int32).reshape(shape)
            for axis, size, shape in ((0, layout.map_rows, (-1, 1)), (1, layout.cols, (1, -1)))
        )
        y, x = np.broadcast_arrays(y, x)
        views = np.full((num_agents, layout.rows, layout.cols), 1, np.uint16)
        # A place looks the same to all who see it, and only its own tick changes it.
        noise = ((y.astype(np.int64) * 7919 + x * 104729 + tick * 15485863 + salt) % 1000) < change_rate * 1000
        known = snapshot.field.layers[0].current(y, x)
        views[:, : layout.map_rows] = np.where(noise, (y * 31 + x * 17 + tick) % 500 + 1, np.maximum(known, 1))
        views[:, layout.map_rows :] = 1 + (tick // 10) % 9
        is_first = tick == 1
        if is_first:
            snapshot.episode += 1
        changes = snapshot.field.observe(poses, views, tick)
        snapshot.tick, snapshot.poses = tick, poses
        snapshot.memory = random.standard_normal((num_agents, memory_size)).astype(np.float16)
        actions = random.integers(0, 12, num_agents).astype(np.int32)
        if asked is not None:
            actions = np.where(asked < 0, actions, asked).astype(np.int32)
        return TickEffects(
            tick=tick,
            is_first=is_first,
            poses=poses,
            actions=actions,
            # Of no kind that any environment has, and with no effect: here they are only carried.
            events=np.array([(1 + tick % 3, tick, -tick)] * (tick % 7 == 0), np.int32).reshape(-1, 3),
            rewards=np.where(random.random(num_agents) < 0.05, 1.0, 0.0).astype(np.float32),
            terminated=np.zeros(num_agents, np.bool_),
            truncated=np.zeros(num_agents, np.bool_),
            changes=changes,
            memory=snapshot.memory,
            weights_version=3,
            state_digest=snapshot.digest(),
        )

    def steps(self, num: int, *, salt: int = 0) -> tuple[TickEffects, ...]:
        """Live several ticks."""
        return tuple(self.step(salt=salt) for _ in range(num))


def record_of(world: str, snapshot: Snapshot, **changes: object) -> WorldRecord:
    """Return the record of a fresh world that begins at `snapshot`."""
    fields: dict[str, object] = {
        "world": WorldId(world),
        "name": f"{world}, a test",
        "kind": snapshot.kind,
        "env": "homestead",
        "agents": snapshot.field.num_agents,
        "tick": snapshot.tick,
        "status": "running",
        "owner": "",
        "epoch": 0,
        "weights_version": 0,
        "tokenizer": "0" * 16,
    }
    return WorldRecord(**(fields | changes))  # type: ignore[arg-type]


def equal_effects(one: TickEffects, other: TickEffects) -> bool:
    """Whether two ticks are equal to the byte, dtypes and shapes included."""
    arrays = ("poses", "actions", "events", "rewards", "terminated", "truncated", "memory")
    columns = ("layer", "y", "x", "token")
    pairs = [(getattr(one, name), getattr(other, name)) for name in arrays]
    pairs += [(getattr(one.changes, name), getattr(other.changes, name)) for name in columns]
    plain = ("tick", "is_first", "weights_version", "state_digest")
    return all(getattr(one, name) == getattr(other, name) for name in plain) and all(
        a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in pairs
    )
