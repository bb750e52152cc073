"""The odds of chance are those with which it comes true, and cost as many bits."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from tests.unit.test_homestead_rules import EAST, SIDE, Meadow
from world.envs.catalog import make_policy
from world.envs.homestead.config import HomesteadConfig
from world.envs.homestead.grounded import HomesteadGrounded
from world.envs.homestead.odds import Odds
from world.envs.homestead.rules import Simulation
from world.envs.homestead.tiles import Action, Thing

_SEEDS = 4_000


def _meadow(*agents: tuple[int, int, int], animals: Sequence[tuple[int, int]] = (), seed: int = 0) -> Meadow:
    meadow = Meadow(*agents, seed=seed, sapling_rate=0.3, commons_rate=0.1)
    meadow.state.animals = [y * SIDE + x for y, x in animals]
    return meadow


@pytest.mark.parametrize("animals", [[(1, 1)], [(5, 6)], [(5, 7), (5, 8)], [(3, 3), (3, 4), (4, 3)]])
def test_animals_come_to_cells_as_often_as_the_odds_say(animals: list[tuple[int, int]]) -> None:
    # The agent leaves one cell free and takes another before they wander.
    start, actions = _meadow((5, 5, EAST), animals=animals), [Action.EAST]
    odds = Odds.of(start.start(), actions).animals
    assert sum(odds.values()) == pytest.approx(len(animals))
    found: Counter[int] = Counter()
    for seed in range(_SEEDS):
        world = _meadow((5, 5, EAST), animals=animals, seed=seed).start()
        world.step(actions)
        found.update(world.state.animals)
    assert set(found) == set(odds)
    for cell, chance in odds.items():
        assert abs(found[cell] / _SEEDS - chance) < 5 * np.sqrt(chance * (1 - chance) / _SEEDS) + 1e-9


def test_plants_grow_as_often_as_the_odds_say() -> None:
    def world(seed: int) -> Simulation:
        meadow = _meadow((5, 5, EAST), seed=seed)
        meadow.put(Thing.COMMONS_BARE, (9, 9), (12, 12)).put(Thing.COMMONS_RIPE, (9, 10), (10, 9)).hold(0, fruit=1)
        started = meadow.start()
        started.step([Action.PLANT])
        started.step([Action.NOOP])
        return started

    def place(y: int, x: int) -> int:
        return y * SIDE + x

    fresh = _meadow((5, 5, EAST)).hold(0, fruit=1).start()
    assert not Odds.of(fresh, [Action.PLANT]).growth, "what is planted now waits for a tick"
    begun = [world(seed) for seed in range(_SEEDS)]
    waiting = [each for each in begun if each.thing_at[place(5, 6)] == Thing.SAPLING]
    bare = [each for each in waiting if each.thing_at[place(9, 9)] == Thing.COMMONS_BARE]
    odds = Odds.of(bare[0], [Action.NOOP]).growth
    assert odds == {place(5, 6): 0.3, place(9, 9): pytest.approx(0.2)}
    assert not Odds.of(bare[0], [Action.USE]).growth.keys() & {place(5, 6)}, "what is picked does not grow"
    for each in bare:
        each.step([Action.NOOP])
    for cell, chance in odds.items():
        grown = np.mean([each.thing_at[cell] not in (Thing.SAPLING, Thing.COMMONS_BARE) for each in bare])
        assert abs(grown - chance) < 5 * np.sqrt(chance * (1 - chance) / len(bare))


def test_the_bits_of_a_life_are_those_that_its_odds_expect() -> None:
    env = HomesteadGrounded(HomesteadConfig(num_animals=4, sapling_rate=0.05))
    env.reset(3)
    policy, everywhere = make_policy("mixed", env.spec, 3), np.indices((32, 32)).astype(np.int32)
    paid, expected, spread = 0.0, 0.0, 0.0
    for tick in range(400):
        before, actions = env.simulation.clone(), policy.act(env, tick)
        odds = Odds.of(before, actions.tolist())
        env.step(actions)
        paid += float(odds.bits(env.simulation, *everywhere).sum())
        for chance in (*odds.animals.values(), *odds.growth.values()):
            if 0.0 < chance < 1.0:
                bits = -np.log2([chance, 1.0 - chance])
                mean = float(np.dot(bits, [chance, 1.0 - chance]))
                expected += mean
                # Cells that share an animal vary together: five of them at most.
                spread += 5 * float(np.dot((bits - mean) ** 2, [chance, 1.0 - chance]))
    assert np.isfinite(paid) and expected > 100
    assert abs(paid - expected) < 4 * np.sqrt(spread)


def test_what_is_beyond_the_map_costs_nothing() -> None:
    world = _meadow((5, 5, EAST), animals=[(1, 1)]).start()
    odds = Odds.of(world, [Action.NOOP])
    world.step([Action.NOOP])
    places = np.array([-1, 0, SIDE, 1 << 20], np.int32)
    assert not odds.bits(world, places, places).any()
