"""The supervisor keeps every world on a host and every process at work, whatever dies, hangs or refuses."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from actors.ports import Call, HostReport, Lost
from cluster.guests import Guests
from cluster.supervisor import Supervisor
from cluster.supervisor_config import SupervisorConfig
from cluster.worlds import PlannedWorld
from learner.learner import Evaluation
from tests.fleet_cases import FAILURE, FakeFleet, Witness
from tests.host_cases import Clock
from world.errors import CorruptRecord, DiskFull, LivingWorldsError, StoreError, StoreFull, StoreUnavailable
from world.snapshot import WorldId
from world.store.records import WorldRecord

CONFIG = SupervisorConfig(call_s=0.5, stall_after_s=5.0, host_lost_after_s=8.0, stop_within_s=10.0)


class Stage:
    """A supervisor over fakes."""

    def __init__(self, *, num_worlds: int = 6, num_hosts: int = 2, num_dreams: int = 0) -> None:
        self.clock = Clock(look_s=0.0)
        hosts, shards = [f"host-{i}" for i in range(num_hosts)], ["replay-0", "replay-1"]
        self.fleet = FakeFleet(self.clock, hosts=hosts, shards=shards)
        self.worlds = [WorldId(f"w{i}") for i in range(num_worlds)]
        self.dreams = [
            PlannedWorld(WorldId(f"d{i}"), f"dream-{i}", "dreamed", i, self.worlds[i]) for i in range(num_dreams)
        ]
        self.witness = Witness()
        self.forked: list[WorldId] = []
        self.records: list[WorldRecord] = []
        self.store_away = False
        self.unforkable: dict[WorldId, StoreError] = {}
        """Dreams whose parents are no more, and what a fork of them meets."""
        self.ensured_store = 0
        self.supervisor = Supervisor(
            CONFIG,
            fleet=self.fleet,
            hosts=hosts,
            shards=shards,
            worlds=self.worlds,
            dreams=self.dreams,
            fork=self.fork,
            ensure_store=self.ensure_store,
            observers=(self.witness,),
            newcomers=Guests(
                lambda: self.records, env="homestead", tokenizer="t", descendants_only=True, clock=self.clock
            ).newcomers,
            clock=self.clock,
        )

    def fork(self, dream: PlannedWorld) -> int:
        """Fork, if the store is there."""
        if self.store_away:
            raise StoreUnavailable("no answer")
        if dream.world in self.unforkable:
            raise self.unforkable[dream.world]
        self.forked.append(dream.world)
        return 7

    def ensure_store(self) -> bool:
        """Bring it back."""
        self.ensured_store += 1
        was_away, self.store_away = self.store_away, False
        return was_away

    def live(self, seconds: float) -> None:
        """Take turns for this long."""
        ends_at = self.clock.now + seconds
        while self.clock.now < ends_at:
            self.supervisor.step()

    def hosted(self) -> set[WorldId]:
        """Return the worlds that are on some host."""
        return set().union(*self.fleet.hosted().values())


def test_every_world_is_hosted_once_and_hosts_share_them_evenly() -> None:
    stage = Stage(num_worlds=7)
    stage.live(3)
    assert stage.hosted() == set(stage.worlds)
    assert sorted(len(worlds) for worlds in stage.fleet.hosted().values()) == [3, 4]


def test_a_process_has_never_more_than_one_call_under_way() -> None:
    stage = Stage()
    stage.live(10)
    assert stage.fleet.most_under_way <= len(stage.fleet.processes)


@pytest.mark.parametrize("name", ["host-0", "learner", "replay-1", "limiter", "weights"])
def test_a_process_that_dies_is_made_again_counted_and_goes_on(name: str) -> None:
    stage = Stage()
    stage.live(3)
    stage.fleet.processes[name].die()
    stage.live(5)
    assert stage.fleet.processes[name].alive
    assert stage.witness.restarts == [name]
    assert stage.hosted() == set(stage.worlds)
    before = len(stage.witness.reports)
    stage.live(3)
    assert len(stage.witness.reports) > before


def test_worlds_of_a_host_that_does_not_come_back_go_to_the_others_and_some_return_with_it() -> None:
    stage = Stage()
    stage.live(3)
    stage.fleet.unplaceable = {"host-0"}
    stage.fleet.processes["host-0"].die()
    stage.live(CONFIG.host_lost_after_s + 5)
    assert stage.fleet.hosted()["host-1"] == set(stage.worlds)
    stage.fleet.unplaceable = set()
    stage.live(10)
    assert [len(worlds) for worlds in stage.fleet.hosted().values()] == [3, 3]
    assert stage.hosted() == set(stage.worlds)


def test_a_process_that_hangs_is_killed_by_its_pid_and_replaced() -> None:
    stage = Stage()
    stage.live(3)
    hanging = stage.fleet.processes["host-0"]
    pid, hanging.stuck = hanging.pid, True
    stage.live(CONFIG.stall_after_s + 5)
    assert stage.fleet.killed == [("host-0", pid)]
    assert stage.hosted() == set(stage.worlds)


def test_a_slow_answer_is_no_stall() -> None:
    stage = Stage()
    stage.live(3)
    slow = stage.fleet.processes["learner"]
    slow.stuck = True
    stage.live(CONFIG.stall_after_s - 1)
    slow.stuck = False
    stage.live(5)
    assert stage.fleet.killed == []


def test_dreams_are_forked_once_the_gate_is_passed_and_not_before() -> None:
    stage = Stage(num_dreams=2)
    stage.live(3)
    stage.fleet.evaluation = Evaluation(10, {}, passed_gate=False)
    stage.live(3)
    assert stage.forked == []
    stage.fleet.evaluation = Evaluation(20, {}, passed_gate=True)
    stage.live(3)
    stage.fleet.evaluation = Evaluation(30, {}, passed_gate=False)
    stage.live(3)
    assert stage.forked == ["d0", "d1"]
    assert {"d0", "d1"} <= stage.hosted()


def test_a_fork_that_finds_no_store_is_tried_again_after_the_store_is_back() -> None:
    stage = Stage(num_dreams=1)
    stage.store_away = True
    stage.fleet.evaluation = Evaluation(20, {}, passed_gate=True)
    stage.live(3)
    assert stage.forked == ["d0"]
    assert stage.ensured_store


def test_a_dream_whose_parent_is_damaged_is_told_of_and_the_others_are_dreamed() -> None:
    stage = Stage(num_dreams=3)
    stage.unforkable[WorldId("d1")] = CorruptRecord("world 'w1': it does not verify")
    stage.fleet.evaluation = Evaluation(20, {}, passed_gate=True)
    stage.live(3)
    assert stage.forked == ["d0", "d2"]
    assert sum("dream-1 cannot be dreamed: world 'w1'" in event for event in stage.witness.events) == 1


def test_a_store_without_room_for_a_dream_ends_the_run() -> None:
    stage = Stage(num_dreams=1)
    stage.unforkable[WorldId("d0")] = StoreFull("no memory left")
    stage.fleet.evaluation = Evaluation(20, {}, passed_gate=True)
    with pytest.raises(StoreFull):
        stage.live(3)


@pytest.mark.parametrize("error", ["CorruptRecord", "NewerSchema", "WorldTooLarge"])
def test_a_world_that_cannot_be_hosted_is_left_out_with_its_reason_and_the_others_live(error: str) -> None:
    stage = Stage()
    broken = stage.worlds[0]
    stage.fleet.cannot_host[broken] = Lost(broken, error, "tick 4 fails its checksum")
    stage.live(5)
    assert stage.hosted() == set(stage.worlds[1:])
    assert any("tick 4 fails its checksum" in event for event in stage.witness.events)
    assert sum(method == "adopt" for _, method in stage.fleet.asked) <= 4, "it was asked for again and again"


def test_a_world_that_another_still_holds_is_asked_for_again() -> None:
    stage = Stage()
    held = stage.worlds[0]
    stage.fleet.cannot_host[held] = Lost(held, "LeaseHeld", "another holds it")
    stage.live(5)
    del stage.fleet.cannot_host[held]
    stage.live(5)
    assert stage.hosted() == set(stage.worlds)


def test_a_run_without_a_world_left_ends_with_the_reasons() -> None:
    stage = Stage(num_worlds=1)
    world = stage.worlds[0]
    stage.fleet.cannot_host[world] = Lost(world, "EnvironmentUnusable", "crafter is not installed")
    with pytest.raises(LivingWorldsError, match="crafter is not installed"):
        stage.live(5)


def test_a_full_disk_ends_the_run_and_everybody_is_stopped_all_the_same() -> None:
    stage = Stage()
    stage.live(3)
    stage.fleet.processes["learner"].refusals = [DiskFull("no space on /here")]
    with pytest.raises(DiskFull):
        stage.live(5)
    stage.supervisor.stop()
    assert ("host-0", "stop") in stage.fleet.asked
    assert ("learner", "stop") in stage.fleet.asked


def test_a_process_that_met_a_mistake_of_ours_is_made_anew_and_one_that_does_so_again_and_again_ends_the_run() -> None:
    stage = Stage()
    stage.live(3)
    stage.fleet.processes["host-0"].refusals = [FAILURE]
    stage.live(5)
    assert stage.hosted() == set(stage.worlds)
    assert len(stage.fleet.killed) == 1
    stage.fleet.processes["host-0"].fails_at_work = True
    with pytest.raises(LivingWorldsError, match="host-0 fails again and again: KeyError"):
        stage.live(30)
    assert len(stage.fleet.killed) == 1 + CONFIG.failures_in_a_row


def test_stopping_goes_in_order_hosts_then_what_is_owed_then_the_checkpoint_then_the_shards() -> None:
    stage = Stage()
    stage.live(3)
    stage.fleet.owed_steps = 6
    before = len(stage.fleet.asked)
    stage.supervisor.stop()
    order = stage.fleet.asked[before:]
    at = {call: index for index, call in enumerate(order)}
    assert at["host-0", "stop"] < at["limiter", "drain"] < at["learner", "stop"] < at["replay-0", "close"]
    assert stage.fleet.owed_steps == 0
    assert not stage.hosted()


def test_stopping_passes_over_whoever_hangs() -> None:
    stage = Stage()
    stage.live(3)
    stage.fleet.processes["host-1"].stuck = True
    began = stage.clock.now
    stage.supervisor.stop()
    assert stage.clock.now - began <= CONFIG.stop_within_s + 2
    assert ("learner", "stop") in stage.fleet.asked
    assert any("host-1 did not stop in time" in event for event in stage.witness.events)


def test_a_host_that_is_slow_to_answer_is_stopped_in_order_all_the_same() -> None:
    stage = Stage()
    stage.live(3)
    slow, answers_at, wait = stage.fleet.processes["host-1"], stage.clock.now + 4, stage.fleet.wait
    slow.stuck = True

    def waiting(calls: Sequence[Call[object]], timeout_s: float) -> None:
        wait(calls, timeout_s)
        slow.stuck = stage.clock.now < answers_at

    stage.fleet.wait = waiting  # type: ignore[method-assign]
    stage.supervisor.stop()
    order = stage.fleet.asked
    assert order.index(("host-0", "stop")) < order.index(("host-1", "stop")) < order.index(("learner", "stop"))
    assert not stage.hosted()


def test_stopping_tells_the_first_refusal_after_everything_was_tried() -> None:
    stage = Stage()
    stage.live(3)
    stage.fleet.processes["host-0"].refusals = [DiskFull("no space on /here")]
    with pytest.raises(DiskFull):
        stage.supervisor.stop()
    assert ("replay-1", "close") in stage.fleet.asked


def test_an_embedded_server_that_is_away_is_brought_back_as_soon_as_a_host_misses_it() -> None:
    stage = Stage(num_hosts=1)
    stage.live(3)
    stage.store_away = True
    asked = stage.fleet._host_report

    def missing_the_store(*arguments: object) -> HostReport:
        report = asked(*arguments)  # type: ignore[arg-type]
        missing = {"store_away_s": 0.4, "store_silent": True}
        return HostReport(**{name: getattr(report, name) for name in report.__slots__} | missing)

    stage.fleet._host_report = missing_the_store  # type: ignore[method-assign]
    stage.live(3)
    assert not stage.store_away
    assert any("away and is back" in event for event in stage.witness.events)


def _record(world: str, **fields: object) -> WorldRecord:
    default = WorldRecord(
        world=WorldId(world),
        name=world,
        kind="dreamed",
        env="homestead",
        agents=4,
        tick=3,
        status="running",
        owner="",
        epoch=1,
        weights_version=1,
        tokenizer="t",
        parent=WorldId("w0"),
    )
    return replace(default, **fields)  # type: ignore[arg-type]


def test_a_world_that_people_fork_is_hosted_soon_and_once() -> None:
    stage = Stage()
    stage.live(3)
    stage.records = [_record("guest"), _record("w1")]
    stage.live(12)
    assert stage.hosted() == {*stage.worlds, WorldId("guest")}
    assert stage.witness.guests == ["guest"]
    # What is archived: on a server of others, theirs is not.
    assert set(stage.supervisor.worlds) == {*stage.worlds, WorldId("guest")}


def test_a_damaged_world_is_hosted_again_once_it_is_repaired_and_its_forks_are_meanwhile() -> None:
    stage = Stage()
    damaged, unusable, *others = stage.worlds
    stage.fleet.cannot_host[damaged] = Lost(damaged, "CorruptRecord", "tick 4 fails its checksum")
    stage.fleet.cannot_host[unusable] = Lost(unusable, "EnvironmentUnusable", "it is of another model")
    stage.records = [
        _record(damaged, kind="grounded", parent=None, status="quarantined"),
        _record(unusable, kind="grounded", parent=None),
        _record("fork", parent=damaged),
    ]
    stage.live(12)
    assert stage.hosted() == {*others, WorldId("fork")}
    del stage.fleet.cannot_host[damaged]
    stage.records[0] = replace(stage.records[0], status="running")
    stage.live(12)
    assert stage.hosted() == {damaged, *others, WorldId("fork")}
    assert sum(f"world {unusable}" in event for event in stage.witness.events) == 1


def test_worlds_that_are_not_for_this_run_are_left_alone() -> None:
    stage = Stage()
    stage.records = [
        _record("paused", status="paused"),
        _record("held", owner="host-of-another-run"),
        _record("elsewhere", env="crafter"),
        _record("other-words", tokenizer="u"),
        _record("stranger", parent=None),
    ]
    stage.live(12)
    assert stage.hosted() == set(stage.worlds)
