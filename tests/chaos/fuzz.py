"""Mutated frames by the hundred thousand: each is refused as corrupt or read as its schema says, within its memory."""

import random
import resource
import struct
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import xxhash

from tests.store_cases import LivingField
from world.errors import CorruptRecord
from world.snapshot import TickEffects
from world.store.codec import (
    MAX_EFFECTS_BYTES,
    MAX_SNAPSHOT_BYTES,
    decode_snapshot,
    effects_of,
    effects_payload,
    encode_effects,
    encode_snapshot,
    seal_effects,
    seal_snapshot,
    snapshot_payload,
    unseal_effects,
)
from world.store.frame import seal, unseal_any
from world.store.segment import MAX_SEGMENT_BYTES, Segment, decode_segment, encode_segment, logged

_HEADER: Final = struct.Struct("<4sBBI")
_CHECKSUM_BYTES: Final = 16
_SLACK_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class _Target:
    """A kind of frame: a good one, what is in it, how that is sealed and read, and what reading may take."""

    name: str
    frame: bytes
    payload: bytes
    head: int
    """Bytes of the payload before its msgpack."""
    seal: Callable[[bytes], bytes]
    decode: Callable[[bytes], object]
    max_bytes: int
    weight: int


def fuzz(num: int, *, seed: int) -> dict[str, Any]:
    """Decode `num` mutated frames; a violation is any other exception than ours, or more memory than declared.

    Declared are what a frame says it holds, and as much again for the arrays that are made of it.
    """
    drawn, targets = random.Random(seed), _targets()
    outcomes: Counter[str] = Counter()
    peaks: Counter[str] = Counter()
    problems: Counter[str] = Counter()
    with _bounded(2 * MAX_SEGMENT_BYTES + (1 << 30)), _traced():
        for target in drawn.choices(targets, [target.weight for target in targets], k=num):
            frame = _mutated_frame(drawn, target)
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            try:
                target.decode(frame)
                outcomes[f"{target.name} read"] += 1
            except CorruptRecord:
                outcomes[f"{target.name} refused"] += 1
            except Exception as error:  # noqa: BLE001 — whatever it is, it is a finding.
                problems[f"{target.name}: {type(error).__name__}: {error}"] += 1
            peak = tracemalloc.get_traced_memory()[1] - before
            peaks[target.name] = max(peaks[target.name], peak)
            if peak > 2 * target.max_bytes + _SLACK_BYTES:
                problems[f"{target.name}: {peak} bytes"] += 1
    return {
        "chaos": "mutated frames",
        "num_faults": num,
        "outcomes": dict(sorted(outcomes.items())),
        "peak_bytes": dict(peaks),
        "problems": dict(problems),
        "violations": problems.total(),
    }


def _targets() -> list[_Target]:
    life = LivingField(2)
    ticks = life.steps(20)
    payload = effects_payload(ticks[-1])
    state = snapshot_payload(life.snapshot, chain=b"c" * 16)
    small = Segment(
        base=bytes(16), keyframe=b"", ticks=tuple(logged(1, bytes(16), [effects_payload(t) for t in ticks]))
    )
    segment = encode_segment(small, level=3)
    magic, (version, raw) = segment[:4], unseal_any(segment[:4], 255, segment, MAX_SEGMENT_BYTES)

    def read_effects(frame: bytes) -> TickEffects:
        return effects_of(unseal_effects(frame))

    def seal_segment(body: bytes) -> bytes:
        return seal(magic, version, body, MAX_SEGMENT_BYTES)

    return [
        _Target("effects", encode_effects(ticks[-1]), payload, 1, seal_effects, read_effects, MAX_EFFECTS_BYTES, 16),
        _Target(
            "snapshot", encode_snapshot(life.snapshot), state, 1, seal_snapshot, decode_snapshot, MAX_SNAPSHOT_BYTES, 3
        ),
        _Target("segment", segment, raw, 0, seal_segment, decode_segment, MAX_SEGMENT_BYTES, 1),
    ]


def _mutated_frame(drawn: random.Random, target: _Target) -> bytes:
    """Return a frame that is wrong on the disk, in its content, in its compression, or in what it says of itself."""
    match drawn.randrange(5):
        case 0:
            return _mutated(drawn, target.frame)
        case 1:
            return target.seal(_mutated(drawn, target.payload))
        case 2:
            head, record = target.payload[: target.head], msgspec.msgpack.decode(target.payload[target.head :])
            return target.seal(head + msgspec.msgpack.encode(_restructured(drawn, record)))
        case 3:
            head, body = target.frame[: _HEADER.size], target.frame[_HEADER.size : -_CHECKSUM_BYTES]
            return _checked(head + _mutated(drawn, body))
        case _:
            magic, version, codec, length = _HEADER.unpack_from(target.frame)
            length = drawn.choice((0, length - 1, length + 1, 2 * length, target.max_bytes, 2**32 - 1))
            head = _HEADER.pack(magic, drawn.choice((version, 0, 255)), drawn.choice((codec, 0, 1, 9)), length)
            return _checked(head + target.frame[_HEADER.size : -_CHECKSUM_BYTES])


def _restructured(drawn: random.Random, value: Any) -> Any:
    """Return a record with one of its leaves replaced: well-formed, and not what was meant."""
    if isinstance(value, list) and len(value) == 3 and isinstance(value[2], bytes) and drawn.random() < 0.5:
        # An array that claims to be all zeros: a few bytes that stand for many.
        length = drawn.choice((2**10, 2**16, 2**20, 2**22, 2**25, 2**28, 2**31 - 1))
        return [value[0], [length, *value[1][1:]], b""]
    if isinstance(value, list) and value and drawn.random() < 0.95:
        at = drawn.randrange(len(value))
        return [*value[:at], _restructured(drawn, value[at]), *value[at + 1 :]]
    match value:
        case bool():
            return drawn.choice((not value, 7))
        case int():
            return drawn.choice((0, -1, value + 1, 2**12, 2**16, 2**22, 2**27, 2**31 - 1, 2**63))
        case bytes():
            return drawn.choice((b"", value[:-1], value + value, bytes(2**16)))
        case str():
            return drawn.choice(("", value + "x", 0))
        case _:
            return drawn.choice((None, [], [value, value], 1.5, {}))


def _checked(sealed: bytes) -> bytes:
    return sealed + xxhash.xxh3_128_digest(sealed)


def _mutated(drawn: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(drawn.randint(1, 4)):
        at = drawn.randrange(len(changed) or 1)
        match drawn.randrange(5):
            case 0 if changed:
                changed[at] ^= 1 << drawn.randrange(8)
            case 1:
                del changed[at : at + drawn.randint(1, 40)]
            case 2:
                changed[at:at] = drawn.randbytes(drawn.randint(1, 20))
            case 3:
                # Lengths, as msgpack has them: the largest that fit.
                changed[at : at + 5] = drawn.choice((b"\xce", b"\xc6", b"\xdd")) + struct.pack(
                    ">I", drawn.choice((0, 2**22, 2**26, 2**31 - 1, 2**32 - 1))
                )
            case _:
                changed[at : at + 4] = struct.pack(">I", drawn.choice((0, 2**31, 2**32 - 1)))
    return bytes(changed)


@contextmanager
def _bounded(more_bytes: int) -> Iterator[None]:
    """Let this process have no more memory than it has and `more_bytes`: what is not traced is bounded too."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as statm:  # noqa: PTH123 — one line of the kernel's.
        now = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + more_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


@contextmanager
def _traced() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()
