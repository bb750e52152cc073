"""Worlds move between two real host processes, and outlive one of them, without losing or repeating a tick."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.bench_fleet import make_worlds
from cluster.bench_takeover import bench_takeover
from cluster.move import ANYWHERE, move_world
from cluster.process_fleet import ProcessFleet, start_synthetic
from cluster.supervisor import Supervisor
from cluster.supervisor_config import SupervisorConfig
from world.errors import LivingWorldsError, NotRunning, UnknownWorld
from world.snapshot import WorldId
from world.store.inbox import Request
from world.store.redis_inbox import RedisInbox
from world.store.redis_store import RedisWorldStore
from world.store.server import EmbeddedServer

HOSTS = ("host-0", "host-1")


def test_worlds_of_a_killed_host_go_on_elsewhere_and_no_tick_is_lost() -> None:
    # As long as a run's: a host that is late for its own lease has no worlds that could be taken over.
    found = bench_takeover(10.0, num_worlds=8)
    assert set(found) == {"bench", "value", "unit", "baseline", "ratio", "details"}
    details = found["details"]
    assert details["worlds_taken_over"] >= 3
    assert details["ticks_lost"] == 0
    assert details["taken_over_s"] > 0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tmp_path / "store") as server:
        yield server


def test_a_world_is_moved_to_and_fro_by_name_and_takes_its_requests_along(server: EmbeddedServer) -> None:
    with (
        contextlib.closing(RedisWorldStore.connect(server.url)) as store,
        contextlib.closing(RedisInbox.connect(server.url)) as gateway,
        contextlib.closing(
            ProcessFleet(lambda name: start_synthetic(name, url=server.url, lease_s=3600.0, ticks_per_s=20.0), HOSTS)
        ) as fleet,
    ):
        worlds = make_worlds(server.url, 4)
        supervisor = Supervisor(
            SupervisorConfig(call_s=0.1, probe_every_s=0.1, stall_after_s=3600.0),
            fleet=fleet,
            hosts=HOSTS,
            shards=(),
            worlds=worlds,
            dreams=(),
            fork=lambda dream: 0,
            ensure_store=lambda: False,
            observers=(),
            wished_places=store.places().wished,
        )

        def live(seconds: float) -> None:
            supervisor.step(seconds)

        while not all(store.record(world).tick > 2 for world in worlds):
            live(0.05)
        world = worlds[0]
        posted = 0
        for _ in range(3):
            target = next(name for name in HOSTS if name != store.record(world).owner)
            gateway.post(world, [Request(f"r{posted + offset}", offset % 4, 1) for offset in range(5)])
            posted += 5
            moved = move_world(store, world, target, within_s=600.0, sleep=live)
            assert (moved["from"], moved["to"]) == (next(name for name in HOSTS if name != target), target)
            assert moved["tick_after"] >= moved["tick_before"]
        before = store.record(world).tick
        while store.record(world).tick < before + 3 or gateway.result(world, f"r{posted - 1}") is None:
            live(0.05)
        # Every tick once, from the first on, each chained to the one before; every request in one of them.
        record = store.record(world)
        assert [tick.tick for tick in store.effects(world, 1, record.tick)] == list(range(1, record.tick + 1))
        assert record.epoch == 4
        assert all(gateway.result(world, f"r{number}") is not None for number in range(posted))
        assert move_world(store, world, ANYWHERE, sleep=live)["to"] == record.owner
        with pytest.raises(LivingWorldsError, match="no host 'host-9'"):
            move_world(store, world, "host-9", within_s=0.5, sleep=live)
        assert store.places().wished([world]) == {world: ""}
        with pytest.raises(UnknownWorld):
            move_world(store, WorldId("nobody"), "host-0", sleep=live)
        store.set_status(worlds[1], "paused")
        with pytest.raises(NotRunning, match="paused"):
            move_world(store, worlds[1], "host-0", sleep=live)
