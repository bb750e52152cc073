"""The Redis store passes the suite of every store on a real server, and survives what only servers suffer."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from redis import Redis

from tests.integration.store_machine import store_machine
from tests.integration.store_suite import LEASE_S, NONCE, OTHER_NONCE, StoreSuite, born, commit_one, same_effects
from tests.store_cases import LivingField, record_of
from world.errors import (
    ConfigError,
    CorruptRecord,
    StoreError,
    StoreFull,
    StoreUnavailable,
    UnknownWorld,
    UnsafeServer,
)
from world.snapshot import WorldId
from world.store import keys
from world.store.bench import bench_commit
from world.store.link import LIBRARY, MAX_BYTES, MAX_CALLS
from world.store.log import LogEntry, PackedCommit
from world.store.records import Ack, Commit
from world.store.redis_store import RedisWorldStore
from world.store.server import EmbeddedServer, find_server


class Clock:
    """The stores' own: it only decides when a lease needs prolonging."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def connect(server: EmbeddedServer, clock: Clock) -> Iterator[Callable[..., RedisWorldStore]]:
    with contextlib.ExitStack() as stores:

        def connect(**settings: Any) -> RedisWorldStore:
            store = RedisWorldStore.connect(server.url, **({"lease_s": LEASE_S, "clock": clock} | settings))
            stores.callback(store.close)
            return store

        yield connect


@pytest.fixture
def lease_passes(raw: Any, clock: Clock) -> Callable[[WorldId], None]:
    def lease_passes(world: WorldId) -> None:
        raw.hset(keys.meta(world), "lu", 1)
        clock.now += LEASE_S + 1

    return lease_passes


class TestRedisWorldStore(StoreSuite):
    @pytest.fixture(autouse=True)
    def _clock(self, clock: Clock) -> None:
        self.clock = clock

    def level(self) -> str:
        return "disk"

    def a_moment_passes(self) -> None:
        """Of the stores' clock, and of the server's own, which orders activity by the millisecond."""
        self.clock.now += 0.3 * LEASE_S
        time.sleep(0.002)


def test_two_owners_never_both_commit(server: EmbeddedServer, raw: Any) -> None:
    clock = Clock()

    def lease_passes(world: WorldId) -> None:
        raw.hset(keys.meta(world), "lu", 1)
        clock.now += LEASE_S + 1

    machine = store_machine(
        lambda: RedisWorldStore.connect(server.url, lease_s=LEASE_S, clock=clock),
        lease_passes,
        lambda store: store.close(),  # type: ignore[attr-defined]
    )
    test = machine.TestCase()
    test.settings = settings(
        max_examples=6, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
    )
    test.runTest()


def test_acknowledged_ticks_survive_the_servers_sudden_death(tmp_path: Path, world: WorldId) -> None:
    with EmbeddedServer(tmp_path) as server, contextlib.closing(RedisWorldStore.connect(server.url)) as store:
        life, token = born(store, world)
        ticks = life.steps(4)
        assert isinstance(commit_one(store, Commit(token, ticks)), Ack)
        os.kill(server.pid, signal.SIGKILL)
        assert server.ensure()
        # A call on the dead connection either is found dead before it is used, or its outcome is unknown.
        repeated: Any = None
        while not isinstance(repeated, Ack):
            with contextlib.suppress(StoreUnavailable):
                repeated = commit_one(store, Commit(token, ticks))
        assert repeated == Ack(world, 4, "disk", repeated=True)
        assert same_effects(store.load(world)[2], ticks)
        assert isinstance(commit_one(store, Commit(token, life.steps(1))), Ack)


def test_a_dead_server_is_unavailable_not_an_empty_store(tmp_path: Path, world: WorldId) -> None:
    server = EmbeddedServer(tmp_path)
    server.start()
    with contextlib.closing(RedisWorldStore.connect(server.url)) as store:
        life, token = born(store, world)
        url = server.url
        server.stop()
        for call in (
            lambda: store.load(world),
            lambda: store.commit([Commit(token, life.steps(1))]),
            store.records,
            lambda: RedisWorldStore.connect(url),
        ):
            with pytest.raises(StoreUnavailable):
                call()


def test_a_stalled_server_is_unavailable_after_the_timeout(tmp_path: Path, world: WorldId) -> None:
    with (
        EmbeddedServer(tmp_path) as server,
        contextlib.closing(RedisWorldStore.connect(server.url)) as patient,
        contextlib.closing(_until_available(lambda: RedisWorldStore.connect(server.url, timeout_s=2.0))) as store,
    ):
        life, token = born(patient, world)
        commit = Commit(token, life.steps(2))
        os.kill(server.pid, signal.SIGSTOP)
        try:
            with pytest.raises(StoreUnavailable):
                store.commit([commit])
        finally:
            os.kill(server.pid, signal.SIGCONT)
        # The stalled server may have read the first one; repeating it is safe either way.
        _until_available(lambda: _acked(commit_one(store, commit)))
        assert patient.record(world).tick == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("appendonly", "no"),
        ("appendfsync", "everysec"),
        ("no-appendfsync-on-rewrite", "yes"),
        ("maxmemory-policy", "allkeys-lru"),
    ],
)
def test_a_server_that_would_lose_ticks_is_refused_with_the_line_to_change(
    tmp_path: Path, name: str, value: str
) -> None:
    with EmbeddedServer(tmp_path) as server, Redis.from_url(server.url, protocol=2) as raw:
        good = raw.config_get(name)[name]
        raw.config_set(name, value)
        with pytest.raises(UnsafeServer, match=f"{name} {good}"):
            RedisWorldStore.connect(server.url)


def test_a_server_made_unsafe_meanwhile_is_refused_when_it_is_reached_again(tmp_path: Path, world: WorldId) -> None:
    with (
        EmbeddedServer(tmp_path) as server,
        Redis.from_url(server.url, protocol=2) as raw,
        contextlib.closing(RedisWorldStore.connect(server.url)) as store,
    ):
        _, token = born(store, world)
        raw.config_set("appendfsync", "no")
        raw.client_kill_filter(_type="normal", skipme=True)
        with pytest.raises(UnsafeServer):
            # A call on the dead connection may only find out that it is dead.
            _until_available(lambda: store.renew([token]))


def test_process_durability_is_served_and_named(tmp_path: Path, world: WorldId) -> None:
    with (
        EmbeddedServer(tmp_path, "process") as server,
        contextlib.closing(RedisWorldStore.connect(server.url, durability="process")) as store,
    ):
        life, token = born(store, world)
        assert commit_one(store, Commit(token, life.steps(1))) == Ack(world, 1, "process", repeated=False)
        with pytest.raises(UnsafeServer, match="appendfsync always"):
            RedisWorldStore.connect(server.url, durability="disk")


def test_without_a_replica_nothing_is_acknowledged_at_replica_durability(
    server: EmbeddedServer, connect: Callable[..., RedisWorldStore], world: WorldId
) -> None:
    life, token = born(connect(), world)
    store, commit, said = connect(durability="replica", timeout_s=4.0), Commit(token, life.steps(1)), ""
    while "replica" not in said:
        # Where the machine stands still, it may also be the server that did not answer in time.
        with pytest.raises(StoreUnavailable) as refused:
            store.commit([commit])
        said = str(refused.value)


def test_replica_durability_waits_for_the_replicas_disk(tmp_path: Path, world: WorldId) -> None:
    binary, _ = find_server()
    with EmbeddedServer(tmp_path / "primary") as primary, Redis.from_url(primary.url, protocol=2) as raw:
        # A replica needs a port to come from; loopback, chosen by the kernel through a moment's use.
        port = _free_port()
        raw.config_set("port", port)
        raw.config_set("repl-diskless-sync-delay", 0)
        replica_directory = tmp_path / "replica"
        replica_directory.mkdir()
        replica = subprocess.Popen(
            [
                *(binary, "--port", "0", "--unixsocket", str(replica_directory / "s"), "--dir", str(replica_directory)),
                *("--appendonly", "yes", "--appendfsync", "always", "--save", "", "--logfile", "log"),
                *("--replicaof", f"127.0.0.1 {port}"),
            ]
        )
        try:
            connected = RedisWorldStore.connect(primary.url, durability="replica", timeout_s=120.0)
            with contextlib.closing(connected) as store:
                life = LivingField(1)
                _until_available(lambda: store.create(record_of(world, life.snapshot), life.snapshot))
                token = store.acquire(world, owner="host-0", nonce=NONCE)
                commit = Commit(token, life.steps(2))
                assert commit_one(store, commit) == Ack(world, 2, "replica", repeated=False)
            with (
                Redis(unix_socket_path=str(replica_directory / "s"), protocol=2) as other,
            ):
                assert other.hget(keys.meta(world), "tk") == b"2"
                with pytest.raises(UnsafeServer, match="primary"):
                    RedisWorldStore.connect(f"unix://{replica_directory / 's'}")
        finally:
            replica.kill()
            replica.wait()


def test_a_full_server_refuses_ticks_and_drops_nothing(tmp_path: Path, world: WorldId) -> None:
    with (
        EmbeddedServer(tmp_path) as server,
        Redis.from_url(server.url, protocol=2) as raw,
        contextlib.closing(RedisWorldStore.connect(server.url)) as store,
    ):
        life, token = born(store, world)
        assert isinstance(commit_one(store, Commit(token, life.steps(1))), Ack)
        raw.config_set("maxmemory", 1)
        refused = Commit(token, life.steps(1))
        assert isinstance(commit_one(store, refused), StoreFull)
        assert [type(answer) for answer in store.commit([refused, refused])] == [StoreFull, StoreFull]
        with pytest.raises(StoreFull):
            other = LivingField(5).snapshot
            store.create(record_of(f"{world}-2", other), other)
        # Keeping, handing over and ending must work all the same.
        assert store.renew([token]) == [True]
        store.set_status(world, "paused")
        store.set_status(world, "running")
        assert store.load(world)[0].tick == 1
        raw.config_set("maxmemory", 0)
        assert commit_one(store, refused) == Ack(world, 2, "disk", repeated=False)


def _flip(raw: Any, key: str, offset: int = 30) -> None:
    value = bytearray(raw.get(key))
    value[offset] ^= 1
    raw.set(key, bytes(value))


def test_a_flipped_byte_in_a_keyframe_falls_back_to_the_one_before(
    store: RedisWorldStore, raw: Any, world: WorldId
) -> None:
    life, token = born(store, world)
    ticks = life.steps(3)
    commit_one(store, Commit(token, ticks, life.snapshot))
    more = life.steps(2)
    commit_one(store, Commit(token, more))
    _flip(raw, keys.keyframe(world, 3))
    _, snapshot, effects = store.load(world)
    assert snapshot.tick == 0
    assert same_effects(effects, ticks + more)
    _flip(raw, keys.keyframe(world, 0))
    with pytest.raises(CorruptRecord, match=world):
        store.load(world)


def test_a_flipped_byte_or_a_missing_tick_in_the_log_is_corrupt(
    store: RedisWorldStore, raw: Any, world: WorldId
) -> None:
    life, token = born(store, world)
    commit_one(store, Commit(token, life.steps(4)))
    (name, fields), *_ = raw.xrange(keys.log(world), "4-0", "4-9")
    raw.xdel(keys.log(world), name)
    with pytest.raises(CorruptRecord, match="gap"):
        store.load(world)
    frame = bytearray(fields[b"e"])
    frame[20] ^= 1
    kept = raw.xrange(keys.log(world))
    raw.delete(keys.log(world))
    for entry, entry_fields in kept:
        raw.xadd(keys.log(world), entry_fields, id=entry)
    raw.xadd(keys.log(world), {"d": fields[b"d"], "e": bytes(frame)}, id=name)
    with pytest.raises(CorruptRecord, match="tick 4"):
        store.load(world)
    with pytest.raises(CorruptRecord, match="tick 4"):
        list(store.effects(world, 4, 4))


def test_what_a_half_failed_function_left_behind_is_cut_off(store: RedisWorldStore, raw: Any, world: WorldId) -> None:
    life, token = born(store, world)
    commit_one(store, Commit(token, life.steps(2)))
    # As if the function had died between its first write and its last: entries beyond the tick, and a keyframe.
    raw.xadd(keys.log(world), {"d": b"?" * 16, "e": b"?"}, id="3-1")
    raw.xadd(keys.log(world), {"d": b"?" * 16, "e": b"?"}, id="4-1")
    raw.zadd(keys.keyframe_index(world), {"4": 4})
    raw.set(keys.keyframe(world, 4), b"?")
    assert store.load(world)[0].tick == 2
    assert commit_one(store, Commit(token, life.steps(1))) == Ack(world, 3, "disk", repeated=False)
    raw.xadd(keys.log(world), {"d": b"?" * 16, "e": b"?"}, id="7-1")
    token = store.acquire(world, owner="host-0", nonce=OTHER_NONCE)
    assert isinstance(commit_one(store, Commit(token, life.steps(2))), Ack)
    record, snapshot, effects = store.load(world)
    assert record.tick == 5
    assert LivingField.resume(snapshot, effects).snapshot.digest() == life.snapshot.digest()


def test_more_worlds_than_one_round_trip_holds_commit_in_order(store: RedisWorldStore, world: WorldId) -> None:
    num = MAX_CALLS + 20
    lives = [born(store, WorldId(f"{world}-{number}"), seed=number) for number in range(num)]
    answers = store.commit([Commit(token, life.steps(1)) for life, token in lives])
    assert answers == [Ack(token.world, 1, "disk", repeated=False) for _, token in lives]


def test_a_lost_index_is_rebuilt_from_the_worlds(store: RedisWorldStore, raw: Any, world: WorldId) -> None:
    born(store, world)
    raw.delete(*keys.index_keys(), keys.INDEX_BUILT)
    assert world in [record.world for record in store.records()]


def test_an_emptied_server_is_not_taken_for_a_new_one(tmp_path: Path, world: WorldId) -> None:
    with (
        EmbeddedServer(tmp_path) as server,
        Redis.from_url(server.url, protocol=2) as raw,
        contextlib.closing(RedisWorldStore.connect(server.url)) as store,
    ):
        life, token = born(store, world)
        identity = store.identity
        raw.flushall()
        assert isinstance(commit_one(store, Commit(token, life.steps(1))), UnknownWorld)
        raw.client_kill_filter(_type="normal", skipme=True)
        with pytest.raises(StoreUnavailable, match="emptied"):
            store.records()
        with contextlib.closing(RedisWorldStore.connect(server.url)) as newcomer:
            assert newcomer.identity != identity


def test_flushed_functions_are_loaded_again(store: RedisWorldStore, raw: Any, world: WorldId) -> None:
    _, token = born(store, world)
    raw.function_delete(LIBRARY)
    with pytest.raises(StoreUnavailable):
        store.renew([token])
    assert store.renew([token]) == [True]


def test_wrong_passwords_and_urls_are_configuration_errors(server: EmbeddedServer) -> None:
    for url in ("http://localhost", "redis://:secret@localhost:notaport/0"):
        with pytest.raises(ConfigError) as refused:
            RedisWorldStore.connect(url)
        assert "secret" not in str(refused.value)
    with pytest.raises(ConfigError, match="password"):
        RedisWorldStore.connect(f"{server.url}?username=nobody&password=wrong")
    for settings_ in ({"durability": "maybe"}, {"lease_s": 0}, {"timeout_s": -1}, {"hot_log_ticks": -1}):
        with pytest.raises(ConfigError):
            RedisWorldStore.connect(server.url, **settings_)


def test_the_bench_cleans_up_after_itself(server: EmbeddedServer, store: RedisWorldStore, raw: Any) -> None:
    before = raw.dbsize()
    found = bench_commit(server.url, 0.3)
    assert found["value"] > 0
    assert found["baseline"]["value"] > 0
    assert set(found) == {"bench", "value", "unit", "baseline", "ratio", "details"}
    assert raw.dbsize() == before


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _acked(answer: object) -> None:
    assert isinstance(answer, Ack), answer


def _until_available(call: Callable[[], Any]) -> Any:
    for _ in range(20):
        with contextlib.suppress(StoreUnavailable):
            return call()
    return call()


def test_a_commit_prolongs_the_lease_once_a_quarter_of_it_has_passed(
    store: RedisWorldStore, raw: Any, clock: Clock, world: WorldId
) -> None:
    life, token = born(store, world)

    def until() -> int:
        return int(raw.hget(keys.meta(world), "lu"))

    taken = until()
    assert isinstance(commit_one(store, Commit(token, life.steps(1))), Ack)
    assert until() == taken
    # By the server's clock, too, it is later.
    time.sleep(0.002)
    clock.now += LEASE_S / 4
    commit = Commit(token, life.steps(1))
    assert isinstance(commit_one(store, commit), Ack)
    prolonged = until()
    assert prolonged > taken
    # A repetition is a write all the same.
    assert commit_one(store, commit) == Ack(world, 2, "disk", repeated=True)
    assert until() >= prolonged


def test_what_one_world_of_a_group_meets_no_other_feels(store: RedisWorldStore, raw: Any, world: WorldId) -> None:
    lives = [born(store, WorldId(f"{world}-{number}"), seed=number) for number in range(4)]
    # A key of another type: the function itself fails on this world, not just the commit.
    broken = lives[1][1].world
    raw.delete(keys.meta(broken))
    raw.set(keys.meta(broken), "not a hash")
    answers = store.commit([Commit(token, life.steps(1)) for life, token in lives])
    assert [type(answer) for answer in answers] == [Ack, StoreError, Ack, Ack]
    assert [store.record(token.world).tick for number, (_, token) in enumerate(lives) if number != 1] == [1, 1, 1]


def test_a_group_larger_than_a_megabyte_is_sent_in_parts(store: RedisWorldStore, world: WorldId) -> None:
    lives = [born(store, WorldId(f"{world}-{number}"), seed=number) for number in range(3)]
    calls = store.calls.calls(
        [(token, PackedCommit(0, bytes(16), (LogEntry(1, bytes(16), bytes(400_000)),), b"", 0)) for _, token in lives]
    )
    assert [num for num, _ in calls] == [2, 1]
    assert all(len(call) <= MAX_BYTES for _, call in calls)
