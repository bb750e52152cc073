"""What the file system refuses an archive is told with its path, and keeps no other world from being archived."""

import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from cluster import archiving
from cluster.archiving import ArchivingThread
from tests.integration.store_suite import born, commit_one
from world.errors import CorruptRecord, StoreError
from world.snapshot import WorldId
from world.store.archive import Archive, content_name
from world.store.archiver import ArchiveConfig, Archiver
from world.store.history import History
from world.store.in_process import InProcessWorldStore
from world.store.past import SegmentRef
from world.store.records import Ack, Commit

WORLD, OTHER = WorldId("w0"), WorldId("w1")
REF = SegmentRef(1, 2, "0" * 32)


def test_what_the_file_system_refuses_is_told_with_its_path(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    blocked = tmp_path / WORLD
    blocked.write_text("no folder")
    for refused in (
        lambda: archive.put(WORLD, SegmentRef(1, 2, content_name(b"")), b""),
        lambda: archive.file(WORLD, REF),
        lambda: archive.share(REF, of=OTHER, with_=WORLD),
        lambda: archive.keep_aside(WORLD, "aside", b""),
        lambda: archive.remove(WORLD),
        lambda: archive.discard(WORLD, REF),
        lambda: archive.sweep(WORLD, (), 0),
        lambda: archive.num_bytes(WORLD),
    ):
        with pytest.raises(StoreError, match=str(blocked)):
            refused()


def test_a_file_that_another_deletes_meanwhile_is_not_counted(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    (tmp_path / WORLD).mkdir()
    # It is listed, and it is not there.
    (tmp_path / WORLD / f"{'0' * 32}.seg").symlink_to("nowhere")
    assert archive.num_bytes(WORLD) == 0
    assert archive.sweep(WORLD, (), 0) == 0
    shutil.rmtree(tmp_path / WORLD)
    assert archive.num_bytes(WORLD) == 0


def test_two_who_archive_the_same_at_once_do_not_disturb_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref, fsync, written = SegmentRef(1, 2, content_name(b"ticks")), os.fsync, list[SegmentRef]()

    def meanwhile(descriptor: int) -> None:
        if not written and Path(f"/proc/self/fd/{descriptor}").readlink().is_file():
            written.append(ref)
            Archive(tmp_path).put(WORLD, ref, b"ticks")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", meanwhile)
    archive = Archive(tmp_path)
    archive.put(WORLD, ref, b"ticks")
    assert written
    assert archive.file(WORLD, ref) == b"ticks"
    assert [path.name for path in (tmp_path / WORLD).iterdir()] == [f"{ref.name}.seg"]


def _full_of_ticks(store: InProcessWorldStore, world: WorldId) -> None:
    life, token = born(store, world)
    while isinstance(commit_one(store, Commit(token, life.steps(1))), Ack):
        pass


@pytest.mark.parametrize("sweep_every", [1, 1000])
def test_a_world_whose_archive_is_damaged_keeps_no_other_from_being_archived(
    sweep_every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, told = InProcessWorldStore(max_log_ticks=8), list[str]()
    monkeypatch.setattr(archiving, "RedisWorldStore", SimpleNamespace(connect=lambda url, timeout_s: store))
    monkeypatch.setattr(archiving, "_SWEEP_EVERY", sweep_every)
    for world in (WORLD, OTHER):
        _full_of_ticks(store, world)
    (tmp_path / WORLD).write_text("no folder")
    thread = ArchivingThread("redis://", tmp_path, lambda store: (WORLD, OTHER), told.append, every_s=0.01)
    thread.start()
    deadline = time.monotonic() + 60
    while store.record(OTHER).status != "running" and time.monotonic() < deadline:
        time.sleep(0.01)
    thread.stop()
    assert store.record(OTHER).status == "running", "its log still waits to be archived"
    assert len(told) == 1
    assert told[0].startswith(f"not archived: {tmp_path / WORLD}: ")


def test_a_broken_keyframe_does_not_keep_a_world_from_being_archived_where_segments_lead_there(tmp_path: Path) -> None:
    store, config = InProcessWorldStore(), ArchiveConfig(segment_ticks=4, least_segment_ticks=4)
    life, token = born(store, WORLD)
    digests = [life.snapshot.digest()]
    history = History(store.history(), Archive(tmp_path))
    archiver = Archiver(history.kept, history.archive, config)
    for _ in range(3):
        for _ in range(4):
            commit_one(store, Commit(token, life.steps(1), life.snapshot))
            digests.append(life.snapshot.digest())
        store._worlds[WORLD].keyframes[history.kept.past(WORLD).archived_to] += b"?"
        if len(digests) == 5:
            # Its line would begin with no keyframe at all.
            refused = archiver.run([WORLD]).refused
            assert refused[WORLD].startswith(f"world {WORLD!r}: ")
            with pytest.raises(CorruptRecord):
                archiver.archive(WORLD)
            keyframes = store._worlds[WORLD].keyframes
            keyframes[0] = keyframes[0][:-1]
        assert archiver.run([WORLD]).refused == {}
    assert history.kept.past(WORLD).archived_to == 12
    assert [history.state_at(WORLD, tick).digest() for tick in range(13)] == digests
