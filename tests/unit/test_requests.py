"""Requests from outside meet one tick each, in order, through any death of their host."""

import numpy as np
import pytest

from actors.requests import NO_REQUEST, WorldRequests
from tests.host_cases import NUM_AGENTS, Neighbourhood
from world.store.inbox import InboxProgress, Posted, Request, RequestResult

FAR = 10_000


def posted(*requests: Request | None) -> list[Posted]:
    return [Posted(f"1-{number}", request) for number, request in enumerate(requests, start=1)]


def test_each_request_meets_one_tick_and_an_agents_second_waits_for_the_next() -> None:
    queue = WorldRequests(InboxProgress())
    queue.take_in(posted(Request("a", 0, 3), Request("b", 1, 2), Request("c", 0, 1)))
    assert queue.read_up_to == "1-3"
    first = queue.joint_action(7, num_agents=3, num_actions=5)
    assert first is not None
    assert first.tolist() == [3, 2, NO_REQUEST]
    assert queue.progress() == InboxProgress("1-2", (RequestResult("a", 7, True), RequestResult("b", 7, True)))
    second = queue.joint_action(8, num_agents=3, num_actions=5)
    assert second is not None
    assert second.tolist() == [1, NO_REQUEST, NO_REQUEST]
    queue.acknowledged()
    assert queue.progress() is None
    assert queue.joint_action(9, num_agents=3, num_actions=5) is None


def test_what_cannot_be_done_is_refused_and_moves_the_cursor() -> None:
    queue = WorldRequests(InboxProgress())
    queue.take_in(posted(Request("a", 9, 0), Request("b", 0, 5), None))
    assert queue.joint_action(1, num_agents=2, num_actions=5) is None
    assert queue.progress() == InboxProgress("1-3", (RequestResult("a", 1, False), RequestResult("b", 1, False)))


def test_an_id_that_was_answered_before_is_passed_over() -> None:
    queue = WorldRequests(InboxProgress("1-4", (RequestResult("a", 3, True),)))
    queue.take_in(
        [Posted("1-5", Request("a", 0, 1)), Posted("1-6", Request("b", 1, 1)), Posted("1-7", Request("b", 1, 1))]
    )
    actions = queue.joint_action(9, num_agents=2, num_actions=5)
    assert actions is not None
    assert actions.tolist() == [NO_REQUEST, 1]
    assert queue.progress() == InboxProgress("1-7", (RequestResult("b", 9, True),))


def test_agents_do_what_is_asked_of_them_and_the_policy_moves_the_others() -> None:
    there = Neighbourhood(num_worlds=1)
    (world,) = there.worlds
    host = there.host(inbox_every_s=0.001)
    host.adopt([world])
    host.run_until({world: 5}, 60.0)
    inbox = there.store.inbox()
    inbox.post(world, [Request(f"r{number}", 0, number % 3) for number in range(6)])
    host.run_until({world: 30}, 60.0)
    results = [inbox.result(world, f"r{number}") for number in range(6)]
    assert all(result is not None and result.applied for result in results)
    effects = {tick.tick: tick for tick in there.store.effects(world, 1, 30)}
    ticks = [result.tick for result in results if result is not None]
    assert ticks == sorted(set(ticks)), "two requests of one agent met one tick"
    assert [int(effects[tick].actions[0]) for tick in ticks] == [number % 3 for number in range(6)]
    assert len(np.unique([effects[tick].actions[1] for tick in range(2, 31)])) > 1, "the other agent stood still"


def test_dreamed_agents_do_what_is_asked_of_them() -> None:
    there = Neighbourhood(num_worlds=1)
    host = there.host(inbox_every_s=0.001)
    host.adopt(there.worlds)
    host.run_until({there.worlds[0]: 3}, 60.0)
    dream = there.fork(there.worlds[0], "dream")
    there.mailbox.put(1)
    host.adopt([dream])
    there.store.inbox().post(dream, [Request("r", NUM_AGENTS - 1, 2)])
    host.run_until({dream: FAR}, 2.0)
    result = there.store.inbox().result(dream, "r")
    assert result is not None
    (effects,) = there.store.effects(dream, result.tick, result.tick)
    assert effects.actions[NUM_AGENTS - 1] == 2


@pytest.mark.parametrize("silence", ["before", "after"])
def test_a_host_that_is_killed_between_reading_and_the_answer_applies_each_request_once(silence: str) -> None:
    there = Neighbourhood(num_worlds=1)
    (world,) = there.worlds
    host = there.host(inbox_every_s=0.001)
    host.adopt([world])
    host.run_until({world: 5}, 60.0)
    inbox = there.store.inbox()
    inbox.post(world, [Request(f"r{number}", 1, number % 3) for number in range(4)])
    setattr(there.store, f"silent_{silence}", 10_000)
    host.run_until({world: 12}, 2.0)
    setattr(there.store, f"silent_{silence}", 0)
    # Killed: nothing of it runs any further. A client that heard nothing posts once more.
    inbox.post(world, [Request(f"r{number}", 1, number % 3) for number in range(4)])
    there.clock.sleep(11)
    heir = there.host("heir", inbox_every_s=0.001)
    heir.adopt([world])
    heir.run_until({world: 40}, 60.0)
    results = inbox.progress(world).results
    assert sorted(result.request_id for result in results) == ["r0", "r1", "r2", "r3"]
    assert len({result.tick for result in results}) == 4
    effects = {tick.tick: tick for tick in there.store.effects(world, 1, 40)}
    for result in results:
        assert effects[result.tick].actions[1] == int(result.request_id[1:]) % 3
