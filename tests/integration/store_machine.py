"""Two owners who fight for one world, in any order of calls, against a model of what a store may answer."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.store_cases import LivingField, equal_effects, record_of
from world.errors import Fenced, Gap, LeaseHeld, NotRunning
from world.snapshot import TickEffects, WorldId
from world.store.records import Ack, Commit, FencingToken, WorldStore

OWNERS = st.sampled_from((0, 1))


@dataclass
class _Owner:
    name: str
    store: WorldStore
    salt: int
    token: FencingToken | None = None
    life: LivingField | None = None
    sent: list[Commit] = field(default_factory=list)


def store_machine(
    connect: Callable[[], WorldStore], lease_passes: Callable[[WorldId], None], close: Callable[[WorldStore], None]
) -> type[RuleBasedStateMachine]:
    """Return the state machine over stores that `connect` makes, each for one owner."""

    class TwoOwners(RuleBasedStateMachine):
        @initialize(seed=st.integers(0, 2**20))
        def begin(self, seed: int) -> None:
            self.world = WorldId(f"m-{secrets.token_hex(8)}")
            self.owners = [_Owner(f"host-{number}", connect(), number + 1) for number in range(2)]
            self.seed = seed
            self.accepted: list[TickEffects] = []
            self.token: FencingToken | None = None
            self.epoch = 0
            self.leased_to: str = ""
            self.status: Any = "running"
            beginning = LivingField(seed)
            self.owners[0].store.create(record_of(self.world, beginning.snapshot), beginning.snapshot)

        @rule(number=OWNERS)
        def acquire(self, number: int) -> None:
            owner = self.owners[number]
            try:
                token = owner.store.acquire(self.world, owner=owner.name, nonce=secrets.token_bytes(16))
            except NotRunning:
                assert self.status != "running"
                return
            except LeaseHeld:
                assert self.leased_to not in ("", owner.name)
                return
            assert self.status == "running"
            assert self.leased_to in ("", owner.name)
            self.epoch += 1
            assert token.epoch == self.epoch
            self.token, self.leased_to = token, owner.name
            owner.token, owner.sent = token, []
            _, snapshot, effects = owner.store.load(self.world)
            owner.life = LivingField.resume(snapshot, effects)
            assert owner.life.tick == len(self.accepted)

        @rule(number=OWNERS, num=st.integers(1, 3), with_keyframe=st.booleans())
        def commit(self, number: int, num: int, with_keyframe: bool) -> None:
            owner = self.owners[number]
            if owner.token is None or owner.life is None:
                return
            effects = tuple(owner.life.step(salt=owner.salt) for _ in range(num))
            owner.sent.append(Commit(owner.token, effects, owner.life.snapshot if with_keyframe else None))
            self._send(owner, owner.sent[-1])
            # The keyframe is the living snapshot; what lives on must not change what was sent.
            _, snapshot, logged = self.owners[0].store.load(self.world)
            if owner.token == self.token and self.status == "running" and owner.life.tick == len(self.accepted):
                owner.life = LivingField.resume(snapshot, logged)

        @rule(number=OWNERS, back=st.integers(1, 3))
        def repeat(self, number: int, back: int) -> None:
            owner = self.owners[number]
            if len(owner.sent) >= back:
                sent = owner.sent[-back]
                # Its keyframe has lived on since then.
                self._send(owner, Commit(sent.token, sent.effects))

        @rule(number=OWNERS)
        def resend_all(self, number: int) -> None:
            owner = self.owners[number]
            if owner.token is not None and owner.sent:
                self._send(owner, Commit(owner.token, tuple(tick for sent in owner.sent for tick in sent.effects)))

        @rule(number=OWNERS)
        def renew(self, number: int) -> None:
            owner = self.owners[number]
            if owner.token is not None:
                (answer,) = owner.store.renew([owner.token])
                assert (answer is True) == (owner.token == self.token), answer
                if answer is True:
                    self.leased_to = owner.name

        @rule(number=OWNERS)
        def release(self, number: int) -> None:
            owner = self.owners[number]
            if owner.token is not None:
                owner.store.release(owner.token)
                if owner.token == self.token:
                    self.token, self.leased_to = None, ""

        @rule()
        def lease_runs_out(self) -> None:
            lease_passes(self.world)
            self.leased_to = ""

        @rule(status=st.sampled_from(("running", "running", "paused")))
        def set_status(self, status: Any) -> None:
            self.owners[1].store.set_status(self.world, status)
            self.status = status

        @invariant()
        def what_was_acknowledged_is_there_once(self) -> None:
            if not hasattr(self, "world"):
                return
            record, snapshot, effects = self.owners[1].store.load(self.world)
            assert (record.tick, record.epoch, record.owner) == (len(self.accepted), self.epoch, self.leased_to)
            assert len(effects) == len(self.accepted) - snapshot.tick
            assert all(map(equal_effects, effects, self.accepted[snapshot.tick :]))
            LivingField.resume(snapshot, effects)

        def teardown(self) -> None:
            for owner in getattr(self, "owners", []):
                close(owner.store)

        def _send(self, owner: _Owner, commit: Commit) -> None:
            (answer,) = owner.store.commit([commit])
            base, tick = commit.effects[0].tick - 1, commit.effects[-1].tick
            committed = len(self.accepted)
            if commit.token != self.token:
                assert isinstance(answer, Fenced), answer
            elif self.status != "running":
                assert isinstance(answer, NotRunning), answer
            elif not base <= committed <= tick:
                assert isinstance(answer, Gap), answer
            else:
                known = committed - base
                assert all(map(equal_effects, commit.effects[:known], self.accepted[base:])), "its own, never another's"
                assert isinstance(answer, Ack), answer
                assert (answer.tick, answer.repeated) == (tick, committed == tick)
                self.accepted += commit.effects[known:]
                self.leased_to = owner.name

    return TwoOwners
