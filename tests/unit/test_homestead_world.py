"""A homestead world as a whole: how it begins, what it shows, and that nothing about it is lost or invented."""

import subprocess
import sys
import warnings
from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from world.envs.catalog import make_env, make_policy
from world.envs.homestead import render
from world.envs.homestead.config import HomesteadConfig
from world.envs.homestead.environment import Homestead
from world.envs.homestead.grounded import HomesteadGrounded
from world.envs.homestead.live_map import MARGIN
from world.envs.homestead.rules import Simulation
from world.envs.homestead.tiles import (
    AGENT_CODE,
    LANDMARK,
    NUM_ACTIONS,
    NUM_CODES,
    THING_CODE,
    VOID_CODE,
    WALKABLE,
    Terrain,
    Thing,
)
from world.envs.pettingzoo import PettingZooGrounded
from world.errors import ConfigError, EnvironmentUnusable

with warnings.catch_warnings():
    # The package's own tests import environments by a way that it calls deprecated.
    warnings.simplefilter("ignore")
    from pettingzoo.test import parallel_api_test, parallel_seed_test

STRANGE = [
    {},
    {"height": 64, "width": 64, "num_agents": 8},
    {"height": 16, "width": 16, "num_agents": 1, "num_animals": 0},
    {"height": 20, "width": 45, "num_agents": 16, "num_animals": 8},
]
UNUSED_THINGS = set(range(THING_CODE + max(Thing) + 1, THING_CODE + LANDMARK)) | {THING_CODE}


def random_actions(seed: int, ticks: int, num_agents: int) -> list[list[int]]:
    return np.random.default_rng(seed).integers(NUM_ACTIONS, size=(ticks, num_agents)).tolist()


@pytest.mark.parametrize("options", STRANGE)
@pytest.mark.parametrize("seed", range(4))
def test_every_generated_world_is_sound_and_every_place_can_be_reached(options: dict[str, int], seed: int) -> None:
    world = HomesteadGrounded(HomesteadConfig(**options))
    world.reset(seed)
    assert world.invariants() == ()
    simulation = world.simulation
    enterable = {*WALKABLE, Thing.DOOR_CLOSED, Thing.GATE_CLOSED, Thing.PRESSURE_CLOSED}
    open_cells = {
        cell
        for cell, (ground, thing) in enumerate(zip(simulation.state.ground, simulation.state.thing, strict=True))
        if ground != Terrain.WALL and thing in enterable
    }
    queue = deque([simulation.state.cells[0]])
    reached = set(queue)
    while queue:
        cell = queue.popleft()
        for step in simulation.steps:
            if cell + step in open_cells - reached:
                reached.add(cell + step)
                queue.append(cell + step)
    assert reached == open_cells


def test_a_default_world_has_everything_that_was_promised() -> None:
    for seed in range(20):
        simulation = Simulation.new(HomesteadConfig(), seed)
        things = simulation.state.thing
        landmarks = things[things >= LANDMARK]
        assert 24 <= len(landmarks) <= 40 and len(set(landmarks.tolist())) == len(landmarks)
        for thing in (Thing.PRESSURE_CLOSED, Thing.GATE_CLOSED, Thing.SWITCH_OFF, Thing.DOOR_CLOSED, Thing.BENCH):
            assert thing in things, f"seed {seed} lacks {thing!r}"
        for thing in (Thing.TREE, Thing.BUSH_RIPE, Thing.STONE, Thing.COMMONS_RIPE):
            assert (things == thing).sum() >= 8
        assert len(simulation.state.cells) == 4 and len(simulation.state.animals) == 2
        ((_, plates),) = simulation.pressure
        assert sorted(weight for _, weight in plates) == [1, 1, 2]


def test_landmarks_are_drawn_from_all_256_textures() -> None:
    met = {
        int(thing)
        for seed in range(60)
        for thing in Simulation.new(HomesteadConfig(), seed).state.thing
        if thing >= LANDMARK
    }
    assert len(met) == 256


def test_a_frame_can_be_read_back_cell_by_cell() -> None:
    world = HomesteadGrounded()
    observed, table = world.reset(7), render.patch_table()
    for actions in random_actions(7, 30, 4):
        observed = world.step(np.array(actions, np.int32)).observed
    patches = observed.views.reshape(4, 10, 7, 9, 7, 3).swapaxes(2, 3).reshape(4, 10, 9, -1).astype(np.int64)
    distance = ((patches[..., None, :] - table.reshape(NUM_CODES, -1).astype(np.int64)) ** 2).sum(axis=-1)
    distance[..., sorted(UNUSED_THINGS)] = 1 << 40
    np.testing.assert_array_equal(distance.argmin(axis=-1), render.view_codes(world.simulation))
    assert (distance.min(axis=-1) == 0).all()


def test_patches_are_far_apart_so_that_a_blurred_one_is_still_known() -> None:
    table = render.patch_table().reshape(NUM_CODES, -1).astype(np.int64)
    used = np.array([code for code in range(NUM_CODES) if code not in UNUSED_THINGS])
    patches = table[used]
    distance = ((patches[:, None] - patches[None]) ** 2).sum(axis=-1)
    np.fill_diagonal(distance, 1 << 40)
    assert distance.min() > 10_000, "root mean square of 8 in each byte"


def test_all_agents_see_one_map_and_an_agent_has_one_colour_in_all_views() -> None:
    world = HomesteadGrounded(HomesteadConfig(num_agents=6))
    observed = world.reset(3)
    shown: dict[tuple[int, int], bytes] = {}
    for view, (pose_y, pose_x) in zip(observed.views, observed.poses.tolist(), strict=True):
        for row in range(9):
            for col in range(9):
                patch = view[row * 7 : row * 7 + 7, col * 7 : col * 7 + 7].tobytes()
                place = (pose_y + row - MARGIN, pose_x + col - MARGIN)
                assert shown.setdefault(place, patch) == patch
    looks = world.simulation.looks
    for agent, pose in enumerate(observed.poses.tolist()):
        assert shown[tuple(pose)] == render.patch_table()[AGENT_CODE + 4 * looks[agent] + 2].tobytes()


def test_render_at_shows_a_place_as_somebody_there_would_see_it() -> None:
    world = HomesteadGrounded()
    observed = world.reset(3)
    y, x = observed.poses[1].tolist()
    np.testing.assert_array_equal(world.render_at(y, x), observed.views[1][:63])
    with pytest.raises(ValueError, match="no place"):
        world.render_at(32, 0)


def test_the_strip_below_a_view_shows_what_is_held_and_where_one_looks() -> None:
    world = HomesteadGrounded()
    world.reset(3)
    world.simulation.state.inventory[2] = [3, 0, 9, 1]
    world.simulation.state.facing[2] = 1
    codes = render.view_codes(world.simulation)
    others = render.view_codes(Simulation.new(world.config, 3))
    assert (codes[2, 9] != others[2, 9]).tolist() == [True, False, True, True, True, False, False, False, False]


def test_beyond_the_border_there_is_one_void_patch() -> None:
    world = Simulation.new(HomesteadConfig(), 0)
    corner = world.codes[:9, :9]
    assert (corner[:MARGIN] == VOID_CODE).all() and (corner[:, :MARGIN] == VOID_CODE).all()
    assert (corner[MARGIN:, MARGIN:] != VOID_CODE).all()


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**63), options=st.sampled_from(STRANGE), data=st.data())
def test_nothing_is_lost_or_invented_whatever_agents_do(
    seed: int, options: dict[str, int], data: st.DataObject
) -> None:
    config = HomesteadConfig(**options)
    world = Simulation.new(config, seed)
    stones = world.state.ledger.stones
    # Uniform play hardly ever gets far; weights make agents work with what they meet.
    weights = np.array(data.draw(st.lists(st.integers(1, 8), min_size=NUM_ACTIONS, max_size=NUM_ACTIONS)), float)
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    for actions in random.choice(NUM_ACTIONS, size=(60, config.num_agents), p=weights / weights.sum()).tolist():
        before = world.codes.copy()
        world.step(actions)
        differs = np.argwhere(before != world.codes) - MARGIN
        assert sorted(map(tuple, world.changes[:, :2].tolist())) == sorted(map(tuple, differs.tolist()))
        again = Simulation(config, world.state.copy())
        np.testing.assert_array_equal(world.codes, again.codes)
    grounded = HomesteadGrounded(config)
    grounded.restore(world.to_bytes())
    assert grounded.invariants() == () and world.state.ledger.stones == stones


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32), action=st.integers(0, NUM_ACTIONS - 1), scramble=st.integers(0, 2**32))
def test_what_an_action_does_follows_from_what_is_within_two_cells(seed: int, action: int, scramble: int) -> None:
    config = HomesteadConfig(num_animals=0)
    world = Simulation.new(config, seed)
    world.state.inventory[0] = [seed % 4, seed % 3, seed % 5 % 3, seed % 7 % 2]
    for actions in random_actions(seed, 40, 4):
        world.step(actions)
    other = world.state.copy()
    y, x = np.divmod(np.arange(config.height * config.width), config.width)
    own_y, own_x = world.place_of(world.state.cells[0])
    far = np.maximum(abs(y - own_y), abs(x - own_x)) > 2
    far[other.cells] = False
    random = np.random.default_rng(scramble)
    other.ground[far] = random.choice([Terrain.GRASS, Terrain.FLOOR, Terrain.WALL], size=int(far.sum()))
    other.thing[far] = random.choice([Thing.NONE, Thing.STONE, Thing.TREE, Thing.DOOR_OPEN], size=int(far.sum()))
    other.due = {cell: at for cell, at in other.due.items() if not far[cell]}
    changed = Simulation(config, other)
    rewards = [simulation.step([action, 0, 0, 0])[0] for simulation in (world, changed)]
    effects = [sorted(row for row in s.changes.tolist() if row[2] == 0) for s in (world, changed)]
    assert rewards[0] == rewards[1] and effects[0] == effects[1]
    assert world.state.inventory[0] == other.inventory[0] and world.state.cells[0] == other.cells[0]
    for row, col, _ in effects[0]:
        assert world.codes[row + MARGIN, col + MARGIN] == changed.codes[row + MARGIN, col + MARGIN]
        assert max(abs(row - own_y), abs(col - own_x)) <= 2


def test_scripted_lives_break_no_law_in_a_thousand_ticks() -> None:
    world = HomesteadGrounded()
    world.reset(11)
    policy = make_policy("mixed", world.spec, 0)
    for tick in range(1000):
        world.step(policy.act(world, tick))
        if tick % 50 == 0:
            assert world.invariants() == ()
    assert world.simulation.state.ledger.fruit_eaten > 0 and world.simulation.state.ledger.wood_cut > 0


def test_a_broken_law_is_named() -> None:
    world = HomesteadGrounded()
    world.reset(1)
    world.simulation.state.inventory[0][1] += 1
    world.simulation.state.cells[1] = world.simulation.state.cells[0]
    assert [law.split(":")[0] for law in world.invariants()] == ["stone", "bodies"]


_OTHER_PROCESS = """
import sys, numpy as np
from world.envs.homestead.environment import Homestead
env = Homestead()
env.set_state(sys.stdin.buffer.read())
for actions in np.random.default_rng(2).integers(10, size=(1000, 4)).tolist():
    env.step(dict(zip(env.possible_agents, actions)))
print(env.state_hash())
"""


def test_a_saved_world_goes_on_in_another_process_as_if_nothing_had_happened() -> None:
    env = Homestead()
    env.reset(seed=9)
    for actions in random_actions(1, 1000, 4):
        env.step(dict(zip(env.possible_agents, actions, strict=True)))
    saved = env.get_state()
    for actions in random_actions(2, 1000, 4):
        env.step(dict(zip(env.possible_agents, actions, strict=True)))
    other = subprocess.run(
        [sys.executable, "-c", _OTHER_PROCESS], input=saved, capture_output=True, check=True, timeout=600
    )
    assert other.stdout.decode().strip() == env.state_hash()


def test_the_state_of_a_world_is_small() -> None:
    for name in ("homestead", "homestead:64x64x8"):
        env = make_env(name)
        env.reset(0)
        policy = make_policy("mixed", env.spec, 0)
        for tick in range(300):
            env.step(policy.act(env, tick))
        assert len(env.snapshot()) < 16_000


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda blob: blob[:-1], "damaged"),
        (lambda blob: blob[:500] + bytes([blob[500] ^ 1]) + blob[501:], "damaged"),
        (lambda blob: b"something else", "expected bytes of a homestead"),
        (lambda blob: b"", "expected bytes of a homestead"),
    ],
)
def test_damaged_states_are_refused(spoil: object, reason: str) -> None:
    env = Homestead()
    env.reset(seed=0)
    assert callable(spoil)
    with pytest.raises(EnvironmentUnusable, match=reason):
        env.set_state(spoil(env.get_state()))


def test_states_of_other_shapes_and_rules_are_refused() -> None:
    blob = HomesteadGrounded().snapshot()
    with pytest.raises(EnvironmentUnusable, match="height, width, agents"):
        HomesteadGrounded(HomesteadConfig(num_agents=5)).restore(blob)
    with pytest.raises(EnvironmentUnusable, match="same config"):
        HomesteadGrounded(HomesteadConfig(regrow_ticks=100)).restore(blob)


def test_a_clone_goes_its_own_way_and_the_same_way_under_the_same_actions() -> None:
    env = HomesteadGrounded()
    env.reset(4)
    for actions in random_actions(0, 100, 4):
        env.step(np.array(actions, np.int32))
    before, twin, other = env.state_hash(), env.clone(), env.clone()
    for actions in random_actions(1, 100, 4):
        env.step(np.array(actions, np.int32))
        twin.step(np.array(actions, np.int32))
    assert env.state_hash() == twin.state_hash() != before
    assert other.state_hash() == before and other.causes(100).shape[1] == 3
    np.testing.assert_array_equal(env.observe().views, twin.observe().views)


def test_causes_of_past_ticks_can_be_asked_for() -> None:
    env = HomesteadGrounded()
    env.reset(4)
    steps = [env.step(np.array(actions, np.int32)) for actions in random_actions(0, 10, 4)]
    for tick, step in enumerate(steps, start=1):
        np.testing.assert_array_equal(env.causes(tick), step.changes)
    with pytest.raises(KeyError, match="tick 11"):
        env.causes(11)


def test_the_short_way_needs_nothing_but_numpy() -> None:
    program = (
        "import sys; from world.envs.catalog import make_env, make_policy; env = make_env('homestead'); env.reset(0);"
        "make_policy('mixed', env.spec, 0).act(env, 0);"
        "print([m for m in ('gymnasium', 'pettingzoo', 'msgspec', 'torch', 'PIL') if m in sys.modules])"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, timeout=600)
    assert other.stdout.decode().strip() == "[]"


def test_pettingzoo_accepts_homestead() -> None:
    parallel_api_test(Homestead(), 150)
    parallel_api_test(Homestead(HomesteadConfig(max_ticks=40)), 150)
    parallel_seed_test(lambda: Homestead(HomesteadConfig(max_ticks=40)), 50)


def test_an_episode_ends_only_by_the_limit_that_was_set() -> None:
    env = HomesteadGrounded(HomesteadConfig(max_ticks=3))
    env.reset(0)
    steps = [env.step(np.zeros(4, np.int32)) for _ in range(3)]
    assert [step.truncated.all() for step in steps] == [False, False, True]
    assert not any(step.terminated.any() for step in steps)


def test_the_short_way_and_the_pettingzoo_way_show_one_and_the_same_world() -> None:
    fast, slow = HomesteadGrounded(), PettingZooGrounded(Homestead(), name="homestead")
    assert fast.spec.layout == slow.spec.layout and fast.spec.agents == slow.spec.agents
    first, second = fast.reset(5), slow.reset(5)
    np.testing.assert_array_equal(first.views, second.views)
    for actions in random_actions(5, 50, 4):
        joint = np.array(actions, np.int32)
        step, other = fast.step(joint), slow.step(joint)
        np.testing.assert_array_equal(step.observed.views, other.observed.views)
        np.testing.assert_array_equal(step.observed.poses, other.observed.poses)
        np.testing.assert_array_equal(step.rewards, other.rewards)
        np.testing.assert_array_equal(step.changes, other.changes)


def test_infos_say_where_agents_are_what_they_see_and_what_they_hold() -> None:
    env = Homestead()
    _, infos = env.reset(seed=2)
    for agent, info in infos.items():
        y, x = info["pose"]
        assert info["visible_cells"].shape == (81, 2)
        assert info["visible_cells"][40].tolist() == [y, x] and info["visible_cells"][0].tolist() == [y - 4, x - 4]
        assert info["inventory"].tolist() == [0, 0, 0, 0], agent


def test_a_survey_knows_every_patch_that_is_met_later() -> None:
    env = HomesteadGrounded()
    env.reset(6)
    known = {patch.tobytes() for patch in env.survey()}
    assert len(known) == len(env.survey()) < 300
    policy = make_policy("mixed", env.spec, 1)
    for tick in range(600):
        views = env.step(policy.act(env, tick)).observed.views
        met = views.reshape(4, 10, 7, 9, 7, 3).swapaxes(2, 3).reshape(-1, 7, 7, 3)
        assert {patch.tobytes() for patch in met} <= known


def test_a_view_turned_with_the_heading_has_ahead_above() -> None:
    north = HomesteadGrounded()
    turned = HomesteadGrounded(HomesteadConfig(orientation="heading"))
    north.reset(3)
    turned.reset(3)
    assert turned.spec.layout.map_rows == 0 and not turned.observe().poses.any()
    for _ in range(2):
        for world in (north, turned):
            world.simulation.step([2, 2, 2, 2])
    plain, rotated = render.view_codes(north.simulation), render.view_codes(turned.simulation)
    assert rotated[0, 3, 4] == plain[0, 4, 5], "what is east of an agent that looks east is above the centre"
    assert rotated[0, 4, 4] == AGENT_CODE + 4 * turned.simulation.looks[0], "it looks up"


def test_hard_mode_troubles_the_senses_and_not_the_world() -> None:
    plain = HomesteadGrounded()
    hard = HomesteadGrounded(HomesteadConfig(sensor_noise=12, dimming=0.5, occlusion=0.1))
    first, second = plain.reset(3), hard.reset(3)
    assert (first.views != second.views).any()
    np.testing.assert_array_equal(second.views, hard.observe().views)
    for actions in random_actions(3, 20, 4):
        joint = np.array(actions, np.int32)
        np.testing.assert_array_equal(plain.step(joint).rewards, hard.step(joint).rewards)
    assert plain.state_hash() == hard.state_hash()


@pytest.mark.parametrize(
    "wrong",
    [
        {"height": 8},
        {"num_agents": 0},
        {"num_agents": 17},
        {"min_landmarks": 41},
        {"regrow_ticks": 0},
        {"sapling_rate": 0.0},
        {"commons_rate": 1.5},
        {"max_ticks": 0},
        {"sensor_noise": 65},
        {"orientation": "south"},
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="homestead"):
        HomesteadConfig(**wrong)  # type: ignore[arg-type]
