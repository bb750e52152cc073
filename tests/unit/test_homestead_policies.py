"""Scripted lives: they do what they are named for, and make the data that random walks do not."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from world.envs.catalog import make_env, make_policy
from world.envs.homestead.draws import Draws, draw, geometric
from world.envs.homestead.grounded import HomesteadGrounded
from world.envs.homestead.paths import find_path
from world.envs.homestead.policies import HOMESTEAD_POLICIES
from world.envs.homestead.rules import Simulation
from world.envs.homestead.tiles import NUM_ACTIONS, PAINT_SHIFT, Action, Thing
from world.errors import EnvironmentUnusable


def live(name: str, ticks: int, *, env: str = "homestead", seed: int = 0) -> tuple[HomesteadGrounded, np.ndarray]:
    """Return the world after some ticks of a policy, and the joint actions (T, A)."""
    world = make_env(env)
    assert isinstance(world, HomesteadGrounded)
    world.reset(seed)
    policy = make_policy(name, world.spec, seed)
    actions = []
    for tick in range(ticks):
        actions.append(policy.act(world, tick))
        world.step(actions[-1])
    return world, np.array(actions)


def revisit_gaps(name: str, ticks: int) -> Counter[int]:
    """Count, by order of magnitude, after how many ticks agents came back to see a place that was out of view."""
    world = make_env("homestead")
    observed = world.reset(1)
    policy = make_policy(name, world.spec, 1)
    seen = np.full((32, 32), -1)
    gaps: Counter[int] = Counter()
    for tick in range(ticks):
        y, x = observed.poses[0].tolist()
        block = seen[max(y - 4, 0) : y + 5, max(x - 4, 0) : x + 5]
        again = tick - block[block >= 0]
        for gap in again[again > 1].tolist():
            gaps[len(str(gap))] += 1
        block[:] = tick
        observed = world.step(policy.act(world, tick)).observed
    return gaps


@pytest.mark.parametrize("name", ["random", *HOMESTEAD_POLICIES])
@pytest.mark.parametrize("env", ["homestead", "homestead:40x24x1"])
def test_every_policy_acts_for_every_agent_and_repeats_itself_from_its_seed(name: str, env: str) -> None:
    world, actions = live(name, 150, env=env, seed=3)
    again, same = live(name, 150, env=env, seed=3)
    assert actions.min() >= 0 and actions.max() < NUM_ACTIONS and actions.shape == (150, len(world.spec.agents))
    np.testing.assert_array_equal(actions, same)
    assert world.state_hash() == again.state_hash()


def test_the_forager_lives_better_than_chance() -> None:
    forager, _ = live("forager", 600)
    stroller, _ = live("stroller", 600)
    assert forager.simulation.state.ledger.fruit_eaten > 3 * max(stroller.simulation.state.ledger.fruit_eaten, 1)


def test_the_builder_crafts_doors_lays_stones_and_paints() -> None:
    world, actions = live("builder", 1200)
    assert world.simulation.state.ledger.doors_made > 0
    assert (world.simulation.state.ground >> PAINT_SHIFT).any()
    assert (actions == Action.PLACE).sum() > 20


def handed_over(name: str, ticks: int, holdings: list[list[int]]) -> int:
    """Count what agents of a policy, who begin with holdings (A, items), give away."""
    world = make_env("homestead")
    assert isinstance(world, HomesteadGrounded)
    world.reset(0)
    policy, moved = make_policy(name, world.spec, 0), 0
    for agent, items in enumerate(holdings):
        world.simulation.state.inventory[agent] = items.copy()
    for tick in range(ticks):
        actions = policy.act(world, tick)
        before = np.array(world.simulation.state.inventory)
        world.step(actions)
        lost = (np.array(world.simulation.state.inventory) < before).any(axis=1)
        moved += int((lost & (actions == Action.GIVE)).sum())
    return moved


@pytest.mark.parametrize("name", ["courier", "peddler", "follower"])
def test_couriers_peddlers_and_followers_hand_things_over(name: str) -> None:
    assert handed_over(name, 400, [[5, 0, 0, 0], [0, 5, 0, 0], [0, 0, 5, 0], [5, 0, 0, 0]]) > 0


def test_at_the_market_much_more_passes_from_hand_to_hand() -> None:
    nothing = [[0, 0, 0, 0]] * 4
    assert handed_over("market", 800, nothing) > 5 * max(handed_over("mixed", 800, nothing), 1)


def test_barterers_exchange_what_little_they_have() -> None:
    world = make_env("homestead")
    assert isinstance(world, HomesteadGrounded)
    world.reset(0)
    policy, most = make_policy("barterer", world.spec, 0), []
    for tick in range(800):
        before = world.simulation.state.ledger.trades
        held = np.array(world.simulation.state.inventory)
        world.step(policy.act(world, tick))
        if world.simulation.state.ledger.trades > before:
            most.append(held[(held != world.simulation.state.inventory).any(axis=1)].max())
    assert len(most) > 5
    assert np.median(most) <= 2


def aims(simulation: Simulation, actions: NDArray[np.int32]) -> list[int]:
    """Return for each agent the cell that it moves to, or else acts upon."""
    cells = simulation.state.cells
    return [
        cells[agent] + simulation.steps[action - Action.NORTH]
        if Action.NORTH <= action <= Action.WEST
        else simulation.ahead(agent)
        for agent, action in enumerate(actions.tolist())
    ]


def meddling(name: str, ticks: int) -> tuple[int, int]:
    """Count how often two agents of a policy reach for one cell, and at least one of them not to go there, and how
    often one moves to where an animal stands, or may step to.
    """
    world = make_env("homestead")
    assert isinstance(world, HomesteadGrounded)
    world.reset(0)
    policy, races, animals = make_policy(name, world.spec, 0), 0, 0
    for tick in range(ticks):
        actions, simulation = policy.act(world, tick), world.simulation
        cells, moves = aims(simulation, actions), actions <= Action.WEST
        reached = {cell + step for cell in simulation.state.animals for step in (0, *simulation.steps)}
        races += sum(cells.count(cell) > 1 for cell in {cells[agent] for agent in np.flatnonzero(~moves)})
        animals += sum(cells[agent] in reached for agent in np.flatnonzero(moves & (actions > Action.NOOP)))
        world.step(actions)
    return races, animals


def test_meddlers_are_in_the_way_of_each_other_and_of_animals() -> None:
    races, animals = meddling("meddler", 800)
    others_races, others_animals = meddling("mixed", 800)
    assert races > 5 * max(others_races, 1)
    assert animals > 3 * max(others_animals, 1)


def test_the_vault_is_opened_by_agents_together() -> None:
    world = make_env("homestead")
    assert isinstance(world, HomesteadGrounded)
    world.reset(2)
    policy, opened = make_policy("vault", world.spec, 0), 0
    for tick in range(400):
        world.step(policy.act(world, tick))
        opened += int((world.simulation.state.thing == Thing.PRESSURE_OPEN).any())
    assert opened > 10


def test_patrols_come_back_after_tens_hundreds_and_a_thousand_ticks() -> None:
    gaps = revisit_gaps("patrol", 4000)
    assert gaps[2] > 500 and gaps[3] > 500 and gaps[4] > 0


def test_the_mixture_shows_all_actions_and_changes_the_world() -> None:
    world, actions = live("mixed", 1500)
    assert set(np.unique(actions)) == set(range(NUM_ACTIONS))
    ledger = world.simulation.state.ledger
    assert min(ledger.wood_cut, ledger.fruit_picked, ledger.fruit_eaten, ledger.doors_made) > 0


def test_lives_begin_anew_in_another_world() -> None:
    world = make_env("homestead")
    policy = make_policy("mixed", world.spec, 0)
    for seed in (1, 2, 1):
        world.reset(seed)
        for tick in range(40):
            actions = policy.act(world, tick)
            world.step(actions)
    fresh, repeated = make_policy("mixed", world.spec, 0), []
    world.reset(1)
    for tick in range(40):
        repeated = fresh.act(world, tick)
        world.step(repeated)
    np.testing.assert_array_equal(actions, repeated)


def test_homestead_policies_refuse_other_environments() -> None:
    homestead, lake = make_env("homestead"), make_env("FrozenLake-v1")
    lake.reset(0)
    with pytest.raises(EnvironmentUnusable, match="for homestead"):
        make_policy("patrol", homestead.spec, 0).act(lake, 0)
    with pytest.raises(EnvironmentUnusable, match="there are random, mixed"):
        make_policy("dancer", homestead.spec, 0)


def test_a_path_leads_through_doors_and_not_through_walls() -> None:
    simulation = Simulation.new(make_env("homestead").config, 3)  # type: ignore[attr-defined]
    bench = int(np.flatnonzero(simulation.state.thing == Thing.BENCH)[0])
    path = find_path(simulation, simulation.state.cells[0], bench)
    assert path is not None and path[0] == bench
    walk = [simulation.state.cells[0], *reversed(path)]
    assert all(b - a in simulation.steps for a, b in pairwise(walk))
    assert all(simulation.walkable(cell) or simulation.state.thing[cell] == Thing.DOOR_CLOSED for cell in walk[1:-1])


def test_draws_depend_on_each_of_seed_tick_and_key_and_are_evenly_spread() -> None:
    assert len({draw(s, t, k) for s in range(8) for t in range(8) for k in range(8)}) == 512
    counts = np.bincount([draw(1, tick, 2) % 10 for tick in range(20_000)])
    assert abs(counts - 2000).max() < 200
    assert abs(np.mean([geometric(draw(5, tick, 0), 0.02) for tick in range(5000)]) - 50) < 3
    items = list(range(20))
    Draws(1, 1).shuffle(items)
    assert sorted(items) == list(range(20)) != items
