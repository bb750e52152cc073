"""Every call's fault, one by one: a host that dies before or after it, an answer that is lost, a log that is cut."""

import contextlib
import itertools
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import NoPermissionError

from tests.integration.store_suite import NONCE, OTHER_NONCE, born, commit_one
from tests.store_cases import LivingField, record_of
from world.errors import CorruptRecord, Fenced, NewerSchema, NotRunning, StoreUnavailable, UnknownWorld
from world.snapshot import WorldId
from world.store import keys
from world.store.acl import HOST_ACL
from world.store.archive import Archive
from world.store.archiver import ArchiveConfig, Archiver
from world.store.audit import audit
from world.store.codec import seal_snapshot
from world.store.history import History
from world.store.lineage import Lineage
from world.store.link import Link, Reply
from world.store.past import Damage, SegmentRef
from world.store.records import Ack, Commit
from world.store.redis_store import RedisWorldStore
from world.store.server import EmbeddedServer
from world.store.upgrade import SCHEMA_VERSION
from world.store.wire import Command


class Died(Exception):
    """The host is gone: nothing of it runs any further."""


class FaultyLink(Link):
    """A link to a real server, on which one call goes wrong: before it reaches the server, or on the way back."""

    def __init__(self, url: str, *, at_call: int, after: bool, error: type[Exception]) -> None:
        super().__init__(url, durability="disk", timeout_s=60.0)
        self._at_call, self._after, self._error = at_call, after, error
        self.num_calls = 0

    def call(self, commands: Sequence[Command]) -> list[Reply]:
        self.num_calls += 1
        if self.num_calls - 1 != self._at_call:
            return super().call(commands)
        if self._after:
            super().call(commands)
        raise self._error("the call's outcome is unknown")


def faulty_store(server: EmbeddedServer, at_call: int, after: bool, error: type[Exception]) -> RedisWorldStore:
    link = FaultyLink(server.url, at_call=at_call, after=after, error=error)
    return RedisWorldStore(link, durability="disk", lease_s=10.0, hot_log_ticks=100)


def live(store: RedisWorldStore, world: WorldId, acked: list[bytes], call: Callable[..., Any]) -> None:
    """A host's life with one world, from its creation on; `acked` gets the state digest of every acked tick."""
    beginning = LivingField(6)
    call(store.create, record_of(world, beginning.snapshot), beginning.snapshot)
    nonce = uuid.uuid4().bytes
    token = call(lambda: store.acquire(world, owner="host-0", nonce=nonce))
    _, snapshot, effects = call(store.load, world)
    life = LivingField.resume(snapshot, effects)
    while life.tick < 8:
        effects = life.steps(2)
        commit = Commit(token, effects, life.snapshot if life.tick == 4 else None)
        (answer,) = call(store.commit, [commit])
        assert isinstance(answer, Ack), answer
        acked += [tick.state_digest for tick in effects]
    assert call(store.renew, [token]) == [True]
    call(store.release, token)


def judge(store: RedisWorldStore, world: WorldId, acked: list[bytes]) -> None:
    """Every acked tick is there, once, and the chain is whole."""
    kept = list(store.effects(world, 1, 1000))
    LivingField.resume(LivingField(6).snapshot, tuple(kept))
    digests = [tick.state_digest for tick in kept]
    assert [tick.tick for tick in kept] == list(range(1, len(kept) + 1))
    assert set(acked) <= set(digests)


@pytest.mark.parametrize("after", [False, True])
def test_a_host_that_dies_at_any_call_loses_no_acknowledged_tick(
    server: EmbeddedServer, store: RedisWorldStore, after: bool
) -> None:
    def once(act: Callable[..., Any], *arguments: Any) -> Any:
        return act(*arguments)

    for at_call in itertools.count():
        world = WorldId(f"w-{uuid.uuid4().hex[:12]}")
        acked: list[bytes] = []
        with contextlib.closing(faulty_store(server, at_call, after, Died)) as dying:
            try:
                live(dying, world, acked, once)
                break
            except Died:
                pass
        with contextlib.suppress(UnknownWorld):
            judge(store, world, acked)
        # The same host, started again, carries on to the end.
        live(store, world, acked, once)
        judge(store, world, acked)
        assert store.record(world).tick == 8
    assert at_call > 8


@pytest.mark.parametrize("after", [False, True])
def test_a_call_whose_answer_is_lost_can_be_repeated(
    server: EmbeddedServer, store: RedisWorldStore, after: bool
) -> None:
    def until_answered(act: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return act(*arguments)
        except StoreUnavailable:
            return act(*arguments)

    for at_call in itertools.count():
        world = WorldId(f"w-{uuid.uuid4().hex[:12]}")
        acked: list[bytes] = []
        with contextlib.closing(faulty_store(server, at_call, after, StoreUnavailable)) as unlucky:
            live(unlucky, world, acked, until_answered)
            judge(store, world, acked)
            record = store.record(world)
            assert (record.tick, record.epoch, len(acked)) == (8, 1, 8)
            if unlucky._link.num_calls <= at_call:  # type: ignore[attr-defined]
                break


def test_an_epoch_given_out_twice_after_a_cut_log_fences_its_first_holder(
    store: RedisWorldStore, raw: Any, world: WorldId
) -> None:
    life, token = born(store, world)
    assert isinstance(commit_one(store, Commit(token, life.steps(2))), Ack)
    store.release(token)
    # A disk that lied: all that follows is lost again.
    names = [keys.meta(world), keys.log(world)]
    before = [raw.dump(name) for name in names]
    first = store.acquire(world, owner="host-1", nonce=NONCE)
    ticks = life.steps(2)
    assert isinstance(commit_one(store, Commit(first, ticks)), Ack)
    for name, value in zip(names, before, strict=True):
        raw.restore(name, 0, value, replace=True)
    second = store.acquire(world, owner="host-2", nonce=OTHER_NONCE)
    assert second.epoch == first.epoch
    assert isinstance(commit_one(store, Commit(first, life.steps(1))), Fenced)
    assert isinstance(commit_one(store, Commit(second, ticks)), Ack)


def test_a_log_from_which_another_history_was_spliced_is_corrupt(
    store: RedisWorldStore, raw: Any, world: WorldId
) -> None:
    other = WorldId(f"{world}-2")
    for each, salt in ((world, 0), (other, 1)):
        beginning = LivingField(1)
        store.create(record_of(each, beginning.snapshot), beginning.snapshot)
        token = store.acquire(each, owner="host-0", nonce=NONCE)
        assert isinstance(commit_one(store, Commit(token, beginning.steps(3, salt=salt))), Ack)
    spliced = raw.xrange(keys.log(world), "-", "1-9") + raw.xrange(keys.log(other), "2-0", "+")
    raw.delete(keys.log(world))
    for name, fields in spliced:
        raw.xadd(keys.log(world), fields, id=name)
    with pytest.raises(CorruptRecord, match="chain"):
        store.load(world)


def test_a_record_that_makes_no_sense_is_corrupt(store: RedisWorldStore, raw: Any, world: WorldId) -> None:
    for name, value in (("kind", "imagined"), ("tk", "many"), ("sv", "99"), ("dg", "short"), ("st", "asleep")):
        each = WorldId(f"{world}-{name}")
        born(store, each)
        raw.hset(keys.meta(each), name, value)
        with pytest.raises(CorruptRecord, match=each) as raised:
            store.record(each)
        assert isinstance(raised.value, NewerSchema) == (name == "sv"), "what is newer is sound"
        store.set_status(each, "deleted")
    assert not [record for record in store.records() if record.world.startswith(world)]


def test_a_world_is_not_taken_on_the_word_of_a_damaged_record(store: RedisWorldStore, raw: Any, world: WorldId) -> None:
    damages = [("st", "asleep"), ("ow", None), ("tk", "12.5"), ("tk", "9" * 16), ("ct", ""), ("ep", "-1"), ("lu", None)]
    damages += [(name, "many") for name in ("tk", "ep", "lu", "ct", "cap", "capb", "lb", "lk", "lt")]
    for number, (name, value) in enumerate(damages):
        each = WorldId(f"{world}-{number}")
        life, token = born(store, each)
        assert isinstance(commit_one(store, Commit(token, life.steps(3))), Ack)
        if value is None:
            raw.hdel(keys.meta(each), name)
        else:
            raw.hset(keys.meta(each), name, value)
        before = [raw.dump(key) for key in (keys.meta(each), keys.log(each))]
        for nonce in (NONCE, OTHER_NONCE):
            with pytest.raises(CorruptRecord, match=f"{each}.*does not verify"):
                store.acquire(each, owner="host-0", nonce=nonce)
        assert [raw.dump(key) for key in (keys.meta(each), keys.log(each))] == before
        store.set_status(each, "quarantined")
        with pytest.raises(NotRunning):
            store.acquire(each, owner="host-0", nonce=OTHER_NONCE)
        store.set_status(each, "deleted")


def test_a_record_that_only_a_newer_program_understands_is_not_damaged(
    store: RedisWorldStore, raw: Any, world: WorldId
) -> None:
    born(store, world)
    raw.hset(keys.meta(world), mapping={"st": "asleep", "kind": "imagined", "sv": SCHEMA_VERSION + 1})
    for ask in (store.record, lambda each: store.acquire(each, owner="host-0", nonce=OTHER_NONCE)):
        with pytest.raises(NewerSchema, match=f"{world}.*use the one that wrote it"):
            ask(world)
    store.set_status(world, "deleted")


@pytest.mark.parametrize("wrong", ["0", "2", "5", "10", "11", "13", "92"])
def test_a_damaged_tick_cuts_off_nothing_that_was_acknowledged(
    wrong: str, store: RedisWorldStore, raw: Any, world: WorldId
) -> None:
    life, token = born(store, world)
    for num, keyframe in ((5, True), (6, False), (1, False)):
        ticks = life.steps(num)
        assert isinstance(commit_one(store, Commit(token, ticks, life.snapshot if keyframe else None)), Ack)
    raw.hset(keys.meta(world), "tk", wrong)
    with pytest.raises(CorruptRecord, match=f"{world}.*another digest at tick {wrong}"):
        store.acquire(world, owner="host-0", nonce=OTHER_NONCE)
    assert raw.xlen(keys.log(world)) == 12
    raw.hset(keys.meta(world), "tk", "12")
    token = store.acquire(world, owner="host-0", nonce=OTHER_NONCE)
    assert isinstance(commit_one(store, Commit(token, life.steps(1))), Ack)


def test_a_world_whose_log_lacks_its_tick_is_taken_where_it_was_made_rewound_or_repaired(
    store: RedisWorldStore, raw: Any, world: WorldId, tmp_path: Path
) -> None:
    _, token = born(store, world)
    history = History(store.history(), Archive(tmp_path))
    lineage = Lineage(store, history)
    archiver = Archiver(history.kept, history.archive, ArchiveConfig(segment_ticks=4, least_segment_ticks=1))

    def lives_on(num: int, *, owner: str) -> None:
        token = store.acquire(world, owner=owner, nonce=uuid.uuid4().bytes)
        life = LivingField.resume(*store.load(world)[1:])
        for _ in range(num):
            assert isinstance(commit_one(store, Commit(token, life.steps(1))), Ack)
        store.release(token)

    store.release(token)
    assert not raw.xlen(keys.log(world))
    lives_on(12, owner="host-1")
    archiver.archive(world)
    store.set_status(world, "paused")
    raw.xtrim(keys.log(world), minid="9-0", approximate=False)
    lineage.rewind_in_place(world, 7)
    assert not raw.xlen(keys.log(world))
    store.set_status(world, "running")
    lives_on(5, owner="host-2")
    # A tick that was damaged to that of the keyframe: the log has none of it either.
    raw.hset(keys.meta(world), "tk", "7")
    with pytest.raises(CorruptRecord, match="another digest at tick 7"):
        store.acquire(world, owner="host-3", nonce=NONCE)
    raw.hset(keys.meta(world), "tk", "12")
    archiver.archive(world, all_of_it=True)
    past = history.kept.past(world)
    assert past.archived_to == 12
    store.set_status(world, "quarantined")
    lineage.cut(world, 12, Damage(archived_copies=True))
    assert not raw.xlen(keys.log(world))
    # What a rewind that failed half-way leaves beyond its tick.
    raw.xadd(keys.log(world), {"d": b"?" * 16, "e": b"?"}, id="14-9")
    lives_on(2, owner="host-4")
    assert store.record(world).tick == 14
    assert audit(history, world).verified


def test_a_keyframe_of_a_newer_program_is_told_as_that(store: RedisWorldStore, raw: Any, world: WorldId) -> None:
    born(store, world)
    raw.set(keys.keyframe(world, 0), seal_snapshot(bytes((SCHEMA_VERSION + 1,))))
    with pytest.raises(NewerSchema, match=f"{world}.*use the one that wrote it"):
        store.load(world)


def test_a_host_needs_no_more_rights_than_are_named(
    server: EmbeddedServer, store: RedisWorldStore, raw: Any, world: WorldId
) -> None:
    raw.execute_command("ACL", "SETUSER", "host", "on", ">secret", *HOST_ACL.split())
    with contextlib.closing(RedisWorldStore.connect(f"{server.url}?username=host&password=secret")) as limited:
        acked: list[bytes] = []
        live(limited, world, acked, lambda act, *arguments: act(*arguments))
        judge(limited, world, acked)
        # What only a repair calls: entries beyond the tick are cut off.
        raw.xadd(keys.log(world), {"d": b"?", "e": b"?"}, id="12-1")
        assert limited.acquire(world, owner="host-1", nonce=NONCE).epoch == 2
        limited.set_status(world, "paused")
        limited.rebuild_index()
        assert world in [record.world for record in limited.records()]
    with Redis.from_url(f"{server.url}?username=host&password=secret", protocol=2) as user:
        for refused in (("FLUSHALL",), ("CONFIG", "SET", "appendfsync", "no"), ("GET", "elsewhere"), ("KEYS", "*")):
            with pytest.raises(NoPermissionError):
                user.execute_command(*refused)


def test_trimming_works_with_the_named_rights(server: EmbeddedServer, raw: Any, world: WorldId) -> None:
    raw.execute_command("ACL", "SETUSER", "host", "on", ">secret", *HOST_ACL.split())
    url = f"{server.url}?username=host&password=secret"
    with contextlib.closing(RedisWorldStore.connect(url, hot_log_ticks=0)) as limited:
        life, token = born(limited, world)
        for _ in range(4):
            assert isinstance(commit_one(limited, Commit(token, life.steps(1), life.snapshot)), Ack)
        history = limited.history()
        digest = history.entries(world, 4, 4)[0].digest
        history.archived(world, SegmentRef(1, 4, "0" * 32), digest, after=0, num_bytes=9)
        assert [tick.tick for tick in limited.effects(world, 1, 9)] == [3, 4]
        assert not raw.exists(keys.keyframe(world, 2))
        for _ in range(4):
            assert isinstance(commit_one(limited, Commit(token, life.steps(1), life.snapshot)), Ack)
        # What is not archived stays.
        assert [tick.tick for tick in limited.effects(world, 1, 9)] == [4, 5, 6, 7, 8]
