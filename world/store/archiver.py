"""The archiver: turns what is old in the log into cold segments, and only then lets the store trim it.

In this order: write and fsync the segment, note it in the store, where that is fenced by the log's own digest. Whatever
dies in between leaves a file that nothing refers to, or a log that is longer than need be; never a gap.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from world.errors import ConfigError, Conflict, CorruptRecord, NewerSchema, StoreError, StoreFull, StoreUnavailable
from world.snapshot import WorldId
from world.store.archive import Archive
from world.store.codec import unseal_snapshot
from world.store.log import LogEntry
from world.store.past import Past, SegmentRef, WorldHistory
from world.store.refusals import PAUSED_BY_LOG
from world.store.segment import MAX_SEGMENT_TICKS, Segment, verified_entries

_MAX_FRAME_BYTES = 1 << 25
"""Frames, compressed, that go into one segment."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ArchiveConfig:
    """When ticks are archived, and how much of a world may be."""

    segment_ticks: int = 1024
    """Ticks that must have gathered before they become a segment; it ends at the last keyframe among them, if any."""
    segment_bytes: int = 1 << 23
    """Frames in the log that are as good a reason: large ticks are archived in smaller numbers."""
    least_segment_ticks: int = 128
    """A segment ends at a keyframe only if it is at least this long."""
    max_bytes_per_world: int = 1 << 40
    """A world whose archive has grown to this is archived no more, and so pauses in the end: nothing is dropped."""

    def __post_init__(self) -> None:
        if not 1 <= self.least_segment_ticks <= self.segment_ticks <= MAX_SEGMENT_TICKS:
            raise ConfigError(
                f"archive needs 1 <= least_segment_ticks <= segment_ticks <= {MAX_SEGMENT_TICKS},"
                f" got {self.least_segment_ticks} and {self.segment_ticks}"
            )
        for name in ("segment_bytes", "max_bytes_per_world"):
            if getattr(self, name) < 1:
                raise ConfigError(f"archive.{name} must be >= 1, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class Archived:
    """What one pass over some worlds came to."""

    segments: int
    ticks: int
    refused: dict[WorldId, str]
    """Worlds that could not be archived, and why."""


class Archiver:
    """Archives worlds. Several may run: what one has done the others find done."""

    def __init__(self, past: WorldHistory, archive: Archive, config: ArchiveConfig | None = None) -> None:
        self._past, self._archive, self._config = past, archive, config or ArchiveConfig()

    def run(self, worlds: Iterable[WorldId]) -> Archived:
        """Archive all that is due of these worlds. Raises `StoreUnavailable`, `DiskFull`."""
        segments = ticks = 0
        refused: dict[WorldId, str] = {}
        for world in worlds:
            try:
                for ref in self._segments(world, self._config.segment_ticks):
                    segments, ticks = segments + 1, ticks + ref.last - ref.first + 1
            except StoreUnavailable:
                raise
            except StoreError as error:
                text = str(error)
                refused[world] = text if world in text else f"world {world!r}: {text}"
        return Archived(segments, ticks, refused)

    def archive(self, world: WorldId, *, all_of_it: bool = False) -> list[SegmentRef]:
        """Archive what is due of one world, or all but its newest keyframes' ticks; return its new segments.

        Raises `StoreFull` at the cap of its archive, `CorruptRecord` for a log that does not verify, `DiskFull`.
        """
        return list(self._segments(world, 1 if all_of_it else self._config.segment_ticks))

    def _segments(self, world: WorldId, due_ticks: int) -> Iterator[SegmentRef]:
        while (ref := self._one(world, due_ticks)) is not None:
            yield ref

    def _one(self, world: WorldId, due_ticks: int) -> SegmentRef | None:
        past = self._past.past(world)
        first = past.archived_to + 1
        ticks = past.record.tick - past.archived_to
        due = ticks >= due_ticks or past.log_bytes >= self._config.segment_bytes
        # A world that waits for it is archived however little there is.
        due = due or past.record.reason == PAUSED_BY_LOG
        if past.record.status == "deleted" or not ticks or not due:
            return None
        if self._archive.num_bytes(world) >= self._config.max_bytes_per_world:
            raise StoreFull(
                f"world {world!r}: its archive has reached max_bytes_per_world = {self._config.max_bytes_per_world:,};"
                f" go on with a fork, which has an archive of its own: worlds fork {world}"
            )
        entries = self._fitting(self._past.entries(world, first, first + self._config.segment_ticks - 1))
        if not entries or entries[0].tick != first or entries[-1].tick != first + len(entries) - 1:
            raise CorruptRecord(f"world {world!r}: its log does not go on at tick {first}, up to where it is archived")
        entries = entries[: self._length(past, len(entries))]
        segment = Segment(
            base=(base := self._base(past, first)),
            keyframe=self._keyframe(past, first - 1),
            ticks=verified_entries(entries, base),
        )
        ref = self._archive.write(world, segment)
        try:
            num_bytes = sum(len(entry.frame) for entry in entries)
            self._past.archived(world, ref, segment.end, after=first - 1, num_bytes=num_bytes)
        except Conflict:
            # Another archiver was faster, or the world was rewound: the next pass looks at what there is then.
            return None
        return ref

    def _length(self, past: Past, num_entries: int) -> int:
        """Return how many entries the next segment takes: up to a keyframe, so that the one after begins with it."""
        first, least = past.archived_to + 1, self._config.least_segment_ticks
        ends = [at - first + 1 for at in past.keyframes if least <= at - first + 1 <= num_entries]
        return ends[-1] if ends else num_entries

    def _keyframe(self, past: Past, at: int) -> bytes:
        """Return the payload of a keyframe, or nothing. Raises `CorruptRecord`."""
        frame = self._past.keyframe(past.record.world, at)
        try:
            return b"" if frame is None else unseal_snapshot(frame)
        except NewerSchema:
            raise
        except CorruptRecord:
            # A line must begin with one; further on, those of the segments before lead there too.
            if past.segment_at(at) is None:
                raise
            return b""

    def _base(self, past: Past, first: int) -> bytes:
        """Return the digest of the chain before a tick that is in the log."""
        world = past.record.world
        before = self._past.entries(world, first - 1, first - 1)
        if before:
            return before[0].digest
        index = past.segment_at(first - 1)
        if index is not None:
            segment = self._archive.read(world, past.segments[index])
            return segment.ticks[first - 1 - segment.first].digest
        return past.birth_digest

    def _fitting(self, entries: list[LogEntry]) -> list[LogEntry]:
        size = 0
        for number, entry in enumerate(entries):
            size += len(entry.frame)
            if number and size > _MAX_FRAME_BYTES:
                return entries[:number]
        return entries
