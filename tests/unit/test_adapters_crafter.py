"""Crafter as a grounded world: where places are, that it repeats itself, and that the collector lives."""

import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("crafter")

from world.envs.catalog import make_env, make_policy
from world.envs.crafter import ACTIONS, CrafterGrounded
from world.envs.grounded import BY_CHANCE, ViewLayout
from world.errors import EnvironmentUnusable


@pytest.fixture(scope="module")
def env() -> CrafterGrounded:
    made = make_env("crafter")
    assert isinstance(made, CrafterGrounded)
    return made


def act(env: CrafterGrounded, name: str):  # type: ignore[no-untyped-def]
    return env.step(np.array([ACTIONS.index(name)], np.int32))


def cells_of(views: np.ndarray) -> np.ndarray:
    """Return the map cells (7, 9, 7, 7, 3) of a view."""
    return views[0, :49].reshape(7, 7, 9, 7, 3).swapaxes(1, 2)


def test_a_view_is_63_pixels_of_map_and_inventory(env: CrafterGrounded) -> None:
    assert env.spec.layout == ViewLayout(rows=9, cols=9, map_rows=7, tile_px=7)
    assert env.spec.num_actions == 17
    observed = env.reset(0)
    assert observed.views.shape == (1, 63, 63, 3) and observed.poses.tolist() == [[32, 32]]


@pytest.mark.parametrize(
    ("move", "step"),
    [("move_right", [0, 1]), ("move_left", [0, -1]), ("move_down", [1, 0]), ("move_up", [-1, 0])],
)
def test_poses_are_row_and_column(env: CrafterGrounded, move: str, step: list[int]) -> None:
    first = env.reset(1)
    second = act(env, move).observed
    assert (second.poses - first.poses).tolist() == [step]


def test_each_cell_of_the_image_shows_the_place_that_the_pose_says(env: CrafterGrounded) -> None:
    observed = env.reset(0)
    policy = make_policy("collector", env.spec, 0)
    looks: dict[int, list[np.ndarray]] = {}
    for tick in range(60):
        cells, (y, x), truth = cells_of(observed.views), observed.poses[0], env.semantic
        # Night and sleep tint the image.
        is_clear = env.daylight > 0.7 and not env.player.sleeping
        for row in range(7):
            for col in range(9):
                # Materials are numbered 1 to 12, creatures above.
                if is_clear and truth[x + col - 4, y + row - 3] <= 12:
                    looks.setdefault(int(truth[x + col - 4, y + row - 3]), []).append(cells[row, col].astype(int))
        observed = env.step(policy.act(env, tick)).observed
    means = {material: np.mean(patches, axis=0) for material, patches in looks.items()}
    assert len(means) >= 5
    for material, patches in looks.items():
        for patch in patches[:: max(len(patches) // 50, 1)]:
            distance = {other: abs(patch - mean).mean() for other, mean in means.items()}
            assert min(distance, key=distance.__getitem__) == material


def test_the_ground_is_gathered_to_the_pixel_as_crafter_draws_it(env: CrafterGrounded) -> None:
    from crafter import engine

    env.reset(4)
    own, world, player = env._env, env._env._world, env.player
    shipped = engine.LocalView(world, own._textures, own._local_view._grid)
    unit = np.array([7, 7])
    darkest, rng = 1.0, np.random.default_rng(0)
    for tick in range(120):
        if tick % 20 == 0:
            player.pos[:] = [(0, 0), (63, 63), (2, 40), (32, 32), (60, 3), (20, 61)][tick // 20]
            player.sleeping = tick == 60
            world.daylight = 1 - tick / 120
        else:
            act(env, ACTIONS[rng.integers(len(ACTIONS))])
        darkest, luck = min(darkest, world.daylight), world.random.get_state()
        drawn = own._local_view(player, unit)
        ended = world.random.get_state()
        world.random.set_state(luck)
        np.testing.assert_array_equal(shipped(player, unit), drawn)
        assert all(np.array_equal(a, b) for a, b in zip(world.random.get_state(), ended, strict=True)), "noise is drawn"
    assert darkest < 0.4 and type(shipped) is not type(own._local_view)


def test_changes_name_the_cells_that_differ_and_the_player_where_it_was_him(env: CrafterGrounded) -> None:
    env.reset(2)
    seen_own = seen_chance = False
    for tick in range(60):
        before, pose = env.semantic, env.player.pos[::-1].tolist()
        step = act(env, ("move_left", "move_up", "do", "move_right")[tick % 4])
        differs = {(int(y), int(x)) for x, y in np.argwhere(before != env.semantic)}
        changes = {(y, x): cause for y, x, cause in step.changes.tolist()}
        assert differs <= set(changes) and len(set(changes) - differs) <= 1
        assert set(changes.values()) <= {0, BY_CHANCE}
        if step.observed.poses[0].tolist() != pose:
            assert changes[tuple(pose)] == 0 and changes[tuple(step.observed.poses[0].tolist())] == 0
            seen_own = True
        seen_chance |= BY_CHANCE in changes.values()
    assert seen_own and seen_chance


_ELSEWHERE = """
import sys
from world.envs.catalog import make_env
env = make_env("crafter")
observed = env.restore(sys.stdin.buffer.read())
print(env.snapshot().hex(), observed.poses.tolist())
"""


def test_a_crafter_world_is_the_same_in_another_process(env: CrafterGrounded) -> None:
    env.reset(3)
    policy = make_policy("mixed", env.spec, 3)
    for tick in range(150):
        step = env.step(policy.act(env, tick))
        assert not step.terminated[0]
    saved = env.snapshot()
    junk = [object() for _ in range(1000)]
    other = subprocess.run(
        [sys.executable, "-c", _ELSEWHERE], input=saved, capture_output=True, check=True, timeout=600
    )
    assert other.stdout.decode().strip() == f"{saved.hex()} {step.observed.poses.tolist()}" and junk


def test_the_collector_achieves_what_chance_does_not(env: CrafterGrounded) -> None:
    earned = {}
    for name in ("collector", "random"):
        env.reset(0)
        policy, total = make_policy(name, env.spec, 0), 0.0
        for tick in range(150):
            step = env.step(policy.act(env, tick))
            total += float(step.rewards[0])
            if step.terminated[0]:
                break
        earned[name] = total
    assert earned["collector"] > 5 > earned["random"]
    assert env.player.achievements is not None


def test_death_is_termination(env: CrafterGrounded) -> None:
    env.reset(0)
    env.player.health = 0
    step = act(env, "noop")
    assert step.terminated[0] and not step.truncated[0]


def test_crafter_policies_refuse_other_environments(env: CrafterGrounded) -> None:
    lake = make_env("FrozenLake-v1")
    lake.reset(0)
    with pytest.raises(EnvironmentUnusable, match="for crafter"):
        make_policy("collector", env.spec, 0).act(lake, 0)
    with pytest.raises(EnvironmentUnusable, match="no data policy 'patrol'"):
        make_policy("patrol", env.spec, 0)
