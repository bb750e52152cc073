"""A PettingZoo `ParallelEnv` as a grounded world.

An environment may say more of itself than PettingZoo asks for: `view_layout` (a `ViewLayout`), `info["pose"]`,
`info["changed"]`, `turn_order` and `solid` (both of `EnvSpec`). Without a layout, all that an agent sees is its screen.
"""

from typing import Any, get_args

import numpy as np
from pettingzoo import ParallelEnv

from world.envs.grounded import BoolArray, EnvSpec, Int32Array, Observed, Stepped, TurnOrder, ViewLayout, nowhere
from world.envs.gymnasium import NO_CHANGES, SEED_BOUND
from world.envs.history import RepeatableEnv
from world.envs.spaces import joint_action_of, sense_of
from world.errors import EnvironmentUnusable


class PettingZooGrounded(RepeatableEnv):
    """All agents in the order of `possible_agents`.

    An agent that leaves is nowhere from the tick after the last one it saw. It keeps its slot, and the flags it left
    with, at no reward, until the episode ends for all. Raises `EnvironmentUnusable` where agents' spaces differ, where
    there are none, or where one joins after the reset.
    """

    def __init__(self, env: ParallelEnv[str, Any, Any], *, name: str) -> None:
        super().__init__()
        self._env = env
        agents = list(getattr(env, "possible_agents", ()))
        if not agents:
            raise EnvironmentUnusable(f"{name}: it names no possible_agents, so their number is not known")
        first = agents[0]
        observation_space, action_space = env.observation_space(first), env.action_space(first)
        for agent in agents[1:]:
            if env.observation_space(agent) != observation_space or env.action_space(agent) != action_space:
                raise EnvironmentUnusable(
                    f"{name}: {agent} has other spaces than {first}; wrap it so that all agents' spaces are equal"
                )
        declared = getattr(env, "view_layout", None)
        self._layout = declared if isinstance(declared, ViewLayout) else None
        self._sense = sense_of(observation_space, name, self._layout)
        num_actions, self._to_action = joint_action_of(action_space, name)
        self.spec = EnvSpec(
            name=name,
            agents=tuple(str(agent) for agent in agents),
            num_actions=num_actions,
            layout=self._sense.layout,
            turn_order=_turn_order(env, name),
            solid=bool(getattr(env, "solid", False)),
        )
        self._agents = agents

    def _begin(self, seed: int) -> Observed:
        observations, infos = self._env.reset(seed=seed % SEED_BOUND)
        missing = [agent for agent in self._agents if agent not in observations]
        if missing:
            raise EnvironmentUnusable(f"{self.spec.name}: {missing[0]} is not there from the start")
        count = len(self._agents)
        self._terminated, self._truncated = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
        self._views = np.stack([self._sense.read(observations[agent]) for agent in self._agents])
        self._poses = np.zeros((count, 2), np.int32)
        return self._perceive({}, infos, np.zeros(count, np.bool_))

    def _advance(self, actions: Int32Array) -> Stepped:
        present = list(self._env.agents)
        assert present, f"{self.spec.name}: step after the end of the episode"
        slots = {agent: slot for slot, agent in enumerate(self._agents) if agent in present}
        joint = {agent: self._to_action(int(actions[slot])) for agent, slot in slots.items()}
        observations, rewards, terminated, truncated, infos = self._env.step(joint)
        earned = np.zeros(len(self._agents), np.float32)
        for agent, slot in slots.items():
            earned[slot] = rewards.get(agent, 0.0)
            self._terminated[slot] |= bool(terminated.get(agent, False))
            self._truncated[slot] |= bool(truncated.get(agent, False))
        if not self._env.agents:
            # Some environments let their last agents go without a flag.
            self._truncated |= ~self._terminated
        observed = self._perceive(observations, infos, self._gone(present, observations))
        changed = next((info["changed"] for info in infos.values() if "changed" in info), NO_CHANGES)
        return Stepped(
            observed=observed,
            rewards=earned,
            terminated=self._terminated.copy(),
            truncated=self._truncated.copy(),
            changes=np.asarray(changed, np.int32).reshape(-1, 3),
        )

    def _gone(self, present: list[Any], observations: dict[Any, Any]) -> BoolArray:
        """Return which agents (A,) saw nothing of a step, at whose beginning some were present, for they have left.

        Most environments show an agent what it leaves by, so that it is gone only with the next step.
        """
        saw = {agent for agent in present if agent in observations or agent in self._env.agents}
        return np.array([agent not in saw for agent in self._agents], np.bool_)

    def _perceive(self, observations: dict[Any, Any], infos: dict[Any, Any], gone: BoolArray) -> Observed:
        has_poses = self._layout is not None and self._layout.map_rows > 0
        views, poses = self._views.copy(), self._poses.copy()
        for slot, agent in enumerate(self._agents):
            if agent in observations and not gone[slot]:
                views[slot] = self._sense.read(observations[agent])
            if has_poses and agent in infos and not gone[slot]:
                poses[slot] = infos[agent]["pose"]
        self._views, self._poses = views, poses
        return Observed(views, np.where(gone[:, None], nowhere(len(poses)), poses).astype(np.int32))


def _turn_order(env: object, name: str) -> TurnOrder:
    declared: TurnOrder = getattr(env, "turn_order", "fixed")
    if declared not in get_args(TurnOrder):
        raise EnvironmentUnusable(f"{name}: its turn_order must be one of {get_args(TurnOrder)}, got {declared!r}")
    return declared
