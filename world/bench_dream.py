"""How fast worlds are dreamed: agent-ticks a second, beside what the same threads reach in a bare matrix product.

Axes: B worlds, A agents.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from world.dream import OWN_DRAWS, DreamConfig, Dreamer, at_once
from world.errors import ConfigError
from world.live import LiveWorld, begin, fork_dream
from world.model.frozen import frozen
from world.model.precision import Precision, computing, dtype_of
from world.model.query import Query
from world.model.slots import Slots
from world.model.world_model import WorldModel, WorldModelConfig, small, tiny
from world.sampling import draws_for, sample
from world.sight import seen_afterwards
from world.snapshot import WorldId
from world.tick import TickConfig, Ticker
from world.trajectory import STAY
from world.warmup import WarmupConfig, make_tokenizer
from world.window import owners

LEAST_RATE = {"cpu": 2_000.0, "cuda": 20_000.0}
"""Agent-ticks a second that are wanted: `tiny`, 64 agents, K = 1 on two cores; `small`, K = 2 on a GPU."""
_AGENTS, _TICKS = 64, 48
_PRODUCTS = ((2048, 2048, 2048), (7744, 512, 512), (7744, 128, 512), (7744, 256, 128), (7744, 128, 128))
"""Rows, inner and outer width of the products whose fastest counts as the peak; the last are the model's own."""
_WARMUP = WarmupConfig(explored_seeds=2, explored_ticks=60, surveyed_seeds=8)


class _Case(NamedTuple):
    agents: int
    passes: int
    precision: Precision

    @property
    def name(self) -> str:
        return f"K={self.passes}, {self.agents} agents, {self.precision}"


class _Stage(NamedTuple):
    """Worlds that have lived for a while, and what a model was told of them at some ticks."""

    ticker: Ticker
    num_tokens: int
    worlds: list[LiveWorld]
    slots: list[Slots]
    solid: bool

    @property
    def margin(self) -> int:
        return TickConfig().margin if self.ticker.model.dynamics.has_pose else 0


_CASES = (
    _Case(64, 1, "auto"), _Case(64, 2, "auto"), _Case(64, 4, "auto"), _Case(16, 1, "auto"), _Case(64, 1, "float32"),
)  # fmt: skip


def bench_dream(seconds: float, *, threads: int = 2, env: str = "homestead") -> dict[str, Any]:
    """Measure `tiny` on `threads` cores for about `seconds`, and `small` on a GPU where there is one.

    What is compared is measured in turns, so that other work on the machine disturbs all alike; the best time of each
    counts. `value` is of 64 agents with K = 1, from slots recorded in real ticks. `baseline` is what `value` would be
    if all products of a tick ran at the peak, `ratio` the share of it that is reached.
    """
    if seconds <= 0 or threads < 1:
        raise ConfigError(f"bench dream: seconds and threads must be positive, got {seconds} and {threads}")
    with _threads(threads):
        return _measured(seconds, threads, env)


def _measured(seconds: float, threads: int, env: str) -> dict[str, Any]:
    stage, dtype = _stage(env, tiny()), dtype_of("auto", torch.device("cpu"))
    precision = str(dtype).removeprefix("torch.")
    actions: dict[str, Callable[[], object]] = {
        **{case.name: _dreaming(stage, case) for case in _CASES},
        **_parts(stage, dtype),
        **{f"peak {name} {size}": _product(size, name) for size in _PRODUCTS for name in ("bfloat16", "float32")},
    }
    best = _best_of_turns(actions, seconds)
    peak = {
        name: max(2 * math.prod(size) / best[f"peak {name} {size}"] for size in _PRODUCTS)
        for name in ("bfloat16", "float32")
    }
    flops = flops_of(stage.ticker.model, stage.slots[0], stage.num_tokens, stage.margin)
    rate, at_peak = _AGENTS / best[_CASES[0].name], _AGENTS * peak[precision] / flops
    details: dict[str, Any] = {
        "least": LEAST_RATE["cpu"],
        "precision": precision,
        "threads": threads,
        "env": env,
        "parameters": stage.ticker.model.num_parameters(),
        "tokens": stage.num_tokens,
        "gflop_per_tick": round(flops / 1e9, 3),
        "peak_gflops": {name: round(value / 1e9, 1) for name, value in peak.items()},
        "agent_ticks_per_s": {case.name: round(case.agents / best[case.name], 1) for case in _CASES},
        "parts_ms": {name: round(best[name] * 1e3, 3) for name in best if not name.startswith(("peak", "K="))},
    }
    if torch.cuda.is_available():
        details["gpu"] = _on_gpu(seconds, env)
    return {
        "bench": "dream",
        "value": round(rate, 1),
        "unit": "agent-ticks/s",
        "baseline": round(at_peak, 1),
        "ratio": round(rate / at_peak, 3),
        "details": details,
    }


def _on_gpu(seconds: float, env: str) -> dict[str, Any]:
    """Measure `small` with K = 2 on the GPU, as it is and compiled, at three numbers of agents."""
    stage, size = _stage(env, small()), (8192, 8192, 8192)
    model = stage.ticker.model
    actions = {"peak": _product(size, "bfloat16", "cuda")}
    cases = {}
    for agents in (64, 256, 1024):
        for compiled in (False, True):
            case = _Case(agents, 2, "auto")
            name = case.name + (", compiled" if compiled else "")
            actions[name] = _dreaming(stage, case, device="cuda", compiled=compiled)
            cases[name] = agents
    best = _best_of_turns(actions, seconds)
    rates = {name: agents / best[name] for name, agents in cases.items()}
    # A second pass is as much as the first, but for the policy.
    flops = 2 * flops_of(model, stage.slots[0], stage.num_tokens, stage.margin) / _AGENTS
    peak = 2 * math.prod(size) / best["peak"]
    return {
        "least": LEAST_RATE["cuda"],
        "device": torch.cuda.get_device_name(),
        "parameters": model.num_parameters(),
        "peak_gflops": round(peak / 1e9, 1),
        "agent_ticks_per_s": {name: round(rate, 1) for name, rate in rates.items()},
        "ratio": round(max(rates.values()) * flops / peak, 3),
    }


def flops_of(model: WorldModel, slots: Slots, num_tokens: int, margin: int) -> float:
    """Return the floating-point operations of the products and convolutions of one tick with K = 1."""
    # Not packed: torch does not count within oneDNN's calls.
    ready = frozen(model, torch.float32, num_tokens, packed=False)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        answer = ready.answer(Query(slots))
        answer.log_policy()
        answer = answer.given(actions=torch.zeros_like(slots.turns))
        answer.displacement_logits()
        answer = answer.given(displacement=torch.full_like(slots.turns, STAY))
        answer = answer.given(status=answer.status_logits().argmax(-1))
        for read in (answer.reward_logits, answer.continuation_logits):
            read()
        answer.token_logits(_asked(slots, margin))
    return float(counter.get_total_flops())


def _asked(slots: Slots, margin: int) -> Tensor:
    """Return the cells that would be drawn if nobody moved."""
    height, width = slots.tokens.shape[2:4]
    here, _ = owners(slots.poses.numpy().astype(np.int32), height, width)
    seen = seen_afterwards(slots.poses, torch.full_like(slots.turns, STAY), height, width, margin)
    return (torch.from_numpy(here) & seen).flatten().nonzero()[:, 0]


def _stage(env: str, config: WorldModelConfig) -> _Stage:
    """Return worlds of 64 agents in all after some ticks, with a model of `config` that has learned nothing."""
    first = begin(WorldId("0"), env_name=env, seed=0, memory_size=config.memory_size).env
    assert first is not None
    agents, tokenizer = len(first.spec.agents), make_tokenizer(first, _WARMUP, lambda _what, _share: None)
    if _AGENTS % agents or not first.spec.layout.map_rows:
        raise ConfigError(f"bench dream: {env!r} must show a map to a number of agents that divides {_AGENTS}")
    worlds = [
        begin(WorldId(f"{i}"), env_name=env, seed=i, memory_size=config.memory_size) for i in range(_AGENTS // agents)
    ]
    ticker, slots = Ticker(first.spec, tokenizer, TickConfig(event_rate=0.0), config), []
    torch.manual_seed(0)
    ticker.load_weights(WorldModel(config, first.spec, tokenizer.vocab_size).state_dict(), 1)
    for tick in range(_TICKS):
        ticker.tick(worlds)
        if tick >= _TICKS // 2 and tick % 8 == 0:
            slots.append(ticker.slots(worlds, [ticker.windows(world) for world in worlds]))
    return _Stage(ticker, tokenizer.num_tokens, worlds, slots, first.spec.solid)


def _dreaming(stage: _Stage, case: _Case, *, device: str = "cpu", compiled: bool = False) -> Callable[[], object]:
    config = DreamConfig(passes=case.passes, precision=case.precision, device=device, compiled=compiled)
    dreamer = Dreamer(stage.ticker.model, config, margin=stage.margin, num_tokens=stage.num_tokens, solid=stage.solid)
    num_worlds = case.agents * len(stage.worlds) // _AGENTS
    rows = torch.arange(num_worlds) % len(stage.worlds)
    chosen, turn = [slots.of_worlds(rows) for slots in stage.slots], [0]

    def tick() -> None:
        turn[0] += 1
        dreamer.tick(chosen[turn[0] % len(chosen)], range(num_worlds), [turn[0]] * num_worlds)

    return tick


def _parts(stage: _Stage, dtype: torch.dtype) -> dict[str, Callable[[], object]]:
    """Return what a tick with K = 1 is made of, each to be called alone; `whole host tick` has the field in it."""
    ticker, slots = stage.ticker, stage.slots[0]
    model = frozen(ticker.model, dtype, stage.num_tokens)
    dreams = [replace(w, snapshot=fork_dream(w.snapshot, 1), env=None, policy=None) for w in stage.worlds]
    height, width = slots.tokens.shape[2:4]
    num_draws = slots.poses.shape[1] * (OWN_DRAWS + slots.status.shape[2] + height * width)
    actions, still = torch.zeros_like(slots.turns), torch.full_like(slots.turns, STAY)
    asked, poses, dynamics = _asked(slots, stage.margin), slots.poses.numpy().astype(np.int32), model.dynamics
    unknown = torch.full_like(slots.tokens[..., 0], model.mask)

    def ready(part: Callable[[], Any]) -> Callable[[], Any]:
        def run() -> Any:
            with torch.inference_mode(), computing("auto", torch.device("cpu")):
                return part()

        return run

    encode = ready(lambda: dynamics.encode(slots, unknown))
    encoded = encode()
    act = ready(lambda: dynamics.act(encoded, actions))
    acted = act()
    status = ready(lambda: dynamics.status_logits(acted, still))
    outcome = ready(lambda: dynamics.outcome(acted, still, slots.status))
    follows = outcome()
    heads = ready(lambda: [dynamics.token_logits(follows, cells) for cells in at_once(asked)])
    logits, least_chance = heads(), DreamConfig().least_chance
    chances = [torch.rand(len(each)) for each in logits]
    return {
        "windows and slots": lambda: ticker.slots(dreams, [ticker.windows(world) for world in dreams]),
        "draws": lambda: draws_for(range(len(dreams)), [7] * len(dreams), num_draws),
        "merging": lambda: owners(poses, height, width),
        "encode": encode,
        "policy": ready(lambda: model.policy(model.read(encoded))),
        "act": act,
        "status": status,
        "outcome": outcome,
        "head": heads,
        "sampling": ready(
            lambda: [sample(*both, least_chance=least_chance) for both in zip(logits, chances, strict=True)]
        ),
        "whole host tick": lambda: ticker.tick(dreams),
    }


def _product(size: tuple[int, int, int], dtype: str, device: str = "cpu") -> Callable[[], object]:
    rows, inner, outer = size
    x, weight = (torch.randn(shape).to(device, getattr(torch, dtype)) for shape in ((rows, inner), (outer, inner)))

    def multiply() -> None:
        with torch.inference_mode():
            # The last element, so that a GPU has finished.
            float(torch.nn.functional.linear(x, weight)[-1, -1])

    return multiply


def _best_of_turns(actions: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Return the best time of each action in seconds, called in turns for about `seconds`, at least three times.

    At its turn each is called thrice, so that it finds the processor's caches as it left them.
    """
    best = dict.fromkeys(actions, float("inf"))
    for action in actions.values():
        action()
    started, turns = perf_counter(), 0
    while turns < 3 or perf_counter() - started < seconds:
        for name, action in actions.items():
            for _ in range(3):
                began = perf_counter()
                action()
                best[name] = min(best[name], perf_counter() - began)
        turns += 1
    return best


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
