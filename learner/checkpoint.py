"""Checkpoints: a directory of safetensors files and a manifest that is written last and names them all.

A checkpoint appears under its name whole or not at all: it is written beside, fsynced, and renamed.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import msgspec
import xxhash

from learner.limiter import LimiterState
from learner.replay import ShardState
from learner.tensorfile import dump_tensors, flatten_state, parse_tensors, unflatten_state
from world.durable import disk_full_told, sync_directory, write_file
from world.errors import CheckpointError

SCHEMA_VERSION = 1
_MANIFEST = "manifest.json"
_PARTIAL, _REPLACED, _ABANDONED = ".partial", ".replaced", ".abandoned"
_KEPT = 3


class FileEntry(NamedTuple):
    """What the manifest knows of one file."""

    size: int
    """Bytes."""
    xxh3: str
    """xxh3-128, hexadecimal."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """Everything of a checkpoint that is no tensor. Plain numbers and text, stored as JSON."""

    step: int
    """Gradient updates made."""
    weights_epoch: int
    weights_version: int
    limiter: LimiterState
    replay: dict[str, ShardState]
    """By shard."""
    random: dict[str, object]
    """States of random generators: whole numbers of any size, lists and dicts of them."""
    model_config: dict[str, object]
    """By which the model is built again."""
    tokenizer_digest: str
    made: dict[str, object] = field(default_factory=dict)
    """How these weights came to be, for people: command, seeds, data, time, scores. Plain values."""
    schema_version: int = SCHEMA_VERSION
    files: dict[str, FileEntry] = field(default_factory=dict)
    """Filled in when saved."""
    digest: str = ""
    """xxh3-128 of the manifest without this; filled in when saved."""


class Checkpoint(NamedTuple):
    """A checkpoint whose every file was verified."""

    path: Path
    manifest: Manifest
    parts: dict[str, object]
    """By name, as given to `save_checkpoint`; tensors on the CPU."""


def save_checkpoint(directory: Path, parts: Mapping[str, object], manifest: Manifest) -> Path:
    """Write `step-XXXXXXXX` with a file for each part ("model", "optimizer", …); delete all but the newest three.

    A part is nested dicts, lists and tuples of tensors and plain values, such as `state_dict()` returns. Checkpoints
    of later steps belong to a course that this run has left; they are set aside as `.abandoned`.

    Raises `DiskFull`; older checkpoints are then untouched.
    """
    directory.mkdir(parents=True, exist_ok=True)
    _finish_replacing(directory)
    final = directory / f"step-{manifest.step:08d}"
    partial = final.with_name(final.name + _PARTIAL)
    for left_over in directory.glob("step-*" + _PARTIAL):
        shutil.rmtree(left_over)
    with disk_full_told(partial, 0):
        partial.mkdir()
    try:
        files = {
            f"{name}.safetensors": _write_part(partial / f"{name}.safetensors", part) for name, part in parts.items()
        }
        write_file(partial / _MANIFEST, _dump_manifest(replace(manifest, files=files)))
    except BaseException:
        shutil.rmtree(partial)
        raise
    replaced = final.with_name(final.name + _REPLACED)
    if final.exists():
        final.rename(replaced)
    partial.rename(final)
    sync_directory(directory)
    if replaced.exists():
        shutil.rmtree(replaced)
    _retire(directory, manifest.step)
    return final


def has_checkpoint(directory: Path) -> bool:
    """Return whether there is anything to go on from, sound or not."""
    _finish_replacing(directory)
    return newest_checkpoint(directory) is not None


def is_checkpoint(path: Path) -> bool:
    """Return whether a directory is a checkpoint itself, sound or not."""
    return (path / _MANIFEST).exists()


def newest_checkpoint(directory: Path) -> Path | None:
    """Return where the newest checkpoint is, sound or not; None if there is none."""
    return next(reversed(_found(directory)), None)


def load_newest(directory: Path) -> Checkpoint:
    """Return the newest checkpoint, every byte verified.

    Raises `CheckpointError` if there is none or the newest is damaged, which says how to go on from an older one.
    """
    _finish_replacing(directory)
    found = _found(directory)
    if not found:
        raise CheckpointError(f"{directory}: holds no checkpoint")
    damage: list[str] = []
    for path in reversed(found):
        try:
            checkpoint = load_checkpoint(path)
        except CheckpointError as error:
            damage.append(str(error))
            continue
        if not damage:
            return checkpoint
        damaged = ", ".join(f"{name.name} to {name.name}.damaged" for name in found[found.index(path) + 1 :])
        raise CheckpointError(f"{damage[0]}; {path.name} is older and sound: rename {damaged} to go on from there")
    raise CheckpointError(f"{'; '.join(damage)}; no sound checkpoint is left: move {directory} away to begin anew")


def load_checkpoint(path: Path) -> Checkpoint:
    """Return one checkpoint, every byte verified. Raises `CheckpointError` naming the file that is damaged."""
    manifest = _parse_manifest(path / _MANIFEST)
    parts: dict[str, object] = {}
    for name, entry in manifest.files.items():
        data = _read(path / name)
        if len(data) != entry.size:
            raise CheckpointError(f"{path / name}: should have {entry.size:,} bytes, has {len(data):,}")
        if xxhash.xxh3_128_hexdigest(data) != entry.xxh3:
            raise CheckpointError(f"{path / name}: fails its checksum")
        tensors, metadata = parse_tensors(data, str(path / name))
        parts[name.removesuffix(".safetensors")] = unflatten_state(
            tensors, metadata.get("skeleton", ""), str(path / name)
        )
    return Checkpoint(path, manifest, parts)


def _write_part(path: Path, part: object) -> FileEntry:
    tensors, skeleton = flatten_state(part)
    data = dump_tensors(tensors, {"skeleton": skeleton})
    write_file(path, data)
    return FileEntry(len(data), xxhash.xxh3_128_hexdigest(data))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: is missing") from error


def _dump_manifest(manifest: Manifest) -> bytes:
    # Not msgspec: states of random generators are whole numbers of 128 bits, which only the standard library writes.
    fields = asdict(replace(manifest, digest=""))
    body = json.dumps(fields, indent=2, allow_nan=False)
    return json.dumps({**fields, "digest": xxhash.xxh3_128_hexdigest(body.encode())}, indent=2).encode()


def _parse_manifest(path: Path) -> Manifest:
    try:
        fields = json.loads(_read(path))
        version = fields.get("schema_version") if isinstance(fields, dict) else None
        if version != SCHEMA_VERSION:
            raise CheckpointError(f"{path}: is of schema {version}, this program reads {SCHEMA_VERSION}")
        manifest = msgspec.convert(fields, Manifest)
    except (ValueError, msgspec.ValidationError) as error:
        raise CheckpointError(f"{path}: is malformed: {error}") from error
    body = json.dumps({**fields, "digest": ""}, indent=2)
    if xxhash.xxh3_128_hexdigest(body.encode()) != manifest.digest:
        raise CheckpointError(f"{path}: fails its checksum")
    if bad := [name for name in manifest.files if Path(name).name != name]:
        raise CheckpointError(f"{path}: names files outside the checkpoint: {bad}")
    return manifest


def _found(directory: Path) -> list[Path]:
    return sorted((p for p in directory.glob("step-*") if p.name[5:].isdigit()), key=lambda p: int(p.name[5:]))


def _finish_replacing(directory: Path) -> None:
    """A crash between the two renames of a replaced checkpoint leaves the old one aside: put it back."""
    for replaced in directory.glob("step-*" + _REPLACED):
        final = replaced.with_name(replaced.name.removesuffix(_REPLACED))
        if final.exists():
            shutil.rmtree(replaced)
        else:
            replaced.rename(final)


def _retire(directory: Path, step: int) -> None:
    found = _found(directory)
    for path in found:
        if int(path.name[5:]) > step:
            aside = path.with_name(path.name + _ABANDONED)
            if aside.exists():
                shutil.rmtree(aside)
            path.rename(aside)
    kept = [path for path in found if int(path.name[5:]) <= step]
    for path in kept[:-_KEPT]:
        # The name goes first, so that a half deleted checkpoint is never taken for a damaged one.
        doomed = path.rename(path.with_name(path.name + _PARTIAL))
        shutil.rmtree(doomed)
    sync_directory(directory)
