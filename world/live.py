"""A world that is alive in this process: begun, resumed from what was committed, or forked into a dream."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from world.envs.catalog import DEFAULT_POLICY, make_env, make_policy
from world.envs.grounded import DataPolicy, GroundedEnv, Stepped, announce
from world.errors import CorruptRecord, EnvironmentUnusable
from world.field import NEVER
from world.snapshot import Kind, Snapshot, TickEffects, WorldId


@dataclass(slots=True)
class LiveWorld:
    """One world, advanced in place by a `Ticker`. If its commit is refused it is dropped, and loaded again."""

    world: WorldId
    env_name: str
    snapshot: Snapshot
    env: GroundedEnv | None
    """What drives a grounded world; None: it is dreamed."""
    policy: DataPolicy | None
    """Who acts in a grounded world."""
    ended: bool = False
    """The next tick begins a new episode."""
    is_first: bool = False
    """The present tick began an episode."""
    lost_episode: str = ""
    """Why a resumed environment could not go on with its episode and begins a new one; empty if it could."""

    @property
    def kind(self) -> Kind:
        """Grounded or dreamed."""
        return self.snapshot.kind

    def keyframe(self) -> Snapshot:
        """Return the snapshot with the environment's own state; without one, the next tick begins an episode."""
        if self.env is None or self.ended:
            return replace(self.snapshot, env=b"")
        return replace(self.snapshot, env=self.env.snapshot())


def begin(
    world: WorldId,
    *,
    env_name: str,
    seed: int,
    memory_size: int,
    num_agents: int | None = None,
    policy: str = DEFAULT_POLICY,
) -> LiveWorld:
    """Make a new grounded world before its first tick, which will be the reset of its first episode.

    Its agents live by a data policy; resumed, by that of every world.
    """
    env = make_env(env_name, num_agents=num_agents)
    snapshot = Snapshot.empty("grounded", seed, env.spec.layout, len(env.spec.agents), memory_size)
    return LiveWorld(world, env_name, snapshot, env, make_policy(policy, env.spec, seed), ended=True)


def resume(
    world: WorldId, *, env_name: str, snapshot: Snapshot, effects: Iterable[TickEffects], each_verified: bool = True
) -> LiveWorld:
    """Bring a world back from its keyframe and the log since, every tick verified, or the last, which tells of all.

    A grounded world's environment repeats the logged actions and events. One that does not reproduce its own past keeps
    the committed field's history, and begins a new episode with the next tick; `lost_episode` says why.
    """
    effects = tuple(effects)
    if snapshot.kind == "dreamed":
        for tick in effects:
            snapshot.apply(tick, verify=each_verified or tick is effects[-1])
        return LiveWorld(world, env_name, snapshot, None, None)
    env = make_env(env_name, num_agents=snapshot.field.num_agents)
    live = LiveWorld(
        world, env_name, snapshot, env, make_policy(DEFAULT_POLICY, env.spec, snapshot.seed), ended=not snapshot.env
    )
    live.is_first = bool(snapshot.env) and _begins_an_episode(snapshot)
    poses = snapshot.poses
    try:
        if snapshot.env:
            poses = env.restore(snapshot.env).poses
    except EnvironmentUnusable as error:
        live.lost_episode = str(error)
    for tick in effects:
        snapshot.apply(tick, verify=each_verified or tick is effects[-1])
        live.is_first = tick.is_first
        live.ended = bool((tick.terminated | tick.truncated).all())
        if tick.is_first:
            live.lost_episode = ""
            poses = env.reset(episode_seed(snapshot)).poses
        elif not live.lost_episode:
            announce(env, tick.events)
            step = env.step(tick.actions)
            poses = step.observed.poses
            live.lost_episode = _departure(step, tick)
    if not live.lost_episode and (poses != snapshot.poses).any():
        live.lost_episode = "its agents are not where the committed poses are"
    live.ended = live.ended or bool(live.lost_episode)
    return live


def _departure(step: Stepped, logged: TickEffects) -> str:
    """Return how a repeated step differs from what was logged; empty if it does not."""
    repeated = {
        "poses": (step.observed.poses, logged.poses),
        "rewards": (step.rewards, logged.rewards),
        "ends": (step.terminated | step.truncated, logged.terminated | logged.truncated),
    }
    wrong = [name for name, (again, before) in repeated.items() if not np.array_equal(again, before, equal_nan=True)]
    return f"repeating tick {logged.tick} led to other {' and '.join(wrong)}" if wrong else ""


def _begins_an_episode(snapshot: Snapshot) -> bool:
    """Whether no cell was set before this tick, as is so only where the field has just been emptied."""
    set_at = np.concatenate([layer.arrays()["set_at"].ravel() for layer in snapshot.field.layers])
    return bool((set_at[set_at != NEVER] == snapshot.tick).all())


def fork_dream(snapshot: Snapshot, seed: int) -> Snapshot:
    """Return a dreamed world that begins as `snapshot` is now, with randomness of its own."""
    return replace(
        snapshot,
        kind="dreamed",
        seed=seed,
        field=snapshot.field.copy(),
        poses=snapshot.poses.copy(),
        memory=snapshot.memory.copy(),
        env=b"",
    )


def episode_seed(snapshot: Snapshot) -> int:
    """Return the seed of the present episode of a world."""
    if snapshot.kind != "grounded":
        raise CorruptRecord("a dreamed world has no episodes to reset")
    return int(np.random.SeedSequence([snapshot.seed, snapshot.episode]).generate_state(1)[0])
