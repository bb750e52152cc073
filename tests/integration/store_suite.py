"""What every `WorldStore` promises. A store passes by subclassing the suite and saying how to connect to it."""

from collections.abc import Callable

import pytest

from tests.store_cases import LivingField, equal_effects, record_of
from world.errors import ConfigError, Conflict, Fenced, Gap, LeaseHeld, NotRunning, UnknownWorld, WorldExists
from world.snapshot import TickEffects, WorldId
from world.store.past import HistoricStore, SegmentRef
from world.store.records import Ack, Commit, FencingToken, WorldStore

NONCE = bytes(range(16))
OTHER_NONCE = bytes(range(16, 32))
LEASE_S = 3600.0
"""Of stores on a server, whose own clock goes on: no lease may end by itself, however slow the machine is."""


def born(store: WorldStore, world: WorldId, seed: int = 1) -> tuple[LivingField, FencingToken]:
    """Create a world and take it for host-0."""
    life = LivingField(seed)
    store.create(record_of(world, life.snapshot), life.snapshot)
    return life, store.acquire(world, owner="host-0", nonce=NONCE)


def commit_one(store: WorldStore, commit: Commit) -> Ack | Exception:
    """Commit one world's ticks."""
    (answer,) = store.commit([commit])
    return answer


def same_effects(got: tuple[TickEffects, ...], wanted: tuple[TickEffects, ...]) -> bool:
    """Whether two runs of ticks are equal to the byte."""
    return len(got) == len(wanted) and all(map(equal_effects, got, wanted))


class StoreSuite:
    """Fixtures that a subclass gives: `connect`, `lease_passes`, and `world`, an id that is new in each test."""

    @pytest.fixture
    def store(self, connect: Callable[..., WorldStore]) -> WorldStore:
        return connect()

    def test_created_world_loads_as_it_was_created(self, store: WorldStore, world: WorldId) -> None:
        life = LivingField(7)
        life.steps(3)
        record = record_of(world, life.snapshot, parent=WorldId("ancestor"), fork_tick=3)
        store.create(record, life.snapshot)
        loaded, snapshot, effects = store.load(world)
        assert loaded == record
        assert snapshot.digest() == life.snapshot.digest()
        assert (snapshot.kind, snapshot.seed, snapshot.env) == ("dreamed", 7, b"")
        assert effects == ()

    def test_creating_again_is_harmless(self, store: WorldStore, world: WorldId) -> None:
        life, token = born(store, world)
        beginning = LivingField(1).snapshot
        commit_one(store, Commit(token, life.steps(2)))
        store.create(record_of(world, beginning), beginning)
        assert store.record(world).tick == 2

    def test_creating_other_content_under_a_taken_id_is_refused(self, store: WorldStore, world: WorldId) -> None:
        born(store, world, seed=1)
        other = LivingField(2).snapshot
        with pytest.raises(WorldExists, match=world):
            store.create(record_of(world, other), other)

    def test_ids_that_could_break_keys_are_refused(self, store: WorldStore) -> None:
        snapshot = LivingField(1).snapshot
        for bad in ("", "a}b", "a:b", "ü", "x" * 65, "../x"):
            with pytest.raises(ConfigError):
                store.create(record_of(bad, snapshot), snapshot)

    def test_unknown_world_is_said_to_be_unknown(self, store: WorldStore, world: WorldId) -> None:
        ghost = FencingToken(world, 1, NONCE)
        for ask in (store.load, store.record, lambda w: store.set_status(w, "paused")):
            with pytest.raises(UnknownWorld):
                ask(world)
        with pytest.raises(UnknownWorld):
            store.acquire(world, owner="host-0", nonce=NONCE)
        assert isinstance(commit_one(store, Commit(ghost, LivingField(1).steps(1))), UnknownWorld)
        assert isinstance(store.renew([ghost])[0], UnknownWorld)
        store.release(ghost)

    def test_acquiring_raises_the_epoch_and_is_idempotent_for_a_nonce(self, store: WorldStore, world: WorldId) -> None:
        _, token = born(store, world)
        assert token == FencingToken(world, 1, NONCE)
        assert store.acquire(world, owner="host-0", nonce=NONCE) == token
        assert store.record(world).epoch == 1

    def test_another_owner_waits_for_the_lease(
        self, store: WorldStore, world: WorldId, lease_passes: Callable[[WorldId], None]
    ) -> None:
        born(store, world)
        with pytest.raises(LeaseHeld, match="host-0"):
            store.acquire(world, owner="host-1", nonce=OTHER_NONCE)
        lease_passes(world)
        assert store.record(world).owner == ""
        assert store.acquire(world, owner="host-1", nonce=OTHER_NONCE).epoch == 2
        assert store.record(world).owner == "host-1"

    def test_the_same_owner_retakes_at_once_and_fences_its_former_self(self, store: WorldStore, world: WorldId) -> None:
        life, former = born(store, world)
        token = store.acquire(world, owner="host-0", nonce=OTHER_NONCE)
        assert token.epoch == 2
        ticks = life.steps(1)
        assert isinstance(commit_one(store, Commit(former, ticks)), Fenced)
        assert commit_one(store, Commit(token, ticks)) == Ack(world, 1, self.level(), repeated=False)

    def test_an_owner_whose_lease_ran_out_still_commits_until_it_is_displaced(
        self, store: WorldStore, world: WorldId, lease_passes: Callable[[WorldId], None]
    ) -> None:
        life, token = born(store, world)
        lease_passes(world)
        assert isinstance(commit_one(store, Commit(token, life.steps(1))), Ack)
        assert store.record(world).owner == "host-0"

    def test_committed_ticks_load_byte_for_byte(self, store: WorldStore, world: WorldId) -> None:
        life, token = born(store, world)
        ticks = life.steps(5) + life.steps(4)
        assert isinstance(commit_one(store, Commit(token, ticks[:5])), Ack)
        assert isinstance(commit_one(store, Commit(token, ticks[5:])), Ack)
        record, snapshot, effects = store.load(world)
        assert (record.tick, record.weights_version, snapshot.tick) == (9, 3, 0)
        assert same_effects(effects, ticks)
        assert LivingField.resume(snapshot, effects).snapshot.digest() == life.snapshot.digest()

    def test_a_world_resumed_from_a_keyframe_lives_on_as_if_nothing_had_happened(
        self, store: WorldStore, world: WorldId
    ) -> None:
        life, token = born(store, world)
        commit_one(store, Commit(token, life.steps(6), life.snapshot))
        commit_one(store, Commit(token, life.steps(2)))
        _, snapshot, effects = store.load(world)
        assert (snapshot.tick, [tick.tick for tick in effects]) == (6, [7, 8])
        resumed = LivingField.resume(snapshot, effects)
        assert same_effects(resumed.steps(5), life.steps(5))

    def test_repeating_a_commit_is_acknowledged_as_repeated(
        self, store: WorldStore, connect: Callable[..., WorldStore], world: WorldId
    ) -> None:
        life, token = born(store, world)
        first = Commit(token, life.steps(2))
        assert commit_one(store, first) == Ack(world, 2, self.level(), repeated=False)
        assert commit_one(store, first) == Ack(world, 2, self.level(), repeated=True)
        second = Commit(token, life.steps(3), life.snapshot)
        assert commit_one(connect(), second) == Ack(world, 5, self.level(), repeated=False)
        assert commit_one(store, second) == Ack(world, 5, self.level(), repeated=True)
        assert store.record(world).tick == 5

    def test_a_commit_whose_beginning_is_known_adds_only_the_rest(self, store: WorldStore, world: WorldId) -> None:
        life, token = born(store, world)
        ticks = life.steps(5)
        commit_one(store, Commit(token, ticks[:3]))
        assert commit_one(store, Commit(token, ticks)) == Ack(world, 5, self.level(), repeated=False)
        assert same_effects(store.load(world)[2], ticks)

    def test_other_content_for_a_stored_tick_conflicts(self, store: WorldStore, world: WorldId) -> None:
        life, token = born(store, world)
        commit_one(store, Commit(token, life.steps(2)))
        assert isinstance(commit_one(store, Commit(token, LivingField(1).steps(2, salt=1))), Conflict)
        assert isinstance(commit_one(store, Commit(token, LivingField(1).steps(3, salt=1))), Conflict)

    def test_a_commit_on_another_tick_than_the_stored_one_is_a_gap(self, store: WorldStore, world: WorldId) -> None:
        life, token = born(store, world)
        ticks = life.steps(6)
        assert isinstance(commit_one(store, Commit(token, ticks[1:3])), Gap)
        commit_one(store, Commit(token, ticks[:4]))
        early = commit_one(store, Commit(token, ticks[:2]))
        assert isinstance(early, Gap)
        assert "stored tick is 4" in str(early)
        assert isinstance(commit_one(store, Commit(token, ticks[5:])), Gap)
        assert commit_one(store, Commit(token, ticks[4:])) == Ack(world, 6, self.level(), repeated=False)

    def test_one_refused_world_does_not_hold_up_the_others(self, store: WorldStore, world: WorldId) -> None:
        worlds = [WorldId(f"{world}-{number}") for number in range(4)]
        lives = [born(store, each, seed=number) for number, each in enumerate(worlds)]
        store.acquire(worlds[1], owner="host-0", nonce=OTHER_NONCE)
        store.set_status(worlds[2], "paused")
        answers = store.commit([Commit(token, life.steps(2)) for life, token in lives])
        assert [type(answer) for answer in answers] == [Ack, Fenced, NotRunning, Ack]
        assert [store.record(each).tick for each in worlds] == [2, 0, 0, 2]

    def test_two_commits_of_one_world_in_one_call_follow_each_other(self, store: WorldStore, world: WorldId) -> None:
        life, token = born(store, world)
        ticks = life.steps(4)
        answers = store.commit([Commit(token, ticks[:2]), Commit(token, ticks[2:])])
        assert answers == [Ack(world, tick, self.level(), repeated=False) for tick in (2, 4)]
        assert same_effects(store.load(world)[2], ticks)

    def test_a_world_that_does_not_run_takes_no_owner_and_no_ticks(self, store: WorldStore, world: WorldId) -> None:
        life, token = born(store, world)
        ticks = life.steps(1)
        for status in ("paused", "quarantined", "deleted"):
            store.set_status(world, status)
            assert isinstance(commit_one(store, Commit(token, ticks)), NotRunning)
            with pytest.raises(NotRunning, match=status):
                store.acquire(world, owner="host-1", nonce=OTHER_NONCE)
            assert store.load(world)[0].status == status
        store.set_status(world, "running")
        assert isinstance(commit_one(store, Commit(token, ticks)), Ack)

    def test_a_world_that_was_deleted_with_its_history_is_said_to_be_deleted(
        self, connect: Callable[..., HistoricStore], world: WorldId
    ) -> None:
        store = connect()
        born(store, world)
        store.history().delete(world)
        with pytest.raises(UnknownWorld, match="deleted"):
            store.load(world)
        assert store.record(world).status == "deleted"

    def test_renewing_answers_for_each_token(self, store: WorldStore, world: WorldId) -> None:
        _, former = born(store, world)
        token = store.acquire(world, owner="host-0", nonce=OTHER_NONCE)
        fenced, renewed = store.renew([former, token])
        assert renewed is True
        assert isinstance(fenced, Fenced)

    def test_a_renewed_lease_holds_others_off(
        self, store: WorldStore, world: WorldId, lease_passes: Callable[[WorldId], None]
    ) -> None:
        _, token = born(store, world)
        lease_passes(world)
        assert store.renew([token]) == [True]
        with pytest.raises(LeaseHeld):
            store.acquire(world, owner="host-1", nonce=OTHER_NONCE)

    def test_a_released_world_is_free_at_once_and_its_token_is_dead(self, store: WorldStore, world: WorldId) -> None:
        life, token = born(store, world)
        store.release(token)
        store.release(token)
        assert isinstance(commit_one(store, Commit(token, life.steps(1))), Fenced)
        assert store.record(world).owner == ""
        assert store.acquire(world, owner="host-1", nonce=OTHER_NONCE).epoch == 2
        store.release(token)
        assert store.record(world).owner == "host-1"

    def test_records_list_living_worlds_by_newest_activity(self, store: WorldStore, world: WorldId) -> None:
        worlds = [WorldId(f"{world}-{number}") for number in range(3)]
        lives = [born(store, each, seed=number) for number, each in enumerate(worlds)]
        self.a_moment_passes()
        store.set_status(worlds[1], "deleted")
        life, token = lives[0]
        commit_one(store, Commit(token, life.steps(1)))
        listed = [record for record in store.records() if record.world in worlds]
        assert [record.world for record in listed] == [worlds[0], worlds[2]]
        assert listed[0] == store.record(worlds[0])

    def test_logged_effects_are_read_by_range(self, store: WorldStore, world: WorldId) -> None:
        life, token = born(store, world)
        ticks = life.steps(10)
        commit_one(store, Commit(token, ticks))
        assert same_effects(tuple(store.effects(world, 3, 6)), ticks[2:6])
        assert same_effects(tuple(store.effects(world, 0, 99)), ticks)
        assert tuple(store.effects(world, 11, 12)) == ()

    def test_trimming_leaves_two_keyframes_the_hot_log_and_all_that_is_not_archived(
        self, connect: Callable[..., HistoricStore], world: WorldId
    ) -> None:
        store = connect(hot_log_ticks=3)
        life, token = born(store, world)
        ticks: tuple[TickEffects, ...] = ()
        for _ in range(6):
            new = life.steps(2)
            ticks += new
            assert isinstance(commit_one(store, Commit(token, new, life.snapshot)), Ack)
        assert same_effects(tuple(store.effects(world, 1, 12)), ticks)
        history = store.history()
        for first, last in ((1, 4), (5, 12)):
            digest = history.entries(world, last, last)[0].digest
            history.archived(world, SegmentRef(first, last, "0" * 32), digest, after=first - 1, num_bytes=9)
            kept = tuple(store.effects(world, 1, 12))
            # In the end the log from three ticks before the last stays, and the keyframe before that, of tick 8.
            assert same_effects(kept, ticks[3:] if last == 4 else ticks[7:])
        _, snapshot, effects = store.load(world)
        assert (snapshot.tick, effects) == (12, ())

    def test_a_keyframe_that_is_not_its_ticks_state_is_our_own_mistake(self, store: WorldStore, world: WorldId) -> None:
        life, token = born(store, world)
        commit = Commit(token, life.steps(1), life.snapshot)
        life.snapshot.poses = life.snapshot.poses + 1
        with pytest.raises(AssertionError, match="keyframe"):
            store.commit([commit])

    def test_an_owner_needs_a_name_and_a_whole_nonce(self, store: WorldStore, world: WorldId) -> None:
        born(store, world)
        for owner, nonce in (("", NONCE), ("x" * 200, NONCE), ("host-1", b"short")):
            with pytest.raises(ConfigError):
                store.acquire(world, owner=owner, nonce=nonce)

    def level(self) -> str:
        """Durability that acks name."""
        raise NotImplementedError

    def a_moment_passes(self) -> None:
        """Let later activity be later."""
        raise NotImplementedError
