"""A store in this process's memory: the same records, frames, refusals and trimming, and nothing that survives.

For tests and dry runs. It keeps frames, not objects, so that what it gives back has been through the codec.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from world.errors import ConfigError, CorruptRecord, NewerSchema, StoreError, StoreFull
from world.snapshot import Snapshot, TickEffects, WorldId
from world.store.codec import encode_snapshot
from world.store.in_process_history import InProcessHistory
from world.store.in_process_inbox import InProcessInbox, InProcessStream
from world.store.in_process_world import InProcessWorld
from world.store.keys import check_world_id
from world.store.log import (
    MAX_LOG_BYTES,
    MAX_LOG_TICKS,
    UNKNOWN_DIGEST,
    LogCaps,
    PackedCommit,
    check_owner,
    genesis,
    pack,
    restore,
    verified_one,
)
from world.store.records import Ack, Commit, FencingToken, Status, WorldRecord
from world.store.refusals import PAUSED_BY_LOG, refusal


class InProcessWorldStore:
    """A `WorldStore` without a server. Its acks name the level "process": they last as long as this process."""

    def __init__(
        self,
        *,
        lease_s: float = 10.0,
        hot_log_ticks: int = 4096,
        max_log_ticks: int = MAX_LOG_TICKS,
        max_log_bytes: int = MAX_LOG_BYTES,
        capacity_bytes: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make an empty store; `capacity_bytes` of frames fill it, `clock` (seconds) decides when leases end.

        `max_log_ticks` and `max_log_bytes` say how far a world may run ahead of its archive before it pauses; 0:
        without end.
        """
        if lease_s <= 0:
            raise ConfigError(f"lease_s must be > 0, got {lease_s}")
        if hot_log_ticks < 0:
            raise ConfigError(f"hot_log_ticks must be >= 0, got {hot_log_ticks}")
        self.lease_s = lease_s
        self._hot_log_ticks, self._caps = hot_log_ticks, LogCaps(max_log_ticks, max_log_bytes)
        self._capacity_bytes = capacity_bytes
        self._clock = clock
        self._worlds: dict[WorldId, InProcessWorld] = {}
        self._lock = threading.RLock()

    def create(self, record: WorldRecord, snapshot: Snapshot) -> None:
        """Make a world that begins at `snapshot`. Repeating is harmless; raises `WorldExists` for other content."""
        check_world_id(record.world)
        assert record.tick == snapshot.tick, f"world {record.world}: record and snapshot are of different ticks"
        digest = genesis(record, snapshot)
        keyframe = encode_snapshot(snapshot, chain=digest)
        with self._lock:
            existing = self._worlds.get(record.world)
            if existing is not None:
                if existing.created != digest:
                    raise refusal(record.world, ("EXISTS",))
                return
            self._make_room(len(keyframe))
            self._worlds[record.world] = InProcessWorld(
                record=replace(record, owner="", epoch=0),
                created=digest,
                born_at=snapshot.tick,
                digest=digest,
                active_at=self._clock(),
                archived_to=snapshot.tick,
                caps=self._caps,
                made_at=len(self._worlds),
                keyframes={snapshot.tick: keyframe},
            )

    def acquire(self, world: WorldId, *, owner: str, nonce: bytes) -> FencingToken:
        """Take the world: epoch + 1 with this nonce. Idempotent for the same nonce; the same owner may retake.

        Raises `LeaseHeld`, `UnknownWorld`, `NotRunning`.
        """
        check_owner(owner, nonce)
        with self._lock:
            held, now = self._world(world), self._clock()
            if held.record.status != "running":
                raise refusal(world, held.not_running())
            if held.nonce != nonce:
                if held.record.owner not in ("", owner) and held.lease_until > now:
                    left_ms = 1000 * (held.lease_until - now)
                    raise refusal(world, ("HELD", held.record.owner, f"{left_ms:.0f}"))
                held.record = replace(held.record, epoch=held.record.epoch + 1)
                held.nonce, held.active_at = nonce, now
            held.record = replace(held.record, owner=owner)
            held.lease_until = now + self.lease_s
            return FencingToken(world, held.record.epoch, nonce)

    def renew(self, tokens: Sequence[FencingToken]) -> list[bool | Exception]:
        """Prolong leases, answering for each token in order: True, or the `Fenced` that it met."""
        answers: list[bool | Exception] = []
        with self._lock:
            for token in tokens:
                held = self._worlds.get(token.world)
                if held is None or not held.owned_by(token):
                    answers.append(refusal(token.world, held.fenced() if held else ("NO_WORLD",)))
                    continue
                held.lease_until = self._clock() + self.lease_s
                answers.append(True)
        return answers

    def release(self, token: FencingToken) -> None:
        """End the lease at once, and the token with it; harmless if it was lost already."""
        with self._lock:
            held = self._worlds.get(token.world)
            if held is not None and held.owned_by(token):
                held.record = replace(held.record, owner="")
                held.nonce, held.lease_until, held.active_at = b"", 0.0, self._clock()

    def commit(self, commits: Sequence[Commit]) -> list[Ack | Exception]:
        """Keep ticks; answers in order, one for each. Repeating a commit is harmless."""
        answers: list[Ack | Exception] = []
        with self._lock:
            for commit in commits:
                try:
                    answers.append(self._commit(commit))
                except StoreError as error:
                    answers.append(error)
        return answers

    def load(self, world: WorldId) -> tuple[WorldRecord, Snapshot, tuple[TickEffects, ...]]:
        """Return the record, the snapshot at its newest valid keyframe, and the effects from there to the last tick.

        Every digest is verified. Raises `UnknownWorld`, also for one that was deleted, and `CorruptRecord`.
        """
        with self._lock:
            held = self._world(world)
            record, digest = self._seen(held), held.digest
            keyframes, log = dict(held.keyframes), dict(held.log)
        broken: CorruptRecord | None = None
        for at in sorted(keyframes, reverse=True):
            entries = [log[tick] for tick in range(at, record.tick + 1) if tick in log]
            try:
                return record, *restore(keyframes[at], at, entries, record.tick, digest)
            except NewerSchema as error:
                raise NewerSchema(f"world {world!r}: {error}") from None
            except CorruptRecord as error:
                broken = broken or error
        if held.gone:
            raise refusal(world, ("GONE",))
        raise CorruptRecord(f"world {world!r}: no keyframe and log lead to tick {record.tick}: {broken}")

    def effects(self, world: WorldId, first: int, last: int) -> Iterator[TickEffects]:
        """Yield the logged effects of ticks first … last, as far as the log still reaches."""
        with self._lock:
            log = self._world(world).log
            entries = [log[tick] for tick in range(first - 1, last + 1) if tick in log]
        before = entries.pop(0) if entries and entries[0].tick == first - 1 else None
        digest = before.digest if before else None
        for entry in entries:
            yield verified_one(entry, digest)
            digest = entry.digest

    def record(self, world: WorldId) -> WorldRecord:
        """Return what is known of one world. Raises `UnknownWorld`."""
        with self._lock:
            return self._seen(self._world(world))

    def records(self) -> list[WorldRecord]:
        """Return all worlds that are not deleted, newest activity first."""
        with self._lock:
            newest_first = sorted(self._worlds.values(), key=lambda held: held.active_at, reverse=True)
            return [self._seen(held) for held in newest_first if held.record.status != "deleted"]

    def set_status(self, world: WorldId, status: Status) -> None:
        """Pause, resume, quarantine or delete a world. Raises `UnknownWorld`."""
        with self._lock:
            held = self._world(world)
            if held.gone:
                if status != "deleted":
                    raise refusal(world, held.not_running())
                return
            held.set(status=status, reason="")
            held.active_at = self._clock()

    def history(self) -> InProcessHistory:
        """Return the past of these worlds."""
        return InProcessHistory(self._lock, self._worlds, self._clock, self._hot_log_ticks, self._caps)

    def inbox(self) -> InProcessInbox:
        """Return the inboxes of these worlds."""
        return InProcessInbox(self._lock, self._streams)

    def close(self) -> None:
        """Nothing is held that needs closing."""

    def _streams(self, world: WorldId) -> tuple[InProcessStream, Status]:
        held = self._world(world)
        return held.inbox, held.record.status

    def _world(self, world: WorldId) -> InProcessWorld:
        try:
            return self._worlds[world]
        except KeyError:
            raise refusal(world, ("NO_WORLD",)) from None

    def _seen(self, held: InProcessWorld) -> WorldRecord:
        return held.record if held.lease_until > self._clock() else replace(held.record, owner="")

    def _make_room(self, num_bytes: int) -> None:
        used = sum(held.num_bytes for held in self._worlds.values()) if self._capacity_bytes is not None else 0
        if self._capacity_bytes is not None and used + num_bytes > self._capacity_bytes:
            raise StoreFull(f"the store holds {used} of {self._capacity_bytes} bytes; {num_bytes} more do not fit")

    def _commit(self, commit: Commit) -> Ack:
        token, held = commit.token, self._world(commit.token.world)
        if not held.owned_by(token):
            raise refusal(token.world, held.fenced())
        if held.record.status != "running":
            raise refusal(token.world, held.not_running())
        committed = held.record.tick
        previous, tick = commit.effects[0].tick - 1, commit.effects[-1].tick
        if not previous <= committed <= tick:
            raise refusal(token.world, ("GAP", str(committed)), builds_on=previous)
        packed = pack(commit, self._digest_at(held, previous))
        known = committed - previous
        if known and packed.entries[known - 1].digest != held.digest:
            raise refusal(token.world, ("CONFLICT", str(committed)))
        if committed < tick:
            if held.at_cap(tick):
                held.set(status="paused", reason=PAUSED_BY_LOG)
                raise refusal(token.world, held.not_running())
            self._append(held, packed, known)
        held.lease_until = self._clock() + self.lease_s
        return Ack(token.world, tick, "process", repeated=committed == tick)

    def _digest_at(self, held: InProcessWorld, tick: int) -> bytes:
        if tick == held.record.tick:
            return held.digest
        if tick == held.born_at:
            return held.created
        entry = held.log.get(tick)
        return entry.digest if entry else UNKNOWN_DIGEST

    def _append(self, held: InProcessWorld, packed: PackedCommit, known: int) -> None:
        entries = packed.entries[known:]
        self._make_room(sum(len(entry.frame) for entry in entries) + len(packed.keyframe))
        tick = entries[-1].tick
        held.log |= {entry.tick: entry for entry in entries}
        held.record = replace(held.record, tick=tick, weights_version=packed.weights_version)
        held.digest, held.active_at = entries[-1].digest, self._clock()
        if packed.inbox is not None:
            held.inbox.move(packed.inbox)
        if packed.keyframe:
            held.keyframes[tick] = packed.keyframe
            held.count_log()
            if 0 < held.caps.bytes <= held.log_bytes:
                held.set(status="paused", reason=PAUSED_BY_LOG)
            held.trim(self._hot_log_ticks)
