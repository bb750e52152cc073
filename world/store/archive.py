"""The archive: a folder of segment files for each world, named by their content, and never changed.

A world that keeps what was another's shares its files by hard links, so that either may be deleted alone. What the
file system refuses is a `StoreError` that names the path, and `DiskFull` where it is for want of space.
"""

import hashlib
import os
import re
import shutil
import time
from collections import OrderedDict
from collections.abc import Collection
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from world.durable import refusals_told, sync_directory, write_file
from world.errors import CorruptRecord, NewerSchema, NoHistory, StoreError
from world.snapshot import WorldId
from world.store.keys import check_world_id
from world.store.past import SegmentRef
from world.store.segment import Segment, decode_segment, encode_segment

_SUFFIX = ".seg"
_NAME = re.compile(r"[0-9a-f]{32}")
_ORPHAN_AFTER_S = 3600.0
_NUM_CACHED = 4


def content_name(data: bytes) -> str:
    """Return the name of a file of these bytes."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


class Archive:
    """Segments of all worlds below one directory, which is made when it is first written to."""

    def __init__(self, directory: Path | str) -> None:
        self.directory = Path(directory)
        self._cached: OrderedDict[str, Segment] = OrderedDict()

    def write(self, world: WorldId, segment: Segment) -> SegmentRef:
        """Store a segment durably; harmless if it is there. What is refused leaves nothing there."""
        data = encode_segment(segment)
        ref = SegmentRef(segment.first, segment.last, content_name(data))
        self.put(world, ref, data)
        return ref

    def put(self, world: WorldId, ref: SegmentRef, data: bytes) -> None:
        """Store a segment's file durably; harmless if it is there."""
        assert ref.name == content_name(data)
        path = self._path(world, ref)
        with _refusals_told(path):
            self._make_folder(world)
            # Another archiver may be about the same ticks.
            write_file(path, data, several_writers=True)

    def file(self, world: WorldId, ref: SegmentRef) -> bytes:
        """Return a segment's file, the name of which its content has. Raises `NoHistory`, `CorruptRecord`."""
        path = self._path(world, ref)
        with _refusals_told(path):
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                raise NoHistory(
                    f"world {world!r}: ticks {ref.first} to {ref.last} are archived, and {path} is not there;"
                    " name the run folder that has the archive with --run-dir, or restore the file"
                ) from None
        if content_name(data) != ref.name:
            raise CorruptRecord(f"world {world!r}: {path} is not what its name says; restore it from a backup")
        return data

    def read(self, world: WorldId, ref: SegmentRef) -> Segment:
        """Return a segment, verified when it was read last. Raises `NoHistory`, `CorruptRecord`."""
        if ref.name in self._cached:
            self._cached.move_to_end(ref.name)
            return self._cached[ref.name]
        segment = self.load(world, ref)
        self._cached[ref.name] = segment
        if len(self._cached) > _NUM_CACHED:
            self._cached.popitem(last=False)
        return segment

    def load(self, world: WorldId, ref: SegmentRef) -> Segment:
        """Return a segment from its file, verified now. Raises `NoHistory`, `CorruptRecord`."""
        segment = decode_segment(self.file(world, ref))
        if (segment.first, segment.last) != (ref.first, ref.last):
            raise CorruptRecord(
                f"world {world!r}: segment {ref.name} should hold ticks {ref.first} to {ref.last},"
                f" got {segment.first} to {segment.last}"
            )
        return segment

    def share(self, ref: SegmentRef, *, of: WorldId, with_: WorldId) -> None:
        """Give a world the file that another has; harmless if it has it. Raises `NoHistory`."""
        target = self._path(with_, ref)
        with _refusals_told(target):
            if target.exists():
                return
            self._make_folder(with_)
            try:
                os.link(self._path(of, ref), target)
            except FileExistsError:
                return
            except OSError:
                # No hard links on this file system, or no such file, which is told as such.
                self.put(with_, ref, self.file(of, ref))
            sync_directory(target.parent)

    def keep_aside(self, world: WorldId, name: str, data: bytes) -> Path:
        """Store bytes that are no segment beside a world's segments, and return where."""
        path = self.directory / world / name
        with _refusals_told(path):
            self._make_folder(world)
            write_file(path, data)
        return path

    def remove(self, world: WorldId) -> None:
        """Delete all that is archived of a world; harmless if nothing is."""
        check_world_id(world)
        folder = self.directory / world
        with _refusals_told(folder):
            if folder.exists():
                shutil.rmtree(folder)

    def discard(self, world: WorldId, ref: SegmentRef) -> None:
        """Delete one segment's file; harmless if it is not there."""
        path = self._path(world, ref)
        with _refusals_told(path):
            path.unlink(missing_ok=True)
        self._cached.pop(ref.name, None)

    def sweep(self, world: WorldId, keep: Collection[SegmentRef], archived_to: int) -> int:
        """Delete files that nothing needs, an hour after they were written; return how many.

        They are left by an archiver that was killed, or overtaken, before its segment counted. One with ticks beyond
        what is archived stays: after a loss of the store, it may be all that is left of them. So does one of a newer
        program.
        """
        names, cutoff, num = {ref.name for ref in keep}, time.time() - _ORPHAN_AFTER_S, 0
        for path, there in self._files(world):
            if (path.stem in names and path.suffix == _SUFFIX) or there.st_mtime >= cutoff:
                continue
            with _refusals_told(path):
                if path.suffix == _SUFFIX and _reaches_beyond(path, archived_to):
                    continue
                path.unlink(missing_ok=True)
            num += 1
        return num

    def num_bytes(self, world: WorldId) -> int:
        """Return how much is archived of a world."""
        return sum(there.st_size for _, there in self._files(world))

    def _files(self, world: WorldId) -> list[tuple[Path, os.stat_result]]:
        folder, found = self.directory / world, list[tuple[Path, os.stat_result]]()
        with _refusals_told(folder), suppress(FileNotFoundError):
            for path in folder.iterdir():
                if path.suffix in (_SUFFIX, ".partial") and _NAME.match(path.stem):
                    # Whoever else archives, or deletes, this world may remove it meanwhile.
                    with suppress(FileNotFoundError):
                        found.append((path, path.stat()))
        return found

    def _path(self, world: WorldId, ref: SegmentRef) -> Path:
        check_world_id(world)
        if not _NAME.fullmatch(ref.name):
            raise CorruptRecord(f"world {world!r}: {ref.name!r} cannot be the name of a segment")
        return self.directory / world / (ref.name + _SUFFIX)

    def _make_folder(self, world: WorldId) -> None:
        folder = self.directory / world
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            sync_directory(self.directory)
            sync_directory(self.directory.parent)


def _reaches_beyond(path: Path, tick: int) -> bool:
    """Whether a segment's file has ticks after `tick`, or may have: nobody can say of what a newer program wrote."""
    try:
        return decode_segment(path.read_bytes()).last > tick
    except NewerSchema:
        return True
    except (CorruptRecord, FileNotFoundError):
        return False


def _refusals_told(path: Path) -> AbstractContextManager[None]:
    return refusals_told(path, StoreError, "mend that, then repeat")
