"""What a store keeps of a world's past, as bytes, and what may be done with it. `History` makes states of it.

A world's own line is a chain of ticks: archived segments, then the log. What lies before a fork is its parent's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from world.snapshot import WorldId
from world.store.log import HOT_LOG_BYTES, LogEntry
from world.store.records import Status, WorldRecord, WorldStore


@dataclass(frozen=True, slots=True)
class SegmentRef:
    """Ticks first … last, archived in a file that is named by its content."""

    first: int
    last: int
    name: str
    """Digest of the file, 32 hexadecimal digits."""


@dataclass(frozen=True, slots=True)
class Pin:
    """A fork that reads its past, up to `tick`, from the world that it is pinned to."""

    child: WorldId
    tick: int
    age_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Past:
    """What there is of one world's own line at one moment."""

    record: WorldRecord
    digest: bytes
    """Of the chain at `record.tick`."""
    born_at: int
    """Tick that it was made at."""
    birth_digest: bytes
    """Of the chain there."""
    archived_to: int
    """Ticks up to here are in segments; only they are ever trimmed from the log."""
    segments: tuple[SegmentRef, ...]
    """In order. One that is followed by another ends where that one begins, whatever it holds beyond."""
    keyframes: tuple[int, ...]
    """Ticks of the keyframes that the store holds, in order."""
    log_bytes: int = 0
    """Of the frames that are not archived yet, as they were counted with the newest keyframe."""

    @property
    def first_tick(self) -> int:
        """The first tick of which the effects are kept in this line."""
        if self.segments:
            return self.segments[0].first
        return self.archived_to + 1

    def segment_at(self, tick: int) -> int | None:
        """Return the index of the segment that holds a tick of this line, or None."""
        for index in range(len(self.segments) - 1, -1, -1):
            if self.segments[index].first <= tick:
                return index if tick <= self.end_of(index) else None
        return None

    def end_of(self, index: int) -> int:
        """Return the last tick of this line that a segment holds."""
        end = min(self.segments[index].last, self.archived_to)
        return min(end, self.segments[index + 1].first - 1) if index + 1 < len(self.segments) else end


@dataclass(frozen=True, slots=True)
class Damage:
    """What does not verify and is not needed, for it is kept elsewhere or follows from the rest."""

    archived_copies: bool = False
    """Something in the log of ticks that are archived too."""
    keyframes: tuple[int, ...] = ()
    """Ticks of keyframes in the store."""


NO_DAMAGE: Final = Damage()


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A world that is made of a past: its keyframe at `at`, the ticks after it, and segments with those before it."""

    record: WorldRecord
    """Its tick, owner, epoch and status are not looked at."""
    at: int
    digest: bytes
    """Of the chain at `at`."""
    keyframe: bytes
    """Frame."""
    entries: tuple[LogEntry, ...]
    segments: tuple[SegmentRef, ...] = ()


class WorldHistory(Protocol):
    """The past of a store's worlds. Every method may raise `StoreUnavailable`; calls are then safe to repeat."""

    def past(self, world: WorldId) -> Past:
        """Return what there is of a world. Raises `UnknownWorld`, `CorruptRecord`."""

    def entries(self, world: WorldId, first: int, last: int) -> list[LogEntry]:
        """Return the log of ticks first … last as far as it still reaches back, unverified, in order."""

    def keyframe(self, world: WorldId, tick: int) -> bytes | None:
        """Return the frame of the keyframe at a tick, or None."""

    def archived(self, world: WorldId, ref: SegmentRef, digest: bytes, *, after: int, num_bytes: int) -> None:
        """Note that a segment, whose last digest is given, is safely archived, and trim what need not stay in the log.

        `num_bytes` is what the frames of its ticks have in the log.

        Nothing happens, and `Conflict` is raised, unless the world is archived up to `after` and its log has that
        digest at that tick. A world that was paused because its log was too long runs again. Repeating is harmless.
        """

    def forget(self, world: WorldId, before: int) -> None:
        """Let go of segments that end before a tick. Raises `Pinned` if any fork builds on this world."""

    def pin(self, world: WorldId, tick: int, child: WorldId) -> None:
        """Promise a fork that the past up to `tick` stays. Raises `UnknownWorld`, `NotRunning`, `Conflict`."""

    def unpin(self, world: WorldId, child: WorldId) -> None:
        """End that promise; harmless if there is none."""

    def pins(self, world: WorldId) -> list[Pin]:
        """Return the forks of a world by tick."""

    def make(self, line: Line, write_segments: Callable[[], None] | None = None) -> None:
        """Make a world of a past, paused. Repeating is harmless, and goes on where a former call was cut short.

        `write_segments` stores the files of its segments. It is called once the world is listed and while nobody may
        have it: whoever dies there leaves a quarantined world, and no files that nobody knows of.

        Raises `WorldExists` for other content.
        """

    def set_parent(self, child: WorldId, parent: WorldId) -> None:
        """Let a fork read its past from another world, which holds the same. Raises `UnknownWorld`."""

    def rewind(self, now: Past, line: Line, status: Status, *, damage: Damage = NO_DAMAGE) -> None:
        """Take a world back to `line.at`, whose keyframe is given: its ticks after that are gone, and what is damaged.

        Whoever owned it is fenced. Raises `LeaseHeld` if it runs on a host, `Conflict` if it is no longer as `now`
        says, `Pinned` if a fork builds on what would be cut off.
        """

    def delete(self, world: WorldId) -> WorldId | None:
        """Delete all but the fact that this world was, and return its parent. Raises `UnknownWorld`, `Pinned`.

        Repeating is harmless, and a record that does not verify no hindrance.
        """

    def listed(self, *, after: WorldId | None = None, limit: int = 100) -> list[WorldRecord]:
        """Return up to `limit` worlds that are not deleted, the newest made first; a next page begins after a world.

        Raises `UnknownWorld` for an `after` that no index knows.
        """


class HistoricStore(WorldStore, Protocol):
    """A store that keeps the past of its worlds."""

    def history(self) -> WorldHistory:
        """Return it."""


def hot_log_ticks(wanted: int, ref: SegmentRef, num_bytes: int) -> int:
    """Return how many ticks the log keeps though they are archived, if all are as large as this segment's."""
    return min(wanted, HOT_LOG_BYTES * (ref.last - ref.first + 1) // max(num_bytes, 1))


def member_of(ref: SegmentRef) -> str:
    """Return a segment as the store lists it."""
    return f"{ref.first}-{ref.last}-{ref.name}"


def segments_of(members: Sequence[str]) -> tuple[SegmentRef, ...]:
    """Return the listed segments in order. Raises `ValueError` for what `member_of` never made."""
    refs = []
    for member in members:
        first, last, name = member.split("-")
        refs.append(SegmentRef(int(first), int(last), name))
    return tuple(sorted(refs, key=lambda ref: (ref.first, ref.last)))
