"""Builds the learner's loop from its settings, at the newest checkpoint if there is one."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import torch

from actors.settings import EnvSettings
from learner.checkpoint import Manifest, has_checkpoint, load_newest, save_checkpoint
from learner.learner import Learner, LearnerConfig
from learner.loop import CollectionState, LearnerLoop, LoopConfig
from learner.prefetch import PrefetchConfig, Prefetcher, SampleLimiter, SequenceSource
from learner.restored import restore
from learner.weights import WeightSet
from world.envs.grounded import EnvSpec
from world.model.tokenizer import Tokenizer
from world.model.tokenizer_files import load_tokenizer
from world.model.world_model import WorldModelConfig
from world.warmup import HELD_OUT_FILE, TOKENIZER_FILE, load_held_out, spec_of


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnerSettings:
    """What the learner is built from."""

    env: EnvSettings
    checkpoint_directory: str
    start_directory: str
    """Of the weights to begin with before the first checkpoint; empty: nothing."""
    shards: tuple[str, ...]
    """Names of the replay shards."""
    seed: int
    device: str
    """As torch names it."""
    learner: LearnerConfig
    loop: LoopConfig
    model: WorldModelConfig


class Outside(Protocol):
    """What the learner reaches beyond its process."""

    def publish(self, weights: WeightSet) -> None:
        """Hand over weights; does not wait."""

    def newest_published(self) -> tuple[int, int]:
        """Return (epoch, version) of what was published last; (0, 0) if nothing. Raises `PeerLost`."""

    def collection_state(self) -> CollectionState | None:
        """Return the state of limiter and replay; None if one is away."""


class CheckpointingPorts:
    """`LoopPorts` that save to a directory and reach the rest through `Outside`."""

    def __init__(self, settings: LearnerSettings, tokenizer: Tokenizer, outside: Outside) -> None:
        self._settings, self._tokenizer, self._outside = settings, tokenizer, outside

    def publish(self, weights: WeightSet) -> None:
        """As `LoopPorts`."""
        self._outside.publish(weights)

    def collection_state(self) -> CollectionState | None:
        """As `LoopPorts`."""
        return self._outside.collection_state()

    def save(self, learner: Learner, epoch: int, version: int, collection: CollectionState) -> None:
        """As `LoopPorts`."""
        manifest = Manifest(
            step=learner.step,
            weights_epoch=epoch,
            weights_version=version,
            limiter=collection.limiter,
            replay=collection.shards,
            random=learner.random_state(),
            model_config=asdict(self._settings.model),
            tokenizer_digest=self._tokenizer.digest,
        )
        save_checkpoint(Path(self._settings.checkpoint_directory), learner.state_parts(), manifest)


def build_loop(
    settings: LearnerSettings, *, limiter: SampleLimiter, source: SequenceSource, outside: Outside
) -> LearnerLoop:
    """Return the loop, at the newest checkpoint if there is one. Raises `CheckpointError`, `EnvironmentUnusable`."""
    torch.set_num_threads(settings.loop.torch_threads)
    spec = spec_of(settings.env.env, settings.env.num_agents)
    warmup = Path(settings.env.warmup_directory)
    tokenizer = load_tokenizer(warmup / TOKENIZER_FILE)
    learner = Learner(
        settings.learner,
        settings.model,
        spec,
        tokenizer,
        load_held_out(warmup / HELD_OUT_FILE),
        seed=settings.seed,
        device=settings.device,
    )
    epoch, version = _restore(learner, settings)
    published_epoch, published_version = outside.newest_published()
    return LearnerLoop(
        settings.loop,
        learner=learner,
        prefetcher=Prefetcher(_prefetch_config(settings, spec), limiter=limiter, source=source),
        ports=CheckpointingPorts(settings, tokenizer, outside),
        # Versions that were published after the checkpoint are forgotten here, so the epoch tells them apart.
        epoch=max(epoch, published_epoch) + 1,
        version=max(version, published_version),
    )


def _restore(learner: Learner, settings: LearnerSettings) -> tuple[int, int]:
    directory = Path(settings.checkpoint_directory)
    if not has_checkpoint(directory):
        if settings.start_directory:
            start = restore(Path(settings.start_directory))
            learner.begin_from(start.weights, step=start.step)
        return 0, 0
    checkpoint = load_newest(directory)
    manifest = checkpoint.manifest
    learner.load_parts(checkpoint.parts, step=manifest.step, random_state=manifest.random)
    return manifest.weights_epoch, manifest.weights_version


def _prefetch_config(settings: LearnerSettings, spec: EnvSpec) -> PrefetchConfig:
    return PrefetchConfig(
        num_sequences=settings.learner.batch_sequences,
        length=settings.learner.sampled_ticks,
        num_agents=len(spec.agents),
        depth=settings.loop.prefetch_batches,
    )
