"""History on a real server: every promise, in any order, and whatever dies in the middle."""

import contextlib
import itertools
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.forked import is_killed
from tests.integration.history_machine import history_machine
from tests.integration.history_suite import HistorySuite
from tests.integration.store_suite import born, commit_one
from tests.store_cases import LivingField, record_of
from world.errors import CorruptRecord, NotRunning
from world.snapshot import WorldId
from world.store import keys
from world.store.acl import HOST_ACL
from world.store.archive import Archive
from world.store.archiver import ArchiveConfig, Archiver
from world.store.audit import audit
from world.store.codec import encode_snapshot
from world.store.exported import export_world
from world.store.history import History
from world.store.lineage import Lineage, new_world_id
from world.store.past import Line, SegmentRef
from world.store.portable import import_world
from world.store.records import Ack, Commit, Durability
from world.store.redis_store import RedisWorldStore
from world.store.refusals import UNFINISHED
from world.store.repair import offered, roll_back
from world.store.server import EmbeddedServer


@pytest.fixture(scope="module")
def durability() -> Durability:
    return "process"


class TestRedisHistory(HistorySuite):
    @pytest.fixture
    def lease_passes(self, raw: Any) -> Callable[[WorldId], None]:
        return lambda world: raw.hset(keys.meta(world), "lu", 1)

    def a_moment_passes(self) -> None:
        time.sleep(0.002)


def test_every_tick_is_visited_whatever_was_done_to_its_world(server: EmbeddedServer) -> None:
    machine = history_machine(
        lambda: RedisWorldStore.connect(server.url, durability="process", hot_log_ticks=6),
        lambda store: store.close(),  # type: ignore[attr-defined]
    ).TestCase
    machine.settings = settings(
        max_examples=5, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
    )
    machine().runTest()


def _old_world(store: RedisWorldStore, world: WorldId) -> list[bytes]:
    """Make a world of 12 ticks, of which some are archived later; return the digests of its states."""
    life, token = born(store, world)
    digests = [life.snapshot.digest()]
    for _ in range(4):
        effects = []
        for _ in range(3):
            effects.append(life.step())
            digests.append(life.snapshot.digest())
        assert isinstance(commit_one(store, Commit(token, tuple(effects), life.snapshot)), Ack)
    store.set_status(world, "paused")
    return digests


def _archiver(history: History) -> Archiver:
    return Archiver(history.kept, history.archive, ArchiveConfig(segment_ticks=5, least_segment_ticks=2))


def test_history_needs_no_more_rights_than_a_host_has(
    server: EmbeddedServer, raw: Any, world: WorldId, tmp_path: Path
) -> None:
    raw.execute_command("ACL", "SETUSER", "host", "on", ">secret", *HOST_ACL.split())
    url = f"{server.url}?username=host&password=secret"
    with contextlib.closing(RedisWorldStore.connect(url, durability="process", hot_log_ticks=2)) as limited:
        history = History(limited.history(), Archive(tmp_path))
        lineage = Lineage(limited, history)
        _old_world(limited, world)
        _archiver(history).archive(world)
        child = new_world_id()
        lineage.fork(world, 9, child, dream=True)
        done = lineage.rewind_in_place(world, 7)
        assert done.kept_as is not None
        assert audit(history, world).verified
        assert lineage.sweep(world) == 0
        assert history.kept.listed(limit=1)
        for each in (child, done.kept_as, world):
            lineage.delete(each)


def _killed_import(server: EmbeddedServer, directory: Path, file: Path, world: WorldId, at_write: int) -> bool:
    """Import in a process that is killed before one of its fsyncs; return whether it made so many."""

    def importing() -> None:
        fsync, writes = os.fsync, itertools.count()

        def dies(descriptor: int) -> None:
            if next(writes) == at_write:
                os.kill(os.getpid(), signal.SIGKILL)
            fsync(descriptor)

        os.fsync = dies
        history = History(RedisWorldStore.connect(server.url, durability="process").history(), Archive(directory))
        import_world(history.kept, history.archive, file, world)

    return is_killed(importing)


def test_an_import_that_is_killed_at_any_write_is_found_and_deleting_it_leaves_nothing(
    server: EmbeddedServer, connect: Callable[..., RedisWorldStore], world: WorldId, tmp_path: Path
) -> None:
    store = connect()
    digests, directory = _old_world(store, world), tmp_path / "archive"
    history = History(store.history(), Archive(directory))
    lineage = Lineage(store, history)
    _archiver(history).archive(world)
    file = export_world(history, world, tmp_path / "world.zip").path
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    for at_write in itertools.count():
        made = new_world_id()
        if not _killed_import(server, directory, file, made, at_write):
            break
        listed = {record.world: record.reason for record in history.kept.listed(limit=1000)}
        assert listed[made] == UNFINISHED
        assert {path.name for path in directory.iterdir()} == {world, made}
        lineage.delete(made)
        assert {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()} == before
    assert at_write >= 5
    assert store.record(made).status == "paused"
    for each in (world, made):
        assert audit(history, each).verified
        assert [history.state_at(each, tick).digest() for tick in range(13)] == digests


def test_an_import_whose_world_is_deleted_meanwhile_leaves_nothing(
    connect: Callable[..., RedisWorldStore], world: WorldId, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = connect()
    _old_world(store, world)
    history = History(store.history(), Archive(tmp_path / "archive"))
    _archiver(history).archive(world)
    file, made, put = export_world(history, world, tmp_path / "world.zip").path, new_world_id(), Archive.put

    def deleted_amid(archive: Archive, *arguments: Any) -> None:
        Lineage(store, history).delete(made)
        put(archive, *arguments)

    monkeypatch.setattr(Archive, "put", deleted_amid)
    with pytest.raises(NotRunning, match="deleted while it was imported"):
        import_world(history.kept, history.archive, file, made)
    assert store.record(made).status == "deleted"
    assert [path.name for path in (tmp_path / "archive").iterdir()] == [world]


def test_a_world_of_more_segments_than_lua_hands_over_at_once_is_made(
    connect: Callable[..., RedisWorldStore], world: WorldId
) -> None:
    store, num = connect(), 9000
    beginning = LivingField(1).snapshot
    beginning.tick = num
    line = Line(
        record=record_of(world, beginning),
        at=num,
        digest=b"d" * 16,
        keyframe=encode_snapshot(beginning, chain=b"d" * 16),
        entries=(),
        segments=tuple(SegmentRef(tick, tick, "0" * 32) for tick in range(1, num + 1)),
    )
    store.history().make(line)
    assert store.history().past(world).segments == line.segments


def _damage(raw: Any, world: WorldId, tick: int) -> None:
    """Flip a byte of one tick in the log."""
    kept = raw.xrange(keys.log(world))
    raw.delete(keys.log(world))
    for entry, fields in kept:
        if int(entry.split(b"-")[0]) == tick:
            frame = bytearray(fields[b"e"])
            frame[30] ^= 1
            fields = {b"d": fields[b"d"], b"e": bytes(frame)}
        raw.xadd(keys.log(world), fields, id=entry)


def test_a_damaged_world_offers_its_newest_verified_tick_and_is_rolled_back_only_when_asked(
    connect: Callable[..., RedisWorldStore], raw: Any, world: WorldId, tmp_path: Path
) -> None:
    store = connect()
    life, token = born(store, world)
    digests = [life.snapshot.digest()]
    for number in range(3):
        effects = []
        for _ in range(4):
            effects.append(life.step())
            digests.append(life.snapshot.digest())
        commit_one(store, Commit(token, tuple(effects), life.snapshot if number == 0 else None))
    store.set_status(world, "paused")
    history = History(store.history(), Archive(tmp_path))
    lineage = Lineage(store, history)
    _damage(raw, world, 10)
    with pytest.raises(CorruptRecord):
        store.load(world)
    found = audit(history, world)
    assert (found.verified, found.newest_verified) == (False, 9)
    assert "tick 10" in found.problems[0]
    assert offered(history, found) == 9
    assert store.record(world).tick == 12, "an audit changes nothing"
    with pytest.raises(CorruptRecord, match="newest that does is 9"):
        roll_back(store, lineage, history, found, 11)
    aside = roll_back(store, lineage, history, found, 9)
    assert aside is not None
    assert aside.stat().st_size > 0
    assert (store.record(world).tick, store.record(world).status) == (9, "running")
    assert [history.state_at(world, tick).digest() for tick in range(10)] == digests[:10]
    assert audit(history, world).verified


def test_damage_to_what_is_kept_twice_is_mended_and_costs_no_tick(
    connect: Callable[..., RedisWorldStore], raw: Any, world: WorldId, tmp_path: Path
) -> None:
    store = connect()
    digests = _old_world(store, world)
    history = History(store.history(), Archive(tmp_path))
    _archiver(history).archive(world)
    archived_to = history.kept.past(world).archived_to
    assert archived_to >= 5
    _damage(raw, world, 5)
    raw.set(keys.keyframe(world, 9), b"no frame")
    found = audit(history, world)
    assert (found.verified, found.newest_verified) == (False, 12)
    roll_back(store, Lineage(store, history), history, found, 12)
    assert audit(history, world).verified
    assert [history.state_at(world, tick).digest() for tick in range(13)] == digests
    assert (store.record(world).tick, store.record(world).status) == (12, "running")
    assert store.load(world)[0].tick == 12
    assert history.kept.past(world).archived_to == archived_to


def test_a_broken_keyframe_is_passed_over(
    connect: Callable[..., RedisWorldStore], raw: Any, world: WorldId, tmp_path: Path
) -> None:
    store = connect()
    digests = _old_world(store, world)
    frame = bytearray(raw.get(keys.keyframe(world, 9)))
    frame[50] ^= 1
    raw.set(keys.keyframe(world, 9), bytes(frame))
    raw.delete(keys.keyframe(world, 6))
    history = History(store.history(), Archive(tmp_path))
    assert history.reach(world, 11).at == 3
    assert [history.state_at(world, tick).digest() for tick in range(13)] == digests
    found = audit(history, world)
    assert (len(found.problems), found.newest_verified) == (1, 12)


def test_a_damaged_or_missing_segment_is_found_and_the_log_stands_in_while_it_is_there(
    connect: Callable[..., RedisWorldStore], world: WorldId, tmp_path: Path
) -> None:
    store = connect(hot_log_ticks=2)
    digests = _old_world(store, world)
    history = History(store.history(), Archive(tmp_path))
    (ref,) = _archiver(history).archive(world)[:1]
    path = tmp_path / world / f"{ref.name}.seg"
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(bytes(data))
    fresh = History(store.history(), Archive(tmp_path))
    found = audit(fresh, world)
    assert (found.verified, found.newest_verified) == (False, 12)
    assert fresh.state_at(world, 12).digest() == digests[12]
    path.unlink()
    missing = audit(fresh, world)
    assert (missing.verified, len(missing.missing)) == (True, 1)
