"""What a world store takes and gives. Bytes appear only in `codec`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from world.snapshot import Kind, Snapshot, TickEffects, WorldId
from world.store.inbox import InboxProgress

Status = Literal["running", "paused", "quarantined", "deleted"]
Durability = Literal["process", "disk", "replica"]


@dataclass(frozen=True, slots=True)
class FencingToken:
    """Proof of ownership: the epoch only rises, and the nonce tells a lost and reissued epoch apart."""

    world: WorldId
    epoch: int
    nonce: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldRecord:
    """What is known of a world without loading it."""

    world: WorldId
    name: str
    kind: Kind
    env: str
    """Which environment it is, or dreams of, as given to `make_env`."""
    agents: int
    tick: int
    """Last committed tick."""
    status: Status
    owner: str
    """Name of the host whose lease is unexpired, or empty."""
    epoch: int
    weights_version: int
    """Of the last committed tick."""
    tokenizer: str
    """Digest of the frozen tokenizer that its tokens belong to."""
    parent: WorldId | None = None
    fork_tick: int | None = None
    reason: str = ""
    """Why it is paused, where no person paused it."""


@dataclass(frozen=True, slots=True)
class Commit:
    """Consecutive ticks of one world, made durable together; `keyframe` is the snapshot after the last, or None.

    `inbox` is how far these ticks have read it, with the results of what they applied; None: they read nothing.
    """

    token: FencingToken
    effects: tuple[TickEffects, ...]
    keyframe: Snapshot | None = None
    inbox: InboxProgress | None = None


@dataclass(frozen=True, slots=True)
class Ack:
    """A commit that is durable at the named level."""

    world: WorldId
    tick: int
    durability: Durability
    repeated: bool
    """The same commit had been acknowledged before."""


class WorldStore(Protocol):
    """Durable worlds. Every method may raise `StoreUnavailable`; calls are then safe to repeat."""

    def create(self, record: WorldRecord, snapshot: Snapshot) -> None:
        """Make a world that begins at `snapshot`. Repeating is harmless; raises `WorldExists` for other content."""

    def acquire(self, world: WorldId, *, owner: str, nonce: bytes) -> FencingToken:
        """Take the world: epoch + 1 with this nonce. Idempotent for the same nonce; the same owner may retake.

        Raises `LeaseHeld`, `UnknownWorld`, `NotRunning`, and `CorruptRecord`, having written nothing.
        """

    def renew(self, tokens: Sequence[FencingToken]) -> list[bool | Exception]:
        """Prolong leases, answering for each token in order: True, or the `Fenced` that it met."""

    def release(self, token: FencingToken) -> None:
        """End the lease at once; harmless if it was lost already."""

    def commit(self, commits: Sequence[Commit]) -> list[Ack | Exception]:
        """Make ticks durable, all in one round trip; answers in order, one for each.

        An answer is an `Ack`, or the `Fenced`, `Gap`, `Conflict`, `NotRunning`, `UnknownWorld`, `WorldTooLarge` or
        `StoreFull` that this world met; the others' commits stand. Repeating a commit is harmless.
        """

    def load(self, world: WorldId) -> tuple[WorldRecord, Snapshot, tuple[TickEffects, ...]]:
        """Return the record, the snapshot at its newest keyframe, and the effects from there to the last tick.

        Every digest is verified. Raises `UnknownWorld`, also for one that was deleted, and `CorruptRecord`.
        """

    def effects(self, world: WorldId, first: int, last: int) -> Iterator[TickEffects]:
        """Yield the logged effects of ticks first … last, as far as the log still reaches."""

    def record(self, world: WorldId) -> WorldRecord:
        """Return what is known of one world. Raises `UnknownWorld`."""

    def records(self) -> list[WorldRecord]:
        """Return all worlds that are not deleted, newest activity first."""

    def set_status(self, world: WorldId, status: Status) -> None:
        """Pause, resume, quarantine or delete a world."""
