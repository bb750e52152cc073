"""Cold segments: consecutive ticks of one line, packed together, with the keyframe that they begin at if there is one.

What is chained is kept, and compressed anew as one piece; the digests between are computed, and the last must fit. A
payload ends with the agents' recurrent memories, floats of two bytes: these ends are stored apart, all lower bytes,
then all upper ones, each component's together. That takes a tenth off a homestead segment.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
import numpy as np

from world.errors import CorruptRecord
from world.store.codec import DIGEST_BYTES, MAX_EFFECTS_BYTES, MAX_SNAPSHOT_BYTES, effects_of
from world.store.frame import seal, unseal_any
from world.store.log import LogEntry, chain, payload_of

ARCHIVE_LEVEL: Final = 19
"""Of zstd."""
MAX_SEGMENT_BYTES: Final = MAX_SNAPSHOT_BYTES + (1 << 26)
"""Raw size of a segment."""
MAX_SEGMENT_TICKS: Final = 1024
_MAGIC: Final = b"LWsg"
_VERSION: Final = 1

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
_Digest = Annotated[bytes, msgspec.Meta(min_length=DIGEST_BYTES, max_length=DIGEST_BYTES)]


class _Segment(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    first: _Count
    base: _Digest
    end: _Digest
    keyframe: Annotated[bytes, msgspec.Meta(max_length=MAX_SNAPSHOT_BYTES + 1)]
    heads: Annotated[
        tuple[Annotated[bytes, msgspec.Meta(min_length=1, max_length=MAX_EFFECTS_BYTES + 1)], ...],
        msgspec.Meta(min_length=1, max_length=MAX_SEGMENT_TICKS),
    ]
    tails: Annotated[bytes, msgspec.Meta(max_length=MAX_SEGMENT_BYTES)]
    """Of as many bytes for each tick: lower and upper halves (2, components, ticks)."""


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(_Segment)


@dataclass(frozen=True, slots=True)
class Logged:
    """One tick of a verified chain: the digest up to it, and its effects as a payload."""

    tick: int
    digest: bytes
    payload: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """Consecutive ticks, each chained to the one before."""

    base: bytes
    """Digest of the chain before the first tick."""
    keyframe: bytes
    """Payload of the snapshot before the first tick, or empty."""
    ticks: tuple[Logged, ...]

    @property
    def first(self) -> int:
        """Its first tick."""
        return self.ticks[0].tick

    @property
    def last(self) -> int:
        """Its last tick."""
        return self.ticks[-1].tick

    @property
    def end(self) -> bytes:
        """Digest of the chain at the last tick."""
        return self.ticks[-1].digest


def logged(first: int, base: bytes, payloads: Sequence[bytes]) -> Iterator[Logged]:
    """Yield the chain that goes on from `base` with payloads of ticks `first`, `first` + 1, …"""
    digest = base
    for number, payload in enumerate(payloads):
        digest = chain(digest, payload)
        yield Logged(first + number, digest, payload)


def verified_entries(entries: Sequence[LogEntry], base: bytes, *, first: LogEntry | None = None) -> tuple[Logged, ...]:
    """Return consecutive log entries whose chain goes on from `base`, after `first`, which is taken as it is.

    Raises `CorruptRecord`.
    """
    ticks = [] if first is None else [Logged(first.tick, first.digest, payload_of(first))]
    digest = base
    for entry in entries:
        payload = payload_of(entry)
        digest = chain(digest, payload)
        if digest != entry.digest:
            raise CorruptRecord(f"the chain of digests breaks at tick {entry.tick}")
        ticks.append(Logged(entry.tick, digest, payload))
    return tuple(ticks)


def encode_segment(segment: Segment, *, level: int = ARCHIVE_LEVEL) -> bytes:
    """Return a segment's file. Raises `WorldTooLarge` above `MAX_SEGMENT_BYTES`."""
    heads, tails = _split([tick.payload for tick in segment.ticks])
    record = _Segment(segment.first, segment.base, segment.end, segment.keyframe, heads, tails)
    return seal(_MAGIC, _VERSION, _encoder.encode(record), MAX_SEGMENT_BYTES, level=level)


def decode_segment(data: bytes) -> Segment:
    """Return the segment in a file, its chain verified. Raises `CorruptRecord`."""
    _, raw = unseal_any(_MAGIC, _VERSION, data, MAX_SEGMENT_BYTES)
    try:
        record = _decoder.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CorruptRecord(f"a segment does not fit its schema: {error}") from None
    ticks = tuple(logged(record.first, record.base, _joined(record)))
    if ticks[-1].digest != record.end:
        raise CorruptRecord(f"the segment of ticks {ticks[0].tick} to {ticks[-1].tick} does not end as it says")
    return Segment(base=record.base, keyframe=record.keyframe, ticks=ticks)


def _split(payloads: Sequence[bytes]) -> tuple[tuple[bytes, ...], bytes]:
    """Return payloads without their ends, and the ends transposed; nothing is split where they differ in length."""
    memories = [effects_of(payload).memory.tobytes() for payload in payloads]
    size = len(memories[0])
    if not size or not all(
        len(memory) == size and payload.endswith(memory) for payload, memory in zip(payloads, memories, strict=True)
    ):
        return tuple(payloads), b""
    halves = np.frombuffer(b"".join(memories), np.uint8).reshape(-1, size // 2, 2)
    return tuple(payload[:-size] for payload in payloads), halves.transpose(2, 1, 0).tobytes()


def _joined(record: _Segment) -> list[bytes]:
    """Return whole payloads."""
    size, rest = divmod(len(record.tails), len(record.heads))
    if rest or size % 2:
        raise CorruptRecord(f"a segment of {len(record.heads)} ticks has ends of {len(record.tails)} bytes")
    if not size:
        return list(record.heads)
    halves = np.frombuffer(record.tails, np.uint8).reshape(2, size // 2, -1)
    ends = np.ascontiguousarray(halves.transpose(2, 1, 0)).reshape(-1, size)
    return [head + end.tobytes() for head, end in zip(record.heads, ends, strict=True)]
