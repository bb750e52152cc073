"""A world's log: what is appended for each tick, and how a world is restored from a keyframe and the log after it.

Each entry holds the frame of one tick's effects and the digest of the log up to it:
h_t = blake2b-16(h_{t-1} ‖ payload), of what the frame seals, not of the frame: archiving compresses anew.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from itertools import pairwise

import msgspec

from world.errors import ConfigError, CorruptRecord
from world.snapshot import Snapshot, TickEffects
from world.store.codec import (
    DIGEST_BYTES,
    decode_snapshot,
    effects_of,
    effects_payload,
    encode_snapshot,
    seal_effects,
    unseal_effects,
)
from world.store.inbox import InboxProgress
from world.store.records import Commit, WorldRecord

UNKNOWN_DIGEST = bytes(DIGEST_BYTES)
"""Stands for the digest of a tick that is no longer in the log: a commit on top of it can only be refused."""
NONCE_BYTES = 16
MAX_OWNER_LENGTH = 128
MAX_LOG_TICKS = 65_536
MAX_LOG_BYTES = 1 << 26
"""How far a world may run ahead of its archive before it pauses, unless a store is told otherwise."""
HOT_LOG_BYTES = 1 << 26
"""The log keeps fewer archived ticks than it is told to where they would have more bytes."""
KEYFRAMES_KEPT = 2
"""Keyframes that trimming always leaves, so that a broken one has a predecessor."""


@dataclass(frozen=True, slots=True)
class LogCaps:
    """How far a world may run ahead of its archive before it pauses; 0: without end."""

    ticks: int = MAX_LOG_TICKS
    bytes: int = MAX_LOG_BYTES
    """Of frames, counted with each keyframe."""

    def __post_init__(self) -> None:
        if min(self.ticks, self.bytes) < 0:
            raise ConfigError(f"max_log_ticks and max_log_bytes must be >= 0, got {self.ticks} and {self.bytes}")


DEFAULT_CAPS = LogCaps()


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One tick in the log."""

    tick: int
    digest: bytes
    frame: bytes


@dataclass(frozen=True, slots=True)
class PackedCommit:
    """A commit as bytes. Packing the same commit on the same digest gives the same bytes."""

    previous: int
    """Tick that it builds on."""
    base: bytes
    """Digest of the log up to there."""
    entries: tuple[LogEntry, ...]
    keyframe: bytes
    """Frame, or empty."""
    weights_version: int
    inbox: InboxProgress | None = None


def chain(previous: bytes, payload: bytes) -> bytes:
    """Return the digest (16 bytes) of a log that goes on with `payload`."""
    return hashlib.blake2b(previous + payload, digest_size=DIGEST_BYTES).digest()


def genesis(record: WorldRecord, snapshot: Snapshot) -> bytes:
    """Return the digest with which a world's log begins: of all that is fixed at its creation."""
    fixed = (record.world, record.name, record.kind, record.env, record.agents, record.tick)
    line = (record.tokenizer, record.parent, record.fork_tick)
    # Not the snapshot's frame: another version of zstd may compress the same snapshot to other bytes.
    content = (astuple(snapshot.field.layout), snapshot.digest(), snapshot.env)
    return chain(msgspec.msgpack.encode((*fixed, *line)), msgspec.msgpack.encode(content))


def pack(commit: Commit, digest: bytes) -> PackedCommit:
    """Return the commit as bytes, given the digest of the log that it builds on."""
    effects = commit.effects
    assert effects, f"world {commit.token.world}: a commit holds at least one tick"
    assert all(after.tick == before.tick + 1 for before, after in pairwise(effects)), (
        f"world {commit.token.world}: a commit holds consecutive ticks, got {[tick.tick for tick in effects]}"
    )
    base, entries = digest, []
    for tick in effects:
        payload = effects_payload(tick)
        digest = chain(digest, payload)
        entries.append(LogEntry(tick.tick, digest, seal_effects(payload)))
    keyframe = b""
    if commit.keyframe is not None:
        assert commit.keyframe.tick == effects[-1].tick, (
            f"world {commit.token.world}: keyframe of tick {commit.keyframe.tick} after tick {effects[-1].tick}"
        )
        # A snapshot that was touched since its tick would poison every later load.
        assert commit.keyframe.digest() == effects[-1].state_digest, (
            f"world {commit.token.world}: the keyframe of tick {commit.keyframe.tick} is not that tick's state"
        )
        keyframe = encode_snapshot(commit.keyframe, chain=digest)
    return PackedCommit(effects[0].tick - 1, base, tuple(entries), keyframe, effects[-1].weights_version, commit.inbox)


def verified(entries: Sequence[LogEntry], digest: bytes) -> tuple[TickEffects, ...]:
    """Return the effects of consecutive entries whose chain goes on from `digest`. Raises `CorruptRecord`."""
    effects = []
    for entry in entries:
        effects.append(verified_one(entry, digest))
        digest = entry.digest
    return tuple(effects)


def restore(
    keyframe: bytes, at: int, entries: Sequence[LogEntry], tick: int, digest: bytes
) -> tuple[Snapshot, tuple[TickEffects, ...]]:
    """Return the snapshot of a keyframe stored at tick `at` and the effects from there to `tick`.

    `entries` are the log from `at` on (the entry of `at` itself may be gone); `digest` is the chain's at `tick`.
    Raises `CorruptRecord` unless every frame, the chain and the keyframe's place in it verify.
    """
    snapshot, reached = decode_snapshot(keyframe)
    if snapshot.tick != at:
        raise CorruptRecord(f"the keyframe of tick {at} holds tick {snapshot.tick}")
    if entries and entries[0].tick == at:
        if entries[0].digest != reached:
            raise CorruptRecord(f"the keyframe of tick {at} belongs to another log")
        entries = entries[1:]
    if [entry.tick for entry in entries] != list(range(at + 1, tick + 1)):
        raise CorruptRecord(f"the log does not reach from the keyframe of tick {at} to tick {tick} without a gap")
    effects = verified(entries, reached)
    if (entries[-1].digest if entries else reached) != digest:
        raise CorruptRecord(f"the log ends at tick {tick} with another digest than the world's")
    return snapshot, effects


def verified_one(entry: LogEntry, before: bytes | None) -> TickEffects:
    """Return the effects of one entry, given the digest before it, if that is known. Raises `CorruptRecord`."""
    payload = payload_of(entry)
    if before is not None and chain(before, payload) != entry.digest:
        raise CorruptRecord(f"the chain of digests breaks at tick {entry.tick}")
    tick = effects_of(payload)
    if tick.tick != entry.tick:
        raise CorruptRecord(f"the log holds tick {tick.tick} as tick {entry.tick}")
    return tick


def payload_of(entry: LogEntry) -> bytes:
    """Return what is chained of an entry. Raises `CorruptRecord`."""
    try:
        return unseal_effects(entry.frame)
    except CorruptRecord as error:
        # Of its own kind: one that is only newer stays so.
        raise type(error)(f"tick {entry.tick}: {error}") from None


def check_owner(owner: str, nonce: bytes) -> None:
    """Raise `ConfigError` for a name or nonce that cannot own a world."""
    if not owner or len(owner) > MAX_OWNER_LENGTH:
        raise ConfigError(f"an owner's name should have 1 to {MAX_OWNER_LENGTH} characters, got {owner!r}")
    if len(nonce) != NONCE_BYTES:
        raise ConfigError(f"a nonce should have {NONCE_BYTES} random bytes, got {len(nonce)}")
