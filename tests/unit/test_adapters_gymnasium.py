"""Gymnasium environments as grounded worlds, with real ones."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from world.envs.bench import bench_env
from world.envs.catalog import make_env, make_policy
from world.envs.grounded import GroundedEnv, ViewLayout
from world.envs.gymnasium import GymnasiumGrounded
from world.envs.spaces import joint_action_of, sense_of
from world.errors import ConfigError, EnvironmentUnusable


class Shown(gymnasium.Env[Any, Any]):
    """Shows what its space samples; actions of any space."""

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any] | None = None) -> None:
        self.observation_space = observation_space
        self.action_space = action_space or spaces.Discrete(3)
        self.taken: list[Any] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.taken.append(action)
        return self.observation_space.sample(), 1.0, False, False, {}


class Forgetful(Shown):
    """Goes another way each time: what must not be restored in silence."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return super().reset(seed=None)


def play(env: GroundedEnv, ticks: int, seed: int) -> list[np.ndarray]:
    observed, policy = env.reset(seed), make_policy("mixed", env.spec, seed)
    views = [observed.views]
    for tick in range(ticks):
        step = env.step(policy.act(env, tick))
        views.append(step.observed.views)
        if (step.terminated | step.truncated).all():
            break
    return views


def image(*shape: int) -> spaces.Box:
    return spaces.Box(0, 255, shape, np.uint8)


@pytest.mark.parametrize(
    ("name", "layout", "num_actions"),
    [
        ("FrozenLake-v1", ViewLayout(rows=1, cols=1, map_rows=0, tile_px=0, num_values=16), 4),
        ("Taxi-v4", ViewLayout(rows=1, cols=1, map_rows=0, tile_px=0, num_values=500), 6),
        ("Blackjack-v1", ViewLayout(rows=1, cols=3, map_rows=0, tile_px=0, num_values=32), 2),
        ("MiniGrid-MemoryS7-v0", ViewLayout(rows=7, cols=7, map_rows=0, tile_px=1), 7),
    ],
)
def test_real_environments_are_hosted_repeat_themselves_and_can_be_restored(
    name: str, layout: ViewLayout, num_actions: int
) -> None:
    env, other = make_env(name), make_env(name)
    assert env.spec.layout == layout and env.spec.num_actions == num_actions and env.spec.agents == ("agent_0",)
    views = play(env, 40, seed=5)
    assert all((a == b).all() for a, b in zip(views, play(other, 40, seed=5), strict=True))
    restored = make_env(name).restore(env.snapshot())
    np.testing.assert_array_equal(restored.views, views[-1])


def test_after_a_restore_an_environment_goes_on_exactly() -> None:
    env, other = make_env("MiniGrid-MemoryS7-v0"), make_env("MiniGrid-MemoryS7-v0")
    env.reset(3)
    for action in (2, 1, 1):
        env.step(np.array([action], np.int32))
    other.restore(env.snapshot())
    for action in (1, 0, 2, 0, 0, 5):
        joint = np.array([action], np.int32)
        first, second = env.step(joint), other.step(joint)
        np.testing.assert_array_equal(first.observed.views, second.observed.views)
        assert first.rewards == second.rewards


def minigrid_pixels() -> gymnasium.Env[Any, Any]:
    import minigrid
    from minigrid.wrappers import RGBImgPartialObsWrapper

    gymnasium.register_envs(minigrid)
    return RGBImgPartialObsWrapper(gymnasium.make("MiniGrid-DoorKey-5x5-v0"))


def test_pixels_of_a_tile_world_are_cut_at_its_tiles() -> None:
    env = GymnasiumGrounded(minigrid_pixels(), name="pixels")
    assert env.spec.layout == ViewLayout(rows=7, cols=7, map_rows=0, tile_px=8)
    assert env.reset(0).views.shape == (1, 56, 56, 3)


@pytest.mark.parametrize(
    ("space", "layout", "shape"),
    [
        (image(64, 64, 3), (8, 8, 8), (64, 64, 3)),
        (image(84, 84), (7, 7, 12), (84, 84, 3)),
        (image(96, 96, 1), (8, 8, 12), (96, 96, 3)),
        (image(210, 160, 3), (8, 8, 8), (64, 64, 3)),
        (image(9, 11, 3), (9, 11, 1), (9, 11, 3)),
        (spaces.Dict({"rgb": image(64, 64, 3), "speed": spaces.Box(-1, 1, (2,))}), (8, 8, 8), (64, 64, 3)),
    ],
)
def test_images_of_bytes_become_a_grid_of_cells(
    space: spaces.Space[Any], layout: tuple[int, int, int], shape: tuple[int, ...]
) -> None:
    env = GymnasiumGrounded(Shown(space), name="shown")
    views = env.reset(0).views
    found = env.spec.layout
    assert (found.rows, found.cols, found.tile_px) == layout and found.map_rows == 0
    assert views.shape == (1, *shape) and views.dtype == np.uint8
    assert found.rows * found.tile_px == shape[0] and found.cols * found.tile_px == shape[1]


@pytest.mark.parametrize(
    ("space", "components", "num_values"),
    [
        (spaces.Discrete(7, start=-3), 1, 7),
        (spaces.MultiDiscrete([3, 9, 2]), 3, 9),
        (spaces.MultiBinary(5), 5, 2),
        (spaces.Box(-4, 4, (6,), np.int8), 6, 9),
        (spaces.Box(0, 2, (3, 3), np.int64), 9, 3),
        (spaces.Tuple((spaces.Discrete(4), spaces.MultiBinary(2))), 3, 4),
    ],
)
def test_small_whole_numbers_are_tokens_from_zero(space: spaces.Space[Any], components: int, num_values: int) -> None:
    sense = sense_of(space, "shown")
    assert (sense.layout.cols, sense.layout.num_values, sense.layout.tile_px) == (components, num_values, 0)
    values = np.array([sense.read(space.sample()) for _ in range(200)])
    assert values.shape == (200, components) and values.dtype == np.int32
    assert values.min() == 0 and values.max() == num_values - 1


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(0, 1, (64, 64, 3), np.float32),
        spaces.Box(0, 255, (4, 84, 84), np.uint8),
        spaces.Box(-np.inf, np.inf, (4,), np.float32),
        spaces.Box(-(2**31), 2**31 - 1, (4,), np.int32),
        spaces.Discrete(100_000),
        spaces.MultiBinary(500),
        spaces.Text(10),
        spaces.Dict({"a": spaces.Discrete(3), "b": spaces.Discrete(3)}),
    ],
)
def test_observations_that_cannot_be_tokens_are_refused_with_a_remedy(space: spaces.Space[Any]) -> None:
    with pytest.raises(EnvironmentUnusable, match=r"^odd: .*(wrap it|supported)"):
        GymnasiumGrounded(Shown(space), name="odd")


def test_composite_actions_get_a_number_each() -> None:
    space = spaces.MultiDiscrete([3, 2], start=[1, 0])
    count, to_action = joint_action_of(space, "shown")
    actions = {tuple(to_action(number).tolist()) for number in range(count)}
    assert count == 6 and actions == {(a, b) for a in (1, 2, 3) for b in (0, 1)}
    assert all(space.contains(to_action(number)) for number in range(count))
    count, to_action = joint_action_of(spaces.MultiBinary(3), "shown")
    assert count == 8 and spaces.MultiBinary(3).contains(to_action(5).astype(np.int8))
    count, to_action = joint_action_of(spaces.Discrete(4, start=2), "shown")
    assert [to_action(number) for number in range(count)] == [2, 3, 4, 5]


@pytest.mark.parametrize("space", [spaces.Box(-1, 1, (2,)), spaces.MultiDiscrete([100, 100])])
def test_actions_that_cannot_be_numbered_are_refused(space: spaces.Space[Any]) -> None:
    with pytest.raises(EnvironmentUnusable, match="actions"):
        GymnasiumGrounded(Shown(spaces.Discrete(2), space), name="odd")


def test_an_environment_that_does_not_repeat_itself_is_not_restored() -> None:
    env = GymnasiumGrounded(Forgetful(image(64, 64, 3)), name="forgetful")
    play(env, 5, seed=0)
    with pytest.raises(EnvironmentUnusable, match="not deterministic"):
        env.restore(env.snapshot())


def test_snapshots_of_other_environments_and_torn_ones_are_refused() -> None:
    lake, taxi = make_env("FrozenLake-v1"), make_env("Taxi-v4")
    lake.reset(0)
    blob = lake.snapshot()
    with pytest.raises(EnvironmentUnusable, match="got one of 'FrozenLake-v1'"):
        taxi.restore(blob)
    for torn in (blob[:-3], b"", b"\x93\x01\x02\x03"):
        with pytest.raises(EnvironmentUnusable, match="cannot be read"):
            lake.restore(torn)


def test_large_seeds_are_accepted() -> None:
    env = make_env("FrozenLake-v1")
    env.reset(2**62 + 5)
    assert env.restore(env.snapshot()).views.shape == (1, 1)


def test_truncation_and_termination_are_told_apart() -> None:
    env = make_env("MiniGrid-MemoryS7-v0")
    env.reset(0)
    for _ in range(1000):
        step = env.step(np.array([0], np.int32))
        if step.truncated[0]:
            break
    assert step.truncated[0] and not step.terminated[0]


@pytest.mark.parametrize("name", ["homestead:16x16x2", "FrozenLake-v1"])
def test_the_bench_reports_what_it_measured(name: str) -> None:
    report = bench_env(name, 0.02, 0)
    assert report["bench"] == "env" and report["unit"] == "agent-ticks/s" and report["value"] > 0
    assert report["baseline"] is None and report["ratio"] is None
    details = report["details"]
    assert details["ticks"] > 0 and details["state_bytes"] > 0 and details["reset_ms"] > 0
    assert ("clone_ms" in details) == name.startswith("homestead")
    with pytest.raises(ConfigError, match="positive"):
        bench_env(name, 0, 0)
