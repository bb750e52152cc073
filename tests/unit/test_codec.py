"""Frames and records: every one comes back byte for byte, small, and nothing malformed ever does more than fail."""

import random
import struct
from dataclasses import replace
from typing import Any

import msgpack
import msgspec
import numpy as np
import pytest
import xxhash
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.store_cases import LivingField, equal_effects
from world.envs.grounded import ViewLayout
from world.errors import CorruptRecord, WorldTooLarge
from world.event import MAX_EVENTS
from world.field import Changes
from world.snapshot import Snapshot, TickEffects
from world.store import codec
from world.store.codec import decode_snapshot, effects_of, encode_effects, encode_snapshot, unseal_effects
from world.store.frame import ArrayReader, PackedArray, pack_array, seal, unseal_any

MAGIC = b"TEST"


def reframed(magic: bytes, raw: bytes) -> bytes:
    """Return a frame whose checksum is right, whatever is in it."""
    return seal(magic, codec.SCHEMA_VERSION, raw, 1 << 28)


def unsealed(magic: bytes, newest: int, frame: bytes, max_raw: int) -> bytes:
    """Return what was sealed in a frame."""
    return unseal_any(magic, newest, frame, max_raw)[1]


def decode_effects(frame: bytes) -> TickEffects:
    """Return the effects in a frame."""
    return effects_of(unseal_effects(frame))


@st.composite
def ticks(draw: st.DrawFn) -> TickEffects:
    num_agents, num_changes = draw(st.integers(1, 5)), draw(st.integers(0, 20))
    random_ = np.random.default_rng(draw(st.integers(0, 2**32)))
    num_events = draw(st.integers(0, MAX_EVENTS))
    far = draw(st.sampled_from((3, 200, 40_000, 2**31 - 1)))
    return TickEffects(
        tick=draw(st.integers(0, 2**31 - 1)),
        is_first=draw(st.booleans()),
        poses=random_.integers(-far, far, (num_agents, 2)).astype(np.int32),
        actions=random_.integers(0, 300, num_agents).astype(np.int32),
        events=np.concatenate(
            [random_.integers(1, 9, (num_events, 1)), random_.integers(-far, far, (num_events, 2))], axis=1
        ).astype(np.int32),
        rewards=random_.choice(np.array([0.0, -0.0, 1.5, np.nan, np.inf], np.float32), num_agents),
        terminated=random_.random(num_agents) < 0.5,
        truncated=np.zeros(num_agents, np.bool_),
        changes=Changes(
            random_.integers(0, 2, num_changes).astype(np.uint8),
            random_.integers(-far, far, num_changes).astype(np.int32),
            random_.integers(-far, far, num_changes).astype(np.int32),
            random_.integers(0, 2**16, num_changes).astype(np.uint16),
        ),
        memory=random_.standard_normal((num_agents, draw(st.integers(0, 20)))).astype(np.float16),
        weights_version=draw(st.integers(0, 2**31 - 1)),
        state_digest=random_.bytes(16),
    )


@settings(deadline=None, max_examples=50)
@given(ticks())
def test_effects_come_back_byte_for_byte(effects: TickEffects) -> None:
    frame = encode_effects(effects)
    decoded = decode_effects(frame)
    assert equal_effects(decoded, effects)
    assert decoded.poses.flags.writeable
    assert encode_effects(decoded) == frame


def test_a_typical_tick_takes_less_than_three_hundred_bytes() -> None:
    frames = [encode_effects(effects) for effects in LivingField(1).steps(300)[50:]]
    assert sum(map(len, frames)) / len(frames) < 300


@pytest.mark.parametrize("num_ticks", [0, 1, 60])
def test_snapshots_come_back_equal(num_ticks: int) -> None:
    life = LivingField(4)
    life.steps(num_ticks)
    life.snapshot.env = bytes(range(256))
    life.snapshot.seed = 2**63 - 1
    snapshot, chain = decode_snapshot(encode_snapshot(life.snapshot, chain=b"c" * 16))
    assert snapshot.digest() == life.snapshot.digest()
    assert (snapshot.kind, snapshot.seed, snapshot.env, chain) == ("dreamed", 2**63 - 1, bytes(range(256)), b"c" * 16)
    assert snapshot.field.layout == life.snapshot.field.layout
    assert snapshot.field.num_agents == life.snapshot.field.num_agents
    assert equal_effects(LivingField.resume(snapshot).step(), life.step())


def test_a_snapshot_without_poses_comes_back_equal() -> None:
    layout = ViewLayout(rows=3, cols=4, map_rows=0, tile_px=0, num_values=9)
    empty = Snapshot.empty("grounded", 0, layout, 2, 0)
    snapshot, chain = decode_snapshot(encode_snapshot(empty))
    assert (snapshot.field.layout, snapshot.digest(), chain) == (layout, empty.digest(), b"")


def test_another_implementation_reads_the_bodies_as_plain_msgpack() -> None:
    life = LivingField(1)
    effects = life.step()
    raw = unsealed(b"LWef", codec.SCHEMA_VERSION, encode_effects(effects), 1 << 20)
    fields = msgpack.unpackb(raw)
    assert fields[:4] == [1, True, 3, effects.state_digest]
    raw = unsealed(b"LWsn", codec.SCHEMA_VERSION, encode_snapshot(life.snapshot), 1 << 28)
    assert msgpack.unpackb(raw)[0] == "dreamed"


def mutated(random_: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(random_.randint(1, 4)):
        at = random_.randrange(len(changed) or 1)
        match random_.randrange(4):
            case 0 if changed:
                changed[at] ^= 1 << random_.randrange(8)
            case 1:
                del changed[at : at + random_.randint(1, 40)]
            case 2:
                changed[at:at] = random_.randbytes(random_.randint(1, 20))
            case _:
                changed[at : at + 4] = struct.pack(">I", random_.choice((0, 2**31, 2**32 - 1)))
    return bytes(changed)


@pytest.mark.parametrize("kind", ["effects", "snapshot"])
def test_mutated_frames_are_corrupt_and_nothing_else(kind: str) -> None:
    life = LivingField(2)
    effects = life.steps(20)[-1]
    frame = encode_effects(effects) if kind == "effects" else encode_snapshot(life.snapshot)
    decode: Any = decode_effects if kind == "effects" else decode_snapshot
    random_ = random.Random(0)
    for _ in range(2000):
        changed = mutated(random_, frame)
        if changed != frame:
            with pytest.raises(CorruptRecord):
                decode(changed)


@pytest.mark.parametrize("kind", ["effects", "snapshot"])
def test_mutated_bodies_under_a_right_checksum_decode_to_their_schema_or_are_corrupt(kind: str) -> None:
    life = LivingField(2)
    effects = life.steps(20)[-1]
    magic, frame = (
        (b"LWef", encode_effects(effects)) if kind == "effects" else (b"LWsn", encode_snapshot(life.snapshot))
    )
    raw = unsealed(magic, codec.SCHEMA_VERSION, frame, 1 << 28)
    random_ = random.Random(1)
    outcomes = [0, 0]
    for _ in range(2000 if kind == "effects" else 400):
        changed = reframed(magic, mutated(random_, raw))
        try:
            if kind == "effects":
                decoded = decode_effects(changed)
                assert len(decoded.actions) == len(decoded.poses)
            else:
                assert decode_snapshot(changed)[0].memory.dtype == np.float16
            outcomes[0] += 1
        except CorruptRecord:
            outcomes[1] += 1
    assert min(outcomes) > 0


def test_a_small_frame_that_claims_to_be_huge_is_refused_before_it_is_unpacked() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 26))
    assert len(bomb) < 10_000
    for declared, limit in ((1 << 26, 1 << 20), (1 << 10, 1 << 20)):
        sealed = struct.pack("<4sBBI", MAGIC, 1, 1, declared) + bomb
        with pytest.raises(CorruptRecord, match="declares"):
            unsealed(MAGIC, 1, sealed + xxhash.xxh3_128_digest(sealed), limit)


def test_frames_that_are_not_ours_are_refused() -> None:
    frame = seal(MAGIC, 1, b"content", 100)
    assert unsealed(MAGIC, 1, frame, 100) == b"content"
    for bad, what in (
        (b"", "short"),
        (frame[:-1], "checksum"),
        (seal(b"ELSE", 1, b"content", 100), "kind"),
        (seal(MAGIC, 2, b"content", 100), "schema 2"),
    ):
        with pytest.raises(CorruptRecord, match=what):
            unsealed(MAGIC, 1, bad, 100)
    for header, body in (((MAGIC, 1, 7, 3), b"abc"), ((MAGIC, 1, 0, 3), b"abcd"), ((MAGIC, 1, 1, 3), b"abc")):
        sealed = struct.pack("<4sBBI", *header) + body
        with pytest.raises(CorruptRecord):
            unsealed(MAGIC, 1, sealed + xxhash.xxh3_128_digest(sealed), 100)
    with pytest.raises(WorldTooLarge):
        seal(MAGIC, 1, bytes(101), 100)


def test_extra_bytes_after_the_compressed_content_are_refused() -> None:
    body = zstandard.ZstdCompressor().compress(bytes(1000)) + b"more"
    sealed = struct.pack("<4sBBI", MAGIC, 1, 1, 1000) + body
    with pytest.raises(CorruptRecord):
        unsealed(MAGIC, 1, sealed + xxhash.xxh3_128_digest(sealed), 2000)


def test_arrays_of_objects_are_not_stored() -> None:
    for dtype in (object, np.complex64, "U4", np.float64):
        with pytest.raises(TypeError):
            pack_array(np.zeros(3, dtype))


def test_arrays_share_a_budget_of_memory() -> None:
    reader = ArrayReader("record", 100)
    packed = PackedArray(dtype=1, shape=(10,), data=b"")
    assert reader.read("first", packed, np.int32, (None,)).nbytes == 40
    assert reader.read("second", packed, np.int32, (None,)).nbytes == 40
    with pytest.raises(CorruptRecord, match="third"):
        reader.read("third", packed, np.int32, (None,))


@pytest.mark.parametrize(
    "packed",
    [
        PackedArray(dtype=8, shape=(2,), data=bytes(8)),
        PackedArray(dtype=6, shape=(2,), data=bytes(16)),
        PackedArray(dtype=1, shape=(2, 1), data=b""),
        PackedArray(dtype=1, shape=(3,), data=b"\1\2"),
        PackedArray(dtype=1, shape=(2**31 - 1,), data=b""),
    ],
)
def test_an_array_of_another_kind_shape_or_length_is_corrupt(packed: PackedArray) -> None:
    with pytest.raises(CorruptRecord, match="record: y"):
        ArrayReader("record", 1 << 20).read("y", packed, np.int32, (None,))


def test_bytes_that_are_neither_true_nor_false_are_corrupt() -> None:
    with pytest.raises(CorruptRecord):
        ArrayReader("record", 100).read("flags", PackedArray(dtype=0, shape=(2,), data=b"\1\2"), np.bool_, (None,))


def test_chunks_that_lie_absurdly_far_apart_are_neither_written_nor_read() -> None:
    life = LivingField(1)
    life.step()
    raw = unsealed(b"LWsn", codec.SCHEMA_VERSION, encode_snapshot(life.snapshot), 1 << 28)
    fields = msgpack.unpackb(raw)
    coordinates = np.array([[-(2**30), 0], [2**30, 0]], np.int32)
    chunk = [[5, [2, 256, 4], b""], [5, [2, 256], b""]]
    fields[6][0] = [[5, [2, 2], coordinates.tobytes()], [3, [2, 256, 4], b""], *chunk]
    with pytest.raises(CorruptRecord, match="span"):
        decode_snapshot(reframed(b"LWsn", msgpack.packb(fields)))
    fields[6][0][0] = [5, [2, 2], np.zeros((2, 2), np.int32).tobytes()]
    with pytest.raises(CorruptRecord, match="ascending"):
        decode_snapshot(reframed(b"LWsn", msgpack.packb(fields)))
    wanderer = LivingField(1)
    wanderer.step()
    effects = wanderer.step()
    wanderer.snapshot.field.settle(
        replace(
            effects.changes,
            layer=np.zeros(2, np.uint8),
            y=np.array([0, 16 * 4000], np.int32),
            x=np.array([0, 16 * 4000], np.int32),
            token=np.ones(2, np.uint16),
        ),
        effects.poses,
        3,
    )
    with pytest.raises(WorldTooLarge, match=r"spans .*`worlds rewind`"):
        encode_snapshot(wanderer.snapshot)


def test_a_record_with_an_unknown_field_is_corrupt() -> None:
    raw = unsealed(b"LWef", codec.SCHEMA_VERSION, encode_effects(LivingField(1).step()), 1 << 20)
    fields = msgspec.msgpack.decode(raw)
    with pytest.raises(CorruptRecord):
        decode_effects(reframed(b"LWef", msgspec.msgpack.encode([*fields, 1])))


@pytest.mark.parametrize("events", [[[0, 1, 1]], [[1, 2**31, 1]], [[1, 1]], [[1, 1, 1]] * (MAX_EVENTS + 1), [], None])
def test_events_that_cannot_have_been_are_corrupt(events: Any) -> None:
    effects = LivingField(1).steps(7)[-1]
    fields = msgpack.unpackb(unsealed(b"LWef", codec.SCHEMA_VERSION, encode_effects(effects), 1 << 20))
    assert fields[-2] == effects.events.tolist() == [[2, 7, -7]]
    fields[-2] = events
    if events == []:
        assert decode_effects(reframed(b"LWef", msgpack.packb(fields))).events.shape == (0, 3)
        return
    with pytest.raises(CorruptRecord):
        decode_effects(reframed(b"LWef", msgpack.packb(fields)))
