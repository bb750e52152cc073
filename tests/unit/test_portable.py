"""Exported worlds come back byte for byte under a new id; files that are made to do harm are refused."""

import os
import secrets
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.store_cases import LivingField, record_of
from world.errors import CorruptRecord, ImportRefused, NoHistory, NotRunning, Pinned, UnknownWorld
from world.snapshot import WorldId
from world.store.archive import Archive, content_name
from world.store.archiver import ArchiveConfig, Archiver
from world.store.audit import audit
from world.store.codec import effects_of, effects_payload, seal_snapshot, snapshot_payload
from world.store.exported import export_world
from world.store.history import History
from world.store.in_process import InProcessWorldStore
from world.store.lineage import Lineage, new_world_id
from world.store.portable import import_world
from world.store.records import Ack, Commit
from world.store.refusals import UNFINISHED
from world.store.segment import Segment, encode_segment, logged

WORLD = WorldId("w-origin")
NUM_TICKS = 26


@pytest.fixture
def store() -> InProcessWorldStore:
    return InProcessWorldStore(hot_log_ticks=4)


@pytest.fixture
def history(store: InProcessWorldStore, tmp_path: Path) -> History:
    return History(store.history(), Archive(tmp_path / "archive"))


@pytest.fixture
def digests(store: InProcessWorldStore, history: History) -> list[bytes]:
    life = LivingField(5)
    digests = [life.snapshot.digest()]
    store.create(record_of(WORLD, life.snapshot), life.snapshot)
    token = store.acquire(WORLD, owner="host", nonce=secrets.token_bytes(16))
    for tick in range(1, NUM_TICKS + 1):
        effects = life.step()
        digests.append(life.snapshot.digest())
        keyframe = life.snapshot if tick % 6 == 0 else None
        assert isinstance(store.commit([Commit(token, (effects,), keyframe)])[0], Ack)
    Archiver(history.kept, history.archive, ArchiveConfig(segment_ticks=10, least_segment_ticks=3)).archive(WORLD)
    return digests


@pytest.fixture
def file(history: History, digests: list[bytes], tmp_path: Path) -> Path:
    return export_world(history, WORLD, tmp_path / "world.zip").path


def imported(history: History, file: Path) -> WorldId:
    """Import a file under a new id."""
    world = new_world_id()
    import_world(history.kept, history.archive, file, world)
    return world


def test_an_imported_world_is_what_was_exported_with_all_its_history(
    store: InProcessWorldStore, history: History, digests: list[bytes], file: Path
) -> None:
    world = imported(history, file)
    record = store.record(world)
    assert (record.tick, record.status, record.name) == (NUM_TICKS, "paused", store.record(WORLD).name)
    assert [history.state_at(world, tick).digest() for tick in range(NUM_TICKS + 1)] == digests
    assert audit(history, world).verified
    Lineage(store, history).delete(WORLD)
    assert history.state_at(world, 3).digest() == digests[3]


def test_what_an_imported_world_does_next_is_what_the_exported_one_does(
    store: InProcessWorldStore, history: History, digests: list[bytes], file: Path
) -> None:
    lives = []
    for world in (WORLD, imported(history, file)):
        store.set_status(world, "running")
        _, snapshot, effects = store.load(world)
        life = LivingField.resume(snapshot, effects)
        token = store.acquire(world, owner="host", nonce=secrets.token_bytes(16))
        assert isinstance(store.commit([Commit(token, life.steps(3))])[0], Ack)
        lives.append(life.snapshot.digest())
    assert lives[0] == lives[1]


def test_equal_worlds_make_equal_files(history: History, digests: list[bytes], tmp_path: Path) -> None:
    both = [export_world(history, WORLD, tmp_path / name).path.read_bytes() for name in ("a.zip", "b.zip")]
    assert both[0] == both[1]


def test_a_rewound_world_is_exported_without_what_was_cut_off(
    store: InProcessWorldStore, history: History, digests: list[bytes], tmp_path: Path
) -> None:
    store.set_status(WORLD, "paused")
    Lineage(store, history).rewind_in_place(WORLD, 8)
    world = imported(history, export_world(history, WORLD, tmp_path / "cut.zip").path)
    assert [history.state_at(world, tick).digest() for tick in range(9)] == digests[:9]


def test_a_deleted_world_is_not_exported(
    store: InProcessWorldStore, history: History, digests: list[bytes], tmp_path: Path
) -> None:
    Lineage(store, history).delete(WORLD)
    with pytest.raises(Exception, match="deleted"):
        export_world(history, WORLD, tmp_path / "gone.zip")
    assert not (tmp_path / "gone.zip").exists()
    with pytest.raises(NotRunning):
        store.set_status(WORLD, "running")


def rewritten(file: Path, change: Callable[[dict[str, bytes]], object], **how: int) -> Path:
    """Return a copy of an export whose parts were changed."""
    with zipfile.ZipFile(file) as zipped:
        parts = {info.filename: zipped.read(info) for info in zipped.infolist()}
    change(parts)
    copy = file.with_name(f"{secrets.token_hex(4)}.zip")
    with zipfile.ZipFile(copy, "w", how.get("compression", zipfile.ZIP_STORED)) as zipped:
        for name, data in parts.items():
            zipped.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data, how.get("compression"))
    return copy


def manifest_of(parts: dict[str, bytes]) -> dict[str, object]:
    """Return the manifest as plain values."""
    found: dict[str, object] = msgspec.json.decode(parts["manifest.json"])
    return found


def set_manifest(**fields: object) -> Callable[[dict[str, bytes]], object]:
    """Return a change of a manifest's fields."""

    def change(parts: dict[str, bytes]) -> None:
        parts["manifest.json"] = msgspec.json.encode(manifest_of(parts) | fields)

    return change


@pytest.mark.parametrize(
    "change",
    [
        lambda parts: parts.pop("manifest.json"),
        lambda parts: parts.pop("keyframe.bin"),
        lambda parts: parts.update({"../../evil": b"x"}),
        lambda parts: parts.update({"/etc/passwd": b"x"}),
        lambda parts: parts.update({f"segments/{'0' * 32}.seg": b"x"}),
        lambda parts: parts.update({"manifest.json": b"{}"}),
        lambda parts: parts.update({"manifest.json": b"\xff"}),
        set_manifest(surprise=1),
        set_manifest(format="other"),
        set_manifest(version=9),
        set_manifest(keyframe="../../../etc"),
        set_manifest(tick=-1),
        set_manifest(cold=[{"first": 1, "last": 2, "name": "../x"}]),
        set_manifest(env="os:system"),
        set_manifest(env="homestead_evil:make"),
    ],
)
def test_a_file_that_is_not_an_export_of_ours_is_refused(
    history: History, file: Path, change: Callable[[dict[str, bytes]], object]
) -> None:
    before = set(history.archive.directory.iterdir())
    with pytest.raises(ImportRefused):
        imported(history, rewritten(file, change))
    assert set(history.archive.directory.iterdir()) == before, "nothing of it was kept"


def test_parts_that_are_compressed_or_too_large_or_no_zip_at_all_are_refused(
    history: History, file: Path, tmp_path: Path
) -> None:
    bomb = rewritten(file, lambda parts: None, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(ImportRefused, match="compressed"):
        imported(history, bomb)
    for size in (10, file.stat().st_size - 1):
        with pytest.raises(ImportRefused, match="at most"):
            import_world(history.kept, history.archive, file, new_world_id(), max_bytes=size)
    text = tmp_path / "text.zip"
    text.write_text("this is not a zip file")
    for path in (text, tmp_path / "absent.zip"):
        with pytest.raises(ImportRefused, match="zip"):
            imported(history, path)


def test_a_world_of_foreign_code_is_taken_only_when_told_so(history: History, file: Path) -> None:
    odd = rewritten(file, set_manifest(env="package.module:factory"))
    with pytest.raises(ImportRefused, match="--any-env"):
        imported(history, odd)
    world = new_world_id()
    assert import_world(history.kept, history.archive, odd, world, any_env=True).env == "package.module:factory"


def test_any_flipped_byte_of_any_part_is_found(history: History, file: Path) -> None:
    drawn = np.random.default_rng(0)
    with zipfile.ZipFile(file) as zipped:
        names = [name for name in zipped.namelist() if name != "manifest.json"]
    for name in names:

        def flip(parts: dict[str, bytes], name: str = name) -> None:
            data = bytearray(parts[name])
            data[int(drawn.integers(len(data)))] ^= 1 << int(drawn.integers(8))
            parts[name] = bytes(data)

        with pytest.raises(CorruptRecord):
            imported(history, rewritten(file, flip))


@pytest.mark.parametrize(
    "fields",
    [{"tick": NUM_TICKS + 1}, {"tick": NUM_TICKS - 1}, {"digest": "0" * 32}, {"agents": 9}, {"kind": "grounded"}],
)
def test_a_manifest_that_says_other_than_its_parts_is_found(
    history: History, file: Path, fields: dict[str, object]
) -> None:
    with pytest.raises(CorruptRecord):
        imported(history, rewritten(file, set_manifest(**fields)))


def test_parts_that_are_whole_but_of_another_past_are_found(history: History, file: Path) -> None:
    def forge(parts: dict[str, bytes]) -> None:
        """Put a segment of another life in the place of the last one, named as its content is."""
        manifest = manifest_of(parts)
        cold: list[dict[str, object]] = manifest["cold"]  # type: ignore[assignment]
        first, last = int(str(cold[-1]["first"])), int(str(cold[-1]["last"]))
        other = LivingField(77)
        payloads = [effects_payload(tick) for tick in other.steps(last)][first - 1 :]
        keyframe = snapshot_payload(LivingField(77).snapshot, chain=bytes(16))
        data = encode_segment(
            Segment(base=bytes(16), keyframe=keyframe, ticks=tuple(logged(first, bytes(16), payloads)))
        )
        parts.pop(f"segments/{cold[-1]['name']}.seg")
        cold[-1]["name"] = content_name(data)
        parts[f"segments/{cold[-1]['name']}.seg"] = data
        parts["manifest.json"] = msgspec.json.encode(manifest)

    with pytest.raises(CorruptRecord):
        imported(history, rewritten(file, forge))


def test_cells_that_lie_absurdly_far_apart_are_found_before_memory_is_taken_for_them(
    history: History, digests: list[bytes], tmp_path: Path
) -> None:
    far = LivingField(5)
    ticks = list(far.steps(3))
    changes = ticks[1].changes
    changes.y[:2], changes.x[:2] = (0, 2**30), (0, 2**30)
    line = tuple(logged(1, bytes(16), [effects_payload(tick) for tick in ticks]))
    assert effects_of(line[1].payload).changes.y[1] == 2**30
    beginning = snapshot_payload(LivingField(5).snapshot, chain=bytes(16))
    segment = encode_segment(Segment(base=bytes(16), keyframe=b"", ticks=line))
    frame = seal_snapshot(beginning)
    manifest = {
        "format": "living-worlds",
        "version": 1,
        "world": "w",
        "name": "far",
        "kind": "dreamed",
        "env": "homestead",
        "agents": 4,
        "weights_version": 0,
        "tokenizer": "",
        "tick": 3,
        "digest": line[-1].digest.hex(),
        "keyframe_tick": 0,
        "keyframe": content_name(frame),
        "parent": None,
        "fork_tick": None,
        "cold": [],
        "hot": [{"first": 1, "last": 3, "name": content_name(segment)}],
    }
    path = tmp_path / "far.zip"
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.writestr("manifest.json", msgspec.json.encode(manifest))
        zipped.writestr("keyframe.bin", frame)
        zipped.writestr(f"segments/{content_name(segment)}.seg", segment)
    with pytest.raises(CorruptRecord, match="far apart"):
        imported(history, path)


class Died(BaseException):
    """In the place of a kill: nothing that is imported catches it."""


@contextmanager
def dying_at(write: int) -> Iterator[list[int]]:
    """Let whoever writes files die before, or right after, one of their fsyncs and renames; yield the number made."""
    made = [0]

    def dies(call: Callable[..., object]) -> Callable[..., object]:
        def struck(*arguments: object) -> object:
            made[0] += 1
            if made[0] == write:
                raise Died
            result = call(*arguments)
            made[0] += 1
            if made[0] == write:
                raise Died
            return result

        return struck

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", dies(os.fsync))
        patched.setattr(Path, "replace", dies(Path.replace))
        yield made


def test_an_import_that_dies_at_any_write_leaves_a_listed_world_and_deleting_it_leaves_nothing(
    store: InProcessWorldStore, history: History, digests: list[bytes], file: Path
) -> None:
    lineage, archive = Lineage(store, history), history.archive
    neighbour = imported(history, file)
    with dying_at(0) as writes:
        imported(history, file)
    kept = {path: path.read_bytes() for path in archive.directory.rglob("*.seg")}
    assert writes[0] > 20
    for write in range(1, writes[0] + 1):
        world = new_world_id()
        with dying_at(write), pytest.raises(Died):
            import_world(history.kept, archive, file, world)
        assert (store.record(world).status, store.record(world).reason) == ("quarantined", UNFINISHED)
        assert lineage.sweep(world) == lineage.sweep(neighbour) == 0
        lineage.delete(world)
        assert not (archive.directory / world).exists()
    assert {path: path.read_bytes() for path in archive.directory.rglob("*") if path.is_file()} == kept
    assert audit(history, neighbour).verified and audit(history, WORLD).verified


def test_an_import_that_died_is_completed_under_its_id(
    store: InProcessWorldStore, history: History, digests: list[bytes], file: Path
) -> None:
    world = new_world_id()
    for write in (9, 2, 17):
        with dying_at(write), pytest.raises(Died):
            import_world(history.kept, history.archive, file, world)
    for _ in range(2):
        import_world(history.kept, history.archive, file, world)
        assert store.record(world).status == "paused"
        assert [history.state_at(world, tick).digest() for tick in range(NUM_TICKS + 1)] == digests
        assert not list((history.archive.directory / world).glob("*.partial"))


def test_a_refused_import_lists_no_world(store: InProcessWorldStore, history: History, file: Path) -> None:
    world = new_world_id()
    with pytest.raises(CorruptRecord):
        import_world(history.kept, history.archive, rewritten(file, set_manifest(digest="0" * 32)), world)
    with pytest.raises(UnknownWorld):
        store.record(world)


def test_an_import_whose_world_is_deleted_meanwhile_leaves_nothing_and_says_so(
    store: InProcessWorldStore, history: History, digests: list[bytes], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, put = new_world_id(), Archive.put

    def deleted_amid(archive: Archive, *arguments: object) -> None:
        Lineage(store, history).delete(world)
        put(archive, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Archive, "put", deleted_amid)
    with pytest.raises(NotRunning, match="deleted while it was imported"):
        import_world(history.kept, history.archive, file, world)
    assert store.record(world).status == "deleted"
    assert not (history.archive.directory / world).exists()


def test_an_exported_file_is_on_the_disk_before_it_has_its_name(
    history: History, digests: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, fsync, synced = tmp_path / "safe.zip", os.fsync, []

    def noting(descriptor: int) -> None:
        synced.append((str(Path(f"/proc/self/fd/{descriptor}").readlink()), path.exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    export_world(history, WORLD, path)
    assert synced == [(f"{path}.partial", False), (str(tmp_path), True)]


def test_history_is_forgotten_only_up_to_a_tick_that_was_named(
    store: InProcessWorldStore, history: History, digests: list[bytes]
) -> None:
    lineage, child = Lineage(store, history), new_world_id()
    lineage.fork(WORLD, 3, child, dream=True)
    with pytest.raises(Pinned):
        lineage.forget(WORLD, 15)
    lineage.delete(child)
    assert lineage.forget(WORLD, 3) == 0
    begins = lineage.forget(WORLD, 15)
    assert 6 <= begins <= 15
    assert history.begins(WORLD) == begins
    assert [history.state_at(WORLD, tick).digest() for tick in range(begins, NUM_TICKS + 1)] == digests[begins:]
    with pytest.raises(NoHistory, match=f"reaches back to tick {begins}"):
        history.reach(WORLD, begins - 1)
    assert audit(history, WORLD).verified
    world = imported(history, export_world(history, WORLD, history.archive.directory / "late.zip").path)
    assert history.begins(world) == begins


def test_files_that_nothing_needs_are_swept_and_others_never(
    store: InProcessWorldStore, history: History, digests: list[bytes]
) -> None:
    lineage, archive = Lineage(store, history), history.archive
    archived_to = history.kept.past(WORLD).archived_to
    ticks = tuple(history.logged(WORLD, 1, NUM_TICKS))
    base = history.kept.past(WORLD).birth_digest
    overtaken = archive.write(WORLD, Segment(base=base, keyframe=b"", ticks=ticks[:5]))
    ahead = archive.write(WORLD, Segment(base=base, keyframe=b"", ticks=ticks))
    folder = archive.directory / WORLD
    # As a writer that was killed leaves it, of this program and of former ones.
    (folder / f"{'0' * 32}.seg.77-0123abcd.partial").write_bytes(b"half")
    (folder / f"{'0' * 32}.seg.partial").write_bytes(b"half")
    assert lineage.sweep(WORLD) == 0, "they may be in use"
    for path in folder.iterdir():
        os.utime(path, (0, 0))
    assert lineage.sweep(WORLD) == 3
    assert not (folder / f"{overtaken.name}.seg").exists()
    assert (folder / f"{ahead.name}.seg").exists(), f"it holds ticks beyond {archived_to}"
    assert audit(history, WORLD).verified


def test_segments_that_are_shared_outlive_the_world_they_came_from(
    store: InProcessWorldStore, history: History, digests: list[bytes], tmp_path: Path
) -> None:
    store.set_status(WORLD, "paused")
    done = Lineage(store, history).rewind_in_place(WORLD, 6)
    assert done.kept_as is not None
    shutil.rmtree(history.archive.directory / WORLD)
    fresh = History(store.history(), Archive(history.archive.directory))
    assert fresh.state_at(done.kept_as, 20).digest() == digests[20]
