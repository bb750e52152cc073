"""What is written is read back; what is broken is cut, counted and never believed."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from learner import frames
from learner.bench import homestead_chunk
from learner.frames import FILE_HEADER, MAX_FRAME_BYTES, Frame, encode_frame, read_segment
from learner.segments import SegmentConfig, SegmentLog, Watermark
from world.errors import ConfigError, DiskFull, ReplayError
from world.snapshot import WorldId
from world.trajectory import Chunk

ALL = 1 << 40


def _chunk(number: int) -> Chunk:
    return homestead_chunk(WorldId("w"), 4 * number, num_ticks=4, agents=1, side=3)


def _config(**changes: float) -> SegmentConfig:
    return SegmentConfig(**{"segment_bytes": 4096, "quota_bytes": 1 << 20, **changes})  # type: ignore[arg-type]


def _ticks(log: SegmentLog, budget_bytes: int = ALL) -> list[int]:
    return [frame.chunk.first_tick for frame in log.scan(budget_bytes)]


def _filled(directory: Path, num_chunks: int, **changes: float) -> SegmentLog:
    log = SegmentLog(_config(**changes), directory)
    for number in range(num_chunks):
        log.append(_chunk(number))
    return log


def _abandon(log: SegmentLog) -> None:
    """Leave the files as a killed process does: nothing sealed, nothing flushed by us."""
    os.close(log._lock)
    if log._descriptor >= 0:
        os.close(log._descriptor)


def test_chunks_come_back_equal_and_in_order(tmp_path: Path) -> None:
    _filled(tmp_path, 20).close()
    log = SegmentLog(_config(), tmp_path)
    frames = list(log.scan(ALL))
    assert [frame.chunk.first_tick for frame in frames] == list(range(0, 80, 4))
    for number, frame in enumerate(frames):
        wanted = _chunk(number)
        assert (frame.chunk.world, frame.chunk.epoch) == (wanted.world, wanted.epoch)
        for name, column in wanted.transitions.columns().items():
            np.testing.assert_array_equal(frame.chunk.transitions.columns()[name], column)
    assert log.scanned.segments > 1
    assert log.scanned.frames == 20


def test_an_unsealed_segment_of_a_killed_process_is_read(tmp_path: Path) -> None:
    _abandon(_filled(tmp_path, 3, segment_bytes=1 << 18))
    assert [path.suffix for path in sorted(tmp_path.glob("0*"))] == [".open"]
    assert _ticks(SegmentLog(_config(), tmp_path)) == [0, 4, 8]


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_a_torn_tail_is_cut_wherever_it_tears(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    directory = tmp_path_factory.mktemp("torn")
    _abandon(_filled(directory, 3, segment_bytes=1 << 18))
    (path,) = directory.glob("*.open")
    ends = [end for end, _ in read_segment(path)]
    size = data.draw(st.integers(0, path.stat().st_size))
    os.truncate(path, size)
    # A crash of the machine may leave zeros where data had not reached the disk.
    zeros = data.draw(st.sampled_from([0, 1, 500]))
    with path.open("ab") as file:
        file.write(bytes(zeros))
    log = SegmentLog(_config(), directory)
    sound = [end for end in ends if end <= size]
    assert _ticks(log) == [4 * number for number in range(len(sound))]
    log.append(_chunk(9))
    assert _ticks(log)[-1] == 36
    log.close()


def test_a_damaged_sealed_segment_is_counted_and_the_next_goes_on(tmp_path: Path) -> None:
    log = _filled(tmp_path, 20)
    log.close()
    first, *_ = sorted(tmp_path.glob("*.segment"))
    ends = [end for end, _ in read_segment(first)]
    data = bytearray(first.read_bytes())
    data[ends[0] + 60] ^= 1
    first.write_bytes(data)
    again = SegmentLog(_config(), tmp_path)
    ticks = _ticks(again)
    assert ticks == [0, *range(4 * len(ends), 80, 4)]
    assert again.scanned.damaged_segments == 1
    assert again.scanned.lost_bytes == len(data) - ends[0]
    with pytest.raises(ReplayError, match=f"{first.name} at {ends[0]}: frame fails its checksum"):
        list(read_segment(first))


def test_a_foreign_file_is_refused_whole(tmp_path: Path) -> None:
    (tmp_path / "0000000000.segment").write_bytes(b"something else entirely")
    log = SegmentLog(_config(), tmp_path)
    assert _ticks(log) == []
    assert log.scanned.damaged_segments == 1


def _framed(body: bytes, raw_bytes: int, packed: bytes | None = None) -> bytes:
    """Return a frame with a sound checksum around any body."""
    compressor = zstandard.ZstdCompressor()
    chunk = _chunk(0)
    whole = bytearray(encode_frame(Frame(chunk, 0.0), compressor))
    _, head_bytes, _, _, _ = frames._FRAME.unpack(whole[: frames._FRAME.size])
    head = bytes(whole[frames._FRAME.size : frames._FRAME.size + head_bytes])
    packed = compressor.compress(body) if packed is None else packed
    sizes = frames._FRAME.pack(frames._MAGIC, len(head), len(packed), raw_bytes, bytes(16))[:-16]
    return sizes + frames._digest(sizes, head, packed) + head + packed


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (_framed(bytes(1 << 24), 100), "declares another size"),
        (_framed(bytes(100), MAX_FRAME_BYTES + 1), "claims more"),
        (_framed(bytes(100), 100), "reaches beyond the body"),
        (_framed(bytes(100_000), 100_000), "bytes too many"),
        (_framed(b"", 5, b"no zstd"), "cannot be decoded"),
    ],
)
def test_frames_that_lie_are_refused_before_they_cost_memory(tmp_path: Path, frame: bytes, message: str) -> None:
    path = tmp_path / "0000000000.segment"
    path.write_bytes(FILE_HEADER + frame)
    with pytest.raises(ReplayError, match=message):
        list(read_segment(path))


def test_only_the_newest_that_fill_the_budget_are_decoded(tmp_path: Path) -> None:
    _filled(tmp_path, 40).close()
    log = SegmentLog(_config(), tmp_path)
    ticks = _ticks(log, budget_bytes=3 * _chunk(0).transitions.nbytes)
    assert 3 <= len(ticks) < 15
    assert ticks[-1] == 156
    assert log.scanned.skipped_segments > 0


def test_the_quota_deletes_the_oldest_sealed_segments(tmp_path: Path) -> None:
    log = SegmentLog(_config(quota_bytes=12_288), tmp_path)
    for number in range(60):
        log.append(_chunk(number))
        assert log.num_bytes <= 12_288
        assert sum(path.stat().st_size for path in tmp_path.glob("0*")) == log.num_bytes
    ticks = _ticks(log)
    assert 0 < len(ticks) < 60
    assert ticks == list(range(240 - 4 * len(ticks), 240, 4))


def test_a_segment_is_sealed_when_it_is_old(tmp_path: Path) -> None:
    now = [0.0]
    log = SegmentLog(_config(segment_bytes=1 << 18, segment_age_s=10.0), tmp_path, clock=lambda: now[0])
    log.append(_chunk(0))
    now[0] = 9.0
    log.append(_chunk(1))
    assert not list(tmp_path.glob("*.segment"))
    now[0] = 10.0
    log.append(_chunk(2))
    assert len(list(tmp_path.glob("*.segment"))) == 1


class _SmallDisk:
    """A disk of so many bytes: takes what still fits of a write, then refuses, as a file system does."""

    def __init__(self, capacity: int) -> None:
        self.left = capacity

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        if not self.left:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = os.write(descriptor, data[: self.left])
        self.left -= written
        return written


@pytest.mark.parametrize("left", [0, 3, 100, 400])
def test_a_full_disk_is_told_and_leaves_the_log_as_it_was(tmp_path: Path, left: int) -> None:
    disk = _SmallDisk(ALL)
    log = SegmentLog(_config(segment_bytes=1 << 18), tmp_path, write=disk.write)
    log.append(_chunk(0))
    size = log.num_bytes
    disk.left = left
    with pytest.raises(DiskFull, match=r"0000000000\.open: no space for [\d,]+ bytes"):
        log.append(_chunk(1))
    assert log.num_bytes == size
    disk.left = ALL
    log.append(_chunk(2))
    assert _ticks(log) == [0, 8]


def test_a_disk_too_full_for_a_new_segment_leaves_none(tmp_path: Path) -> None:
    disk = _SmallDisk(3)
    log = SegmentLog(_config(), tmp_path, write=disk.write)
    with pytest.raises(DiskFull):
        log.append(_chunk(0))
    assert not list(tmp_path.glob("0*"))
    disk.left = ALL
    log.append(_chunk(0))
    assert _ticks(log) == [0]


@settings(deadline=None, max_examples=20)
@given(before=st.integers(0, 12), after=st.integers(0, 12), killed=st.booleans())
def test_truncating_restores_the_moment_of_the_watermark(
    tmp_path_factory: pytest.TempPathFactory, before: int, after: int, killed: bool
) -> None:
    directory = tmp_path_factory.mktemp("moment")
    log = _filled(directory, before)
    mark = log.watermark()
    for number in range(before, before + after):
        log.append(_chunk(number))
    if killed:
        _abandon(log)
        log = SegmentLog(_config(), directory)
    log.truncate(Watermark(*mark))
    log.truncate(mark)
    assert _ticks(log) == list(range(0, 4 * before, 4))
    log.append(_chunk(99))
    assert _ticks(log)[-1] == 396
    log.close()


def test_a_watermark_whose_segment_is_gone_is_refused_and_nothing_is_deleted(tmp_path: Path) -> None:
    log = _filled(tmp_path, 1, quota_bytes=12_288)
    mark = log.watermark()
    for number in range(1, 60):
        log.append(_chunk(number))
    kept = _ticks(log)
    with pytest.raises(ReplayError, match="start from another checkpoint"):
        log.truncate(mark)
    assert _ticks(log) == kept


def test_a_second_holder_of_the_directory_is_refused(tmp_path: Path) -> None:
    log = _filled(tmp_path, 1)
    with pytest.raises(ReplayError, match="another process holds"):
        SegmentLog(_config(), tmp_path)
    log.close()
    assert _ticks(SegmentLog(_config(), tmp_path)) == [0]


def test_a_directory_is_let_go_of_where_the_disk_refuses_the_last_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = _filled(tmp_path, 1)
    with monkeypatch.context() as disk, pytest.raises(DiskFull):
        disk.setattr("learner.segments.os.fsync", lambda descriptor: _SmallDisk(0).write(descriptor, b"1"))
        log.close()
    assert _ticks(SegmentLog(_config(), tmp_path)) == [0]


def test_the_name_of_a_segment_is_durable_before_its_first_chunk_is_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[list[str]] = []
    monkeypatch.setattr(
        "learner.segments.sync_directory",
        lambda directory: synced.append(sorted(path.name for path in directory.glob("0*"))),
    )
    log = _filled(tmp_path, 2, segment_bytes=1 << 18)
    assert synced == [["0000000000.open"]]
    log.close()


@pytest.mark.parametrize(
    "changes",
    [
        {"segment_bytes": 0},
        {"segment_age_s": 0.0},
        {"segment_age_s": float("nan")},
        {"quota_bytes": 4096},
        {"compression_level": 0},
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="segments"):
        _config(**changes)
