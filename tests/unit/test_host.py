"""The world host keeps its promises whatever the store, replay, limiter and weights do."""

import pytest

from learner.limiter import LimiterConfig
from tests.host_cases import LOST, MEMORY_SIZE, NUM_AGENTS, Neighbourhood
from world.errors import CorruptRecord, DiskFull, NewerSchema, StoreFull, WorldTooLarge
from world.snapshot import WorldId
from world.store import in_process
from world.store.log import PackedCommit
from world.store.records import Commit

FAR = 10_000


def test_worlds_run_exactly_to_their_destination_and_asking_again_is_harmless() -> None:
    there = Neighbourhood()
    host = there.host()
    host.adopt(there.worlds)
    for _ in range(2):
        report = host.run_until({there.worlds[0]: 12, there.worlds[1]: 5}, 60.0)
        assert report.ticks == {there.worlds[0]: 12, there.worlds[1]: 5}
        assert [there.tick_of(world) for world in there.worlds] == [12, 5]


def test_no_tick_reaches_replay_before_it_is_committed_and_none_is_skipped_or_repeated() -> None:
    there = Neighbourhood()
    host = there.host()
    host.adopt(there.worlds)
    # The sink itself refuses what the store does not have yet.
    host.run_until(dict.fromkeys(there.worlds, 50), 60.0)
    host.stop()
    for world in there.worlds:
        # The first tick is the reset, which is no row.
        assert there.sink.rows_of(world) == list(range(1, 50))


def test_a_restarted_host_resumes_at_the_last_committed_tick() -> None:
    there = Neighbourhood()
    killed = there.host()
    killed.adopt(there.worlds)
    killed.run_until(dict.fromkeys(there.worlds, 20), 60.0)

    host = there.host()
    assert host.adopt(there.worlds).ticks == dict.fromkeys(there.worlds, 20)
    host.run_until(dict.fromkeys(there.worlds, 41), 60.0)
    host.stop()
    for world in there.worlds:
        rows = there.sink.rows_of(world)
        assert len(rows) == len(set(rows)), "a tick went to replay twice"
        lost = sorted(set(range(1, 41)) - set(rows))
        assert len(lost) < 8, "more than the unsent chunk was lost"


def test_while_the_store_is_silent_worlds_stand_still_and_the_same_commits_are_sent_again() -> None:
    there = Neighbourhood()
    host = there.host()
    host.adopt(there.worlds)
    there.store.silent_before = 10_000
    report = host.run_until(dict.fromkeys(there.worlds, FAR), 5.0)
    assert report.ticks == dict.fromkeys(there.worlds, 0)
    assert report.store_away_s > 1
    assert report.store_silent
    first = there.store.sent[0]
    assert all(sent == first for sent in there.store.sent), "a repeated commit was another one"
    host.run_until(dict.fromkeys(there.worlds, FAR), 1.0)
    assert there.store.sent[-1] == first, "a later call sent something else"
    there.store.silent_before = 2
    report = host.run_until(dict.fromkeys(there.worlds, 40), 60.0)
    assert report.ticks == dict.fromkeys(there.worlds, 40)
    assert report.store_away_s > 0
    assert not report.store_silent, "the store has answered since"


def test_a_store_that_falls_silent_after_the_last_commit_keeps_no_host_from_stopping() -> None:
    there = Neighbourhood()
    host = there.host()
    host.adopt(there.worlds)
    host.run_until(dict.fromkeys(there.worlds, 20), 60.0)
    there.store.releases_answered = False
    host.stop()
    assert there.store.unreleased == 1, "it waited for the same answer more than once"
    assert [there.tick_of(world) for world in there.worlds] == [20, 20]
    there.clock.sleep(11)
    assert there.host("heir").adopt(there.worlds).ticks == dict.fromkeys(there.worlds, 20)


def test_a_commit_whose_answer_was_lost_is_neither_lost_nor_applied_twice() -> None:
    there = Neighbourhood()
    host = there.host()
    host.adopt(there.worlds)
    there.store.silent_after = 3
    host.run_until(dict.fromkeys(there.worlds, 30), 60.0)
    host.stop()
    assert any(ack.repeated for ack in there.store.acks)
    for world in there.worlds:
        assert there.tick_of(world) == 30
        assert there.sink.rows_of(world) == list(range(1, 30))


def test_a_displaced_host_drops_the_world_says_so_and_publishes_nothing_of_what_was_refused() -> None:
    there = Neighbourhood()
    old = there.host("old")
    old.adopt(there.worlds)
    old.run_until(dict.fromkeys(there.worlds, 10), 60.0)
    there.clock.sleep(11)
    new = there.host("new")
    new.adopt(there.worlds[:1])
    taken, kept = there.worlds
    report = old.run_until(dict.fromkeys(there.worlds, 30), 60.0)
    assert [(lost.world, lost.error) for lost in report.lost] == [(taken, "Fenced")]
    assert report.ticks == {kept: 30}
    assert there.tick_of(taken) == 10
    assert max(there.sink.rows_of(taken), default=0) < 10


def test_without_credit_grounded_worlds_wait_and_dreams_go_on() -> None:
    limiter = LimiterConfig(
        samples_per_insert=1.0, min_items=40, max_ahead_items=40, max_insert_items=8, max_sample_items=8
    )
    there = Neighbourhood(limiter=limiter)
    host = there.host()
    host.adopt(there.worlds)
    host.run_until(dict.fromkeys(there.worlds, 3), 60.0)
    dream = there.fork(there.worlds[0], "dream")
    there.mailbox.put(1)
    host.adopt([dream])
    report = host.run_until(dict.fromkeys([*there.worlds, dream], FAR), 3.0)
    inserted = sum(report.ticks[world] - 1 for world in there.worlds) * NUM_AGENTS
    assert inserted <= 80
    assert report.starved_s > 1
    assert report.ticks[dream] > 30


def test_credit_is_taken_for_rows_alone_and_what_is_left_is_given_back() -> None:
    there = Neighbourhood()
    host = there.host(credit_items=100)
    host.adopt(there.worlds)
    host.run_until(dict.fromkeys(there.worlds, 33), 60.0)
    host.stop()
    assert there.limiter.state().inserts == there.limiter.settled == there.sink.items == 2 * 32 * NUM_AGENTS


def test_dreams_wait_for_weights_and_keep_their_pace() -> None:
    there = Neighbourhood(num_worlds=1)
    host = there.host(dream_ticks_per_s=10.0)
    host.adopt(there.worlds)
    host.run_until({there.worlds[0]: 3}, 60.0)
    dream = there.fork(there.worlds[0], "dream")
    host.adopt([dream])
    assert host.run_until({dream: FAR}, 2.0).ticks[dream] == 3
    there.mailbox.put(1)
    assert 10 <= host.run_until({dream: FAR}, 2.0).ticks[dream] - 3 <= 21


def test_rows_of_dreams_are_not_sent_to_replay() -> None:
    there = Neighbourhood(num_worlds=1)
    there.mailbox.put(1)
    host = there.host()
    host.adopt(there.worlds)
    host.run_until({there.worlds[0]: 3}, 60.0)
    dream = there.fork(there.worlds[0], "dream")
    host.adopt([dream])
    host.run_until({dream: 30}, 60.0)
    host.stop()
    assert there.tick_of(dream) == 30
    assert there.sink.rows_of(dream) == []


def test_weights_are_swapped_between_ticks_and_every_tick_says_whose_it_is() -> None:
    there = Neighbourhood(num_worlds=1)
    host = there.host()
    host.adopt(there.worlds)
    world = there.worlds[0]
    for version, until in ((0, 5), (3, 10), (4, 15)):
        if version:
            there.mailbox.put(version)
        assert host.run_until({world: until}, 60.0).weights[1] == version
    assert [tick.weights_version for tick in there.store.effects(world, 1, 15)] == [0] * 5 + [3] * 5 + [4] * 5


def test_older_weights_are_not_taken_up_again() -> None:
    there = Neighbourhood(num_worlds=1)
    host = there.host()
    host.adopt(there.worlds)
    there.mailbox.put(7, epoch=2)
    assert host.run_until({there.worlds[0]: 2}, 60.0).weights == (2, 7)
    there.mailbox.put(9, epoch=1)
    assert host.run_until({there.worlds[0]: 4}, 60.0).weights == (2, 7)


def test_never_more_than_the_allowed_chunks_are_in_flight_and_none_is_dropped() -> None:
    there = Neighbourhood()
    there.sink.slow = True
    host = there.host(max_chunks_in_flight=3)
    host.adopt(there.worlds)
    report = host.run_until(dict.fromkeys(there.worlds, FAR), 5.0)
    assert len(there.sink.chunks) == 3
    assert report.blocked_s > 1
    there.sink.slow = False
    for answer in there.sink.under_way:
        answer.arrived = True
    host.run_until(dict.fromkeys(there.worlds, 60), 60.0)
    host.stop()
    for world in there.worlds:
        assert there.sink.rows_of(world) == list(range(1, 60))


def test_a_chunk_whose_shard_died_is_sent_again() -> None:
    there = Neighbourhood(num_worlds=1)
    there.sink.refusals = [LOST, LOST, LOST]
    host = there.host()
    host.adopt(there.worlds)
    host.run_until({there.worlds[0]: 40}, 60.0)
    host.stop()
    assert sorted(there.sink.rows_of(there.worlds[0])) == list(range(1, 40))


def test_a_full_disk_of_replay_is_told_and_nothing_is_lost_by_it() -> None:
    there = Neighbourhood(num_worlds=1)
    there.sink.refusals = [DiskFull("no space")]
    host = there.host()
    host.adopt(there.worlds)
    with pytest.raises(DiskFull):
        host.run_until({there.worlds[0]: 40}, 60.0)
    host.run_until({there.worlds[0]: 40}, 60.0)
    host.stop()
    assert sorted(there.sink.rows_of(there.worlds[0])) == list(range(1, 40))


def test_a_full_store_is_told_and_the_world_goes_on_when_there_is_room() -> None:
    there = Neighbourhood(num_worlds=1, capacity_bytes=60_000)
    host = there.host()
    host.adopt(there.worlds)
    with pytest.raises(StoreFull):
        for _ in range(1000):
            host.run_until({there.worlds[0]: FAR}, 1.0)
    stood = there.tick_of(there.worlds[0])
    there.store._capacity_bytes = None
    host.run_until({there.worlds[0]: stood + 20}, 60.0)
    assert there.tick_of(there.worlds[0]) == stood + 20


def test_a_world_that_grew_too_large_is_let_go_and_the_others_live(monkeypatch: pytest.MonkeyPatch) -> None:
    there = Neighbourhood()
    large, other = there.worlds
    pack, host = in_process.pack, there.host()
    host.adopt(there.worlds)
    host.run_until(dict.fromkeys(there.worlds, 10), 60.0)

    def too_large(commit: Commit, digest: bytes) -> PackedCommit:
        if commit.token.world == large:
            raise WorldTooLarge("it has grown too large")
        return pack(commit, digest)

    monkeypatch.setattr(in_process, "pack", too_large)
    report = host.run_until(dict.fromkeys(there.worlds, 60), 60.0)
    assert [(lost.world, lost.error) for lost in report.lost] == [(large, "WorldTooLarge")]
    assert report.ticks == {other: 60}
    host.stop()
    assert there.sink.rows_of(large) == list(range(1, 10))


def test_a_world_that_is_lost_while_the_store_does_not_answer_its_commit_is_lost_once() -> None:
    there = Neighbourhood()
    taken, other = there.worlds
    host = there.host()
    host.adopt(there.worlds)
    there.store.silent_before = 10_000
    host.run_until(dict.fromkeys(there.worlds, FAR), 5.0)
    there.clock.sleep(11)
    there.host("other").adopt([taken])
    # Commits are still lost; a renewal is answered.
    assert [(lost.world, lost.error) for lost in host.run_until({}, 1.0).lost] == [(taken, "Fenced")]
    there.store.silent_before = 0
    report = host.run_until({other: 60}, 60.0)
    assert (report.lost, report.ticks) == ((), {other: 60})
    assert there.tick_of(taken) == 0


def test_idle_worlds_keep_their_lease() -> None:
    there = Neighbourhood(num_worlds=1)
    host = there.host()
    host.adopt(there.worlds)
    host.run_until({there.worlds[0]: 2}, 60.0)
    for _ in range(20):
        there.clock.sleep(2.0)
        assert host.run_until({there.worlds[0]: 2}, 0.5).lost == ()
    assert there.store.record(there.worlds[0]).owner == "host-0"


def test_stopping_ends_the_leases_and_leaves_a_keyframe_at_the_last_tick() -> None:
    there = Neighbourhood()
    host = there.host()
    host.adopt(there.worlds)
    host.run_until(dict.fromkeys(there.worlds, 25), 60.0)
    assert host.stop().ticks == {}
    assert [there.store.record(world).owner for world in there.worlds] == ["", ""]
    # Another host need not wait.
    assert there.host("other").adopt(there.worlds).ticks == dict.fromkeys(there.worlds, 25)


def test_a_world_that_another_host_holds_is_reported_and_may_be_asked_for_again() -> None:
    there = Neighbourhood(num_worlds=1)
    there.host("one").adopt(there.worlds)
    other = there.host("two")
    assert [lost.error for lost in other.adopt(there.worlds).lost] == ["LeaseHeld"]
    there.clock.sleep(11)
    assert other.adopt(there.worlds).ticks == {there.worlds[0]: 0}


def test_a_world_of_another_model_or_of_other_agents_is_not_taken_and_the_others_live() -> None:
    there = Neighbourhood()
    strangers = [there.stranger("model", memory_size=MEMORY_SIZE + 1), there.stranger("agents", num_agents=3)]
    host = there.host()
    lost = host.adopt([*there.worlds, *strangers]).lost
    assert [(each.world, each.error) for each in lost] == [(world, "EnvironmentUnusable") for world in strangers]
    there.mailbox.put(1)
    assert host.run_until(dict.fromkeys(there.worlds, 12), 60.0).ticks == dict.fromkeys(there.worlds, 12)


@pytest.mark.parametrize("call", ["acquire", "load"])
@pytest.mark.parametrize(("error", "status"), [(CorruptRecord, "quarantined"), (NewerSchema, "running")])
def test_only_what_is_damaged_is_quarantined(
    error: type[CorruptRecord], status: str, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a newer program wrote is as sound as it was."""
    there = Neighbourhood(num_worlds=1)

    def unreadable(world: WorldId, **_: object) -> None:
        raise error("it cannot be read")

    monkeypatch.setattr(there.store, call, unreadable)
    assert [lost.error for lost in there.host().adopt(there.worlds).lost] == [error.__name__]
    assert there.store.record(there.worlds[0]).status == status


def test_recurrent_memory_is_committed_with_every_tick() -> None:
    there = Neighbourhood(num_worlds=1)
    there.mailbox.put(1)
    host = there.host()
    host.adopt(there.worlds)
    host.run_until({there.worlds[0]: 10}, 60.0)
    ticks = list(there.store.effects(there.worlds[0], 1, 10))
    assert ticks[-1].memory.shape == (NUM_AGENTS, MEMORY_SIZE)
    assert ticks[-1].memory.any()


def test_worlds_that_were_adopted_together_write_their_keyframes_one_after_the_other() -> None:
    there = Neighbourhood(num_worlds=4)
    host = there.host(keyframe_every_ticks=10, max_keyframes_per_commit=1, commit_every_s=0.001)
    host.adopt(there.worlds)
    host.run_until(dict.fromkeys(there.worlds, 60), 60.0)
    keyframed = [[commit.token.world for commit in sent if commit.keyframe is not None] for sent in there.store.sent]
    assert max(map(len, keyframed)) == 1
    assert {world for worlds in keyframed for world in worlds} == set(there.worlds), "some world never got its turn"


def test_worlds_with_a_pace_tick_as_a_batch() -> None:
    there = Neighbourhood(num_worlds=3)
    host = there.host(grounded_ticks_per_s=10.0, credit_items=60)
    for world in there.worlds:
        host.adopt([world])
        there.clock.sleep(0.002)
    report = host.run_until(dict.fromkeys(there.worlds, FAR), 3.0)
    assert len(report.tick_s) < 1.5 * max(report.ticks.values()), "worlds of one pace were ticked one by one"
    assert all(25 <= tick <= 33 for tick in report.ticks.values())
