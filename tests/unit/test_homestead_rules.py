"""What one tick of a homestead does, on a small meadow made for the purpose."""

from collections.abc import Iterable

import numpy as np
import pytest

from world.envs.grounded import BY_CHANCE, BY_NATURE
from world.envs.homestead.config import HomesteadConfig
from world.envs.homestead.live_map import MARGIN
from world.envs.homestead.rules import Simulation
from world.envs.homestead.state import HomesteadState, Ledger
from world.envs.homestead.tiles import MAX_HELD, NUM_ACTIONS, NUM_PAINTS, PAINT_SHIFT, Action, Item, Terrain, Thing

SIDE = 16
NORTH, EAST, SOUTH, WEST = range(4)


class Meadow:
    """An empty walled map of 16×16 on which a test puts what it needs."""

    def __init__(self, *agents: tuple[int, int, int], seed: int = 0, **settings: float) -> None:
        count = len(agents)
        self.config = HomesteadConfig(
            height=SIDE, width=SIDE, num_agents=count, num_animals=0, min_landmarks=0, max_landmarks=0, **settings
        )
        ground = np.full((SIDE, SIDE), Terrain.WALL, np.uint8)
        ground[1:-1, 1:-1] = Terrain.GRASS
        self.state = HomesteadState(
            seed=seed,
            tick=0,
            ground=ground.ravel(),
            thing=np.zeros(SIDE * SIDE, np.uint16),
            due={},
            cells=[y * SIDE + x for y, x, _ in agents],
            facing=[facing for _, _, facing in agents],
            inventory=[[0, 0, 0, 0] for _ in agents],
            animals=[],
            ledger=Ledger(),
        )

    def put(self, thing: int, *places: tuple[int, int]) -> "Meadow":
        for y, x in places:
            self.state.thing[y * SIDE + x] = thing
            self.state.ledger.stones += thing == Thing.STONE
            self.state.ledger.first_doors += thing in (Thing.DOOR_CLOSED, Thing.DOOR_OPEN)
        return self

    def lay(self, terrain: int, *places: tuple[int, int]) -> "Meadow":
        for y, x in places:
            self.state.ground[y * SIDE + x] = terrain
        return self

    def hold(self, agent: int, **items: int) -> "Meadow":
        for name, count in items.items():
            self.state.inventory[agent][Item[name.upper()]] = count
        ledger = self.state.ledger
        ledger.stones += items.get("stone", 0)
        ledger.wood_cut += items.get("wood", 0)
        ledger.fruit_picked += items.get("fruit", 0)
        ledger.first_doors += items.get("door", 0)
        return self

    def start(self) -> Simulation:
        return Simulation(self.config, self.state)


def thing_at(world: Simulation, y: int, x: int) -> int:
    return int(world.state.thing[y * SIDE + x])


def held(world: Simulation, agent: int) -> dict[str, int]:
    return {item.name.lower(): count for item, count in zip(Item, world.state.inventory[agent], strict=True) if count}


def play(world: Simulation, actions: Iterable[int]) -> float:
    return sum(world.step([action])[0] for action in actions)


def changed(world: Simulation) -> dict[tuple[int, int], int]:
    return {(y, x): cause for y, x, cause in world.changes.tolist()}


def test_an_agent_turns_where_it_moves_and_stops_at_walls() -> None:
    world = Meadow((1, 1, EAST)).start()
    play(world, [Action.NORTH])
    assert world.place_of(world.state.cells[0]) == (1, 1) and world.state.facing == [NORTH]
    play(world, [Action.SOUTH, Action.EAST])
    assert world.place_of(world.state.cells[0]) == (2, 2) and world.state.facing == [EAST]


def test_a_move_changes_the_two_cells_it_touches_and_says_who_did_it() -> None:
    world = Meadow((5, 5, EAST), (9, 9, EAST)).start()
    world.step([Action.NOOP, Action.EAST])
    assert changed(world) == {(9, 9): 1, (9, 10): 1}


def test_two_agents_never_enter_one_cell_and_the_right_of_way_rotates() -> None:
    winners = []
    for tick in range(2):
        meadow = Meadow((5, 4, EAST), (5, 6, WEST))
        meadow.state.tick = tick
        world = meadow.start()
        world.step([Action.EAST, Action.WEST])
        winners.append([world.place_of(cell) for cell in world.state.cells].index((5, 5)))
    assert winners == [0, 1]


def test_a_stone_is_taken_carried_and_laid_down_again() -> None:
    world = Meadow((5, 5, EAST)).put(Thing.STONE, (5, 6)).start()
    play(world, [Action.USE])
    assert held(world, 0) == {"stone": 1} and thing_at(world, 5, 6) == Thing.NONE
    play(world, [Action.SOUTH, Action.PLACE])
    assert held(world, 0) == {} and thing_at(world, 7, 5) == Thing.STONE


def test_hands_hold_nine_of_a_kind_and_no_more() -> None:
    world = Meadow((5, 5, EAST)).put(Thing.STONE, (5, 6)).hold(0, stone=MAX_HELD).start()
    play(world, [Action.USE])
    assert held(world, 0) == {"stone": MAX_HELD} and thing_at(world, 5, 6) == Thing.STONE


@pytest.mark.parametrize(
    ("whole", "rest", "item"),
    [(Thing.BUSH_RIPE, Thing.BUSH_BARE, "fruit"), (Thing.TREE, Thing.STUMP, "wood")],
)
def test_what_was_harvested_is_back_after_200_ticks_and_not_before(whole: int, rest: int, item: str) -> None:
    world = Meadow((5, 5, EAST)).put(whole, (5, 6)).start()
    play(world, [Action.USE])
    assert held(world, 0) == {item: 1}
    play(world, [Action.NOOP] * 199)
    assert thing_at(world, 5, 6) == rest
    play(world, [Action.NOOP])
    assert thing_at(world, 5, 6) == whole and changed(world) == {(5, 6): BY_NATURE}


def test_fruit_is_eaten_before_free_ground_for_a_reward() -> None:
    world = Meadow((5, 5, EAST)).hold(0, fruit=2).start()
    assert play(world, [Action.USE]) == 1.0
    assert held(world, 0) == {"fruit": 1}
    assert play(world, [Action.NORTH] * 5 + [Action.USE]) == 0.0, "nobody eats with his face to a wall"


def test_a_sapling_needs_grass_and_room_and_can_be_pulled_out() -> None:
    world = Meadow((5, 5, EAST)).hold(0, fruit=1).put(Thing.STONE, (6, 7)).start()
    play(world, [Action.PLANT])
    assert held(world, 0) == {"fruit": 1}, "a stone stands at a corner of the place"
    play(world, [Action.NORTH, Action.PLANT])
    assert thing_at(world, 3, 5) == Thing.SAPLING and held(world, 0) == {}
    play(world, [Action.USE])
    assert thing_at(world, 3, 5) == Thing.NONE and held(world, 0) == {"fruit": 1} and not world.state.due


def test_saplings_grow_by_chance_at_the_stated_rate() -> None:
    ages = []
    for seed in range(400):
        world = Meadow((5, 5, EAST), seed=seed, sapling_rate=0.1).hold(0, fruit=1).start()
        play(world, [Action.PLANT])
        ages.append(next(iter(world.state.due.values())) - world.state.tick)
    assert min(ages) == 1
    assert abs(np.mean(ages) - 10) < 1.5
    assert abs(np.mean(np.array(ages) > 10) - 0.9**10) < 0.08


def test_a_grown_sapling_is_a_tree_that_is_felled_for_good() -> None:
    world = Meadow((5, 5, EAST), sapling_rate=1.0).hold(0, fruit=1).start()
    play(world, [Action.PLANT, Action.NOOP])
    assert thing_at(world, 5, 6) == Thing.YOUNG_TREE and changed(world) == {(5, 6): BY_CHANCE}
    play(world, [Action.USE])
    assert held(world, 0) == {"wood": 1} and thing_at(world, 5, 6) == Thing.NONE and not world.state.due


def test_a_door_is_crafted_of_two_wood_hung_in_a_frame_and_taken_down() -> None:
    world = Meadow((5, 5, EAST)).put(Thing.BENCH, (5, 6)).put(Thing.STONE, (7, 4), (7, 6)).hold(0, wood=2).start()
    assert play(world, [Action.USE]) == 1.0
    assert held(world, 0) == {"door": 1}
    play(world, [Action.PLACE, Action.SOUTH, Action.PLACE])
    assert thing_at(world, 7, 5) == Thing.DOOR_CLOSED and held(world, 0) == {}
    play(world, [Action.SOUTH])
    assert world.place_of(world.state.cells[0]) == (6, 5), "a closed door does not let in"
    play(world, [Action.USE, Action.SOUTH, Action.SOUTH])
    assert world.place_of(world.state.cells[0]) == (8, 5)
    play(world, [Action.SOUTH, Action.NORTH, Action.PLACE])
    assert thing_at(world, 7, 5) == Thing.NONE and held(world, 0) == {"door": 1}


def test_a_door_without_a_frame_stays_in_the_hand_and_a_stone_is_laid_instead() -> None:
    world = Meadow((5, 5, EAST)).hold(0, door=1, stone=1).start()
    play(world, [Action.PLACE])
    assert thing_at(world, 5, 6) == Thing.STONE and held(world, 0) == {"door": 1}


def test_nobody_is_shut_in_a_door() -> None:
    world = Meadow((5, 5, EAST), (5, 6, EAST)).put(Thing.DOOR_OPEN, (5, 6)).start()
    world.step([Action.USE, Action.NOOP])
    world.step([Action.PLACE, Action.NOOP])
    assert thing_at(world, 5, 6) == Thing.DOOR_OPEN


def test_a_switch_moves_the_gates_beside_it_unless_somebody_stands_there() -> None:
    meadow = Meadow((5, 5, EAST), (8, 8, EAST)).put(Thing.SWITCH_OFF, (5, 6)).put(Thing.GATE_CLOSED, (4, 6), (6, 6))
    world = meadow.put(Thing.GATE_CLOSED, (5, 9)).start()
    world.step([Action.USE, Action.NOOP])
    assert [thing_at(world, y, 6) for y in (4, 5, 6)] == [Thing.GATE_OPEN, Thing.SWITCH_ON, Thing.GATE_OPEN]
    assert thing_at(world, 5, 9) == Thing.GATE_CLOSED, "too far from the switch"
    for action in (Action.WEST, Action.WEST, Action.NORTH, Action.NORTH):
        world.step([Action.NOOP, action])
    assert world.place_of(world.state.cells[1]) == (6, 6)
    world.step([Action.USE, Action.NOOP])
    assert [thing_at(world, y, 6) for y in (4, 5, 6)] == [Thing.GATE_CLOSED, Thing.SWITCH_OFF, Thing.GATE_OPEN]


def test_the_pressure_door_opens_while_two_plates_are_held() -> None:
    meadow = Meadow((6, 6, NORTH), (7, 8, NORTH)).put(Thing.PRESSURE_CLOSED, (5, 6))
    world = meadow.lay(Terrain.PLATE, (6, 6), (6, 8)).lay(Terrain.INNER_PLATE, (4, 6)).start()
    world.step([Action.NOOP, Action.NOOP])
    assert thing_at(world, 5, 6) == Thing.PRESSURE_CLOSED
    world.step([Action.NOOP, Action.NORTH])
    assert thing_at(world, 5, 6) == Thing.PRESSURE_OPEN and changed(world)[5, 6] == BY_NATURE
    world.step([Action.NORTH, Action.NOOP])
    assert thing_at(world, 5, 6) == Thing.PRESSURE_OPEN, "somebody stands in it"
    world.step([Action.NORTH, Action.SOUTH])
    assert thing_at(world, 5, 6) == Thing.PRESSURE_OPEN, "the inner plate holds it alone, so nobody is locked in"
    world.step([Action.NORTH, Action.SOUTH])
    assert thing_at(world, 5, 6) == Thing.PRESSURE_CLOSED


def test_paint_has_the_colour_of_the_agent_and_comes_off_with_the_same_brush() -> None:
    world = Meadow((5, 5, EAST), (9, 9, NORTH), (5, 7, WEST)).start()
    cell = 5 * SIDE + 6
    one, other = (1 + world.looks[agent] % NUM_PAINTS for agent in (0, 2))
    assert one != other, "these two do not paint alike"
    world.step([Action.PAINT, Action.NOOP, Action.NOOP])
    assert world.state.ground[cell] >> PAINT_SHIFT == one and changed(world) == {(5, 6): 0}
    world.step([Action.NOOP, Action.NOOP, Action.PAINT])
    assert world.state.ground[cell] >> PAINT_SHIFT == other
    world.step([Action.NOOP, Action.NOOP, Action.PAINT])
    assert world.state.ground[cell] == Terrain.GRASS


def test_what_lies_in_a_cell_is_what_is_seen_there_once_nobody_stands_on_it() -> None:
    world = Meadow((5, 5, EAST)).put(Thing.STONE, (5, 9)).start()
    world.step([Action.PAINT])
    painted = world.lying()
    assert painted[5 * SIDE + 6] not in (painted[5 * SIDE + 7], painted[5 * SIDE + 9])
    world.step([Action.EAST])
    assert (world.lying() == painted).all()
    world.step([Action.EAST])
    seen = world.codes[MARGIN:-MARGIN, MARGIN:-MARGIN].flatten()
    assert np.flatnonzero(seen != world.lying()).tolist() == world.state.cells


def test_a_gift_goes_to_whom_one_faces_and_is_what_one_has_most_of() -> None:
    world = Meadow((5, 5, EAST), (5, 6, NORTH)).hold(0, wood=1, stone=3).start()
    assert world.step([Action.GIVE, Action.NOOP]) == [0.0, 0.0]
    assert held(world, 0) == {"wood": 1, "stone": 2} and held(world, 1) == {"stone": 1}


def test_a_gift_to_full_hands_or_to_nobody_does_nothing() -> None:
    world = Meadow((5, 5, EAST), (5, 6, NORTH)).hold(0, stone=3).hold(1, stone=MAX_HELD).start()
    world.step([Action.GIVE, Action.GIVE])
    assert held(world, 0) == {"stone": 3}, "the other looks elsewhere, and his hands are full"


def test_an_exchange_that_both_accept_pays_whoever_gets_what_he_lacked() -> None:
    world = Meadow((5, 5, EAST), (5, 6, WEST)).hold(0, wood=3).hold(1, fruit=2, wood=1).start()
    assert world.step([Action.GIVE, Action.GIVE]) == [1.0, 0.0]
    assert held(world, 0) == {"wood": 2, "fruit": 1} and held(world, 1) == {"fruit": 1, "wood": 2}
    assert world.state.ledger.trades == 1


def test_swapping_to_and_fro_earns_nothing() -> None:
    world = Meadow((5, 5, EAST), (5, 6, WEST)).hold(0, wood=1).hold(1, stone=1).start()
    assert sum(sum(world.step([Action.GIVE, Action.GIVE])) for _ in range(20)) == 0.0


def test_the_commons_regrows_slower_the_more_was_taken_and_not_at_all_from_nothing() -> None:
    plants = [(y, x) for y in (4, 6, 8) for x in (4, 6, 8)]

    def regrown(num_bare: int) -> float:
        """Return how often a plant that began bare is ripe after five ticks."""
        ripe = 0
        for seed in range(100):
            meadow = Meadow((13, 13, EAST), commons_rate=0.02, seed=seed)
            world = meadow.put(Thing.COMMONS_RIPE, *plants).put(Thing.COMMONS_BARE, *plants[:num_bare]).start()
            play(world, [Action.NOOP] * 5)
            ripe += sum(thing_at(world, *place) == Thing.COMMONS_RIPE for place in plants[:num_bare])
        return ripe / (100 * num_bare)

    assert regrown(2) > regrown(7) > regrown(9) == 0.0


def test_a_dead_commons_comes_back_to_life_if_somebody_plants() -> None:
    world = Meadow((5, 5, EAST)).put(Thing.COMMONS_BARE, (5, 6)).hold(0, fruit=1).start()
    play(world, [Action.PLANT])
    assert thing_at(world, 5, 6) == Thing.COMMONS_RIPE and held(world, 0) == {}


def test_animals_wander_by_chance_about_every_fourth_tick() -> None:
    config = HomesteadConfig(num_agents=1, num_animals=4)
    world = Simulation.new(config, 5)
    moved = 0
    for _ in range(500):
        before = world.state.animals.copy()
        world.step([Action.NOOP])
        moved += sum(a != b for a, b in zip(before, world.state.animals, strict=True))
        assert all(cause in (BY_CHANCE, BY_NATURE) for cause in changed(world).values())
    assert 0.1 < moved / 2000 <= 0.28, "one try in four, and some find no free ground"


def test_an_unknown_action_is_refused_by_name() -> None:
    world = Meadow((5, 5, EAST)).start()
    with pytest.raises(ValueError, match="agent 0 asked for action 10"):
        world.step([NUM_ACTIONS])
