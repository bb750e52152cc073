"""Worlds that grow, are archived, forked, rewound and deleted in any order, against a model that keeps every state."""

import secrets
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.store_cases import LivingField, record_of
from world.errors import NoHistory, Pinned
from world.snapshot import WorldId
from world.store.archive import Archive
from world.store.archiver import ArchiveConfig, Archiver
from world.store.audit import audit
from world.store.codec import decode_snapshot, encode_snapshot
from world.store.history import History
from world.store.lineage import Lineage, new_world_id
from world.store.past import HistoricStore
from world.store.records import Ack, Commit

WHICH = st.integers(0, 5)
AT = st.integers(0, 2**16)


@dataclass
class _Model:
    """What a world is: the digest of its state at every tick, and its latest life."""

    digests: list[bytes]
    life: LivingField
    own_from: int
    """Before this tick, it was its parent."""


def history_machine(
    connect: Callable[[], HistoricStore], close: Callable[[HistoricStore], None]
) -> type[RuleBasedStateMachine]:
    """Return the state machine over stores that `connect` makes; they should keep a hot log of a few ticks."""

    class Histories(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.store = connect()
            self.directory = Path(tempfile.mkdtemp())
            self.archive = Archive(self.directory / "archive")
            self.history = History(self.store.history(), self.archive)
            self.lineage = Lineage(self.store, self.history)
            config = ArchiveConfig(segment_ticks=8, least_segment_ticks=3)
            self.archiver = Archiver(self.history.kept, self.archive, config)
            self.model: dict[WorldId, _Model] = {}
            self.salt = 0

        @initialize(seed=st.integers(0, 2**20))
        def begin(self, seed: int) -> None:
            world, life = new_world_id(), LivingField(seed)
            self.store.create(record_of(world, life.snapshot), life.snapshot)
            self.model[world] = _Model([life.snapshot.digest()], life, 0)
            for with_keyframe in (False, True, True):
                self.grow(0, 9, with_keyframe)

        @rule(which=WHICH, num=st.integers(1, 12), with_keyframe=st.booleans())
        def grow(self, which: int, num: int, with_keyframe: bool) -> None:
            world, model = self._pick(which)
            if self.store.record(world).status == "paused":
                self.store.set_status(world, "running")
            self.salt += 1
            token = self.store.acquire(world, owner="host", nonce=secrets.token_bytes(16))
            effects = []
            for _ in range(num):
                effects.append(model.life.step(salt=self.salt))
                model.digests.append(model.life.snapshot.digest())
            (answer,) = self.store.commit(
                [Commit(token, tuple(effects), model.life.snapshot if with_keyframe else None)]
            )
            assert isinstance(answer, Ack), answer
            self.store.release(token)

        @rule(which=WHICH, all_of_it=st.booleans())
        def archive_what_is_due(self, which: int, all_of_it: bool) -> None:
            self.archiver.archive(self._pick(which)[0], all_of_it=all_of_it)

        @precondition(lambda self: len(self.model) < 6)
        @rule(which=WHICH, at=AT, as_it_was=st.booleans())
        def fork(self, which: int, at: int, as_it_was: bool) -> None:
            (world, model), child = self._pick(which), new_world_id()
            tick = at % len(model.digests)
            if as_it_was:
                self.lineage.rewound(world, tick, child)
                digests = model.digests[: tick + 1]
            else:
                self.lineage.fork(world, tick, child, dream=True)
                digests = [*model.digests[:tick], self.history.state_at(child, tick).digest()]
                assert digests[tick] != model.digests[tick], "a fork has randomness of its own"
            self.model[child] = _Model(digests, self._alive(child), tick)

        @rule(which=WHICH, at=AT)
        def rewind_in_place(self, which: int, at: int) -> None:
            world, model = self._pick(which)
            tick = at % len(model.digests)
            try:
                done = self.lineage.rewind_in_place(world, tick)
            except NoHistory:
                assert tick < model.own_from
                return
            assert (done.kept_as is None) == (tick == len(model.digests) - 1)
            if done.kept_as is not None:
                self.model[done.kept_as] = _Model(list(model.digests), self._alive(done.kept_as), tick)
                model.digests, model.life = model.digests[: tick + 1], self._alive(world)

        @precondition(lambda self: len(self.model) > 2)
        @rule(which=WHICH)
        def delete(self, which: int) -> None:
            world, _ = self._pick(which)
            try:
                self.lineage.delete(world)
            except Pinned:
                assert self.history.kept.pins(world)
            else:
                del self.model[world]

        @rule(which=WHICH, at=AT)
        def travel(self, which: int, at: int) -> None:
            world, model = self._pick(which)
            tick = at % len(model.digests)
            assert self.history.state_at(world, tick).digest() == model.digests[tick]

        @rule(which=WHICH)
        def sweep(self, which: int) -> None:
            assert self.lineage.sweep(self._pick(which)[0]) == 0

        def teardown(self) -> None:
            try:
                for world, model in self.model.items():
                    last = len(model.digests) - 1
                    assert self.store.record(world).tick == last
                    for tick, digest in enumerate(model.digests):
                        assert self.history.state_at(world, tick).digest() == digest, (world, tick)
                    effects = list(self.history.effects(world, 1, last)) if last else []
                    assert [tick.tick for tick in effects] == list(range(1, last + 1))
                    assert self._alive(world).snapshot.digest() == model.digests[-1]
                    found = audit(self.history, world)
                    assert found.problems == (), found
                    assert found.newest_verified == last
            finally:
                close(self.store)
                shutil.rmtree(self.directory)

        def _pick(self, which: int) -> tuple[WorldId, _Model]:
            return list(self.model.items())[which % len(self.model)]

        def _alive(self, world: WorldId) -> LivingField:
            """Return a life that goes on from a world's present, as a host would load it."""
            _, snapshot, effects = self.store.load(world)
            life = LivingField.resume(snapshot, effects)
            copied, _ = decode_snapshot(encode_snapshot(life.snapshot))
            return LivingField.resume(copied)

    return Histories
