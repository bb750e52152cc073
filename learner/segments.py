"""Append-only segment files of chunks: write-ahead log, cold tier and checkpoint of a replay shard in one.

A segment is a file header and frames. `write()` returns before the disk has it, but after the kernel has: the death of
this process loses nothing; the loss of power loses at most what came after the last seal or watermark.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import zstandard

from learner.frames import FILE_HEADER, Frame, decoded_bytes, encode_frame, read_segment
from world.durable import disk_full_told, sync_directory
from world.errors import ConfigError, DiskFull, ReplayError
from world.trajectory import Chunk

_SEALED, _OPEN = ".segment", ".open"


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentConfig:
    """When segments are sealed, and how many are kept."""

    segment_bytes: int = 64 << 20
    """A segment that has grown to this is sealed by the next append."""
    segment_age_s: float = 60.0
    """A segment this old is sealed by the next append."""
    quota_bytes: int = 8 << 30
    """Oldest sealed segments are deleted beyond this."""
    compression_level: int = 1
    """Of zstd."""

    def __post_init__(self) -> None:
        if self.segment_bytes < 1:
            raise ConfigError(f"segments.segment_bytes must be >= 1, got {self.segment_bytes}")
        if not self.segment_age_s > 0:
            raise ConfigError(f"segments.segment_age_s must be > 0, got {self.segment_age_s}")
        if self.quota_bytes < 2 * self.segment_bytes:
            raise ConfigError(
                f"segments.quota_bytes must hold two segments of {self.segment_bytes:,}, got {self.quota_bytes:,}"
            )
        if not 1 <= self.compression_level <= 19:
            raise ConfigError(f"segments.compression_level must be 1 … 19, got {self.compression_level}")


class Watermark(NamedTuple):
    """A moment of a log: the segment and the offset at which the next frame was to go."""

    segment: int
    offset: int


@dataclass(slots=True)
class ScanReport:
    """What was found, and what was lost, when a log was opened."""

    frames: int = 0
    segments: int = 0
    skipped_segments: int = 0
    """Sound or not, too old to fit the budget, and so not read."""
    damaged_segments: int = 0
    lost_bytes: int = 0
    """In damaged sealed segments, from the first malformed frame on."""
    torn_bytes: int = 0
    """Cut from segments that were never sealed."""


class SegmentLog:
    """The segments of one shard. One process holds the directory; a second is refused."""

    def __init__(
        self,
        config: SegmentConfig,
        directory: Path,
        *,
        write: Callable[[int, bytes | memoryview], int] = os.write,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Open or create the log; segments left open by a dead process are cut at their first bad byte and sealed.

        Raises `ReplayError` if another process holds it. `write` and `clock` are what tests replace.
        """
        self._config, self._directory, self._write, self._clock = config, directory, write, clock
        self._compressor = zstandard.ZstdCompressor(level=config.compression_level)
        directory.mkdir(parents=True, exist_ok=True)
        self._lock = _hold(directory)
        self._descriptor = -1
        self._offset, self._opened_at = 0, 0.0
        self.scanned = ScanReport()
        for path in _segments(directory, _OPEN):
            self._cut_torn_tail(path)
        self._sizes = {int(path.stem): path.stat().st_size for path in _segments(directory, _SEALED)}
        self._next = max(self._sizes, default=-1) + 1

    @property
    def num_bytes(self) -> int:
        """Bytes on disk."""
        return sum(self._sizes.values()) + self._offset

    def scan(self, budget_bytes: int) -> Iterator[Frame]:
        """Yield stored chunks, oldest first: the newest that fill `budget_bytes` decoded, and a little more.

        A malformed frame ends its segment, is counted in `scanned`, and the next segment goes on.
        """
        self._seal()
        self.scanned = ScanReport(torn_bytes=self.scanned.torn_bytes)
        for segment in self._suffix(budget_bytes):
            sound = len(FILE_HEADER)
            self.scanned.segments += 1
            try:
                for end, frame in read_segment(self._path(segment)):
                    self.scanned.frames += 1
                    sound = end
                    yield frame
            except ReplayError:
                self.scanned.damaged_segments += 1
                self.scanned.lost_bytes += self._sizes[segment] - sound

    def append(self, chunk: Chunk) -> float:
        """Store a chunk; return the time it is stamped with. Raises `DiskFull`; the log is then what it was."""
        now = self._clock()
        if self._offset >= self._config.segment_bytes or now - self._opened_at >= self._config.segment_age_s:
            self._seal()
        data = encode_frame(Frame(chunk, now), self._compressor)
        if self._descriptor < 0:
            self._open()
        self._write_all(data)
        self._keep_quota()
        return now

    def watermark(self) -> Watermark:
        """Make all that was appended durable, and name this moment. Raises `DiskFull`."""
        if self._descriptor < 0:
            return Watermark(self._next, 0)
        self._sync()
        return Watermark(self._next, self._offset)

    def truncate(self, watermark: Watermark) -> None:
        """Forget all that was appended after `watermark`.

        Raises `ReplayError`, with nothing forgotten, if what was there at that moment is there no more.
        """
        self._seal()
        segment, offset = watermark
        size = self._sizes.get(segment, 0)
        if offset > size or offset < 0:
            raise ReplayError(
                f"{self._directory}: segment {segment} should reach {offset:,} and reaches {size:,}; the quota or a "
                f"fault took what the checkpoint names; start from another checkpoint, or with an empty directory"
            )
        for later in [index for index in self._sizes if index > segment or (index == segment and offset == 0)]:
            self._path(later).unlink()
            del self._sizes[later]
        if offset:
            with self._path(segment).open("r+b") as file:
                file.truncate(offset)
                os.fsync(file.fileno())
            self._sizes[segment] = offset
        sync_directory(self._directory)

    def close(self) -> None:
        """Seal the open segment and let go of the directory, also where it cannot be sealed. Raises `DiskFull`."""
        try:
            self._seal()
        finally:
            os.close(self._lock)

    def _path(self, segment: int, suffix: str = _SEALED) -> Path:
        return self._directory / f"{segment:010d}{suffix}"

    def _suffix(self, budget_bytes: int) -> list[int]:
        """Return the newest segments whose chunks fill the budget, oldest first."""
        segments = sorted(self._sizes)
        for position in range(len(segments) - 1, -1, -1):
            if budget_bytes <= 0:
                self.scanned.skipped_segments = position + 1
                return segments[position + 1 :]
            budget_bytes -= decoded_bytes(self._path(segments[position]))
        return segments

    def _open(self) -> None:
        path = self._path(self._next, _OPEN)
        with disk_full_told(path, len(FILE_HEADER)):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        self._descriptor, self._offset, self._opened_at = descriptor, 0, self._clock()
        try:
            self._write_all(FILE_HEADER)
        except DiskFull:
            os.close(descriptor)
            self._descriptor = -1
            path.unlink()
            raise
        # A watermark makes what is in it durable; its name must be so before.
        sync_directory(self._directory)

    def _write_all(self, data: bytes) -> None:
        """Append wholly or not at all: a nearly full disk takes a part of a write before it refuses."""
        view = memoryview(data)
        try:
            with disk_full_told(self._path(self._next, _OPEN), len(data)):
                while view:
                    view = view[self._write(self._descriptor, view) :]
        except (OSError, DiskFull):
            os.ftruncate(self._descriptor, self._offset)
            os.lseek(self._descriptor, self._offset, os.SEEK_SET)
            raise
        self._offset += len(data)

    def _sync(self) -> None:
        with disk_full_told(self._path(self._next, _OPEN), self._offset):
            os.fsync(self._descriptor)

    def _seal(self) -> None:
        if self._descriptor < 0:
            return
        self._sync()
        os.close(self._descriptor)
        self._path(self._next, _OPEN).rename(self._path(self._next))
        sync_directory(self._directory)
        self._sizes[self._next] = self._offset
        self._descriptor, self._offset = -1, 0
        self._next += 1

    def _keep_quota(self) -> None:
        while self._sizes and self.num_bytes > self._config.quota_bytes:
            oldest = min(self._sizes)
            self._path(oldest).unlink()
            del self._sizes[oldest]

    def _cut_torn_tail(self, path: Path) -> None:
        size, sound = path.stat().st_size, 0
        with suppress(ReplayError):
            for end, _ in read_segment(path):
                sound = end
        if sound == 0:
            path.unlink()
        else:
            with path.open("r+b") as file:
                file.truncate(sound)
                os.fsync(file.fileno())
            path.rename(path.with_suffix(_SEALED))
        self.scanned.torn_bytes += max(size - max(sound, len(FILE_HEADER)), 0)
        sync_directory(path.parent)


def _segments(directory: Path, suffix: str) -> list[Path]:
    return sorted(path for path in directory.glob("*" + suffix) if path.stem.isdigit())


def _hold(directory: Path) -> int:
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise ReplayError(f"{directory}: another process holds this replay directory; end it first") from error
    return descriptor
