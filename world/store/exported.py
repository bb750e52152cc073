"""Export: one world's own line as a zip of a manifest and frames, verified on the way out."""

import errno
import os
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from world.durable import sync_directory
from world.errors import ConfigError, DiskFull
from world.snapshot import WorldId
from world.store.archive import content_name
from world.store.codec import seal_snapshot, snapshot_payload
from world.store.history import History
from world.store.past import Past
from world.store.portable import FORMAT, KEYFRAME_FILE, MANIFEST_FILE, VERSION, Manifest, Part, file_name
from world.store.segment import MAX_SEGMENT_TICKS, Segment, encode_segment

_EPOCH: Final = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote."""

    path: Path
    tick: int
    first_tick: int
    segments: int
    num_bytes: int


def export_world(history: History, world: WorldId, path: Path) -> Exported:
    """Write a world's own line, verified, to a new zip file. Raises `CorruptRecord`, `NoHistory`, `DiskFull`,
    and `ConfigError` for a file that cannot be written.
    """
    past = history.kept.past(world)
    newest = history.reach(world, past.record.tick)
    record = past.record
    partial = path.with_name(path.name + ".partial")
    try:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as file:
            cold = _write_cold(history, past, newest.at, file)
            hot = []
            for start in range(0, len(newest.ticks), MAX_SEGMENT_TICKS):
                ticks = newest.ticks[start : start + MAX_SEGMENT_TICKS]
                base = newest.ticks[start - 1].digest if start else newest.base
                hot.append(_write_segment(file, Segment(base=base, keyframe=b"", ticks=ticks)))
            keyframe = seal_snapshot(newest.keyframe)
            _write(file, KEYFRAME_FILE, keyframe)
            manifest = Manifest(
                format=FORMAT,
                version=VERSION,
                world=world,
                name=record.name[:256],
                kind=record.kind,
                env=record.env,
                agents=record.agents,
                weights_version=record.weights_version,
                tokenizer=record.tokenizer,
                tick=record.tick,
                digest=newest.digest.hex(),
                keyframe_tick=newest.at,
                keyframe=content_name(keyframe),
                parent=record.parent,
                fork_tick=record.fork_tick,
                cold=tuple(cold),
                hot=tuple(hot),
            )
            _write(file, MANIFEST_FILE, msgspec.json.format(msgspec.json.encode(manifest)))
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"{path}: no space for the exported world; free some on that disk") from error
        raise ConfigError(f"{path}: it cannot be written ({error.strerror})") from error
    finally:
        with suppress(OSError):
            partial.unlink()
    first = cold[0].first if cold else newest.at + 1
    return Exported(path, record.tick, first, len(cold) + len(hot), path.stat().st_size)


def _write_cold(history: History, past: Past, last: int, file: zipfile.ZipFile) -> list[Part]:
    """Write all ticks of a line up to its newest keyframe: archived segments as they are, and what follows them."""
    parts: list[Part] = []
    tick = past.first_tick
    while tick <= last:
        index = past.segment_at(tick)
        if index is not None:
            ref, end = past.segments[index], past.end_of(index)
            segment = history.archive.read(past.record.world, ref)
            if segment.first == tick and ref.last == end <= last:
                _write(file, file_name(ref.name), history.archive.file(past.record.world, ref))
                parts.append(Part(ref.first, ref.last, ref.name))
                tick = end + 1
                continue
            end = min(end, last)
        else:
            end = min(last, tick + MAX_SEGMENT_TICKS - 1)
        before = history.reach(past.record.world, tick - 1)
        keyframe = snapshot_payload(before.state(), chain=before.digest) if not parts else b""
        ticks = tuple(history.own(past, tick, end, before.digest))
        parts.append(_write_segment(file, Segment(base=before.digest, keyframe=keyframe, ticks=ticks)))
        tick = end + 1
    return parts


def _write_segment(file: zipfile.ZipFile, segment: Segment) -> Part:
    data = encode_segment(segment)
    name = content_name(data)
    _write(file, file_name(name), data)
    return Part(segment.first, segment.last, name)


def _write(file: zipfile.ZipFile, name: str, data: bytes) -> None:
    # A fixed date: equal worlds make equal files.
    file.writestr(zipfile.ZipInfo(name, _EPOCH), data)
