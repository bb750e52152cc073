"""Cold segments come back byte for byte, smaller than they were, and nothing malformed ever does more than fail."""

import random
import struct

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.store_cases import LivingField
from world.errors import CorruptRecord
from world.store import segment as segments
from world.store.codec import effects_payload, seal_effects, snapshot_payload
from world.store.frame import seal, unseal_any
from world.store.segment import Segment, decode_segment, encode_segment, logged

BASE = bytes(range(16))


def segment_of(num_ticks: int, *, memory_size: int = 16, seed: int = 1, with_keyframe: bool = True) -> Segment:
    """Return a segment of a fresh life."""
    life = LivingField(seed, memory_size=memory_size)
    keyframe = snapshot_payload(life.snapshot, chain=BASE) if with_keyframe else b""
    payloads = [effects_payload(tick) for tick in life.steps(num_ticks)]
    return Segment(base=BASE, keyframe=keyframe, ticks=tuple(logged(1, BASE, payloads)))


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 40), st.sampled_from((0, 1, 16)), st.booleans())
def test_segments_come_back_byte_for_byte(num_ticks: int, memory_size: int, with_keyframe: bool) -> None:
    segment = segment_of(num_ticks, memory_size=memory_size, with_keyframe=with_keyframe)
    assert decode_segment(encode_segment(segment, level=1)) == segment


def test_a_segment_is_smaller_than_its_frames() -> None:
    segment = segment_of(256, with_keyframe=False)
    frames = sum(len(seal_effects(tick.payload)) for tick in segment.ticks)
    assert len(encode_segment(segment)) < 0.75 * frames


def test_ticks_of_different_numbers_of_agents_are_kept_too() -> None:
    payloads = [
        effects_payload(LivingField(1, num_agents=num, memory_size=size).step())
        for num, size in ((2, 4), (4, 4), (3, 0))
    ]
    segment = Segment(base=BASE, keyframe=b"", ticks=tuple(logged(1, BASE, payloads)))
    assert decode_segment(encode_segment(segment)) == segment


def test_a_segment_that_does_not_end_as_it_says_is_corrupt() -> None:
    segment = segment_of(4)
    cut = Segment(base=b"?" * 16, keyframe=segment.keyframe, ticks=segment.ticks)
    with pytest.raises(CorruptRecord, match="does not end as it says"):
        decode_segment(encode_segment(cut))


def test_mutated_segments_are_corrupt_and_nothing_else() -> None:
    data = encode_segment(segment_of(20))
    random_ = random.Random(0)
    for _ in range(1500):
        changed = bytearray(data)
        for _ in range(random_.randint(1, 4)):
            changed[random_.randrange(len(changed))] ^= 1 << random_.randrange(8)
        if random_.random() < 0.3:
            del changed[random_.randrange(len(changed)) :]
        if bytes(changed) != data:
            with pytest.raises(CorruptRecord):
                decode_segment(bytes(changed))


def test_mutated_bodies_under_a_right_checksum_are_corrupt_too_for_the_chain_does_not_fit() -> None:
    _, raw = unseal_any(segments._MAGIC, 1, encode_segment(segment_of(8)), 1 << 28)
    random_ = random.Random(1)
    for _ in range(400):
        changed = bytearray(raw)
        changed[random_.randrange(len(changed) // 2, len(changed))] ^= 1 << random_.randrange(8)
        with pytest.raises(CorruptRecord):
            decode_segment(seal(segments._MAGIC, 1, bytes(changed), 1 << 28, level=1))


def test_a_segment_that_claims_to_be_huge_is_refused_before_it_is_unpacked() -> None:
    sealed = struct.pack("<4sBBI", segments._MAGIC, 1, 1, 2**32 - 1) + b"(\xb5/\xfd"
    with pytest.raises(CorruptRecord, match="limit"):
        decode_segment(sealed + xxhash.xxh3_128_digest(sealed))
