"""The processes of a run as Ray actors: named, detached, restarted for ever, found by name."""

import contextlib
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util import list_named_actors

from actors.clients import LEARNER, LIMITER, WEIGHTS, Peer, RayCall, told
from actors.host_process import HostSettings
from actors.kept_limiter import LimiterSettings
from actors.learner_actor import LearnerActor
from actors.learner_process import LearnerSettings
from actors.limiter_actor import LimiterActor
from actors.ports import Call, HostReport, LimiterReport, ShardReport, WeightsReport
from actors.replay_shard_actor import ReplayShardActor, ShardSettings
from actors.settings import EnvSettings, to_text
from actors.weight_store_actor import WeightStoreActor
from actors.world_host_actor import WorldHostActor
from cluster.config import RunConfig
from cluster.run_folder import RunFolder
from learner.limiter import LimiterState
from learner.loop import LearnerReport
from learner.start import NOTHING
from world.errors import LivingWorldsError
from world.snapshot import WorldId

_GONE_WITHIN_S = 5.0


@dataclass(frozen=True, slots=True)
class _Recipe:
    """How an actor is made: plain values only."""

    kind: type
    arguments: tuple[str, ...]
    num_cpus: float = 0.0
    num_gpus: float = 0.0


class RayFleet:
    """Makes the actors of a run and sends them their calls."""

    def __init__(
        self, config: RunConfig, folder: RunFolder, *, num_agents: int, namespace: str, redis_url: str
    ) -> None:
        """Take the agents of a world, too: how much its chunks hold depends on them."""
        self._namespace = namespace
        self._recipes = _recipes(config, folder, num_agents, namespace, redis_url)
        self._peers = {name: Peer(name, namespace) for name in self._recipes}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all actors."""
        return tuple(self._recipes)

    @staticmethod
    def num_cpus(config: RunConfig) -> float:
        """CPUs that the actors of a run ask for."""
        return float(config.num_hosts + 1)

    def ensure(self, name: str) -> None:
        """Make an actor that is not there; one that is being restarted is left alone."""
        recipe = self._recipes[name]
        ray.remote(recipe.kind).options(
            name=name,
            namespace=self._namespace,
            lifetime="detached",
            get_if_exists=True,
            max_restarts=-1,
            max_task_retries=0,
            num_cpus=recipe.num_cpus,
            num_gpus=recipe.num_gpus,
        ).remote(*recipe.arguments)

    def kill(self, name: str, pid: int | None) -> None:
        """Kill an actor's process. Ray's own way asks the process, and a stopped one does not answer."""
        if pid is not None and _is_actor_here(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            return
        with contextlib.suppress(ValueError):
            ray.kill(ray.get_actor(name, self._namespace), no_restart=False)

    def remove_all(self) -> None:
        """End all actors of this run, also those that an earlier command left behind, and wait until they are gone."""
        for name in self._recipes:
            with contextlib.suppress(ValueError):
                ray.kill(ray.get_actor(name, self._namespace), no_restart=True)
        deadline = time.monotonic() + _GONE_WITHIN_S
        while time.monotonic() < deadline and self._left():
            time.sleep(0.05)

    def wait(self, calls: Sequence[Call[Any]], timeout_s: float) -> None:
        """Return when one of the calls is done, or after a while."""
        references = [call.reference for call in calls if isinstance(call, RayCall)]
        if len(references) < len(calls):
            timeout_s = min(timeout_s, 0.05)
        if references:
            ray.wait(references, num_returns=1, timeout=timeout_s, fetch_local=False)
        else:
            time.sleep(timeout_s)

    def adopt(self, host: str, worlds: Sequence[WorldId]) -> Call[HostReport]:
        """As `WorldHost`."""
        return self._peers[host].call("adopt", list(worlds))

    def drop(self, host: str, worlds: Sequence[WorldId]) -> Call[HostReport]:
        """As `WorldHost`."""
        return self._peers[host].call("drop", list(worlds))

    def run_until(self, host: str, targets: Mapping[WorldId, int], budget_s: float) -> Call[HostReport]:
        """As `WorldHost`."""
        return self._peers[host].call("run_until", dict(targets), budget_s)

    def stop_host(self, host: str) -> Call[HostReport]:
        """As `WorldHost`."""
        return self._peers[host].call("stop")

    def train_until(self, step: int, budget_s: float) -> Call[LearnerReport]:
        """As `LearnerLoop`."""
        return self._peers[LEARNER].call("train_until", step, budget_s)

    def stop_learner(self) -> Call[LearnerReport]:
        """As `LearnerLoop`."""
        return self._peers[LEARNER].call("stop")

    def drain_limiter(self) -> Call[None]:
        """As `RateLimiter`."""
        return self._peers[LIMITER].call("drain")

    def load_limiter(self, state: LimiterState) -> None:
        """Set the limiter's counts, waiting for the answer. Raises `PeerLost`."""
        self._peers[LIMITER].ask("load", state)

    def limiter_report(self) -> Call[LimiterReport]:
        """Ask the limiter for its counts."""
        return self._peers[LIMITER].call("report")

    def shard_report(self, shard: str) -> Call[ShardReport]:
        """Ask a shard for its counts."""
        return self._peers[shard].call("report")

    def close_shard(self, shard: str) -> Call[None]:
        """As `ReplayShard`."""
        return self._peers[shard].call("close")

    def weights_report(self) -> Call[WeightsReport]:
        """Ask the weight store what it keeps."""
        return self._peers[WEIGHTS].call("report")

    def place(self, within_s: float) -> None:
        """Make all actors, and wait until each has a process.

        Raises `LivingWorldsError` naming those that found no place, and what the cluster has, and as `told` does for
        one whose process did not come up.
        """
        for name in self._recipes:
            self.ensure(name)
        ready = {self._ready(name): name for name in self._recipes}
        placed, pending = ray.wait(list(ready), num_returns=len(ready), timeout=within_s)
        for at in placed:
            # One that died answers, too.
            told(at)
        if pending:
            lacking = ", ".join(f"{ready[at]} ({self._needs(ready[at])})" for at in pending)
            raise LivingWorldsError(
                f"no place was found within {within_s:.0f} s for {lacking}; the cluster has {_cluster()}:"
                " add nodes, or choose a smaller preset"
            )

    def _left(self) -> set[str]:
        named = list_named_actors(all_namespaces=True)
        return {actor["name"] for actor in named if actor["namespace"] == self._namespace} & set(self._recipes)

    def _ready(self, name: str) -> Any:
        return ray.get_actor(name, self._namespace).__ray_ready__.remote()

    def _needs(self, name: str) -> str:
        recipe = self._recipes[name]
        return _resources({"CPU": recipe.num_cpus, "GPU": recipe.num_gpus})


def _recipes(
    config: RunConfig, folder: RunFolder, num_agents: int, namespace: str, redis_url: str
) -> dict[str, _Recipe]:
    env = EnvSettings(env=config.env, num_agents=config.num_agents, warmup_directory=str(folder.warmup))
    host = to_text(
        HostSettings(
            env=env,
            redis_url=redis_url,
            durability=config.durability,
            shards=config.shards,
            host=config.host,
            tick=config.tick,
            model=config.model,
        )
    )
    learner = to_text(
        LearnerSettings(
            env=env,
            checkpoint_directory=str(folder.checkpoints),
            start_directory="" if config.start_from == NOTHING else str(folder.start),
            shards=config.shards,
            seed=config.seed,
            device="cuda" if config.learner_gpus else "cpu",
            learner=config.learner,
            loop=config.loop,
            model=config.model,
        )
    )
    limiter = to_text(LimiterSettings(directory=str(folder.replay), limiter=config.limiter_for(num_agents)))
    recipes = {
        LIMITER: _Recipe(LimiterActor, (limiter,)),
        WEIGHTS: _Recipe(WeightStoreActor, (str(folder.weights),)),
    }
    for index, shard in enumerate(config.shards):
        settings = ShardSettings(directory=str(folder.replay / shard), seed=config.seed + index, replay=config.replay)
        recipes[shard] = _Recipe(ReplayShardActor, (to_text(settings),))
    for name in config.hosts:
        recipes[name] = _Recipe(WorldHostActor, (name, namespace, host), num_cpus=1, num_gpus=config.host_gpus)
    recipes[LEARNER] = _Recipe(LearnerActor, (namespace, learner), num_cpus=1, num_gpus=config.learner_gpus)
    return recipes


def _is_actor_here(pid: int) -> bool:
    """Return whether a process of this machine is one of Ray's actors of ours: ids of dead ones are given out anew."""
    try:
        title = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    kinds = (WorldHostActor, LearnerActor, ReplayShardActor, LimiterActor, WeightStoreActor)
    return any(title.startswith(f"ray::{kind.__name__}".encode()) for kind in kinds)


def _cluster() -> str:
    there: Mapping[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    free: Mapping[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    return f"{_resources(there)}, of which {_resources(free)} are free"


def _resources(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{resources.get(name, 0):g} {name}" for name in ("CPU", "GPU"))
