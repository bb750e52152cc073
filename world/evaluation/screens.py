"""Dreamed screens: what a model draws of the next tick before each agent, in one go for all agents of a world.

Axes: T ticks, A agents.
"""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from world.dream import DreamConfig, Dreamer
from world.envs.grounded import Int32Array, Uint8Array
from world.evaluation.agreement import Views, codes_seen
from world.evaluation.codes import CodeTable
from world.evaluation.foretell import slots_of
from world.evaluation.one_step import without_memory
from world.field import Uint16Array
from world.model.world_model import WorldModel
from world.trajectory import Transitions, displacement_of
from world.window import views_after

_ROWS_AT_ONCE = 16
HOW = {"likely": 0.0, "sampled": 1.0}
"""Temperatures at which is dreamed."""


def true_views(ticks: Transitions, stands: Int32Array, table: CodeTable, margin: int) -> tuple[Views, Views]:
    """Return what agents who stand (T, A, 3) at row, column and heading after recorded ticks see, and saw before."""
    places, headings = stands[..., :2], stands[..., 2]
    seen = _grids(ticks.next_tokens, ticks.displacement, margin)
    # A map is remembered where the agent came to; a screen is just what it was.
    before = _grids(ticks.tokens[..., 0], ticks.displacement, margin)
    truth = Views(places=places, headings=headings, codes=codes_seen(seen, table))
    return truth, replace(truth, codes=codes_seen(before, table))


def dreamt_views(
    model: WorldModel,
    ticks: Transitions,
    truth: Views,
    table: CodeTable,
    dream: DreamConfig,
    *,
    margin: int,
    num_tokens: int,
    solid: bool = False,
) -> dict[str, dict[str, Views]]:
    """Return what agents see in dreams of one tick, by how it is drawn, then by who dreams, as `screen_scores` reads.

    Drawn as `dream` says, but for the temperature. On screens it is read where the agents truly are; on a map, where
    they are in the dream. Of the vocabulary the first `num_tokens` stand for something. `solid` as of `EnvSpec`.
    """
    dreamers = {"ours": (model, ticks), "no_memory": (model, without_memory(ticks))}
    if model.dynamics.hubs is not None:
        dreamers["no_hubs"] = (silenced(model), ticks)
    found: dict[str, dict[str, Views]] = {}
    for how, temperature in HOW.items():
        found[how] = {}
        for who, (dreaming, told) in dreamers.items():
            config = replace(dream, temperature=temperature)
            dreamer = Dreamer(dreaming, config, margin=margin, num_tokens=num_tokens, solid=solid)
            tokens, displacement = _dreamt(dreamer, told)
            codes = codes_seen(_grids(tokens, displacement, margin), table)
            places = (ticks.poses + displacement_of(displacement)).astype(np.int32) if margin else truth.places
            found[how][who] = Views(places=places, headings=truth.headings, codes=codes)
    return found


def silenced(model: WorldModel) -> WorldModel:
    """Return a copy of a model whose hubs say nothing: they are zero, whatever they read."""
    twin = copy.deepcopy(model)
    assert twin.dynamics.hubs is not None, "it has no hubs"
    twin.dynamics.hubs.register_forward_hook(_nothing)
    return twin


def _nothing(hubs: torch.nn.Module, told: Any, said: Tensor) -> Tensor:
    return torch.zeros_like(said)


def _dreamt(dreamer: Dreamer, ticks: Transitions) -> tuple[Uint16Array, Uint8Array]:
    """Return tokens (T, A, H, W) and displacement classes (T, A) of dreams under the recorded actions."""
    parts = []
    for first in range(0, len(ticks), _ROWS_AT_ONCE):
        some = ticks[first : first + _ROWS_AT_ONCE]
        numbers = list(range(first, first + len(some)))
        parts.append(dreamer.tick(slots_of(some), [1] * len(some), numbers, some.actions))
    tokens = np.concatenate([part.tokens for part in parts])
    return tokens, np.concatenate([part.displacement for part in parts])


def _grids(tokens: Uint16Array, displacement: Uint8Array, margin: int) -> Uint16Array:
    """Return what is in view (T, A, R, C) of windows (T, A, H, W), once agents have moved by displacement classes."""
    if not margin:
        return tokens
    return np.stack([views_after(t, displacement_of(d), margin) for t, d in zip(tokens, displacement, strict=True)])
