"""One run in which several architectures are trained on the same data for the same seconds, and asked the same.

Seconds are of the processor, not of the clock, and the trainings of one round run beside each other, each a process of
one thread: so a machine that does other things too takes from all of them alike. The learning rate of each is the one
of three that did best on validation worlds after a short training; what is reported is of other worlds.
"""

import json
import math
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from learner.allocation import keep_freed_memory
from learner.frames import read_segment
from learner.peers.contenders import NAMES, SPATIO_TEMPORAL, Contender, FramesContender, contender, view_of
from learner.peers.frames import Columns
from learner.peers.scoring import Asked, Foreseen, Score, as_plain, ask, copying, scores
from learner.peers.spatio_temporal import SpatioTemporalConfig
from learner.recording import SEGMENTS
from learner.restored import WARMUP
from world.envs.grounded import EnvSpec
from world.errors import ConfigError
from world.evaluation.one_step import HeldOut
from world.live import begin
from world.model.tokenizer import Tokenizer
from world.model.tokenizer_files import load_tokenizer
from world.model.world_model import tiny
from world.snapshot import WorldId
from world.tick import TickConfig, Ticker
from world.trajectory import Transitions
from world.warmup import TOKENIZER_FILE, load_held_out, save_held_out, spec_of

_HELD_OUT_SEED = 1 << 41
"""Where the seeds of these held-out worlds begin: neither trainings nor their own held-out worlds reach it."""
_ASKED_WORLDS, _ASKED_S = 16, 3.0
"""Ticks answered at once, and processor seconds, of the measured answering."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparisonConfig:
    """How much is trained and asked."""

    seconds: float = 480.0
    """Processor seconds that each architecture is trained for."""
    learning_rates: tuple[float, ...] = (1e-3, 2e-3, 4e-3)
    """Peaks that are tried."""
    trial_share: float = 0.2
    """Part of `seconds` for which each of them is tried: long enough to come to the peak and leave it."""
    train_worlds: int = 16
    """Recorded worlds that are trained on."""
    validation_worlds: int = 4
    test_worlds: int = 16
    world_ticks: int = 500
    """Ticks that each held-out world lives."""
    first: int = 180
    """Tick from which on it is asked about."""
    stride: int = 16
    """Every which tick is asked about."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.seconds > 0 or not self.learning_rates or not 0 < self.trial_share <= 1:
            raise ConfigError("comparison: seconds, learning_rates and trial_share must be positive")


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One training, in a process of its own. Plain values, so that it can be sent there."""

    name: str
    learning_rate: float
    seconds: float
    data: Path
    held_out: tuple[Path, ...]
    """Files of the worlds that it is asked about."""
    config: ComparisonConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """What came of one training."""

    foreseen: tuple[Foreseen, ...]
    """Of each world that was asked about."""
    steps: int
    agent_ticks: int
    """Trained on, each time that one was."""
    cpu_s: float
    wall_s: float
    loss: float
    """Mean of the last tenth of the steps."""
    num_parameters: int
    answers_per_s: dict[str, float]
    """Agent-ticks answered in a processor second, by way of answering."""


def compare(data: Path, config: ComparisonConfig, tell: Callable[[str], None]) -> dict[str, Any]:
    """Return the scores of all architectures and of copying, and what they cost.

    `data` is a folder of recorded worlds, as `worlds train --data` makes it; it is only read. Raises `ConfigError`.
    """
    source = _Source.open(data)
    with tempfile.TemporaryDirectory(prefix="worlds-peers-") as directory:
        tell("recording held-out worlds")
        worlds, field_bytes = _live(source, config)
        files = tuple(_kept(world, Path(directory) / f"{i}.safetensors") for i, world in enumerate(worlds))
        asked = [_asked(world, source, config) for world in worlds]
        split = config.validation_worlds
        base = Job(name="", learning_rate=0.0, seconds=config.seconds, data=data, held_out=files[split:], config=config)
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(len(NAMES), mp_context=context) as pool:
            chosen, trials = _tried(pool, replace(base, held_out=files[:split]), asked[:split], tell)
            tell(f"training for {config.seconds:,.0f} s each")
            jobs = [replace(base, name=name, learning_rate=chosen[name]) for name in NAMES]
            trained = dict(zip(NAMES, pool.map(train_one, jobs), strict=True))
    return _report(source, config, asked[split:], trained, chosen, trials, field_bytes)


def train_one(job: Job) -> Trained:
    """Train one architecture until its processor seconds are used up, and ask it."""
    torch.set_num_threads(1)
    keep_freed_memory()
    source = _Source.open(job.data)
    chunks = source.chunks(job.config.train_worlds)
    worlds = [load_held_out(path).ticks for path in job.held_out]
    seed = job.config.seed
    held_out = HeldOut(worlds[0][:8], None)
    made = contender(job.name, source.spec, source.tokenizer, held_out, learning_rate=job.learning_rate, seed=seed)
    rng = np.random.default_rng(seed)
    losses, items = list[float](), 0
    began, began_wall = time.process_time(), time.perf_counter()
    while (spent := time.process_time() - began) < job.seconds:
        columns = sequences(chunks, made.num_sequences, made.num_ticks, rng)
        losses.append(made.train_step(columns, spent / job.seconds))
        items += columns["actions"].size
    wall_s = time.perf_counter() - began_wall
    asked = [_asked(world, source, job.config) for world in worlds]
    return Trained(
        foreseen=tuple(made.foresee(world, of.rows) for world, of in zip(worlds, asked, strict=True)),
        steps=len(losses),
        agent_ticks=items,
        cpu_s=spent,
        wall_s=wall_s,
        loss=float(np.mean(losses[-math.ceil(len(losses) / 10) :])),
        num_parameters=made.num_parameters,
        answers_per_s=_answering(made, worlds[0], asked[0]),
    )


def sequences(chunks: Sequence[Transitions], count: int, length: int, rng: np.random.Generator) -> Columns:
    """Return columns (B, L, A, …) of sequences drawn from chunks, all of which are as long."""
    pieces = []
    for index in rng.integers(len(chunks), size=count):
        start = rng.integers(len(chunks[index]) - length + 1)
        pieces.append(chunks[index][slice(start, start + length)].columns())
    return {name: np.stack([piece[name] for piece in pieces]) for name in pieces[0]}


@dataclass(frozen=True, slots=True)
class _Source:
    """A folder of recorded worlds, opened for reading alone: somebody else may be training from it."""

    data: Path
    env: str
    num_agents: int | None
    spec: EnvSpec
    tokenizer: Tokenizer

    @classmethod
    def open(cls, data: Path) -> "_Source":
        try:
            recorded = json.loads((data / "recording.json").read_text())["worlds"]
        except (OSError, ValueError, KeyError) as error:
            raise ConfigError(f"{data}: holds no recorded worlds ({error}); make some: worlds train --data") from error
        env, num_agents = recorded["env"], recorded["num_agents"]
        tokenizer = load_tokenizer(data / WARMUP / TOKENIZER_FILE)
        return cls(data, env, num_agents, spec_of(env, num_agents), tokenizer)

    def chunks(self, num_worlds: int) -> list[Transitions]:
        """Return the chunks of the first worlds, without those that are shorter than others."""
        worlds: set[str] = set()
        found = []
        for path in sorted((self.data / SEGMENTS).glob("*.segment")):
            for _, frame in read_segment(path):
                if frame.chunk.world not in worlds and len(worlds) == num_worlds:
                    continue
                worlds.add(frame.chunk.world)
                found.append(frame.chunk.transitions)
        if len(worlds) < num_worlds:
            raise ConfigError(f"{self.data}: {num_worlds} recorded worlds are asked for, and {len(worlds)} are there")
        longest = max(map(len, found))
        return [chunk for chunk in found if len(chunk) == longest]


def _live(source: _Source, config: ComparisonConfig) -> tuple[list[Transitions], float]:
    """Return the consecutive ticks of held-out worlds, and the mean bytes of what a world's field holds at the end."""
    seeds = range(_HELD_OUT_SEED, _HELD_OUT_SEED + config.validation_worlds + config.test_worlds)
    worlds = [
        begin(
            WorldId(f"compared-{seed}"),
            env_name=source.env,
            seed=seed,
            memory_size=tiny().memory_size,
            num_agents=source.num_agents,
        )
        for seed in seeds
    ]
    # Events from outside cannot be foretold.
    ticker = Ticker(source.spec, source.tokenizer, TickConfig(event_rate=0.0), tiny())
    rows: list[list[Transitions]] = [[] for _ in worlds]
    for _ in range(config.world_ticks):
        for kept, ticked in zip(rows, ticker.tick(worlds), strict=True):
            kept += [] if ticked.row is None else [ticked.row]
    layers = [layer.arrays() for world in worlds for layer in world.snapshot.field.layers]
    field_bytes = sum(array.nbytes for arrays in layers for array in arrays.values()) / len(worlds)
    return [Transitions.stack(kept) for kept in rows], field_bytes


def _kept(ticks: Transitions, path: Path) -> Path:
    save_held_out(HeldOut(ticks, None), path)
    return path


def _asked(ticks: Transitions, source: _Source, config: ComparisonConfig) -> Asked:
    frames = SpatioTemporalConfig().num_frames
    return ask(ticks, view_of(source.spec), num_frames=frames, first=config.first, stride=config.stride)


def _tried(
    pool: ProcessPoolExecutor, base: Job, asked: Sequence[Asked], tell: Callable[[str], None]
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Return the best learning rate of each architecture, and the validation bits of all that were tried."""
    config, frames = base.config, SpatioTemporalConfig().num_frames
    bits: dict[str, dict[float, float]] = {name: {} for name in NAMES}
    for rate in config.learning_rates:
        tell(f"trying learning rate {rate:g}")
        seconds = config.seconds * config.trial_share
        jobs = [replace(base, name=name, learning_rate=rate, seconds=seconds) for name in NAMES]
        for name, trained in zip(NAMES, pool.map(train_one, jobs), strict=True):
            found = scores(asked, trained.foreseen, frames, seed=config.seed)
            bits[name][rate] = found["nll_bits"].value
            tell(f"  {name}: {bits[name][rate]:.2f} bits after {trained.steps} steps")
    chosen = {name: min(tried, key=tried.__getitem__) for name, tried in bits.items()}
    return chosen, {name: {f"{rate:g}": value for rate, value in tried.items()} for name, tried in bits.items()}


def _answering(made: Contender, world: Transitions, asked: Asked) -> dict[str, float]:
    rows = asked.rows[:_ASKED_WORLDS]
    ways = {"answers": made.answer}
    if isinstance(made, FramesContender):
        ways["newest_frame_alone"] = made.answer_newest
    rates = {}
    for name, way in ways.items():
        way(world, rows)
        began, done = time.process_time(), 0
        while (spent := time.process_time() - began) < _ASKED_S:
            way(world, rows)
            done += len(rows) * world.num_agents
        rates[name] = done / spent
    return rates


def _report(
    source: _Source,
    config: ComparisonConfig,
    asked: Sequence[Asked],
    trained: dict[str, Trained],
    chosen: dict[str, float],
    trials: dict[str, dict[str, float]],
    field_bytes: float,
) -> dict[str, Any]:
    frames = SpatioTemporalConfig().num_frames
    found: dict[str, dict[str, Score]] = {
        name: scores(asked, of.foreseen, frames, seed=config.seed) for name, of in trained.items()
    }
    found["copy_last"] = copying(asked, frames, source.tokenizer.vocab_size, seed=config.seed)
    agents, layout = len(source.spec.agents), source.spec.layout
    of_frame = 2 * layout.rows * layout.cols + 4 * agents
    own = agents * (2 * tiny().memory_size + 8)
    state = {name: round(field_bytes + own) for name in found} | {SPATIO_TEMPORAL: agents * frames * of_frame}
    costs = {
        name: {
            **{key: value for key, value in asdict(replace(of, foreseen=())).items() if key != "foreseen"},
            "agent_ticks_per_cpu_s": of.agent_ticks / of.cpu_s,
            "learning_rate": chosen[name],
            "validation_bits": trials[name],
        }
        for name, of in trained.items()
    }
    return {
        "scores": {name: as_plain(score) for name, score in found.items()},
        "costs": costs,
        "state_bytes": state,
        "agent_ticks_asked": sum(a.tokens[..., 0, 0].size for a in asked),
        "config": asdict(config),
    }
