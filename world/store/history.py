"""Time travel: any tick that a world ever was at, from the newest valid keyframe before it and the log after that.

Ticks are read from the hot log, else from cold segments, else, before a fork, from the world it was forked from. No
lease is needed: what is past does not change, and what is read is verified.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from world.errors import ConfigError, CorruptRecord, NoHistory
from world.snapshot import Snapshot, TickEffects, WorldId
from world.store.archive import Archive
from world.store.codec import effects_of, snapshot_of, unseal_snapshot
from world.store.past import Past, WorldHistory
from world.store.records import WorldRecord
from world.store.segment import Logged, verified_entries

_PAGE: Final = 512
_MAX_ANCESTORS: Final = 1000


@dataclass(frozen=True, slots=True)
class Reached:
    """A tick of the past: a keyframe, and the ticks that lead from it there, their chain verified."""

    record: WorldRecord
    """Of the world whose line they are: the one that was asked for, or an ancestor."""
    tick: int
    keyframe: bytes
    """Payload of the snapshot at the keyframe's tick."""
    at: int
    """The keyframe's tick."""
    base: bytes
    """Digest of the chain there."""
    ticks: tuple[Logged, ...]

    @property
    def digest(self) -> bytes:
        """Of the chain at `tick`."""
        return self.ticks[-1].digest if self.ticks else self.base

    def beginning(self) -> Snapshot:
        """Return the keyframe."""
        return snapshot_of(self.keyframe)[0]

    def effects(self) -> tuple[TickEffects, ...]:
        """Return what the ticks after the keyframe did. Raises `CorruptRecord`."""
        return tuple(effects_of(logged.payload) for logged in self.ticks)

    def state(self) -> Snapshot:
        """Return the state at `tick`, verified by its digest; without the environment's own, unless it is a keyframe.

        Raises `CorruptRecord`.
        """
        snapshot = self.beginning()
        effects = self.effects()
        for number, tick in enumerate(effects, 1):
            # The digest is of the whole state, so the last one speaks for all.
            snapshot.apply(tick, verify=number == len(effects))
        return replace(snapshot, env=b"") if effects else snapshot


class History:
    """The past of a store's worlds, with their archive."""

    def __init__(self, past: WorldHistory, archive: Archive) -> None:
        self.kept, self.archive = past, archive

    def reach(self, world: WorldId, tick: int) -> Reached:
        """Return how a world came to be what it was at a tick.

        Raises `NoHistory` if it never was there or that is no longer kept, `CorruptRecord`, `UnknownWorld`.
        """
        for past in self._lineage(world):
            record = past.record
            if record.status == "deleted":
                raise NoHistory(f"world {record.world!r}: it was deleted, and its history with it")
            if tick > record.tick:
                raise NoHistory(f"world {record.world!r}: it is at tick {record.tick}, and never was at {tick}")
            found = self._reach(past, tick)
            if found is not None:
                return found
            if record.parent is None or record.fork_tick is None or tick > record.fork_tick:
                break
        raise NoHistory(f"world {world!r}: its history reaches back to tick {self.begins(world)}, not to {tick}")

    def state_at(self, world: WorldId, tick: int) -> Snapshot:
        """Return the state of a world at a tick, verified. Raises as `reach` does."""
        return self.reach(world, tick).state()

    def begins(self, world: WorldId) -> int:
        """Return the first tick at which a world, or the one it was forked from, can be visited."""
        begins = 0
        for past in self._lineage(world):
            begins = past.first_tick - 1
            if past.record.fork_tick is None or begins > past.record.fork_tick:
                break
        return begins

    def effects(self, world: WorldId, first: int, last: int) -> Iterator[TickEffects]:
        """Yield what ticks first … last did, their chain verified. Raises as `logged` does."""
        for logged in self.logged(world, first, last):
            yield effects_of(logged.payload)

    def logged(self, world: WorldId, first: int, last: int) -> Iterator[Logged]:
        """Yield ticks first … last, their chain verified within each line that they are of.

        Raises `ConfigError` for an impossible range, `NoHistory` where one is not kept, `CorruptRecord`.
        """
        if not 1 <= first <= last:
            raise ConfigError(f"ticks should go from 1 or later to no earlier tick, got {first} to {last}")
        parts: list[tuple[Past, int, int]] = []
        for past in self._lineage(world):
            if last > past.record.tick:
                raise NoHistory(
                    f"world {past.record.world!r}: it is at tick {past.record.tick}, and never was at {last}"
                )
            own = max(first, past.first_tick)
            if own <= last:
                parts.append((past, own, last))
                last = own - 1
            if last < first or past.record.fork_tick is None or last > past.record.fork_tick:
                break
        if last >= first:
            raise NoHistory(f"world {world!r}: its history reaches back to tick {self.begins(world)}, not to {first}")
        for past, begin, end in reversed(parts):
            yield from self.own(past, begin, end, None)

    def own(self, past: Past, first: int, last: int, base: bytes | None) -> Iterator[Logged]:
        """Yield ticks first … last of one line, whose chain goes on from `base`, if that is known.

        Raises `NoHistory`, `CorruptRecord`.
        """
        world, tick, digest = past.record.world, first, base
        while tick <= last:
            try:
                batch = self._hot(world, tick, last, digest)
            except CorruptRecord:
                if past.segment_at(tick) is None:
                    raise
                batch = ()
            if not batch and past.segment_at(tick) is None:
                # It may have been archived, and then trimmed, since `past` was read.
                past = self.kept.past(world)
            batch = batch or self._cold(past, tick, last, digest)
            yield from batch
            tick, digest = batch[-1].tick + 1, batch[-1].digest

    def _lineage(self, world: WorldId) -> Iterator[Past]:
        """Yield a world's past, and those of the worlds that it descends from."""
        past = self.kept.past(world)
        for _ in range(_MAX_ANCESTORS):
            yield past
            if past.record.parent is None:
                return
            past = self.kept.past(past.record.parent)
        raise CorruptRecord(f"world {world!r}: it has more than {_MAX_ANCESTORS} ancestors, so some are each other's")

    def _reach(self, past: Past, tick: int) -> Reached | None:
        broken: CorruptRecord | None = None
        for at, index in self._keyframes(past, tick):
            try:
                keyframe = self._keyframe(past, at, index)
                if keyframe is not None:
                    return self._from(past, keyframe, at, tick)
            except CorruptRecord as error:
                broken = broken or error
        if broken is not None:
            # Of its own kind: one that is only newer stays so.
            raise type(broken)(f"world {past.record.world!r}: nothing leads to tick {tick}: {broken}")
        return None

    def _from(self, past: Past, keyframe: bytes, at: int, tick: int) -> Reached:
        snapshot, base = snapshot_of(keyframe)
        if snapshot.tick != at:
            raise CorruptRecord(f"the keyframe of tick {at} holds tick {snapshot.tick}")
        logged = self.kept.entries(past.record.world, at, at)
        if logged and logged[0].digest != base:
            raise CorruptRecord(f"the keyframe of tick {at} belongs to another log")
        ticks = tuple(self.own(past, at + 1, tick, base))
        return Reached(past.record, tick, keyframe, at, base, ticks)

    def _keyframes(self, past: Past, tick: int) -> Iterator[tuple[int, int | None]]:
        """Yield (tick, segment or None for the store) where keyframes may be that do not come after `tick`."""
        hot = ((at, None) for at in reversed(past.keyframes) if at <= tick)
        cold = (
            (past.segments[index].first - 1, index)
            for index in range(len(past.segments) - 1, -1, -1)
            if past.segments[index].first - 1 <= tick
        )
        yield from heapq.merge(hot, cold, key=lambda candidate: -candidate[0])

    def _keyframe(self, past: Past, at: int, index: int | None) -> bytes | None:
        world = past.record.world
        if index is not None:
            return self.archive.read(world, past.segments[index]).keyframe or None
        frame = self.kept.keyframe(world, at)
        # One that is gone was trimmed since `past` was read: its segment has it.
        return None if frame is None else unseal_snapshot(frame)

    def _hot(self, world: WorldId, tick: int, last: int, base: bytes | None) -> tuple[Logged, ...]:
        entries = self.kept.entries(world, tick, min(last, tick + _PAGE - 1))
        if not entries or entries[0].tick != tick:
            return ()
        if [entry.tick for entry in entries] != list(range(tick, tick + len(entries))):
            raise CorruptRecord(f"world {world!r}: its log has a gap between ticks {tick} and {entries[-1].tick}")
        if base is None:
            before = self.kept.entries(world, tick - 1, tick - 1)
            base = before[0].digest if before else None
        if base is None:
            # Nothing before it is kept here, so the first one cannot be chained, only what follows it.
            return verified_entries(entries[1:], entries[0].digest, first=entries[0])
        return verified_entries(entries, base)

    def _cold(self, past: Past, tick: int, last: int, base: bytes | None) -> tuple[Logged, ...]:
        world, index = past.record.world, past.segment_at(tick)
        if index is None:
            raise NoHistory(f"world {world!r}: tick {tick} is neither in its log nor in its archive")
        end = min(last, past.end_of(index))
        segment = self.archive.read(world, past.segments[index])
        skipped = tick - segment.first
        before = segment.ticks[skipped - 1].digest if skipped else segment.base
        if base is not None and base != before:
            raise CorruptRecord(f"world {world!r}: the chain of digests breaks at tick {tick}, where a segment begins")
        return segment.ticks[skipped : end - segment.first + 1]
