"""The past of worlds in Redis or Valkey."""

import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from redis.exceptions import RedisError

from world.errors import CorruptRecord
from world.snapshot import WorldId
from world.store import keys
from world.store.keys import check_world_id
from world.store.link import LIBRARY, MAX_BYTES, Link
from world.store.log import KEYFRAMES_KEPT, LogCaps, LogEntry
from world.store.past import NO_DAMAGE, Damage, Line, Past, Pin, SegmentRef, hot_log_ticks, member_of, segments_of
from world.store.records import Status, WorldRecord
from world.store.redis_listing import page
from world.store.refusals import UNFINISHED, refusal
from world.store.replies import cap_fields, log_entries, milliseconds, pairs, record_fields, record_of
from world.store.wire import Part

_PAGE: Final = 512
_ENTRIES_PER_CALL: Final = 64
_BYTES_PER_CALL: Final = MAX_BYTES // 2
_MAX_SEQUENCE: Final = 2**64 - 1


class RedisHistory:
    """The `WorldHistory` of the worlds on one server."""

    def __init__(self, link: Link, *, hot_log_ticks: int, caps: LogCaps) -> None:
        self._link, self._hot_log_ticks, self._caps = link, hot_log_ticks, caps

    def past(self, world: WorldId) -> Past:
        """Return what there is of a world. Raises `UnknownWorld`, `CorruptRecord`."""
        *_, answers = self._link.call_all(
            [
                ("MULTI",),
                ("HGETALL", keys.meta(world)),
                ("TIME",),
                ("ZRANGE", keys.segments(world), 0, -1),
                ("ZRANGE", keys.keyframe_index(world), 0, -1),
                ("EXEC",),
            ]
        )
        meta, now, members, keyframes = map(self._link.answer, self._link.answer(answers))
        fields = pairs(meta)
        record, digest = record_of(world, fields, milliseconds(now))
        try:
            archived_to = int(fields[b"ct"])
            segments = segments_of([member.decode() for member in members])
            return Past(
                record=record,
                digest=digest,
                born_at=int(fields[b"bt"]),
                birth_digest=fields[b"cd"],
                archived_to=archived_to,
                # One that begins beyond was left there by a function that failed half-way.
                segments=tuple(ref for ref in segments if ref.first <= archived_to),
                log_bytes=int(fields.get(b"lb", b"0")),
                keyframes=tuple(tick for tick in map(int, keyframes) if tick <= record.tick),
            )
        except (KeyError, ValueError) as error:
            raise CorruptRecord(f"world {world!r}: its list of segments does not verify ({error!r})") from None

    def entries(self, world: WorldId, first: int, last: int) -> list[LogEntry]:
        """Return the log of ticks first … last as far as it still reaches back, unverified, in order."""
        entries: list[LogEntry] = []
        start = max(first, 0)
        while start <= last:
            stream = self._link.one("XRANGE", keys.log(world), f"{start}-0", f"{last}-{_MAX_SEQUENCE}", "COUNT", _PAGE)
            entries += log_entries(stream)
            if len(stream) < _PAGE:
                break
            start = entries[-1].tick + 1
        return entries

    def keyframe(self, world: WorldId, tick: int) -> bytes | None:
        """Return the frame of the keyframe at a tick, or None."""
        frame: bytes | None = self._link.one("GET", keys.keyframe(world, tick))
        return frame

    def archived(self, world: WorldId, ref: SegmentRef, digest: bytes, *, after: int, num_bytes: int) -> None:
        """Note that a segment is safely archived, and trim. Raises `Conflict`, `NotRunning` if it was deleted."""
        bounds = (after, ref.first, ref.last, digest, ref.name)
        hot_ticks = hot_log_ticks(self._hot_log_ticks, ref, num_bytes)
        self._write(world, "archived", *bounds, hot_ticks, KEYFRAMES_KEPT, num_bytes)

    def forget(self, world: WorldId, before: int) -> None:
        """Let go of segments that end before a tick. Raises `Pinned` if any fork builds on this world."""
        self._write(world, "forget_segments", before)

    def pin(self, world: WorldId, tick: int, child: WorldId) -> None:
        """Promise a fork that the past up to `tick` stays. Raises `UnknownWorld`, `NotRunning`, `Conflict`."""
        self._write(world, "pin", tick, child)

    def unpin(self, world: WorldId, child: WorldId) -> None:
        """End that promise; harmless if there is none."""
        self._write(world, "unpin", child)

    def pins(self, world: WorldId) -> list[Pin]:
        """Return the forks of a world by tick."""
        pinned, pinned_at, now = self._answers(
            ("ZRANGE", keys.pins(world), 0, -1, "WITHSCORES"),
            ("ZRANGE", keys.pinned_at(world), 0, -1, "WITHSCORES"),
            ("TIME",),
        )
        since, now_ms = pairs(pinned_at), milliseconds(now)
        return [
            Pin(WorldId(child.decode()), int(float(tick)), (now_ms - float(since.get(child, now_ms))) / 1000)
            for child, tick in pairs(pinned).items()
        ]

    def make(self, line: Line, write_segments: Callable[[], None] | None = None) -> None:
        """Make a world of a past, paused. Repeating is harmless, and goes on where a former call was cut short.

        Raises `WorldExists` for other content, and whatever `write_segments` does.
        """
        world = line.record.world
        check_world_id(world)
        segments = [part for ref in line.segments for part in (ref.first, member_of(ref))]
        fields = record_fields(line.record) | {"st": "quarantined", "why": UNFINISHED} | cap_fields(self._caps)
        flat = [part for item in fields.items() for part in item]
        self._link.one("ZADD", keys.index(world), "NX", time.time_ns() // 1_000_000, world)
        # Until it is whole nobody may have it: whoever dies here leaves a quarantined world, to be seen and deleted.
        self._write(world, "create", line.digest, line.at, line.keyframe, *flat)
        self._write(world, "add_segments", *segments)
        if write_segments is not None:
            write_segments()
        for batch in _batches(line.entries):
            ticks = [part for entry in batch for part in (entry.digest, entry.frame)]
            self._write(world, "append", batch[0].tick - 1, batch[-1].tick, *ticks)
        self._write(world, "finish")

    def set_parent(self, child: WorldId, parent: WorldId) -> None:
        """Let a fork read its past from another world. Raises `UnknownWorld`."""
        self._write(child, "set_parent", parent)

    def rewind(self, now: Past, line: Line, status: Status, *, damage: Damage = NO_DAMAGE) -> None:
        """Take a world back to `line.at`. Raises `LeaseHeld`, `Conflict`, `Pinned`, `NotRunning` if it was deleted."""
        was = (now.record.epoch, now.record.tick, now.digest)
        becomes = (line.at, line.digest, line.keyframe, line.record.weights_version, status)
        drop = ("1" if damage.archived_copies else "", *(tick for tick in damage.keyframes if tick != line.at))
        self._write(line.record.world, "rewind", *was, *becomes, *drop)

    def delete(self, world: WorldId) -> WorldId | None:
        """Delete all but the fact that this world was, and return its parent. Raises `UnknownWorld`, `Pinned`.

        Repeating is harmless.
        """
        parent = self._write(world, "delete")[1]
        self._link.one("ZREM", keys.index(world), world)
        return WorldId(parent.decode()) if parent else None

    def listed(self, *, after: WorldId | None = None, limit: int = 100) -> list[WorldRecord]:
        """Return up to `limit` worlds that are not deleted, the newest made first.

        Raises `UnknownWorld`, and `CorruptRecord`, which names one.
        """
        found = []
        for _, record in self.page(after=after, limit=limit):
            if isinstance(record, CorruptRecord):
                raise record
            found.append(record)
        return found

    def page(
        self, *, after: WorldId | None = None, limit: int = 100
    ) -> list[tuple[WorldId, WorldRecord | CorruptRecord]]:
        """Return what `listed` does, with the error in the place of a record that does not verify."""
        return page(self._link, after=after, limit=limit)

    def _answers(self, *commands: tuple[Part, ...]) -> list[Any]:
        return [self._link.answer(reply) for reply in self._link.call_all(commands)]

    def _write(self, world: WorldId, name: str, *arguments: Part) -> list[bytes]:
        call = ("FCALL", f"{LIBRARY}_{name}", 2, keys.meta(world), keys.log(world), *arguments)
        reply = self._link.write_all([call])[0]
        if isinstance(reply, RedisError):
            raise self._link.failure(reply)
        if reply[0] not in (b"OK", b"DUP"):
            raise refusal(world, [part.decode() for part in reply])
        return list(reply)


def _batches(entries: tuple[LogEntry, ...]) -> Iterator[list[LogEntry]]:
    batch: list[LogEntry] = []
    size = 0
    for entry in entries:
        if batch and (len(batch) == _ENTRIES_PER_CALL or size + len(entry.frame) > _BYTES_PER_CALL):
            yield batch
            batch, size = [], 0
        batch.append(entry)
        size += len(entry.frame)
    if batch:
        yield batch
