"""A Gymnasium environment as a grounded world of one agent."""

from typing import Any, TypeVar

import gymnasium
import numpy as np

from world.envs.grounded import EnvSpec, Int32Array, Observed, Stepped, ViewLayout
from world.envs.history import RepeatableEnv
from world.envs.spaces import joint_action_of, sense_of

SEED_BOUND = 1 << 31
"""Seeds are taken modulo this: several environments accept no larger ones."""
T = TypeVar("T")
NO_CHANGES = np.zeros((0, 3), np.int32)


def _declared(env: gymnasium.Env[Any, Any], name: str, kind: type[T]) -> T | None:
    """Return an attribute of the environment or its outermost wrapper that has it, if it is of this kind."""
    value = env.get_wrapper_attr(name) if env.has_wrapper_attr(name) else None
    return value if isinstance(value, kind) else None


class GymnasiumGrounded(RepeatableEnv):
    """One agent and what it perceives: an image of bytes, or a few small whole numbers. There is no pose.

    An environment or wrapper that draws tiles may say so with `tile_size` (pixels), as MiniGrid's do, or with a
    whole `view_layout`, without a map.

    Raises `EnvironmentUnusable` for other observations, and for actions that are not discrete.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], *, name: str) -> None:
        super().__init__()
        self._env = env
        layout, tile_px = _declared(env, "view_layout", ViewLayout), _declared(env, "tile_size", int)
        self._sense = sense_of(env.observation_space, name, layout, tile_px)
        num_actions, self._to_action = joint_action_of(env.action_space, name)
        self.spec = EnvSpec(name=name, agents=("agent_0",), num_actions=num_actions, layout=self._sense.layout)
        self._is_over = False

    @property
    def truth(self) -> Any:
        """The environment itself, without wrappers, for those who may look at more than is shown."""
        return self._env.unwrapped

    def _begin(self, seed: int) -> Observed:
        observation, _ = self._env.reset(seed=seed % SEED_BOUND)
        self._is_over = False
        return self._perceive(observation)

    def _advance(self, actions: Int32Array) -> Stepped:
        assert not self._is_over, f"{self.spec.name}: step after the end of the episode"
        observation, reward, terminated, truncated, _ = self._env.step(self._to_action(int(actions[0])))
        self._is_over = bool(terminated or truncated)
        return Stepped(
            observed=self._perceive(observation),
            rewards=np.array([reward], np.float32),
            terminated=np.array([terminated], np.bool_),
            truncated=np.array([truncated], np.bool_),
            changes=NO_CHANGES,
        )

    def _perceive(self, observation: Any) -> Observed:
        views: Any = self._sense.read(observation)[None]
        return Observed(views, np.zeros((1, 2), np.int32))
