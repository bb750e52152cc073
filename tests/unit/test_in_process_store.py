"""The in-process store passes the suite of every store, and fills up as a server does."""

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.integration.inbox_suite import InboxSuite
from tests.integration.store_machine import store_machine
from tests.integration.store_suite import StoreSuite, born, commit_one
from tests.store_cases import LivingField, record_of
from world.errors import ConfigError, CorruptRecord, NewerSchema, StoreFull
from world.snapshot import WorldId
from world.store.codec import seal_snapshot
from world.store.in_process import InProcessWorldStore
from world.store.records import Ack, Commit
from world.store.upgrade import SCHEMA_VERSION


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def world() -> WorldId:
    return WorldId(f"w-{uuid.uuid4().hex[:12]}")


class TestInProcessWorldStore(StoreSuite):
    @pytest.fixture
    def connect(self, clock: Clock) -> Callable[..., InProcessWorldStore]:
        self._clock = clock
        stores: list[InProcessWorldStore] = []

        def connect(**settings: Any) -> InProcessWorldStore:
            if not stores:
                stores.append(InProcessWorldStore(clock=clock, **settings))
            return stores[0]

        return connect

    @pytest.fixture
    def lease_passes(self, clock: Clock) -> Callable[[WorldId], None]:
        def lease_passes(world: WorldId) -> None:
            clock.now += 11.0

        return lease_passes

    def level(self) -> str:
        return "process"

    def a_moment_passes(self) -> None:
        self._clock.now += 1.0


class TestInProcessInbox(InboxSuite):
    @pytest.fixture
    def connect(self) -> Callable[..., InProcessWorldStore]:
        return InProcessWorldStore


def _two_owners() -> Any:
    clock = Clock()
    stores: list[InProcessWorldStore] = []

    def connect() -> InProcessWorldStore:
        if len(stores) % 2 == 0:
            stores.append(InProcessWorldStore(clock=clock))
        else:
            stores.append(stores[-1])
        return stores[-1]

    def lease_passes(world: WorldId) -> None:
        clock.now += 11.0

    return store_machine(connect, lease_passes, lambda store: None)


TestTwoOwners = _two_owners().TestCase
TestTwoOwners.settings = settings(
    max_examples=20, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)


def test_a_full_store_refuses_and_keeps_what_it_has(world: WorldId) -> None:
    store = InProcessWorldStore(capacity_bytes=20_000)
    life, token = born(store, world)
    acked = 0
    while isinstance(answer := commit_one(store, Commit(token, life.steps(1))), Ack):
        acked += 1
    assert isinstance(answer, StoreFull)
    assert acked > 3
    assert store.load(world)[0].tick == acked
    with pytest.raises(StoreFull):
        store.create(record_of(f"{world}-2", life.snapshot), life.snapshot)


def test_a_flipped_byte_in_the_log_is_found(world: WorldId) -> None:
    store = InProcessWorldStore()
    life, token = born(store, world)
    commit_one(store, Commit(token, life.steps(3)))
    log = store._worlds[world].log
    frame = bytearray(log[2].frame)
    frame[40] ^= 1
    log[2] = type(log[2])(2, log[2].digest, bytes(frame))
    with pytest.raises(CorruptRecord):
        store.load(world)
    with pytest.raises(CorruptRecord):
        list(store.effects(world, 1, 3))


def test_a_keyframe_of_a_newer_program_is_told_as_that(world: WorldId) -> None:
    store = InProcessWorldStore()
    born(store, world)
    store._worlds[world].keyframes[0] = seal_snapshot(bytes((SCHEMA_VERSION + 1,)))
    with pytest.raises(NewerSchema, match=f"{world}.*use the one that wrote it"):
        store.load(world)


def test_impossible_settings_are_refused() -> None:
    for settings_ in ({"lease_s": 0.0}, {"hot_log_ticks": -1}):
        with pytest.raises(ConfigError):
            InProcessWorldStore(**settings_)  # type: ignore[arg-type]


def test_the_store_takes_what_it_gives_back(world: WorldId) -> None:
    store = InProcessWorldStore()
    life = LivingField(3)
    life.steps(2)
    store.create(record_of(world, life.snapshot), life.snapshot)
    record, snapshot, _ = store.load(world)
    store.create(record, snapshot)
