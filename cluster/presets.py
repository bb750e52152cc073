"""Presets: a run's configuration by name. A new experiment is a new function here, not a new flag."""

from collections.abc import Callable
from dataclasses import replace

from actors.host_config import WorldHostConfig
from cluster.config import RunConfig
from cluster.supervisor_config import SupervisorConfig
from learner.learner import LearnerConfig
from learner.limiter import LimiterConfig
from learner.loop import LoopConfig
from learner.recording import RecordingConfig
from learner.replay import ReplayConfig
from learner.segments import SegmentConfig
from learner.start import NOTHING
from learner.training import TrainingConfig
from world.dream import DreamConfig
from world.envs.catalog import DEFAULT_POLICY
from world.errors import ConfigError
from world.model.dynamics import DynamicsConfig
from world.model.fsq import FsqConfig
from world.model.world_model import WorldModelConfig, base, small
from world.tick import TickConfig
from world.warmup import WarmupConfig

_SHORT_CHUNKS = WorldHostConfig(chunk_ticks=8)
"""For runs of minutes: what worlds hold back is little, so collection need not be far ahead of the learner."""
_HOMESTEADS = RecordingConfig(
    most_lived_ticks=4_000, policies=("mixed", "mixed", "mixed", "market", "barterer", "meddler")
)
"""Half are lived in as those that people host, and half so that what seldom happens in them is met: gifts, exchanges of
little, and acts in the way of others."""


def homestead_tiny() -> RunConfig:
    """Eight homesteads of four agents and a model of 2.4M parameters, which begins with what is shipped: two cores."""
    return RunConfig(
        preset="homestead-tiny",
        env="homestead",
        num_agents=4,
        start_from="homestead-tiny",
        learner=LearnerConfig(own_errors=0.32),
        limiter=_limiter(2.0),
        loop=LoopConfig(publish_every_steps=25, evaluate_every_s=60.0, torch_threads=1),
        host=_SHORT_CHUNKS,
        replay=ReplayConfig(
            budget_bytes=1 << 29, chunk_ticks=_SHORT_CHUNKS.chunk_ticks, segments=SegmentConfig(quota_bytes=2 << 30)
        ),
        recording=replace(_HOMESTEADS, num_worlds=512, world_ticks=1_000, num_processes=2, budget_bytes=9 << 29),
    )


def homestead_small() -> RunConfig:
    """Sixty-four larger homesteads and a model of about 28M parameters: one GPU and a dozen cores."""
    return RunConfig(
        preset="homestead-small",
        env="homestead:64x64",
        num_agents=4,
        num_worlds=64,
        num_dreams=8,
        num_hosts=4,
        num_shards=4,
        learner_gpus=1,
        model=small(),
        learner=LearnerConfig(batch_sequences=128, sequence_ticks=4, learning_rate=6e-4, own_errors=0.32),
        limiter=LimiterConfig(samples_per_insert=4.0, min_items=16384, max_ahead_items=65536, max_insert_items=1024),
        replay=ReplayConfig(budget_bytes=4 << 30),
        recording=replace(_HOMESTEADS, num_worlds=128, num_processes=8, budget_bytes=3 << 30),
    )


def homestead_base() -> RunConfig:
    """Five hundred larger homesteads of eight agents and a model of about 143M parameters: a cluster with GPUs.

    Hosts share two GPUs for their dreams; the learner has one of its own. Weights are 0.4 GB, so they are published
    seldom, and a checkpoint with moments and average is 1.8 GB.
    """
    return RunConfig(
        preset="homestead-base",
        env="homestead:64x64",
        num_agents=8,
        num_worlds=512,
        num_dreams=64,
        num_hosts=16,
        num_shards=8,
        learner_gpus=1,
        host_gpus=0.125,
        tick=TickConfig(dream=DreamConfig(passes=2, device="cuda")),
        model=base(),
        learner=LearnerConfig(batch_sequences=128, sequence_ticks=4, learning_rate=3e-4, own_errors=0.32),
        limiter=LimiterConfig(samples_per_insert=4.0, min_items=65536, max_ahead_items=262144, max_insert_items=4096),
        loop=LoopConfig(publish_every_steps=500, evaluate_every_s=300.0, checkpoint_every_s=600.0),
        replay=ReplayConfig(budget_bytes=8 << 30),
        recording=replace(_HOMESTEADS, num_worlds=256, num_processes=8, budget_bytes=9 << 30),
    )


def crafter() -> RunConfig:
    """Eight Crafter worlds of one agent, seen through a tokenizer of a codebook or learned by fsq."""
    return RunConfig(
        preset="crafter",
        env="crafter",
        limiter=_limiter(2.0),
        learner=LearnerConfig(batch_sequences=32),
        host=_SHORT_CHUNKS,
        replay=ReplayConfig(chunk_ticks=_SHORT_CHUNKS.chunk_ticks),
        loop=LoopConfig(publish_every_steps=25, evaluate_every_s=60.0, torch_threads=1),
        recording=RecordingConfig(num_worlds=20, world_ticks=10_000, worlds_at_once=4, num_processes=2),
        training=TrainingConfig(torch_threads=1),
        # Nights come each 300 ticks, and are to be judged too.
        warmup=WarmupConfig(fsq=FsqConfig(seconds=400.0), held_out_seeds=24, held_out_ticks=400, held_out_stride=8),
    )


def smoke() -> RunConfig:
    """Everything, as small as it goes: for tests, in seconds."""
    return RunConfig(
        preset="smoke",
        env="homestead:16x16x2",
        num_worlds=3,
        num_dreams=1,
        dashboard=False,
        # However slow a machine is, everybody is placed, and stops in order.
        supervisor=SupervisorConfig(
            stall_after_s=60.0, placement_within_s=300.0, drain_within_s=120.0, stop_within_s=300.0
        ),
        host=WorldHostConfig(
            credit_items=64, chunk_ticks=16, grounded_ticks_per_s=60.0, stop_within_s=60.0, niceness=0
        ),
        model=WorldModelConfig(
            dynamics=DynamicsConfig(width=32, hidden=64, token_width=16, encoder_blocks=1, outcome_blocks=("local",)),
            memory_size=4,
        ),
        learner=LearnerConfig(batch_sequences=4, gate_f1=0.0),
        loop=LoopConfig(publish_every_steps=20, evaluate_every_s=3.0, checkpoint_every_s=4.0, torch_threads=1),
        limiter=LimiterConfig(
            samples_per_insert=1.0, min_items=256, max_ahead_items=1024, max_insert_items=64, max_sample_items=64
        ),
        replay=ReplayConfig(budget_bytes=1 << 26, chunk_ticks=16),
        recording=RecordingConfig(num_worlds=4, world_ticks=120, chunk_ticks=40, worlds_at_once=2),
        training=TrainingConfig(evaluate_every_s=3.0, checkpoint_every_s=4.0, torch_threads=1),
        warmup=WarmupConfig(explored_seeds=2, explored_ticks=40, surveyed_seeds=8, held_out_seeds=2, held_out_ticks=32),
    )


PRESETS: dict[str, Callable[[], RunConfig]] = {
    "homestead-tiny": homestead_tiny,
    "homestead-small": homestead_small,
    "homestead-base": homestead_base,
    "crafter": crafter,
    "smoke": smoke,
}


def preset(name: str) -> RunConfig:
    """Return a preset by name. Raises `ConfigError` for a name there is none of."""
    if name not in PRESETS:
        raise ConfigError(f"there is no preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]()


def of_env(config: RunConfig, env: str) -> RunConfig:
    """Return a run like `config` in any other environment, with as many agents as that has.

    Shipped weights, and data policies beside the one that every environment has, are of one family of environments,
    whatever the size of its worlds.
    """
    if env.partition(":")[0] == config.env.partition(":")[0]:
        return replace(config, env=env, num_agents=None)
    recording = replace(config.recording, policies=(DEFAULT_POLICY,))
    return replace(config, env=env, num_agents=None, start_from=NOTHING, recording=recording)


def _limiter(samples_per_insert: float) -> LimiterConfig:
    return LimiterConfig(
        samples_per_insert=samples_per_insert,
        min_items=256,
        max_ahead_items=256,
        max_insert_items=256,
        max_sample_items=256,
    )
