"""Export and import: one world's own line as a zip of a manifest and frames, every byte of it verified on the way in.

Nothing in the file is trusted: names must be those of the manifest, sizes are bounded before anything is read, and
parts are stored as they are, for segments are compressed already; so no part is ever larger than the file.
"""

import contextlib
import re
import stat
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from world.errors import CorruptRecord, ImportRefused, NotRunning
from world.snapshot import Kind, Snapshot, WorldId
from world.store.archive import Archive, content_name
from world.store.codec import (
    DIGEST_BYTES,
    MAX_DIRECTORY,
    effects_of,
    seal_effects,
    snapshot_of,
    unseal_snapshot,
)
from world.store.log import LogEntry
from world.store.past import Line, SegmentRef, WorldHistory
from world.store.records import WorldRecord
from world.store.segment import Logged, Segment, decode_segment

FORMAT: Final = "living-worlds"
VERSION: Final = 1
MAX_IMPORT_BYTES: Final = 1 << 36
"""Of a whole file, unless told otherwise."""
MANIFEST_FILE: Final = "manifest.json"
KEYFRAME_FILE: Final = "keyframe.bin"
_MAX_MANIFEST_BYTES: Final = 1 << 26
_MAX_PART_BYTES: Final = 1 << 29
_MAX_SEGMENTS: Final = 1 << 18
_SIZED = re.compile(r"homestead(-[a-z]+)?:\d+x\d+(x\d+)?")

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
_Text = Annotated[str, msgspec.Meta(max_length=256)]
_Hex = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One segment of an exported world."""

    first: _Count
    last: _Count
    name: _Hex


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an exported world is, and which parts it has."""

    format: str
    version: int
    world: _Text
    name: _Text
    kind: Kind
    env: _Text
    agents: _Count
    weights_version: _Count
    tokenizer: _Text
    tick: _Count
    digest: _Hex
    """Of the chain at `tick`."""
    keyframe_tick: _Count
    keyframe: _Hex
    """Content name of the newest keyframe's frame."""
    parent: _Text | None
    """Of whom it was forked; its history before that is not in here."""
    fork_tick: _Count | None
    cold: Annotated[tuple[Part, ...], msgspec.Meta(max_length=_MAX_SEGMENTS)]
    """Ticks up to the newest keyframe."""
    hot: Annotated[tuple[Part, ...], msgspec.Meta(max_length=_MAX_SEGMENTS)]
    """Ticks after it."""


def import_world(
    kept: WorldHistory,
    archive: Archive,
    path: Path,
    world: WorldId,
    *,
    max_bytes: int = MAX_IMPORT_BYTES,
    any_env: bool = False,
) -> WorldRecord:
    """Make a paused world of an exported one, under a new id, after verifying all of it. Return its record.

    An environment that is named as module:factory is code, which whoever hosts the world will run: only with `any_env`
    is it taken. Raises `ImportRefused` for a file that is not an export of ours in every respect, `CorruptRecord` for
    one that does not verify, `NotRunning` if the world was deleted meanwhile.

    The world is listed before its first file is written. Whoever dies here, or raises, leaves it quarantined: importing
    under the same id completes it, and deleting it leaves nothing in the archive.
    """
    with contextlib.ExitStack() as stack:
        try:
            if (size := path.stat().st_size) > max_bytes:
                raise ImportRefused(f"{path}: it has {size} bytes, at most {max_bytes} are read")
            file = stack.enter_context(zipfile.ZipFile(path))
        except (OSError, zipfile.BadZipFile, ValueError) as error:
            raise ImportRefused(f"{path}: it cannot be read as a zip file ({error})") from None
        manifest = _checked(file, path, max_bytes)
        if ":" in manifest.env and not _SIZED.fullmatch(manifest.env) and not any_env:
            raise ImportRefused(
                f"{path}: its environment {manifest.env!r} would be imported and run as code; look at it first, then"
                " say --any-env"
            )
        line = _verified(file, path, manifest, world)

        def write_segments() -> None:
            for ref in line.segments:
                archive.put(world, ref, _read(file, path, file_name(ref.name)))
            if kept.past(world).record.status == "deleted":
                # Whoever deleted it removed the files that were there by then.
                archive.remove(world)
                raise NotRunning(f"world {world!r}: it was deleted while it was imported; import it again")

        kept.make(line, write_segments)
    return line.record


def _checked(file: zipfile.ZipFile, path: Path, max_bytes: int) -> Manifest:
    """Return the manifest of a file that holds what it says and nothing else."""
    infos = file.infolist()
    if len(infos) > 2 * _MAX_SEGMENTS:
        raise ImportRefused(f"{path}: it has {len(infos)} parts, at most {2 * _MAX_SEGMENTS} are read")
    total = 0
    for info in infos:
        mode = info.external_attr >> 16
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.file_size != info.compress_size:
            raise ImportRefused(f"{path}: {info.filename!r} is compressed or encrypted; parts are stored as they are")
        if mode and not stat.S_ISREG(mode) and stat.S_IFMT(mode):
            raise ImportRefused(f"{path}: {info.filename!r} is no plain file")
        if info.file_size > _MAX_PART_BYTES:
            raise ImportRefused(
                f"{path}: {info.filename!r} has {info.file_size} bytes, at most {_MAX_PART_BYTES} are read"
            )
        total += info.file_size
    if total > max_bytes:
        raise ImportRefused(f"{path}: it holds {total} bytes, at most {max_bytes} are read")
    names = [info.filename for info in infos]
    if MANIFEST_FILE not in names:
        raise ImportRefused(f"{path}: it has no {MANIFEST_FILE}; it is not an exported world")
    if file.getinfo(MANIFEST_FILE).file_size > _MAX_MANIFEST_BYTES:
        raise ImportRefused(f"{path}: its manifest has more than {_MAX_MANIFEST_BYTES} bytes")
    try:
        manifest = msgspec.json.decode(_read(file, path, MANIFEST_FILE), type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ImportRefused(f"{path}: its manifest does not fit: {error}") from None
    if manifest.format != FORMAT or not 1 <= manifest.version <= VERSION:
        raise ImportRefused(
            f"{path}: it is {manifest.format!r} of version {manifest.version}, this program reads {FORMAT!r} of 1 to"
            f" {VERSION}"
        )
    wanted = [MANIFEST_FILE, KEYFRAME_FILE, *(file_name(part.name) for part in (*manifest.cold, *manifest.hot))]
    if sorted(names) != sorted(wanted):
        odd = sorted(set(names) ^ set(wanted)) or sorted({name for name in names if names.count(name) > 1})
        raise ImportRefused(f"{path}: its parts are not those of its manifest: {', '.join(map(repr, odd[:5]))}")
    return manifest


def _verified(file: zipfile.ZipFile, path: Path, manifest: Manifest, world: WorldId) -> Line:
    """Return the line that a file holds: all chained, every keyframe the state that its ticks lead to."""
    frame = _read(file, path, KEYFRAME_FILE)
    if content_name(frame) != manifest.keyframe:
        raise CorruptRecord(f"{path}: the keyframe is not what the manifest says")
    payload = unseal_snapshot(frame)
    snapshot, base = snapshot_of(payload)
    if snapshot.tick != manifest.keyframe_tick or len(base) != DIGEST_BYTES:
        raise CorruptRecord(f"{path}: the keyframe should be of tick {manifest.keyframe_tick}, got {snapshot.tick}")
    if snapshot.kind != manifest.kind or len(snapshot.poses) != manifest.agents:
        raise CorruptRecord(f"{path}: the keyframe is of another kind of world than the manifest")
    _follow_cold(file, path, manifest, snapshot, base)
    following, digest = manifest.keyframe_tick + 1, base
    entries: list[LogEntry] = []
    for part in manifest.hot:
        segment = _segment(file, path, part, following, digest)
        following, digest = segment.last + 1, segment.end
        entries += (LogEntry(tick.tick, tick.digest, seal_effects(tick.payload)) for tick in segment.ticks)
        _live(snapshot, segment.ticks)
    if (following - 1, digest.hex()) != (manifest.tick, manifest.digest):
        raise CorruptRecord(f"{path}: it ends at tick {following - 1}, not as its manifest says at {manifest.tick}")
    record = WorldRecord(
        world=world,
        name=manifest.name,
        kind=manifest.kind,
        env=manifest.env,
        agents=manifest.agents,
        tick=manifest.tick,
        status="paused",
        owner="",
        epoch=0,
        weights_version=manifest.weights_version,
        tokenizer=manifest.tokenizer,
    )
    refs = tuple(SegmentRef(part.first, part.last, part.name) for part in manifest.cold)
    return Line(
        record=record,
        at=manifest.keyframe_tick,
        digest=base,
        keyframe=frame,
        entries=tuple(entries),
        segments=refs,
    )


def _follow_cold(file: zipfile.ZipFile, path: Path, manifest: Manifest, keyframe: Snapshot, base: bytes) -> None:
    """Follow the segments before the newest keyframe, and find that they lead there, and through every keyframe."""
    if not manifest.cold:
        return
    following, digest, state = manifest.cold[0].first, None, None
    for part in manifest.cold:
        segment = _segment(file, path, part, following, digest)
        following, digest = segment.last + 1, segment.end
        if segment.keyframe:
            found, chained = snapshot_of(segment.keyframe)
            if (found.tick, chained) != (segment.first - 1, segment.base):
                raise CorruptRecord(f"{path}: the keyframe of tick {segment.first - 1} belongs to another log")
            if state is not None and found.digest() != state.digest():
                raise CorruptRecord(f"{path}: the keyframe of tick {found.tick} is not what its ticks lead to")
            state = found
        if state is None:
            raise CorruptRecord(f"{path}: its first segment has no keyframe to begin at")
        _live(state, segment.ticks)
    if (following, digest) != (manifest.keyframe_tick + 1, base):
        raise CorruptRecord(f"{path}: its segments do not lead to the keyframe of tick {manifest.keyframe_tick}")
    if state is None or state.digest() != keyframe.digest():
        raise CorruptRecord(f"{path}: the keyframe of tick {keyframe.tick} is not what its ticks lead to")


def _live(state: Snapshot, ticks: Sequence[Logged]) -> None:
    """Advance a state through ticks, and compare where they lead with what was committed. Raises `CorruptRecord`."""
    boxes = [_Box(layer.arrays()["coordinates"].astype(np.int64)) for layer in state.field.layers]
    for number, tick in enumerate(ticks, 1):
        effects = effects_of(tick.payload)
        if len(effects.poses) != len(state.poses) or effects.memory.shape != state.memory.shape:
            raise CorruptRecord(f"tick {tick.tick} is of another number of agents")
        changes = effects.changes
        for index, box in enumerate(boxes):
            of_layer = changes.layer == index
            box.add(np.stack([changes.y[of_layer], changes.x[of_layer]], axis=1).astype(np.int64) >> 4, tick.tick)
        state.apply(effects, verify=number == len(ticks))


class _Box:
    """The chunks that a layer spans. Finding them takes memory for all between; a hostile file names far ones."""

    def __init__(self, chunks: NDArray[np.int64]) -> None:
        self._chunks = np.concatenate([chunks.min(axis=0), chunks.max(axis=0)]) if len(chunks) else None

    def add(self, chunks: NDArray[np.int64], tick: int) -> None:
        """Raise `CorruptRecord` where the layer would span more than can be stored."""
        if not len(chunks):
            return
        low, high = chunks.min(axis=0), chunks.max(axis=0)
        if self._chunks is not None:
            low, high = np.minimum(low, self._chunks[:2]), np.maximum(high, self._chunks[2:])
        self._chunks = np.concatenate([low, high])
        if int(np.prod(high - low + 1)) > MAX_DIRECTORY:
            raise CorruptRecord(f"tick {tick} changes cells that lie absurdly far apart")


def _segment(file: zipfile.ZipFile, path: Path, part: Part, first: int, base: bytes | None) -> Segment:
    data = _read(file, path, file_name(part.name))
    if content_name(data) != part.name:
        raise CorruptRecord(f"{path}: segment {part.name} is not what its name says")
    segment = decode_segment(data)
    if (segment.first, segment.last) != (part.first, part.last) or segment.first != first:
        raise CorruptRecord(
            f"{path}: a segment should hold ticks {first} to {part.last}, got {segment.first} to {segment.last}"
        )
    if base is not None and segment.base != base:
        raise CorruptRecord(f"{path}: the chain of digests breaks at tick {first}")
    return segment


def _read(file: zipfile.ZipFile, path: Path, name: str) -> bytes:
    try:
        return file.read(name)
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        raise ImportRefused(f"{path}: {name!r} cannot be read ({error})") from None


def file_name(name: str) -> str:
    return f"segments/{name}.seg"
