"""The data policy of MiniGrid's memory tasks: every story ends with a choice, right or wrong by the toss of a coin."""

import numpy as np
import pytest

from world.envs.catalog import make_env, make_policy
from world.errors import EnvironmentUnusable

NAME = "MiniGrid-MemoryS11-v0"


def test_the_chooser_looks_at_the_cue_walks_and_chooses_either_side() -> None:
    env = make_env(NAME)
    policy = make_policy("chooser", env.spec, 3)
    rewarded, lengths = [], []
    for seed in range(80):
        env.reset(seed)
        has_looked, looked_back = False, False
        for tick in range(100):
            truth = env.truth  # type: ignore[attr-defined]
            faces_west = truth.agent_dir == 2
            looked_back |= has_looked and faces_west and truth.agent_pos[0] >= 5
            has_looked |= faces_west and truth.agent_pos[0] == 3
            step = env.step(policy.act(env, tick))
            if step.terminated.all():
                break
        assert step.terminated.all() and has_looked and looked_back
        rewarded.append(step.rewards[0] > 0)
        lengths.append(tick + 1)
    assert 0.3 < np.mean(rewarded) < 0.7
    assert min(lengths) >= 12 and max(lengths) <= 40


def test_the_chooser_is_for_memory_tasks_alone() -> None:
    spec = make_env(NAME).spec
    assert make_policy("mixed", spec, 0).act(make_env(NAME), 0).shape == (1,)
    with pytest.raises(EnvironmentUnusable, match=r"no data policy 'patrol'.*chooser"):
        make_policy("patrol", spec, 0)
    with pytest.raises(EnvironmentUnusable, match="for MiniGrid-Memory"):
        make_policy("chooser", spec, 0).act(make_env("homestead:16x16x1"), 0)
