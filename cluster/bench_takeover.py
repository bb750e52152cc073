"""How long a world stands still when its host dies, and when it is moved: two host processes under the supervisor."""

import os
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from cluster.bench_fleet import make_worlds
from cluster.process_fleet import ProcessFleet, start_synthetic
from cluster.supervisor import Supervisor
from cluster.supervisor_config import SupervisorConfig
from world.errors import LivingWorldsError
from world.snapshot import WorldId
from world.store.redis_store import RedisWorldStore
from world.store.server import EmbeddedServer

MOST_BEYOND_LEASE_S: Final = 5.0
_HOSTS: Final = ("host-0", "host-1")
_PATIENCE_S: Final = 300.0


def bench_takeover(lease_s: float = 10.0, *, num_worlds: int = 40, ticks_per_s: float = 10.0) -> dict[str, Any]:
    """Move a world, then SIGKILL a host that is not made again; return how long until its worlds commit elsewhere.

    The value is the time beyond the lease, which ends `lease_s` after the last commit. Raises `LivingWorldsError` if
    a world does not go on, or lost a tick.
    """
    with (
        tempfile.TemporaryDirectory(prefix="worlds-bench-") as directory,
        EmbeddedServer(Path(directory)) as server,
        closing(RedisWorldStore.connect(server.url)) as store,
    ):
        worlds = make_worlds(server.url, num_worlds)
        fleet = ProcessFleet(
            lambda name: start_synthetic(name, url=server.url, lease_s=lease_s, ticks_per_s=ticks_per_s), _HOSTS
        )
        with closing(fleet):
            stage = _Stage(store, fleet, worlds, host_lost_after_s=0.8 * lease_s)
            stage.live_until(lambda: all(tick > 0 for tick in stage.ticks().values()))
            moved_s, stood_still_s = stage.move(worlds[0])
            taken_over_s, num_taken = stage.kill_one()
            lost = stage.num_lost_ticks()
    if lost:
        raise LivingWorldsError(f"{lost} acknowledged ticks are not in the log")
    beyond = taken_over_s - lease_s
    return {
        "bench": "takeover",
        "value": round(beyond, 3),
        "unit": "s beyond the lease",
        "baseline": {"name": "longest that is promised", "value": MOST_BEYOND_LEASE_S},
        "ratio": round(beyond / MOST_BEYOND_LEASE_S, 3),
        "details": {
            "lease_s": lease_s,
            "worlds_taken_over": num_taken,
            "taken_over_s": round(taken_over_s, 3),
            "moved_s": round(moved_s, 3),
            "moved_world_stood_still_s": round(stood_still_s, 3),
            "ticks_lost": lost,
        },
    }


class _Stage:
    """The supervisor of two hosts, and what the store says meanwhile."""

    def __init__(
        self, store: RedisWorldStore, fleet: ProcessFleet, worlds: Sequence[WorldId], *, host_lost_after_s: float
    ) -> None:
        self._store, self._fleet, self._worlds = store, fleet, worlds
        self._supervisor = Supervisor(
            # Who is not there is not waited for either.
            SupervisorConfig(call_s=0.2, probe_every_s=0.2, stall_after_s=3600.0, host_lost_after_s=host_lost_after_s),
            fleet=fleet,
            hosts=_HOSTS,
            shards=(),
            worlds=worlds,
            dreams=(),
            fork=lambda dream: 0,
            ensure_store=lambda: False,
            observers=(),
            wished_places=store.places().wished,
        )
        self._most_seen: dict[WorldId, int] = {}

    def ticks(self) -> dict[WorldId, int]:
        """Return the committed tick of every world."""
        ticks = {world: self._store.record(world).tick for world in self._worlds}
        self._most_seen = {world: max(tick, self._most_seen.get(world, 0)) for world, tick in ticks.items()}
        return ticks

    def live_until(self, holds: Callable[[], bool]) -> None:
        """Take turns until something holds. Raises `LivingWorldsError` after five minutes."""
        deadline = time.monotonic() + _PATIENCE_S
        while not holds():
            if time.monotonic() > deadline:
                raise LivingWorldsError("the worlds of the measurement do not go on; is the machine busy?")
            self._supervisor.step(0.01)

    def move(self, world: WorldId) -> tuple[float, float]:
        """Move a world; return the time until it ticks elsewhere, and for how long it did not tick."""
        before = self._store.record(world)
        target = next(name for name in _HOSTS if name != before.owner)
        began = last_at = time.monotonic()
        last, still = before.tick, 0.0
        self._store.places().wish(world, target)

        def has_moved() -> bool:
            nonlocal last, last_at, still
            record, now = self._store.record(world), time.monotonic()
            if record.tick > last:
                still = max(still, now - last_at)
                last, last_at = record.tick, now
            return record.owner == target and record.epoch > before.epoch and record.tick > before.tick

        self.live_until(has_moved)
        # Until it has ticked there too.
        there = last
        self.live_until(lambda: has_moved() and last > there)
        return time.monotonic() - began, still

    def kill_one(self) -> tuple[float, int]:
        """SIGKILL the first host for good; return the time until all its worlds commit, and how many they were."""
        # A host that is late for its own lease has no worlds that could be taken over.
        self.live_until(lambda: all(self._store.record(world).owner for world in self._worlds))
        orphans = [world for world in self._worlds if self._store.record(world).owner == _HOSTS[0]]
        self._fleet.abandoned.add(_HOSTS[0])
        os.kill(self._fleet.processes[_HOSTS[0]].pid, signal.SIGKILL)
        killed_at = time.monotonic()
        before = {world: self._store.record(world) for world in orphans}

        def all_go_on() -> bool:
            return all(self._store.record(world).tick > before[world].tick for world in orphans)

        self.live_until(all_go_on)
        return time.monotonic() - killed_at, len(orphans)

    def num_lost_ticks(self) -> int:
        """Return how many ticks that were seen committed are in no log; every digest is verified on the way."""
        seen = dict(self._most_seen)
        lost = 0
        for world in self._worlds:
            kept = [tick.tick for tick in self._store.effects(world, 1, seen[world])]
            lost += seen[world] - len(set(kept))
        return lost
