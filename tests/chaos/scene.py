"""A world on which something is done, and what is true of it; and a real host that lives with it."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from actors.host_config import WorldHostConfig
from actors.world_host import WorldHost
from tests.store_cases import LivingField, record_of
from world.errors import LivingWorldsError, UnknownWorld
from world.live import LiveWorld
from world.snapshot import WorldId
from world.store.archive import Archive
from world.store.archiver import ArchiveConfig, Archiver
from world.store.audit import audit
from world.store.history import History
from world.store.lineage import new_world_id
from world.store.records import Ack, Commit
from world.store.redis_store import RedisWorldStore
from world.tick import Ticked

LAST: Final = 12
"""Tick that a world is at when something is done to it."""


@dataclass
class Scene:
    """A world of twelve ticks, the older ones archived, and what its states were."""

    store: RedisWorldStore
    """Of somebody who is not struck."""
    raw: Any
    directory: Path
    world: WorldId = field(default_factory=new_world_id)
    child: WorldId = field(default_factory=new_world_id)
    """Id of the world that is made of it."""
    digests: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        life = LivingField(1)
        self.store.create(record_of(self.world, life.snapshot), life.snapshot)
        token = self.store.acquire(self.world, owner="host-0", nonce=secrets.token_bytes(16))
        self.digests.append(life.snapshot.digest())
        for _ in range(LAST // 3):
            effects = []
            for _ in range(3):
                effects.append(life.step())
                self.digests.append(life.snapshot.digest())
            (answer,) = self.store.commit([Commit(token, tuple(effects), life.snapshot)])
            assert isinstance(answer, Ack), answer
        self.store.release(token)

    def history(self, store: RedisWorldStore | None = None) -> History:
        """Return history as whoever has this store sees it, nothing cached."""
        return History((store or self.store).history(), Archive(self.directory / "archive"))

    def archive(self, store: RedisWorldStore | None = None) -> None:
        """Archive what is due."""
        history = self.history(store)
        config = ArchiveConfig(segment_ticks=5, least_segment_ticks=2)
        Archiver(history.kept, history.archive, config).archive(self.world)

    def wrong(self, world: WorldId, ticks: Sequence[int]) -> list[str]:
        """Return at which of these ticks a world is not what the first one was."""
        found, history = [], self.history()
        for tick in ticks:
            try:
                same = history.state_at(world, tick).digest() == self.digests[tick]
            except LivingWorldsError as error:
                found.append(f"{world} at tick {tick}: {error}")
            else:
                found += [] if same else [f"{world} at tick {tick} is another state"]
        return found

    def unverified(self, world: WorldId) -> list[str]:
        """Return what does not verify of a world."""
        return list(audit(self.history(), world).problems)

    def status(self, world: WorldId) -> str | None:
        """Return a world's status, None if there is no such world."""
        try:
            return self.store.record(world).status
        except UnknownWorld:
            return None


class _LivingTicker:
    """Ticks worlds that are `LivingField`s."""

    weights_version, num_actions, num_events = 1, 12, 0

    def load_weights(self, weights: object, version: int) -> None:
        """There are none."""

    def tick(self, worlds: Sequence[LiveWorld], actions: object = None, events: object = None) -> list[Ticked]:
        """Live one tick each."""
        return [Ticked(LivingField.resume(world.snapshot).step(), None) for world in worlds]


class _Nobody:
    """No replay, no limiter and no learner: dreams need none."""

    def poll(self, newer_than: tuple[int, int]) -> None:
        """Nothing is learned."""


def living_host(name: str, store: RedisWorldStore) -> WorldHost:
    """Return a host of `LivingField`s, which commits two ticks at a time and often makes keyframes."""
    nobody: Any = _Nobody()
    config = WorldHostConfig(dream_ticks_per_s=1e6, max_ticks_per_commit=2, keyframe_every_ticks=4, stop_within_s=60.0)
    make: Callable[..., WorldHost] = WorldHost
    return make(
        name,
        config=config,
        store=store,
        sink=nobody,
        limiter=nobody,
        weights=nobody,
        ticker=_LivingTicker(),
        inbox=store.inbox(),
    )
