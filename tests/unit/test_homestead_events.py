"""What world events do to a homestead: their cells and no others, within its laws, and the same in every replay."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.test_homestead_rules import EAST, Meadow, changed, thing_at
from world.envs.catalog import make_env
from world.envs.grounded import BY_CHANCE, BY_EVENT, EVENT_REACH, Eventful
from world.envs.homestead.checks import broken_invariants
from world.envs.homestead.events import CLEARING, EVENTS, RAIN, RAIN_CHANCE, RIPENING, WALL
from world.envs.homestead.grounded import HomesteadGrounded
from world.envs.homestead.rules import Simulation
from world.envs.homestead.tiles import NUM_ACTIONS, PAINT_SHIFT, Action, Terrain, Thing

NOBODY_DOES = [Action.NOOP]


def befallen(meadow: Meadow, *events: tuple[int, int, int], action: int = Action.NOOP) -> Simulation:
    """The meadow after one tick with these events, every law checked."""
    world = meadow.start()
    world.step([action], events)
    assert broken_invariants(world) == ()
    return world


def test_rain_falls_on_every_second_cell_of_bare_grass_by_chance() -> None:
    met, fell = set(), 0
    for seed in range(200):
        world = befallen(Meadow((13, 13, EAST), seed=seed, sapling_rate=1e-9), (RAIN, 6, 6))
        cells = changed(world)
        assert set(cells.values()) <= {BY_CHANCE}
        assert all(thing_at(world, *cell) == Thing.SAPLING for cell in cells)
        met |= set(cells)
        fell += len(cells)
    assert met == {(y, x) for y in (4, 6, 8) for x in (4, 6, 8)}
    expected = 200 * 9 * RAIN_CHANCE
    assert abs(fell - expected) < 5 * np.sqrt(expected * (1 - RAIN_CHANCE))


def test_rain_falls_only_on_grass_where_nothing_is_and_nobody() -> None:
    met = set()
    for seed in range(30):
        meadow = Meadow((6, 6, EAST), seed=seed).put(Thing.STONE, (4, 4)).lay(Terrain.FLOOR, (8, 8))
        world = befallen(meadow.lay(Terrain.GRASS | 2 << PAINT_SHIFT, (8, 4)), (RAIN, 6, 6))
        met |= set(changed(world))
        assert not world.state.ground[8 * 16 + 4] >> PAINT_SHIFT or (8, 4) not in changed(world)
    assert met == {(4, 6), (4, 8), (6, 4), (6, 8), (8, 4), (8, 6)}


def test_rained_saplings_grow_as_planted_ones_do() -> None:
    world = befallen(Meadow((13, 13, EAST), seed=3, sapling_rate=1.0), (RAIN, 6, 6))
    saplings = set(changed(world))
    assert saplings
    world.step(NOBODY_DOES)
    assert {cell: thing_at(world, *cell) for cell in saplings} == dict.fromkeys(saplings, Thing.YOUNG_TREE)


def test_a_wall_of_five_stones_rises_on_bare_ground_and_the_ledger_knows() -> None:
    meadow = Meadow((6, 5, EAST)).put(Thing.BUSH_RIPE, (6, 8)).lay(Terrain.GRASS | 1 << PAINT_SHIFT, (6, 7))
    world = befallen(meadow, (WALL, 6, 6))
    # Not where somebody stands, nor where something is; paint is covered.
    assert changed(world) == dict.fromkeys([(6, 4), (6, 6), (6, 7)], BY_EVENT)
    assert all(thing_at(world, 6, x) == Thing.STONE for x in (4, 6, 7))
    assert world.state.ledger.stones == 3 and not (world.state.ground >> PAINT_SHIFT).any()


def test_what_grows_has_grown_after_a_ripening() -> None:
    meadow = Meadow((6, 6, EAST)).put(Thing.COMMONS_BARE, (4, 4)).put(Thing.TREE, (8, 8))
    for thing, place in ((Thing.STUMP, (5, 5)), (Thing.BUSH_BARE, (7, 7)), (Thing.SAPLING, (8, 4))):
        meadow.put(thing, place)
        meadow.state.due[place[0] * 16 + place[1]] = 400
    far = meadow.put(Thing.BUSH_BARE, (6, 9))
    far.state.due[6 * 16 + 9] = 400
    world = befallen(meadow, (RIPENING, 6, 6))
    assert changed(world) == dict.fromkeys([(4, 4), (5, 5), (7, 7), (8, 4)], BY_EVENT)
    grown = [thing_at(world, *place) for place in ((4, 4), (5, 5), (7, 7), (8, 4), (6, 9))]
    assert grown == [Thing.COMMONS_RIPE, Thing.TREE, Thing.BUSH_RIPE, Thing.YOUNG_TREE, Thing.BUSH_BARE]
    assert list(world.state.due) == [6 * 16 + 9]


def test_a_clearing_takes_what_is_loose_and_leaves_the_rest() -> None:
    kept = {(4, 4): Thing.TREE, (4, 5): Thing.BUSH_RIPE, (5, 4): Thing.BENCH, (8, 8): Thing.DOOR_CLOSED}
    meadow = Meadow((6, 6, EAST)).put(Thing.STONE, (4, 8), (9, 6)).put(Thing.YOUNG_TREE, (8, 4))
    meadow.put(Thing.SAPLING, (7, 7)).state.due[7 * 16 + 7] = 400
    for place, thing in kept.items():
        meadow.put(thing, place)
    world = befallen(meadow, (CLEARING, 6, 6))
    assert changed(world) == dict.fromkeys([(4, 8), (8, 4), (7, 7)], BY_EVENT)
    assert {place: thing_at(world, *place) for place in kept} == kept
    assert thing_at(world, 9, 6) == Thing.STONE and world.state.ledger.stones == 1 and not world.state.due


def test_events_follow_the_actions_of_their_tick_and_each_other_in_order() -> None:
    meadow = Meadow((6, 5, EAST)).put(Thing.STONE, (6, 6))
    world = befallen(meadow, (CLEARING, 6, 6), (WALL, 6, 6), action=Action.USE)
    # The agent took its stone before the clearing could, and the wall rose last.
    assert world.state.inventory[0] == [0, 1, 0, 0]
    assert all(thing_at(world, 6, x) == Thing.STONE for x in (4, 6, 7, 8))
    assert not changed(befallen(Meadow((6, 5, EAST)), (WALL, 6, 6), (CLEARING, 6, 6)))


@pytest.mark.parametrize("place", [(-1, 5), (5, -1), (16, 5), (5, 16), (-(2**31), 2**31 - 1)])
def test_an_event_beyond_the_map_does_nothing(place: tuple[int, int]) -> None:
    for kind in range(1, len(EVENTS) + 1):
        assert not changed(befallen(Meadow((6, 5, EAST)).put(Thing.STONE, (1, 5), (5, 1)), (kind, *place)))


@pytest.mark.parametrize("kind", [0, -1, len(EVENTS) + 1])
def test_events_that_there_are_none_of_are_refused(kind: int) -> None:
    env = HomesteadGrounded()
    env.reset(0)
    with pytest.raises(ValueError, match="expected 1 to 4"):
        env.announce(np.array([[kind, 5, 5]], np.int32))
    with pytest.raises(ValueError, match="no event of kind"):
        env.simulation.step([0] * 4, [(kind, 5, 5)])


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**63), options=st.sampled_from(["homestead", "homestead:20x45x16", "homestead:16x16x1"]))
def test_nothing_is_lost_or_invented_whatever_befalls(seed: int, options: str) -> None:
    world = make_env(options)
    assert isinstance(world, HomesteadGrounded)
    world.reset(seed)
    simulation, random = world.simulation, np.random.default_rng(seed)
    height, width = world.config.height, world.config.width
    for _ in range(60):
        count = int(random.integers(0, 4))
        places = random.integers((0, 0), (height, width), size=(count, 2))
        events = np.concatenate([random.integers(1, len(EVENTS) + 1, size=(count, 1)), places], axis=1)
        before = simulation.codes.copy()
        world.announce(events.astype(np.int32))
        world.step(random.integers(NUM_ACTIONS, size=len(world.spec.agents)).astype(np.int32))
        differs = np.argwhere(before != simulation.codes) - 4
        rows = simulation.changes
        assert sorted(map(tuple, rows[:, :2].tolist())) == sorted(map(tuple, differs.tolist()))
        for y, x in rows[rows[:, 2] == BY_EVENT, :2]:
            assert (np.abs(places - (y, x)).max(axis=1) <= EVENT_REACH).any()
        np.testing.assert_array_equal(simulation.codes, Simulation(world.config, simulation.state.copy()).codes)
        assert world.invariants() == ()


def test_announced_events_befall_one_step_and_are_forgotten_by_whoever_goes_back() -> None:
    env = HomesteadGrounded()
    assert isinstance(env, Eventful) and env.spec.events == EVENTS
    env.reset(4)
    saved, still = env.snapshot(), np.zeros(4, np.int32)
    y, x = env.observe().poses[0].tolist()
    wall = np.array([[WALL, y - 1, x]], np.int32)

    def next_states(*announced: bool) -> list[str]:
        env.restore(saved)
        states = []
        for with_wall in announced:
            if with_wall:
                env.announce(wall)
            env.step(still)
            states.append(env.state_hash())
        return states

    quiet, walled = next_states(False, False), next_states(True, False)
    assert quiet[0] != walled[0] and walled == next_states(True, False)
    for go_back in (lambda: env.restore(saved), lambda: env.reset(4)):
        env.announce(wall)
        go_back()
        env.step(still)
        assert env.state_hash() == quiet[0]
    env.restore(saved)
    env.announce(wall)
    twin = env.clone()
    twin.step(still)
    assert twin.state_hash() == walled[0]


def test_where_nobody_has_a_place_there_are_no_events() -> None:
    assert make_env("homestead-turned").spec.events == ()
    assert make_env("homestead-hard").spec.events == EVENTS
