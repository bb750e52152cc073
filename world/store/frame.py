"""Frames: checksummed, versioned, size-bounded envelopes around msgpack, and arrays inside them.

    magic 4 | schema version 1 | codec 1 | raw length 4, little-endian | body | xxh3-128 of all before, 16

Nothing here knows what a world is. Whatever is wrong with a frame raises `CorruptRecord`, and no more memory than
the declared limit is ever allocated for it.
"""

import math
import struct
import threading
from typing import Annotated, Final

import msgspec
import numpy as np
import xxhash
import zstandard
from numpy.typing import NDArray

from world.errors import CorruptRecord, WorldTooLarge
from world.store.upgrade import check_schema

TOO_LARGE: Final = "the world has grown too large; rewind it to an earlier tick with `worlds rewind`, or delete it"
"""What a person is told of a world of which no more can be stored."""

_HEADER: Final = struct.Struct("<4sBBI")
_CHECKSUM_BYTES: Final = 16
_RAW, _ZSTD = 0, 1
_ZSTD_LEVEL: Final = 3

# Order is the wire format: append only.
_DTYPES: Final = tuple(np.dtype(name) for name in ("?", "u1", "i1", "<u2", "<i2", "<i4", "<i8", "<f2", "<f4"))
_DTYPE_CODES: Final = {dtype: code for code, dtype in enumerate(_DTYPES)}
_NARROW: Final = tuple(
    (int(np.iinfo(name).min), int(np.iinfo(name).max), np.dtype(name)) for name in ("u1", "i1", "<u2", "<i2", "<i4")
)
_FEW: Final = 64
_MAX_DIMENSIONS: Final = 4
_MAX_LENGTH: Final = 2**31 - 1


_of_thread: Final = threading.local()


class PackedArray(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """An array on the wire. No data stands for zeros; integers may be stored narrower than they are used."""

    dtype: Annotated[int, msgspec.Meta(ge=0, le=len(_DTYPES) - 1)]
    shape: Annotated[
        tuple[Annotated[int, msgspec.Meta(ge=0, le=_MAX_LENGTH)], ...], msgspec.Meta(max_length=_MAX_DIMENSIONS)
    ]
    data: bytes


def pack_array(array: NDArray[np.generic], *, narrow: bool = False) -> PackedArray:
    """Return the array (up to 4 axes) as it is stored; `narrow` takes the smallest integers that hold its values."""
    shape = array.shape
    assert len(shape) <= _MAX_DIMENSIONS, shape
    if narrow and array.size:
        array = array.astype(_narrowest(*_extremes(array)), copy=False)
    elif array.dtype not in _DTYPE_CODES:
        raise TypeError(f"arrays of {array.dtype} are not stored")
    stored = array.tobytes()
    return PackedArray(_DTYPE_CODES[array.dtype], shape, b"" if stored.count(0) == len(stored) else stored)


class ArrayReader:
    """Unpacks the arrays of one record, which together may need at most `max_bytes`."""

    def __init__(self, record: str, max_bytes: int) -> None:
        self._record, self._left, self._max_bytes = record, max_bytes, max_bytes

    def read(
        self, name: str, packed: PackedArray, dtype: type[np.generic], shape: tuple[int | None, ...]
    ) -> NDArray[np.generic]:
        """Return a new array of `dtype` whose shape fits `shape` (None: any length). Raises `CorruptRecord`."""
        name = f"{self._record}: {name}"
        wanted, stored = np.dtype(dtype), _DTYPES[packed.dtype]
        if stored != wanted and not (stored.kind in "ui" and wanted.kind in "ui" and np.can_cast(stored, wanted)):
            raise CorruptRecord(f"{name} should hold {wanted}, got {stored}")
        if len(packed.shape) != len(shape) or any(
            want not in (None, got) for want, got in zip(shape, packed.shape, strict=True)
        ):
            raise CorruptRecord(f"{name} should be of shape {shape} (None: any), got {packed.shape}")
        size = math.prod(packed.shape)
        self._left -= size * wanted.itemsize
        if self._left < 0:
            raise CorruptRecord(f"{name} of shape {packed.shape} exceeds what is left of {self._max_bytes} bytes")
        if not packed.data:
            return np.zeros(packed.shape, wanted)
        if len(packed.data) != size * stored.itemsize:
            raise CorruptRecord(f"{name} should have {size * stored.itemsize} bytes, got {len(packed.data)}")
        if stored.kind == "b" and packed.data.translate(None, b"\0\1"):
            raise CorruptRecord(f"{name} holds bytes that are neither true nor false")
        return np.frombuffer(packed.data, stored).astype(wanted).reshape(packed.shape)


def seal(magic: bytes, version: int, raw: bytes, max_raw: int, *, level: int = _ZSTD_LEVEL) -> bytes:
    """Return the frame of `raw`, compressed where that is smaller. Raises `WorldTooLarge` above `max_raw` bytes."""
    if len(raw) > max_raw:
        raise WorldTooLarge(f"a record of {len(raw)} bytes exceeds the limit of {max_raw}: {TOO_LARGE}")
    body, codec = raw, _RAW
    compressed = _compressor(level).compress(raw)
    if len(compressed) < len(raw):
        body, codec = compressed, _ZSTD
    sealed = _HEADER.pack(magic, version, codec, len(raw)) + body
    return sealed + xxhash.xxh3_128_digest(sealed)


def _compressor(level: int) -> zstandard.ZstdCompressor:
    """Return this thread's compressor: to make one takes longer than to compress a small tick with it."""
    made: dict[int, zstandard.ZstdCompressor] = _of_thread.__dict__.setdefault("compressors", {})
    if level not in made:
        made[level] = zstandard.ZstdCompressor(level=level)
    return made[level]


def unseal_any(magic: bytes, newest: int, frame: bytes, max_raw: int) -> tuple[int, bytes]:
    """Return the version of a frame and what was sealed in it.

    Checksum, kind, version (1 to `newest`) and declared size are checked before anything is decompressed.
    """
    if len(frame) < _HEADER.size + _CHECKSUM_BYTES:
        raise CorruptRecord(f"a frame of {len(frame)} bytes is too short to be one")
    sealed, checksum = frame[:-_CHECKSUM_BYTES], frame[-_CHECKSUM_BYTES:]
    if xxhash.xxh3_128_digest(sealed) != checksum:
        raise CorruptRecord("a frame fails its checksum")
    got_magic, got_version, codec, raw_length = _HEADER.unpack_from(sealed)
    if got_magic != magic:
        raise CorruptRecord(f"a frame should be of kind {magic!r}, got {got_magic!r}")
    check_schema(f"a {magic!r} frame has", got_version, newest)
    if raw_length > max_raw:
        raise CorruptRecord(f"a frame declares {raw_length} bytes, the limit is {max_raw}")
    body = sealed[_HEADER.size :]
    raw = body if codec == _RAW else _decompress(body, codec, raw_length)
    if len(raw) != raw_length:
        raise CorruptRecord(f"a frame declares {raw_length} bytes and holds {len(raw)}")
    return got_version, raw


def _decompress(body: bytes, codec: int, raw_length: int) -> bytes:
    if codec != _ZSTD:
        raise CorruptRecord(f"a frame names the unknown codec {codec}")
    try:
        declared = zstandard.get_frame_parameters(body).content_size
        # zstd would allocate what its own header says: 32 KB can claim a gigabyte.
        if declared != raw_length:
            raise CorruptRecord(f"a frame declares {raw_length} bytes, its zstd header {declared}")
        raw: bytes = zstandard.ZstdDecompressor().decompress(body, max_output_size=raw_length, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CorruptRecord(f"a frame does not decompress: {error}") from None
    return raw


def _extremes(array: NDArray[np.generic]) -> tuple[int, int]:
    if array.size <= _FEW:
        # Where there are few, numpy's own reductions take ten times as long: half of what a small tick takes to pack.
        values = array.ravel().tolist()
        return min(values), max(values)
    return int(array.min()), int(array.max())


def _narrowest(low: int, high: int) -> np.dtype[np.generic]:
    for least, most, dtype in _NARROW:
        if least <= low and high <= most:
            return dtype
    return np.dtype("<i8")
