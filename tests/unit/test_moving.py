"""Worlds go where people want them, stay where hosts are, and wait out a silent store with nobody else waiting."""

import threading
import time
from collections.abc import Mapping, Sequence

import pytest

from actors.ports import HostReport
from cluster.assignment import Assignment
from cluster.store_watch import InBackground, StoreWatch
from cluster.supervisor import Supervisor
from cluster.supervisor_config import SupervisorConfig
from tests.fleet_cases import FakeFleet, Witness
from tests.host_cases import Clock
from world.errors import DiskFull, StoreUnavailable
from world.snapshot import WorldId

CONFIG = SupervisorConfig(call_s=0.5, stall_after_s=5.0, host_lost_after_s=4.0, stop_within_s=10.0)
HOSTS = ["host-0", "host-1"]


class Stage:
    """A supervisor over fakes, and people's wishes."""

    def __init__(self, num_worlds: int = 4) -> None:
        self.clock = Clock(look_s=0.0)
        self.fleet = FakeFleet(self.clock, hosts=HOSTS, shards=["replay-0"])
        self.worlds = [WorldId(f"w{i}") for i in range(num_worlds)]
        self.wishes: dict[WorldId, str] = {}
        self.store_silent = False
        self.witness = Witness()
        self.supervisor = Supervisor(
            CONFIG,
            fleet=self.fleet,
            hosts=HOSTS,
            shards=["replay-0"],
            worlds=self.worlds,
            dreams=[],
            fork=lambda dream: 0,
            ensure_store=lambda: False,
            observers=(self.witness,),
            wished_places=self.wished,
            clock=self.clock,
        )

    def wished(self, worlds: Sequence[WorldId]) -> Mapping[WorldId, str]:
        """Return the wishes, if the store answers."""
        if self.store_silent:
            raise StoreUnavailable("no answer")
        return {world: self.wishes.get(world, "") for world in worlds}

    def live(self, seconds: float) -> None:
        """Take turns for this long."""
        ends_at = self.clock.now + seconds
        while self.clock.now < ends_at:
            self.supervisor.step()


def test_a_world_moves_to_where_it_is_wanted_and_is_never_asked_for_while_another_has_it() -> None:
    stage = Stage()
    stage.live(3)
    world = next(iter(stage.fleet.hosted()["host-0"]))
    before = len(stage.fleet.asked)
    stage.wishes[world] = "host-1"
    stage.live(4)
    assert world in stage.fleet.hosted()["host-1"]
    moves = [call for call in stage.fleet.asked[before:] if call[1] in ("drop", "adopt")]
    assert moves == [("host-0", "drop"), ("host-1", "adopt")]


def test_a_moved_world_leaves_a_host_that_dies_and_returns_with_it() -> None:
    stage = Stage()
    stage.live(3)
    for world in stage.worlds:
        stage.wishes[world] = "host-1"
    stage.live(4)
    assert stage.fleet.hosted()["host-1"] == set(stage.worlds)
    stage.fleet.unplaceable = {"host-1"}
    stage.fleet.processes["host-1"].die()
    stage.live(CONFIG.host_lost_after_s + 4)
    assert stage.fleet.hosted()["host-0"] == set(stage.worlds)
    stage.fleet.unplaceable = set()
    stage.live(8)
    assert stage.fleet.hosted()["host-1"] == set(stage.worlds)


def test_wishes_for_what_does_not_exist_are_passed_over_and_wishes_can_be_taken_back() -> None:
    assignment = Assignment(HOSTS)
    for number in range(4):
        assignment.add(WorldId(f"w{number}"))
    assignment.wish(WorldId("nobody"), "host-0")
    assignment.wish(WorldId("w0"), "host-9")
    assert [len(assignment.orders(host).adopt) for host in HOSTS] == [2, 2]
    assignment.wish(WorldId("w0"), "host-1")
    assert WorldId("w0") in assignment.orders("host-1").adopt
    assignment.wish(WorldId("w0"), "")
    assignment.set_available("host-0", False)
    assignment.set_available("host-0", True)
    assert [len(assignment.orders(host).adopt) for host in HOSTS] == [2, 2]


def test_a_silent_store_is_told_once_asked_rarely_and_told_when_it_is_back() -> None:
    stage = Stage()
    stage.live(3)
    asked, wished = stage.fleet._host_report, [0]
    stage.store_silent = True

    def silent(*arguments: object) -> HostReport:
        report = asked(*arguments)  # type: ignore[arg-type]
        away = {"store_away_s": 0.4, "store_silent": True} if stage.store_silent else {"commit_s": (0.01,)}
        return HostReport(**{name: getattr(report, name) for name in report.__slots__} | away)

    def counted(worlds: Sequence[WorldId]) -> Mapping[WorldId, str]:
        wished[0] += 1
        return stage.wished(worlds)

    stage.fleet._host_report = silent  # type: ignore[method-assign]
    stage.supervisor._wished_places = counted
    steps = stage.fleet.steps
    stage.live(20)
    assert wished[0] <= 1, "a silent store keeps whoever asks it waiting"
    assert stage.fleet.steps - steps > 100, "the learner was kept waiting"
    stage.store_silent = False
    stage.live(3)
    assert [event for event in stage.witness.events if "the store" in event] == [
        "the store does not answer: worlds pause until it does",
        "the store answers again: worlds go on",
    ]


def test_a_silence_that_ends_within_one_call_of_a_host_is_told_from_its_beginning_to_its_end() -> None:
    stage = Stage()
    stage.live(3)
    asked = stage.fleet._host_report

    def waited(*arguments: object) -> HostReport:
        report = asked(*arguments)  # type: ignore[arg-type]
        waited_once = {"store_away_s": 0.4, "commit_s": (0.01,)}
        return HostReport(**{name: getattr(report, name) for name in report.__slots__} | waited_once)

    stage.fleet._host_report = waited  # type: ignore[method-assign]
    stage.live(1)
    assert [event for event in stage.witness.events if "the store" in event][:2] == [
        "the store does not answer: worlds pause until it does",
        "the store answers again: worlds go on",
    ]


def test_a_host_that_cannot_adopt_while_the_store_is_silent_is_asked_again_and_ends_no_run() -> None:
    stage = Stage()
    stage.fleet.processes["host-0"].refusals = [StoreUnavailable("no answer")] * 5
    stage.live(8)
    assert set().union(*stage.fleet.hosted().values()) == set(stage.worlds)
    assert sum(call == ("host-0", "adopt") for call in stage.fleet.asked) >= 6


def test_a_restart_in_the_background_keeps_nobody_waiting_and_is_reported_once() -> None:
    begun, let_go, calls = threading.Event(), threading.Event(), []

    def hanging() -> bool:
        calls.append(1)
        begun.set()
        let_go.wait()
        return True

    ensure = InBackground(hanging)
    assert not ensure()
    assert begun.wait(600)
    assert [ensure() for _ in range(5)] == [None] * 5
    assert len(calls) == 1
    let_go.set()
    answers = []
    while not answers or not answers[-1]:
        answers.append(ensure())
        time.sleep(0.001)
    assert answers.count(True) == 1
    assert len(calls) == 1


def test_a_server_that_is_back_before_anybody_missed_it_again_is_told_of() -> None:
    told: list[str] = []
    restarted = iter([False, True])
    watch = StoreWatch(lambda: next(restarted), told.append)
    assert not watch.missed()
    watch.answered()
    assert told == [
        "the store does not answer: worlds pause until it does",
        "the embedded server was away and is back",
        "the store answers again: worlds go on",
    ]


def test_a_restart_that_has_its_outcome_only_after_the_store_answers_again_is_told_of_and_no_other_begun() -> None:
    told: list[str] = []
    outcomes = iter([None, None, None, True])
    watch = StoreWatch(lambda: next(outcomes), told.append)
    assert not watch.missed()
    for _ in range(6):
        watch.answered()
    assert told == [
        "the store does not answer: worlds pause until it does",
        "the store answers again: worlds go on",
        "the embedded server was away and is back",
    ]


@pytest.mark.parametrize("error", [StoreUnavailable("it hangs"), DiskFull("no space")])
def test_a_restart_that_fails_is_tried_again_unless_it_never_can(error: Exception) -> None:
    calls = []

    def failing() -> bool:
        calls.append(1)
        raise error

    ensure = InBackground(failing)
    try:
        while len(calls) < 3:
            assert not ensure()
        assert isinstance(error, StoreUnavailable)
    except DiskFull:
        assert isinstance(error, DiskFull)
