"""What a model foretells of the next tick: its most likely answers, and how much it believed of what followed.

Axes: T ticks, A agents, H × W cells, S status cells, V tokens.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from world.envs.grounded import BoolArray, Float32Array, Int32Array, gone
from world.evaluation.metrics import FloatArray
from world.field import UNSEEN, Uint16Array
from world.model.heads import symexp
from world.model.query import Query
from world.model.slots import Slots
from world.model.world_model import WorldModel
from world.trajectory import Transitions

_ROWS_AT_ONCE = 16
REWARD_EVENT = 0.05
"""Rewards of at least this size, either way, are events; smaller ones are nothing."""


@dataclass(frozen=True, slots=True)
class Foretold:
    """The model's most likely answers, and its belief in the true ones."""

    tokens: Uint16Array
    """(T, A, H, W)"""
    status: Uint16Array
    """(T, A, S)"""
    displacement: Int32Array
    """(T, A)"""
    bits: FloatArray
    """(T,) of all observed cells, once each, and of status and displacement of who has not left."""
    cell_bits: Float32Array
    """(T, A, H, W) of the true next token, given the true displacements and status; 0 where it was not observed."""
    asked: Float32Array
    """(T, A, H, W) belief in the tokens that were asked about; 0 where none was."""
    rewards: Float32Array
    """(T, A) expected."""
    reward_event: Float32Array
    """(T, A) belief that there is a reward worth the name."""
    ending: Float32Array
    """(T, A) belief that the agent's story ends."""


@torch.inference_mode()
def foretell(model: WorldModel, ticks: Transitions, observed: BoolArray, asked: Uint16Array | None = None) -> Foretold:
    """Return the most likely answers, each given the most likely before it; beliefs given the true ones.

    The order is that of dreams: displacements, status, cells.

    `observed` (T, A, H, W) are the cells whose bits count; `asked` (T, A, H, W) tokens whose belief is wanted, 0: none.
    """
    nothing = np.zeros(observed.shape, np.uint16) if asked is None else asked
    starts = range(0, len(ticks), _ROWS_AT_ONCE)
    parts = [_foretell(model, *(part[i : i + _ROWS_AT_ONCE] for part in (ticks, observed, nothing))) for i in starts]  # type: ignore[arg-type]
    return Foretold(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def slots_of(ticks: Transitions) -> Slots:
    """Return what a model is told of recorded ticks, each as a world of its own."""
    return Slots.from_arrays(
        tokens=ticks.tokens,
        ages=ticks.ages,
        status=ticks.status,
        poses=ticks.poses,
        turns=ticks.turns,
        memory=ticks.memory,
        identity=np.broadcast_to(np.arange(ticks.num_agents), ticks.actions.shape),
        events=ticks.events,
    )


def bits_of(believed: Tensor, target: Tensor) -> Tensor:
    """Return bits (…) of targets (…) under log-probabilities (…, V)."""
    return believed.gather(-1, target[..., None])[..., 0].double() / -np.log(2)  # type: ignore[no-any-return]


def _foretell(
    model: WorldModel, ticks: Transitions, observed: BoolArray, asked: Uint16Array
) -> tuple[NDArray[np.generic], ...]:
    device = model.device
    slots = slots_of(ticks).to(device)
    acted = model.answer(Query(slots, actions=torch.from_numpy(ticks.actions).long().to(device)))
    moves = acted.displacement_logits().float()
    chosen, moved = moves.argmax(-1), torch.from_numpy(ticks.displacement.astype(np.int64)).to(device)
    next_status = torch.from_numpy(ticks.next_status.astype(np.int64)).to(device)
    next_status = torch.where(next_status == UNSEEN, model.mask, next_status)
    likely = acted.given(displacement=chosen)
    status = likely.status_logits()
    best_status = status.argmax(-1) if status.shape[2] else status[..., 0]
    likely = likely.given(status=best_status)
    logits, rewards = likely.token_logits(), likely.reward_logits()
    best = logits.argmax(-1)
    # Beliefs are asked given what truly became of agents: again only for worlds in which that was not the likely.
    surprised = ((chosen != moved) | (best_status != next_status).any(-1)).any(1).nonzero()[:, 0]
    if len(surprised):
        true = acted.of_worlds(surprised).given(displacement=moved[surprised])
        status[surprised] = true.status_logits()
        logits[surprised] = true.given(status=next_status[surprised]).token_logits()
    believed = torch.log_softmax(logits.float(), -1)
    cells = np.where(observed, _bits(believed, ticks.next_tokens), 0.0)
    here = ~gone(ticks.poses)
    bits = _total(here * _bits(torch.log_softmax(moves, -1), ticks.displacement)) + _total(cells)
    if status.shape[2]:
        bits += _total(here[..., None] * _bits(torch.log_softmax(status.float(), -1), ticks.next_status))
    return (
        best.cpu().numpy().astype(np.uint16),
        best_status.cpu().numpy().astype(np.uint16),
        chosen.cpu().numpy().astype(np.int32),
        bits,
        cells.astype(np.float32),
        np.where(asked > 0, np.exp2(-_bits(believed, asked)), 0.0).astype(np.float32),
        model.reward.mean(rewards).cpu().numpy().astype(np.float32),
        _belief_in_reward(rewards, model.reward.bins).cpu().numpy().astype(np.float32),
        (1 - torch.sigmoid(likely.continuation_logits().float())).cpu().numpy().astype(np.float32),
    )


def _belief_in_reward(logits: Tensor, bins: Tensor) -> Tensor:
    """Return the belief (…) that a reward is an event, from logits (…, Z) over bins (Z,)."""
    return torch.softmax(logits.float(), -1)[..., symexp(bins).abs() >= REWARD_EVENT].sum(-1)


def _bits(believed: Tensor, target: NDArray[np.generic]) -> FloatArray:
    bits: FloatArray = bits_of(believed, torch.from_numpy(target.astype(np.int64)).to(believed.device)).cpu().numpy()
    return bits


def _total(bits: FloatArray) -> FloatArray:
    total: FloatArray = bits.reshape(len(bits), -1).sum(axis=1)
    return total
