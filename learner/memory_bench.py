"""What recurrent memory is worth: one network trained with it and without it, on the same sequences, and asked about
events whose outcome neither the view nor the field tells.

Axes: B sequences, C + L ticks of one, n trials.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from learner.batches import MaskingConfig
from learner.learner import Learner, LearnerConfig
from learner.losses import LossConfig
from learner.schedule import ToZero
from world.envs.catalog import make_env, make_policy
from world.envs.grounded import BoolArray, EnvSpec
from world.evaluation.metrics import FloatArray, bootstrap
from world.evaluation.one_step import HeldOut
from world.evaluation.trials import Trials, beliefs, cue_trials, gate_trials, remembered, surprise
from world.field import UNSEEN
from world.live import begin
from world.model.dynamics import DynamicsConfig
from world.model.memory.recurrent import RecurrentMemory
from world.model.tokenizer import Tokenizer
from world.model.world_model import WorldModel, WorldModelConfig
from world.snapshot import WorldId
from world.tick import TickConfig, Ticker
from world.trajectory import Transitions
from world.warmup import WarmupConfig, make_tokenizer

_HELD_OUT_SEED = 1 << 40
Remembers = Literal["nothing", "recurrent", "episodic"]
CONDITIONS: tuple[Remembers, ...] = ("nothing", "recurrent", "episodic")
"""What the model has beside the view and the field."""
SEEDS = (0, 1)
"""Of weights and of the order of sequences; worlds are the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryTask:
    """A world in which something has to be remembered."""

    env: str
    policy: str
    find: Callable[[Transitions, Tokenizer], Trials]
    num_worlds: int = 16
    held_out_worlds: int = 8
    world_ticks: int = 1_500
    steps: int = 240


TASKS = {
    "switch": MemoryTask(env="homestead-hidden:24x24x1", policy="gatekeeper", find=gate_trials),
    "cue": MemoryTask(env="MiniGrid-MemoryS11-v0", policy="chooser", find=cue_trials, steps=480),
}
_LEARNING = LearnerConfig(
    batch_sequences=32,
    past_ticks=31,
    learning_rate=2e-3,
    sequence_ticks=1,
    schedule=ToZero(warmup_steps=20, hold=0.6),
    averaging=0.9,
    masking=MaskingConfig(fully_masked=1.0, hide_displacement=0.0, ask_actions=0.0, forget=0.0),
    loss=LossConfig(displacement=0.0, status=0.0, reward=0.0, continuation=0.0, action=0.0, policy=0.0),
)
"""Each sequence ends with a trial, and its outcome alone is asked for: what a memory is worth is measured, in minutes,
and not how long it takes to be learned beside all else."""
_NUM_RECALLED = 12


def model_config(remembers: Remembers) -> WorldModelConfig:
    """Return a network small enough to be trained in minutes; its recurrent memory has the size that `tiny` has."""
    dynamics = DynamicsConfig(
        width=48,
        hidden=96,
        num_heads=2,
        num_key_heads=1,
        outcome_blocks=("global", "local"),
        token_width=32,
        memory_gain=10.0,
        num_recalled=_NUM_RECALLED if remembers == "episodic" else 0,
    )
    return WorldModelConfig(dynamics=dynamics, num_bins=63)


@dataclass(frozen=True, slots=True)
class Recorded:
    """Lives of worlds, each in one piece, and their tokenizer."""

    spec: EnvSpec
    tokenizer: Tokenizer
    train: list[Transitions]
    held_out: list[Transitions]


def record(task: MemoryTask) -> Recorded:
    """Return worlds to learn from, and others to be judged on."""
    env = make_env(task.env)
    tokenizer = make_tokenizer(env, WarmupConfig(explored_ticks=60), _quietly)
    return Recorded(
        env.spec,
        tokenizer,
        _lives(task, tokenizer, range(task.num_worlds)),
        _lives(task, tokenizer, range(_HELD_OUT_SEED, _HELD_OUT_SEED + task.held_out_worlds)),
    )


def _lives(task: MemoryTask, tokenizer: Tokenizer, seeds: range) -> list[Transitions]:
    config = model_config("nothing")
    worlds = []
    for seed in seeds:
        world = begin(WorldId(f"trial-{seed}"), env_name=task.env, seed=seed, memory_size=config.memory_size)
        assert world.env is not None
        world.policy = make_policy(task.policy, world.env.spec, seed)
        worlds.append(world)
    ticker = Ticker(make_env(task.env).spec, tokenizer, TickConfig(event_rate=0.0), config)
    rows: list[list[Transitions]] = [[] for _ in worlds]
    for _ in range(task.world_ticks):
        for kept, ticked in zip(rows, ticker.tick(worlds), strict=True):
            if ticked.row is not None:
                kept.append(ticked.row)
    return [Transitions.stack(kept) for kept in rows]


def train(recorded: Recorded, task: MemoryTask, remembers: Remembers, seed: int) -> WorldModel:
    """Return the model after the task's steps; equal seeds draw equal sequences, whatever is remembered."""
    learner = Learner(
        _LEARNING,
        model_config(remembers),
        recorded.spec,
        recorded.tokenizer,
        HeldOut(recorded.held_out[0][:8], None),
        seed=seed,
    )
    if remembers != "recurrent":
        _close(learner.model.memory)
    length = _LEARNING.sampled_ticks
    found = [task.find(world, recorded.tokenizer) for world in recorded.train]
    lives = [_only_outcomes(*pair) for pair in zip(recorded.train, found, strict=True)]
    ends = [(world, int(row) + 1) for world, trials in enumerate(found) for row in trials.row if row + 1 >= length]
    rng = np.random.default_rng(seed)
    for step in range(task.steps):
        drawn = [ends[rng.integers(len(ends))] for _ in range(_LEARNING.batch_sequences)]
        pieces = [lives[world][slice(end - length, end)].columns() for world, end in drawn]
        columns = {name: np.stack([piece[name] for piece in pieces]) for name in pieces[0]}
        learner.train_step(columns, done=step / task.steps)
    model = learner.judged()
    if remembers != "recurrent":
        # In the average of weights there is still a trace of what it began with.
        _close(model.memory)
    return model


def _only_outcomes(ticks: Transitions, trials: Trials) -> Transitions:
    """Return the ticks as if of what followed nothing had been seen but the cells that a trial is about."""
    return replace(ticks, next_tokens=np.where(trials.asked > 0, ticks.next_tokens, np.uint16(UNSEEN)))


def _close(memory: RecurrentMemory) -> None:
    """Let nothing enter the recurrence, now and while learning: it stays zero."""
    for parameter in memory.step_and_input.parameters():
        torch.nn.init.zeros_(parameter).requires_grad_(False)


def judge(recorded: Recorded, task: MemoryTask, model: WorldModel) -> tuple[FloatArray, BoolArray]:
    """Return for each trial of the held-out worlds (n,) what was believed, and whether it happened."""
    believed, happened = [], []
    for world in recorded.held_out:
        trials = task.find(world, recorded.tokenizer)
        believed.append(beliefs(model, remembered(model, world), trials))
        happened.append(trials.happened)
    return np.concatenate(believed), np.concatenate(happened)


def bench_memory() -> dict[str, Any]:
    """Return, by task and by what is remembered, the bits that outcomes cost and the share of right guesses.

    What counts is the bits that recurrent memory saves, of the one bit that an even outcome has.
    """
    torch.set_num_threads(1)
    details = {name: _measured(task) for name, task in TASKS.items()}
    saved = [details[name]["nothing"]["bits"] - details[name]["recurrent"]["bits"] for name in details]
    return {
        "bench": "memory",
        "value": min(saved),
        "unit": "bits saved a trial by recurrent memory, in the task where it saves least",
        "baseline": 0.0,
        "ratio": None,
        "details": details,
    }


def _measured(task: MemoryTask) -> dict[str, Any]:
    recorded = record(task)
    found: dict[str, Any] = {"env": task.env, "policy": task.policy, "steps": task.steps, "seeds": len(SEEDS)}
    for remembers in CONDITIONS:
        answers, began = [], time.perf_counter()
        for seed in SEEDS:
            model = train(recorded, task, remembers, seed)
            answers.append(judge(recorded, task, model))
        found[remembers] = {**summary(answers), "parameters": model.num_parameters()}
        found[remembers]["seconds"] = (time.perf_counter() - began) / len(SEEDS)
        found["chance"], found["oracle"] = chance(answers[0][1]), {"bits": 0.0, "right": 1.0}
    return found


def chance(happened: BoolArray) -> dict[str, float]:
    """Return what one pays who knows how often it happens (n,), and nothing else."""
    share = float(happened.mean())
    return {
        "bits": float(surprise(np.full(len(happened), share), happened).mean()),
        "right": max(share, 1 - share),
    }


def summary(answers: Sequence[tuple[FloatArray, BoolArray]]) -> dict[str, Any]:
    """Return bits and right guesses, of each seed's beliefs and outcomes (n,) and of all, with 95% intervals.

    Trials of all seeds are the same, so that they are resampled once, with what every seed believed of them.
    """
    bits = np.stack([surprise(*answer) for answer in answers], axis=1)
    right = np.stack([(believed > 0.5) == happened for believed, happened in answers], axis=1).astype(np.float64)
    found: dict[str, Any] = {"trials": len(bits)}
    for name, values in (("bits", bits), ("right", right)):
        value, low, high = bootstrap(values, lambda rows: float(rows.mean()), seed=0)
        found |= {name: value, f"{name}_interval": [low, high], f"{name}_by_seed": values.mean(axis=0).tolist()}
    return found


def _quietly(what: str, done: float) -> None:
    """Nobody is told how far it is."""
