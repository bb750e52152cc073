"""Hidden switches: nothing shows whether one was thrown, and everything at the gate depends on it."""

from itertools import pairwise

import numpy as np
import pytest

from tests.unit.test_homestead_rules import EAST, Meadow, thing_at
from world.envs.catalog import make_env, make_policy
from world.envs.homestead.config import HomesteadConfig
from world.envs.homestead.grounded import HomesteadGrounded
from world.envs.homestead.render import view_codes
from world.envs.homestead.rules import Simulation
from world.envs.homestead.tiles import Action, Thing

NAME = "homestead-hidden:24x24x1"


def _before_a_switch() -> Meadow:
    """Two agents: one before a switch, one before the gate below it."""
    meadow = Meadow((5, 4, EAST), (6, 4, EAST), hidden_switches=True)
    return meadow.put(Thing.SWITCH_OFF, (5, 5)).put(Thing.GATE_CLOSED, (6, 5))


def test_a_thrown_switch_looks_as_before_and_moves_nothing() -> None:
    thrown, idle = _before_a_switch().start(), _before_a_switch().start()
    thrown.step([Action.USE, Action.NOOP])
    idle.step([Action.NOOP, Action.NOOP])
    assert thing_at(thrown, 5, 5) == Thing.SWITCH_ON and thing_at(idle, 5, 5) == Thing.SWITCH_OFF
    assert np.array_equal(view_codes(thrown), view_codes(idle)) and not len(thrown.changes)
    assert thing_at(thrown, 6, 5) == Thing.GATE_CLOSED
    assert thrown.to_bytes() != idle.to_bytes()


def test_a_gate_opens_for_who_tries_it_after_the_switch_was_thrown_and_only_once() -> None:
    world = _before_a_switch().start()
    world.step([Action.NOOP, Action.USE])
    assert thing_at(world, 6, 5) == Thing.GATE_CLOSED, "it was not thrown"
    world.step([Action.USE, Action.NOOP])
    world.step([Action.USE, Action.NOOP])
    assert thing_at(world, 5, 5) == Thing.SWITCH_ON, "throwing it twice is throwing it"
    world.step([Action.NOOP, Action.USE])
    assert thing_at(world, 6, 5) == Thing.GATE_OPEN
    assert world.changes.tolist() == [[6, 5, 1]], "the switch springs back unseen"
    world.step([Action.NOOP, Action.USE])
    assert thing_at(world, 6, 5) == Thing.GATE_CLOSED, "an open gate can be shut by hand"
    world.step([Action.NOOP, Action.USE])
    assert thing_at(world, 6, 5) == Thing.GATE_CLOSED, "the switch sprang back"


def test_a_saved_world_keeps_what_it_does_not_show() -> None:
    world = _before_a_switch().start()
    world.step([Action.USE, Action.NOOP])
    again = Simulation.from_bytes(world.config, world.to_bytes())
    assert np.array_equal(view_codes(again), view_codes(world))
    for each in (again, world, world.clone()):
        each.step([Action.NOOP, Action.USE])
        assert thing_at(each, 6, 5) == Thing.GATE_OPEN


def test_worlds_without_the_option_keep_their_fingerprint() -> None:
    assert HomesteadConfig().fingerprint() == 0xE71EB89B
    assert HomesteadConfig(hidden_switches=True).fingerprint() != HomesteadConfig().fingerprint()


@pytest.mark.parametrize("policy", ["gatekeeper", "mixed"])
def test_the_laws_hold_in_whatever_is_done_there(policy: str) -> None:
    env = make_env(NAME)
    env.reset(4)
    acts = make_policy(policy, env.spec, 4)
    assert isinstance(env, HomesteadGrounded)
    for tick in range(300):
        env.step(acts.act(env, tick))
        assert env.invariants() == ()


def test_a_gatekeeper_meets_gates_that_open_and_gates_that_do_not_and_the_field_cannot_tell() -> None:
    """The way to the gate takes as long, and leads through the same places, whether or not the switch was thrown."""
    opened, since_visit = [], dict[bool, list[int]]({True: [], False: []})
    for seed in range(6):
        env = make_env(NAME)
        assert isinstance(env, HomesteadGrounded)
        env.reset(seed)
        policy, visited = make_policy("gatekeeper", env.spec, seed), 0
        for tick in range(600):
            world = env.simulation
            ahead, action = world.ahead(0), policy.act(env, tick)
            thing = world.thing_at[ahead]
            env.step(action)
            if thing in (Thing.SWITCH_OFF, Thing.SWITCH_ON) and action[0] in (Action.USE, Action.NOOP):
                visited = tick
            if thing == Thing.GATE_CLOSED and action[0] == Action.USE:
                opened.append(world.thing_at[ahead] == Thing.GATE_OPEN)
                since_visit[opened[-1]].append(tick - visited)
    assert len(opened) > 150 and 0.35 < np.mean(opened) < 0.65
    assert 0.35 < np.mean([before == after for before, after in pairwise(opened)]) < 0.65
    assert abs(np.mean(since_visit[True]) - np.mean(since_visit[False])) < 1.5
