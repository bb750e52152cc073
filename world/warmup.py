"""Warm-up: before the first tick, the tokenizer is made and frozen, and held-out worlds are recorded.

Axes: A agents, T ticks, H × W cells of a window, p pixels on a side of a cell.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import Protocol, runtime_checkable

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from world.durable import write_file
from world.envs.catalog import make_env, make_policy
from world.envs.grounded import EnvSpec, GroundedEnv, Int32Array, Uint8Array
from world.errors import CheckpointError, ConfigError, ReplayError
from world.evaluation.one_step import HeldOut
from world.field import Uint16Array
from world.live import LiveWorld, begin
from world.model.fsq import FsqConfig, train_fsq
from world.model.tokenizer import DiscreteTokenizer, PatchTokenizer, Tokenizer, build_codebook, patches_of
from world.model.tokenizer_files import load_tokenizer, save_tokenizer
from world.model.world_model import WorldModelConfig
from world.snapshot import WorldId
from world.tick import TickConfig, Ticker
from world.trajectory import Transitions

TOKENIZER_FILE = "tokenizer.safetensors"
HELD_OUT_FILE = "held_out.safetensors"
_ORACLE, _WORLDS = "oracle_tokens", "worlds"
_HELD_OUT_SEED = 1 << 40
"""Where the seeds of held-out worlds begin; training worlds are seeded below."""


@runtime_checkable
class Surveyed(Protocol):
    """An environment that can show every patch of its present map, as one would meet them by walking everywhere."""

    def survey(self) -> Uint8Array:
        """Return patches (n, p, p, 3)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WarmupConfig:
    """How much is looked at before the run."""

    vocab_size: int = 1024
    """Tokens of a patch codebook, used or not: the model's vocabulary."""
    explored_seeds: int = 24
    """Worlds in which agents roam to meet patches."""
    explored_ticks: int = 150
    """Ticks in each of them."""
    surveyed_seeds: int = 96
    """Further worlds of which only the map is looked at, where an environment can show it."""
    max_patches: int = 1000
    """An environment with more distinct patches than this is learned by `fsq` instead."""
    fsq: FsqConfig = field(default_factory=FsqConfig)
    held_out_seeds: int = 12
    """Worlds on which the model is judged and never trained."""
    held_out_ticks: int = 160
    """Ticks recorded of each, of which every `held_out_stride`-th of the later half is kept."""
    held_out_stride: int = 4

    def __post_init__(self) -> None:
        for name in ("explored_seeds", "explored_ticks", "held_out_seeds", "held_out_ticks", "held_out_stride"):
            if getattr(self, name) < 1:
                raise ConfigError(f"warmup.{name} must be >= 1, got {getattr(self, name)}")
        if self.held_out_ticks < 2 * self.held_out_stride:
            raise ConfigError(
                f"warmup.held_out_ticks must be >= 2 × held_out_stride, so that ticks are kept, got "
                f"{self.held_out_ticks} and {self.held_out_stride}"
            )
        if not 2 <= self.max_patches < self.vocab_size <= 60_000:
            raise ConfigError(
                f"warmup needs 2 <= max_patches < vocab_size <= 60000, got {self.max_patches} and {self.vocab_size}"
            )


def prepare(
    env_name: str,
    config: WarmupConfig,
    directory: Path,
    *,
    num_agents: int | None = None,
    memory_size: int,
    tick: TickConfig,
    progress: Callable[[str, float], None],
) -> None:
    """Make the tokenizer and the held-out ticks in `directory`, whatever of them is not there yet.

    `progress` is told what is being done and which share of it is. Raises `EnvironmentUnusable`, `CheckpointError`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    env = make_env(env_name, num_agents=num_agents)
    path = directory / TOKENIZER_FILE
    if not path.exists():
        save_tokenizer(make_tokenizer(env, config, progress), path)
    if not (directory / HELD_OUT_FILE).exists():
        held_out = record_held_out(
            env_name,
            load_tokenizer(path),
            config,
            num_agents=num_agents,
            memory_size=memory_size,
            tick=tick,
            progress=progress,
        )
        save_held_out(held_out, directory / HELD_OUT_FILE)


def make_tokenizer(env: GroundedEnv, config: WarmupConfig, progress: Callable[[str, float], None]) -> Tokenizer:
    """Return a codebook where the environment draws few distinct patches, else a trained autoencoder."""
    layout = env.spec.layout
    if not layout.tile_px:
        return DiscreteTokenizer(layout)
    images, patches = [], [np.zeros((0, layout.tile_px, layout.tile_px, 3), np.uint8)]
    for done, views in _explored(env, config):
        progress("looking at worlds", done)
        images.append(views)
        distinct = patches_of(views, layout)
        patches.append(distinct.reshape(-1, *distinct.shape[3:]))
        if len(patches) > 64:
            patches = [build_codebook(np.concatenate(patches), config.max_patches + 1)]
    if isinstance(env, Surveyed):
        for seed in range(config.explored_seeds, config.explored_seeds + config.surveyed_seeds):
            env.reset(seed)
            patches.append(env.survey())
    codebook = build_codebook(np.concatenate(patches), config.max_patches + 1)
    if len(codebook) <= config.max_patches:
        return PatchTokenizer(layout, codebook, config.vocab_size)
    return train_fsq(
        np.concatenate(images),
        layout,
        config.fsq,
        seed=0,
        clock=monotonic,
        progress=lambda done: progress("training the tokenizer", done),
    )


@runtime_checkable
class Revealed(Protocol):
    """An environment that can show any cell as it is now, seen or not."""

    def patches_at(self, y: Int32Array, x: Int32Array) -> Uint8Array:
        """Return patches (…, p, p, 3) of cells (…)."""


def record_held_out(
    env_name: str,
    tokenizer: Tokenizer,
    config: WarmupConfig,
    *,
    num_agents: int | None,
    memory_size: int,
    tick: TickConfig,
    progress: Callable[[str, float], None],
) -> HeldOut:
    """Return ticks (T, A, …) of worlds that are never trained on, and the truth of their windows if there is one."""
    worlds = [
        begin(
            WorldId(f"held-out-{i}"),
            env_name=env_name,
            seed=_HELD_OUT_SEED + i,
            memory_size=memory_size,
            num_agents=num_agents,
        )
        for i in range(config.held_out_seeds)
    ]
    assert worlds[0].env is not None
    # What befalls by chance cannot be foretold; events have a protocol of their own.
    quiet = replace(tick, event_rate=0.0)
    ticker = Ticker(worlds[0].env.spec, tokenizer, quiet, WorldModelConfig(memory_size=memory_size))
    rows: list[Transitions] = []
    truths: list[Uint16Array] = []
    of: list[int] = []
    for number in range(config.held_out_ticks):
        progress("recording held-out worlds", number / config.held_out_ticks)
        if number < config.held_out_ticks // 2 or number % config.held_out_stride:
            ticker.tick(worlds)
            continue
        truth = [_truth(ticker, world, tokenizer) for world in worlds]
        for world, (known, done) in enumerate(zip(truth, ticker.tick(worlds), strict=True)):
            if done.row is not None:
                rows.append(done.row)
                of.append(world)
                truths += [] if known is None else [known]
    return HeldOut(Transitions.stack(rows), np.stack(truths) if truths else None, np.array(of))


def _truth(ticker: Ticker, world: LiveWorld, tokenizer: Tokenizer) -> Uint16Array | None:
    env: object = world.env
    # The cells of a screen are no places of the environment's.
    is_map = bool(tokenizer.layout.map_rows)
    if is_map and isinstance(env, Revealed) and isinstance(tokenizer, PatchTokenizer):
        return tokenizer.encode_patches(env.patches_at(*ticker.window_cells(world)))
    return None


def save_held_out(held_out: HeldOut, path: Path) -> None:
    """Write columns as safetensors; the file appears whole or not at all. Raises `DiskFull`."""
    columns = held_out.ticks.columns()
    if held_out.oracle is not None:
        columns[_ORACLE] = held_out.oracle
    if held_out.worlds is not None:
        columns[_WORLDS] = held_out.worlds
    write_file(path, save({name: np.ascontiguousarray(column) for name, column in columns.items()}))


def load_held_out(path: Path) -> HeldOut:
    """Read columns back. Raises `CheckpointError` if the file is missing or malformed."""
    try:
        columns = load_file(path)
        oracle, worlds = columns.pop(_ORACLE, None), columns.pop(_WORLDS, None)
        return HeldOut(Transitions.from_columns(columns), oracle, worlds)
    except (OSError, SafetensorError, ReplayError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); delete it, and it is recorded anew") from error


def _explored(env: GroundedEnv, config: WarmupConfig) -> Iterator[tuple[float, Uint8Array]]:
    """Yield the share done, and views (A, height, width, 3) that agents met."""
    for seed in range(config.explored_seeds):
        policy, observed = make_policy("mixed", env.spec, seed), env.reset(seed)
        for tick in range(config.explored_ticks):
            if tick % 4 == 0:
                yield (seed + tick / config.explored_ticks) / config.explored_seeds, observed.views.astype(np.uint8)
            actions: Int32Array = policy.act(env, tick)
            step = env.step(actions)
            observed = step.observed
            if (step.terminated | step.truncated).all():
                break


def spec_of(env_name: str, num_agents: int | None = None) -> EnvSpec:
    """Return the fixed facts of an environment. Raises `EnvironmentUnusable`."""
    return make_env(env_name, num_agents=num_agents).spec
