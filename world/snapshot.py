"""What persists of a world: its snapshot, and the effects that one tick has on it.

Axes: A agents, D components of an agent's recurrent memory, n world events.
"""

import hashlib
from dataclasses import dataclass
from typing import Literal, NewType

import numpy as np
from numpy.typing import NDArray

from world.envs.grounded import BoolArray, Float32Array, Int32Array, ViewLayout
from world.errors import CorruptRecord
from world.field import Changes, Field

WorldId = NewType("WorldId", str)
Kind = Literal["grounded", "dreamed"]
Float16Array = NDArray[np.float16]


@dataclass(frozen=True, kw_only=True, slots=True)
class TickEffects:
    """All that one tick did: enough to repeat it exactly on the snapshot before it."""

    tick: int
    """The tick these effects lead to."""
    is_first: bool
    """An episode begins here: the field is empty before `changes`."""
    poses: Int32Array
    """(A, 2) after the tick."""
    actions: Int32Array
    """(A,) that led here; zeros where `is_first`."""
    events: Int32Array
    """(n, 3) world events that befell the tick, in order: kind, y, x; none where `is_first`."""
    rewards: Float32Array
    """(A,)"""
    terminated: BoolArray
    """(A,)"""
    truncated: BoolArray
    """(A,)"""
    changes: Changes
    memory: Float16Array
    """(A, D) recurrent memory after the tick."""
    weights_version: int
    """Of the weights that acted or dreamed; 0: none."""
    state_digest: bytes
    """`Snapshot.digest` after the tick."""


@dataclass(kw_only=True, slots=True)
class Snapshot:
    """A world's whole state at one tick. Randomness is drawn by counter from (seed, tick), so it needs no state."""

    kind: Kind
    seed: int
    tick: int
    episode: int
    """Episodes begun so far; the present one was reset with a seed made of `seed` and this."""
    field: Field
    poses: Int32Array
    memory: Float16Array
    env: bytes = b""
    """Grounded worlds: the environment's own snapshot, at this tick."""

    @classmethod
    def empty(cls, kind: Kind, seed: int, layout: ViewLayout, num_agents: int, memory_size: int) -> "Snapshot":
        """Return the world before its first tick."""
        return cls(
            kind=kind,
            seed=seed,
            tick=0,
            episode=0,
            field=Field(layout, num_agents),
            poses=np.zeros((num_agents, 2), np.int32),
            memory=np.zeros((num_agents, memory_size), np.float16),
        )

    def digest(self) -> bytes:
        """Return 16 bytes that are equal exactly where tick, episode, field, poses and memory are."""
        hasher = hashlib.blake2b(self.field.digest(), digest_size=16)
        hasher.update(np.array([self.seed, self.tick, self.episode], np.int64).data)
        hasher.update(np.ascontiguousarray(self.poses).data)
        hasher.update(np.ascontiguousarray(self.memory).data)
        return hasher.digest()

    def apply(self, effects: TickEffects, *, verify: bool = True) -> None:
        """Advance by one logged tick. The environment's snapshot does not move; whoever replays must step it.

        Raises `CorruptRecord` if the effects are not of the next tick, or lead to another state than they did.
        """
        if effects.tick != self.tick + 1:
            raise CorruptRecord(f"effects of tick {effects.tick} do not follow tick {self.tick}")
        if effects.is_first:
            self.field = Field(self.field.layout, self.field.num_agents)
            self.episode += 1
        self.field.settle(effects.changes, effects.poses, effects.tick)
        self.tick, self.poses, self.memory = effects.tick, effects.poses, effects.memory
        if verify and self.digest() != effects.state_digest:
            raise CorruptRecord(f"tick {effects.tick} leads to another state than was committed")
