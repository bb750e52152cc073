"""Chunks as bytes: frames of a replay segment, each with its checksum.

Axes of a chunk's columns are those of `world.trajectory`.
"""

import math
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import xxhash
import zstandard
from numpy.typing import NDArray

from world.errors import ReplayError
from world.snapshot import WorldId
from world.trajectory import Chunk, Transitions

FILE_HEADER = b"LWSEG\x00\x00\x02"
_FRAME = struct.Struct("<4sIII16s")
"""Magic, bytes of the head, bytes of the compressed body, bytes of the body, xxh3-128 of all that and both."""
_MAGIC = b"LWCH"
_DTYPES = frozenset({"|b1", "|u1", "<u2", "<i4", "<f2", "<f4"})
MAX_FRAME_BYTES = 1 << 28
"""A frame that claims to be larger is malformed."""


class Frame(NamedTuple):
    """A chunk as it was stored."""

    chunk: Chunk
    inserted_at: float
    """Seconds since 1970."""


class _Head(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    world: str
    epoch: int
    first_tick: int
    inserted_at: float
    columns: list[tuple[str, str, list[int]]]


_encode_head = msgspec.msgpack.Encoder().encode
_decode_head = msgspec.msgpack.Decoder(_Head).decode


def encode_frame(frame: Frame, compressor: zstandard.ZstdCompressor) -> bytes:
    """Return the bytes of one frame. Raises `ReplayError` for a chunk beyond `MAX_FRAME_BYTES`."""
    chunk = frame.chunk
    columns = chunk.transitions.columns()
    described = [(name, column.dtype.str, list(column.shape)) for name, column in columns.items()]
    head = _encode_head(_Head(chunk.world, chunk.epoch, chunk.first_tick, frame.inserted_at, described))
    body = b"".join([np.ascontiguousarray(column).tobytes() for column in columns.values()])
    if len(body) > MAX_FRAME_BYTES:
        raise ReplayError(f"world {chunk.world!r}: a chunk of {len(body):,} bytes, most is {MAX_FRAME_BYTES:,}")
    packed = compressor.compress(body)
    sizes = _FRAME.pack(_MAGIC, len(head), len(packed), len(body), bytes(16))[:-16]
    return b"".join([sizes, _digest(sizes, head, packed), head, packed])


def read_segment(path: Path) -> Iterator[tuple[int, Frame]]:
    """Yield the frames of a segment, each with the offset at which it ends. Raises `ReplayError` at a malformed one."""
    with path.open("rb") as file:
        if file.read(len(FILE_HEADER)) != FILE_HEADER:
            raise ReplayError(f"{path}: not a replay segment of this version")
        offset = len(FILE_HEADER)
        while sizes := file.read(_FRAME.size):
            try:
                head, packed, raw_bytes = _read_frame(file.read, sizes)
                frame = _decode_frame(head, packed, raw_bytes)
            except ReplayError as error:
                raise ReplayError(f"{path} at {offset}: {error}") from error
            offset += len(sizes) + len(head) + len(packed)
            yield offset, frame


def _digest(sizes: bytes, head: bytes, packed: bytes) -> bytes:
    hasher = xxhash.xxh3_128(sizes)
    hasher.update(head)
    hasher.update(packed)
    return hasher.digest()


def _read_sizes(sizes: bytes) -> tuple[int, int, int, bytes]:
    if len(sizes) < _FRAME.size:
        raise ReplayError("frame is cut short")
    magic, head_bytes, packed_bytes, raw_bytes, digest = _FRAME.unpack(sizes)
    if magic != _MAGIC:
        raise ReplayError(f"frame begins with {magic!r}, not {_MAGIC!r}")
    if max(head_bytes, packed_bytes, raw_bytes) > MAX_FRAME_BYTES:
        raise ReplayError(f"frame claims more than {MAX_FRAME_BYTES:,} bytes")
    return head_bytes, packed_bytes, raw_bytes, digest


def _read_frame(read: Callable[[int], bytes], sizes: bytes) -> tuple[bytes, bytes, int]:
    head_bytes, packed_bytes, raw_bytes, digest = _read_sizes(sizes)
    head, packed = read(head_bytes), read(packed_bytes)
    if len(head) < head_bytes or len(packed) < packed_bytes:
        raise ReplayError("frame is cut short")
    if _digest(sizes[:-16], head, packed) != digest:
        raise ReplayError("frame fails its checksum")
    return head, packed, raw_bytes


def _decode_frame(head_bytes: bytes, packed: bytes, raw_bytes: int) -> Frame:
    try:
        head = _decode_head(head_bytes)
        # Allocates what the frame declares, so that is compared first: 32 KB may unpack to gigabytes.
        if zstandard.get_frame_parameters(packed).content_size != raw_bytes:
            raise ReplayError("frame declares another size than its body")
        body = zstandard.ZstdDecompressor().decompress(packed, max_output_size=raw_bytes)
    except (msgspec.MsgspecError, zstandard.ZstdError) as error:
        raise ReplayError(f"frame cannot be decoded: {error}") from error
    columns: dict[str, NDArray[np.generic]] = {}
    offset = 0
    for name, dtype, shape in head.columns:
        if dtype not in _DTYPES or any(size < 0 for size in shape):
            raise ReplayError(f"frame column {name!r} is of {dtype!r} {shape}")
        num_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        if offset + num_bytes > len(body):
            raise ReplayError(f"frame column {name!r} reaches beyond the body")
        columns[name] = np.frombuffer(body, dtype, num_bytes // np.dtype(dtype).itemsize, offset).reshape(shape)
        offset += num_bytes
    if offset != len(body):
        raise ReplayError(f"frame body has {len(body) - offset} bytes too many")
    chunk = Chunk(
        world=WorldId(head.world),
        epoch=head.epoch,
        first_tick=head.first_tick,
        transitions=Transitions.from_columns(columns),
    )
    return Frame(chunk, head.inserted_at)


def decoded_bytes(path: Path) -> int:
    """Return the size of all bodies of a segment, by its frame headers alone."""
    total = 0
    with path.open("rb") as file:
        file.seek(len(FILE_HEADER))
        while sizes := file.read(_FRAME.size):
            try:
                head_bytes, packed_bytes, raw_bytes, _ = _read_sizes(sizes)
            except ReplayError:
                break
            file.seek(head_bytes + packed_bytes, os.SEEK_CUR)
            total += raw_bytes
    return total
