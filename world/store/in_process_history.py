"""The past of worlds in this process's memory: the same promises, and nothing that survives."""

import threading
from collections.abc import Callable
from dataclasses import replace

from world.snapshot import WorldId
from world.store.in_process_world import InProcessWorld
from world.store.keys import check_world_id
from world.store.log import LogCaps, LogEntry
from world.store.past import NO_DAMAGE, Damage, Line, Past, Pin, SegmentRef, hot_log_ticks
from world.store.records import Status, WorldRecord
from world.store.refusals import PAUSED_BY_LOG, UNFINISHED, refusal


class InProcessHistory:
    """The `WorldHistory` of the worlds of one `InProcessWorldStore`."""

    def __init__(
        self,
        lock: threading.RLock,
        worlds: dict[WorldId, InProcessWorld],
        clock: Callable[[], float],
        hot_log_ticks: int,
        caps: LogCaps,
    ) -> None:
        self._lock, self._worlds, self._clock = lock, worlds, clock
        self._hot_log_ticks, self._caps = hot_log_ticks, caps

    def past(self, world: WorldId) -> Past:
        """Return what there is of a world. Raises `UnknownWorld`."""
        with self._lock:
            held = self._world(world)
            return Past(
                record=self._seen(held),
                digest=held.digest,
                born_at=held.born_at,
                birth_digest=held.created,
                archived_to=held.archived_to,
                segments=held.segments,
                keyframes=tuple(sorted(held.keyframes)),
                log_bytes=held.log_bytes,
            )

    def entries(self, world: WorldId, first: int, last: int) -> list[LogEntry]:
        """Return the log of ticks first … last as far as it still reaches back, unverified, in order."""
        with self._lock:
            held = self._world(world)
            return [held.log[tick] for tick in sorted(held.log) if first <= tick <= min(last, held.record.tick)]

    def keyframe(self, world: WorldId, tick: int) -> bytes | None:
        """Return the frame of the keyframe at a tick, or None."""
        with self._lock:
            return self._world(world).keyframes.get(tick)

    def archived(self, world: WorldId, ref: SegmentRef, digest: bytes, *, after: int, num_bytes: int) -> None:
        """Note that a segment is safely archived, and trim. Raises `Conflict`, `NotRunning` if it was deleted."""
        with self._lock:
            held = self._living(world)
            if held.archived_to == ref.last and ref in held.segments:
                return
            entry = held.log.get(ref.last)
            if held.archived_to != after or entry is None or entry.digest != digest:
                raise refusal(world, ("CHANGED", str(ref.last)))
            held.segments, held.archived_to = (*held.segments, ref), ref.last
            paused = held.record.status == "paused" and held.record.reason == PAUSED_BY_LOG
            held.count_log()
            if paused and held.half_way_to_cap():
                held.set(status="running", reason="")
            held.trim(hot_log_ticks(self._hot_log_ticks, ref, num_bytes))

    def forget(self, world: WorldId, before: int) -> None:
        """Let go of segments that end before a tick. Raises `Pinned` if any fork builds on this world."""
        with self._lock:
            held = self._world(world)
            self._refuse_pinned(world, held, -1)
            held.segments = tuple(ref for ref in held.segments if ref.last >= before)

    def pin(self, world: WorldId, tick: int, child: WorldId) -> None:
        """Promise a fork that the past up to `tick` stays. Raises `UnknownWorld`, `NotRunning`, `Conflict`."""
        with self._lock:
            held = self._living(world)
            if tick > held.record.tick:
                raise refusal(world, ("CHANGED", str(held.record.tick)))
            pinned_at = held.pins[child][1] if child in held.pins else self._clock()
            held.pins[child] = tick, pinned_at

    def unpin(self, world: WorldId, child: WorldId) -> None:
        """End that promise; harmless if there is none."""
        with self._lock:
            if world in self._worlds:
                self._worlds[world].pins.pop(child, None)

    def pins(self, world: WorldId) -> list[Pin]:
        """Return the forks of a world by tick."""
        with self._lock:
            pins, now = self._world(world).pins.items(), self._clock()
            return sorted((Pin(child, tick, now - at) for child, (tick, at) in pins), key=lambda p: (p.tick, p.child))

    def make(self, line: Line, write_segments: Callable[[], None] | None = None) -> None:
        """Make a world of a past, paused. Repeating is harmless, and goes on where a former call was cut short.

        Raises `WorldExists` for other content, and whatever `write_segments` does.
        """
        world = line.record.world
        check_world_id(world)
        with self._lock:
            if world not in self._worlds:
                self._begin(line)
            elif self._worlds[world].created != line.digest:
                raise refusal(world, ("EXISTS",))
        if write_segments is not None:
            write_segments()
        with self._lock:
            held = self._worlds[world]
            if (held.record.status, held.record.reason) == ("quarantined", UNFINISHED):
                held.set(status="paused", reason="")

    def set_parent(self, child: WorldId, parent: WorldId) -> None:
        """Let a fork read its past from another world. Raises `UnknownWorld`."""
        with self._lock:
            self._world(child).set(parent=parent)

    def rewind(self, now: Past, line: Line, status: Status, *, damage: Damage = NO_DAMAGE) -> None:
        """Take a world back to `line.at`. Raises `LeaseHeld`, `Conflict`, `Pinned`, `NotRunning` if it was deleted."""
        world, to = line.record.world, line.at
        with self._lock:
            held = self._world(world)
            record = held.record
            if (record.tick, held.digest, record.status, held.nonce) == (to, line.digest, status, b""):
                return
            self._living(world)
            if record.status == "running" and held.lease_until > self._clock():
                left_ms = 1000 * (held.lease_until - self._clock())
                raise refusal(world, ("HELD", record.owner, f"{left_ms:.0f}"))
            if (record.epoch, record.tick, held.digest) != (now.record.epoch, now.record.tick, now.digest):
                raise refusal(world, ("CHANGED", str(record.tick)))
            logged = held.log.get(to)
            if to > record.tick or (logged is not None and logged.digest != line.digest):
                raise refusal(world, ("CHANGED", str(to)))
            self._refuse_pinned(world, held, to)
            held.log = {tick: entry for tick, entry in held.log.items() if tick <= to}
            kept = {tick: frame for tick, frame in held.keyframes.items() if tick < to}
            held.keyframes = kept | {to: line.keyframe}
            held.segments = tuple(ref for ref in held.segments if ref.first <= to)
            held.archived_to, held.digest = min(held.archived_to, to), line.digest
            if damage.archived_copies:
                held.log = {tick: entry for tick, entry in held.log.items() if tick > held.archived_to}
            for tick in set(damage.keyframes) - {to}:
                held.keyframes.pop(tick, None)
            held.count_log()
            held.nonce, held.lease_until, held.active_at = b"", 0.0, self._clock()
            held.inbox.results = {name: found for name, found in held.inbox.results.items() if found.tick <= to}
            if to < held.born_at:
                held.born_at, held.created = to, line.digest
            held.set(
                tick=to,
                epoch=record.epoch + 1,
                owner="",
                status=status,
                reason="",
                weights_version=line.record.weights_version,
            )

    def delete(self, world: WorldId) -> WorldId | None:
        """Delete all but the fact that this world was, and return its parent. Raises `UnknownWorld`, `Pinned`."""
        with self._lock:
            held = self._world(world)
            if held.gone:
                return held.record.parent
            self._refuse_pinned(world, held, -1)
            held.set(status="deleted", reason="", epoch=held.record.epoch + 1, owner="")
            held.nonce, held.lease_until, held.gone = b"", 0.0, True
            held.log, held.keyframes, held.segments, held.pins = {}, {}, (), {}
            held.inbox = type(held.inbox)()
            return held.record.parent

    def listed(self, *, after: WorldId | None = None, limit: int = 100) -> list[WorldRecord]:
        """Return up to `limit` worlds that are not deleted, the newest made first. Raises `UnknownWorld`."""
        with self._lock:
            below = None if after is None else self._world(after).made_at
            newest = sorted(self._worlds.values(), key=lambda held: held.made_at, reverse=True)
            wanted = [held for held in newest if held.record.status != "deleted"]
            return [self._seen(held) for held in wanted if below is None or held.made_at < below][:limit]

    def _begin(self, line: Line) -> None:
        """List a world that is not whole yet. Whoever calls this holds the lock."""
        made = self._worlds[line.record.world] = InProcessWorld(
            record=replace(
                line.record,
                tick=line.entries[-1].tick if line.entries else line.at,
                owner="",
                epoch=0,
                status="quarantined",
                reason=UNFINISHED,
            ),
            created=line.digest,
            born_at=line.at,
            digest=line.entries[-1].digest if line.entries else line.digest,
            active_at=self._clock(),
            archived_to=line.at,
            caps=self._caps,
            made_at=len(self._worlds),
            log={entry.tick: entry for entry in line.entries},
            keyframes={line.at: line.keyframe},
            segments=line.segments,
        )
        made.count_log()

    def _world(self, world: WorldId) -> InProcessWorld:
        try:
            return self._worlds[world]
        except KeyError:
            raise refusal(world, ("NO_WORLD",)) from None

    def _living(self, world: WorldId) -> InProcessWorld:
        held = self._world(world)
        if held.record.status == "deleted":
            raise refusal(world, held.not_running())
        return held

    def _refuse_pinned(self, world: WorldId, held: InProcessWorld, beyond: int) -> None:
        pinned = sorted((tick, child) for child, (tick, _) in held.pins.items() if tick > beyond)
        if pinned:
            raise refusal(world, ("PINNED", pinned[0][1]))

    def _seen(self, held: InProcessWorld) -> WorldRecord:
        return held.record if held.lease_until > self._clock() else replace(held.record, owner="")
