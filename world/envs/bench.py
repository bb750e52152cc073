"""How fast an environment is: agent-ticks a second, with all that a host asks for in a tick."""

from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np

from world.envs.catalog import DEFAULT_POLICY, make_env, make_policy
from world.envs.grounded import DataPolicy, GroundedEnv
from world.errors import ConfigError

_PLAY_TICKS = 64
_REPEATS = 20


def bench_env(name: str, seconds: float, seed: int) -> dict[str, Any]:
    """Measure an environment for about `seconds` on the present core.

    `value` is agent-ticks a second under random actions, views, poses and changes included. Details: the same with
    the data policy, milliseconds to reset, snapshot, restore and clone (where it can), bytes of the state.
    Raises `EnvironmentUnusable`, and `ConfigError` if `seconds` is not positive.
    """
    if seconds <= 0:
        raise ConfigError(f"bench: seconds must be positive, got {seconds}")
    env = make_env(name)
    num_agents = len(env.spec.agents)
    env.reset(seed)
    random, ticks, resets = make_policy("random", env.spec, seed), 0, [0]
    drawn = [random.act(env, tick) for tick in range(_PLAY_TICKS)]
    started = perf_counter()
    while (elapsed := perf_counter() - started) < seconds:
        _step(env, drawn[ticks % _PLAY_TICKS], seed, resets)
        ticks += 1
    scripted = _play(env, make_policy(DEFAULT_POLICY, env.spec, seed), seconds / 2, seed)
    details: dict[str, Any] = {
        "agents": num_agents,
        "seconds": round(elapsed, 3),
        "ticks": ticks,
        "episodes": resets[0] + 1,
        "with_data_policy": round(scripted * num_agents, 1),
        "reset_ms": _milliseconds(lambda: env.reset(seed)),
    }
    env.reset(seed)
    for tick in range(_PLAY_TICKS):
        _step(env, drawn[tick], seed, resets)
    blob = env.snapshot()
    details |= {
        "state_bytes": len(blob),
        "snapshot_ms": _milliseconds(env.snapshot),
        "restore_ms": _milliseconds(lambda: env.restore(blob)),
    }
    clone = getattr(env, "clone", None)
    if clone is not None:
        details["clone_ms"] = _milliseconds(clone)
    rate = round(ticks * num_agents / elapsed, 1)
    return {
        "bench": "env",
        "value": rate,
        "unit": "agent-ticks/s",
        "baseline": None,
        "ratio": None,
        "details": {"env": name, **details},
    }


def _play(env: GroundedEnv, policy: DataPolicy, seconds: float, seed: int) -> float:
    """Return ticks a second with a policy that looks and decides."""
    env.reset(seed)
    ticks, resets, started = 0, [0], perf_counter()
    while (elapsed := perf_counter() - started) < seconds:
        _step(env, policy.act(env, ticks), seed, resets)
        ticks += 1
    return ticks / elapsed


def _step(env: GroundedEnv, actions: Any, seed: int, resets: list[int]) -> None:
    step = env.step(actions)
    if (step.terminated | step.truncated).all():
        resets[0] += 1
        env.reset(seed + resets[0])


def _milliseconds(action: Callable[[], object]) -> float:
    """Return the median time of a few calls."""
    times = []
    for _ in range(_REPEATS):
        started = perf_counter()
        action()
        times.append(perf_counter() - started)
    return round(float(np.median(times)) * 1e3, 4)
