"""From a name to an environment, and from a name to a policy that makes data in it."""

import importlib
import re
from dataclasses import replace
from typing import Any

from world.envs.grounded import DataPolicy, EnvSpec, GroundedEnv
from world.errors import EnvironmentUnusable

DEFAULT_POLICY = "mixed"
"""The data policy that every environment has."""
_HOMESTEAD = re.compile(r"homestead(-hard|-turned|-hidden)?(?::(\d+)x(\d+)(?:x(\d+))?)?")
_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_REGISTERED_BY = {"MiniGrid-": "minigrid", "BabyAI-": "minigrid", "ALE/": "ale_py"}
_REMEDIES = {
    "crafter": "install it with: pip install 'living-worlds[crafter]'",
    "minigrid": "install it with: pip install 'living-worlds[minigrid]'",
    "ale_py": "install it with: pip install ale-py (mind its licence, GPL-2)",
}


def make_env(name: str, *, num_agents: int | None = None) -> GroundedEnv:
    """Return the environment of a name.

    `homestead`, `homestead:64x64x8` (height × width × agents), `homestead-hard` (noise, night and occlusion),
    `homestead-turned` (views turned with the heading), `homestead-hidden` (switches that do not show whether they were
    thrown, and gates that have to be tried), all with sizes too; `crafter`; the id of any Gymnasium
    environment; or `module:factory` of a function that returns a PettingZoo `ParallelEnv` or a Gymnasium `Env`.

    Raises `EnvironmentUnusable` if there is none, if it is not installed, if it has not `num_agents` agents, or if
    its observations or actions cannot be used.
    """
    env = _make(name, num_agents)
    if num_agents is not None and len(env.spec.agents) != num_agents:
        raise EnvironmentUnusable(
            f"{name}: it has {len(env.spec.agents)} agents, asked for {num_agents}; leave the number out"
        )
    return env


def make_policy(name: str, spec: EnvSpec, seed: int) -> DataPolicy:
    """Return the scripted policy of a name, made for the environment of `spec`.

    `mixed` and `random` are for any environment. Homestead also has market, stroller, explorer, patrol, builder,
    courier, peddler, follower, forager, gatekeeper, trader, barterer, meddler and vault; crafter has collector,
    MiniGrid's memory tasks have chooser. Raises `EnvironmentUnusable` for any other.
    """
    from world.envs.policies import RandomPolicy

    known: tuple[str, ...] = (DEFAULT_POLICY,)
    if name == "random":
        return RandomPolicy(spec, seed)
    if _HOMESTEAD.fullmatch(spec.name):
        from world.envs.homestead.policies import HOMESTEAD_POLICIES, HomesteadPolicy

        if name in HOMESTEAD_POLICIES:
            return HomesteadPolicy(name, spec, seed)
        known = HOMESTEAD_POLICIES
    elif spec.name == "crafter":
        _require("crafter", spec.name)
        from world.envs.crafter_policies import CRAFTER_POLICIES, CrafterPolicy

        if name in CRAFTER_POLICIES:
            return CrafterPolicy(name, spec, seed)
        known = CRAFTER_POLICIES
    elif spec.name.startswith("MiniGrid-Memory") and name != DEFAULT_POLICY:
        _require("minigrid", spec.name)
        from world.envs.minigrid_policies import MEMORY_POLICIES, ChooserPolicy

        if name in MEMORY_POLICIES:
            return ChooserPolicy(name, spec, seed)
        known = (DEFAULT_POLICY, *MEMORY_POLICIES)
    elif name == DEFAULT_POLICY:
        return RandomPolicy(spec, seed)
    raise EnvironmentUnusable(f"{spec.name}: there is no data policy {name!r}; there are random, {', '.join(known)}")


def _make(name: str, num_agents: int | None) -> GroundedEnv:
    if match := _HOMESTEAD.fullmatch(name):
        return _homestead(match, num_agents)
    if name == "crafter":
        _require("crafter", name)
        from world.envs.crafter import CrafterGrounded

        return CrafterGrounded()
    if _FACTORY.fullmatch(name):
        return _from_factory(name)
    return _from_gymnasium(name)


def _homestead(name: re.Match[str], num_agents: int | None) -> GroundedEnv:
    from world.envs.homestead.config import HomesteadConfig
    from world.envs.homestead.grounded import HomesteadGrounded

    variant, height, width, agents = name.groups()
    default = HomesteadConfig()
    config = HomesteadConfig(
        height=int(height) if height else default.height,
        width=int(width) if width else default.width,
        num_agents=int(agents) if agents else num_agents or default.num_agents,
    )
    if variant == "-hard":
        config = replace(config, sensor_noise=12, dimming=0.5, occlusion=0.05)
    elif variant == "-turned":
        config = replace(config, orientation="heading")
    elif variant == "-hidden":
        config = replace(config, hidden_switches=True)
    size = f"{config.height}x{config.width}x{config.num_agents}"
    return HomesteadGrounded(config, name=f"homestead{variant or ''}:{size}")


def _from_gymnasium(name: str) -> GroundedEnv:
    import gymnasium

    from world.envs.gymnasium import GymnasiumGrounded

    for prefix, module in _REGISTERED_BY.items():
        if name.startswith(prefix):
            gymnasium.register_envs(_require(module, name))
    try:
        env = gymnasium.make(name, disable_env_checker=True)
    except (gymnasium.error.Error, ImportError, ValueError) as error:
        raise EnvironmentUnusable(
            f"{name}: neither homestead, nor crafter, nor module:factory, and Gymnasium cannot make it ({error})"
        ) from error
    return GymnasiumGrounded(env, name=name)


def _from_factory(name: str) -> GroundedEnv:
    import gymnasium

    from world.envs.gymnasium import GymnasiumGrounded
    from world.envs.pettingzoo import PettingZooGrounded

    module_name, _, factory_name = name.partition(":")
    module = _require(module_name, name)
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        raise EnvironmentUnusable(f"{name}: module {module_name} has no function {factory_name}")
    env: Any = factory()
    if isinstance(env, gymnasium.Env):
        return GymnasiumGrounded(env, name=name)
    if hasattr(env, "possible_agents") and hasattr(env, "step") and not hasattr(env, "agent_iter"):
        return PettingZooGrounded(env, name=name)
    raise EnvironmentUnusable(
        f"{name}: it returned {type(env).__name__}, expected a PettingZoo ParallelEnv or a Gymnasium Env; an AEC "
        "environment becomes one with pettingzoo.utils.conversions.aec_to_parallel"
    )


def _require(module: str, name: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        remedy = _REMEDIES.get(module, "install what provides it")
        raise EnvironmentUnusable(f"{name}: module {module} cannot be imported ({error}); {remedy}") from error
