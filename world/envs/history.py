"""Snapshots of environments that cannot save themselves: the seed, and every joint action since.

To restore is to repeat: linear in the length of the episode, exact for whatever is deterministic, and checked
against a digest of what was last perceived.
"""

import hashlib
from abc import ABC, abstractmethod

import msgspec
import numpy as np

from world.envs.grounded import EnvSpec, Int32Array, Observed, Stepped
from world.errors import EnvironmentUnusable

_VERSION = 1


class _History(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    version: int
    name: str
    num_agents: int
    seed: int
    actions: bytes
    """Joint actions (T, A) as little-endian 16-bit numbers."""
    digest: bytes


_decoder = msgspec.msgpack.Decoder(_History)


class RepeatableEnv(ABC):
    """Base of adapters whose snapshot is their history."""

    spec: EnvSpec

    def __init__(self) -> None:
        self._seed: int | None = None
        self._actions = bytearray()
        self._observed: Observed | None = None

    @abstractmethod
    def _begin(self, seed: int) -> Observed:
        """Begin the episode that `seed` determines."""

    @abstractmethod
    def _advance(self, actions: Int32Array) -> Stepped:
        """Apply a joint action (A,)."""

    def reset(self, seed: int) -> Observed:
        """Begin the episode that `seed` determines."""
        self._observed = self._begin(seed)
        self._seed, self._actions = seed, bytearray()
        return self._observed

    def step(self, actions: Int32Array) -> Stepped:
        """Apply the joint action (A,)."""
        assert self._seed is not None, f"{self.spec.name}: step before reset"
        stepped = self._advance(actions)
        self._actions.extend(actions.astype("<u2").tobytes())
        self._observed = stepped.observed
        return stepped

    def snapshot(self) -> bytes:
        """Return the history since the reset."""
        assert self._seed is not None and self._observed is not None, f"{self.spec.name}: snapshot before reset"
        history = _History(
            version=_VERSION,
            name=self.spec.name,
            num_agents=len(self.spec.agents),
            seed=self._seed,
            actions=bytes(self._actions),
            digest=_digest(self._observed),
        )
        return msgspec.msgpack.encode(history)

    def restore(self, blob: bytes) -> Observed:
        """Repeat a history. Raises `EnvironmentUnusable` if it is another environment's or leads elsewhere now."""
        name, num_agents = self.spec.name, len(self.spec.agents)
        try:
            history = _decoder.decode(blob)
        except msgspec.MsgspecError as error:
            raise EnvironmentUnusable(f"{name}: the snapshot cannot be read ({error})") from error
        if (history.version, history.name, history.num_agents) != (_VERSION, name, num_agents):
            raise EnvironmentUnusable(
                f"{name}: expected a snapshot of version {_VERSION} with {num_agents} agents, got one of "
                f"{history.name!r}, version {history.version}, {history.num_agents} agents"
            )
        if len(history.actions) % (2 * num_agents):
            raise EnvironmentUnusable(f"{name}: the snapshot's actions are cut short")
        joint = np.frombuffer(history.actions, "<u2").reshape(-1, num_agents).astype(np.int32)
        if joint.size and joint.max() >= self.spec.num_actions:
            raise EnvironmentUnusable(
                f"{name}: the snapshot holds action {joint.max()}, there are {self.spec.num_actions}"
            )
        observed = self.reset(history.seed)
        for actions in joint:
            observed = self.step(actions).observed
        if _digest(observed) != history.digest:
            raise EnvironmentUnusable(
                f"{name}: repeating its {len(joint)} ticks led to other observations, so it is not deterministic, or "
                "another version of it is installed"
            )
        return observed


def _digest(observed: Observed) -> bytes:
    hasher = hashlib.blake2b(digest_size=16)
    for array in (observed.views, observed.poses):
        hasher.update(str((array.shape, array.dtype.str)).encode())
        hasher.update(np.ascontiguousarray(array).data)
    return hasher.digest()
