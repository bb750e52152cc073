"""Builds a world host from its settings: everything that its process needs, and nothing of how it is reached."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from actors.collection import freeze_imports
from actors.host_config import WorldHostConfig
from actors.ports import InsertLimiter, ReplaySink, WeightsSource
from actors.settings import EnvSettings
from actors.world_host import WorldHost
from learner.allocation import keep_freed_memory
from world.model.tokenizer_files import load_tokenizer
from world.model.world_model import WorldModelConfig
from world.store.link import PROMPTLY_S
from world.store.records import Durability
from world.store.redis_store import RedisWorldStore
from world.tick import TickConfig, Ticker
from world.warmup import TOKENIZER_FILE, spec_of


@dataclass(frozen=True, kw_only=True, slots=True)
class HostSettings:
    """What a world host is built from."""

    env: EnvSettings
    redis_url: str
    durability: Durability
    shards: tuple[str, ...]
    """Names of the replay shards."""
    host: WorldHostConfig
    tick: TickConfig
    model: WorldModelConfig


def build_host(
    name: str, settings: HostSettings, *, sink: ReplaySink, limiter: InsertLimiter, weights: WeightsSource
) -> WorldHost:
    """Return a host without worlds. Raises `StoreUnavailable`, `UnsafeServer`, `EnvironmentUnusable`."""
    os.nice(settings.host.niceness)
    torch.set_num_threads(settings.host.torch_threads)
    keep_freed_memory()
    env = settings.env
    tokenizer = load_tokenizer(Path(env.warmup_directory) / TOKENIZER_FILE)
    store = RedisWorldStore.connect(
        settings.redis_url,
        durability=settings.durability,
        lease_s=settings.host.lease_s,
        timeout_s=PROMPTLY_S,
    )
    spec = spec_of(env.env, env.num_agents)
    host = WorldHost(
        name,
        config=settings.host,
        store=store,
        inbox=store.inbox(),
        sink=sink,
        limiter=limiter,
        weights=weights,
        ticker=Ticker(spec, tokenizer, settings.tick, settings.model),
        memory_shape=(len(spec.agents), settings.model.memory_size),
    )
    freeze_imports()
    return host
