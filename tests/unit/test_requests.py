"""Requests from outside meet one tick each, in order, through any death of their host."""

import numpy as np
import pytest

from actors.requests import NO_REQUEST, WorldRequests
from tests.host_cases import NUM_AGENTS, Neighbourhood
from world.event import WorldEvent
from world.store.inbox import AnyRequest, InboxProgress, Posted, Prompt, Request, RequestResult

FAR = 10_000


def posted(*requests: AnyRequest | None) -> list[Posted]:
    return [Posted(f"1-{number}", request) for number, request in enumerate(requests, start=1)]


def test_each_request_meets_one_tick_and_an_agents_second_waits_for_the_next() -> None:
    queue = WorldRequests(InboxProgress())
    queue.take_in(posted(Request("a", 0, 3), Request("b", 1, 2), Request("c", 0, 1)))
    assert queue.read_up_to == "1-3"
    first = queue.asked(7, num_agents=3, num_actions=5)
    assert first.actions.tolist() == [3, 2, NO_REQUEST]
    assert queue.progress() == InboxProgress("1-2", (RequestResult("a", 7, True), RequestResult("b", 7, True)))
    second = queue.asked(8, num_agents=3, num_actions=5)
    assert second.actions.tolist() == [1, NO_REQUEST, NO_REQUEST]
    queue.acknowledged()
    assert queue.progress() is None
    third = queue.asked(9, num_agents=3, num_actions=5)
    assert third.actions.tolist() == [NO_REQUEST] * 3 and third.events == []


def test_what_cannot_be_done_is_refused_and_moves_the_cursor() -> None:
    queue = WorldRequests(InboxProgress())
    queue.take_in(posted(Request("a", 9, 0), Request("b", 0, 5), None))
    assert queue.asked(1, num_agents=2, num_actions=5).actions.tolist() == [NO_REQUEST] * 2
    assert queue.progress() == InboxProgress("1-3", (RequestResult("a", 1, False), RequestResult("b", 1, False)))


def test_an_id_that_was_answered_before_is_passed_over() -> None:
    queue = WorldRequests(InboxProgress("1-4", (RequestResult("a", 3, True),)))
    queue.take_in(
        [Posted("1-5", Request("a", 0, 1)), Posted("1-6", Request("b", 1, 1)), Posted("1-7", Request("b", 1, 1))]
    )
    asked = queue.asked(9, num_agents=2, num_actions=5)
    assert asked.actions.tolist() == [NO_REQUEST, 1]
    assert queue.progress() == InboxProgress("1-7", (RequestResult("b", 9, True),))


def test_a_tick_takes_four_events_and_the_fifth_waits_with_all_that_came_later() -> None:
    queue = WorldRequests(InboxProgress())
    events = [WorldEvent(1 + number % 2, number, -number) for number in range(5)]
    prompts = [Prompt(f"e{number}", event) for number, event in enumerate(events)]
    queue.take_in(posted(prompts[0], Request("a", 0, 1), *prompts[1:], Request("b", 1, 2)))
    first = queue.asked(7, num_agents=2, num_actions=5, num_events=2)
    assert first.actions.tolist() == [1, NO_REQUEST] and first.events == events[:4]
    assert queue.num_waiting == 2
    second = queue.asked(8, num_agents=2, num_actions=5, num_events=2)
    assert second.actions.tolist() == [NO_REQUEST, 2] and second.events == events[4:]
    progress = queue.progress()
    assert progress is not None and [result.tick for result in progress.results] == [7] * 5 + [8] * 2
    assert all(result.applied for result in progress.results)


def test_an_event_that_the_world_has_not_is_refused() -> None:
    for num_events, applied in ((0, False), (2, False), (3, True)):
        queue = WorldRequests(InboxProgress())
        queue.take_in(posted(Prompt("e", WorldEvent(3, 5, 5))))
        asked = queue.asked(4, num_agents=2, num_actions=5, num_events=num_events)
        assert bool(asked.events) == applied
        assert queue.progress() == InboxProgress("1-1", (RequestResult("e", 4, applied),))


def test_events_befall_the_world_they_were_posted_to_once() -> None:
    there = Neighbourhood(num_worlds=2)
    world, other = there.worlds
    host = there.host(inbox_every_s=0.001)
    host.adopt([world, other])
    host.run_until({world: 5, other: 5}, 60.0)
    inbox = there.store.inbox()
    prompts = [Prompt(f"e{number}", WorldEvent(1 + number % 4, number, 1000)) for number in range(6)]
    for _ in range(2):
        inbox.post(world, [*prompts, Prompt("unknown", WorldEvent(5, 1, 1))])
    host.run_until({world: 30, other: 30}, 60.0)
    told = {result.request_id: result for result in inbox.progress(world).results}
    assert [told[f"e{number}"].applied for number in range(6)] == [True] * 6 and not told["unknown"].applied
    logged = [
        (tick.tick, tuple(event))
        for tick in there.store.effects(world, 1, 30)
        for event in tick.events.tolist()
        if event[2] == 1000
    ]
    assert logged == [(told[prompt.request_id].tick, tuple(prompt.event)) for prompt in prompts]
    assert told["e4"].tick == told["e0"].tick + 1
    assert not any(1000 in tick.events for tick in there.store.effects(other, 1, 30))


def test_an_event_waits_for_the_reset_of_a_new_world() -> None:
    there = Neighbourhood(num_worlds=1)
    (world,) = there.worlds
    there.store.inbox().post(world, [Prompt("e", WorldEvent(2, 5, 5))])
    host = there.host(inbox_every_s=0.001)
    host.adopt([world])
    host.run_until({world: 3}, 60.0)
    assert there.store.inbox().result(world, "e") == RequestResult("e", 2, True)


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


def test_dreamed_worlds_do_what_is_asked_of_them() -> None:
    there = Neighbourhood(num_worlds=1)
    host = there.host(inbox_every_s=0.001)
    host.adopt(there.worlds)
    host.run_until({there.worlds[0]: 3}, 60.0)
    dream = there.fork(there.worlds[0], "dream")
    there.mailbox.put(1)
    host.adopt([dream])
    there.store.inbox().post(dream, [Request("r", NUM_AGENTS - 1, 2), Prompt("e", WorldEvent(2, 5, 5))])
    host.run_until({dream: FAR}, 2.0)
    result = there.store.inbox().result(dream, "r")
    assert result is not None
    (effects,) = there.store.effects(dream, result.tick, result.tick)
    assert effects.actions[NUM_AGENTS - 1] == 2 and effects.events.tolist() == [[2, 5, 5]]
    assert there.store.inbox().result(dream, "e") == RequestResult("e", result.tick, True)


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
