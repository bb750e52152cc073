"""PettingZoo environments as grounded worlds, and the catalog of names."""

import sys
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from pettingzoo import ParallelEnv

from world.envs.catalog import make_env, make_policy
from world.envs.grounded import ViewLayout
from world.envs.pettingzoo import PettingZooGrounded
from world.errors import ConfigError, EnvironmentUnusable


class Countdown(ParallelEnv[str, Any, int]):  # type: ignore[misc]
    """Agent i sees a number fall from 3 + i to 0 and leaves then; action 1 makes it stay as it is, at a cost."""

    metadata = {"name": "countdown"}  # noqa: RUF012

    def __init__(self, num_agents: int = 3, limit: int = 100) -> None:
        self.possible_agents = [f"runner_{i}" for i in range(num_agents)]
        self.agents: list[str] = []
        self.limit = limit

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        return spaces.Discrete(20)

    def action_space(self, agent: str) -> spaces.Space[Any]:
        return spaces.Discrete(2)

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[dict[str, int], dict[str, Any]]:
        self.agents = self.possible_agents.copy()
        self.left = {agent: 3 + i + (seed or 0) % 2 for i, agent in enumerate(self.agents)}
        self.tick = 0
        return dict(self.left), {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, int]) -> tuple[dict[str, Any], ...]:
        assert set(actions) == set(self.agents)
        self.tick += 1
        for agent, action in actions.items():
            self.left[agent] -= 1 - action
        present = self.agents
        terminated = {agent: self.left[agent] == 0 for agent in present}
        truncated = dict.fromkeys(present, self.tick >= self.limit)
        self.agents = [agent for agent in present if not terminated[agent] and not truncated[agent]]
        rewards = {agent: 1.0 - 2 * actions[agent] for agent in present}
        return {agent: self.left[agent] for agent in present}, rewards, terminated, truncated, {a: {} for a in present}


class Unequal(Countdown):
    """One agent sees more than the others."""

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        return spaces.Discrete(20 if agent == "runner_0" else 30)


class Latecomers(Countdown):
    """One agent is not there at first."""

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[dict[str, int], dict[str, Any]]:
        observations, infos = super().reset(seed, options)
        del observations["runner_1"], infos["runner_1"]
        self.agents.remove("runner_1")
        return observations, infos


class Posed(Countdown):
    """Says where its agents are."""

    view_layout = ViewLayout(rows=3, cols=3, map_rows=3, tile_px=2)
    solid = True
    turn_order = "rotating"

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        return spaces.Box(0, 255, (6, 6, 3), np.uint8)

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        numbers, _ = super().reset(seed, options)
        return {a: np.full((6, 6, 3), n, np.uint8) for a, n in numbers.items()}, {a: {"pose": (5, 7)} for a in numbers}

    def step(self, actions: dict[str, int]) -> tuple[dict[str, Any], ...]:
        numbers, *rest, _ = super().step(actions)
        infos = {a: {"pose": (6, n), "changed": np.array([[6, 7, 0]])} for a, n in numbers.items()}
        return {a: np.full((6, 6, 3), n, np.uint8) for a, n in numbers.items()}, *rest, infos


def small_world() -> Countdown:
    """A factory that the catalog can be told of."""
    return Countdown()


def not_a_world() -> object:
    """A factory of something else."""
    return object()


NOBODY_STAYS = np.zeros(3, np.int32)


def test_agents_that_leave_keep_their_slot_until_all_have_left() -> None:
    env = PettingZooGrounded(Countdown(), name="countdown")
    assert env.reset(0).views.tolist() == [[3], [4], [5]]
    steps = [env.step(NOBODY_STAYS) for _ in range(5)]
    assert [step.terminated.tolist() for step in steps[1:]] == [
        [False, False, False],
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]
    assert [step.rewards.tolist() for step in steps[2:]] == [[1, 1, 1], [0, 1, 1], [0, 0, 1]]
    assert steps[-1].observed.views.tolist() == [[0], [0], [0]]
    assert not steps[-1].truncated.any()


def test_what_was_returned_before_is_not_changed_by_later_steps() -> None:
    env = PettingZooGrounded(Countdown(), name="countdown")
    first = env.reset(0)
    second = env.step(NOBODY_STAYS)
    env.step(NOBODY_STAYS)
    env.step(NOBODY_STAYS)
    assert first.views.tolist() == [[3], [4], [5]] and not second.terminated.any()


def test_agents_that_are_cut_off_are_truncated_not_terminated() -> None:
    env = PettingZooGrounded(Countdown(limit=2), name="countdown")
    env.reset(0)
    env.step(NOBODY_STAYS)
    step = env.step(NOBODY_STAYS)
    assert step.truncated.all() and not step.terminated.any()


def test_a_restored_environment_stands_where_it_was_left() -> None:
    env, other = (PettingZooGrounded(Countdown(), name="countdown") for _ in range(2))
    env.reset(7)
    for actions in ([0, 1, 0], [1, 1, 0], [0, 0, 0]):
        step = env.step(np.array(actions, np.int32))
    np.testing.assert_array_equal(other.restore(env.snapshot()).views, step.observed.views)
    np.testing.assert_array_equal(other.step(NOBODY_STAYS).terminated, env.step(NOBODY_STAYS).terminated)


def test_a_declared_layout_brings_poses_and_changes_through() -> None:
    env = PettingZooGrounded(Posed(), name="posed")
    assert env.spec.layout == Posed.view_layout
    plain = PettingZooGrounded(Countdown(), name="countdown").spec
    assert (env.spec.solid, env.spec.turn_order, plain.solid, plain.turn_order) == (True, "rotating", False, "fixed")
    assert env.reset(0).poses.tolist() == [[5, 7]] * 3
    step = env.step(NOBODY_STAYS)
    assert step.observed.poses.tolist() == [[6, 2], [6, 3], [6, 4]] and step.changes.tolist() == [[6, 7, 0]]


def test_an_order_of_turns_that_there_is_none_of_is_refused() -> None:
    world = Posed()
    world.turn_order = "any"
    with pytest.raises(EnvironmentUnusable, match="turn_order must be one of"):
        PettingZooGrounded(world, name="posed")


def test_agents_with_unequal_spaces_are_refused() -> None:
    with pytest.raises(EnvironmentUnusable, match="runner_1 has other spaces than runner_0"):
        PettingZooGrounded(Unequal(), name="unequal")


def test_agents_who_come_late_are_refused() -> None:
    with pytest.raises(EnvironmentUnusable, match="runner_1 is not there from the start"):
        PettingZooGrounded(Latecomers(), name="late").reset(0)


def test_the_catalog_finds_a_factory_by_module_and_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "small_worlds", sys.modules[__name__])
    env = make_env("small_worlds:small_world")
    assert env.spec.agents == ("runner_0", "runner_1", "runner_2") and env.spec.num_actions == 2
    env.reset(0)
    assert make_policy("mixed", env.spec, 0).act(env, 0).shape == (3,)
    with pytest.raises(EnvironmentUnusable, match="expected a PettingZoo ParallelEnv or a Gymnasium Env"):
        make_env("small_worlds:not_a_world")
    with pytest.raises(EnvironmentUnusable, match="has no function elsewhere"):
        make_env("small_worlds:elsewhere")
    with pytest.raises(EnvironmentUnusable, match="it has 3 agents, asked for 2"):
        make_env("small_worlds:small_world", num_agents=2)


def test_the_catalog_knows_sizes_of_homestead() -> None:
    env = make_env("homestead:24x40x6")
    assert env.spec.name == "homestead:24x40x6" and len(env.spec.agents) == 6
    assert env.reset(0).views.shape == (6, 70, 63, 3)
    assert len(make_env("homestead", num_agents=2).spec.agents) == 2
    assert make_env(make_env("homestead").spec.name).spec == make_env("homestead").spec
    with pytest.raises(EnvironmentUnusable, match="it has 6 agents, asked for 2"):
        make_env("homestead:24x40x6", num_agents=2)
    with pytest.raises(ConfigError, match="16 to 1024"):
        make_env("homestead:4x4")


def test_variants_of_homestead_differ_in_what_is_seen_alone() -> None:
    plain, hard, turned = (make_env(f"homestead{variant}:24x24x2") for variant in ("", "-hard", "-turned"))
    for env in (plain, hard, turned):
        env.reset(1)
        assert make_env(env.spec.name).spec == env.spec
        make_policy("patrol", env.spec, 0).act(env, 0)
    assert (plain.reset(1).views != hard.reset(1).views).any()
    assert (plain.spec.layout.map_rows, turned.spec.layout.map_rows) == (9, 0)
    assert plain.snapshot() == hard.snapshot() == turned.snapshot()


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("NoSuchThing-v0", "Gymnasium cannot make it"),
        ("homestead:big", "homestead cannot be imported"),
        ("CartPole-v1", "observations must be an image"),
        ("no_such_module:factory", "install what provides it"),
        ("ALE/Pong-v5", "GPL-2"),
        ("", "Gymnasium cannot make it"),
        ("a name with spaces", "Gymnasium cannot make it"),
    ],
)
def test_names_that_lead_nowhere_are_refused_with_the_reason(name: str, remedy: str) -> None:
    with pytest.raises(EnvironmentUnusable, match=remedy):
        make_env(name)


@pytest.mark.parametrize(
    ("name", "module", "extra"), [("crafter", "crafter", "crafter"), ("MiniGrid-X", "minigrid", "minigrid")]
)
def test_what_is_not_installed_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, name: str, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(EnvironmentUnusable, match=rf"pip install 'living-worlds\[{extra}\]'"):
        make_env(name)
